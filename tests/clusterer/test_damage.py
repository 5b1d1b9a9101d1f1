"""What jobs and routes of the clusterer do when something in the store is damaged, missing, or deleted meanwhile."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusterer.api.clusterings import build
from clusterer.jobs import sweep as sweeps
from fastapi.testclient import TestClient
from PIL import Image
from shoal.errors import StoreCorrupt
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]
Damage = Callable[[Path, Path], None]


@pytest.fixture
def api(settings: Settings, queue: JobQueue, store: Store) -> Iterator[TestClient]:
    with TestClient(build(settings, queue, store), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def mine(planted: Planted, make_set: MakeSet) -> str:
    return make_set("mine", *planted(), thumbnails=True, shard_rows=80)


def zero(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[:128] + bytes(path.stat().st_size - 128))


def flip_a_bit(path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def copy_over(path: Path, other: Path) -> None:
    shutil.copy(path, other)


def exchange(path: Path, other: Path) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


VECTORS = "img_emb/img_emb_0000{}.npy"
METADATA = "metadata/metadata_0000{}.parquet"


def damage_set(store: Store, which: str, files: str, damage: Damage) -> list[str]:
    """Damage the first two ``files`` of a set; return those that are not as before."""
    folder = store.layout.embeddings(which).folder
    one, other = folder / files.format(0), folder / files.format(1)
    before = {path: path.read_bytes() for path in (one, other)}
    damage(one, other)
    changed = [path for path, content in before.items() if not path.exists() or path.read_bytes() != content]
    return [path.relative_to(store.root).as_posix() for path in changed]


@pytest.mark.parametrize("files", [VECTORS, METADATA])
@pytest.mark.parametrize("damage", [zero, flip_a_bit, cut_short, copy_over, exchange])
@pytest.mark.parametrize("role", ["train", "scored"])
def test_damaged_embeddings_are_never_clustered(
    store: Store, mine: str, make_set: MakeSet, planted: Planted, run_job: RunJob, files: str, damage: Damage, role: str
) -> None:
    """Fails without: the checksums, which are compared when a file is first read."""
    other = make_set("other", *planted(seed=5))
    damaged = damage_set(store, mine, files, damage)
    sets = (mine, [other]) if role == "train" else (other, [mine])
    with pytest.raises(StoreCorrupt, match=f"embeddings/{mine}/.*shoal repair {mine}") as caught:
        run_job({"train": sets[0], "score": sets[1]}, clusters=4, seeds=[0])
    assert caught.value.members["file"] in damaged
    assert str(caught.value.members["file"]) in str(caught.value)
    assert store.clustering_ids() == []


def test_damaged_embeddings_are_never_swept(store: Store, settings: Settings, mine: str) -> None:
    damage_set(store, mine, VECTORS, exchange)
    context = JobContext.local({"embeddings": mine, "clusters": [2, 3], "normalize": [True, False]}, kind="sweep")
    with pytest.raises(StoreCorrupt, match=r"img_emb_0000[01]\.npy"):
        sweeps.run(context, settings)


@pytest.mark.parametrize("body", [{"clusters": 3}, {"over": 1.0}])
def test_a_request_for_damaged_embeddings_is_refused_with_what_to_do(
    api: TestClient, store: Store, mine: str, body: dict[str, Any]
) -> None:
    damage_set(store, mine, METADATA, exchange)
    answer = api.post("/cluster", json={"embeddings": mine, **body})
    assert (answer.status_code, answer.json()["code"]) == (500, "store_corrupt")
    assert f"shoal repair {mine}" in answer.json()["detail"]
    assert answer.json()["file"] == f"embeddings/{mine}/metadata/metadata_00000.parquet"


def lose(path: Path, other: Path) -> None:
    path.unlink()
    other.write_bytes(other.read_bytes()[:-1])


def nonsense(path: Path, other: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))
    other.write_bytes(b"")


@pytest.mark.parametrize("damage", [lose, nonsense])
def test_pictures_are_decoration(api: TestClient, store: Store, mine: str, run_job: RunJob, damage: Damage) -> None:
    damage_set(store, mine, "thumbs/thumbs_0000{}.parquet", damage)
    found = run_job(mine, clusters=4, seeds=[0])
    files = [f"embeddings/{mine}/thumbs/thumbs_0000{shard}.parquet" for shard in (0, 1)]
    assert found.run()["damaged_thumbnails"] == files
    page = found.layout.report_html.read_text()
    assert "2 files of thumbnails are missing or damaged" in page
    assert page.count("data:image/webp") > 0
    assert Image.open(io.BytesIO(api.get(f"/clusterings/{found.id}/contact-sheet").content)).width > 100
    members = api.get(f"/clusterings/{found.id}/clusters/0?thumbnails=true")
    assert members.status_code == 200
    assert {"thumbnail" in each for each in members.json()["nearest"]} == {True, False}


def test_whole_pictures_leave_nothing_to_say(mine: str, run_job: RunJob) -> None:
    found = run_job(mine, clusters=4, seeds=[0])
    assert found.run()["damaged_thumbnails"] == []
    assert "missing or damaged" not in found.layout.report_html.read_text()


BAD = {
    "clusterings": ["spec.json", "metrics.json", "run.json", "files.json"],
    "sweeps": ["spec.json", "done.json"],
}


@pytest.fixture
def three(store: Store, settings: Settings, mine: str, run_job: RunJob, request: pytest.FixtureRequest) -> list[str]:
    """Three results of a kind."""
    if request.param == "clusterings":
        return [run_job(mine, clusters=k, seeds=[0]).id for k in (2, 3, 4)]
    jobs = [JobContext.local({"embeddings": mine, "clusters": [k]}, kind="sweep") for k in (2, 3, 4)]
    return [str(sweeps.run(each, settings)["sweep"]) for each in jobs]


@pytest.mark.parametrize("three", ["clusterings", "sweeps"], indirect=True)
def test_one_damaged_result_does_not_hide_the_others(
    api: TestClient, store: Store, three: list[str], request: pytest.FixtureRequest
) -> None:
    kind = request.node.callspec.params["three"]
    bad, lost, good = three
    for name in BAD[kind]:
        for content in ("", "x", "7", "[]"):
            path = store.root / kind / bad / name
            before = path.read_bytes()
            path.write_text(content)
            listed = {each["id"]: each for each in api.get(f"/{kind}").json()[kind]}
            assert set(listed) == set(three)
            assert listed[bad]["damaged"] is True
            one = api.get(f"/{kind}/{bad}")
            assert (one.status_code, one.json()["code"]) == (500, "store_corrupt")
            assert listed[bad]["problem"]["detail"] == one.json()["detail"]
            assert name in one.json()["detail"]
            assert "damaged" not in listed[good]
            path.write_bytes(before)
    (store.root / kind / lost / "spec.json").unlink()
    assert {each["id"] for each in api.get(f"/{kind}").json()[kind] if each.get("damaged")} == {lost}
    assert api.delete(f"/{kind}/{lost}").status_code == 204
    assert api.get(f"/{kind}/{lost}").status_code == 404
    assert {each["id"] for each in api.get(f"/{kind}").json()[kind]} == {bad, good}


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("report/index.html", "report"),
        ("report/contact-sheet.png", "contact-sheet"),
        ("assignments.parquet", "assignments"),
        ("assignments.parquet", "assignments?format=csv"),
        ("assignments.parquet", "assignments?format=jsonl"),
    ],
)
@pytest.mark.parametrize("lost", [True, False])
def test_files_are_checked_before_they_are_sent(
    api: TestClient, mine: str, run_job: RunJob, name: str, route: str, lost: bool
) -> None:
    found = run_job(mine, clusters=3, seeds=[0])
    path = found.layout.folder / name
    if lost:
        path.unlink()
    else:
        path.write_bytes(bytes(path.stat().st_size))
    answer = api.get(f"/clusterings/{found.id}/{route}")
    assert (answer.status_code, answer.json()["code"]) == (500, "store_corrupt")
    assert name in answer.json()["detail"]


def test_a_lost_price_is_damage_not_a_clustering_without_prices(
    api: TestClient, planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    vectors, labels = planted()
    found = run_job(make_set("even", vectors, labels), clusters=3, seeds=[0], kmeans={"balanced": 1.1})
    found.layout.prices.unlink()
    answer = api.post(f"/clusterings/{found.id}/assign", json={"embeddings": vectors[:2].tolist()})
    assert (answer.status_code, answer.json()["code"]) == (500, "store_corrupt")


def test_a_sweep_makes_a_damaged_point_again(store: Store, settings: Settings, mine: str) -> None:
    context = JobContext.local({"embeddings": mine, "clusters": [2, 3]}, kind="sweep")
    sweep = store.sweep(str(sweeps.run(context, settings)["sweep"]))
    before = json.loads(sweep.layout.point(1).read_text())
    sweep.layout.done.unlink()
    sweep.layout.point(1).write_text('{"index": 1,')
    sweeps.run(context, settings)
    assert json.loads(sweep.layout.point(1).read_text())["scored"] == before["scored"]

"""Names in every script, and made to deceive, come out of every export as they went in; what is gone is said."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from clusterer.api.clusterings import build
from clusterer.jobs import assign as assigning
from fastapi.testclient import TestClient
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering

NAMES = [
    "عربي — أحذية",
    "\u202egnp.exe\u202c‮\u2066x",
    "＝cmd|'/c calc'!A0",
    "</Choice><script>alert(1)</script> \"'& ]]> {{7*7}} \ufffe",
]


@pytest.fixture
def named(api: TestClient, clustering: Clustering) -> Clustering:
    """Every cluster has a hostile name."""
    etag = api.get(f"/clusterings/{clustering.id}/names").headers["etag"]
    body = {str(cluster): {"name": name, "flag": name} for cluster, name in enumerate(NAMES)}
    answer = api.put(f"/clusterings/{clustering.id}/names", json=body, headers={"If-Match": etag})
    assert answer.status_code == 200, answer.text
    return clustering


def expected(clustering: Clustering) -> dict[int, str]:
    """The name of each row of the first set."""
    clusters = clustering.assignments(clustering.scored[0]).column("cluster").to_pylist()
    return {row: NAMES[cluster] for row, cluster in enumerate(clusters)}


def in_xml(name: str) -> str:
    return name.replace("\ufffe", "�")


def row_of(path: str) -> int:
    return int(path.removeprefix("train/").removesuffix(".png"))


def csv_rows(content: bytes) -> dict[int, str]:
    rows = csv.DictReader(io.StringIO(content.decode()))
    return {
        int(each["row"]): each["name"].removeprefix("'") if each["name"][1] == "＝" else each["name"] for each in rows
    }


def fiftyone(content: bytes) -> dict[int, str]:
    return {row_of(f"{path}.png"): each["label"] for path, each in json.loads(content)["labels"].items()}


def labelstudio(content: bytes) -> dict[int, str]:
    chosen = {}
    for task in json.loads(content):
        [name] = task["predictions"][0]["result"][0]["value"]["choices"]
        chosen[task["data"]["row"]] = name
    return chosen


def cvat(content: bytes) -> dict[int, str]:
    return {
        row_of(each.attrib["name"]): each[0].attrib["label"] for each in ElementTree.fromstring(content).iter("image")
    }


def coco(content: bytes) -> dict[int, str]:
    document = json.loads(content)
    names = {each["id"]: each["name"] for each in document["categories"]}
    return {each["image_id"] - 1: names[each["category_id"]] for each in document["annotations"]}


def rows_of(rows: list[dict[str, Any]]) -> dict[int, str]:
    return {each["row"]: each["name"] for each in rows}


READERS: dict[str, Callable[[bytes], dict[int, str]]] = {
    "csv": csv_rows,
    "jsonl": lambda content: rows_of([json.loads(line) for line in content.splitlines()]),
    "parquet": lambda content: rows_of(pq.read_table(io.BytesIO(content)).to_pylist()),
    "arrow": lambda content: rows_of(ipc.open_stream(content).read_all().to_pylist()),
    "fiftyone": fiftyone,
    "labelstudio": labelstudio,
    "cvat": cvat,
    "coco": coco,
}


@pytest.mark.parametrize("format_", READERS)
def test_each_name_is_read_back(api: TestClient, named: Clustering, format_: str) -> None:
    answer = api.get(f"/clusterings/{named.id}/export", params={"format": format_})
    assert answer.status_code == 200, answer.text
    found, wanted = READERS[format_](answer.content), expected(named)
    assert found == ({row: in_xml(name) for row, name in wanted.items()} if format_ == "cvat" else wanted)
    if format_ == "csv":
        assert "'＝cmd" in answer.text
        assert ",＝cmd" not in answer.text


def test_the_labelling_interface_has_each_name_once(api: TestClient, named: Clustering) -> None:
    content = api.get(f"/clusterings/{named.id}/export", params={"format": "labelstudio-config"}).content
    choices = [each.attrib["value"] for each in ElementTree.fromstring(content).iter("Choice")]
    assert choices == [in_xml(name) for name in NAMES]


def test_folders_are_told_apart_by_what_one_sees(
    store: Store, queue: JobQueue, named: Clustering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "train" / "train"
    folder.mkdir(parents=True)
    for row in range(240):
        (folder / f"{row:05d}.png").write_bytes(b"x")
    with TestClient(build(Settings(store=store.root), queue, store)) as served:
        content = served.get(f"/clusterings/{named.id}/export", params={"format": "imagefolder"}).content
    with tarfile.open(fileobj=io.BytesIO(content)) as opened:
        folders = {name.partition("/")[0] for name in opened.getnames()}
    assert len(folders) == 4
    assert NAMES[0] in folders
    assert not any(mark in name for mark in '\u202e\u202c\u2066<>"\\' for name in folders)


def test_of_many_who_write_at_once_each_is_kept_or_told(
    serve: Callable[..., int], settings: Settings, queue: JobQueue, store: Store, clustering: Clustering
) -> None:
    """Two writers a cluster, twenty times; both read the same version, and one of them gets 412."""
    url = f"http://127.0.0.1:{serve(build(settings, queue, store))}/clusterings/{clustering.id}/names"
    meet, written, statuses = threading.Barrier(2, timeout=60), [[], []], [[], []]  # type: ignore[var-annotated]

    def write(writer: int) -> None:
        with httpx.Client() as client:
            for turn in range(20):
                etag = client.get(url).headers["etag"]
                meet.wait()
                body = {str(writer): {"name": f"{writer}-{turn}"}}
                answer = client.patch(url, json=body, headers={"If-Match": etag})
                statuses[writer].append(answer.status_code)
                if answer.status_code == 200:
                    written[writer].append(f"{writer}-{turn}")
                else:
                    assert answer.json()["code"] == "precondition_failed"
                meet.wait()

    threads = [threading.Thread(target=write, args=(each,)) for each in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [sorted(each) for each in zip(*statuses, strict=True)] == [[200, 412]] * 20
    history = httpx.get(f"{url}/history").json()
    assert history["total"] == 20
    kept = [each["clusters"][0]["after"] for each in reversed(history["entries"])]
    assert sorted(kept) == sorted(written[0] + written[1])
    said = httpx.get(url).json()
    assert {int(cluster): note["name"] for cluster, note in said.items()} == {
        writer: names[-1] for writer, names in enumerate(written) if names
    }


def test_an_export_says_that_the_embeddings_are_gone(api: TestClient, store: Store, named: Clustering) -> None:
    url = f"/clusterings/{named.id}/export"
    train, val = named.scored
    assert "shoal-deleted-embeddings" not in api.get(url, params={"format": "csv"}).headers
    store.delete_embeddings(train)
    for format_ in ("csv", "jsonl", "parquet", "arrow"):
        answer = api.get(url, params={"format": format_})
        assert answer.headers["shoal-deleted-embeddings"] == train
        assert READERS[format_](answer.content) == expected(named)
        assert "shoal-deleted-embeddings" not in api.get(url, params={"format": format_, "embeddings": val}).headers
    for format_ in ("fiftyone", "labelstudio", "labelstudio-config", "cvat", "coco", "imagefolder"):
        problem = api.get(url, params={"format": format_}).json()
        assert (problem["status"], problem["code"]) == (404, "embeddings_not_found")
        assert train in problem["detail"]


def test_assignments_outlive_their_clustering_and_say_so(
    api: TestClient, store: Store, settings: Settings, named: Clustering
) -> None:
    request = {"clustering": named.id, "embeddings": named.scored[1]}
    which = assigning.run(JobContext.local(request, kind="assign"), settings)["assignments"]
    url = f"/assignments/{which}/rows"
    before = api.get(url, params={"format": "jsonl"})
    assert "shoal-deleted-clustering" not in before.headers
    assert {json.loads(line)["name"] for line in before.text.splitlines()} <= set(NAMES)
    assert api.delete(f"/clusterings/{named.id}").status_code == 204
    after = api.get(url, params={"format": "jsonl"})
    assert after.headers["shoal-deleted-clustering"] == named.id
    unnamed = [
        {**json.loads(line), "name": None, "flag": None, "merged_cluster": json.loads(line)["cluster"]}
        for line in before.text.splitlines()
    ]
    assert [json.loads(line) for line in after.text.splitlines()] == unnamed
    for path in (f"/assignments/{which}", f"/assignments/{which}/clusters", "/assignments"):
        assert api.get(path).status_code == 200
    listed = api.get("/assignments").json()["assignments"][0]
    assert (listed["clustering"], listed["id"]) == (named.id, which)
    again = api.post("/assign", json=request)
    assert (again.status_code, again.json()["code"]) == (404, "clustering_not_found")
    assert api.delete(f"/assignments/{which}").status_code == 204

"""Duplicates: groups of planted copies, which of them to keep and why, in one set and across two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clusterer.api.clusterings import build
from clusterer.jobs import duplicates
from clusterer.results.analyses import dropped_rows, list_groups
from fastapi.testclient import TestClient
from shoal.errors import DimensionMismatch, InvalidRequest, MemoryLimitTooSmall, TooManyPairs
from shoal.jobs.child import Cancelled, JobContext
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import ModelRecord, Plan, RowMetadata, Source, Store, image_id
from shoal.store.analyses import DUPLICATES, Analysis
from shoal.store.verify_results import verify_any

Find = Callable[..., Analysis]
RNG = np.random.default_rng(5)
APART = np.eye(32, dtype=np.float32)


def near(vector: np.ndarray, towards: np.ndarray, cosine: float) -> np.ndarray:
    """A vector whose cosine to ``vector`` is ``cosine``, for two vectors at right angles."""
    return (cosine * vector + np.sqrt(1 - cosine**2) * towards).astype(np.float32)


def image(name: str, **facts: Any) -> RowMetadata:
    return RowMetadata(image_id(name), name, **{"width": 100, "height": 80, "bytes": 1000, "sha256": None, **facts})


def add(
    store: Store,
    name: str,
    images: list[tuple[RowMetadata, Any]],
    model: str = "raw",
    dim: int = 32,
    shard_rows: int = 3,
) -> str:
    """Embeddings of images with given vectors."""
    paths = [row.image_path for row, _ in images]
    listing = pa.table({"image_id": [image_id(path) for path in paths], "image_path": paths})
    plan = Plan(
        name=name,
        source=Source.of(listing, kind="images", path=name),
        model=ModelRecord(name=model, backend="torch", architecture=model, embedding="pixels"),
        dim=dim,
        dtype="float32",
        shard_rows=shard_rows,
        thumbnails=False,
        transform={},
    )
    created = store.create_embeddings(plan, listing)
    for shard in range(plan.shards):
        start, stop = plan.shard_range(shard)
        with store.shard_writer(created.id, shard, attempt=1, owner="test") as writer:
            rows = [row for row, _ in images[start:stop]]
            writer.append(np.array([vector for _, vector in images[start:stop]], np.float32), rows)
            writer.commit()
    store.finish_embeddings(created.id)
    return created.id


A, B, C, D = APART[:4]
PLANTED = [
    (image("a/original.jpg", width=400, height=300, bytes=9000, sha256="1" * 64), A),
    (image("b.png"), B),
    (image("a/same.jpg", width=400, height=300, bytes=9000, sha256="1" * 64), A),
    (image("a/small.jpg", width=200, height=150, bytes=3000, sha256="2" * 64), near(A, D, 0.99)),
    (image("c.png", bytes=500, sha256="3" * 64), C),
    (image("c again.png", bytes=700, sha256="4" * 64), C),
    (image("chain.png", width=10), near(near(A, D, 0.99), APART[7], 0.955)),
]


@pytest.fixture
def find(store: Store, settings: Settings) -> Find:
    def run(embeddings: str, **fields: Any) -> Analysis:
        context = JobContext.local({"embeddings": embeddings, **fields}, kind="duplicates")
        return store.analysis(DUPLICATES, duplicates.run(context, settings)["duplicates"])

    return run


def groups_of(found: Analysis, **options: Any) -> list[dict[str, Any]]:
    chosen: dict[str, Any] = {"sort": "size", "start": 0, "limit": 100, "members": 100, "copy": None, **options}
    return list_groups(found, **chosen)[1]


def test_copies_are_grouped_and_the_best_one_is_kept(store: Store, find: Find) -> None:
    found = find(add(store, "all", PLANTED))
    first, second = groups_of(found)
    assert [(row["image_path"], row["copy"], row["keep"]) for row in first["rows"]] == [
        ("a/original.jpg", None, True),
        ("a/same.jpg", "file", False),
        ("a/small.jpg", "near", False),
    ]
    assert [row["reason"] for row in first["rows"]] == [
        "path sorts first among equals",
        "same file, equal to a/original.jpg, whose path sorts first",
        "fewer pixels: 200 x 150 pixels",
    ]
    assert first["least_similarity"] == pytest.approx(0.99, abs=1e-6)
    assert [row["similarity"] for row in first["rows"]] == pytest.approx([1, 1, 0.99], abs=1e-6)
    assert [(row["image_path"], row["copy"]) for row in second["rows"]] == [("c again.png", None), ("c.png", "pixels")]
    assert [row["reason"] for row in second["rows"]] == [
        "as many pixels, most bytes: 700 bytes",
        "as many pixels, fewer bytes: 500 bytes",
    ]
    assert found.spec["totals"] == {"groups": 2, "members": 5, "drops": 3, "same_files": 1}
    assert dropped_rows(found, found.sets[0]).tolist() == [2, 3, 4]
    pairs = found.table("pairs").to_pylist()
    assert [(each["row_a"], each["row_b"]) for each in pairs] == [(0, 2), (0, 3), (2, 3), (4, 5)]
    assert [each["copy"] for each in groups_of(found)] == ["near", "pixels"]
    assert [each["group"] for each in groups_of(found, copy="pixels")] == [1]
    assert [each["group"] for each in groups_of(found, sort="similarity")] == [1, 0]
    assert verify_any(store.layout, found.id).problems == []


def test_a_single_link_follows_chains_and_says_how_far_they_go(store: Store, find: Find) -> None:
    found = find(add(store, "all", PLANTED), link="single")
    first = groups_of(found)[0]
    assert [row["image_path"] for row in first["rows"]][-1] == "chain.png"
    assert first["least_similarity"] == pytest.approx(0.99 * 0.955, abs=1e-6)
    assert first["least_similarity"] < 0.95


def test_leaks_between_two_sets_drop_only_from_the_first(store: Store, find: Find) -> None:
    train = add(store, "train", PLANTED)
    test = add(
        store, "test", [(image("t/b.png", width=5), B), (image("t/other.png"), APART[9]), (image("t/b2.png"), B)]
    )
    found = find(train, against=test)
    (group,) = groups_of(found)
    assert [(row["embeddings"], row["image_path"], row["keep"]) for row in group["rows"]] == [
        (test, "t/b2.png", True),
        (test, "t/b.png", True),
        (train, "b.png", False),
    ]
    assert group["rows"][2]["reason"] == f"in {test} too: t/b2.png"
    assert group["rows"][0]["reason"] == f"in {test}, which stays as it is"
    assert found.spec["totals"]["drops"] == 1
    assert dropped_rows(found, train).tolist() == [1]
    assert dropped_rows(found, test).tolist() == []


def test_equal_files_without_a_direction_are_copies(store: Store, find: Find) -> None:
    zeros = np.zeros(32)
    images = [(image(f"{each}.png", sha256=each[0] * 64), zeros) for each in ("1", "1b", "2")]
    (group,) = groups_of(find(add(store, "zeros", [*images, (image("x.png"), A)])))
    assert [row["image_path"] for row in group["rows"]] == ["1.png", "1b.png"]


@pytest.mark.parametrize("link", ["complete", "single"])
def test_thousands_of_equal_rows_are_one_row_of_the_search(
    store: Store, find: Find, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "PER_PAIR", 2**20)
    images = [(image(f"{each:05d}.png", width=1), A) for each in range(3000)]
    images += [(image("large.png"), near(A, D, 0.97)), (image("b.png"), B), (image("x.png"), B)]
    found = find(add(store, "same", images, shard_rows=1000), link=link)
    first, second = groups_of(found, members=2)
    assert (first["size"], [row["image_path"] for row in first["rows"]]) == (3001, ["large.png", "00000.png"])
    assert first["least_similarity"] == pytest.approx(0.97, abs=1e-6)
    assert [row["image_path"] for row in second["rows"]] == ["b.png", "x.png"]
    assert found.spec["totals"]["drops"] == 3001
    # Too many to list them all: the first of the equal ones stands for the others.
    pairs = found.table("pairs").to_pylist()
    assert len(pairs) == 2999 + 1 + 1
    assert (pairs[0]["row_a"], pairs[0]["row_b"]) == (0, 1)
    assert verify_any(store.layout, found.id).problems == []


def test_pairs_of_equal_rows_are_those_of_every_row(store: Store, find: Find) -> None:
    vectors = [A, near(A, D, 0.98), A, B, near(A, D, 0.98), A]
    found = find(add(store, "few", [(image(f"{at}.png"), each) for at, each in enumerate(vectors)]))
    pairs = [(each["row_a"], each["row_b"]) for each in found.table("pairs").to_pylist()]
    members = [0, 1, 2, 4, 5]
    assert pairs == [(i, j) for i in members for j in members if i < j]


def test_a_set_without_copies_has_no_groups(store: Store, find: Find) -> None:
    found = find(add(store, "apart", [(image(f"{each}.png"), APART[each]) for each in range(6)]))
    assert (groups_of(found), found.spec["totals"]["groups"]) == ([], 0)
    assert groups_of(found, sort="similarity") == []
    assert found.table("pairs").num_rows == 0


def test_the_next_attempt_finds_the_pairs_of_the_last(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"embeddings": add(store, "all", PLANTED)}
    context = JobContext.local(request, kind="duplicates")

    def cancelled(*_: object) -> None:
        raise Cancelled

    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "describe", cancelled)
        with pytest.raises(Cancelled):
            duplicates.run(context, settings)
    assert store.analysis_ids(DUPLICATES) == []
    assert list(store.layout.temporary.iterdir()) == []
    monkeypatch.setattr(duplicates, "pairs_above", None)
    assert duplicates.run(context, settings)["groups"] == 2
    assert not store.layout.work(f"d-{context.id}").exists()
    monkeypatch.setattr(duplicates, "find_pairs", None)
    assert duplicates.run(context, settings)["groups"] == 2


def test_what_cannot_work_is_refused(store: Store, find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    train = add(store, "train", PLANTED)
    narrow = add(store, "narrow", [(image("n.png"), np.ones(4))], dim=4)
    foreign = add(store, "foreign", PLANTED, model="other")
    with pytest.raises(DimensionMismatch):
        find(train, against=narrow)
    with pytest.raises(InvalidRequest, match="same model"):
        find(train, against=foreign)
    with pytest.raises(MemoryLimitTooSmall):
        find(train, memory_limit=2**28)
    same = add(store, "same", [(image(f"{each}.png"), A * 2.0**each) for each in range(40)])
    monkeypatch.setattr(duplicates, "PER_PAIR", 2**40)
    with pytest.raises(TooManyPairs, match=r"higher `threshold` or a greater `memory_limit`\. If one image"):
        find(same, threshold=0.9)
    with pytest.raises(TooManyPairs, match=r"holds no more\. Send a greater `memory_limit`\."):
        find(same, threshold=1)


@pytest.fixture
def api(settings: Settings, queue: JobQueue, store: Store) -> Iterator[TestClient]:
    with TestClient(build(settings, queue, store), raise_server_exceptions=False) as client:
        yield client


def test_duplicates_are_posted_run_read_and_deleted(
    api: TestClient, queue: JobQueue, settings: Settings, store: Store, tmp_path: Path
) -> None:
    answer = api.post("/duplicates", json={"embeddings": add(store, "all", PLANTED)})
    assert (answer.status_code, answer.json()["kind"]) == (202, "duplicates")
    claim = queue.claim(["duplicates"], "worker")
    assert claim is not None
    which = duplicates.run(JobContext.local(claim.job.request, kind="duplicates"), settings)["duplicates"]
    assert [each["id"] for each in api.get("/duplicates").json()["duplicates"]] == [which]
    facts = api.get(f"/duplicates/{which}").json()
    assert (facts["totals"]["groups"], facts["request"]["link"]) == (2, "complete")
    page = api.get(facts["links"]["groups"], params={"limit": 1, "members": 2}).json()
    assert (page["total"], page["next_cursor"], len(page["groups"])) == (2, "1", 1)
    assert (page["groups"][0]["size"], len(page["groups"][0]["rows"])) == (3, 2)
    page = api.get(facts["links"]["groups"], params={"limit": 1, "cursor": "1"}).json()
    assert (page["groups"][0]["group"], page["next_cursor"]) == (1, None)
    file = tmp_path / "members.parquet"
    file.write_bytes(api.get(facts["links"]["members"]).content)
    assert pq.read_table(file).column("keep").to_pylist() == [True, False, False, True, False]
    assert api.get(facts["links"]["pairs"], params={"format": "csv"}).text.count("\n") == 5
    assert api.get(f"/duplicates/{which}/nothing").status_code == 422
    assert api.get("/duplicates/d-none/groups").json()["code"] == "duplicates_not_found"
    assert api.get(f"/duplicates/{which}/groups", params={"cursor": "-1"}).status_code == 422
    (store.layout.analysis("duplicates", which).table("members")).write_bytes(b"PAR1")
    assert api.get(f"/duplicates/{which}/groups").json()["code"] == "store_corrupt"
    assert [each.file for each in verify_any(store.layout, which).problems] == ["members.parquet"]
    assert api.delete(f"/duplicates/{which}").status_code == 204
    assert api.get(f"/duplicates/{which}").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"embeddings": "none"},
        {"embeddings": "../x"},
        {"embeddings": "ID", "against": "ID"},
        {"embeddings": "ID", "against": "none"},
        {"embeddings": "ID", "threshold": 0},
        {"embeddings": "ID", "threshold": 1.01},
        {"embeddings": "ID", "threshold": "0.9"},
        {"embeddings": "ID", "link": "average"},
        {"embeddings": "ID", "memory_limit": 1},
        {"embeddings": "ID", "colour": "red"},
        {"embeddings": {"train": "ID"}},
    ],
)
def test_hostile_bodies_are_refused(api: TestClient, queue: JobQueue, store: Store, body: dict[str, Any]) -> None:
    which = add(store, "all", PLANTED[:2])
    sent = {name: which if value == "ID" else value for name, value in body.items()}
    assert api.post("/duplicates", json=sent).status_code in {404, 422}
    assert queue.claim(["duplicates"], "worker") is None

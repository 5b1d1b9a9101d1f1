"""Quality: planted outliers, planted label errors, files that stand out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from clusterer.api.clusterings import build
from clusterer.cleaning.label_errors import find_label_errors
from clusterer.cleaning.outliers import find_outliers
from clusterer.cleaning.properties import find_issues, small_images
from clusterer.data.rows import ArrayRows
from clusterer.jobs import quality
from fastapi.testclient import TestClient
from shoal.errors import MemoryLimitTooSmall
from shoal.jobs.child import Cancelled, JobContext
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.analyses import QUALITY
from shoal.store.verify_results import verify_any

MakeSet = Callable[..., str]
Planted = Callable[..., tuple[Any, list[str]]]


@pytest.fixture
def spoiled(planted: Planted, make_set: MakeSet) -> str:
    """240 rows in four groups: rows 7 and 100 carry the label of another group, row 50 lies far from all."""
    vectors, labels = planted()
    labels[7], labels[100] = "a", "b"
    vectors[50] = np.random.default_rng(9).normal(size=16) * 8
    return make_set("spoiled", vectors, labels)


@pytest.fixture
def api(settings: Settings, queue: JobQueue, store: Store) -> Iterator[TestClient]:
    with TestClient(build(settings, queue, store), raise_server_exceptions=False) as client:
        yield client


def test_what_is_planted_is_found_read_and_deleted(
    api: TestClient, queue: JobQueue, settings: Settings, store: Store, spoiled: str
) -> None:
    answer = api.post("/quality", json={"embeddings": spoiled, "neighbours": 5})
    assert (answer.status_code, answer.json()["kind"]) == (202, "quality")
    claim = queue.claim(["quality"], "worker")
    assert claim is not None
    result = quality.run(JobContext.local(claim.job.request, kind="quality"), settings)
    which = result["quality"]
    outliers = api.get(f"/quality/{which}/outliers").json()
    assert outliers["rows"][0]["row"] == 50
    assert outliers["rows"][0]["p"] < 1e-6
    assert outliers["total"] == result["outliers"] <= 3
    labels = api.get(f"/quality/{which}/labels").json()["rows"]
    doubted = {each["row"]: (each["label"], each["suggested"], each["disagreeing"]) for each in labels[:3]}
    assert (doubted[7], doubted[100]) == (("a", "d", 5), ("b", "a", 5))
    everything = api.get(f"/quality/{which}/labels", params={"all": True, "limit": 1000}).json()
    assert everything["total"] == 240
    scores = [each["score"] for each in everything["rows"]]
    assert scores == sorted(scores)
    assert api.get(f"/quality/{which}/images").json() == {"rows": [], "total": 0, "next_cursor": None}
    assert api.get(f"/quality/{which}/outliers", params={"format": "csv"}).text.count("\n") == 241
    page = api.get(f"/quality/{which}/outliers", params={"all": True, "limit": 100, "cursor": "200"}).json()
    assert (len(page["rows"]), page["next_cursor"]) == (40, None)
    assert [each["id"] for each in api.get("/quality").json()["quality"]] == [which]
    assert api.get(f"/quality/{which}").json()["totals"]["label_errors"] >= 2
    assert api.get("/quality/q-none").json()["code"] == "quality_not_found"
    assert verify_any(store.layout, which).problems == []
    assert api.delete(f"/quality/{which}").status_code == 204
    assert api.get(f"/quality/{which}/outliers").status_code == 404


def test_a_set_without_labels_has_no_label_errors(
    planted: Planted, make_set: MakeSet, store: Store, settings: Settings
) -> None:
    vectors, _ = planted(60)
    context = JobContext.local({"embeddings": make_set("plain", vectors)}, kind="quality")
    assert quality.run(context, settings)["label_errors"] == 0
    single = JobContext.local({"embeddings": make_set("single", vectors[:1])}, kind="quality")
    assert quality.run(single, settings)["outliers"] == 0


def test_the_next_attempt_finds_the_neighbours_of_the_last(
    spoiled: str, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = JobContext.local({"embeddings": spoiled}, kind="quality")

    def cancelled(*_: object) -> None:
        raise Cancelled

    with monkeypatch.context() as patch:
        patch.setattr(quality, "judge", cancelled)
        with pytest.raises(Cancelled):
            quality.run(context, settings)
    assert store.analysis_ids(QUALITY) == []
    monkeypatch.setattr(quality, "nearest_rows", None)
    assert quality.run(context, settings)["label_errors"] >= 2
    assert not store.layout.work(f"q-{context.id}").exists()


def test_too_little_memory_is_said_at_the_start(spoiled: str, settings: Settings) -> None:
    with pytest.raises(MemoryLimitTooSmall):
        quality.run(JobContext.local({"embeddings": spoiled, "memory_limit": 2**28}, kind="quality"), settings)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"embeddings": "none"},
        {"embeddings": "../x"},
        {"embeddings": "ID", "neighbours": 0},
        {"embeddings": "ID", "neighbours": 101},
        {"embeddings": "ID", "neighbours": "5"},
        {"embeddings": "ID", "memory_limit": 1},
        {"embeddings": "ID", "colour": "red"},
    ],
)
def test_hostile_bodies_are_refused(api: TestClient, queue: JobQueue, spoiled: str, body: dict[str, Any]) -> None:
    sent = {name: spoiled if value == "ID" else value for name, value in body.items()}
    assert api.post("/quality", json=sent).status_code in {404, 422}
    assert queue.claim(["quality"], "worker") is None


def test_a_set_without_outliers_has_few() -> None:
    rng = np.random.default_rng(3)
    distances = np.exp(rng.normal(-1, 0.2, 5000))
    plain = find_outliers((1 - distances**2 / 2).astype(np.float32))
    assert plain.outlier.sum() <= 3
    assert abs(np.mean(plain.p < 0.1) - 0.1) < 0.02
    distances[:20] *= 4
    found = find_outliers((1 - distances**2 / 2).astype(np.float32))
    assert found.outlier[:20].all()
    assert found.outlier[20:].sum() <= 5
    same = find_outliers(np.ones(10, np.float32))
    assert not same.outlier.any()


def test_unlabelled_rows_and_classes_of_one_are_not_judged() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    nearest = np.array([[each for each in range(6) if each != row][:3] for row in range(6)])
    found = find_label_errors(ArrayRows(rows), np.array([0, 0, 1, -1, 2, 2]), nearest, lambda _: None)
    assert found.rows.tolist() == [0, 1, 4, 5]
    assert np.isfinite(found.score).all()


def test_files_that_stand_out() -> None:
    rows = [(640, 480, 90_000), (20, 20, 500), (900, 100, 50_000), (1000, 1000, 900), (None, None, None)]
    table = {name: [each[at] for each in rows] for at, name in enumerate(("width", "height", "bytes"))}
    found = {name: np.flatnonzero(score < 1).tolist() for name, _, score in find_issues(pa.table(table))}
    assert found == {"small": [1], "odd_aspect": [2], "low_detail": [3]}


def test_where_most_images_are_small_only_the_smallest_stand_out() -> None:
    sides = [28] * 20 + [10]
    table = pa.table({"width": sides, "height": sides, "bytes": [500] * 21})
    ((name, _, score), *_) = find_issues(table)
    assert (name, np.flatnonzero(score < 1).tolist()) == ("small", [20])
    assert small_images(table) == 21

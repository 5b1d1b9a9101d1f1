"""`where`: some rows of the stored embeddings are clustered, as if they were a set of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from clusterer.jobs.duplicates import run as find_duplicates
from clusterer.jobs.plan import make_plan
from clusterer.jobs.sweep import run as run_sweep
from clusterer.results.read import describe_cluster
from shoal.errors import ClusteringNotFound, ClustersInvalid, InvalidRequest, NotFinite, SubsetTooSmall
from shoal.jobs.child import JobContext
from shoal.schemas import ClusterRequest, SweepRequest
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.analyses import DUPLICATES
from shoal.store.clustering import Clustering
from shoal.store.verify_results import verify_any

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]
FIELDS: dict[str, Any] = {"clusters": 3, "pca": {"components": 6}, "seeds": [0, 1], "kmeans": {"restarts": 2}}


def rows_of(clustering: Clustering, embeddings: str) -> list[int]:
    found: list[int] = clustering.assignments(embeddings).column("row").to_pylist()
    return found


@pytest.mark.parametrize("memory", ["rows in memory", "rows on disk"])
def test_the_clusters_are_those_of_a_set_that_has_these_rows_alone(
    planted: Planted,
    make_set: MakeSet,
    run_job: RunJob,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    memory: str,
) -> None:
    if memory == "rows on disk":
        monkeypatch.setattr("clusterer.jobs.memory.Problem.row_bytes", 2**60)
    vectors, labels = planted(400, spread=0.8)
    chosen = np.flatnonzero(np.isin(labels, ["a", "c", "d"]))
    whole = make_set("mine", vectors, labels, thumbnails=True)
    alone = run_job(make_set("alone", vectors[chosen], [labels[each] for each in chosen]), **FIELDS)
    found = run_job(whole, where={"labels": ["c", "a", "d", "none"]}, **FIELDS)

    assert rows_of(found, whole) == chosen.tolist()
    ours, theirs = found.assignments(), alone.assignments()
    for name in ("cluster", "distance", "margin"):
        assert ours.column(name).equals(theirs.column(name))
    paths = store.embeddings(whole).metadata(["image_id"]).column("image_id").take(chosen)
    assert ours.column("image_id").equals(paths)
    mean = [each.metrics()["scored"][each.scored[0]]["mean"] for each in (found, alone)]
    assert mean[0] == mean[1]
    digest = hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest()
    assert found.spec["where"] == {"rows": len(chosen), "of": 400, "rows_sha256": digest}
    assert (found.spec["n"], found.spec["train_classes"], found.spec["classes"]) == (300, 3, ["a", "c", "d"])
    assert verify_any(store.layout, found.id).ok

    # The members of a cluster are named by their numbers in the whole set.
    numbers = {place: int(row) for place, row in enumerate(chosen)}
    for one, other in zip(found.clusters().to_pylist(), alone.clusters().to_pylist(), strict=True):
        assert one["nearest"] == [numbers[each] for each in other["nearest"]]
        assert one["borderline"] == [numbers[each] for each in other["borderline"]]
        shown = describe_cluster(store, found, whole, one["cluster"], thumbnails=True)
        assert [each["row"] for each in shown["farthest"]] == one["farthest"]
        assert shown["nearest"][0]["image_path"] == f"mine/{one['nearest'][0]:05d}.png"
        assert shown["nearest"][0]["distance"] == min(
            row["distance"] for row in ours.to_pylist() if row["cluster"] == one["cluster"]
        )


def test_conditions_are_met_together(planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store) -> None:
    vectors, labels = planted(240)
    embeddings = make_set("mine", vectors, labels)
    first = run_job(embeddings, clusters=4, seed=0)
    cluster = first.assignments().column("cluster").to_numpy()
    rows = np.arange(240)

    def chosen(**where: Any) -> list[int]:
        request = ClusterRequest.model_validate({"embeddings": embeddings, "clusters": 2, "where": where})
        found: list[int] = make_plan(store, request, deadline=None).train.metadata([]).column("row").to_pylist()
        return found

    two = {"clustering": first.id, "clusters": [0, 3]}
    inside = np.isin(cluster, [0, 3])
    assert chosen(clusters=two) == rows[inside].tolist()
    assert chosen(paths=["*7.png"]) == rows[rows % 10 == 7].tolist()
    assert chosen(paths=["/mine/0001?.png", "00200.png"]) == [*range(10, 20), 200]
    letters = np.isin(labels, ["a", "b"])
    assert (
        chosen(clusters=two, paths=["*[02468].png"], labels=["a", "b"])
        == rows[inside & letters & (rows % 2 == 0)].tolist()
    )

    # A clustering of a subset chooses rows of the whole set by their numbers.
    some = run_job(embeddings, clusters=2, seed=0, where={"clusters": two})
    again = chosen(clusters={"clustering": some.id, "clusters": [0, 1]})
    assert again == rows[inside].tolist()


def test_rows_that_duplicates_say_to_drop_are_left_out(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store, settings: Settings
) -> None:
    vectors, labels = planted(80)
    vectors[[30, 50]] = vectors[[10, 20]]
    embeddings = make_set("mine", vectors, labels)
    request = {"embeddings": embeddings, "threshold": 0.99999}
    found = find_duplicates(JobContext.local(request, kind="duplicates"), settings)["duplicates"]
    clustering = run_job(embeddings, clusters=2, seed=0, where={"not_duplicates_of": found})
    members = store.analysis(DUPLICATES, found).table("members").to_pylist()
    dropped = {each["row"] for each in members if not each["keep"]}
    assert dropped <= {10, 20, 30, 50}
    assert len(dropped) == 2
    assert rows_of(clustering, embeddings) == [row for row in range(80) if row not in dropped]

    other = make_set("other", vectors, labels)
    where = {"not_duplicates_of": found}
    asked = ClusterRequest.model_validate({"embeddings": other, "clusters": 2, "where": where})
    with pytest.raises(InvalidRequest, match="are not of embeddings"):
        make_plan(store, asked, deadline=None)


def test_other_scored_sets_are_assigned_whole(planted: Planted, make_set: MakeSet, run_job: RunJob) -> None:
    train, val = make_set("train", *planted(200)), make_set("val", *planted(60, seed=9))
    found = run_job({"train": train, "score": [train, val]}, clusters=2, seed=0, where={"labels": ["a", "b"]})
    assert (len(rows_of(found, train)), rows_of(found, val)) == (100, list(range(60)))
    assert found.spec["classes"] == ["a", "b", "c", "d"]


def test_a_sweep_clusters_the_subset_at_every_point(
    planted: Planted, make_set: MakeSet, store: Store, settings: Settings, run_job: RunJob
) -> None:
    embeddings = make_set("mine", *planted(300, spread=0.8))
    where = {"labels": ["a", "b", "c"]}
    request = {"embeddings": embeddings, "clusters": [2, 3], "where": where, "seeds": [0]}
    sweep = store.sweep(run_sweep(JobContext.local(request, kind="sweep"), settings)["sweep"])
    points = sweep.points()
    assert [each["params"]["n"] for each in points] == [225, 225]
    assert points[1]["request"]["where"]["labels"] == where["labels"]
    same = run_job(embeddings, clusters=3, seeds=[0], where=where)
    assert points[1]["scored"][embeddings]["mean"]["ari"] == same.metrics()["scored"][embeddings]["mean"]["ari"]


def test_requests_without_where_are_stored_as_before() -> None:
    assert "where" not in ClusterRequest(embeddings="e", clusters=2).model_dump(mode="json")
    assert "where" not in SweepRequest(embeddings="e", clusters=2).model_dump(mode="json")
    with pytest.raises(ValueError, match="needs a condition"):
        ClusterRequest.model_validate({"embeddings": "e", "clusters": 2, "where": {}})


def test_what_leaves_nothing_to_cluster_is_refused(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store
) -> None:
    vectors, labels = planted(40)
    embeddings = make_set("mine", vectors, labels)
    first = run_job(make_set("other", vectors, labels), clusters=4, seed=0)

    def refused(error: type[Exception], k: int = 2, **where: Any) -> str:
        request = ClusterRequest.model_validate({"embeddings": embeddings, "clusters": k, "where": where})
        with pytest.raises(error) as caught:
            make_plan(store, request, deadline=None)
        return str(caught.value)

    assert "No row of the 40" in refused(SubsetTooSmall, labels=["z"])
    assert "Only 1 row of the 40" in refused(SubsetTooSmall, paths=["00007.png"])
    assert "10 rows that meet `where`" in refused(ClustersInvalid, k=11, labels=["a"])
    refused(ClusteringNotFound, clusters={"clustering": "c-none", "clusters": [0]})
    assert "has not assigned" in refused(InvalidRequest, clusters={"clustering": first.id, "clusters": [0]})


def test_a_row_that_is_not_finite_is_named_by_its_number(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, labels = planted(40)
    embeddings = make_set("mine", vectors, labels)
    whole = store.embeddings(embeddings)
    taken = type(whole).take

    def damaged(self: Any, rows: Any) -> Any:
        found = taken(self, rows)
        if type(self) is type(whole):
            found[rows == 21] = np.nan
        return found

    monkeypatch.setattr(type(whole), "take", damaged)
    with pytest.raises(NotFinite, match="Row 21 of"):
        run_job(embeddings, clusters=2, where={"labels": ["b"]})

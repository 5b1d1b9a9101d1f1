"""Clusterings of reduced rows: from the store to new rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterer import pipeline
from clusterer.data.rows import ArrayRows
from clusterer.jobs import assign as assign_job
from clusterer.jobs import sweep
from clusterer.jobs.assign_plan import plan_assign
from clusterer.jobs.grid import plan_points
from clusterer.jobs.memory import Problem, problem_of
from clusterer.jobs.plan import make_plan
from clusterer.jobs.reduce import Reducing
from clusterer.jobs.workspace import Workspace
from clusterer.results.loaded import LoadedClustering
from pydantic import ValidationError
from shoal.errors import EmbeddingsNotFound, InvalidRequest, StoreCorrupt
from shoal.jobs.child import Cancelled, JobContext
from shoal.schemas import AssignRequest, ClusterRequest, Progress, ReduceOptions, SweepRequest
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering
from shoal.store.sweeps import tidy
from shoal.store.verify_results import verify_any

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]
METHODS: tuple[Any, ...] = (
    "smooth",
    {"method": "smooth", "neighbours": 7, "steps": 3},
    "spectral",
    {"method": "umap", "components": 3},
)
OPTIONS: dict[str, Any] = {"clusters": 4, "pca": {"components": 6}, "seed": 0}
RESULTS = ("transform.npz", "reduction.npz", "centroids.npy", "assignments.parquet", "map.parquet", "metrics.json")


def results_of(clustering: Clustering) -> dict[str, bytes]:
    return {name: (clustering.layout.folder / name).read_bytes() for name in RESULTS}


def clusters_of(clustering: Clustering, embeddings: str) -> list[int]:
    found: list[int] = clustering.assignments(embeddings, columns=["cluster"]).column("cluster").to_pylist()
    return found


@pytest.mark.parametrize("reduce", METHODS)
def test_groups_are_more_apart_than_those_of_plain_k_means(
    reduce: Any, planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    embeddings = make_set("mine", *planted(600, spread=1.5))
    plain, reduced = (
        run_job(embeddings, clusters=4, reduce=each).metrics()["scored"][embeddings]["mean"] for each in (None, reduce)
    )
    assert reduced["silhouette"] > plain["silhouette"] + 0.05
    assert reduced["ari"] > 0.95


@pytest.mark.parametrize("reduce", METHODS)
def test_new_rows_get_the_cluster_that_they_get_in_a_scored_set(
    reduce: Any, planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store, settings: Settings
) -> None:
    train, scored = make_set("train", *planted(300, spread=2.0)), make_set("scored", *planted(90, spread=2.0, seed=1))
    found = run_job({"train": train, "score": [train, scored]}, reduce=reduce, **OPTIONS)
    table = found.assignments(scored)
    loaded = LoadedClustering.load(store, found.id)
    vectors = store.embeddings(scored).take(np.arange(90))
    one_by_one = [loaded.assign(row[None]) for row in vectors]
    assert [int(each.labels[0]) for each in one_by_one] == table.column("cluster").to_pylist()
    assert [float(each.distance[0]) for each in one_by_one] == table.column("distance").to_pylist()
    context = JobContext.local({"clustering": found.id, "embeddings": scored}, kind="assign")
    assigned = store.assigned(assign_job.run(context, settings)["assignments"])
    assert [
        each for batch in assigned.iter_assignments() for each in batch.column("cluster").to_pylist()
    ] == table.column("cluster").to_pylist()


@pytest.mark.parametrize("reduce", METHODS)
def test_a_new_row_that_equals_a_train_row_has_its_cluster_and_distance(
    reduce: Any, planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store
) -> None:
    vectors = planted(300, spread=2.0)[0]
    vectors[40:80] = vectors[:40]
    vectors[80:100] = vectors[0]
    vectors[100:120] = vectors[1] * np.float32(1 + 2**-20)  # similar by 1, but not equal
    train, scored = make_set("train", vectors), make_set("scored", vectors[::-1])
    found = run_job({"train": train, "score": [train, scored]}, reduce=reduce, **OPTIONS)
    table = found.assignments(train)
    columns = [table.column(name).to_pylist() for name in ("cluster", "distance")]
    backwards = [found.assignments(scored).column(name).to_pylist()[::-1] for name in ("cluster", "distance")]
    assert backwards == columns
    loaded = LoadedClustering.load(store, found.id)
    one_by_one = [loaded.assign(row[None]) for row in vectors]
    assert [[each.labels[0] for each in one_by_one], [each.distance[0] for each in one_by_one]] == columns


@pytest.mark.parametrize("reduce", METHODS)
def test_a_job_with_little_memory_or_one_that_was_stopped_has_the_same_bytes(
    reduce: Any, planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store, settings: Settings
) -> None:
    train, scored = make_set("train", *planted(300, spread=2.0)), make_set("scored", *planted(90, spread=2.0, seed=1))
    request = {"embeddings": {"train": train, "score": [train, scored]}, "reduce": reduce, **OPTIONS}
    usual = results_of(run_job(request["embeddings"], reduce=reduce, **OPTIONS))
    least = problem_of([make_plan(store, ClusterRequest.model_validate(request), deadline=None)]).other_bytes
    tight = run_job(request["embeddings"], reduce=reduce, memory_limit=least, **OPTIONS)
    assert tight.run()["memory"]["rows"] == "file"
    assert results_of(tight) == usual

    def stop(progress: Progress) -> None:
        if progress.stage == "kmeans":
            context.stop()

    limited = {**request, "memory_limit": least}
    context = JobContext.local(limited, kind="cluster", on_progress=stop)
    with pytest.raises(Cancelled):
        pipeline.run(context, settings)
    again = JobContext.local(limited, kind="cluster", attempt=2)
    again.id = context.id
    assert results_of(store.clustering(pipeline.run(again, settings)["clustering"])) == usual


@pytest.mark.parametrize("reduce", METHODS)
def test_progress_goes_forward_to_its_end(reduce: Any, planted: Planted, make_set: MakeSet, settings: Settings) -> None:
    train, scored = make_set("train", *planted(300)), make_set("scored", *planted(90, seed=1))
    request = {"embeddings": {"train": train, "score": [train, scored]}, "reduce": reduce, **OPTIONS}
    done: list[int] = []

    def note(progress: Progress) -> None:
        if progress.stage == "reduce":
            assert progress.total == 690
            done.append(progress.done)

    pipeline.run(JobContext.local(request, kind="cluster", on_progress=note), settings)
    assert done == sorted(done)
    assert done[-1] == 690


@pytest.mark.parametrize("reduce", METHODS)
def test_its_files_verify_and_damage_is_found(
    reduce: Any, planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store
) -> None:
    found = run_job(make_set("mine", *planted(100)), reduce=reduce, clusters=4)
    assert verify_any(store.layout, found.id).problems == []
    file = found.layout.reduction
    whole = file.read_bytes()
    for damaged in (whole[:-40], None):
        file.unlink()
        if damaged is not None:
            file.write_bytes(damaged)
        assert {each.file for each in verify_any(store.layout, found.id).problems} == {"reduction.npz"}
        with pytest.raises(StoreCorrupt, match=r"reduction\.npz"):
            LoadedClustering.load(store, found.id)


def test_a_reduction_does_not_read_what_another_left_behind(tmp_path: Path, planted: Planted) -> None:
    rows: dict[str, Any] = {"train": ArrayRows(planted(200)[0]), "scored": ArrayRows(planted(50, seed=1)[0])}
    found = []
    for folder, methods in (("one", [{"neighbours": 3}, {"neighbours": 20}]), ("two", [{"neighbours": 20}])):
        work = Workspace(tmp_path / folder, rows_in_memory=False)
        for options in methods:  # The first one is not released, as where its process is killed.
            request = ReduceOptions.model_validate({"method": "smooth", "steps": 2, **options})
            reduced, _ = Reducing(request, "train", 200, 0, work, "", 2**30, lambda _: None).sets(rows)
        found.append([reduced[name].take(np.arange(50)).tobytes() for name in rows])
    assert found[0] == found[1]


def test_memory_counts_coordinates_and_averaged_rows(planted: Planted, make_set: MakeSet, store: Store) -> None:
    embeddings = make_set("mine", *planted(200))

    def problem(reduce: Any) -> Problem:
        request = {"embeddings": embeddings, "clusters": 4, "reduce": reduce}
        return problem_of([make_plan(store, ClusterRequest.model_validate(request), deadline=None)])

    assert problem({"method": "spectral", "components": 150}).row_bytes == 2 * 200 * 150 * 4
    assert problem({"method": "spectral", "components": 1000}).row_bytes == 2 * 200 * 200 * 4
    assert problem({"method": "smooth", "steps": 4}).row_bytes == 5 * 200 * 16 * 4
    kept = [problem({"method": "umap", "components": many}).stages()["metrics"] for many in (2, 12)]
    assert kept[1] - kept[0] >= 200 * 10 * 4


def test_assigning_counts_the_train_rows_of_each_step(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store
) -> None:
    embeddings = make_set("mine", *planted(200))
    needed = []
    for steps in (1, 4):
        found = run_job(embeddings, clusters=4, reduce={"method": "smooth", "steps": steps})
        request = AssignRequest(clustering=found.id, embeddings=embeddings)
        needed.append(assign_job.part_bytes(plan_assign(store, request)))
        loaded = LoadedClustering.load(store, found.id)
        assert loaded.bytes > 200 * (16 * 4 * steps + 64)
    assert needed[1] - needed[0] == 3 * 200 * 16 * 4


@pytest.mark.parametrize("reduce", METHODS)
def test_equal_rows_stay_together(reduce: Any, planted: Planted, make_set: MakeSet, run_job: RunJob) -> None:
    vectors = planted(300, spread=2.0)[0]
    vectors[20:170] = vectors[0]
    vectors[200:230] = 0
    embeddings = make_set("mine", vectors)
    clusters = clusters_of(run_job(embeddings, clusters=12, reduce=reduce, seed=0), embeddings)
    assert len({clusters[0], *clusters[20:170]}) == 1
    zeros = {row for row, cluster in enumerate(clusters) if cluster == clusters[200]}
    if reduce in METHODS[2:]:  # With places of their own for all rows, no other one lies near to those of zeros.
        assert zeros == set(range(200, 230))
    assert zeros >= set(range(200, 230))


def test_a_subset_is_reduced_by_its_own_rows(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store
) -> None:
    vectors, labels = planted(300, spread=2.0)
    embeddings = make_set("mine", vectors, labels)
    found = run_job(embeddings, reduce="smooth", clusters=2, where={"labels": ["a", "b"]}, seed=0)
    alone = make_set("alone", vectors[np.isin(labels, ["a", "b"])])
    same = run_job(alone, reduce="smooth", clusters=2, seed=0)
    assert clusters_of(found, embeddings) == clusters_of(same, alone)
    new = planted(50, spread=2.0, seed=3)[0]
    assigned = [LoadedClustering.load(store, each.id).assign(new).labels.tolist() for each in (found, same)]
    assert assigned[0] == assigned[1]


def test_without_its_train_rows_a_clustering_assigns_nothing(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store
) -> None:
    embeddings = make_set("mine", *planted(100))
    found = run_job(embeddings, reduce="smooth", clusters=4)
    store.delete_embeddings(embeddings)
    with pytest.raises(EmbeddingsNotFound, match="which are deleted"):
        LoadedClustering.load(store, found.id)


def test_the_clustering_says_what_was_left_open(planted: Planted, make_set: MakeSet, run_job: RunJob) -> None:
    found = run_job(make_set("mine", *planted(100)), reduce="smooth", clusters=4)
    assert found.spec["request"]["reduce"] == {
        "method": "smooth",
        "neighbours": None,
        "steps": None,
        "components": None,
    }
    assert found.spec["reduce"] == {"method": "smooth", "neighbours": 10, "steps": 1}
    assert "reduce" in found.run()["timings_s"]
    report = found.layout.report_html.read_text(encoding="utf-8")
    assert "smooth, neighbours 10, steps 1" in report


def test_a_few_rows_are_all_neighbours(make_set: MakeSet, run_job: RunJob) -> None:
    found = run_job(make_set("two", np.eye(2, 8, dtype=np.float32)), reduce="smooth", clusters=2)
    assert found.spec["reduce"]["neighbours"] == 1


def test_a_ray_cluster_reduces_nothing(planted: Planted, make_set: MakeSet, store: Store) -> None:
    request = {"embeddings": make_set("mine", *planted(50)), "clusters": 2, "reduce": "smooth"}
    many = {**request, "reduce": [None, "smooth"], "execution": {"engine": "ray"}}
    with pytest.raises(InvalidRequest, match="in one process"):
        plan_points(store, SweepRequest.model_validate(many), deadline=None)
    with pytest.raises(InvalidRequest, match="`reduce` compares all rows in one process"):
        make_plan(store, ClusterRequest.model_validate({**request, "execution": {"engine": "ray"}}), deadline=None)


def test_a_ray_cluster_assigns_nothing_to_a_reduced_clustering(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store
) -> None:
    embeddings = make_set("mine", *planted(60))
    found = run_job(embeddings, reduce="smooth", clusters=4)
    sent = {"clustering": found.id, "embeddings": embeddings, "execution": {"engine": "ray"}}
    with pytest.raises(InvalidRequest, match="by the rows of its train set"):
        plan_assign(store, AssignRequest.model_validate(sent))


@pytest.mark.parametrize(
    ("reduce", "why"),
    [
        ({"method": "smooth", "steps": 5}, "`steps` is at most 4 with `smooth`"),
        ({"method": "smooth", "components": 8}, "`components` is for `spectral` and `umap`"),
        ({"method": "umap", "steps": 2}, "`steps` is for `smooth` and `spectral`"),
        ("pca", "Input should be 'smooth', 'spectral' or 'umap'"),
    ],
)
def test_options_that_a_method_does_not_take_are_refused(reduce: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(why)):
        ClusterRequest.model_validate({"embeddings": "e", "clusters": 2, "reduce": reduce})


def test_places_have_no_direction_to_compare() -> None:
    sent = {"embeddings": "e", "clusters": 2, "reduce": "umap", "kmeans": {"spherical": True}}
    with pytest.raises(ValidationError, match=r"`kmeans.spherical` compares directions"):
        ClusterRequest.model_validate(sent)


def test_a_sweep_compares_reductions(planted: Planted, make_set: MakeSet, store: Store, settings: Settings) -> None:
    embeddings = make_set("mine", *planted(300, spread=1.5))
    request = {"embeddings": embeddings, "clusters": [4, 5], "seed": 0, "reduce": [None, *METHODS]}
    found = sweep.run(JobContext.local(request, kind="sweep"), settings)
    table = tidy(store.sweep(found["sweep"]).points())
    assert [each["reduce"] for each in table] == [
        *(None, None, "smooth", "smooth", "smooth neighbours=7 steps=3", "smooth neighbours=7 steps=3"),
        *("spectral", "spectral", "umap components=3", "umap components=3"),
    ]
    alone = pipeline.run(JobContext.local({**request, "clusters": 5, "reduce": METHODS[-1]}, kind="cluster"), settings)[
        "clustering"
    ]
    same = store.clustering(alone).metrics()["scored"][embeddings]["mean"]
    assert table[-1]["ari"] == same["ari"]
    assert table[-1]["inertia"] == pytest.approx(same["inertia"])

"""Clusterings by heads, from store to store: planted groups, several models, artefacts, resumed jobs, errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from clusterer import pipeline
from clusterer.data.rows import ArrayRows
from clusterer.heads import training
from clusterer.heads.head import HeadTarget
from clusterer.heads.turtle import Turtle, TurtleOptions
from clusterer.jobs import assign as assigning
from clusterer.jobs import heads as job_heads
from clusterer.jobs import site
from clusterer.jobs.aligned import Aligned
from clusterer.jobs.memory import place
from clusterer.results.loaded import LoadedClustering
from numpy.typing import NDArray
from shoal.errors import BackendNotInstalled, EngineUnavailable, InvalidRequest, JobError, NotFinite, SetsNotAligned
from shoal.jobs.child import Cancelled, JobContext
from shoal.schemas import ClusterRequest, Progress
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering
from shoal.store.verify_results import verify_all
from sklearn.metrics import adjusted_rand_score

MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]
Json = dict[str, Any]

TURTLE: Json = {"method": "turtle", "heads": {"steps": 200, "learning_rate": 0.01, "entropy": 10}}
TEMI: Json = {
    "method": "temi",
    "heads": {"steps": 100, "learning_rate": 0.002, "heads": 2, "batch_rows": 64, "neighbours": 15, "beta": 0.6},
}
SAME = ("centroids.npy", "head.npz", "seeds/1/head.npz", "assignments.parquet", "map.parquet", "metrics.json")


def elongated(n: int = 400, long: float = 3.0, seed: int = 0) -> tuple[NDArray[np.float32], list[str]]:
    """Four groups that are far longer than they are apart: k-means cuts them across."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) % 4
    corners, axis = np.random.default_rng(5).normal(size=(4, 12)), np.random.default_rng(6).normal(size=12)
    along = long * rng.normal(size=(n, 1)) * axis / np.linalg.norm(axis)
    vectors = corners[group] + 0.15 * rng.normal(size=(n, 12)) + along
    return vectors.astype(np.float32), [chr(ord("a") + each) for each in group]


def unequal(n: int = 400, seed: int = 0) -> tuple[NDArray[np.float32], list[str]]:
    """Round groups of which one has ten times the rows of the smallest."""
    rng = np.random.default_rng(seed)
    group = np.repeat([0, 1, 2, 3], np.array([20, 5, 10, 5]) * n // 40)
    corners = np.random.default_rng(5).normal(size=(4, 12))
    vectors = corners[group] + 0.2 * rng.normal(size=(n, 12))
    return vectors.astype(np.float32), [chr(ord("a") + each) for each in group]


def clusters_of(clustering: Clustering, embeddings_id: str | None = None) -> list[int]:
    found: list[int] = clustering.assignments(embeddings_id, columns=["cluster"]).column("cluster").to_pylist()
    return found


def bytes_of(clustering: Clustering) -> dict[str, bytes]:
    checks = clustering.iterations().drop_columns(["seconds"]).to_pylist()
    files = {name: (clustering.layout.folder / name).read_bytes() for name in SAME}
    return {**files, "iterations": str(checks).encode()}


def test_turtle_finds_groups_that_k_means_cuts(make_set: MakeSet, run_job: RunJob) -> None:
    vectors, labels = elongated(long=2.6)
    embeddings = make_set("mine", vectors, labels)
    plain = run_job(embeddings, clusters=4, normalize=False, seed=0)
    found = run_job(embeddings, clusters=4, normalize=False, seeds=[0, 1], **TURTLE)
    assert adjusted_rand_score(labels, clusters_of(plain)) < 0.8
    assert adjusted_rand_score(labels, clusters_of(found)) == 1.0


def test_temi_finds_groups_of_unequal_size(make_set: MakeSet, run_job: RunJob) -> None:
    vectors, labels = unequal()
    embeddings, heads = make_set("mine", vectors, labels), {**TEMI["heads"], "beta": 0.7}
    found = run_job(embeddings, clusters=4, normalize=False, seed=0, method="temi", heads=heads)
    assert adjusted_rand_score(labels, clusters_of(found)) > 0.9


@pytest.mark.parametrize(("method", "option"), [(TURTLE, "entropy"), (TEMI, "beta")], ids=["turtle", "temi"])
def test_how_equal_clusters_are_is_found_without_labels(
    make_set: MakeSet, run_job: RunJob, method: Json, option: str
) -> None:
    heads = {**method["heads"], option: "auto"}
    for name, (vectors, labels) in {"unequal": unequal(240), "round": elongated(240, long=0.3)}.items():
        embeddings = make_set(name, vectors)
        found = run_job(embeddings, clusters=4, normalize=False, seeds=[0, 1], method=method["method"], heads=heads)
        assert adjusted_rand_score(labels, clusters_of(found)) > 0.98
        best = found.run()["heads"][str(found.spec["best_seed"])]
        assert best[option] > 0
        assert best["neighbour_agreement"] > 0.98


def test_a_stopped_job_goes_on_to_the_value_that_an_undisturbed_one_keeps(
    make_set: MakeSet, run_job: RunJob, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_heads, "KEEP_EVERY_S", 0.0)
    heads = {"steps": 12, "inner_steps": 2, "early_stop": False}
    request = {"embeddings": make_set("mine", *unequal(120)), "clusters": 4, "seeds": [0, 1]}
    request |= {"method": "turtle", "heads": heads}
    undisturbed = run_job(**request)

    def stop(progress: Progress) -> None:
        if progress.stage == "heads" and progress.done >= 12 + 7:
            context.stop()

    context = JobContext.local(request, kind="cluster", on_progress=stop)
    with pytest.raises(Cancelled):
        pipeline.run(context, settings)
    again = JobContext.local(request, kind="cluster", attempt=2)
    again.id = context.id
    found = store.clustering(pipeline.run(again, settings)["clustering"])
    assert bytes_of(found) == bytes_of(undisturbed)
    assert found.run()["heads"] == undisturbed.run()["heads"]


@pytest.mark.parametrize("method", [TURTLE, TEMI], ids=["turtle", "temi"])
def test_a_head_leaves_what_k_means_leaves_and_probabilities(
    make_set: MakeSet, run_job: RunJob, store: Store, method: Json
) -> None:
    vectors, labels = elongated(200, long=0.3)
    train = make_set("train", vectors, labels, thumbnails=True)
    val = make_set("val", *elongated(60, long=0.3, seed=9))
    method = {**method, "heads": {**method["heads"], "steps": 60}}
    found = run_job({"train": train, "score": [train, val]}, clusters=4, seeds=[0, 1], kmeans={"levels": [2]}, **method)
    assert [report.problems for report in verify_all(store.layout) if report.kind == "clustering"] == [[]]
    table = found.assignments(train)
    probability, margin = (table.column(name).to_numpy() for name in ("probability", "margin"))
    assert ((probability >= 0.25) & (probability <= 1)).all()
    assert ((margin >= 0) & (margin <= probability)).all()
    labels_of = np.array(clusters_of(found, train))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for cluster in np.unique(labels_of):
        assert np.allclose(found.centroids()[cluster], unit[labels_of == cluster].mean(axis=0), atol=1e-4)
    run = found.run()
    assert set(run["heads"]) == {"0", "1"}
    assert run["algorithm"] == method["method"]
    assert found.metrics()["scored"][val]["mean"]["n"] == 60
    checks = found.iterations().to_pylist()
    assert {each["seed"] for each in checks} == {0, 1}
    assert all(each["inertia"] is None and np.isfinite(each["loss"]) for each in checks)
    assert "level_1" in table.column_names


@pytest.mark.parametrize("method", [TURTLE, TEMI], ids=["turtle", "temi"])
def test_rows_that_come_later_get_the_clusters_of_the_job(
    make_set: MakeSet, run_job: RunJob, store: Store, settings: Settings, method: Json
) -> None:
    vectors, labels = elongated(300, long=0.3)
    embeddings = make_set("mine", vectors, labels)
    method = {**method, "heads": {**method["heads"], "steps": 40}}
    found = run_job(embeddings, clusters=4, seed=0, pca={"components": 6}, **method)
    table = found.assignments()
    loaded = LoadedClustering.load(store, found.id)
    one_by_one = [loaded.assign(vectors[row : row + 1]) for row in range(len(vectors))]
    assert [int(each.labels[0]) for each in one_by_one] == clusters_of(found)
    for name in ("distance", "margin", "probability"):
        assert np.array_equal([getattr(each, name)[0] for each in one_by_one], table.column(name).to_numpy()), name
    context = JobContext.local({"clustering": found.id, "embeddings": embeddings}, kind="assign")
    assigned = store.assigned(str(assigning.run(context, settings)["assignments"]))
    batch = next(assigned.iter_assignments())
    for name in ("cluster", "probability", "distance"):
        assert batch.column(name).equals(table.column(name).combine_chunks()), name


@pytest.mark.parametrize("out_of_core", [False, True])
@pytest.mark.parametrize("method", [TURTLE, TEMI], ids=["turtle", "temi"])
def test_a_stopped_job_goes_on_to_the_same_result(
    make_set: MakeSet,
    run_job: RunJob,
    store: Store,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    method: Json,
    out_of_core: bool,
) -> None:
    monkeypatch.setattr(job_heads, "KEEP_EVERY_S", 0.0)
    if out_of_core:
        monkeypatch.setattr(site, "place", lambda *given: replace(place(*given), rows_in_memory=False))
    heads = {**method["heads"], "steps": 20, "batch_rows": 100, "early_stop": False}
    request = {"embeddings": make_set("mine", *elongated(250, long=0.3)), "clusters": 4, "seeds": [0, 1]}
    request |= {**method, "heads": heads}
    undisturbed = run_job(**request)

    def stop(progress: Progress) -> None:
        if progress.stage == "heads" and progress.done >= 33:
            context.stop()

    context = JobContext.local(request, kind="cluster", on_progress=stop)
    with pytest.raises(Cancelled):
        pipeline.run(context, settings)
    again = JobContext.local(request, kind="cluster", attempt=2)
    again.id = context.id
    found = store.clustering(pipeline.run(again, settings)["clustering"])
    assert found.run()["resumed_iterations"] >= 20 + 12
    assert bytes_of(found) == bytes_of(undisturbed)
    assert not store.layout.work(found.id).exists()


def test_models_together_find_what_one_of_them_alone_does_not(make_set: MakeSet, run_job: RunJob, store: Store) -> None:
    rng = np.random.default_rng(3)
    group = np.arange(320) % 4
    # Each model tells two halves apart; both together four groups.
    halves = [np.stack([group % 2, 1 - group % 2], axis=1), np.stack([group // 2, 1 - group // 2, group // 2], axis=1)]
    one, two = ((each + 0.1 * rng.normal(size=each.shape)).astype(np.float32) for each in halves)
    labels = [str(each) for each in group]
    first, second = make_set("mine", one, labels), make_set("mine", two, labels)
    alone, found = run_job(first, clusters=4, seed=0), run_job(first, clusters=4, seed=0, spaces=[second])
    assert adjusted_rand_score(labels, clusters_of(alone)) < 0.6
    assert adjusted_rand_score(labels, clusters_of(found)) > 0.95
    assert [each["dim"] for each in found.spec["spaces"]] == [2, 3]
    both = np.concatenate([one, two], axis=1)
    assert LoadedClustering.load(store, found.id).assign(both).labels.tolist() == clusters_of(found)


def test_turtle_has_an_encoder_for_each_model(make_set: MakeSet, run_job: RunJob, store: Store) -> None:
    vectors, labels = elongated(200, long=0.3)
    noise = np.random.default_rng(8).normal(size=(200, 9)).astype(np.float32)
    first, second = make_set("mine", vectors, labels), make_set("mine", vectors[:, :9] + 0.3 * noise, labels)
    found = run_job(first, clusters=4, seed=0, spaces=[second], **TURTLE)
    assert adjusted_rand_score(labels, clusters_of(found)) > 0.9
    loaded = LoadedClustering.load(store, found.id)
    assert isinstance(loaded.target, HeadTarget)
    assert loaded.target.head.widths == (12, 9)
    both = np.concatenate([vectors, vectors[:, :9] + 0.3 * noise], axis=1)
    found_now = loaded.assign(both)
    assert found_now.labels.tolist() == clusters_of(found)
    assert found_now.probability is not None
    assert np.array_equal(found_now.probability, found.assignments().column("probability").to_numpy())


def test_sets_of_other_images_are_refused(make_set: MakeSet, run_job: RunJob) -> None:
    vectors, _ = elongated(40)
    first = make_set("mine", vectors)
    other = make_set("others", vectors[:, :5])
    with pytest.raises(SetsNotAligned, match=r"Row 0 of embeddings 'others-.*' is the image 'others/00000.png'"):
        run_job(first, clusters=4, spaces=[other], **TURTLE)
    fewer = make_set("mine", vectors[:39, :6])
    with pytest.raises(SetsNotAligned, match="have 39 rows"):
        run_job(first, clusters=4, spaces=[fewer], **TURTLE)
    with pytest.raises(InvalidRequest, match=f"Embeddings '{first}' are there twice"):
        run_job(first, clusters=4, spaces=[first], **TURTLE)


def test_assigning_needs_the_sets_of_all_models(
    make_set: MakeSet, run_job: RunJob, store: Store, settings: Settings
) -> None:
    vectors, _ = elongated(60)
    first, second = make_set("mine", vectors), make_set("mine", vectors[:, :5])
    method = {**TURTLE, "heads": {"steps": 5, "entropy": 1}}
    found = run_job(first, clusters=4, seed=0, spaces=[second], **method)
    request = {"clustering": found.id, "embeddings": first}
    with pytest.raises(InvalidRequest, match="of the embeddings of 2 models, but 1 were sent"):
        assigning.run(JobContext.local(request, kind="assign"), settings)
    context = JobContext.local({**request, "spaces": [second]}, kind="assign")
    assigned = store.assigned(str(assigning.run(context, settings)["assignments"]))
    assert next(assigned.iter_assignments()).column("cluster").to_pylist() == clusters_of(found)


def test_without_pytorch_the_error_says_what_to_install(
    make_set: MakeSet, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    embeddings = make_set("mine", elongated(40)[0])
    with pytest.raises(BackendNotInstalled, match=r"pip install 'shoal\[heads\]'"):
        run_job(embeddings, clusters=4, **TURTLE)


def test_a_device_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineUnavailable, match="SHOAL_HEADS_DEVICE is 'cuda:99'"):
        training.open_device("cuda:99")
    with pytest.raises(EngineUnavailable, match="set it to auto, cpu, cuda or cuda:N"):
        training.open_device("abacus")


def test_rows_that_are_not_finite_are_named_with_their_model(
    make_set: MakeSet, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, _ = elongated(40)
    sets = [store.embeddings(make_set("mine", each)) for each in (vectors, vectors[:, :5])]
    spoilt = vectors[:, :5].copy()
    spoilt[17, 2] = np.nan
    monkeypatch.setattr(sets[1], "iter_batches", lambda *_, **__: iter([(0, spoilt)]))
    with pytest.raises(NotFinite, match=f"Row 17 of embeddings '{sets[1].id}'"):
        list(Aligned(*sets).iter_batches())


def test_a_run_stops_once_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ArrayRows(elongated(40)[0])
    device = training.open_device("cpu")
    run = Turtle(rows, 4, [12], TurtleOptions(), batch_rows=40, seed=0, device=device)
    monkeypatch.setattr(run, "step", lambda _: training.as_tensor(np.ones(1, np.float32), device))
    ended = {
        steps: training.train(run, rows, training.Schedule(steps, 40, early), on_step=lambda *_: None).history[-1].step
        for steps, early in ((50, True), (400, True), (5000, True), (400 - 1, False))
    }
    # The first check has none before it; five more are calm, and they span 100 steps.
    assert ended == {50: 50, 400: 4 * 26, 5000: 50 * 6, 399: 399}


def test_a_run_that_diverges_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ArrayRows(elongated(40)[0])
    device = training.open_device("cpu")
    run = Turtle(rows, 4, [12], TurtleOptions(), batch_rows=40, seed=0, device=device)
    monkeypatch.setattr(run, "step", lambda _: training.as_tensor(np.array([np.nan], np.float32), device))
    with pytest.raises(JobError, match=r"The loss is not finite after 1 steps. .* lower `heads.learning_rate`"):
        training.train(run, rows, training.Schedule(5, 40), on_step=lambda *_: None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": {"steps": 5}}, "`heads` needs `method`"),
        ({"method": "turtle", "heads": {"beta": 0.5}}, "`heads.beta` needs `method`: `temi`"),
        ({"method": "temi", "heads": {"entropy": 1}}, "`heads.entropy` needs `method`: `turtle`"),
        ({"method": "turtle", "heads": {"entropy": "much"}}, "heads.entropy\n  Input should be a valid number"),
        ({"method": "temi", "heads": {"beta": 1.5}}, "heads.beta\n  Input should be less than or equal to 1"),
        ({"method": "temi", "kmeans": {"spherical": True}}, "`kmeans.spherical` needs `method`: `kmeans`"),
        ({"spaces": ["b"], "pca": {"components": 3}}, "`pca` would mix the models"),
        ({"spaces": [{"train": "b", "score": ["c"]}]}, "must have the form of `embeddings`"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields: Json, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClusterRequest.model_validate({"embeddings": "a", "clusters": 4, **fields})


def test_a_request_without_heads_is_stored_as_before() -> None:
    stored = ClusterRequest(embeddings="a", clusters=4).model_dump(mode="json")
    assert not {"method", "heads", "spaces"} & set(stored)


def test_a_ray_cluster_is_refused(make_set: MakeSet, run_job: RunJob) -> None:
    with pytest.raises(InvalidRequest, match="`method` is `turtle`, which reads all rows in one process"):
        run_job(make_set("mine", elongated(40)[0]), clusters=4, execution={"engine": "ray"}, **TURTLE)

"""Groups on the graph of nearest rows, from store to store: their number, noise, new rows, resumed jobs, errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from clusterer import pipeline
from clusterer.jobs import assign as assigning
from clusterer.jobs import site
from clusterer.jobs.memory import place
from clusterer.results.loaded import LoadedClustering
from numpy.typing import NDArray
from pydantic import ValidationError
from shoal.errors import BackendNotInstalled, ClustersInvalid, EmbeddingsNotFound, InvalidRequest
from shoal.jobs.child import Cancelled, JobContext
from shoal.schemas import ClusterRequest, Progress, SweepRequest
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering
from shoal.store.verify_results import verify_all
from sklearn.metrics import adjusted_rand_score

MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]
Vectors = NDArray[np.float32]

SAME = ("centroids.npy", "graph.npz", "assignments.parquet", "clusters.parquet", "map.parquet", "metrics.json")
METHODS = ("leiden", "hdbscan")


def unequal(n: int = 400, dim: int = 16, noise: int = 0, seed: int = 0) -> tuple[Vectors, list[str]]:
    """Five groups from 30 to 5 hundredths of the rows, and rows of their own all over the place."""
    rng = np.random.default_rng(seed)
    sizes = np.array([35, 30, 18, 12, 5]) * n // 100
    of = np.repeat(np.arange(5), sizes)
    corners = np.random.default_rng(5).normal(size=(5, dim))
    rows = corners[of] + 0.25 * rng.normal(size=(len(of), dim))
    rows = np.concatenate([rows, 3 * rng.normal(size=(noise, dim))])
    return rows.astype(np.float32), [*(chr(ord("a") + each) for each in of), *["x"] * noise]


def elongated(n: int = 300, seed: int = 0) -> tuple[Vectors, list[str]]:
    """Three groups that are far longer than they are apart."""
    rng = np.random.default_rng(seed)
    of = np.arange(n) % 3
    rows = 0.1 * rng.normal(size=(n, 8)) + np.random.default_rng(7).normal(size=(3, 8))[of]
    rows[:, 0] += 4 * rng.uniform(-1, 1, n)
    rows[:, 1] += 4.0
    return rows.astype(np.float32), [chr(ord("a") + each) for each in of]


def clusters_of(clustering: Clustering, embeddings_id: str | None = None) -> NDArray[np.int32]:
    found: NDArray[np.int32] = clustering.assignments(embeddings_id, columns=["cluster"]).column("cluster").to_numpy()
    return found


def bytes_of(clustering: Clustering) -> dict[str, bytes]:
    return {name: (clustering.layout.folder / name).read_bytes() for name in SAME}


@pytest.mark.parametrize("method", METHODS)
def test_groups_of_unequal_size_are_counted_and_found(make_set: MakeSet, run_job: RunJob, method: str) -> None:
    vectors, labels = unequal()
    found = run_job(make_set("mine", vectors, labels), method=method)
    clusters = clusters_of(found)
    assert found.k == 5
    inside = clusters >= 0
    assert inside.mean() > 0.9
    assert adjusted_rand_score(np.array(labels)[inside], clusters[inside]) > 0.99
    sizes = np.bincount(clusters[inside])
    assert (np.diff(sizes) <= 0).all()  # the largest group is 0


def test_long_groups_are_found_by_density(make_set: MakeSet, run_job: RunJob) -> None:
    vectors, labels = elongated(600)
    found = run_job(make_set("mine", vectors, labels), method="hdbscan", graph={"min_samples": 5})
    clusters = clusters_of(found)
    assert found.k == 3
    assert adjusted_rand_score(np.array(labels)[clusters >= 0], clusters[clusters >= 0]) == 1.0


def test_rows_far_from_all_others_are_noise(make_set: MakeSet, run_job: RunJob, store: Store) -> None:
    vectors, labels = unequal(noise=40)
    embeddings = make_set("mine", vectors, labels, thumbnails=True)
    found = run_job(embeddings, method="hdbscan")
    clusters = clusters_of(found)
    assert found.spec["noise"] is True
    assert (clusters[-40:] == -1).mean() > 0.7
    assert (clusters[:-40] == -1).mean() < 0.1
    assert found.centroids().shape == (found.k, 16)
    table = found.clusters()
    assert table.column("cluster").to_pylist() == [*range(found.k), -1]
    assert table.column("size").to_pylist()[-1] == np.count_nonzero(clusters == -1)
    assert table.column("label").to_pylist()[-1] is None
    assert [report.problems for report in verify_all(store.layout) if report.kind == "clustering"] == [[]]
    entry = found.metrics()["scored"][embeddings]
    mean = entry["mean"]
    share = np.count_nonzero(clusters == -1) / len(clusters)
    assert mean["noise"] == {"rows": np.count_nonzero(clusters == -1), "share": pytest.approx(share)}
    # All metrics take noise for one more cluster, but those of `in_groups`.
    assert mean["ari"] == pytest.approx(adjusted_rand_score(labels, clusters))
    inside = clusters >= 0
    assert mean["in_groups"]["share"] == pytest.approx(1 - share)
    assert mean["in_groups"]["ari"] == pytest.approx(adjusted_rand_score(np.array(labels)[inside], clusters[inside]))
    assert (mean["k"], mean["empty_clusters"]) == (found.k, 0)
    assert all(each["cluster"] >= 0 for name in ("best_clusters", "worst_clusters") for each in entry[name])
    classes = {row["label"]: row for row in found.classes().to_pylist()}
    assert {each["cluster"] for each in classes["x"]["top_clusters"]} >= {-1}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("request_", [{}, {"pca": {"components": 6}}, {"reduce": "umap"}, {"reduce": "spectral"}])
def test_rows_that_come_later_get_the_group_that_they_have_in_a_scored_set(
    make_set: MakeSet, run_job: RunJob, store: Store, settings: Settings, method: str, request_: dict[str, Any]
) -> None:
    vectors, labels = unequal(noise=20)
    train = make_set("train", vectors, labels)
    later, later_labels = unequal(120, noise=15, seed=4)
    val = make_set("val", later, later_labels)
    found = run_job({"train": train, "score": [train, val]}, method=method, seed=3, **request_)
    scored = found.assignments(val)
    loaded = LoadedClustering.load(store, found.id)
    one_by_one = [loaded.assign(later[row : row + 1]) for row in range(len(later))]
    assert [int(each.labels[0]) for each in one_by_one] == scored.column("cluster").to_pylist()
    for name in ("distance", "margin"):
        assert np.array_equal([getattr(each, name)[0] for each in one_by_one], scored.column(name).to_numpy()), name
    context = JobContext.local({"clustering": found.id, "embeddings": val}, kind="assign")
    assigned = store.assigned(str(assigning.run(context, settings)["assignments"]))
    assert next(assigned.iter_assignments()).column("cluster").equals(scored.column("cluster").combine_chunks())
    assert [report.problems for report in verify_all(store.layout) if report.kind == "assignments"] == [[]]
    inside = np.array(later_labels) != "x"
    # Leiden finds parts of groups where these are long, as reduced rows are.
    least = 0.3 if method == "leiden" and "reduce" in request_ else 0.8
    assert adjusted_rand_score(np.array(later_labels)[inside], clusters_of(found, val)[inside]) > least


@pytest.mark.parametrize("method", METHODS)
def test_a_row_that_equals_a_train_row_has_its_group(
    make_set: MakeSet, run_job: RunJob, store: Store, method: str
) -> None:
    vectors, _ = unequal(noise=30)
    vectors[50:90] = vectors[3]  # more copies than neighbours
    found = run_job(make_set("mine", vectors), method=method)
    clusters = clusters_of(found)
    assert set(clusters[50:90]) == {clusters[3]}
    assert LoadedClustering.load(store, found.id).assign(vectors).labels.tolist() == clusters.tolist()


def test_noise_stays_noise_when_it_comes_later(make_set: MakeSet, run_job: RunJob, store: Store) -> None:
    found = run_job(make_set("mine", *unequal()), method="hdbscan")
    loaded = LoadedClustering.load(store, found.id)
    far = (3 * np.random.default_rng(9).normal(size=(30, 16))).astype(np.float32)
    assert (loaded.assign(far).labels == -1).mean() > 0.8
    near = unequal(200, seed=8)[0]
    assert (loaded.assign(near).labels >= 0).mean() > 0.9


def test_seeds_of_leiden_are_runs_of_their_own_and_hdbscan_has_one(make_set: MakeSet, run_job: RunJob) -> None:
    vectors, labels = elongated()
    embeddings = make_set("mine", vectors, labels)
    found = run_job(embeddings, method="leiden", seeds=[0, 1, 2])
    entry = found.metrics()["scored"][embeddings]
    assert set(entry["seeds"]) == {"0", "1", "2"}
    assert len(entry["stability"]["pairs"]) == 3
    quality = {int(seed): each["modularity"] for seed, each in found.run()["graph"].items()}
    assert found.spec["best_seed"] == max(quality, key=lambda seed: quality[seed])
    assert found.k == found.run()["graph"][str(found.spec["best_seed"])]["groups"]
    dense = run_job(embeddings, method="hdbscan", seeds=[4, 5])
    assert dense.spec["seeds"] == [4]


def test_a_higher_resolution_gives_more_groups(make_set: MakeSet, run_job: RunJob) -> None:
    embeddings = make_set("mine", *unequal())
    few, many = (run_job(embeddings, method="leiden", graph={"resolution": each}).k for each in (0.5, 5))
    assert few < many


@pytest.mark.parametrize("out_of_core", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_job_goes_on_to_the_same_result(
    make_set: MakeSet,
    run_job: RunJob,
    store: Store,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    out_of_core: bool,
) -> None:
    if out_of_core:
        monkeypatch.setattr(site, "place", lambda *given: replace(place(*given), rows_in_memory=False))
    vectors, labels = unequal(noise=20)
    train, val = make_set("mine", vectors, labels), make_set("val", *unequal(60, noise=5, seed=2))
    request = {"embeddings": {"train": train, "score": [train, val]}, "method": method, "seeds": [0, 1]}
    undisturbed = run_job(**request)

    def stop(progress: Progress) -> None:
        if progress.stage == "assign":
            context.stop()

    context = JobContext.local(request, kind="cluster", on_progress=stop)
    with pytest.raises(Cancelled):
        pipeline.run(context, settings)
    kept = list(store.layout.work(f"c-{context.id}").glob("graph-*.npz"))
    assert len(kept) == (3 if method == "leiden" else 2)
    # What is kept is used: with other neighbours the search would fail.
    monkeypatch.setattr("clusterer.jobs.graph.nearest_rows", None)
    again = JobContext.local(request, kind="cluster", attempt=2)
    again.id = context.id
    found = store.clustering(pipeline.run(again, settings)["clustering"])
    assert bytes_of(found) == bytes_of(undisturbed)
    assert not store.layout.work(found.id).exists()


def test_without_the_library_the_error_says_what_to_install(
    make_set: MakeSet, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "graspologic_native", None)
    embeddings = make_set("mine", *unequal(100))
    with pytest.raises(BackendNotInstalled, match=r"pip install 'shoal\[graph\]'"):
        run_job(embeddings, method="leiden")


def test_one_group_or_noise_alone_is_an_error_that_says_what_to_change(make_set: MakeSet, run_job: RunJob) -> None:
    rng = np.random.default_rng(0)
    blob = make_set("blob", (rng.normal(size=(1, 8)) + 0.1 * rng.normal(size=(60, 8))).astype(np.float32))
    with pytest.raises(ClustersInvalid, match=r"is one group for `leiden`. Send a higher `graph.resolution`"):
        run_job(blob, method="leiden", graph={"resolution": 0.01})
    with pytest.raises(
        ClustersInvalid, match=r"all 60 different rows are noise. Send `graph.min_cluster_size` below 40"
    ):
        run_job(blob, method="hdbscan", graph={"min_cluster_size": 40})
    same = make_set("same", np.ones((20, 8), np.float32))
    with pytest.raises(ClustersInvalid, match=r"has rows that are all equal; groups need at least 3"):
        run_job(same, method="hdbscan")


def test_what_to_change_is_possible(make_set: MakeSet, run_job: RunJob) -> None:
    three = make_set("three", np.eye(3, 8, dtype=np.float32))
    smallest = {"min_cluster_size": 2, "min_samples": 2}
    with pytest.raises(ClustersInvalid, match=r"are noise. Send `reduce`: `umap`, or use `leiden`\.$"):
        run_job(three, method="hdbscan", graph=smallest)
    with pytest.raises(ClustersInvalid, match=r"are noise. Use `leiden`\.$"):
        run_job(three, method="hdbscan", graph=smallest, reduce="umap")
    # Among rows that are all connected with each other a higher resolution leaves every row alone.
    ring = np.linspace(0, np.pi, 12, endpoint=False)
    few = make_set("few", np.stack([np.cos(ring), np.sin(ring)], axis=1).astype(np.float32))
    with pytest.raises(ClustersInvalid, match=r"than 1, such as 2, or `graph.neighbours` below 11"):
        run_job(few, method="leiden")
    assert run_job(few, method="leiden", graph={"neighbours": 3}).k >= 2


def test_groups_need_the_rows_that_they_were_found_among(make_set: MakeSet, run_job: RunJob, store: Store) -> None:
    embeddings = make_set("mine", *unequal(100))
    found = run_job(embeddings, method="leiden")
    store.delete_embeddings(embeddings)
    with pytest.raises(EmbeddingsNotFound, match=f"rows of embeddings '{embeddings}', which are deleted"):
        LoadedClustering.load(store, found.id)


def test_levels_group_the_groups(make_set: MakeSet, run_job: RunJob) -> None:
    embeddings = make_set("mine", *unequal())
    found = run_job(embeddings, method="leiden", kmeans={"levels": [2]})
    assert len(set(found.assignments().column("level_1").to_pylist())) == 2
    with pytest.raises(InvalidRequest, match=r"`kmeans.levels` starts with 400 groups, but there are 5"):
        run_job(embeddings, method="leiden", kmeans={"levels": [400]})


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"method": "leiden", "clusters": 5}, "finds the number of groups itself: leave `clusters` out"),
        ({"method": "hdbscan", "over": 2.0}, "leave `over` out"),
        ({"method": "hdbscan", "graph": {"resolution": 2.0}}, "`graph.resolution` needs `method`: `leiden`"),
        ({"method": "leiden", "graph": {"min_samples": 5}}, "`graph.min_samples` needs `method`: `hdbscan`"),
        ({"clusters": 5, "graph": {}}, "`graph` needs `method`: `leiden` or `hdbscan`"),
        ({"method": "leiden", "heads": {}}, "`heads` needs `method`: `turtle` or `temi`"),
        ({"method": "leiden", "kmeans": {"iterations": 3}}, "`kmeans.iterations` needs `method`: `kmeans`"),
        ({"method": "hdbscan", "kmeans": {"levels": [3]}}, "`kmeans.levels` has no group for noise"),
        ({"method": "leiden", "reduce": "smooth"}, "send `spectral` or `umap`"),
        ({"method": "leiden", "spaces": ["e-2"]}, "leave `spaces` out"),
        ({"method": "hdbscan", "graph": {"neighbours": 4, "min_samples": 9}}, "at least `min_samples`"),
    ],
)
def test_what_a_method_does_not_take_is_refused(sent: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ClusterRequest.model_validate({"embeddings": "e-1", **sent})
    assert message in str(refused.value)


def test_a_sweep_has_one_point_for_all_numbers_of_clusters() -> None:
    sent = {"embeddings": "e-1", "clusters": [5, 10, 20], "method": ["kmeans", "leiden", "hdbscan"]}
    points = SweepRequest.model_validate({**sent, "graph": {"resolution": 2, "min_samples": 4}}).points()
    assert sorted((each.method, each.clusters or 0) for each in points) == [
        ("hdbscan", 0),
        ("kmeans", 5),
        ("kmeans", 10),
        ("kmeans", 20),
        ("leiden", 0),
    ]
    with pytest.raises(ValidationError, match="`clusters` needs `method`: `kmeans`, `turtle` or `temi`"):
        SweepRequest.model_validate({**sent, "method": "leiden"})

"""Clustering jobs from store to report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from clusterer import pipeline
from clusterer.data.transform import Transform
from clusterer.jobs.plan import MOST_RESTARTS, cheap_restarts
from clusterer.kmeans import select_engine
from clusterer.results.read import facts
from shoal.errors import (
    ClustersInvalid,
    DimensionMismatch,
    EmbeddingsIncomplete,
    EmbeddingsNotFound,
    InvalidRequest,
    LabelsRequired,
    NotFinite,
    ShoalError,
)
from shoal.jobs.child import Cancelled, JobContext
from shoal.schemas import Progress
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering
from shoal.store.files import record_file
from sklearn.metrics import adjusted_rand_score

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]


def clusters_of(clustering: Clustering, embeddings_id: str | None = None) -> list[int]:
    found: list[int] = clustering.assignments(embeddings_id, columns=["cluster"]).column("cluster").to_pylist()
    return found


def test_planted_groups_are_found_and_scored(planted: Planted, make_set: MakeSet, run_job: RunJob) -> None:
    vectors, labels = planted()
    embeddings = make_set("mine", vectors, labels)
    found = run_job(embeddings, over=1.0, pca={"components": 8})
    assert found.k == 4
    assert adjusted_rand_score(labels, clusters_of(found)) == 1.0
    metrics = found.metrics()
    assert metrics["seeds"] == [0, 1, 2]
    assert metrics["best_seed"] in metrics["seeds"]
    scored = metrics["scored"][embeddings]
    assert scored["mean"]["ari"] == scored["mean"]["accuracy_one_to_one"] == 1.0
    assert scored["std"]["ari"] == 0.0
    assert set(scored["seeds"]) == {"0", "1", "2"}
    assert scored["mean"]["chance"]["nmi"] < 0.1


def test_distances_margins_and_inertia_are_those_of_the_stored_centroids(
    planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    vectors, labels = planted(spread=1.0)
    found = run_job(make_set("mine", vectors, labels), clusters=7, pca={"components": 5, "whiten": True})
    points = Transform.from_arrays(found.transform_arrays())(vectors).astype(np.float64)
    distances = np.linalg.norm(points[:, None] - found.centroids()[None].astype(np.float64), axis=2)
    ordered = np.sort(distances, axis=1)
    table = found.assignments()
    assert np.array_equal(table.column("cluster").to_numpy(), distances.argmin(axis=1))
    assert np.allclose(table.column("distance").to_numpy(), ordered[:, 0], atol=1e-4)
    assert np.allclose(table.column("margin").to_numpy(), ordered[:, 1] - ordered[:, 0], atol=1e-4)
    [scored] = found.metrics()["scored"].values()
    best = scored["seeds"][str(found.spec["best_seed"])]["inertia"]
    assert best == pytest.approx((ordered[:, 0] ** 2).sum(), rel=1e-4)
    assert best == min(each["inertia"] for each in scored["seeds"].values())


def test_scored_sets_go_through_the_transform_of_the_train_set(
    planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    vectors, labels = planted()
    train = make_set("train", vectors, labels)
    # The scored set has half of the classes in other shares, so that a mean or a PCA of its own would differ.
    other, other_labels = planted(90, seed=5)
    kept = [row for row, label in enumerate(other_labels) if label in "ab" and (label == "a" or row % 3 == 0)]
    scored = make_set("val", other[kept], [other_labels[row] for row in kept])
    request = {"train": train, "score": [scored, train]}
    found = run_job(request, clusters=4, pca={"components": 3, "whiten": True}, seeds=[0, 1])
    metrics = found.metrics()["scored"]
    assert metrics[scored]["mean"]["accuracy"]["hungarian"]["train"] == 1.0
    assert metrics[scored]["mean"]["classes"] == 2
    assert metrics[scored]["mean"]["empty_clusters"] == 2
    assert metrics[train]["mean"]["accuracy"]["hungarian"]["train"] == 1.0
    points = Transform.from_arrays(found.transform_arrays())(other[kept]).astype(np.float64)
    distances = np.linalg.norm(points[:, None] - found.centroids()[None], axis=2)
    assert clusters_of(found, scored) == distances.argmin(axis=1).tolist()


def test_a_map_learnt_on_train_is_applied_to_other_classes_of_the_scored_set(
    planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    train = make_set("train", *planted(200, groups=4))
    vectors, labels = planted(100, groups=5, seed=3)
    # Class a is called b here and the other way round; e is unknown to the train set; c has no label.
    renamed = [{"a": "b", "b": "a", "c": None}.get(label, label) for label in labels]
    scored = make_set("val", vectors, renamed)
    found = run_job({"train": train, "score": [scored]}, clusters=4, seed=0)
    values = found.metrics()["scored"][scored]["seeds"]["0"]
    assert (values["n"], values["n_labelled"], values["n_unlabelled"]) == (100, 80, 20)
    assert values["accuracy"]["hungarian"]["train"] == pytest.approx(20 / 80)
    assert values["accuracy"]["hungarian"]["scored"] >= 60 / 80


def test_progress_tells_of_the_last_iteration(
    planted: Planted, make_set: MakeSet, store: Store, settings: Settings
) -> None:
    heard: list[Progress] = []
    request = {"embeddings": make_set("mine", *planted(spread=1.0)), "clusters": 6, "seeds": [3]}
    context = JobContext.local(request, kind="cluster", on_progress=heard.append)
    found = store.clustering(pipeline.run(context, settings)["clustering"])
    last = [each for each in heard if each.stage == "kmeans"][-1]
    assert last.detail == {"restart": 0, **found.iterations().to_pylist()[-1]}


def test_the_same_job_gives_the_same_bytes(planted: Planted, store: Store, make_set: MakeSet, run_job: RunJob) -> None:
    embeddings = make_set("mine", *planted(spread=1.2), thumbnails=True)
    fields: dict[str, Any] = {"clusters": 6, "pca": {"components": 6}, "seeds": [3, 4]}
    first, second = (run_job(embeddings, **fields) for _ in range(2))
    assert first.id != second.id
    names = ["spec.json", "transform.npz", "centroids.npy", "seeds/4/centroids.npy", "assignments.parquet"]
    for name in [*names, "clusters.parquet", "metrics.json", "report/contact-sheet.png"]:
        one, two = ((each.layout.folder / name).read_bytes() for each in (first, second))
        assert hashlib.sha256(one).digest() == hashlib.sha256(two).digest(), name
    pages = (each.layout.report_html.read_text().replace(each.id, "") for each in (first, second))
    assert next(pages) == next(pages)


def test_without_labels_there_is_one_seed_and_no_comparison_with_labels(
    planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    vectors, _ = planted()
    found = run_job(make_set("mine", vectors), clusters=4)
    [scored] = found.metrics()["scored"].values()
    assert found.metrics()["seeds"] == [0]
    assert scored["mean"]["ari"] is None
    assert scored["mean"]["inertia"] > 0
    assert scored["std"]["inertia"] is None
    assert found.clusters().column("majority").null_count == 4


def test_the_run_is_recorded(planted: Planted, make_set: MakeSet, run_job: RunJob) -> None:
    vectors, labels = planted(spread=1.0)
    vectors[7] = 0
    embeddings = make_set("mine", vectors, labels)
    found = run_job(embeddings, clusters=5, pca={"components": 4}, kmeans={"restarts": 2, "iterations": 9}, seed=1)
    run = found.run()
    assert (run["engine"], run["engine_reason"]) == (select_engine("auto").name, select_engine("auto").reason)
    assert set(run["timings_s"]) == {
        "read",
        "pca",
        "transform",
        "kmeans",
        "assign",
        "metrics",
        "unsupervised",
        "map",
        "report",
    }
    assert run["peak_rss_bytes"] > 10_000_000
    assert run["rows_trained_on"] == len(vectors)
    assert run["zero_rows"] == {embeddings: 1}
    assert len(run["explained_variance_ratio"]) == 4
    history = found.iterations().to_pylist()
    assert {row["restart"] for row in history} == {0, 1}
    assert {row["seed"] for row in history} == {1}
    assert max(row["iteration"] for row in history) <= 9
    assert run["iterations"] == max(row["iteration"] for row in history if row["restart"] == run["best_restart"])


def test_few_rows_are_clustered_as_often_as_it_costs_little(
    planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    vectors, _ = planted()
    found = run_job(make_set("mine", vectors), clusters=4)
    assert facts(found)["restarts"] == MOST_RESTARTS
    assert {row["restart"] for row in found.iterations().to_pylist()} == set(range(MOST_RESTARTS))
    assert found.run()["converged"]


def test_many_rows_are_clustered_once_unless_more_is_asked_for() -> None:
    assert cheap_restarts(1_281_167, 2048, 1000, 50) == 1
    assert cheap_restarts(50_000, 2048, 1000, 50) == 1
    assert cheap_restarts(2_000, 1280, 10, 50) > 10
    assert cheap_restarts(60, 3072, 3, 1) == MOST_RESTARTS


def test_a_sample_is_only_taken_on_request_and_then_stated(
    planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    embeddings = make_set("mine", *planted())
    found = run_job(embeddings, clusters=4, kmeans={"max_points_per_centroid": 10}, seed=0)
    assert found.run()["rows_trained_on"] == 40
    assert len(clusters_of(found)) == 240


def test_clusters_list_their_members_from_centroid_to_border(
    planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    vectors, labels = planted(spread=0.8)
    found = run_job(make_set("mine", vectors, labels), clusters=4, seed=0)
    table = found.assignments().to_pydict()
    for cluster in found.clusters().to_pylist():
        rows = [row for row, each in enumerate(table["cluster"]) if each == cluster["cluster"]]
        assert cluster["size"] == len(rows)
        by_distance = sorted(rows, key=lambda row: (table["distance"][row], row))
        assert cluster["nearest"] == by_distance[:12]
        assert cluster["farthest"] == by_distance[::-1][:12]
        assert cluster["borderline"] == sorted(rows, key=lambda row: (table["margin"][row], row))[:12]
        assert cluster["tightness"] == pytest.approx(np.mean([table["distance"][row] for row in rows]), rel=1e-5)
        names = [labels[row] for row in rows]
        assert cluster["purity"] == pytest.approx(names.count(cluster["majority"]) / len(rows))
        assert cluster["label"] == cluster["majority"]


def test_the_page_shows_every_cluster_and_needs_nothing_else(
    planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    vectors, _ = planted()
    labels = ["<script>alert(1)</script>" if row % 4 == 0 else "b & c" for row in range(len(vectors))]
    found = run_job(make_set("mine", vectors, labels, thumbnails=True), clusters=4, seed=0)
    page = found.layout.report_html.read_text()
    assert all(f'id="c{cluster}"' in page for cluster in range(4))
    assert "data:image/webp;base64," in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert found.layout.contact_sheet.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"clusters": 241}, ClustersInvalid, "have 240 rows. Send `clusters` from 2 to 240"),
        ({"over": 0.2}, ClustersInvalid, "`over` 0.2 times 4 classes is 1 cluster,"),
        ({"over": 100.0}, ClustersInvalid, "is 400 clusters"),
        ({"clusters": 3, "pca": {"components": 17}}, InvalidRequest, "Send 1 to 16"),
    ],
)
def test_numbers_that_cannot_work_are_refused_with_what_would(
    planted: Planted, make_set: MakeSet, run_job: RunJob, fields: dict[str, Any], error: type[ShoalError], words: str
) -> None:
    embeddings = make_set("mine", *planted())
    with pytest.raises(error, match=words):
        run_job(embeddings, **fields)


def test_sets_that_cannot_be_clustered_are_refused(
    planted: Planted, store: Store, make_set: MakeSet, run_job: RunJob
) -> None:
    vectors, labels = planted()
    mine = make_set("mine", vectors, labels)
    with pytest.raises(EmbeddingsNotFound):
        run_job("nothing-1", clusters=3)
    with pytest.raises(EmbeddingsIncomplete, match="2 of 3 shards are missing"):
        run_job(make_set("half", vectors, labels, finish=False), clusters=3)
    with pytest.raises(LabelsRequired, match="Send `clusters` instead"):
        run_job(make_set("bare", vectors), over=1.0)
    with pytest.raises(DimensionMismatch, match="have 3 dimensions"):
        run_job({"train": mine, "score": [make_set("thin", vectors[:, :3], labels)]}, clusters=3)
    assert store.clustering_ids() == []


def test_a_stored_nan_is_found_with_its_row(planted: Planted, store: Store, make_set: MakeSet, run_job: RunJob) -> None:
    embeddings = make_set("mine", *planted())
    layout = store.embeddings(embeddings).layout
    path = layout.data("img_emb", 1)
    shard = np.load(path)
    shard[4, 2] = np.nan
    np.save(path, shard)
    # As of a faulty writer: the commit vouches for what is there.
    commit = json.loads(layout.commit(1).read_text())
    record = json.loads(record_file(path, layout.data_name("img_emb", 1)).model_dump_json())
    commit["files"] = [record if each["path"] == record["path"] else each for each in commit["files"]]
    layout.commit(1).write_text(json.dumps(commit))
    with pytest.raises(NotFinite, match="Row 104 of embeddings"):
        run_job(embeddings, clusters=3)


def test_a_second_attempt_returns_what_the_first_published(
    planted: Planted, make_set: MakeSet, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = JobContext.local({"embeddings": make_set("mine", *planted()), "clusters": 4})
    first = pipeline.run(context, settings)
    monkeypatch.setattr(pipeline, "fit_seeds", None)
    assert pipeline.run(context, settings) == first
    assert json.loads(json.dumps(first, allow_nan=False)) == first


@pytest.mark.parametrize("stage", ["pca", "transform", "kmeans", "assign", "metrics", "unsupervised", "map", "report"])
def test_a_cancelled_job_stops_in_every_stage_and_leaves_nothing(
    planted: Planted, make_set: MakeSet, store: Store, settings: Settings, stage: str
) -> None:
    seen: list[str] = []

    def stop_at(progress: Progress) -> None:
        seen.append(progress.stage)
        if progress.stage == stage:
            context.stop()

    request = {"embeddings": make_set("mine", *planted()), "clusters": 4, "pca": {"components": 4}}
    context = JobContext.local(request, on_progress=stop_at)
    with pytest.raises(Cancelled):
        pipeline.run(context, settings)
    assert seen[-1] == stage
    assert store.clustering_ids() == []
    assert list(store.layout.temporary.iterdir()) == []

"""Sweeps: grids of clusterings that share what can be shared."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from clusterer.api.clusterings import build
from clusterer.data.rows import StoredRows
from clusterer.jobs import sets as planning
from clusterer.jobs import sweep as sweeping
from clusterer.jobs.grid import plan_points
from clusterer.jobs.memory import Placement, problem_of
from clusterer.jobs.points import run_point
from clusterer.jobs.workspace import Workspace
from clusterer.results.plots import against_components, against_probe
from fastapi.testclient import TestClient
from pydantic import ValidationError
from shoal.errors import InvalidRequest, LabelsRequired
from shoal.jobs.child import Cancelled, JobContext
from shoal.jobs.queue import JobQueue
from shoal.schemas import SweepRequest
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering
from shoal.store.sweeps import Sweep, tidy

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]
RunSweep = Callable[..., Sweep]


@pytest.fixture
def run_sweep(store: Store, settings: Settings) -> RunSweep:
    def run(embeddings: Any, **fields: Any) -> Sweep:
        context = JobContext.local({"embeddings": embeddings, **fields}, kind="sweep")
        return store.sweep(sweeping.run(context, settings)["sweep"])

    return run


@pytest.fixture
def two_sets(planted: Planted, make_set: MakeSet) -> dict[str, Any]:
    return {"train": make_set("train", *planted(spread=1.0)), "score": [make_set("val", *planted(80, seed=4))]}


def test_points_are_every_combination_once() -> None:
    request = SweepRequest.model_validate(
        {
            "embeddings": ["a-1", {"train": "b-1", "score": ["c-1"]}],
            "over": [1.0, 2.0, 1.0],
            "pca": {"components": [4, None], "whiten": [False, True]},
            "normalize": [True, False],
            "seeds": [0, 1],
        }
    )
    points = request.points()
    assert len(points) == 2 * 2 * 2 * 2 * 2
    assert len({point.model_dump_json() for point in points}) == len(points)
    assert {point.over for point in points} == {1.0, 2.0}
    assert all(point.seeds == [0, 1] for point in points)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"over": [1.0], "clusters": [3]},
        {"clusters": [1]},
        {"clusters": []},
        {"clusters": list(range(2, 2100))},
        {"over": 1.0, "colour": "red"},
    ],
)
def test_a_sweep_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SweepRequest.model_validate({"embeddings": "a-1", **fields})


def test_planning_reads_each_set_once(
    planted: Planted, make_set: MakeSet, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, scored = (make_set(name, *planted(40, seed=seed)) for seed, name in enumerate(("a", "b", "c")))
    sets = [first, {"train": second, "score": [scored, first]}, {"train": scored, "score": [first]}]
    opened: list[str] = []
    read: list[str] = []
    open_set, read_labels = planning.open_complete, planning.label_column

    def opening(store: Store, name: str) -> Any:
        opened.append(name)
        return open_set(store, name)

    def reading(each: Any) -> Any:
        read.append(each.id)
        return read_labels(each)

    monkeypatch.setattr(planning, "open_complete", opening)
    monkeypatch.setattr(planning, "label_column", reading)
    fields = {"clusters": list(range(2, 12)), "normalize": [True, False]}
    points = plan_points(store, SweepRequest.model_validate({"embeddings": sets, **fields}), deadline=None)
    assert len(points) == 60
    assert sorted(opened) == sorted(read) == sorted([first, second, scored])


def test_every_point_equals_a_clustering_of_its_own(
    two_sets: dict[str, Any], run_sweep: RunSweep, run_job: RunJob
) -> None:
    found = run_sweep(
        two_sets,
        clusters=[3, 5],
        pca={"components": [2, 8], "whiten": [False, True]},
        seeds=[0],
    )
    points = found.points()
    assert found.complete
    assert [point["index"] for point in points] == list(range(8))
    for point in points[::3]:
        alone = run_job(**{name: value for name, value in point["request"].items() if value is not None})
        scored = two_sets["score"][0]
        ours, theirs = point["scored"][scored]["mean"], alone.metrics()["scored"][scored]["mean"]
        assert ours["inertia"] == pytest.approx(theirs["inertia"], rel=1e-4)
        for name in ("ari", "ami", "accuracy_one_to_one", "purity"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-9), name


def test_points_without_pca_and_of_several_models_stand_side_by_side(
    planted: Planted, make_set: MakeSet, run_sweep: RunSweep
) -> None:
    vectors, labels = planted(spread=0.5)
    ids = [make_set("good", vectors, labels), make_set("poor", vectors[:, :2], labels)]
    rows = tidy(run_sweep(ids, over=[1.0], seeds=[0, 1], linear_probe=True, reference="models").points())
    assert [row["embeddings"] for row in rows] == ids
    assert [row["components"] for row in rows] == [None, None]
    assert [row["dim"] for row in rows] == [16, 2]
    assert rows[0]["ari"] > rows[1]["ari"]
    assert rows[0]["linear_probe"] > max(0.95, rows[1]["linear_probe"])
    assert rows[0]["stability"] is not None


def test_a_sweep_goes_on_after_its_last_point(
    two_sets: dict[str, Any], store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"embeddings": two_sets, "clusters": [2, 3, 4], "pca": {"components": [2, 4]}, "seed": 0}
    real, ran = run_point, []

    def counted(point: Any, *rest: Any) -> dict[str, Any]:
        document = real(point, *rest)
        ran.append(point.index)
        if len(ran) == 3:
            context.stop()
        return document

    monkeypatch.setattr(sweeping, "run_point", counted)
    marks: list[int] = []
    monkeypatch.setattr(JobContext, "advance", lambda self, mark: marks.append(mark))
    context = JobContext.local(request, kind="sweep")
    with pytest.raises(Cancelled):
        sweeping.run(context, settings)
    assert marks == [1, 2, 3]
    half = store.sweep(f"s-{context.id}")
    assert not half.complete
    assert len(half.finished_points()) == 3
    again = JobContext.local(request, kind="sweep")
    again.id = context.id
    result = sweeping.run(again, settings)
    assert sorted(ran) == list(range(6))
    assert store.sweep(result["sweep"]).complete
    assert sweeping.run(again, settings) == result
    assert len(ran) == 6


def without_seconds(found: Sweep) -> list[dict[str, Any]]:
    return [{name: value for name, value in point.items() if name != "seconds"} for point in found.points()]


@pytest.mark.parametrize("out_of_core", [False, True])
@pytest.mark.parametrize("stop_after", [1, 3, 4, 6])
def test_a_sweep_that_dies_goes_on_to_the_figures_of_an_undisturbed_one(
    planted: Planted,
    make_set: MakeSet,
    run_sweep: RunSweep,
    store: Store,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
    out_of_core: bool,
) -> None:
    scored = make_set("scored", *planted(120, spread=3.0, seed=2))
    trains = [make_set(name, *planted(400, spread=3.0, seed=seed)) for seed, name in enumerate(("one", "two"))]
    request: dict[str, Any] = {
        "embeddings": [{"train": train, "score": [scored]} for train in trains],
        "clusters": [7, 12],
        "pca": {"components": [15, 6]},
        "linear_probe": True,
        "seed": 0,
    }
    undisturbed = run_sweep(**request)
    monkeypatch.setattr(sweeping, "place", lambda problem, limit: Placement(limit, not out_of_core, 0))
    real = Sweep.commit_point

    def dies(self: Sweep, index: int, document: dict[str, Any]) -> None:
        real(self, index, document)
        if len(self.finished_points()) == stop_after:
            context.stop()

    context = JobContext.local(request, kind="sweep")
    with monkeypatch.context() as patched:
        patched.setattr(Sweep, "commit_point", dies)
        # Who is killed does not tidy up.
        patched.setattr(Workspace, "release", lambda self, name: None)
        with pytest.raises(Cancelled):
            sweeping.run(context, settings)
    again = JobContext.local(request, kind="sweep", attempt=2)
    again.id = context.id
    assert len(store.sweep(f"s-{context.id}").finished_points()) == stop_after
    found = store.sweep(sweeping.run(again, settings)["sweep"])
    assert without_seconds(found) == without_seconds(undisturbed)


def test_the_data_are_read_once_per_normalisation_however_many_points(
    two_sets: dict[str, Any], run_sweep: RunSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []
    real = StoredRows.batches

    def counted(self: Any, *rest: Any, start: int = 0, stop: int | None = None) -> Any:
        if not start:
            passes.append(self.name)
        return real(self, *rest, start=start, stop=stop)

    monkeypatch.setattr(StoredRows, "batches", counted)
    run_sweep(two_sets, clusters=[2, 3, 4], pca={"components": [2, 4, 8], "whiten": [False, True]}, seed=0)
    # The train set twice: for the PCA, and to project it.
    assert sorted(passes) == sorted([two_sets["train"]] * 2 + two_sets["score"])


def test_plots_show_what_varied(two_sets: dict[str, Any], run_sweep: RunSweep) -> None:
    found = run_sweep(
        two_sets, over=[1.0, 2.0], pca={"components": [2, 8]}, seeds=[0, 1], linear_probe=True, reference="pca-ablation"
    )
    assert found.plots() == ["ari-accuracy", "clusters", "linear-probe", "pca"]
    for name in found.plots():
        assert b"<svg" in found.layout.plot(name, "svg").read_bytes()[:1000]
        assert found.layout.plot(name, "png").read_bytes().startswith(b"\x89PNG")


def test_without_labels_the_plot_is_of_what_needs_none(
    planted: Planted, make_set: MakeSet, run_sweep: RunSweep
) -> None:
    found = run_sweep(make_set("bare", planted()[0]), clusters=[2, 4, 6], seeds=[0, 1])
    assert found.plots() == ["unsupervised"]
    rows = tidy(found.points())
    assert max(rows, key=lambda row: row["silhouette"])["k"] == 4
    assert rows[0]["ari"] is None


def test_what_cannot_work_is_refused_before_anything_runs(
    planted: Planted, make_set: MakeSet, run_sweep: RunSweep, store: Store
) -> None:
    bare = make_set("bare", planted()[0])
    with pytest.raises(InvalidRequest, match="at most 16"):
        run_sweep(bare, clusters=[3], pca={"components": [4, 17]})
    with pytest.raises(LabelsRequired):
        run_sweep(bare, over=[1.0, 2.0])
    assert store.sweep_ids() == []


def test_models_of_several_sizes_make_no_curve(planted: Planted, make_set: MakeSet, run_sweep: RunSweep) -> None:
    vectors, labels = planted(60)
    sets = [make_set(f"m{dim}", vectors[:, :dim], labels) for dim in (4, 8, 16)]
    found = run_sweep(sets, over=1.0, seed=0, linear_probe=True, reference="models")
    assert found.plots() == ["ari-accuracy", "linear-probe"]


def test_a_sweep_scores_other_classes_through_their_map_as_a_clustering_does(
    planted: Planted, make_set: MakeSet, run_sweep: RunSweep, run_job: RunJob, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "map.csv").write_text("train_label,scored_label\na,x\nb,x\nc,y\n")
    vectors, labels = planted(80, seed=2)
    third = make_set("third", vectors, [{"a": "x", "b": "x", "c": "y"}.get(label, "z") for label in labels])
    scored = {"embeddings": third, "class_map": {"file": "map.csv"}}
    sets = {"train": make_set("train", *planted(spread=1.0)), "score": [scored]}
    settings.__dict__["data"] = tmp_path
    [row] = tidy(run_sweep(sets, clusters=[4], pca={"components": 8}, seed=0, linear_probe=True).points())
    alone = run_job(sets, clusters=4, pca={"components": 8}, seed=0).metrics()["scored"][third]["mean"]
    assert row["n_labelled"] == 60
    assert row["accuracy_hungarian_train"] == alone["accuracy"]["hungarian"]["train"] == 1.0
    assert row["linear_probe"] == 1.0


def test_no_axis_goes_where_no_percentage_is(two_sets: dict[str, Any], run_sweep: RunSweep) -> None:
    found = run_sweep(
        two_sets,
        over=[1.0, 1.5],
        pca={"components": [2, 8]},
        seeds=[0, 1, 2],
        linear_probe=True,
        reference="pca-ablation",
    )
    rows = tidy(found.points())
    rows[0] |= {"accuracy_hungarian_train": 0.95, "accuracy_hungarian_train_std": 0.2, "ari_std": 0.9}
    for figure in (against_components(rows, "pca-ablation"), against_probe(rows, None)):
        for axes in figure.axes:
            low, high = axes.get_ylim()
            assert low >= 0.0
            assert high <= 100.0


def test_one_label_makes_no_linear_classifier(planted: Planted, make_set: MakeSet, run_sweep: RunSweep) -> None:
    vectors, labels = planted(40)
    for known, there in ((1, False), (2, True)):
        some = [label if row < known else None for row, label in enumerate(labels)]
        found = run_sweep(make_set(f"known{known}", vectors, some), clusters=[3], seed=0, linear_probe=True)
        assert (tidy(found.points())[0]["linear_probe"] is not None) is there


@pytest.fixture
def api(settings: Settings, queue: JobQueue, store: Store) -> Iterator[TestClient]:
    with TestClient(build(settings, queue, store), raise_server_exceptions=False) as client:
        yield client


def test_a_sweep_is_posted_run_and_read(
    api: TestClient, queue: JobQueue, settings: Settings, two_sets: dict[str, Any]
) -> None:
    body = {"embeddings": two_sets, "clusters": [2, 4], "seed": 0}
    answer = api.post("/sweep", json=body)
    assert (answer.status_code, answer.json()["kind"]) == (202, "sweep")
    refused = api.post("/sweep", json={**body, "clusters": [2, 1000]})
    assert (refused.status_code, refused.json()["code"]) == (422, "clusters_invalid")
    claim = queue.claim(["cluster", "sweep"], "worker")
    assert claim is not None
    context = JobContext.local(claim.job.request, kind=claim.job.kind)
    sweep_id = sweeping.run(context, settings)["sweep"]
    assert [each["id"] for each in api.get("/sweeps").json()["sweeps"]] == [sweep_id]
    facts = api.get(f"/sweeps/{sweep_id}").json()
    assert (facts["complete"], facts["points"]) == (True, {"total": 2, "finished": 2})
    assert [row["k"] for row in facts["table"]] == [2, 4]
    text, parquet = (api.get(facts["links"][name]).content for name in ("csv", "parquet"))
    assert csv.read_csv(io.BytesIO(text)).column("k").to_pylist() == [2, 4]
    assert pq.read_table(io.BytesIO(parquet)).to_pylist() == facts["table"]
    plot = api.get(facts["plots"]["clusters"])
    assert plot.headers["content-type"].startswith("image/svg+xml")
    assert api.get(f"/sweeps/{sweep_id}/plots/clusters.png").content.startswith(b"\x89PNG")
    assert api.get(f"/sweeps/{sweep_id}/points/1").json()["params"]["k"] == 4
    for path in ("/points/2", "/plots/none.svg", "x"):
        assert api.get(f"/sweeps/{sweep_id}{path}").status_code == 404
    assert api.get(f"/sweeps/{sweep_id}/plots/clusters.gif").status_code == 422
    assert api.delete(f"/sweeps/{sweep_id}").status_code == 204
    assert api.get(f"/sweeps/{sweep_id}").json()["code"] == "sweep_not_found"


def test_a_sweep_out_of_core_finds_what_one_in_memory_does(
    two_sets: dict[str, Any], run_sweep: RunSweep, store: Store
) -> None:
    fields: dict[str, Any] = {
        "clusters": [4, 6],
        "pca": {"components": [4, 8, None], "whiten": [False, True]},
        "seeds": [0],
        "linear_probe": True,
    }
    points = plan_points(store, SweepRequest.model_validate({"embeddings": two_sets, **fields}), deadline=None)
    tight = problem_of([point.plan for point in points], sweep=True).other_bytes
    usual = run_sweep(two_sets, **fields)
    found = run_sweep(two_sets, **fields, memory_limit=tight)

    def measured(sweep: Sweep) -> list[dict[str, Any]]:
        return [{**point, "seconds": 0, "request": None} for point in sweep.points()]

    assert measured(found) == measured(usual)
    assert not store.layout.work(found.id).exists()

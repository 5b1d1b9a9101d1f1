"""`reduce: "auto"`: options are tried without labels, one is picked, and the result says why."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from clusterer import pipeline
from clusterer.jobs import choose
from clusterer.jobs import plan as plans
from clusterer.jobs.memory import problem_of
from clusterer.jobs.plan import make_plan
from clusterer.results.read import facts
from numpy.typing import NDArray
from pydantic import ValidationError
from shoal.errors import InvalidRequest
from shoal.jobs.child import Cancelled, JobContext
from shoal.schemas import ClusterRequest, Progress, SweepRequest
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]
AUTO: dict[str, Any] = {"clusters": 4, "reduce": "auto", "seed": 0}


def long_groups(n: int = 400, groups: int = 4) -> tuple[NDArray[np.float32], list[str]]:
    """Groups that are long along one direction, the same for all."""
    rng = np.random.default_rng(1)
    of = np.arange(n) % groups
    rows = 0.35 * rng.normal(size=(groups, 32))[of] + 0.1 * rng.normal(size=(n, 32))
    rows[:, 0] += 4 * rng.uniform(-1, 1, n)
    rows[:, 1] += 4.0  # away from the origin: directions keep their order
    return rows.astype(np.float32), [f"g{each}" for each in of]


def picked(clustering: Clustering) -> dict[str, Any]:
    """What was picked and tried, without the seconds."""
    record = json.loads(json.dumps(clustering.spec["picked"]))
    for each in record["tried"]:
        assert each.pop("seconds") >= 0
    found: dict[str, Any] = record
    return found


def clusters_of(clustering: Clustering) -> list[int]:
    found: list[int] = clustering.assignments(clustering.scored[0]).column("cluster").to_pylist()
    return found


def accuracy(clustering: Clustering) -> float:
    mean = clustering.metrics()["scored"][clustering.scored[0]]["mean"]
    return float(mean["accuracy"]["hungarian"]["scored"])


def test_long_groups_get_an_option_of_the_graph_and_the_result_says_why(make_set: MakeSet, run_job: RunJob) -> None:
    embeddings = make_set("long", *long_groups())
    found, plain = run_job(embeddings, **AUTO), run_job(embeddings, clusters=4, seed=0)
    record = picked(found)
    assert [each["reduce"] for each in record["tried"]] == [None, "smooth", "spectral", "umap"]
    assert record["reduce"] == found.spec["reduce"]["method"]
    assert record["reduce"] in {"spectral", "umap"}
    best = max(record["tried"], key=lambda each: each["neighbours_kept"])
    assert best["reduce"] == record["reduce"]
    assert f"{best['neighbours_kept']:.3f}" in record["why"]
    assert accuracy(found) > accuracy(plain) + 0.2
    shown = facts(found)
    assert shown["picked"] == found.spec["picked"]
    page = html.unescape(found.layout.report_html.read_text())
    assert record["why"] in page
    assert f"taken after “{record['reduce']}”" in page  # its silhouette is no better for that
    assert "taken after" not in plain.layout.report_html.read_text()


def test_round_groups_lose_nothing(planted: Planted, make_set: MakeSet, run_job: RunJob) -> None:
    embeddings = make_set("round", *planted(400, spread=1.0))
    found, plain = run_job(embeddings, **AUTO), run_job(embeddings, clusters=4, seed=0)
    assert accuracy(found) >= accuracy(plain) - 0.01


def test_labels_do_not_change_what_is_picked(make_set: MakeSet, run_job: RunJob) -> None:
    rows, labels = long_groups(160)
    shuffled = np.random.default_rng(0).permutation(labels).tolist()
    runs = [run_job(make_set(f"s{at}", rows, each), **AUTO) for at, each in enumerate((labels, shuffled, None))]
    assert picked(runs[0]) == picked(runs[1]) == picked(runs[2])
    assert clusters_of(runs[0]) == clusters_of(runs[1]) == clusters_of(runs[2])


def test_the_number_of_groups_is_picked_by_the_same_figure(
    planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    rows, _ = planted(160, groups=4, spread=0.5)
    found = run_job(make_set("round", rows), clusters="auto", clusters_range=[2, 6], reduce="auto", seed=0)
    record = picked(found)
    assert (found.spec["k"], record["k"], found.spec["chosen"]) == (4, 4, None)
    for each in record["tried"]:
        assert [number["k"] for number in each["numbers"]] == [2, 3, 4, 5, 6]
        best = max(each["numbers"], key=lambda number: number["neighbours_kept"])
        assert (each["k"], each["neighbours_kept"]) == (best["k"], best["neighbours_kept"])
    assert "5 numbers of groups" in record["why"]


def test_a_large_set_is_tried_on_a_sample(make_set: MakeSet, run_job: RunJob, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (choose, plans):
        monkeypatch.setattr(module, "SEARCHED_ROWS", 150)
    found = run_job(make_set("long", *long_groups(300)), **{**AUTO, "clusters": 40})
    assert found.spec["picked"]["rows"] == 150
    assert [each["k"] for each in found.spec["picked"]["tried"]] == [15] * 4
    assert found.spec["k"] == 40


@pytest.mark.parametrize("out_of_core", [False, True])
def test_a_stopped_job_keeps_the_options_that_it_tried(
    make_set: MakeSet, run_job: RunJob, store: Store, settings: Settings, out_of_core: bool
) -> None:
    embeddings = make_set("long", *long_groups(300))
    undisturbed = run_job(embeddings, **AUTO)
    request = {"embeddings": embeddings, **AUTO}
    if out_of_core:
        problem = problem_of([make_plan(store, ClusterRequest.model_validate(request), deadline=None)])
        request["memory_limit"] = problem.other_bytes

    def stop(progress: Progress) -> None:
        if progress.stage == "pick" and progress.done >= 2:
            context.stop()

    context = JobContext.local(request, kind="cluster", on_progress=stop)
    with pytest.raises(Cancelled):
        pipeline.run(context, settings)
    work = store.layout.work(f"c-{context.id}")
    before = {each.name: each.stat().st_mtime_ns for each in work.glob("tried-*.npz")}
    assert len(before) >= 2  # Not every step is reported.

    def look(progress: Progress) -> None:
        if progress.stage == "kmeans":
            after.update({each.name: each.stat().st_mtime_ns for each in work.glob("tried-*.npz")})

    after: dict[str, int] = {}
    again = JobContext.local(request, kind="cluster", attempt=2, on_progress=look)
    again.id = context.id
    found = store.clustering(pipeline.run(again, settings)["clustering"])
    assert len(after) == 4
    assert before.items() <= after.items()
    assert picked(found) == picked(undisturbed)
    assert clusters_of(found) == clusters_of(undisturbed)


def test_equal_rows_and_few_rows_are_picked_for(make_set: MakeSet, run_job: RunJob) -> None:
    rows = np.eye(8, dtype=np.float32)[np.arange(12) % 3]
    found = run_job(make_set("equal", rows), clusters=3, reduce="auto", seed=0)
    assert len({*clusters_of(found)}) == 3
    assert found.spec["picked"]["why"].endswith("keeps as many; of equals the simplest is picked.")
    assert run_job(make_set("two", rows[:2]), clusters=2, reduce="auto", seed=0).spec["picked"]["rows"] == 2


def test_spherical_k_means_is_not_tried_with_umap(make_set: MakeSet, store: Store) -> None:
    request = {"embeddings": make_set("long", *long_groups(60)), **AUTO, "kmeans": {"spherical": True}}
    plan = make_plan(store, ClusterRequest.model_validate(request), deadline=None)
    assert [each and each.method for each in plan.tried] == [None, "smooth", "spectral"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"method": "temi"}, "compares options of k-means"), ({"spaces": ["b"]}, "the rows of one model")],
)
def test_what_cannot_be_tried_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ClusterRequest.model_validate({"embeddings": "a", **AUTO, **fields})


def test_neither_a_sweep_nor_a_cluster_of_machines_takes_it(make_set: MakeSet, store: Store) -> None:
    for fields, name in (({"reduce": [None, "auto"]}, "reduce"), ({"clusters": "auto"}, "clusters")):
        with pytest.raises(ValidationError, match=f"a sweep does not support `{name}`: `auto`"):
            SweepRequest.model_validate({"embeddings": "a", "clusters": 3, **fields})
    request = {"embeddings": make_set("a", *long_groups(60)), **AUTO, "execution": {"engine": "ray", "workers": 2}}
    with pytest.raises(InvalidRequest, match="`reduce`"):
        make_plan(store, ClusterRequest.model_validate(request), deadline=None)

"""Comparing two clusterings: which rows they share, and what became of the clusters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from clusterer.api.clusterings import build
from clusterer.evaluation.contingency import contingency
from clusterer.evaluation.overlap import Side, transposed
from clusterer.results.compare import compare
from clusterer.results.flows import flow
from fastapi.testclient import TestClient
from shoal.errors import NoSharedRows
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]


def test_the_best_counterparts_splits_and_merges_of_a_small_table() -> None:
    #           of a: 0 is kept as 1, 1 is split into 0 and 2, 2 and 3 are merged into 3, 4 has no rows.
    a = np.repeat([0, 1, 1, 2, 3, 3], [10, 6, 4, 8, 5, 1])
    b = np.repeat([1, 0, 2, 3, 3, 1], [10, 6, 4, 8, 5, 1])
    table = contingency(a, b, 5, 4)
    before, after = Side.of(table), Side.of(transposed(table))
    assert before.best.tolist() == [1, 0, 3, 3, -1]
    assert before.shared.tolist() == [10, 6, 8, 5, 0]
    assert before.jaccard.tolist() == pytest.approx([10 / 11, 0.6, 8 / 13, 5 / 14, 0])
    assert before.parts.tolist() == [1, 2, 1, 2, 0]
    assert before.split.tolist() == [1, 3]
    assert after.split.tolist() == [3]
    assert (before.kept, before.dissolved) == (1, 1)
    assert [each.tolist() for each in after.cells_of(3, 1)] == [[2], [8]]
    assert [each.tolist() for each in after.cells_of(3, 9)] == [[2, 3], [8, 5]]


def test_figures_are_those_of_scikit_learn_over_the_shared_rows(
    planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    train, val = make_set("train", *planted(spread=2.0)), make_set("val", *planted(90, seed=9, spread=2.0))
    one = run_job({"train": train, "score": [train, val]}, clusters=4, seed=0)
    other = run_job({"train": val, "score": [val]}, clusters=7, seed=1)
    found = compare(one, other, sort="changed", limit=3)
    a, b = (each.assignments(val).column("cluster").to_numpy() for each in (one, other))
    assert (found["rows"], found["embeddings"], found["matched_by"]) == (90, [val], "row")
    assert found["ari"] == pytest.approx(adjusted_rand_score(a, b))
    assert found["ami"] == pytest.approx(adjusted_mutual_info_score(a, b))
    assert found["nmi_arithmetic"] == pytest.approx(normalized_mutual_info_score(a, b))
    assert not found["same"]
    assert [len(found[name]) for name in ("clusters", "cells")] == [3, 3]
    least = found["clusters"][0]
    ours, theirs = a == least["cluster"], b == least["best"]
    assert least["jaccard"] == np.count_nonzero(ours & theirs) / np.count_nonzero(ours | theirs)
    assert (least["size"], least["shared"]) == (np.count_nonzero(ours), np.count_nonzero(ours & theirs))
    assert least["jaccard"] <= found["clusters"][1]["jaccard"]
    sizes = [each["size"] for each in compare(one, other, sort="size", limit=9)["clusters"]]
    assert sizes == sorted(sizes, reverse=True)

    itself = compare(one, one, sort="changed", limit=100)
    assert (itself["rows"], itself["same"], itself["ari"]) == (330, True, 1)
    assert itself["a"]["kept"] == itself["b"]["kept"] == 4
    assert itself["split"] == itself["merged"] == {"total": 0, "clusters": []}


def test_rows_of_other_embeddings_are_matched_by_image(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Any
) -> None:
    vectors, labels = planted()
    one = run_job(make_set("mine", vectors, labels), clusters=4, seed=0)
    # The same paths, of which some are missing, in another set.
    other = run_job(make_set("mine", vectors[40:] * 2, labels[40:], shard_rows=77), clusters=4, seed=0)
    by_id = dict(zip(*(other.assignments().column(name).to_pylist() for name in ("image_id", "cluster")), strict=True))
    pairs = [
        (row["cluster"], by_id[row["image_id"]]) for row in one.assignments().to_pylist() if row["image_id"] in by_id
    ]
    found = compare(one, other, sort="changed", limit=100)
    assert (found["matched_by"], found["embeddings"], found["rows"]) == ("image_id", [], len(pairs))
    cells = {(each["a"], each["b"]): each["rows"] for each in found["cells"]}
    assert cells == {pair: pairs.count(pair) for pair in set(pairs)}


def test_clusterings_without_a_common_row_are_refused(planted: Planted, make_set: MakeSet, run_job: RunJob) -> None:
    one, other = (run_job(make_set(name, *planted()), clusters=4, seed=0) for name in ("mine", "yours"))
    with pytest.raises(NoSharedRows, match="share no rows"):
        compare(one, other, sort="changed", limit=1)


def test_the_rows_of_a_flow_are_those_of_its_cell(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store, settings: Settings, queue: JobQueue
) -> None:
    train, val = make_set("train", *planted(spread=2.0)), make_set("val", *planted(90, seed=9, spread=2.0))
    one = run_job({"train": train, "score": [train, val]}, clusters=4, seed=0)
    other = run_job({"train": train, "score": [train, val]}, clusters=7, seed=1)
    cell = compare(one, other, sort="changed", limit=1)["cells"][0]
    chosen = (cell["a"], cell["b"])
    total, rows = flow(store, (one, other), chosen, start=0, limit=1000)
    assert total == cell["rows"] == len(rows)
    parts = [flow(store, (one, other), chosen, start=start, limit=7)[1] for start in range(0, total, 7)]
    assert [row for part in parts for row in part] == rows
    assert {row["embeddings"] for row in rows} == {train, val}
    a, b = (each.assignments(val).column("cluster").to_numpy() for each in (one, other))
    of_val = [row["row"] for row in rows if row["embeddings"] == val]
    assert of_val == np.flatnonzero((a == chosen[0]) & (b == chosen[1])).tolist()
    assert rows[-1]["image_path"] == f"val/{of_val[-1]:05d}.png"
    again = run_job(make_set("copy", *planted(spread=2.0)), clusters=5, seed=0)
    with TestClient(build(settings, queue, store)) as api:
        params = {"a": chosen[0], "b": chosen[1], "limit": 2}
        page = api.get(f"/clusterings/{one.id}/compare/{other.id}/rows", params=params).json()
        assert (page["total"], page["rows"], page["next_cursor"]) == (total, rows[:2], "2")
        wrong = api.get(f"/clusterings/{one.id}/compare/{other.id}/rows", params={"a": 4, "b": 0})
        assert wrong.json()["code"] == "cluster_not_found"
        assert api.get(f"/clusterings/{one.id}/compare/{again.id}/rows", params={"a": 0, "b": 0}).json()["total"] == 0
        found = api.get(f"/clusterings/{one.id}/places", params={"rows": "5,1,9999", "embeddings": val}).json()
        assert [(each["row"], each["cluster"]) for each in found["places"]] == [(1, a[1]), (5, a[5])]
        assert api.get(f"/clusterings/{one.id}/places", params={"rows": "1,x"}).status_code == 422

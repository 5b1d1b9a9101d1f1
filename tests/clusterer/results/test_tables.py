"""Tables by class and by cluster, counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from clusterer.evaluation.contingency import contingency
from clusterer.results.tables import Scored, classes_table, confusion_table, extremes
from shoal.store.clustering import Clustering

# Cluster 0: a a a b; cluster 1: b b; cluster 2: a a; class c has no row.
TABLE = contingency([0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 0, 0], 4, 3)
NAMES = ["a", "b", "c"]
SCORED = Scored("mine-1", TABLE, NAMES, TABLE, NAMES, None)


def test_classes_show_their_rows_clusters_and_accuracies() -> None:
    rows = classes_table(SCORED).to_pylist()
    assert [(row["label"], row["rows"], row["clusters"]) for row in rows] == [("a", 5, 2), ("b", 3, 2)]
    assert rows[0]["top_clusters"] == [{"cluster": 0, "count": 3}, {"cluster": 2, "count": 2}]
    # One to one, cluster 2 has no class left; by majority it is an a.
    assert [row["accuracy_hungarian"] for row in rows] == [pytest.approx(3 / 5), pytest.approx(2 / 3)]
    assert [row["accuracy_majority"] for row in rows] == [1.0, pytest.approx(2 / 3)]


def test_the_confusion_matrix_counts_rows_without_a_predicted_class_too() -> None:
    cells = {
        (row["rule"], row["predicted"], row["actual"]): row["count"] for row in confusion_table(SCORED).to_pylist()
    }
    assert cells == {
        ("hungarian", None, "a"): 2,
        ("hungarian", "a", "a"): 3,
        ("hungarian", "a", "b"): 1,
        ("hungarian", "b", "b"): 2,
        ("majority", "a", "a"): 5,
        ("majority", "a", "b"): 1,
        ("majority", "b", "b"): 2,
    }


def test_a_single_row_is_no_best_cluster_where_there_are_larger_ones() -> None:
    def row(cluster: int, size: int, purity: float) -> dict[str, Any]:
        facts = {"cluster": cluster, "size": size, "purity": purity, "tightness": 1.0, "majority": "a"}
        return {**facts, "nearest": [cluster], "top_classes": []}

    table = pa.Table.from_pylist([row(0, 1, 1.0), row(1, 9, 0.5), row(2, 8, 0.9), row(3, 7, 0.9)])
    found = extremes(table, pa.chunked_array([["i0", "i1", "i2", "i3"]]))
    assert [each["cluster"] for each in found["best_clusters"]] == [2, 3, 1]
    assert [each["cluster"] for each in found["worst_clusters"]] == [1, 3, 2]
    assert found["best_clusters"][0]["image_ids"] == ["i2"]


def test_a_job_leaves_tables_that_agree_with_its_metrics(
    planted: Callable[..., Any], make_set: Callable[..., str], run_job: Callable[..., Clustering]
) -> None:
    vectors, labels = planted(120, spread=1.2)
    embeddings = make_set("mine", vectors, labels)
    found = run_job(embeddings, clusters=6, seeds=[0, 1])
    scored = found.metrics()["scored"][embeddings]
    best = scored["seeds"][str(found.spec["best_seed"])]
    classes = found.classes().to_pylist()
    for rule in ("hungarian", "majority"):
        right = sum(row[f"accuracy_{rule}"] * row["rows"] for row in classes)
        assert right / 120 == pytest.approx(best["accuracy"][rule]["train"])
        cells = found.confusion(rule=rule).to_pylist()
        assert sum(cell["count"] for cell in cells) == 120
        agreed = sum(cell["count"] for cell in cells if cell["predicted"] == cell["actual"])
        assert agreed / 120 == pytest.approx(best["accuracy"][rule]["train"])
    clusters = found.clusters().to_pylist()
    assert all(row["top_classes"][0]["label"] == row["majority"] for row in clusters if row["size"])
    ids = set(found.assignments().column("image_id").to_pylist())
    assert {each for row in scored["worst_clusters"] for each in row["image_ids"]} <= ids
    assert len(scored["stability"]["pairs"]) == 1

"""`shoal sweep` and `shoal reproduce`: their own logic."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from shoal import paper
from shoal.cli import sweep
from shoal.errors import InvalidRequest
from shoal.schemas import SweepRequest


def test_lists_and_sets_are_read_from_words() -> None:
    assert sweep.numbers("10, 20", int, "--clusters") == [10, 20]
    assert sweep.numbers(None, int, "--clusters") is None
    with pytest.raises(InvalidRequest, match="--over is a comma-separated list"):
        sweep.numbers("1,x", float, "--over")
    assert sweep.parse_sets("a-1") == "a-1"
    assert sweep.parse_sets("a-1:b-1:c-1") == {"train": "a-1", "score": ["b-1", "c-1"]}


@pytest.mark.parametrize("study", list(sweep.Study))
def test_a_study_becomes_a_valid_request_within_what_the_embeddings_have(study: sweep.Study) -> None:
    fields = sweep.study_fields(study, [{"dim": 1280, "rows": 20_000, "classes": 10}])
    request = SweepRequest.model_validate({"embeddings": "a-1", "reference": str(study), **fields})
    points = request.points()
    assert len(points) == {"pca-ablation": 8, "over-clustering": 9, "models": 1}[study]
    kept = [point.pca.components for point in points if point.pca]
    assert kept == ([16, 32, 64, 128, 256, 512, 1024, 1280] if study is sweep.Study.PCA else [])
    with pytest.raises(InvalidRequest, match="labels"):
        sweep.study_fields(study, [{"dim": 8, "rows": 9, "classes": None}])


def test_the_tables_show_what_varies_with_its_spread() -> None:
    row = {
        "model": "m",
        "scored": "val-1",
        "normalize": True,
        "components": None,
        "whiten": False,
        "over": 1.5,
        "k": 15,
        "accuracy_hungarian_train": 0.5,
        "accuracy_hungarian_train_std": 0.01,
        "accuracy_mixed_train": None,
        "ari": 0.25,
        "ari_std": None,
        "ami": None,
        "silhouette": None,
        "linear_probe": None,
    }
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(sweep.sweep_table([row, {**row, "components": 16}]))
    console.print(sweep.paper_table(sweep.Study.OVER))
    console.print(sweep.differences_table())
    text = console.export_text()
    assert "0.500 ± 0.010" in text
    assert "all" in text
    assert "val-1" not in text
    assert "46.15" in text
    assert "mini-batch" in text.lower()


def test_the_papers_figures_are_whole() -> None:
    assert [point.x for point in paper.pca_ablation()] == list(sweep.PCA_GRID)
    assert [point.x for point in paper.over_clustering()] == list(sweep.OVER_GRID)
    assert len(paper.models()) == 8
    assert all(each.why for each in paper.differences())

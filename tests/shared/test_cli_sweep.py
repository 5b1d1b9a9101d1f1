"""`shoal sweep` and `shoal reproduce`: their own logic."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from rich.console import Console
from shoal import __version__, paper
from shoal.cli import sweep
from shoal.errors import InvalidRequest
from shoal.schemas import Job, JobPage, SweepRequest


def test_lists_and_sets_are_read_from_words() -> None:
    assert sweep.numbers("10, 20", int, "--clusters") == [10, 20]
    assert sweep.numbers(None, int, "--clusters") is None
    with pytest.raises(InvalidRequest, match="`--over` takes a comma-separated list"):
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


class Service:
    """A client of a service with these sweep jobs, newest first, all of whose sweeps are complete but one."""

    def __init__(self, *jobs: Job) -> None:
        self._jobs = list(jobs)

    def jobs(self, **_: Any) -> JobPage:
        return JobPage(jobs=self._jobs)

    def sweeps(self) -> list[dict[str, Any]]:
        return [
            {
                "id": f"s-{job.id}",
                "complete": job.id != "torn",
                "version": "0.0.1" if job.id == "ancient" else __version__,
            }
            for job in self._jobs
        ]


def job_of(job_id: str, state: str, request: dict[str, Any]) -> Job:
    made = {"id": job_id, "kind": "sweep", "state": state, "created_at": datetime.now(UTC), "request": request}
    return Job.model_validate({**made, "result": {"sweep": f"s-{job_id}"} if state == "succeeded" else None})


def test_a_repeated_command_finds_the_sweep_that_it_started() -> None:
    fields = {"over": [1.0, 2.0], "normalize": True, "clusters": None, "seeds": [0, 1, 2]}
    same = {"embeddings": "a-1", "over": [1.0, 2.0], "seeds": [0, 1, 2]}
    other = {**same, "seeds": [0, 1, 3]}
    failed, torn = job_of("bad", "failed", same), job_of("torn", "succeeded", same)
    ancient = job_of("ancient", "succeeded", same)
    for state in ("queued", "running", "succeeded"):
        service: Any = Service(job_of("other", state, other), failed, torn, job_of("mine", state, same))
        found = sweep.same_sweep(service, ["a-1"], fields)
        assert found is not None
        assert found.id == "mine"
    given_up = job_of("mine", "running", same).model_copy(update={"cancel_requested": True})
    older = job_of("old", "succeeded", {**same, "colour": "red"})
    assert sweep.same_sweep(cast(Any, Service(failed, torn, given_up, older, ancient)), ["a-1"], fields) is None
    assert sweep.same_sweep(cast(Any, Service(job_of("mine", "running", same))), ["a-1"], {"over": [-1.0]}) is None


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


def test_a_point_without_groups_has_its_error_in_the_table() -> None:
    figures = {"accuracy_hungarian_train": 0.5, "ari": 0.25, "ami": 0.3, "silhouette": 0.1}
    known = {"method": "kmeans", "k": 3, "scored": "a", **figures}
    failed = {
        "method": "hdbscan",
        "k": None,
        "scored": None,
        "error_code": "clusters_invalid",
        "error_message": "None.",
    }
    rows = [{**dict.fromkeys(key for key, _ in sweep.SHOWN), **row} for row in (known, failed)]
    rows[1]["error_message"] = "None found."
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(sweep.sweep_table(rows))
    lines = [line.split() for line in console.export_text().splitlines()]
    first, second = [line for line in lines if line and line[0] in {"kmeans", "hdbscan"}]
    assert (first[0], first[1], second[0], second[-1]) == ("kmeans", "0.500", "hdbscan", "found.")


def test_the_papers_figures_are_whole() -> None:
    assert [point.x for point in paper.pca_ablation()] == list(sweep.PCA_GRID)
    assert [point.x for point in paper.over_clustering()] == list(sweep.OVER_GRID)
    assert len(paper.models()) == 8
    assert all(each.why for each in paper.differences())

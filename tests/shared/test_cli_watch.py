"""Following a job on the command line: what it waits for is said, once."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress
from shoal.cli import output
from shoal.errors import QueueUnavailable, ShoalError
from shoal.schemas import Job, JobPage

QUEUED = Job.model_validate(
    {
        "id": "j1",
        "kind": "extract:tfserving",
        "state": "queued",
        "created_at": "2026-01-01T00:00:00Z",
        "request": {},
        "waiting_for": "No worker for extract:tfserving is running. Start one.",
    }
)


class Client:
    """Answers with a queued job, an outage, and the end."""

    def wait(self, job: Job, show: Callable[[Job], None], *, on_outage: Callable[[ShoalError], None]) -> Job:
        for _ in range(3):
            show(QUEUED)
            on_outage(QueueUnavailable("The queue is away."))
        return job

    def jobs(self, **_: Any) -> JobPage:
        return JobPage(jobs=[])


def test_a_missing_worker_and_an_outage_are_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "WORKER_START_S", -1.0)
    printed = StringIO()
    progress = Progress(console=Console(file=printed, width=200))
    output.watch_job(Client(), QUEUED, progress)  # type: ignore[arg-type]
    lines = printed.getvalue().splitlines()
    assert lines.count("j1 is queued: No worker for extract:tfserving is running. Start one.") == 1
    assert lines.count("The service does not answer; retrying: The queue is away.") == 1


def test_how_busy_the_stages_of_an_extraction_are_stands_beside_its_rate() -> None:
    assert output.busy_stages({"busy": {"decode": 0.984, "network": 0.4, "write": 0.0}}) == (
        "decode 98% network 40% write 0%"
    )
    assert output.busy_stages({"inertia": 3.0}) == output.busy_stages(None) == ""

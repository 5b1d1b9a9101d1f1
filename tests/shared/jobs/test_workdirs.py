"""What a job keeps for its next attempt is gone when there will be none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from shoal.jobs import worker as module
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.jobs.worker import Worker
from shoal.settings import Settings
from shoal.store import Store
from shoal.web import create_app

from tests.conftest import MakeJobFile, WaitUntil


@pytest.fixture
def work(tmp_path: Path) -> Callable[[str], Path]:
    """``work(job)``: the working folder of a clustering job, with something in it."""

    def make(job_id: str, prefix: str = "c") -> Path:
        folder = Store(tmp_path / "store").layout.work(f"{prefix}-{job_id}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.f32").write_bytes(b"x" * 1000)
        return folder

    return make


@pytest.fixture
def start(run_worker: Callable[..., Worker], tmp_path: Path) -> Callable[[], Worker]:
    return lambda: run_worker(tmp_path / "store", beat_s=0.2, kill_grace_s=0.2)


@pytest.mark.parametrize("end", ["fail", "crash", "cancel", "finish"])
def test_the_worker_that_ends_a_job_removes_its_work(
    queue: JobQueue,
    start: Callable[[], Worker],
    work: Callable[..., Path],
    job_file: MakeJobFile,
    wait_until: WaitUntil,
    end: str,
) -> None:
    file = job_file()
    do = {"fail": "fail", "crash": "crash"}.get(end, "wait")
    job, _ = queue.submit("work", file.request(do, error="known"))
    other, _ = queue.submit("elsewhere", {})
    mine, sweep, theirs, unknown = work(job.id), work(job.id, "s"), work(other.id), work("0123456789abcdef")
    start()
    if end in {"cancel", "finish"}:
        wait_until(lambda: file.lines("start"))
        assert mine.exists()
        queue.cancel(job.id) if end == "cancel" else file.let_go()
    wait_until(lambda: not mine.exists() and not sweep.exists())
    assert queue.get(job.id).state.terminal
    assert (theirs.exists(), unknown.exists()) == (True, True)


def test_a_job_that_will_be_tried_again_keeps_its_work(
    queue: JobQueue,
    start: Callable[[], Worker],
    work: Callable[..., Path],
    job_file: MakeJobFile,
    wait_until: WaitUntil,
) -> None:
    file = job_file()
    job, _ = queue.submit("work", file.request("wait"))
    mine = work(job.id)
    worker = start()
    wait_until(lambda: file.lines("start"))
    worker.stop()
    wait_until(lambda: queue.get(job.id).state is JobState.QUEUED)
    assert mine.exists()


def test_a_job_cancelled_while_it_waits_for_its_next_attempt_leaves_nothing(
    queue: JobQueue, work: Callable[..., Path], tmp_path: Path
) -> None:
    job, _ = queue.submit("work", {})
    queue.hand_back(queue.claim(["work"], "worker"))
    mine, other = work(job.id), work("0123456789abcdef")
    settings = Settings(store=tmp_path / "store")
    app = create_app(service="test", routers=[], kinds=["work"], settings=settings, queue=queue)
    assert TestClient(app).delete(f"/jobs/{job.id}").status_code == 202
    assert (mine.exists(), other.exists()) == (False, True)


def test_an_idle_worker_removes_what_jobs_left_that_no_worker_ended(
    queue: JobQueue,
    start: Callable[[], Worker],
    work: Callable[..., Path],
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CLEAN_PERIOD_S", 0.1)
    start()
    job, _ = queue.submit("elsewhere", {})
    mine = work(job.id)
    queue.cancel(job.id)
    wait_until(lambda: not mine.exists())

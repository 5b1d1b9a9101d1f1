"""Attempts that get further do not count; those that crash at the same place again and again do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState

from tests.conftest import MakeJobFile, RunWorker, WaitUntil
from tests.shared.jobs.conftest import Bench

PROBLEM = {"code": "worker_died", "detail": "x"}


@pytest.fixture
def crash(bench: Bench) -> Callable[[int | None], JobState]:
    """``crash(mark)``: one attempt that keeps ``mark``, then fails; returns the job's state."""

    def once(mark: int | None) -> JobState:
        bench.pass_time(600)
        claim = bench.queue.claim(["work"], "worker")
        if mark is not None:
            assert bench.queue.advance(claim, mark)
        assert bench.queue.fail(claim, PROBLEM, retry=True)
        return bench.queue.get(claim.job.id).state

    return once


def test_a_job_that_gets_further_each_time_outlives_any_number_of_crashes(
    bench: Bench, crash: Callable[[int | None], JobState]
) -> None:
    bench.queue.submit("work", {})
    assert [crash(9 * attempt) for attempt in range(1, 8)] == [JobState.QUEUED] * 7
    assert [crash(None), crash(None), crash(None)] == [JobState.QUEUED, JobState.QUEUED, JobState.FAILED]


def test_doing_the_same_again_is_no_progress(bench: Bench, crash: Callable[[int | None], JobState]) -> None:
    bench.queue.submit("work", {})
    assert crash(5) is JobState.QUEUED
    assert [crash(5), crash(4), crash(5)] == [JobState.QUEUED, JobState.QUEUED, JobState.FAILED]


def test_a_worker_that_dies_with_its_machine_loses_no_credit(bench: Bench) -> None:
    job, _ = bench.queue.submit("work", {}, max_attempts=1)
    for mark in (1, 2):
        claim = bench.queue.claim(["work"], "worker")
        bench.queue.advance(claim, mark)
        assert bench.pass_time(11) == [job.id]
    assert bench.queue.get(job.id).state is JobState.QUEUED
    bench.queue.claim(["work"], "worker")
    bench.pass_time(11)
    assert bench.queue.get(job.id).state is JobState.FAILED


def test_an_attempt_that_is_handed_back_keeps_its_credit_and_is_not_counted(
    bench: Bench, crash: Callable[[int | None], JobState]
) -> None:
    bench.queue.submit("work", {})
    crash(None)
    crash(None)
    bench.pass_time(600)
    claim = bench.queue.claim(["work"], "worker")
    bench.queue.advance(claim, 1)
    bench.queue.hand_back(claim)
    assert [crash(None), crash(None), crash(None)] == [JobState.QUEUED, JobState.QUEUED, JobState.FAILED]


def test_who_lost_the_job_can_say_nothing_about_it(bench: Bench) -> None:
    job, _ = bench.queue.submit("work", {})
    claim = bench.queue.claim(["work"], "worker")
    bench.pass_time(11)
    assert not bench.queue.advance(claim, 99)
    assert bench.queue.get(job.id).state is JobState.QUEUED


def test_the_last_attempt_is_named_by_its_number(bench: Bench, crash: Callable[[int | None], JobState]) -> None:
    bench.queue.submit("work", {})
    crash(1)
    bench.pass_time(600)
    claim = bench.queue.claim(["work"], "worker")
    assert (claim.attempt, claim.max_attempts, claim.failed_in_a_row) == (2, 4, 0)


def test_a_job_crashes_three_times_at_the_same_place_after_it_got_there(
    queue: JobQueue, run_worker: RunWorker, job_file: MakeJobFile, wait_until: WaitUntil
) -> None:
    run_worker()
    file = job_file()
    job, _ = queue.submit("work", file.request("advance", places=[3, 6, 9, 9, 9, 9]))
    wait_until(lambda: queue.get(job.id).state.terminal)
    ended = queue.get(job.id)
    assert (ended.state, ended.error["code"], ended.attempt) == (JobState.FAILED, "worker_died", 6)
    assert "in attempt 6 of 6" in ended.error["detail"]


def test_a_job_written_before_attempts_were_told_apart_still_has_three(
    bench: Bench, crash: Callable[[int | None], JobState], redis_client: redis.Redis
) -> None:
    job, _ = bench.queue.submit("work", {})
    assert b"credited" not in redis_client.hgetall(f"shoal:job:{job.id}")
    assert [crash(None), crash(None), crash(None)] == [JobState.QUEUED, JobState.QUEUED, JobState.FAILED]

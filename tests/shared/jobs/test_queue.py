"""The contract of the queue: what each transition does, and to whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from shoal.errors import IdempotencyConflict, InvalidRequest, JobFinished, JobNotFound, QueueUnavailable
from shoal.jobs.claims import Claim
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.schemas import Progress

from tests.shared.jobs.conftest import Bench

PROBLEM = {"type": "urn:shoal:error:job_failed", "title": "job failed", "status": 500, "detail": "x", "code": "x"}


def claim(queue: JobQueue, kind: str = "work") -> Claim:
    taken = queue.claim([kind], "worker")
    assert taken is not None
    return taken


def test_submitted_job_waits_as_it_was_sent(queue: JobQueue) -> None:
    job, created = queue.submit("extract:torch", {"model": "größe", "k": [1, 2.5, None]})
    assert created
    assert queue.get(job.id) == job
    assert job.state is JobState.QUEUED
    assert job.kind == "extract:torch"
    assert job.request == {"model": "größe", "k": [1, 2.5, None]}
    assert (job.attempt, job.cancel_requested, job.progress, job.result, job.error) == (0, False, None, None, None)
    assert abs(job.created_at - datetime.now(UTC)) < timedelta(minutes=5)


@pytest.mark.parametrize("kind", ["", "Work", "a b", "*", "x" * 65])
def test_kind_must_be_a_plain_name(queue: JobQueue, kind: str) -> None:
    with pytest.raises(ValueError, match="kind"):
        queue.submit(kind, {})


def test_unknown_job_is_not_found(queue: JobQueue) -> None:
    for ask in (queue.get, queue.cancel, queue.version):
        with pytest.raises(JobNotFound, match="no-such-job"):
            ask("no-such-job")


def test_claim_takes_the_oldest_of_the_first_kind_that_has_one(queue: JobQueue) -> None:
    first, _ = queue.submit("a", {})
    second, _ = queue.submit("b", {})
    third, _ = queue.submit("a", {})
    queue.submit("other", {})
    taken = [queue.claim(["b", "a"], "worker") for _ in range(4)]
    assert [c and c.job.id for c in taken] == [second.id, first.id, third.id, None]


def test_claimed_job_runs(queue: JobQueue) -> None:
    job, _ = queue.submit("work", {"x": 1}, max_attempts=5)
    taken = claim(queue)
    assert (taken.attempt, taken.max_attempts, taken.checkpoint) == (1, 5, None)
    assert taken.owner.startswith("worker.")
    assert taken.job.request == {"x": 1}
    running = queue.get(job.id)
    assert running.state is JobState.RUNNING
    assert running.attempt == 1
    assert running.started_at >= running.created_at
    assert running.finished_at is None


def test_success_ends_with_the_result(queue: JobQueue) -> None:
    job, _ = queue.submit("work", {})
    assert queue.succeed(claim(queue), {"rows": 3, "path": "\udcff"})
    ended = queue.get(job.id)
    assert ended.state is JobState.SUCCEEDED
    assert ended.result == {"rows": 3, "path": "\udcff"}
    assert ended.finished_at >= ended.started_at


def test_final_failure_ends_with_the_problem(queue: JobQueue) -> None:
    job, _ = queue.submit("work", {})
    assert queue.fail(claim(queue), PROBLEM, retry=False)
    ended = queue.get(job.id)
    assert (ended.state, ended.error, ended.attempt) == (JobState.FAILED, PROBLEM, 1)


def test_passing_failure_is_tried_again_after_growing_pauses(bench: Bench) -> None:
    job, _ = bench.queue.submit("work", {})
    for attempt, pause in ((1, 4.0), (2, 8.0)):
        taken = claim(bench.queue)
        assert taken.attempt == attempt
        assert bench.queue.fail(taken, PROBLEM, retry=True)
        waiting = bench.queue.get(job.id)
        assert (waiting.state, waiting.error, waiting.last_error) == (JobState.QUEUED, None, PROBLEM)
        bench.jump(pause - 1)
        assert bench.queue.claim(["work"], "w") is None
        bench.jump(1)
    assert bench.queue.fail(claim(bench.queue), PROBLEM, retry=True)
    assert bench.queue.get(job.id).state is JobState.FAILED
    assert bench.queue.get(job.id).error == PROBLEM


def test_job_handed_back_is_next_and_has_not_used_an_attempt(queue: JobQueue) -> None:
    job, _ = queue.submit("work", {})
    queue.submit("work", {})
    for _ in range(5):
        taken = claim(queue)
        assert (taken.job.id, taken.attempt) == (job.id, 1)
        assert queue.hand_back(taken)
        assert queue.get(job.id).state is JobState.QUEUED


def test_jobs_taken_back_wait_for_no_lease_and_their_old_workers_are_fenced(queue: JobQueue) -> None:
    job, _ = queue.submit("work", {})
    cancelled, _ = queue.submit("work", {})
    for _ in range(5):
        old, _ = claim(queue), claim(queue)
        queue.cancel(cancelled.id)
        assert job.id in queue.take_back()
        assert queue.get(job.id).state is JobState.QUEUED
        assert queue.get(cancelled.id).state is JobState.CANCELLED
        taken = claim(queue)
        assert (taken.job.id, taken.attempt) == (job.id, 1)
        assert not queue.succeed(old, {})
        queue.hand_back(taken)
        cancelled, _ = queue.submit("work", {})
    assert queue.take_back() == []


def test_renewal_carries_progress(queue: JobQueue) -> None:
    job, _ = queue.submit("work", {})
    taken = claim(queue)
    progress = Progress(stage="embed", done=3, total=10, unit="images", rate=1.5, eta_s=4.7)
    renewal = queue.renew(taken, progress)
    assert (renewal.held, renewal.cancel_requested) == (True, False)
    assert queue.get(job.id).progress == progress


def test_version_grows_with_every_change_and_only_then(queue: JobQueue) -> None:
    job, _ = queue.submit("work", {})
    progress = Progress(stage="embed", done=3)
    versions = [queue.version(job.id)]
    taken = claim(queue)
    versions.append(queue.version(job.id))
    queue.renew(taken, progress)
    versions.append(queue.version(job.id))
    queue.cancel(job.id)
    versions.append(queue.version(job.id))
    queue.cancelled(taken)
    versions.append(queue.version(job.id))
    assert versions == sorted(set(versions))


def test_version_stands_still_when_nothing_changes(queue: JobQueue) -> None:
    job, _ = queue.submit("work", {})
    taken = claim(queue)
    queue.renew(taken, Progress(stage="embed", done=3))
    before = queue.version(job.id)
    queue.renew(taken, Progress(stage="embed", done=3))
    queue.renew(taken)
    queue.get(job.id)
    assert queue.version(job.id) == before


def test_next_attempt_gets_the_checkpoint(bench: Bench) -> None:
    bench.queue.submit("work", {})
    first = claim(bench.queue)
    assert bench.queue.save_checkpoint(first, {"shard": 4})
    bench.queue.hand_back(first)
    assert claim(bench.queue).checkpoint == {"shard": 4}


def test_cancelling_a_queued_job_ends_it(queue: JobQueue) -> None:
    """Fails without: the end of a waiting job when it is cancelled."""
    job, _ = queue.submit("work", {})
    assert queue.cancel(job.id).state is JobState.CANCELLED
    assert queue.claim(["work"], "worker") is None
    assert queue.depths() == {"work": 0}


def test_cancelling_a_running_job_asks_its_worker(queue: JobQueue) -> None:
    job, _ = queue.submit("work", {})
    taken = claim(queue)
    for _ in range(2):
        asked = queue.cancel(job.id)
        assert (asked.state, asked.cancel_requested) == (JobState.RUNNING, True)
    assert queue.renew(taken).cancel_requested
    assert queue.cancelled(taken)
    assert queue.get(job.id).state is JobState.CANCELLED


@pytest.mark.parametrize("end", ["succeed", "fail", "cancelled"])
def test_cancelling_an_ended_job_is_refused(queue: JobQueue, end: str) -> None:
    job, _ = queue.submit("work", {})
    taken = claim(queue)
    {
        "succeed": lambda: queue.succeed(taken, {}),
        "fail": lambda: queue.fail(taken, PROBLEM, retry=False),
        "cancelled": lambda: queue.cancelled(taken),
    }[end]()
    with pytest.raises(JobFinished, match=job.id):
        queue.cancel(job.id)


@pytest.mark.parametrize("way", ["hand_back", "fail", "reap"])
def test_job_asked_to_cancel_is_never_queued_again(bench: Bench, way: str) -> None:
    """Fails without: the look at the wish to cancel before a job is queued again."""
    job, _ = bench.queue.submit("work", {})
    taken = claim(bench.queue)
    bench.queue.cancel(job.id)
    if way == "hand_back":
        bench.queue.hand_back(taken)
    elif way == "fail":
        bench.queue.fail(taken, PROBLEM, retry=True)
    else:
        bench.pass_time(11)
    assert bench.queue.get(job.id).state is JobState.CANCELLED


def test_lost_lease_gives_the_job_to_the_next_worker(bench: Bench) -> None:
    job, _ = bench.queue.submit("work", {})
    claim(bench.queue)
    assert bench.pass_time(9) == []
    assert bench.pass_time(2) == [job.id]
    lost = bench.queue.get(job.id)
    assert (lost.state, lost.last_error and lost.last_error["code"]) == (JobState.QUEUED, "worker_died")
    second = claim(bench.queue)
    assert second.attempt == 2
    bench.queue.succeed(second, {})
    assert bench.queue.get(job.id).last_error == lost.last_error


def test_renewed_lease_is_not_lost(bench: Bench) -> None:
    bench.queue.submit("work", {})
    taken = claim(bench.queue)
    for _ in range(5):
        assert bench.pass_time(8) == []
        assert bench.queue.renew(taken).held


def test_worker_of_a_lost_job_is_told_so_and_changes_nothing(bench: Bench) -> None:
    job, _ = bench.queue.submit("work", {})
    stale = claim(bench.queue)
    bench.pass_time(11)
    fresh = claim(bench.queue)
    before = bench.queue.get(job.id)
    assert not bench.queue.renew(stale, Progress(stage="stale")).held
    assert not bench.queue.save_checkpoint(stale, {"stale": 1})
    assert not bench.queue.succeed(stale, {"stale": 1})
    assert not bench.queue.fail(stale, PROBLEM, retry=False)
    assert not bench.queue.cancelled(stale)
    assert not bench.queue.hand_back(stale)
    assert bench.queue.get(job.id) == before
    assert bench.queue.succeed(fresh, {})


def test_attempt_number_alone_does_not_hold_a_job(queue: JobQueue) -> None:
    queue.submit("work", {})
    first = claim(queue)
    queue.hand_back(first)
    second = claim(queue)
    assert first.attempt == second.attempt
    assert not queue.succeed(first, {})
    assert queue.succeed(second, {})


def test_expired_lease_is_renewed_while_nobody_has_taken_the_job(bench: Bench) -> None:
    bench.queue.submit("work", {})
    taken = claim(bench.queue)
    bench.jump(60)
    assert bench.queue.renew(taken).held
    assert bench.pass_time(9) == []


def test_outage_without_reaping_costs_no_live_job(bench: Bench) -> None:
    bench.queue.submit("work", {})
    taken = claim(bench.queue)
    bench.queue.reap()
    bench.jump(60)
    assert bench.queue.reap() == []
    assert bench.queue.renew(taken).held


def test_dead_worker_is_noticed_one_lease_after_an_outage(bench: Bench) -> None:
    job, _ = bench.queue.submit("work", {})
    claim(bench.queue)
    bench.jump(60)
    assert bench.queue.reap() == []
    assert bench.pass_time(11) == [job.id]


def test_restarted_server_grants_one_more_lease(bench: Bench, redis_client: redis.Redis) -> None:
    bench.queue.submit("work", {})
    taken = claim(bench.queue)
    bench.pass_time(9)
    redis_client.hset("shoal:reaper", "run_id", "that-of-another-server")
    bench.jump(2)
    assert bench.queue.reap() == []
    assert bench.queue.renew(taken).held


def test_job_that_kills_its_workers_fails_after_exactly_three(bench: Bench) -> None:
    job, _ = bench.queue.submit("work", {})
    for attempt in (1, 2, 3):
        assert claim(bench.queue).attempt == attempt
        assert bench.pass_time(11) == [job.id]
    assert bench.queue.claim(["work"], "worker") is None
    ended = bench.queue.get(job.id)
    assert ended.state is JobState.FAILED
    assert ended.error["code"] == "worker_died"


def test_end_reported_twice_holds_when_the_first_answer_was_lost(queue: JobQueue) -> None:
    job, _ = queue.submit("work", {})
    taken = claim(queue)
    assert queue.succeed(taken, {"x": 1})
    before = queue.version(job.id)
    assert queue.succeed(taken, {"x": 1})
    assert queue.version(job.id) == before


def test_same_key_and_body_give_the_same_job(queue: JobQueue) -> None:
    job, created = queue.submit("work", {"a": 1, "b": 2}, idempotency_key="k")
    again, created_again = queue.submit("work", {"b": 2, "a": 1}, idempotency_key="k")
    assert (created, created_again) == (True, False)
    assert again.id == job.id
    other, _ = queue.submit("work", {"a": 1, "b": 2}, idempotency_key="another")
    assert other.id != job.id


@pytest.mark.parametrize(("kind", "request_"), [("work", {"a": 2}), ("other", {"a": 1})])
def test_same_key_with_another_body_is_refused(queue: JobQueue, kind: str, request_: dict[str, Any]) -> None:
    job, _ = queue.submit("work", {"a": 1}, idempotency_key="k")
    with pytest.raises(IdempotencyConflict, match=job.id):
        queue.submit(kind, request_, idempotency_key="k")


def test_key_holds_for_an_ended_job_and_is_free_when_that_is_forgotten(bench: Bench) -> None:
    job, _ = bench.queue.submit("work", {}, idempotency_key="k")
    bench.queue.succeed(claim(bench.queue), {"x": 1})
    again, created = bench.queue.submit("work", {}, idempotency_key="k")
    assert (again.id, again.result, created) == (job.id, {"x": 1}, False)
    bench.forget_ended()
    fresh, created = bench.queue.submit("work", {"now": "other"}, idempotency_key="k")
    assert created
    assert fresh.id != job.id


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_unusable_key_is_refused(queue: JobQueue, key: str) -> None:
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        queue.submit("work", {}, idempotency_key=key)


def test_request_with_nan_is_refused_before_it_is_queued(queue: JobQueue) -> None:
    with pytest.raises(ValueError, match="JSON"):
        queue.submit("work", {"x": float("nan")})
    assert queue.list().jobs == []


def test_depths_and_counts(queue: JobQueue) -> None:
    for kind in ("a", "a", "b"):
        queue.submit(kind, {})
    queue.succeed(claim(queue, "b"), {})
    claim(queue, "a")
    assert queue.depths() == {"a": 1, "b": 0}
    assert queue.counts() == {"queued": 1, "running": 1, "succeeded": 1, "failed": 0, "cancelled": 0}


def test_live_workers_are_known_by_kind(bench: Bench) -> None:
    assert bench.queue.workers() == {}
    bench.queue.beat("one", ["a", "b"])
    bench.jump(6)
    bench.queue.beat("two", ["b"])
    workers = bench.queue.workers()
    assert set(workers) == {"a", "b"}
    assert workers["b"] > workers["a"]
    bench.jump(5)
    assert set(bench.queue.workers()) == {"b"}
    bench.queue.leave("two", ["b"])
    assert bench.queue.workers() == {}


def test_unreachable_server_is_reported_as_such(tmp_path: Path) -> None:
    queue = JobQueue.from_url(f"unix://{tmp_path}/nobody.sock")
    for ask in (queue.ping, queue.list, queue.counts, lambda: queue.submit("work", {})):
        with pytest.raises(QueueUnavailable, match="REDIS_URL"):
            ask()


def test_full_server_is_reported_as_unavailable(queue: JobQueue, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueUnavailable, match="maxmemory"):
            queue.submit("work", {})
    finally:
        redis_client.config_set("maxmemory", 0)


def test_queue_works_with_a_client_that_decodes(redis_server: str, redis_client: redis.Redis) -> None:
    client = redis.Redis.from_url(redis_server, decode_responses=True)
    queue = JobQueue(client)
    job, _ = queue.submit("work", {})
    assert queue.get(job.id) == job
    client.close()


def test_queues_with_other_prefixes_do_not_meet(redis_client: redis.Redis) -> None:
    one, two = JobQueue(redis_client, prefix="one"), JobQueue(redis_client, prefix="two")
    one.submit("work", {})
    assert two.claim(["work"], "worker") is None
    assert two.list().jobs == []


def test_a_job_is_among_the_unfinished_in_whichever_state_it_is(queue: JobQueue) -> None:
    waiting, _ = queue.submit("a", {})
    taken = claim(queue, "a")
    other, _ = queue.submit("b", {})
    done, _ = queue.submit("c", {})
    queue.cancel(done.id)
    states = {job.id: job.state for job in queue.unfinished()}
    assert states == {waiting.id: JobState.RUNNING, other.id: JobState.QUEUED}
    queue.hand_back(taken)
    assert {job.id for job in queue.unfinished()} == {waiting.id, other.id}

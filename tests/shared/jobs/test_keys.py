"""Nothing is left behind on the server without a reason."""

from __future__ import annotations

from collections.abc import Callable

import redis
from shoal.jobs.claims import Claim
from shoal.jobs.queue import JobQueue

from tests.shared.jobs.conftest import Bench

PERMANENT = {b"shoal:sequence", b"shoal:reaper"}
"""The counter of jobs and the reaper's notes: two small keys, however many jobs there were."""
PROBLEM = {"detail": "x"}


def end_all_ways(queue: JobQueue) -> list[str]:
    """One job for each way to end, with everything that a job can have."""
    ids = []
    for number, end in enumerate(("succeed", "fail", "cancelled", "cancel_queued", "retried")):
        job, _ = queue.submit("work", {}, idempotency_key=f"key {number}", max_attempts=1)
        ids.append(job.id)
        if end == "cancel_queued":
            queue.cancel(job.id)
            continue
        claim = queue.claim(["work"], "worker")
        queue.save_checkpoint(claim, {"x": 1})
        ways: dict[str, Callable[[Claim], object]] = {
            "succeed": lambda c: queue.succeed(c, {}),
            "fail": lambda c: queue.fail(c, PROBLEM, retry=False),
            "cancelled": queue.cancelled,
            "retried": lambda c: queue.fail(c, PROBLEM, retry=True),
        }
        ways[end](claim)
    return ids


def test_ended_jobs_are_forgotten_with_everything_about_them(bench: Bench, redis_client: redis.Redis) -> None:
    end_all_ways(bench.queue)
    bench.forget_ended()
    assert set(redis_client.keys()) == PERMANENT
    assert bench.queue.depths() == {}
    assert bench.queue.list().jobs == []


def test_ended_jobs_stay_until_their_retention_is_over(bench: Bench) -> None:
    ids = end_all_ways(bench.queue)
    bench.jump(990)
    bench.queue.reap()
    assert [job.id for job in bench.queue.list().jobs] == ids[::-1]


def test_live_jobs_are_never_forgotten(bench: Bench) -> None:
    queued, _ = bench.queue.submit("work", {})
    running, _ = bench.queue.submit("other", {})
    claim = bench.queue.claim(["other"], "worker")
    bench.forget_ended()
    bench.queue.renew(claim)
    assert [job.id for job in bench.queue.list().jobs] == [running.id, queued.id]


def test_ended_jobs_expire_by_themselves_where_nobody_reaps(queue: JobQueue, redis_client: redis.Redis) -> None:
    job_id = end_all_ways(queue)[0]
    month = 30 * 24 * 3600
    assert month <= redis_client.ttl(f"shoal:job:{job_id}") <= month + 3700
    for key in redis_client.keys("shoal:idempotency:*"):
        assert month <= redis_client.ttl(key) <= month + 3700


def test_list_passes_over_a_job_that_has_expired_by_itself(queue: JobQueue, redis_client: redis.Redis) -> None:
    ids = end_all_ways(queue)
    redis_client.delete(f"shoal:job:{ids[1]}")
    assert [job.id for job in queue.list().jobs] == [i for i in ids[::-1] if i != ids[1]]


def test_ended_job_keeps_neither_lease_nor_checkpoint(queue: JobQueue, redis_client: redis.Redis) -> None:
    ids = end_all_ways(queue)
    assert not redis_client.exists("shoal:leases", "shoal:ready:work")
    for job_id in ids:
        assert not {b"checkpoint", b"last_error"} & set(redis_client.hkeys(f"shoal:job:{job_id}"))


def test_workers_that_vanished_leave_no_key(queue: JobQueue, redis_client: redis.Redis) -> None:
    queue.beat("worker", ["work"])
    assert 0 < redis_client.ttl("shoal:workers") <= 300

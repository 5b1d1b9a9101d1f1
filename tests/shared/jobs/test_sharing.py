"""Several workers on one job, as the queue sees them."""

from __future__ import annotations

import pytest
import redis
from shoal.jobs.claims import Claim, Taken
from shoal.jobs.queue import JobQueue
from shoal.schemas import Progress

from tests.shared.jobs.conftest import LEASE_S, Bench

UNITS = [0, 1, 2, 3]


def begun(queue: JobQueue, most: int | None = None) -> Claim:
    """A running job whose worker is at unit 0 of four."""
    queue.submit("work", {})
    claim = queue.claim(["work"], "first")
    assert queue.take(claim, UNITS, most) == Taken(0)
    return claim


def test_helpers_and_the_jobs_worker_take_each_unit_once(queue: JobQueue) -> None:
    claim = begun(queue)
    helper = queue.sharing.assist(["work"], "second")
    assert (helper.job.id, helper.attempt, helper.helper) == (claim.job.id, 1, True)
    assert helper.owner.startswith("second.")
    takers = [(helper, [1, 2, 3]), (claim, [1, 2, 3]), (helper, [2, 3])]
    assert [queue.take(each, missing).unit for each, missing in takers] == [1, 2, 3]
    assert queue.take(claim, [1, 3]) == queue.take(helper, [2]) == Taken(held=True)
    assert queue.take(claim, []) == Taken()


def test_a_job_says_how_many_workers_are_at_it(bench: Bench) -> None:
    job, _ = bench.queue.submit("work", {})
    assert bench.queue.get(job.id).workers == 0
    claim = bench.queue.claim(["work"], "first")
    bench.queue.take(claim, UNITS)
    assert bench.queue.get(job.id).workers == 1
    version = bench.queue.version(job.id)
    helper = bench.queue.sharing.assist(["work"], "second")
    assert (bench.queue.get(job.id).workers, bench.queue.version(job.id) > version) == (2, True)
    bench.queue.sharing.leave(helper)
    assert bench.queue.get(job.id).workers == 1
    bench.queue.sharing.assist(["work"], "third")
    bench.jump(LEASE_S + 1)
    assert bench.queue.get(job.id).workers == 1


@pytest.mark.parametrize(("most", "helpers"), [(1, 0), (2, 1), (None, 3)])
def test_no_more_workers_share_a_job_than_it_allows(queue: JobQueue, most: int | None, helpers: int) -> None:
    begun(queue, most)
    places = [queue.sharing.assist(["work"], f"helper-{n}") for n in range(3)]
    assert [place is not None for place in places] == [n < helpers for n in range(3)]


def test_a_waiting_job_goes_before_one_to_help_with(queue: JobQueue) -> None:
    begun(queue)
    queue.submit("work", {"second": True})
    assert queue.sharing.assist(["work"], "helper") is None
    queue.claim(["work"], "helper")
    assert queue.sharing.assist(["work"], "other") is not None


def test_only_a_job_with_a_free_unit_is_helped_with(queue: JobQueue) -> None:
    queue.submit("work", {})
    claim = queue.claim(["work"], "first")
    assert queue.sharing.assist(["work"], "helper") is None
    queue.take(claim, [5])
    assert queue.sharing.assist(["work"], "helper") is None
    queue.take(claim, [6, 7])
    assert queue.sharing.assist(["work"], "helper", avoid=[claim.job.id]) is None
    assert queue.sharing.assist(["else"], "helper") is None
    assert queue.take(queue.sharing.assist(["work"], "helper"), [6, 7]) == Taken(7)
    assert queue.sharing.assist(["work"], "late") is None


def test_the_job_with_the_fewest_workers_is_helped_with(queue: JobQueue) -> None:
    jobs = [begun(queue).job.id for _ in range(2)]
    helped = [queue.sharing.assist(["work"], f"helper-{n}").job.id for n in range(4)]
    assert helped == [*jobs, *jobs]


def test_units_of_a_helper_that_died_or_left_are_free(bench: Bench) -> None:
    claim = begun(bench.queue)
    dead, left = (bench.queue.sharing.assist(["work"], name) for name in ("dead", "left"))
    assert [bench.queue.take(each, UNITS[1:]).unit for each in (dead, left)] == [1, 2]
    bench.queue.sharing.leave(left)
    assert bench.queue.take(claim, UNITS[1:]) == Taken(2)
    bench.jump(LEASE_S - 1)
    assert bench.queue.take(claim, [1]) == Taken(held=True)
    bench.jump(2)
    assert bench.queue.take(claim, [1]) == Taken(1)


def test_a_helper_stays_while_the_job_changes_hands_and_goes_when_it_ends(bench: Bench) -> None:
    claim = begun(bench.queue)
    helper = bench.queue.sharing.assist(["work"], "helper")
    bench.queue.hand_back(claim)
    assert bench.queue.sharing.renew(helper).held
    assert bench.queue.sharing.assist(["work"], "late") is None
    assert bench.queue.take(helper, UNITS) == Taken(0)
    assert bench.queue.take(claim, UNITS) is None
    second = bench.queue.claim(["work"], "second")
    assert bench.queue.take(second, UNITS) == Taken(1)
    bench.queue.succeed(second, {})
    assert not bench.queue.sharing.renew(helper).held
    assert bench.queue.take(helper, UNITS) is None


def test_a_helper_hears_of_a_cancellation(queue: JobQueue) -> None:
    claim = begun(queue)
    helper = queue.sharing.assist(["work"], "helper")
    queue.cancel(claim.job.id)
    assert queue.sharing.renew(helper).cancel_requested


def test_nothing_that_a_helper_does_ends_the_job(queue: JobQueue) -> None:
    claim = begun(queue)
    ends = [
        lambda helper: queue.sharing.succeed(helper, {}),
        lambda helper: queue.sharing.fail(helper, {"code": "x"}, retry=False),
        queue.sharing.cancelled,
        queue.sharing.hand_back,
    ]
    for end in ends:
        assert end(queue.sharing.assist(["work"], "helper"))
        assert queue.renew(claim).held


def test_the_jobs_worker_hears_how_far_helpers_are(queue: JobQueue) -> None:
    claim = begun(queue)
    helper = queue.sharing.assist(["work"], "helper")
    assert [queue.take(helper, [*range(n, 4)]).unit for n in (1, 2)] == [1, 2]

    def report(**units: int) -> dict[int, int]:
        detail = {"open": {name[1:]: done for name, done in units.items()}}
        queue.sharing.renew(helper, Progress(stage="embed", detail=detail))
        return dict(queue.renew(claim).others)

    assert report(u1=70, u2=0) == {1: 70}
    assert report(u1=90, u2=5) == {1: 90, 2: 5}
    assert report(u2=30) == {2: 30}
    queue.sharing.leave(helper)
    assert queue.renew(claim).others == {}


def test_leases_of_helpers_start_again_after_an_outage(bench: Bench) -> None:
    claim = begun(bench.queue)
    bench.queue.reap()
    helper = bench.queue.sharing.assist(["work"], "helper")
    bench.queue.take(helper, UNITS[1:])
    bench.jump(LEASE_S + 1)
    bench.queue.reap()
    assert bench.queue.take(claim, [1]) == Taken(held=True)
    assert bench.queue.get(claim.job.id).workers == 2


@pytest.mark.parametrize("end", ["succeed", "cancelled", "hand_back"])
def test_no_key_of_a_shared_job_outlives_it(bench: Bench, redis_client: redis.Redis, end: str) -> None:
    claim = begun(bench.queue)
    bench.queue.take(bench.queue.sharing.assist(["work"], "helper"), UNITS[1:])
    if end == "succeed":
        bench.queue.succeed(claim, {})
    elif end == "cancelled":
        bench.queue.cancelled(claim)
    else:
        bench.queue.hand_back(claim)
        bench.queue.cancel(claim.job.id)
    assert not redis_client.keys("shoal:helpers:*") + redis_client.keys("shoal:taken:*")
    assert not redis_client.exists("shoal:shared:work")
    bench.forget_ended()
    assert set(redis_client.keys()) == {b"shoal:sequence", b"shoal:reaper"}

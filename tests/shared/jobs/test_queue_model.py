"""The queue against a model of it: any order of calls by any number of workers, with any time between."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from shoal.errors import JobFinished
from shoal.jobs.claims import Claim
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import TRANSITIONS, JobState

# The true clock runs too: every boundary is a hundred seconds away from the moments at which the model looks.
STEP_S = 300.0
LEASE_S = 1000.0
BACKOFF_S = 100.0
KINDS = ("a", "b")


@dataclass
class ModelJob:
    """What the model knows of a job."""

    id: str
    kind: str
    max_attempts: int
    created: tuple[float, int]
    ready: tuple[float, int]
    state: JobState = JobState.QUEUED
    attempt: int = 0
    owner: str | None = None
    cancel: bool = False
    lease_ends_s: float = 0.0
    seen: list[JobState] = field(default_factory=lambda: [JobState.QUEUED])

    def move(self, state: JobState) -> None:
        self.state = state
        self.seen.append(state)

    def requeue(self, ready: tuple[float, int]) -> None:
        self.ready = ready
        self.owner = self.owner if self.cancel else None
        self.move(JobState.CANCELLED if self.cancel else JobState.QUEUED)


class QueueMachine(RuleBasedStateMachine):
    """Submits, claims, loses, ends and cancels jobs; time passes only by a rule."""

    jobs = Bundle("jobs")
    claims = Bundle("claims")

    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        client.flushall()
        self.client = client
        self.now_s = 0.0
        self.calls = 0
        self.reaped_s: float | None = None
        self.model: dict[str, ModelJob] = {}
        self.owners: set[str] = set()
        self.advance(0.0)

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        self.queue = JobQueue(
            self.client, lease_s=LEASE_S, backoff_s=BACKOFF_S, retention_s=1e7, clock_offset_s=self.now_s
        )

    def moment(self, later_s: float = 0.0) -> tuple[float, int]:
        self.calls += 1
        return self.now_s + later_s, self.calls

    def held(self, claim: Claim) -> ModelJob | None:
        job = self.model[claim.job.id]
        running = job.state is JobState.RUNNING
        return job if running and (job.owner, job.attempt) == (claim.owner, claim.attempt) else None

    @rule(target=jobs, kind=st.sampled_from(KINDS), max_attempts=st.integers(1, 3))
    def submit(self, kind: str, max_attempts: int) -> str:
        job, _ = self.queue.submit(kind, {}, max_attempts=max_attempts)
        created = self.moment()
        self.model[job.id] = ModelJob(job.id, kind, max_attempts, created, created)
        return job.id

    @rule(target=claims, kinds=st.sampled_from([("a",), ("b",), ("a", "b"), ("b", "a")]))
    def claim(self, kinds: tuple[str, ...]) -> Claim | MultipleResults[Claim]:
        waiting = [
            job
            for job in self.model.values()
            if job.state is JobState.QUEUED and job.kind in kinds and job.ready[0] <= self.now_s
        ]
        claim = self.queue.claim(kinds, "worker")
        if not waiting:
            assert claim is None
            return multiple()
        job = min(waiting, key=lambda job: (kinds.index(job.kind), job.ready))
        assert claim is not None
        assert claim.job.id == job.id
        assert claim.owner not in self.owners
        self.owners.add(claim.owner)
        job.attempt += 1
        job.owner = claim.owner
        job.lease_ends_s = self.now_s + LEASE_S
        job.move(JobState.RUNNING)
        return claim

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        renewal = self.queue.renew(claim)
        job = self.held(claim)
        assert renewal.held == (job is not None)
        if job is not None:
            assert renewal.cancel_requested == job.cancel
            job.lease_ends_s = self.now_s + LEASE_S

    @rule(claim=claims)
    def succeed(self, claim: Claim) -> None:
        self.end(claim, JobState.SUCCEEDED, self.queue.succeed(claim, {}))

    @rule(claim=claims)
    def give_up(self, claim: Claim) -> None:
        self.end(claim, JobState.FAILED, self.queue.fail(claim, {"code": "x"}, retry=False))

    @rule(claim=claims)
    def obey_cancel(self, claim: Claim) -> None:
        self.end(claim, JobState.CANCELLED, self.queue.cancelled(claim))

    def end(self, claim: Claim, state: JobState, answer: bool) -> None:
        job = self.held(claim)
        if job is not None:
            assert answer
            job.move(state)
            return
        job = self.model[claim.job.id]
        same = (job.state, job.owner, job.attempt) == (state, claim.owner, claim.attempt)
        assert answer == same

    @rule(claim=claims)
    def fail_for_now(self, claim: Claim) -> None:
        job = self.held(claim)
        if job is None:
            return
        assert self.queue.fail(claim, {"code": "x"}, retry=True)
        if job.attempt >= job.max_attempts:
            job.move(JobState.FAILED)
        else:
            job.requeue(self.moment(BACKOFF_S * 2 ** (job.attempt - 1)))

    @rule(claim=claims)
    def hand_back(self, claim: Claim) -> None:
        job = self.held(claim)
        assert self.queue.hand_back(claim) == (job is not None)
        if job is not None:
            job.attempt -= 1
            job.requeue(job.created)

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        job = self.model[job_id]
        if job.state.terminal:
            with pytest.raises(JobFinished):
                self.queue.cancel(job_id)
            return
        self.queue.cancel(job_id)
        if job.state is JobState.QUEUED:
            job.move(JobState.CANCELLED)
        else:
            job.cancel = True

    @rule()
    def pass_time(self) -> None:
        self.advance(STEP_S)

    @rule()
    def reap(self) -> None:
        reaped = self.queue.reap()
        outage = self.reaped_s is None or self.now_s - self.reaped_s > LEASE_S / 2
        self.reaped_s = self.now_s
        lost = []
        for job in self.model.values():
            if job.state is not JobState.RUNNING:
                continue
            if outage:
                job.lease_ends_s = self.now_s + LEASE_S
            elif job.lease_ends_s <= self.now_s:
                lost.append(job.id)
                job.owner = None
                if job.cancel or job.attempt < job.max_attempts:
                    job.requeue(job.created)
                else:
                    job.move(JobState.FAILED)
        assert sorted(reaped) == sorted(lost)

    @invariant()
    def every_job_stands_where_the_model_says(self) -> None:
        page = self.queue.list(limit=500)
        assert [job.id for job in page.jobs] == list(self.model)[::-1]
        for job in page.jobs:
            known = self.model[job.id]
            assert (job.state, job.attempt, job.kind) == (known.state, known.attempt, known.kind)
            assert job.attempt <= known.max_attempts
            assert (job.finished_at is not None) == job.state.terminal

    @invariant()
    def indexes_agree(self) -> None:
        states = [job.state for job in self.model.values()]
        assert self.queue.counts() == {state.value: states.count(state) for state in JobState}
        for kind, depth in self.queue.depths().items():
            queued = [j for j in self.model.values() if j.kind == kind and j.state is JobState.QUEUED]
            assert depth == len(queued) == self.client.zcard(f"shoal:ready:{kind}")
        assert self.client.zcard("shoal:leases") == states.count(JobState.RUNNING)

    @invariant()
    def only_transitions_of_the_table_happen(self) -> None:
        for job in self.model.values():
            for before, after in zip(job.seen, job.seen[1:], strict=False):
                assert after in TRANSITIONS[before]


def test_queue_behaves_as_its_model(redis_client: redis.Redis) -> None:
    run_state_machine_as_test(
        lambda: QueueMachine(redis_client),  # type: ignore[arg-type]
        settings=settings(
            max_examples=50,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )

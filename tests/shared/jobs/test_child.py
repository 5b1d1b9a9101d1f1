"""The child's side: what a job says about itself, and what becomes of its exceptions."""

from __future__ import annotations

import errno
import math
import subprocess
import sys
from typing import Any

import pytest
from shoal.errors import TransientFailure, WeightsMissing
from shoal.jobs.child import Cancelled, JobContext, as_shoal_error
from shoal.jobs.protocol import (
    Checkpointed,
    ChildJob,
    Counted,
    Event,
    Failed,
    Progressed,
    Stopped,
    Succeeded,
    decode,
    encode,
)
from shoal.jobs.rates import RateMeter
from shoal.schemas import Progress

JOB = ChildJob("id", "work", 2, "owner.abc", {"path": "größe"}, {"done": 3})


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def events() -> list[Any]:
    return []


@pytest.fixture
def context(events: list[Any], clock: Clock) -> JobContext:
    return JobContext(JOB, events.append, clock=clock)


def test_job_knows_itself(context: JobContext) -> None:
    assert (context.id, context.kind, context.attempt, context.owner) == ("id", "work", 2, "owner.abc")
    assert (context.request, context.checkpoint) == ({"path": "größe"}, {"done": 3})


def test_only_a_few_reports_a_second_are_passed_on(context: JobContext, events: list[Any], clock: Clock) -> None:
    for done in range(1, 1001):
        clock.now += 0.001
        context.progress("embed", done, 100_000)
    assert 5 <= len(events) <= 7


def test_new_stage_and_completion_are_always_passed_on(context: JobContext, events: list[Any]) -> None:
    context.progress("read", 0, 10)
    context.progress("read", 5, 10)
    context.progress("read", 10, 10)
    context.progress("read", 10, 10)
    context.progress("write", 0, 3)
    context.progress("write", 3, 3)
    said = [(e.progress.stage, e.progress.done) for e in events]
    assert said == [("read", 0), ("read", 10), ("write", 0), ("write", 3)]


def test_rate_and_time_left_follow_the_speed(context: JobContext, events: list[Any], clock: Clock) -> None:
    context.progress("embed", 0, 1000)
    assert (events[-1].progress.rate, events[-1].progress.eta_s) == (None, None)
    for step in range(1, 6):
        clock.now += 1.0
        context.progress("embed", 20 * step, 1000, "images")
    last = events[-1].progress
    assert last.rate == pytest.approx(20.0)
    assert last.eta_s == pytest.approx(45.0)
    assert last.unit == "images"


def test_work_of_an_earlier_attempt_is_not_taken_for_speed(
    context: JobContext, events: list[Any], clock: Clock
) -> None:
    context.progress("embed", 900, 1000)
    clock.now += 1.0
    context.progress("embed", 910, 1000)
    assert events[-1].progress.rate == pytest.approx(10.0)


def test_rate_adapts_to_a_slowdown() -> None:
    meter = RateMeter(0, 0.0)
    for second in range(1, 101):
        meter.update(100 * second, float(second))
    for second in range(1, 41):
        meter.update(10_000 + 10 * second, 100.0 + second)
    assert 10 <= meter.rate <= 13


def test_stopped_job_learns_it_at_its_next_report(context: JobContext) -> None:
    context.progress("embed", 1)
    context.stop()
    with pytest.raises(Cancelled):
        context.progress("embed", 2)
    with pytest.raises(Cancelled):
        context.raise_if_cancelled()


def test_cancelled_is_not_swallowed_by_except_exception() -> None:
    assert not issubclass(Cancelled, Exception)


def test_checkpoint_is_passed_on_and_known_at_once(context: JobContext, events: list[Any]) -> None:
    context.save_checkpoint({"shard": 4})
    assert events == [Checkpointed({"shard": 4})]
    assert context.checkpoint == {"shard": 4}


@pytest.mark.parametrize("data", [{"x": "y" * 70_000}, {"x": math.nan}])
def test_unfit_checkpoint_is_refused(context: JobContext, events: list[Any], data: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        context.save_checkpoint(data)
    assert events == []


def test_pipelines_run_without_a_queue() -> None:
    seen: list[Progress] = []
    context = JobContext.local({"a": 1}, kind="extract:torch", on_progress=seen.append)
    context.progress("embed", 0, 2)
    context.save_checkpoint({"x": 1})
    assert (context.request, context.kind, context.attempt) == ({"a": 1}, "extract:torch", 1)
    assert seen == [Progress(stage="embed", done=0, total=2)]
    assert JobContext.local({}).owner != JobContext.local({}).owner


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WeightsMissing("x"), "weights_missing"),
        (TransientFailure("x"), "transient_failure"),
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/store/x"), "store_full"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "store_full"),
        (OSError(errno.EIO, "Input/output error"), "internal_error"),
        (KeyError("nothing"), "internal_error"),
    ],
)
def test_each_exception_has_its_code(error: Exception, code: str) -> None:
    assert as_shoal_error(error).code == code


def test_unexpected_exception_is_named_on_one_line() -> None:
    error = as_shoal_error(RuntimeError("first\n  second"))
    assert "RuntimeError: first second" in error.detail
    assert error.members == {"exception": "RuntimeError"}


@pytest.mark.parametrize(
    "event",
    [
        Progressed(Progress(stage="embed", done=3, total=9, unit="images", rate=1.5, eta_s=4.0)),
        Counted({"embedded": 3, "failed": 0}),
        Checkpointed({"a": [1, None]}),
        Succeeded({"path": "\udcff", "text": "größe\n"}),
        Failed({"code": "x"}, retry=True),
        Stopped(),
    ],
)
def test_events_arrive_as_they_were_sent(event: Event) -> None:
    line = encode(event)
    assert line.count(b"\n") == 1
    assert decode(line) == event


@pytest.mark.parametrize(
    "line", [b"", b"x", b"\xff", b"[]", b'{"event": "other"}', b'{"event": "failed", "problem": {}}']
)
def test_what_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


def test_job_arrives_as_it_was_sent() -> None:
    assert ChildJob.decode(JOB.encode()) == JOB


def test_child_started_by_hand_says_who_can_start_it() -> None:
    program = "import sys; from shoal.jobs.child import run_child; sys.exit(run_child(lambda context: {}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "only a worker" in done.stderr

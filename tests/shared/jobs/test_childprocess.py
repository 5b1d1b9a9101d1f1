"""A child process as its worker sees it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shoal.jobs.childprocess import ChildProcess
from shoal.jobs.protocol import ChildJob, Event, Failed, Progressed, Succeeded

RUN = "import sys, os; from shoal.jobs.child import run_child\n"


@pytest.fixture
def wake() -> Iterator[int]:
    """A descriptor that never wakes anybody."""
    read, write = os.pipe()
    yield read
    os.close(read)
    os.close(write)


def run(program: str, wake: int, request: dict[str, object] | None = None) -> tuple[int | None, list[Event]]:
    """Run a child to its end: exit status and events."""
    child = ChildProcess([sys.executable, "-c", program])
    child.hand_over(ChildJob("id", "work", 1, "owner", request or {}))
    events: list[Event] = []
    while not child.exited():
        events += child.wait(0.05, wake)
    status, last = child.end()
    return status, events + last


def test_large_request_reaches_the_child_and_a_large_result_comes_back(wake: int) -> None:
    text = "ö" * 1_000_000
    status, events = run(RUN + "sys.exit(run_child(lambda c: {'text': c.request['text']}))", wake, {"text": text})
    assert (status, events) == (0, [Succeeded({"text": text})])


def test_child_that_never_reads_blocks_nobody(wake: int) -> None:
    status, events = run("raise SystemExit(5)", wake, {"text": "x" * 1_000_000})
    assert (status, events) == (5, [])


def test_what_a_child_prints_is_no_event(wake: int) -> None:
    program = (
        RUN
        + "os.write(int(os.environ['SHOAL_EVENTS_FD']), b'noise\\n')\nsys.exit(run_child(lambda c: print('x') or {}))"
    )
    assert run(program, wake) == (0, [Succeeded({})])


def test_result_that_is_not_json_fails_the_job(wake: int) -> None:
    status, events = run(RUN + "sys.exit(run_child(lambda c: {'x': float('nan')}))", wake)
    assert status == 1
    assert isinstance(events[0], Failed)
    assert events[0].problem["code"] == "internal_error"


def test_every_event_before_a_crash_arrives(wake: int) -> None:
    program = RUN + "def f(c):\n for n in range(50): c.progress(str(n))\n os.abort()\nrun_child(f)"
    status, events = run(program, wake)
    assert status == -6
    assert [event.progress.stage for event in events if isinstance(event, Progressed)] == [str(n) for n in range(50)]


def test_child_whose_parent_has_gone_does_not_run(tmp_path: Path) -> None:
    """Its parent is not the process that it was told: the true one died while the interpreter started."""
    ran = tmp_path / "ran"
    program = (
        RUN + f"os.environ['SHOAL_PARENT_PID'] = '1'\nrun_child(lambda c: open({str(ran)!r}, 'w').close() or {{}})"
    )
    child = ChildProcess([sys.executable, "-c", program])
    child.hand_over(ChildJob("id", "work", 1, "owner", {}))
    assert child._process.wait(60) == 1
    child.end()
    assert not ran.exists()

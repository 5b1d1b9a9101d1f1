"""Child processes: how they end, and that none outlives its parent."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from shoal.process import exit_text, spawn, stop

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.mark.parametrize(
    ("status", "text"), [(0, "exited with status 0"), (3, "exited with status 3"), (-9, "was killed by SIGKILL")]
)
def test_end_of_a_process_in_words(status: int, text: str) -> None:
    assert exit_text(status) == text


def test_process_gets_its_death_signal_when_its_parent_is_killed() -> None:
    parent = (
        "import os, signal, sys, time\n"
        "from shoal.process import spawn\n"
        f"process = spawn({SLEEP!r}, death_signal=signal.SIGTERM)\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_process_that_ignores_sigterm_is_killed() -> None:
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with spawn([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        stop(process, 0.2)
        assert process.returncode == -signal.SIGKILL


SHOW_PRIORITY = (
    "import os, sys\nfrom pathlib import Path\nfrom shoal.process import lower_priority\n"
    "group = Path('/proc/self/autogroup')\n"
    "def show():\n"
    "    print(os.nice(0), *(group.read_text() if group.exists() else '').split()[-1:], sep=',')\n"
    "show()\nlower_priority(int(sys.argv[1]))\nshow()\n"
)


@pytest.mark.parametrize(("steps", "own_session"), [(7, True), (7, False), (0, True)])
def test_a_process_lowers_its_priority_and_that_of_its_own_session(steps: int, own_session: bool) -> None:
    command = [sys.executable, "-c", SHOW_PRIORITY, str(steps)]
    shown = subprocess.run(command, start_new_session=own_session, capture_output=True, text=True, check=True).stdout
    # The kernel shows no group without autogroups, and none for the session that it starts with.
    (before, *group_before), (after, *group_after) = ([int(part) for part in line.split(",")] for line in shown.split())
    assert after == min(before + steps, 19)
    assert group_after == ([after for _ in group_before] if own_session and steps else group_before)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

"""Child processes: how they end, and that none outlives its parent."""

from __future__ import annotations

import os
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


GROUP = Path("/proc/self/autogroup")
SHOW_PRIORITY = (
    "import os, sys\nfrom pathlib import Path\nfrom shoal.process import lower_priority\n"
    "lower_priority(int(sys.argv[1]))\ngroup = Path('/proc/self/autogroup')\n"
    "print(os.nice(0), group.read_text().split()[-1] if group.exists() else None)\n"
)


@pytest.mark.parametrize(("steps", "own_session", "group"), [(7, True, 7), (7, False, 0), (0, True, 0)])
def test_a_process_lowers_its_priority_and_that_of_its_own_session(steps: int, own_session: bool, group: int) -> None:
    before = os.nice(0)
    command = [sys.executable, "-c", SHOW_PRIORITY, str(steps)]
    shown = subprocess.run(command, start_new_session=own_session, capture_output=True, text=True, check=True).stdout
    niceness, group_niceness = shown.split()
    assert int(niceness) == min(before + steps, 19)
    if GROUP.exists():
        inherited = 0 if own_session else int(GROUP.read_text().split()[-1])
        assert int(group_niceness) == (min(before + group, 19) if group else inherited)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

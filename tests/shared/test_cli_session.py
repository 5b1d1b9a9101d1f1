"""How a command that has services of its own is stopped: once, and once more."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from shoal.cli import run
from shoal.cli.session import Session
from shoal.cli.request import Source
from shoal.store import Store
import typer

root, number, times = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
folder = root / "photos"
folder.mkdir()
session = Session(root, root, root / "store", command="shoal run")
session.kill = lambda: print("killed", flush=True)
try:
    with run.explaining_stops(session, Source.of(folder), Store(root / "store"), "shoal run photos"):
        try:
            if times:
                os.kill(os.getpid(), number)
            else:
                raise PermissionError(13, "Permission denied", "/some/file")
        finally:
            if times == 2:
                os.kill(os.getpid(), number)
                time.sleep(60)
except typer.Exit as ended:
    sys.exit(ended.exit_code)
except Exception as error:
    sys.exit(error.detail)
"""


def stopped(root: Path, number: signal.Signals, times: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(root), str(int(number)), str(times)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_stop_ends_with_a_sentence_and_the_shells_status(tmp_path: Path, number: signal.Signals, status: int) -> None:
    ended = stopped(tmp_path, number, 1)
    assert ended.returncode == status
    assert ended.stderr == "Stopped before an image was embedded. Run `shoal run photos` to start again.\n"
    assert ended.stdout == ""


def test_a_second_stop_ends_everything_at_once(tmp_path: Path) -> None:
    ended = stopped(tmp_path, signal.SIGINT, 2)
    assert ended.returncode == 130
    assert ended.stdout == "killed\n"
    assert "Exited at once" in ended.stderr


def test_an_error_of_the_system_is_a_sentence(tmp_path: Path) -> None:
    ended = stopped(tmp_path, signal.SIGINT, 0)
    assert ended.returncode == 1
    assert ended.stderr.startswith("/some/file: Permission denied. Fix this")

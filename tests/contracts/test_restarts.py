"""`shoal up` killed, stopped, short of disk, or asked for keys: what it says, and what is left behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from shoal.embedded import find_stack
from shoal.jobs.queue import JobQueue

from tests.contracts.conftest import START_S, Running, http, is_ready, paint, start

DISK_BYTES = 700 << 20


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder whose path leaves room for a socket, however deep pytest's own folders lie."""
    with tempfile.TemporaryDirectory(prefix="shoal-test-") as folder:
        yield Path(folder)


@pytest.fixture
def small_disk(temporary: Path) -> Iterator[Path]:
    """A file system of its own, hardly larger than what must be free."""
    disk = temporary / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _start(root: Path, ports: tuple[int, ...] = (), **more: str) -> Running:
    """A system that runs no job: none of its processes imports what jobs need."""
    return start(root, ports, SHOAL_AHEAD="false", **more)


def _up(root: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """What `shoal up` says before it gives up."""
    words = ["up", "--data", f"{root}/data", "--models", f"{root}/models", "--store", f"{root}/store"]
    words += ["--extractor-port", "0", "--clusterer-port", "0"]
    clean = {key: value for key, value in os.environ.items() if key != "REDIS_URL"}
    command = [sys.executable, "-m", "shoal.cli", *words]
    return subprocess.run(command, env={**clean, **env}, capture_output=True, text=True, timeout=200, check=False)


def _valkeys(root: Path) -> list[int]:
    return [
        int(process.name)
        for process in Path("/proc").iterdir()
        if process.name.isdigit() and f"{root}/store/.queue".encode() in _command(process)
    ]


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _end(running: Running) -> None:
    running.process.kill()
    running.process.wait()


def test_a_full_disk_and_a_kill_leave_no_second_server_and_no_lost_job(
    small_disk: Path, wait_until: Callable[..., None]
) -> None:
    paint(small_disk / "data" / "colours", per_class=2)
    first = _start(small_disk)
    try:
        wait_until(lambda: is_ready(first), deadline_s=START_S, what="readiness")
        running = find_stack(small_disk / "store")
        assert running is not None
        queue = JobQueue.from_url(str(running.queue))
        job, _ = queue.submit("elsewhere", {"n": 1})
        queue.close()
        # So that the append-only file has it: the server writes it down once a second.
        wait_until(lambda: job.id in _appended(small_disk), what="the job in the append-only file")
        wait_until(lambda: _filled(small_disk), what="a full disk")
        wait_until(lambda: len(_valkeys(small_disk)) == 1, what="the one server")
    finally:
        _end(first)
    wait_until(lambda: not _valkeys(small_disk), deadline_s=20, what="the death of the server")
    refused = _up(small_disk)
    assert refused.returncode == 1
    assert re.search(r"The disk of the store .* has \d+ MiB free", refused.stderr)
    (small_disk / "filler").unlink()

    second = _start(small_disk)
    try:
        wait_until(lambda: is_ready(second), deadline_s=START_S, what="readiness")
        assert http.get(f"{second.extractor}/jobs/{job.id}").json()["request"] == {"n": 1}
        assert len(_valkeys(small_disk)) == 1
    finally:
        _end(second)


def _filled(root: Path) -> bool:
    """Fill the disk; False where another process wrote to it meanwhile."""
    left = shutil.disk_usage(root).free
    with (root / "filler").open("wb") as filler:
        try:
            os.posix_fallocate(filler.fileno(), 0, left - (left % 4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return False
    return True


def _appended(root: Path) -> str:
    files = (root / "store" / ".queue" / "appendonlydir").glob("*.aof")
    return "".join(file.read_text(errors="replace") for file in files)


def test_a_killed_system_is_started_again_at_once_on_the_same_ports(
    tmp_path: Path, temporary: Path, wait_until: Callable[..., None]
) -> None:
    # A path that no socket can have, so that the queue's is in a temporary folder.
    root = tmp_path / ("x" * 100)
    paint(root / "data" / "colours", per_class=2)
    first = _start(root, TMPDIR=str(temporary))
    wait_until(lambda: is_ready(first), deadline_s=START_S, what="readiness")
    assert len(list(temporary.glob("shoal-*"))) == 1
    _end(first)
    ports = tuple(httpx.URL(url).port or 0 for url in (first.extractor, first.clusterer))
    said = (root / "up.log").read_text()
    again = _start(root, ports, TMPDIR=str(temporary))
    try:
        ready = said.count("ready;") + 1
        wait_until(lambda: (root / "up.log").read_text().count("ready;") == ready, deadline_s=START_S, what="readiness")
    finally:
        again.process.send_signal(signal.SIGTERM)
        assert again.process.wait(60) == 0
    assert list(temporary.glob("shoal-*")) == []
    assert find_stack(root / "store") is None


def test_a_system_that_is_stopped_while_it_starts_leaves_nothing_behind(
    tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    paint(tmp_path / "data" / "colours", per_class=2)
    running = start(tmp_path)
    wait_until(lambda: (tmp_path / "store" / ".logs" / "clusterer-worker.log").exists(), what="the last process")
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) != 0
    assert (find_stack(tmp_path / "store"), _valkeys(tmp_path)) == (None, [])
    assert not (tmp_path / "store" / ".queue" / "running.json").exists()


def test_who_is_asked_for_keys_can_make_one_before_it_starts(tmp_path: Path, wait_until: Callable[..., None]) -> None:
    refused = _up(tmp_path, SHOAL_AUTH="required")
    assert refused.returncode == 1
    flat = " ".join(refused.stderr.split())
    assert "shoal keys create --name NAME --scope admin" in flat
    assert f"--store {tmp_path}/store" in flat.replace("`", "")
    words = ["keys", "create", "--name", "me", "--scope", "admin", "--store", f"{tmp_path}/store"]
    env = {key: value for key, value in os.environ.items() if key != "REDIS_URL"}
    made = subprocess.run(
        [sys.executable, "-m", "shoal.cli", *words], env=env, capture_output=True, text=True, check=True
    )
    token = made.stdout.strip()
    running = _start(tmp_path, SHOAL_AUTH="required")
    try:
        wait_until(lambda: is_ready(running), deadline_s=START_S, what="readiness")
        assert http.get(f"{running.extractor}/jobs").status_code == 401
        answer = http.get(f"{running.extractor}/jobs", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200
    finally:
        _end(running)

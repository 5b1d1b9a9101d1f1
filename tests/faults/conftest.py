"""Fixtures of the fault tests: a queue on a server of its own, a disk that is soon full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from shoal.jobs.queue import JobQueue

from tests.conftest import RedisServer

DISK_BYTES = 512 * 1024


@pytest.fixture
def own_queue(own_redis: RedisServer) -> Iterator[JobQueue]:
    """A queue on the test's own server."""
    queue = JobQueue.from_url(own_redis.url)
    yield queue
    queue.close()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of half a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)

"""The embedded queue is found below its store, one at a time, and ends with whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shoal.embedded import find_queue, find_stack, open_queue
from shoal.embedded.queue import idle_jobs
from shoal.embedded.server import Server
from shoal.errors import Unavailable
from shoal.jobs.queue import JobQueue

HOLD = """
import sys, time
from pathlib import Path
from shoal.embedded import open_queue
with open_queue(Path(sys.argv[1]), "a test", create=True) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _no_redis_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


def said(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def hold() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """``hold(store)``: another process keeps the store's queue running, until its standard input ends."""
    processes: list[subprocess.Popen[str]] = []

    def start(store: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(store)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def _submit(url: str, value: int) -> str:
    queue = JobQueue.from_url(url)
    job, _ = queue.submit("cluster", {"value": value})
    queue.close()
    return job.id


def _jobs(url: str) -> list[str]:
    queue = JobQueue.from_url(url)
    found = [job.id for job in queue.list().jobs]
    queue.close()
    return found


def test_a_queue_is_there_again_with_its_jobs(root: Path) -> None:
    with open_queue(root, "a test", create=True) as url:
        assert url is not None
        assert url.startswith(f"unix://{root}/.queue/")
        job = _submit(url, 1)
        assert find_queue(root) == url
    assert find_queue(root) is None
    with open_queue(root, "a test") as url:
        assert url is not None
        assert _jobs(url) == [job]


def test_a_store_without_a_queue_gets_none_unless_asked(root: Path) -> None:
    with open_queue(root, "a test") as url:
        assert url is None
    assert not (root / ".queue").exists()


def test_redis_url_wins_where_it_is_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://example:1/2")
    with open_queue(root, "a test", create=True) as url:
        assert url == "redis://example:1/2"
    monkeypatch.setenv("REDIS_URL", "")
    assert find_queue(root) is None


@pytest.mark.parametrize("name", ["x" * 120, "with space % and #"])
def test_a_path_that_no_socket_can_have_is_none_the_less_found(root: Path, name: str) -> None:
    store = root / name
    with open_queue(store, "a test", create=True) as url:
        assert url is not None
        assert find_queue(store) == url
        _submit(url, 1)
        socket = store / ".queue" / "valkey.sock"
        assert socket.exists() == (len(name) < 100)
        running = find_stack(store)
        assert running is not None
        elsewhere = running.sockets
        assert (elsewhere is None) == (len(name) < 100)
    assert elsewhere is None or not Path(elsewhere).exists()


def test_a_deep_temporary_folder_is_in_no_socket_s_way(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / ("x" * 120)
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    store = root / ("x" * 120)
    with open_queue(store, "a test", create=True) as url:
        assert url is not None
        job = _submit(url, 1)
        running = find_stack(store)
    assert [found.id for found in idle_jobs(store)] == [job]
    assert running is not None
    assert running.sockets is not None
    assert not Path(running.sockets).exists()
    assert list(temporary.iterdir()) == []


def test_another_process_finds_it_and_uses_it(root: Path, hold: Callable[[Path], subprocess.Popen[str]]) -> None:
    url = said(hold(root))
    with open_queue(root, "a test") as found:
        assert found == url
    running = find_stack(root)
    assert running is not None
    assert running.command == "a test"
    with pytest.raises(Unavailable, match=r"`a test` \(process \d+\) already runs on the store"):
        Server(root, "second").lock()


def test_a_killed_owner_takes_its_server_along_and_leaves_nothing_in_the_way(
    root: Path, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    store = root / ("x" * 120)
    owner = hold(store)
    url = said(owner)
    job = _submit(url, 1)
    running = find_stack(store)
    assert running is not None
    owner.kill()
    owner.wait()
    assert find_stack(store) is None
    # At once, without waiting for the death of the old server: its lock says when its data is free.
    with open_queue(store, "a test") as again:
        assert again is not None
        assert again != url
        assert _jobs(again) == [job]
    assert running.sockets is not None
    assert not Path(running.sockets).exists()


def test_a_server_that_hangs_is_no_reason_to_start_a_second_one(
    root: Path, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    owner = hold(root)
    said(owner)
    owner.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="already runs"):
            Server(root, "second").lock()
    finally:
        owner.send_signal(signal.SIGCONT)


def test_an_old_run_file_of_a_process_number_in_use_is_not_believed(root: Path) -> None:
    (root / ".queue").mkdir()
    (root / ".queue" / "running.json").write_text(f'{{"pid": {os.getppid()}, "command": "shoal up", "started": "1"}}')
    assert find_stack(root) is None
    (root / ".queue" / "running.json").write_text("{")
    assert find_stack(root) is None

"""The queues of a store: the one that runs, one started for a command, and those that nothing serves now.

`shoal run` keeps a queue for each data root beside the one of `shoal up`. Those that do not run are read from copies,
since the command that they belong to may open them at any moment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import redis

from shoal.embedded import runfile
from shoal.embedded.process import Process
from shoal.embedded.server import SOCKET, Server, answers, server_command
from shoal.errors import StackError, Unavailable
from shoal.jobs.queue import JobQueue
from shoal.jobs.redis_scripts import connect
from shoal.schemas import Job
from shoal.settings import Settings
from shoal.sockets import remove_socket_folder, socket_folder

START_S = 60.0
DATA = "appendonlydir"
COPY_TRIES = 3
"""A server that has just started may rewrite its files while they are copied."""


def find_queue(store: Path, settings: Settings | None = None) -> str | None:
    """URL of the queue that the jobs of ``store`` are in.

    Returns
    -------
    str or None
        ``REDIS_URL`` when it is set; else the embedded queue of the stack that runs on the store; None when none runs.
    """
    settings = settings or Settings()
    url = settings.redis_url.get_secret_value()
    if "redis_url" in settings.model_fields_set and url:
        return url
    running = runfile.read(store)
    return running.queue if running is not None and running.queue and answers(running.queue) else None


@contextlib.contextmanager
def open_queue(store: Path, command: str, *, create: bool = False) -> Iterator[str | None]:
    """URL of the queue of ``store``; where no stack runs, its embedded server runs for as long as the block does.

    Parameters
    ----------
    command
        The command that uses it; messages to other commands name it.
    create
        Create the store's queue if it has none; otherwise the URL is None.

    Raises
    ------
    Unavailable
        A stack on the store is just starting or ending.
    StackError
        The embedded server is not installed or does not start.
    """
    server = Server(store, command)
    url = _found_or_locked(store, server, create)
    if url is not None or not server.locked:
        yield url
        return
    process: Process | None = None
    try:
        process, url = server.start()
        wait_for_server(process, url)
        runfile.write(store, replace(server.running, queue=url))
        yield url
    finally:
        if process is not None:
            process.terminate()
            process.wait()
        server.close()


def _found_or_locked(store: Path, server: Server, create: bool) -> str | None:
    """URL of the queue that runs; else None, and the lock is taken if there is a queue to start."""
    deadline = time.monotonic() + START_S
    while True:
        url = find_queue(store)
        if url is not None or not (create or (runfile.queue_folder(store) / DATA).is_dir()):
            return url
        try:
            server.lock()
            return None
        except Unavailable:
            # Whoever holds the lock is about to start the queue, or to end.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def wait_for_server(process: Process, url: str) -> None:
    """Wait until an embedded server has read its data and answers.

    Raises
    ------
    StackError
        It ended, or takes too long.
    """
    client = connect(url)
    deadline = time.monotonic() + START_S
    try:
        while True:
            if not process.alive:
                raise StackError(
                    f"The embedded queue exited at startup. Its log {process.log} ends:\n{process.log_tail()}"
                )
            with contextlib.suppress(redis.RedisError, OSError):
                client.ping()
                return
            if time.monotonic() > deadline:
                raise StackError(f"The embedded queue was not ready within {START_S:.0f} s; its log is {process.log}.")
            time.sleep(0.05)
    finally:
        client.close()


def idle_jobs(store: Path, beside: str | None = None) -> Iterator[Job]:
    """Every unfinished job of the store's queues but one.

    Parameters
    ----------
    beside
        URL of the queue that the caller reads itself.

    Raises
    ------
    StackError
        A queue's data cannot be read; the message names its folder.
    """
    for folder in _idle(store, beside):
        yield from _unfinished(folder)


def _idle(store: Path, beside: str | None) -> list[Path]:
    common = runfile.queue_folder(store)
    running = runfile.read(store)
    served = None
    if running is not None and running.queue is not None and running.queue == beside:
        served = Path(running.queue_data) if running.queue_data else common.resolve()
    found = [folder for folder in (common, *sorted(common.glob("run-*"))) if (folder / DATA).is_dir()]
    return [folder for folder in found if folder.resolve() != served]


def _unfinished(folder: Path) -> list[Job]:
    with tempfile.TemporaryDirectory(prefix="shoal-") as made:
        copy = Path(made).resolve()
        _copy(folder / DATA, copy / DATA)
        sockets = socket_folder(copy, SOCKET)
        process = Process("valkey", server_command(copy, sockets / SOCKET), copy / "log", death_signal=signal.SIGKILL)
        process.start(os.environ)
        try:
            url = f"unix://{quote(str(sockets / SOCKET))}"
            wait_for_server(process, url)
            with contextlib.closing(JobQueue.from_url(url)) as queue:
                return list(queue.unfinished())
        except StackError as error:
            raise StackError(f"The jobs in {folder} cannot be read. {error.detail}") from None
        finally:
            process.kill()
            if sockets != copy:
                remove_socket_folder(sockets, SOCKET)


def _copy(source: Path, target: Path) -> None:
    for attempt in range(1, COPY_TRIES + 1):
        try:
            shutil.copytree(source, target)
            return
        except (OSError, shutil.Error) as error:
            shutil.rmtree(target, ignore_errors=True)
            if attempt == COPY_TRIES:
                raise StackError(f"The jobs in {source.parent} cannot be read: {error}") from None

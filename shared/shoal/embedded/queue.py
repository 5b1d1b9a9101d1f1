"""Finding the queue that belongs to a store, for commands that work beside a running stack, or without one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import redis

from shoal.embedded import runfile
from shoal.embedded.process import Process
from shoal.embedded.server import Server, StackError, answers
from shoal.errors import Unavailable
from shoal.jobs.redis_scripts import connect
from shoal.settings import Settings

START_S = 60.0


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
        The command that asks; messages to others name it meanwhile.
    create
        Make the store's queue when it has none; otherwise the URL is then None.

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
        if url is not None or not (create or (runfile.queue_folder(store) / "appendonlydir").is_dir()):
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
                    f"The embedded queue ended at its start. Its log {process.log} ends:\n{process.last_words()}"
                )
            with contextlib.suppress(redis.RedisError, OSError):
                client.ping()
                return
            if time.monotonic() > deadline:
                raise StackError(f"The embedded queue was not ready within {START_S:.0f} s; its log is {process.log}.")
            time.sleep(0.05)
    finally:
        client.close()

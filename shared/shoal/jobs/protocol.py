"""What a worker and its child say to each other: the job as one JSON document, then events as JSON lines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from shoal.schemas import Progress

EVENTS_FD = "SHOAL_EVENTS_FD"
"""Environment variable with the file descriptor that the child writes its events to."""
PARENT_PID = "SHOAL_PARENT_PID"
"""Environment variable with the process id of the worker."""


@dataclass(frozen=True)
class ChildJob:
    """What the child reads from its standard input."""

    id: str
    kind: str
    attempt: int
    owner: str
    request: dict[str, Any]
    checkpoint: dict[str, Any] | None = None

    def encode(self) -> bytes:
        """As one JSON document."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, document: bytes) -> ChildJob:
        """The job that ``encode`` wrote."""
        return cls(**json.loads(document))


@dataclass(frozen=True)
class Progressed:
    """The job is this far."""

    progress: Progress


@dataclass(frozen=True)
class Counted:
    """So much more was done since the last such event, by outcome: what the worker's counters add up."""

    counts: dict[str, int]


@dataclass(frozen=True)
class Checkpointed:
    """The next attempt should get this."""

    data: dict[str, Any]


@dataclass(frozen=True)
class Advanced:
    """So much is kept that no further attempt does again: a number that grows with it, through all attempts."""

    mark: int


@dataclass(frozen=True)
class Succeeded:
    """The job is done."""

    result: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """The job ended with an error; ``retry`` when it may pass."""

    problem: dict[str, Any]
    retry: bool


@dataclass(frozen=True)
class Stopped:
    """The child stopped because it was told to."""


Event = Progressed | Counted | Checkpointed | Advanced | Succeeded | Failed | Stopped
Outcome = Succeeded | Failed | Stopped


def encode(event: Event) -> bytes:
    """One line of JSON.

    Raises
    ------
    ValueError
        A result, problem or checkpoint holds a number that JSON has not: NaN or an infinity.
    TypeError
        It holds something else that is not JSON.
    """
    match event:
        case Progressed(progress):
            body: dict[str, Any] = {"event": "progress", "progress": progress.model_dump()}
        case Counted(counts):
            body = {"event": "counted", "counts": counts}
        case Checkpointed(data):
            body = {"event": "checkpoint", "data": data}
        case Advanced(mark):
            body = {"event": "advanced", "mark": mark}
        case Succeeded(result):
            body = {"event": "succeeded", "result": result}
        case Failed(problem, retry):
            body = {"event": "failed", "problem": problem, "retry": retry}
        case Stopped():
            body = {"event": "stopped"}
    return json.dumps(body, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> Event:
    """The event that ``encode`` wrote.

    Raises
    ------
    ValueError
        The line is no event.
    """
    try:
        match json.loads(line):
            case {"event": "progress", "progress": dict(progress)}:
                return Progressed(Progress.model_validate(progress))
            case {"event": "counted", "counts": dict(counts)}:
                return Counted({str(outcome): int(number) for outcome, number in counts.items()})
            case {"event": "checkpoint", "data": dict(data)}:
                return Checkpointed(data)
            case {"event": "advanced", "mark": int(mark)}:
                return Advanced(mark)
            case {"event": "succeeded", "result": dict(result)}:
                return Succeeded(result)
            case {"event": "failed", "problem": dict(problem), "retry": bool(retry)}:
                return Failed(problem, retry)
            case {"event": "stopped"}:
                return Stopped()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {line[:80]!r}") from error
    raise ValueError(f"no event: {line[:80]!r}")

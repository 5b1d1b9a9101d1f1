"""Messages between a worker and its child: the job as one JSON document, then events as JSON lines.

The worker in turn tells the child of a shared job which unit it may begin (`Taken`), and how far others are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from shoal.errors import JsonValue
from shoal.jobs.claims import Taken
from shoal.schemas import Progress

EVENTS_FD = "SHOAL_EVENTS_FD"
"""Environment variable with the file descriptor that the child writes its events to."""
GO_FD = "SHOAL_GO_FD"
"""Environment variable with the file descriptor on which one byte says that the job is on standard input; its end
without a byte says that no job comes. Without the variable, the job is there from the start."""
ANSWERS_FD = "SHOAL_ANSWERS_FD"
"""Environment variable with the file descriptor from which the child reads what the worker tells it meanwhile."""
PARENT_PID = "SHOAL_PARENT_PID"
"""Environment variable with the process id of the worker."""


@dataclass(frozen=True)
class ChildJob:
    """The job, as the child reads it from its standard input."""

    id: str
    kind: str
    attempt: int
    owner: str
    request: dict[str, JsonValue]
    checkpoint: dict[str, JsonValue] | None = None
    helper: bool = False
    """Whether another worker has the job, and this one takes some of its units."""

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
    """How much was done since the last such event, by outcome: the worker's counters add it up."""

    counts: dict[str, int]


@dataclass(frozen=True)
class Checkpointed:
    """State for the next attempt."""

    data: dict[str, JsonValue]


@dataclass(frozen=True)
class Advanced:
    """How much of the job is kept for good: a number that grows through all attempts."""

    mark: int


@dataclass(frozen=True)
class Wanted:
    """The child would begin another unit of a shared job, and waits for a `Taken`."""

    missing: tuple[int, ...]
    """The units without a result, ascending."""
    most: int | None = None
    """How many workers may share the job; None for any number."""


@dataclass(frozen=True)
class Succeeded:
    """The job is done."""

    result: dict[str, JsonValue]


@dataclass(frozen=True)
class Failed:
    """The job ended with an error; ``retry`` when another attempt may succeed."""

    problem: dict[str, JsonValue]
    retry: bool


@dataclass(frozen=True)
class Stopped:
    """The child stopped on request."""


Event = Progressed | Counted | Checkpointed | Advanced | Wanted | Succeeded | Failed | Stopped
Outcome = Succeeded | Failed | Stopped


def encode(event: Event) -> bytes:
    """One line of JSON.

    Raises
    ------
    ValueError
        A result, problem or checkpoint holds NaN or an infinity.
    TypeError
        It holds an object that JSON cannot represent.
    """
    match event:
        case Progressed(progress):
            body: dict[str, JsonValue] = {"event": "progress", "progress": progress.model_dump()}
        case Counted(counts):
            body = {"event": "counted", "counts": counts}
        case Checkpointed(data):
            body = {"event": "checkpoint", "data": data}
        case Advanced(mark):
            body = {"event": "advanced", "mark": mark}
        case Wanted(missing, most):
            body = {"event": "wanted", "missing": list(missing), "most": most}
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
        The line is not an event.
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
            case {"event": "wanted", "missing": list(missing), "most": int() | None as most}:
                return Wanted(tuple(map(int, missing)), most)
            case {"event": "succeeded", "result": dict(result)}:
                return Succeeded(result)
            case {"event": "failed", "problem": dict(problem), "retry": bool(retry)}:
                return Failed(problem, retry)
            case {"event": "stopped"}:
                return Stopped()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {line[:80]!r}") from error
    raise ValueError(f"not an event: {line[:80]!r}")


def encode_news(news: Taken | Mapping[int, int]) -> bytes:
    """What the worker tells its child, as one line of JSON: an answer, or how much is done of others' units."""
    body = asdict(news) if isinstance(news, Taken) else {"others": dict(news)}
    return json.dumps(body).encode() + b"\n"


def decode_news(line: bytes) -> Taken | dict[int, int]:
    """What ``encode_news`` wrote."""
    body = json.loads(line)
    if "others" in body:
        return {int(unit): int(done) for unit, done in body["others"].items()}
    return Taken(**body)

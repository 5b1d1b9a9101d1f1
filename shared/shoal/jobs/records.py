"""How the queue's records look on the server: times, JSON, jobs and cursors."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from shoal.errors import InvalidRequest
from shoal.jobs.states import JobState
from shoal.schemas import Job


def micros(seconds: float) -> int:
    """Seconds as whole microseconds."""
    return round(seconds * 1_000_000)


def from_micros(micros: str | float) -> datetime:
    """The moment that many microseconds after the epoch."""
    return datetime.fromtimestamp(float(micros) / 1_000_000, UTC)


def to_json(value: Any, *, sort_keys: bool = False) -> str:
    """Compact ASCII JSON: lone surrogates, as odd file names have them, survive it. NaN is refused."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"), sort_keys=sort_keys)


def from_json(text: str | None) -> Any:
    """The value; None stays None."""
    return None if text is None else json.loads(text)


def pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Neighbours of a flat list, two by two."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def fields_of(flat: Sequence[str]) -> dict[str, str]:
    """A hash as the server sends it, as a mapping."""
    return dict(pairs(flat))


def to_job(flat: Sequence[str]) -> Job:
    """A job's hash as the model that the API shows."""
    fields = fields_of(flat)
    times = {name: from_micros(fields[name]) for name in ("created_at", "started_at", "finished_at") if name in fields}
    return Job(
        id=fields["id"],
        kind=fields["kind"],
        state=JobState(fields["state"]),
        created_at=times["created_at"],
        started_at=times.get("started_at"),
        finished_at=times.get("finished_at"),
        attempt=int(fields["attempt"]),
        cancel_requested="cancel_requested" in fields,
        progress=from_json(fields.get("progress")),
        request=json.loads(fields["request"]),
        result=from_json(fields.get("result")),
        error=from_json(fields.get("error")),
    )


def key_digest(idempotency_key: str | None, caller: str | None = None) -> str:
    """What stands for a caller's Idempotency-Key in a key of ours; empty for none."""
    if idempotency_key is None:
        return ""
    if not 1 <= len(idempotency_key) <= 255:
        raise InvalidRequest("The Idempotency-Key must have between 1 and 255 characters.", field="Idempotency-Key")
    # A line break can stand in neither: no key of one caller is that of another, or of those without a name.
    text = idempotency_key if caller is None else f"{caller}\n{idempotency_key}"
    return hashlib.sha256(text.encode()).hexdigest()


def encode_cursor(sequence: str) -> str:
    """A place in the order of submission as an opaque text."""
    return base64.urlsafe_b64encode(f"seq:{int(float(sequence))}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    """The sequence number that ``encode_cursor`` was given.

    Raises
    ------
    InvalidRequest
        ``cursor`` is not one of `encode_cursor`.
    """
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        match = re.fullmatch(r"seq:([0-9]{1,15})", text)
    except ValueError:
        match = None
    if match is None:
        raise InvalidRequest(
            "`cursor` is not valid: send the `next_cursor` of the page before, or none.", field="cursor"
        )
    return int(match[1])


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a request, however deep: the ids and paths that its job uses are among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from texts_of(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts_of(each)

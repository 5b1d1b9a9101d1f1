"""JSON answers made off the event loop, in pieces, so that a large one keeps no other thread from running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from fastapi import Response
from pydantic import BaseModel
from pydantic_core import to_json

SLICE: Final = 256
"""Items that are written in one go."""
MAX_DEPTH: Final = 3


def json_response(value: Any, status_code: int = 200) -> Response:
    """``value`` as a response."""
    return Response(b"".join(json_pieces(value)), status_code, media_type="application/json")


def json_pieces(value: Any, depth: int = 0) -> Iterator[bytes]:
    """``value`` as JSON; NaN becomes null, as FastAPI has it."""
    if depth < MAX_DEPTH and isinstance(value, BaseModel) and not _has_serialisers(value):
        value = dict(value)
    if depth < MAX_DEPTH and isinstance(value, dict):
        yield from _object(value, depth)
    elif depth < MAX_DEPTH and isinstance(value, list) and value:
        yield from _list(value, depth)
    else:
        yield to_json(value, inf_nan_mode="null")


def _object(value: dict[Any, Any], depth: int) -> Iterator[bytes]:
    before = b"{"
    for key, each in value.items():
        # A key that is no text becomes one, as in any object.
        yield before + to_json({key: None})[1:-5]
        yield from json_pieces(each, depth + 1)
        before = b","
    yield b"}" if value else b"{}"


def _list(value: list[Any], depth: int) -> Iterator[bytes]:
    before = b"["
    if isinstance(value[0], list | BaseModel):
        for each in value:
            yield before
            yield from json_pieces(each, depth + 1)
            before = b","
    else:
        for first in range(0, len(value), SLICE):
            yield before + to_json(value[first : first + SLICE], inf_nan_mode="null")[1:-1]
            before = b","
    yield b"]"


def _has_serialisers(value: BaseModel) -> bool:
    decorators = type(value).__pydantic_decorators__
    return bool(decorators.field_serializers or decorators.model_serializers or decorators.computed_fields)

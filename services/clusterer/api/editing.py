"""What routes share that write to a journal: the state that a change was made for, and who makes it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Final

from fastapi import Header
from pydantic import AfterValidator, BaseModel, Field
from shoal.errors import PreconditionFailed, PreconditionRequired
from shoal.keys import ANONYMOUS, Caller
from shoal.store.annotations import Annotations
from shoal.store.journal import Journal
from shoal.web.problems import problem_responses

MOST: Final = 10_000
"""Clusters or rows of one request."""
WRITES: Final = problem_responses(404, 412, 422, 428, 507)
"""OpenAPI entry of the errors of a change."""
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,9}")


def _number(text: str) -> str:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"`{text[:20]}` is not the number of a cluster or of a row: write it in digits, such as `12`.")
    return text


Number = Annotated[str, AfterValidator(_number), Field(json_schema_extra={"pattern": f"^({_NUMBER.pattern})$"})]
IfMatch = Annotated[
    str | None,
    Header(
        max_length=1000,
        description="The `ETag` of what this change was made for.",
        examples=['"3-9f0c4c1b2f7d6a10"'],
    ),
]


class JournalEntry(BaseModel):
    """What every entry of a journal says."""

    entry: int = Field(description="Its number, from 1.")
    at: datetime
    author: str | None = Field(description="Name of the API key; null where no keys are needed.")
    undoes: int | None = Field(description="Number of the entry that this one takes back.")
    undone: bool = Field(description="Whether a later entry took this one back.")


def etag_of(annotations: Annotations) -> str:
    """The `ETag` of a state."""
    return f'"{annotations.version}"'


def author_of(caller: Caller) -> str | None:
    """Who a change is recorded for."""
    return None if caller is ANONYMOUS else caller.name


def expected(journal: Journal, if_match: str | None, what: str, route: str) -> Annotations:
    """The current state, if it is the one that a change was made for.

    Parameters
    ----------
    what, route
        What the journal holds, and where it is read, in errors.

    Raises
    ------
    PreconditionRequired
        No state is named.
    PreconditionFailed
        It was changed since.
    """
    if if_match is None or if_match.strip() == "*":
        raise PreconditionRequired(
            f"Send the `ETag` of `GET {route}` in the header `If-Match`: it keeps others' changes safe."
        )
    now = journal.read()
    if etag_of(now) not in (each.strip() for each in if_match.split(",")):
        raise PreconditionFailed(
            f"The {what} were changed since: their `ETag` is {etag_of(now)} now, and `If-Match` is {if_match[:100]}. "
            "Read them again, and send the change with the new one.",
            etag=etag_of(now),
        )
    return now

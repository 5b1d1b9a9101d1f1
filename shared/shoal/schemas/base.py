"""Base class and field types of the requests.

Requests are strict: an unknown field, a number sent as a string or a value that is not finite is refused, never
converted, so that a typing error in a request for a job of three days shows at once.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
NAME_RULE = "Use letters, digits, `.`, `_` and `-` only, and begin with a letter or a digit."
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=NAME_PATTERN)]
"""A name that may become part of an id and of a file name."""
Id = Annotated[str, StringConstraints(min_length=1, max_length=160, pattern=NAME_PATTERN)]
RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
MAX_CLUSTERS = 1_000_000
MAX_UNKNOWN = 20
"""Unknown fields of one object that are reported."""


class Request(BaseModel):
    """Base of everything a client sends."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_unknown(cls, sent: object) -> object:
        """``sent`` without most unknown fields: each is an error, and a body has room for 100,000."""
        if not isinstance(sent, dict) or len(sent) <= MAX_UNKNOWN:
            return sent
        dropped = set(islice((name for name in sent if name not in cls.model_fields), MAX_UNKNOWN, None))
        return {name: value for name, value in sent.items() if name not in dropped}


CallbackUrl = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^https?://[^\s]+$")]


class JobRequest(Request):
    """Base of the bodies that submit a job."""

    # Left out of every dump, so that no plan, spec or id depends on who hears of the job's end.
    callback_url: CallbackUrl | None = Field(
        None,
        exclude=True,
        description="URL that receives a signed webhook when the job has ended. The host must be one of "
        "SHOAL_CALLBACK_HOSTS.",
    )

"""Requests of analyses of embeddings: `POST /duplicates` and `POST /quality`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from shoal.schemas.base import Id, JobRequest
from shoal.schemas.execution import EXECUTION_TEXT, Execution, MemoryLimit

DEFAULT_THRESHOLD = 0.95


class DuplicatesRequest(JobRequest):
    """Body of `POST /duplicates`."""

    embeddings: Id = Field(description="Id of the embeddings whose duplicates are sought.")
    against: Id | None = Field(
        None,
        description="Id of embeddings of the same model that stay as they are, such as a test set: only groups with "
        "rows of both are found, and all rows of `embeddings` in them are dropped.",
    )
    threshold: float = Field(
        DEFAULT_THRESHOLD,
        gt=0,
        le=1,
        description="Two rows are duplicates if the cosine of their embeddings is at least this.",
    )
    link: Literal["single", "complete"] = Field(
        "complete",
        description="`complete`: every two rows of a group are duplicates. `single`: a chain of duplicates connects "
        "them, so that its ends may differ.",
    )
    memory_limit: MemoryLimit | None = Field(
        None, description="Maximum memory of the job's process, as in `POST /cluster`."
    )
    # Left out where it is not sent, so that requests without it stay as they were.
    execution: Execution | None = Field(None, exclude_if=lambda sent: sent is None, description=EXECUTION_TEXT)

    @model_validator(mode="after")
    def _two_sets(self) -> DuplicatesRequest:
        if self.against == self.embeddings:
            raise ValueError("`against` must differ from `embeddings`: leave it out to search one set")
        return self


class QualityRequest(JobRequest):
    """Body of `POST /quality`."""

    embeddings: Id = Field(description="Id of the embeddings whose images and labels are checked.")
    neighbours: int = Field(10, ge=1, le=100, description="Number of nearest rows that each row is compared with.")
    memory_limit: MemoryLimit | None = Field(
        None, description="Maximum memory of the job's process, as in `POST /cluster`."
    )

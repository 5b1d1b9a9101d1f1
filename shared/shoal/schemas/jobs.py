"""Answers of both services: jobs and problems."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from shoal.jobs.states import JobState


class Progress(BaseModel):
    """Progress of a running job."""

    stage: str = Field(description="Current stage, such as `embed` or `kmeans`.")
    done: int = Field(0, description="Units finished in this stage.")
    total: int | None = Field(None, description="Units of this stage; null if unknown.")
    unit: str = Field("items", description="Name of the unit, such as `images`.")
    rate: float | None = Field(None, description="Units per second.")
    eta_s: float | None = Field(None, description="Estimated seconds until this stage ends.")
    detail: dict[str, Any] | None = Field(
        None,
        description="Further facts about the stage. For `embed`: `busy`, the fraction of the last seconds in which "
        "`decode`, `network` and `write` worked; the largest limits the job. For `kmeans`: the inertia of the last "
        "iteration and the number of rows that changed their cluster.",
    )


class Job(BaseModel):
    """A job."""

    id: str = Field(description="Unique identifier of the job.")
    kind: str = Field(description="`extract:torch`, `extract:tfserving`, `cluster` or `sweep`.")
    state: JobState = Field(description="State of the job. It ends as `succeeded`, `failed` or `cancelled`.")
    created_at: datetime = Field(description="Time at which the job was submitted.")
    started_at: datetime | None = Field(None, description="Time at which a worker started the latest attempt.")
    finished_at: datetime | None = Field(None, description="Time at which the job ended.")
    attempt: int = Field(0, description="Number of the latest attempt; 0 if no worker has started the job yet.")
    cancel_requested: bool = Field(False, description="Whether cancellation of the running job was requested.")
    progress: Progress | None = Field(None, description="Progress of the latest attempt.")
    waiting_for: str | None = Field(
        None, description="For a queued job that no live worker can run: which worker is missing and how to start it."
    )
    request: dict[str, Any] = Field(description="The request body, as sent.")
    result: dict[str, Any] | None = Field(
        None, description="Ids and main figures of what the job produced; null until it has succeeded."
    )
    error: dict[str, Any] | None = Field(
        None, description="Why the job failed, as an RFC 9457 problem; null unless it has failed."
    )
    links: dict[str, str] = Field(
        default_factory=dict, description="Paths of the job (`self`), its `events`, its `result` and its `report`."
    )


class JobPage(BaseModel):
    """A page of `GET /jobs`, newest first."""

    jobs: list[Job] = Field(description="The jobs of this page.")
    next_cursor: str | None = Field(None, description="Send it as `cursor` for the next page; null on the last page.")


class FieldError(BaseModel):
    """An invalid field of a request."""

    field: str = Field(description="Path of the field, such as `images.path`; empty for the whole body.")
    code: str = Field(description="Stable code of the error, such as `missing_field`.")
    message: str = Field(description="What is wrong with the value.")


class Problem(BaseModel):
    """An error as RFC 9457 `application/problem+json`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`urn:shoal:error:`, followed by the code.")
    title: str = Field(description="Short name of the kind of error.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What went wrong, and what to do.")
    code: str = Field(description="Stable code of the error, for programs.")
    errors: list[FieldError] | None = Field(None, description="With `invalid_request`: every invalid field.")

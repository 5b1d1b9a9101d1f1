"""Answers of both services: jobs and problems."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from shoal import notebook
from shoal.jobs.states import JobState

RESULTS = {
    "embeddings": "/embeddings",
    "clustering": "/clusterings",
    "sweep": "/sweeps",
    "assignments": "/assignments",
    "duplicates": "/duplicates",
    "quality": "/quality",
}
"""Field of a job's result with the id of what it made, and the route of it; a job makes one of them."""


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


class Callback(BaseModel):
    """The webhook of a job that was submitted with `callback_url`."""

    host: str = Field(description="Host that receives it.")
    state: str = Field(
        description="`waiting`: the job has not ended. `pending`: it is being delivered. `delivered`: the receiver "
        "answered 2xx. `dead`: it was given up."
    )
    attempts: int = Field(0, description="Number of attempts so far.")
    last_error: str | None = Field(None, description="Why the latest attempt failed; null if it did not.")
    next_attempt_at: datetime | None = Field(
        None, description="Earliest time of the next attempt, after one that failed."
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
    workers: int = Field(
        0, description="How many workers are at the job: more than one while others help with an extraction."
    )
    waiting_for: str | None = Field(
        None, description="For a queued job that no live worker can run: which worker is missing and how to start it."
    )
    request: dict[str, Any] = Field(description="The request body, as sent, without `callback_url`.")
    result: dict[str, Any] | None = Field(
        None, description="Ids and main figures of what the job produced; null until it has succeeded."
    )
    error: dict[str, Any] | None = Field(
        None, description="Why the job failed, as an RFC 9457 problem; null unless it has failed."
    )
    last_error: dict[str, object] | None = Field(
        None, description="Why the latest attempt that another one follows failed, as an RFC 9457 problem."
    )
    callback: Callback | None = Field(
        None, description="Delivery of the webhook at the job's end; null if the request had no `callback_url`."
    )
    links: dict[str, str] = Field(
        default_factory=dict, description="Paths of the job (`self`), its `events`, its `result` and its `report`."
    )

    def _repr_html_(self) -> str:
        stage = self.progress and f"{self.progress.stage} {self.progress.done:,}/{self.progress.total or '?'}"
        fields = {"state": self.state.value, "progress": stage if not self.state.terminal else None}
        error = (self.error or {}).get("detail")
        return notebook.facts(f"{self.kind} {self.id}", {**fields, "error": error, **(self.result or {})})


class JobPage(BaseModel):
    """A page of `GET /jobs`, newest first."""

    jobs: list[Job] = Field(description="The jobs of this page.")
    next_cursor: str | None = Field(None, description="Send it as `cursor` for the next page; null on the last page.")

    def _repr_html_(self) -> str:
        rows = [(job.id, job.kind, job.state.value, job.created_at.isoformat(" ", "seconds")) for job in self.jobs]
        return notebook.table(("id", "kind", "state", "created"), rows)


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

"""What a route may ask for: the queue, the store, the settings."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Header, Request

from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store


async def _queue(request: Request) -> JobQueue:
    return cast(JobQueue, request.app.state.queue)


async def _store(request: Request) -> Store:
    return cast(Store, request.app.state.store)


async def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


QueueDep = Annotated[JobQueue, Depends(_queue)]
StoreDep = Annotated[Store, Depends(_store)]
SettingsDep = Annotated[Settings, Depends(_settings)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Sending the same request again with the same key gives the same job back.",
    ),
]

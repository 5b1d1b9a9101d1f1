"""A service with keys, as others than its own machine would meet it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI, Response
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from pydantic import BaseModel
from shoal.jobs.queue import JobQueue
from shoal.keys import KeyStore, Scope
from shoal.schemas import ClusterRequest, Job
from shoal.settings import Settings
from shoal.store import Store
from shoal.web import IdempotencyKey, SubmitterDep, accepted, create_app

KIND = "test"
BODY = {"embeddings": "a", "clusters": 3}
router = APIRouter()


class Text(BaseModel):
    """A body that carries something itself."""

    text: str


@router.post("/things", status_code=202)
def post_thing(body: ClusterRequest, response: Response, submitter: SubmitterDep, key: IdempotencyKey = None) -> Job:
    return accepted(submitter.submit(KIND, body, key), response)


@router.delete("/things/{name}", status_code=204)
def delete_thing(name: str) -> None:
    pass


@router.post("/v1/embeddings")
def inline(body: Text) -> int:
    return len(body.text)


MakeApp = Callable[..., FastAPI]


@pytest.fixture
def make_app(redis_server: str, queue: JobQueue, tmp_path: Path) -> Iterator[MakeApp]:
    """``make_app(**settings)``: a small service that needs keys unless told otherwise."""
    made: list[FastAPI] = []

    def make(**changes: object) -> FastAPI:
        chosen = {"store": tmp_path, "redis_url": redis_server, "auth": "required", **changes}
        settings = Settings(**chosen)  # type: ignore[arg-type]
        app = create_app(
            service="test",
            routers=[router],
            kinds=[KIND],
            inline_paths=["/v1/embeddings"],
            settings=settings,
            queue=queue,
            store=Store(tmp_path),
        )
        made.append(app)
        return app

    yield make
    for app in made:
        if app.state.keys is not None:
            app.state.keys.close()


@pytest.fixture
def keys(redis_server: str, queue: JobQueue) -> Iterator[KeyStore]:
    """The keys of the session's server, none at first."""
    store = KeyStore.from_url(redis_server)
    yield store
    store.close()


@pytest.fixture
def client_with(make_app: MakeApp, keys: KeyStore) -> Callable[..., TestClient]:
    """``client_with(scope, **settings)``: a client that holds a fresh key of that scope, or none."""

    def make(scope: Scope | None, **changes: object) -> TestClient:
        headers = {"Authorization": f"Bearer {keys.create('tester', scope)[1]}"} if scope else {}
        return TestClient(make_app(**changes), headers=headers, raise_server_exceptions=False)

    return make


@pytest.fixture
def every_request() -> Callable[[FastAPI], list[tuple[str, str]]]:
    """``every_request(app)``: each method and path that a service has, documented or not."""
    return lambda app: [
        (method, re.sub(r"{[^}]*}", "some", str(route.path)))
        for route in iter_route_contexts(app.routes)
        for method in sorted(route.methods or ())
    ]

"""What a route refuses, whatever its function does, and for whom it stops working."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from clusterer.api import clusterings as clusterer_api
from extractor.api import routes as extractor_api
from extractor.sources import listing
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.testclient import TestClient
from shoal.deadline import Deadline
from shoal.errors import Unavailable
from shoal.jobs.queue import JobQueue
from shoal.schemas import ImageSource
from shoal.settings import Settings
from shoal.store import Store
from shoal.userfiles import UserFile
from shoal.web import DeadlineDep, create_app, pools
from shoal.web.pools import Pool
from shoal.web.route import Route, first_sentence
from shoal.web.route import router as make_router

SERVICES = {"extractor": extractor_api.build, "clusterer": clusterer_api.build}
JSON = {"content-type": "application/json"}


@pytest.fixture(params=SERVICES)
def client(request: pytest.FixtureRequest, queue: JobQueue, tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(store=tmp_path, data=tmp_path, models=tmp_path)
    app = SERVICES[request.param](settings, queue, Store(tmp_path))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def _routes(client: TestClient) -> list[tuple[str, APIRoute]]:
    """Every route but those of the pages: any address is the shell, and the extractor says what its routes take."""
    routes = [each.original_route for each in iter_route_contexts(client.app.routes)]  # type: ignore[attr-defined]
    return [
        (method, route)
        for route in routes
        if isinstance(route, APIRoute) and not (route.path_format == "/" or route.path_format.startswith("/ui/"))
        for method in sorted(route.methods or ())
    ]


def _json_routes(client: TestClient) -> list[str]:
    """Paths of the routes whose body is JSON; the body of others is an image."""
    return [route.path_format for method, route in _routes(client) if method == "POST" and route.body_field is not None]


def test_every_route_reads_and_answers_the_same_way(client: TestClient) -> None:
    assert all(isinstance(route, Route) for _, route in _routes(client))


def test_openapi_says_what_a_route_does_in_the_docstring_s_words(client: TestClient) -> None:
    documented = client.get("/openapi.json").json()["paths"]
    routes = {
        (route.path_format, method.lower()): first_sentence(route.endpoint.__doc__ or "")
        for method, route in _routes(client)
        if route.include_in_schema
    }
    operations = {
        (path, method): (operation["summary"], operation.get("description", ""))
        for path, methods in documented.items()
        for method, operation in methods.items()
    }
    assert operations == routes
    assert all(summary and not summary.endswith(".") and "\n" not in summary for summary, _ in operations.values())
    assert operations["/jobs", "get"] == ("List jobs, newest first", "")
    assert operations["/healthz", "get"] == ("Check that the process is alive", "Nothing else is checked.")


@pytest.mark.parametrize(
    ("docstring", "summary", "rest"),
    [
        ("Return a job.", "Return a job", ""),
        ("Cancel a job. It ends\n    soon.", "Cancel a job", "It ends\nsoon."),
        ("Return v1.0 of\n    a file.\n\n    As text.\n    ", "Return v1.0 of a file", "As text."),
        ("List: a, b, …", "List: a, b, …", ""),
        ("", "", ""),
    ],
)
def test_a_sentence_ends_at_its_full_stop(docstring: str, summary: str, rest: str) -> None:
    assert first_sentence(docstring) == (summary, rest)


def test_no_route_ignores_a_query_parameter(client: TestClient) -> None:
    for method, route in _routes(client):
        path = route.path_format.replace("{", "").replace("}", "")
        answer = client.request(method, path, params={"limi": 3})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), (method, path)
        assert "`limi`" in answer.json()["detail"]


def test_the_parameters_that_there_are_are_named(client: TestClient) -> None:
    problem = client.get("/jobs", params={"stat": "queued"}).json()
    assert problem["detail"] == (
        "/jobs has no query parameter `stat`; its query parameters are `state`, `kind`, `limit`, `cursor`."
    )
    twice = client.get("/jobs?limit=1&limit=2")
    assert (twice.status_code, twice.json()["field"]) == (422, "limit")


def test_no_route_takes_the_last_of_two_equal_keys(client: TestClient) -> None:
    posts = _json_routes(client)
    assert posts
    for path in posts:
        for body in (b'{"model": "a", "model": "b"}', b'{"x": {"model": 1, "model": 1}}'):
            answer = client.post(path.replace("{clustering_id}", "some"), content=body, headers=JSON)
            assert (answer.status_code, answer.json()["code"]) == (422, "duplicate_field"), path
            assert answer.json()["errors"][0]["field"] == "model"


@pytest.mark.parametrize("body", [b'{"\\ud800": 1}', b'{"' + b"k" * 100_000 + b'": 1}', b'{"a": "\\udfff"}'])
def test_a_key_that_cannot_be_said_is_refused(client: TestClient, body: bytes) -> None:
    for path in _json_routes(client):
        answer = client.post(path, content=body, headers=JSON)
        assert answer.status_code == 422, path
        assert len(answer.content) < 300_000


NAMES = [
    *("n" * 300, "n" * 255, "n" * 3000, "é" * 150, "a/" * 100, "timm%3A" + "n" * 290),
    *("a%00b", "%", "%zz", "a%0Ab", "%ED%A0%80", "%FF%FE", "..%2F.."),
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_in_an_address_breaks_a_route(client: TestClient, name: str) -> None:
    for method, route in _routes(client):
        if "{" in route.path_format:
            path = "/".join(name if part.startswith("{") else part for part in route.path_format.split("/"))
            answer = client.request(method, path, json={} if method == "POST" else None)
            assert answer.status_code in {404, 405, 422}, (method, route.path_format, answer.text)


def test_a_call_whose_caller_is_gone_stops(wait_until: Callable[..., None]) -> None:
    pool, steps, stopped = Pool("test", 1), [0], threading.Event()

    def walk_for_ever(deadline: Deadline) -> None:
        try:
            while True:
                deadline.check()
                steps[0] += 1
        except Unavailable:
            stopped.set()

    async def give_up() -> None:
        with Deadline(30.0) as deadline:
            async with anyio.create_task_group() as group:
                group.start_soon(pool.run, walk_for_ever, deadline)
                while not steps[0]:
                    await anyio.sleep(0.01)
                group.cancel_scope.cancel()

    anyio.run(give_up)
    wait_until(stopped.is_set)


def test_a_call_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "REQUEST_S", 0.05)
    go_on = threading.Event()

    async def wait() -> Any:
        try:
            return await Pool("test", 1).run(go_on.wait, 30)
        finally:
            go_on.set()

    with pytest.raises(Unavailable, match="took longer"):
        anyio.run(wait)


def test_a_deadline_stops_work_once_it_has_passed_or_is_cancelled() -> None:
    with Deadline(30.0) as deadline:
        deadline.check()
    with pytest.raises(Unavailable, match="closed the connection"):
        deadline.check()
    with pytest.raises(Unavailable, match="took longer than 30 s"):
        Deadline(30.0, _since=time.monotonic() - 31).check()


def test_a_client_that_hangs_up_ends_the_work_on_its_request(
    serve: Callable[..., int], queue: JobQueue, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    (tmp_path / "labels.csv").write_text("path,label\n" + "a.png,x\n" * 10)
    begun, ended = threading.Event(), threading.Event()
    routes = make_router()

    @routes.get("/endless")
    def endless(deadline: DeadlineDep) -> None:
        file = UserFile(tmp_path / "labels.csv")
        try:
            while True:
                with file.lines(deadline=deadline) as lines:
                    begun.set()
                    assert len(list(lines)) == 11
        finally:
            ended.set()

    settings = Settings(store=tmp_path, auth="off")
    app = create_app(
        service="test", routers=[routes], kinds=["test"], settings=settings, queue=queue, store=Store(tmp_path)
    )
    with socket.create_connection(("127.0.0.1", serve(app))) as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert begun.wait(30)
        assert not ended.is_set()
    assert ended.wait(30)


def test_a_walk_ends_with_its_request(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(Unavailable):
        listing.check(ImageSource(path="."), tmp_path, deadline=Deadline(30.0, cancelled=True))

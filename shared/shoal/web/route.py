"""How every route reads what is sent and writes what it answers: strictly, and never on the event loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any, ClassVar, Final

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel

from shoal.errors import InvalidRequest
from shoal.web import strictjson
from shoal.web.answers import json_response
from shoal.web.asgi import BODY
from shoal.web.pools import BODIES, LARGE_BODY, WORK, Pool
from shoal.web.problems import no_json

CLIENT_GONE: Final = 499
"""The status that logs and metrics have for a client that did not wait; nobody receives it."""
MAX_ERRORS: Final = 100
"""Faults of one body that a problem lists."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Route(APIRoute):
    """A route whose body is read, whose function is called and whose answer is written in threads.

    It refuses query parameters that it does not know and keys that an object has twice, and stops working for a client
    that is gone.
    """

    pool: ClassVar[Pool] = WORK

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, _in_thread(endpoint, self.pool, options.get("status_code")), **options)

    def get_route_handler(self) -> Handler:
        """What answers a request."""
        handler = super().get_route_handler()
        known = query_names(self.dependant)
        field = self.body_field

        async def handle(request: Request) -> Response:
            check_query(request, known)
            if field is not None and (body := await _body(request)):
                if not _is_json(request):
                    raise no_json()
                request = await _read(request, body, field.validate)
            return await _while_wanted(handler, request)

        return handle


def router(*, pool: Pool = WORK, **options: Any) -> APIRouter:
    """A router of such routes.

    Parameters
    ----------
    pool
        Where the functions of its routes run.
    """
    return APIRouter(route_class=type("Route", (Route,), {"pool": pool}), **options)


def query_names(dependant: Dependant) -> tuple[str, ...]:
    """The query parameters of a route and of what it depends on."""
    names = [field.alias for field in dependant.query_params]
    return (*names, *(name for inner in dependant.dependencies for name in query_names(inner)))


def check_query(request: Request, known: tuple[str, ...]) -> None:
    """Refuse a query parameter that the route does not know, or that is sent twice.

    Raises
    ------
    InvalidRequest
        The message names the parameter.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        shown = name if len(name) <= 100 else f"{name[:100]}…"
        if name not in known:
            there = ", ".join(f"`{each}`" for each in known)
            raise InvalidRequest(
                f"{request.url.path[:300]} has no query parameter `{shown}`; "
                + (f"it has {there}." if known else "it has none."),
                field=shown,
                known=list(known),
            )
        if names.count(name) > 1:
            raise InvalidRequest(f"The query parameter `{shown}` is sent more than once: send it once.", field=shown)


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind.startswith("application/") and (kind == "application/json" or kind.endswith("+json"))


class _ReadRequest(Request):
    """A request whose body has been read: FastAPI finds the value instead of the text."""

    def __init__(self, request: Request, value: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._value = value

    async def json(self) -> Any:
        return self._value

    async def body(self) -> bytes:
        return b"read"


async def _body(request: Request) -> bytes:
    body: bytes | None = request.scope.get(BODY)
    return await request.body() if body is None else body


async def _read(request: Request, body: bytes, validate: Callable[..., tuple[Any, Any]]) -> Request:
    pool = BODIES if len(body) > LARGE_BODY else WORK
    return _ReadRequest(request, await pool.run(_validated, body, validate))


def _validated(body: bytes, validate: Callable[..., tuple[Any, Any]]) -> Any:
    try:
        sent = strictjson.loads(body)
    except strictjson.InvalidJson as error:
        context = {"error": error.reason}
        fault = {"type": "json_invalid", "loc": ("body", error.place), "msg": "", "input": {}, "ctx": context}
        raise RequestValidationError([fault]) from error
    except strictjson.DuplicateKey as error:
        fault = {"type": "duplicate_key", "loc": ("body", error.key[:100]), "msg": "", "input": {}}
        raise RequestValidationError([fault]) from error
    value, errors = validate(sent, {}, loc=("body",))
    if errors:
        raise RequestValidationError(errors[:MAX_ERRORS], body=sent)
    _let_go(sent, value)
    return value


def _let_go(sent: Any, kept: Any) -> None:
    """Free a large value in pieces: in one go it takes as long as reading it, with the interpreter lock held.

    Parameters
    ----------
    kept
        What was made of it; lists that it took over as they are stay whole.
    """
    if not isinstance(sent, dict) or not isinstance(kept, BaseModel):
        return
    in_use = {id(value) for value in vars(kept).values()}
    for value in sent.values():
        while isinstance(value, list) and value and id(value) not in in_use:
            value.pop()


def _in_thread(endpoint: Callable[..., Any], pool: Pool, status_code: int | None) -> Callable[..., Any]:
    """``endpoint`` as FastAPI is to call it: one that is no coroutine runs in a thread, its answer is written there."""
    if inspect.iscoroutinefunction(endpoint):
        return endpoint

    @wraps(endpoint)
    async def called(**values: Any) -> Response:
        return await pool.run(_answer, partial(endpoint, **values), values, status_code)

    return called


def _answer(endpoint: Callable[[], Any], values: dict[str, Any], status_code: int | None) -> Response:
    result = endpoint()
    if isinstance(result, Response):
        return result
    # What the function says about its answer: it may have asked for a Response to say it with.
    said = next((value for value in values.values() if isinstance(value, Response)), None)
    status = (said.status_code if said else None) or status_code or 200
    answer = Response(status_code=204) if status == 204 else json_response(result, status)
    if said is not None:
        answer.headers.raw.extend(said.headers.raw)
    return answer


async def _while_wanted(handler: Handler, request: Request) -> Response:
    """The answer of ``handler``, which is stopped when the client closes its connection."""
    answer = Response(status_code=CLIENT_GONE)
    failure: Exception | None = None
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            answer = await handler(request)
        except Exception as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return answer

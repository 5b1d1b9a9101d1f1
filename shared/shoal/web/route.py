"""How every route reads its request, runs its function and writes its answer: strictly, and never on the event loop."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial, wraps
from typing import Annotated, Any, ClassVar, Final, TypeVar, cast

import anyio
from fastapi import APIRouter, Depends, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from shoal.deadline import Deadline
from shoal.errors import InvalidRequest
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store
from shoal.web import pools, strictjson
from shoal.web.middleware import BODY
from shoal.web.pools import BODIES, LARGE_BODY, WORK, Pool
from shoal.web.problems import not_json

CLIENT_CLOSED: Final = 499
"""The status that logs and metrics show for a client that closed its connection; nobody receives it."""
MAX_ERRORS: Final = 100
"""Faults of one body that a problem lists."""
JSON_ITEMS: Final = 256
"""Items of a list that are serialised in one go."""
JSON_DEPTH: Final = 3

M = TypeVar("M", bound=BaseModel)
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Validate = Callable[..., tuple[object, list[Any]]]


async def _queue(request: Request) -> JobQueue:
    return cast(JobQueue, request.app.state.queue)


async def _store(request: Request) -> Store:
    return cast(Store, request.app.state.store)


async def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


async def _deadline(request: Request) -> Deadline:
    return cast(Deadline, request.state.deadline)


QueueDep = Annotated[JobQueue, Depends(_queue)]
StoreDep = Annotated[Store, Depends(_store)]
SettingsDep = Annotated[Settings, Depends(_settings)]
DeadlineDep = Annotated[Deadline, Depends(_deadline)]


class Route(APIRoute):
    """A route whose body is parsed, whose function is called and whose answer is written in threads.

    It refuses unknown query parameters and duplicate keys of JSON objects, and stops when the client closes its
    connection. Its summary in OpenAPI is the first sentence of the function's docstring, its description the rest.
    """

    pool: ClassVar[Pool] = WORK

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, _in_thread(endpoint, self.pool, options.get("status_code")), **options)
        summary, rest = first_sentence(endpoint.__doc__ or "")
        self.summary = self.summary or summary or None
        # FastAPI puts the whole docstring where a description is empty, and leaves out what follows a form feed.
        self.description = options.get("description") or rest or "\f"

    def get_route_handler(self) -> Handler:
        """The function that answers a request."""
        handler = super().get_route_handler()
        known = query_names(self.dependant)
        field = self.body_field

        async def handle(request: Request) -> Response:
            check_query(request, known)
            if field is not None and (body := await body_of(request)):
                if not is_json(request):
                    raise not_json()
                request = _ParsedRequest(request, await parsing_pool(body).run(_parsed, body, field.validate))
            with Deadline(pools.REQUEST_S) as deadline:
                request.state.deadline = deadline
                return await _until_disconnect(handler, request)

        return handle


def router(*, pool: Pool = WORK, base: type[Route] = Route, **options: Any) -> APIRouter:
    """A router whose routes are `Route`.

    Parameters
    ----------
    pool
        Runs the functions of the routes.
    base
        The class of the routes.
    """
    return APIRouter(route_class=type("Route", (base,), {"pool": pool}), **options)


def first_sentence(docstring: str) -> tuple[str, str]:
    """The first sentence of a docstring, on one line and without its full stop, and what follows it."""
    sentence, *rest = re.split(r"\.(?=\s|$)", inspect.cleandoc(docstring), maxsplit=1)
    return " ".join(sentence.split()), "".join(rest).strip()


def query_names(dependant: Dependant) -> tuple[str, ...]:
    """The query parameters of a route and of its dependencies."""
    names = [field.alias for field in dependant.query_params]
    return (*names, *(name for inner in dependant.dependencies for name in query_names(inner)))


def check_query(request: Request, known: tuple[str, ...]) -> None:
    """Refuse a query parameter that is unknown or sent more than once.

    Raises
    ------
    InvalidRequest
        The message names the parameter.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        shown = name if len(name) <= 100 else f"{name[:100]}…"
        if name not in known:
            there = f"its query parameters are {_listed(known)}" if known else "it takes no query parameters"
            raise InvalidRequest(
                f"{request.url.path[:300]} has no query parameter `{shown}`; {there}.",
                field=shown,
                known=list(known),
            )
        if names.count(name) > 1:
            raise InvalidRequest(f"The query parameter `{shown}` is sent more than once. Send it once.", field=shown)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def media_type(request: Request) -> str:
    """The media type of a request's body, without its parameters; empty if none was sent."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(request: Request) -> bool:
    """Whether a request's body is JSON."""
    kind = media_type(request)
    return kind.startswith("application/") and (kind == "application/json" or kind.endswith("+json"))


class _ParsedRequest(Request):
    """A request whose body is parsed: FastAPI gets the value in place of the text."""

    def __init__(self, request: Request, value: object) -> None:
        super().__init__(request.scope, request.receive)
        self._value = value

    async def json(self) -> object:
        return self._value

    async def body(self) -> bytes:
        return b"parsed"


async def body_of(request: Request) -> bytes:
    """The body of a request, as it was received."""
    body: bytes | None = request.scope.get(BODY)
    return await request.body() if body is None else body


def parsing_pool(body: bytes) -> Pool:
    """The pool that parses a body."""
    return BODIES if len(body) > LARGE_BODY else WORK


def parse_json(body: bytes, model: type[M]) -> M:
    """A JSON body as a model, for a route that takes bodies of other media types too.

    Raises
    ------
    RequestValidationError
        It is empty, is not JSON, or is not valid; as for any other route.
    """

    def validate(value: object, _values: object, *, loc: tuple[str, ...]) -> tuple[object, list[object]]:
        try:
            return model.model_validate(value), []
        except ValidationError as error:
            return None, [{**each, "loc": (*loc, *each["loc"])} for each in error.errors(include_url=False)]

    if not body:
        raise RequestValidationError([{"type": "missing", "loc": ("body",), "msg": "", "input": None}])
    return cast(M, _parsed(body, validate))


def _parsed(body: bytes, validate: Validate) -> object:
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
    _free(sent, value)
    return value


def _free(sent: object, kept: object) -> None:
    """Free a large value in pieces: in one go it takes as long as parsing it, with the interpreter lock held.

    Parameters
    ----------
    kept
        The model made of it; lists that the model uses as they are stay whole.
    """
    if not isinstance(sent, dict) or not isinstance(kept, BaseModel):
        return
    in_use = {id(value) for value in vars(kept).values()}
    for value in sent.values():
        while isinstance(value, list) and value and id(value) not in in_use:
            value.pop()


def _in_thread(endpoint: Callable[..., Any], pool: Pool, status_code: int | None) -> Callable[..., Any]:
    """``endpoint`` for FastAPI: one that is no coroutine function runs in a thread, which writes its answer too."""
    if inspect.iscoroutinefunction(endpoint):
        return endpoint

    @wraps(endpoint)
    async def called(**values: object) -> Response:
        return await pool.run(_answer, partial(endpoint, **values), values, status_code)

    return called


def _answer(endpoint: Callable[[], object], values: Mapping[str, object], status_code: int | None) -> Response:
    result = endpoint()
    if isinstance(result, Response):
        return result
    # A function that takes a `Response` sets the status and the headers of its answer there.
    given = next((value for value in values.values() if isinstance(value, Response)), None)
    status = (given.status_code if given else None) or status_code or 200
    answer = Response(status_code=204) if status == 204 else json_response(result, status)
    if given is not None:
        answer.headers.raw.extend(given.headers.raw)
    return answer


async def _until_disconnect(handler: Handler, request: Request) -> Response:
    """The answer of ``handler``, which is cancelled when the client closes its connection."""
    answer = Response(status_code=CLIENT_CLOSED)
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


def json_response(value: object, status_code: int = 200) -> Response:
    """``value`` as a JSON response, serialised in pieces: a large one keeps no other thread from running."""
    return Response(b"".join(json_pieces(value)), status_code, media_type="application/json")


def json_pieces(value: object, depth: int = 0) -> Iterator[bytes]:
    """``value`` as JSON; NaN becomes null, as in FastAPI."""
    if depth < JSON_DEPTH and isinstance(value, BaseModel) and not _has_serialisers(value):
        value = dict(value)
    if depth < JSON_DEPTH and isinstance(value, dict):
        yield from _object_pieces(value, depth)
    elif depth < JSON_DEPTH and isinstance(value, list) and value:
        yield from _list_pieces(value, depth)
    else:
        yield to_json(value, inf_nan_mode="null")


def _object_pieces(value: Mapping[object, object], depth: int) -> Iterator[bytes]:
    before = b"{"
    for key, each in value.items():
        # `to_json` turns a key of another type into text.
        yield before + to_json({key: None})[1:-5]
        yield from json_pieces(each, depth + 1)
        before = b","
    yield b"}" if value else b"{}"


def _list_pieces(value: list[object], depth: int) -> Iterator[bytes]:
    before = b"["
    if isinstance(value[0], list | BaseModel):
        for each in value:
            yield before
            yield from json_pieces(each, depth + 1)
            before = b","
    else:
        for first in range(0, len(value), JSON_ITEMS):
            yield before + to_json(value[first : first + JSON_ITEMS], inf_nan_mode="null")[1:-1]
            before = b","
    yield b"]"


def _has_serialisers(value: BaseModel) -> bool:
    decorators = type(value).__pydantic_decorators__
    return bool(decorators.field_serializers or decorators.model_serializers or decorators.computed_fields)

"""Every error leaves as RFC 9457 `application/problem+json` with a stable code."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal.errors import ShoalError, UnsupportedMediaType
from shoal.schemas import Problem
from shoal.web.fields import field_errors

log = structlog.get_logger()

PROBLEM_JSON = "application/problem+json"
UNEXPECTED = "The service failed on this request; its log holds the traceback. Please report it."
_NO_JSON = {"type": "json_invalid", "loc": ("body", 0), "msg": "", "ctx": {"error": "it cannot be read as UTF-8 text"}}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problems that a route may answer with."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": HTTPStatus(status).phrase, "model": Problem, "content": {PROBLEM_JSON: schema}}
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Turn what routes of ``app`` raise on purpose into problems; `Unexpected` does so with everything else."""
    app.add_exception_handler(ShoalError, _shoal_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)


class Unexpected:
    """Answers 500 where a route or a middleware fails, behind what every answer goes through: headers, audit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answered = False

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if answered:
                # Too late for another answer: the server cuts the connection, which the client sees.
                raise
            log.error("request_failed", method=scope["method"], path=scope["path"], exc_info=error)
            await shoal_problem(ShoalError(UNEXPECTED))(scope, receive, send)


def no_json() -> UnsupportedMediaType:
    """The error of a body of another type."""
    return UnsupportedMediaType("Send the body as JSON, with the header `Content-Type: application/json`.")


def problem_response(error: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem as a response."""
    return JSONResponse(error, status_code=error["status"], media_type=PROBLEM_JSON, headers=headers)


def shoal_problem(error: ShoalError) -> JSONResponse:
    """``error`` as a response, with the headers that its status asks for."""
    headers = {}
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "5"
    if "retry_after_s" in error.members:
        headers["Retry-After"] = str(error.members["retry_after_s"])
    if error.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT}:
        # What is left of the request was not read, and is not the next request.
        headers["Connection"] = "close"
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return problem_response(error.problem(), headers)


async def _shoal_error(request: Request, error: Exception) -> JSONResponse:
    return shoal_problem(error if isinstance(error, ShoalError) else ShoalError(str(error)))


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    invalid = error if isinstance(error, RequestValidationError) else RequestValidationError([])
    if isinstance(invalid.body, bytes):  # It was not even looked at: its type is not JSON.
        return shoal_problem(no_json())
    errors = field_errors(invalid.errors(), invalid.body)
    codes = {each["code"] for each in errors}
    code = codes.pop() if len(codes) == 1 else "invalid_request"
    detail = "; ".join(f"{each['field'] or 'body'}: {each['message']}" for each in errors[:5])
    return problem_response(
        {
            "type": f"urn:shoal:error:{code}",
            "title": code.replace("_", " "),
            "status": 422,
            "detail": detail or "The request does not fit the schema; see /docs.",
            "code": code,
            "errors": errors,
        }
    )


async def _http_exception(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == HTTPStatus.BAD_REQUEST:  # FastAPI's only one: bytes that are no UTF-8, or nested without end.
        return await _validation_error(request, RequestValidationError([_NO_JSON]))
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    phrase = HTTPStatus(status).phrase
    code = phrase.lower().replace(" ", "_")
    detail = f"{request.method} {request.url.path}: {phrase}. The routes are listed at /docs."
    return problem_response(
        {"type": f"urn:shoal:error:{code}", "title": phrase, "status": status, "detail": detail, "code": code}, headers
    )

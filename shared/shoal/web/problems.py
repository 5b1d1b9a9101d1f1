"""Every error is answered as RFC 9457 `application/problem+json` with a stable code.

Pydantic's errors become sentences about the fields of a request, for readers who know neither pydantic nor our classes.
Where a field takes values of several kinds, such as a name or an object, pydantic reports the errors of each kind. Only
those of the kind that was meant are reported: the kind whose inside was validated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException

from shoal.errors import ShoalError, UnsupportedMediaType
from shoal.schemas import NAME_PATTERN, NAME_RULE, Problem

PROBLEM_JSON: Final = "application/problem+json"
MAX_MESSAGE: Final = 1000
OPENAI: Final = "/v1/"
"""Beginning of the paths of OpenAI's routes."""
UNEXPECTED: Final = "An internal error occurred; the service's log has the traceback. Please report it."
_NOT_UTF8 = {"type": "json_invalid", "loc": ("body", 0), "msg": "", "ctx": {"error": "it is not valid UTF-8"}}

_CODES = {
    "extra_forbidden": "unknown_field",
    "missing": "missing_field",
    "duplicate_key": "duplicate_field",
    "finite_number": "not_finite",
    "json_invalid": "invalid_json",
    "greater_than": "out_of_range",
    "greater_than_equal": "out_of_range",
    "less_than": "out_of_range",
    "less_than_equal": "out_of_range",
    "too_long": "out_of_range",
    "too_short": "out_of_range",
    "string_too_long": "out_of_range",
    "string_too_short": "out_of_range",
}
_TEXTS = {
    "unknown_field": "Unknown field; /docs lists the fields of this request.",
    "missing_field": "This field is required.",
    "duplicate_field": "This field is sent more than once. Send it once.",
    "not_finite": "NaN and infinity are not allowed.",
}
_KINDS = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "string_type": "a string",
}
"""The expected value, by the type of pydantic's error."""
_NAMES_A_FIELD = frozenset({"missing", "extra_forbidden", "duplicate_key"})


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problems that a route may answer with."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": HTTPStatus(status).phrase, "model": Problem, "content": {PROBLEM_JSON: schema}}
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Answer the exceptions that routes of ``app`` raise on purpose; `UnexpectedErrors` answers all others."""
    app.add_exception_handler(ShoalError, _shoal_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)


def not_json() -> UnsupportedMediaType:
    """The error of a body with another media type."""
    return UnsupportedMediaType("Send the body as JSON, with the header `Content-Type: application/json`.")


def problem_response(error: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem as a response."""
    return JSONResponse(error, status_code=error["status"], media_type=PROBLEM_JSON, headers=headers)


def shoal_problem(error: ShoalError) -> JSONResponse:
    """``error`` as a response, with the headers that belong to its status."""
    headers = {}
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "5"
    if "retry_after_s" in error.members:
        headers["Retry-After"] = str(error.members["retry_after_s"])
    if error.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT}:
        # The rest of the request was not read, and must not be taken for the next request.
        headers["Connection"] = "close"
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return problem_response(error.problem(), headers)


def _with_message(request: Request, detail: str) -> dict[str, str]:
    """A further member for OpenAI's client, which shows no other text of a problem."""
    return {"message": detail[:MAX_MESSAGE]} if request.url.path.startswith(OPENAI) else {}


async def _shoal_error(request: Request, error: Exception) -> JSONResponse:
    known = error if isinstance(error, ShoalError) else ShoalError(str(error))
    known.members.update(_with_message(request, known.detail))
    return shoal_problem(known)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    invalid = error if isinstance(error, RequestValidationError) else RequestValidationError([])
    if isinstance(invalid.body, bytes):  # Not parsed: its media type is not JSON.
        return shoal_problem(not_json())
    errors = field_errors(invalid.errors(), invalid.body)
    codes = {each["code"] for each in errors}
    code = codes.pop() if len(codes) == 1 else "invalid_request"
    detail = "; ".join(f"{each['field'] or 'body'}: {each['message']}" for each in errors[:5])
    return problem_response(
        {
            "type": f"urn:shoal:error:{code}",
            "title": code.replace("_", " "),
            "status": 422,
            "detail": detail or "The request does not match the schema; see /docs.",
            "code": code,
            "errors": errors,
            **_with_message(request, detail),
        }
    )


async def _http_exception(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == HTTPStatus.BAD_REQUEST:  # FastAPI's only one: not UTF-8, or nested too deeply.
        return await _validation_error(request, RequestValidationError([_NOT_UTF8]))
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    phrase = HTTPStatus(status).phrase
    code = phrase.lower().replace(" ", "_")
    detail = f"{request.method} {request.url.path}: {phrase}. The routes are listed at /docs."
    return problem_response(
        {"type": f"urn:shoal:error:{code}", "title": phrase, "status": status, "detail": detail, "code": code}, headers
    )


@dataclass(frozen=True, eq=False)
class _Fault:
    """One of pydantic's errors.

    Attributes
    ----------
    field
        Path within the request, without the names of the kinds.
    kinds
        For each field on the path that takes several kinds: its path and the kind that was tried.
    error
        Pydantic's error.
    """

    field: tuple[str, ...]
    kinds: dict[tuple[str, ...], str]
    error: ErrorDetails

    @property
    def expected(self) -> str | None:
        """The expected kind of value, if the error is that another kind was sent."""
        if self.error["type"] == "literal_error":
            return str(self.error["ctx"]["expected"])
        return _KINDS.get(self.error["type"])


def field_errors(errors: Sequence[ErrorDetails], body: object = None) -> list[dict[str, str]]:
    """Pydantic's errors as (field, code, message), without the offending input: it may be huge, or secret.

    Parameters
    ----------
    errors
        As `RequestValidationError.errors()` gives them: places begin with ``body``, ``query``, ``path`` or ``header``.
    body
        The body as sent, to tell the names of fields from those of kinds.
    """
    faults = [_fault(error, body) for error in errors]
    found: dict[tuple[str, str], dict[str, str]] = {}
    for group in _by_choice(faults):
        for field, code, message in _messages(group):
            found.setdefault((field, message), {"field": field, "code": code, "message": message})
    return list(found.values())


def _fault(error: ErrorDetails, body: object) -> _Fault:
    source, *place = error["loc"]
    if source != "body" or error["type"] == "json_invalid":
        return _Fault(tuple(str(part) for part in place) if source != "body" else (), {}, error)
    at = body
    field: tuple[str, ...] = ()
    kinds: dict[tuple[str, ...], str] = {}
    for number, part in enumerate(place):
        last = number == len(place) - 1
        if isinstance(at, dict) and part in at:
            field, at = (*field, str(part)), at[part]
        elif isinstance(at, list) and isinstance(part, int):
            field, at = (*field, str(part)), at[part] if part < len(at) else None
        elif last and error["type"] in _NAMES_A_FIELD:
            field = (*field, str(part))
        else:
            kinds[field] = str(part)
    return _Fault(field, kinds, error)


def _by_choice(faults: Sequence[_Fault]) -> list[list[_Fault]]:
    """Faults in order, grouped by choice between kinds; of each choice only the faults of the kind that was meant."""
    groups: dict[object, list[_Fault]] = {}
    for fault in faults:
        groups.setdefault(next(iter(fault.kinds), fault), []).append(fault)
    found: list[list[_Fault]] = []
    for choice, group in groups.items():
        found += _meant(choice, group) if isinstance(choice, tuple) else [group]
    return found


def _meant(choice: tuple[str, ...], group: list[_Fault]) -> list[list[_Fault]]:
    validated = {fault.kinds[choice] for fault in group if fault.field != choice or fault.expected is None}
    if len(validated) != 1:
        return [[fault for fault in group if not validated or fault.kinds[choice] in validated]]
    inside = [fault for fault in group if fault.kinds[choice] in validated]
    return _by_choice([replace(f, kinds={at: kind for at, kind in f.kinds.items() if at != choice}) for f in inside])


def _messages(group: Sequence[_Fault]) -> list[tuple[str, str, str]]:
    """(field, code, message) of each fault; one for all if the value is of none of several kinds."""
    expected = list(dict.fromkeys(fault.expected for fault in group if fault.expected))
    if len(expected) > 1 and len({fault.field for fault in group}) == 1:
        literal = any(fault.error["type"] == "literal_error" for fault in group)
        code = "invalid_value" if literal else "wrong_type"
        return [(".".join(group[0].field), code, f"Send {' or '.join(expected)}.")]
    return [(".".join(fault.field), *_code_and_message(fault)) for fault in group]


def _code_and_message(fault: _Fault) -> tuple[str, str]:
    kind = str(fault.error["type"])
    code = _CODES.get(kind, "wrong_type" if kind.endswith(("_type", "_parsing", "_from_float")) else "invalid_value")
    context = fault.error.get("ctx") or {}
    if kind == "json_invalid":
        place = fault.error["loc"][-1]
        return code, f"The body is not valid JSON, at character {place}: {context.get('error', 'it ends too early')}."
    if kind == "string_pattern_mismatch" and context.get("pattern") == NAME_PATTERN:
        return code, NAME_RULE
    if kind in _KINDS:
        return code, f"Send {_KINDS[kind]}."
    return code, _TEXTS.get(code) or str(fault.error["msg"]).removeprefix("Value error, ")

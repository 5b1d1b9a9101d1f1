"""pydantic's errors as sentences about the fields of a request, for people who know neither pydantic nor our classes.

Where a field takes values of several kinds, such as a name or an object, pydantic reports what is wrong by each kind in
turn. Only the kind that was meant is of use: the one whose inside was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from shoal.schemas import NAME_PATTERN, NAME_RULE

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
_MESSAGES = {
    "unknown_field": "There is no field of this name; see /docs for the fields there are.",
    "missing_field": "This field is required.",
    "duplicate_field": "This field is sent more than once: send it once.",
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
"""What was expected, by the type of pydantic's error when something else was sent."""
_NAMES_A_FIELD = frozenset({"missing", "extra_forbidden", "duplicate_key"})


@dataclass(frozen=True, eq=False)
class _Fault:
    """One of pydantic's errors.

    Attributes
    ----------
    field
        Path within the request, without the names of the kinds.
    kinds
        For each field on the way that takes several kinds: its path and the kind that was tried.
    error
        What pydantic says.
    """

    field: tuple[str, ...]
    kinds: dict[tuple[str, ...], str]
    error: Any

    @property
    def expected(self) -> str | None:
        """What the field takes, where a value of another kind was sent."""
        if self.error["type"] == "literal_error":
            return str(self.error["ctx"]["expected"])
        return _KINDS.get(self.error["type"])


def field_errors(errors: Sequence[Any], body: Any = None) -> list[dict[str, str]]:
    """pydantic's errors as (field, code, message), without the offending input: it may be huge, or secret.

    Parameters
    ----------
    errors
        As `RequestValidationError.errors()` gives them: places begin with ``body``, ``query``, ``path`` or ``header``.
    body
        What was sent, to tell the names of fields from those of kinds.
    """
    faults = [_fault(error, body) for error in errors]
    found: dict[tuple[str, str], dict[str, str]] = {}
    for group in _by_choice(faults):
        for field, code, message in _said(group):
            found.setdefault((field, message), {"field": field, "code": code, "message": message})
    return list(found.values())


def _fault(error: Any, body: Any) -> _Fault:
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
    """Faults in their order, those of one choice between kinds together and only those of the kinds that were meant."""
    groups: dict[object, list[_Fault]] = {}
    for fault in faults:
        groups.setdefault(next(iter(fault.kinds), fault), []).append(fault)
    found: list[list[_Fault]] = []
    for choice, group in groups.items():
        found += _meant(choice, group) if isinstance(choice, tuple) else [group]
    return found


def _meant(choice: tuple[str, ...], group: list[_Fault]) -> list[list[_Fault]]:
    looked_into = {fault.kinds[choice] for fault in group if fault.field != choice or fault.expected is None}
    if len(looked_into) != 1:
        return [[fault for fault in group if not looked_into or fault.kinds[choice] in looked_into]]
    inside = [fault for fault in group if fault.kinds[choice] in looked_into]
    return _by_choice([replace(f, kinds={at: kind for at, kind in f.kinds.items() if at != choice}) for f in inside])


def _said(group: Sequence[_Fault]) -> list[tuple[str, str, str]]:
    """(field, code, message) of each fault; one for all where none of several kinds was sent."""
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
        return code, f"The body is no valid JSON, at character {place}: {context.get('error', 'it breaks off')}."
    if kind == "string_pattern_mismatch" and context.get("pattern") == NAME_PATTERN:
        return code, NAME_RULE
    if kind in _KINDS:
        return code, f"Send {_KINDS[kind]}."
    return code, _MESSAGES.get(code) or str(fault.error["msg"]).removeprefix("Value error, ")

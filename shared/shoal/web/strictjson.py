"""A JSON parser that refuses duplicate keys and lets other threads run.

Python's own parser keeps the last of two equal keys, and holds the interpreter lock until the end: a second for 64 MB,
during which the event loop stands still. This one refuses duplicate keys and parses a large text in small pieces.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any, Final

from pydantic_core import from_json

PIECE: Final = 1 << 17
"""Bytes that are parsed in one go: about a millisecond."""
MAX_DEPTH: Final = 200
"""Of a large text; for a small one Python has its own limit."""
MAX_VALUES: Final = 500_000
"""Of a large text, besides numbers in plain lists: a body that no route accepts must not fill the memory."""

_SPACE = re.compile(rb"[ \t\n\r]*")
_NUMBERS = re.compile(rb"[0-9+\-.eE, \t\n\r]+")
_WORD = re.compile(rb"[A-Za-z0-9+\-.]{1,5000}")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_TEXT = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+')


class InvalidJson(ValueError):
    """The text is not JSON.

    Parameters
    ----------
    reason
        What is wrong.
    place
        Index of the character; in a large text, of the byte.
    """

    def __init__(self, reason: str, place: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.place = place


class DuplicateKey(ValueError):
    """An object has the same key twice.

    Parameters
    ----------
    key
        The key.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def loads(body: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises
    ------
    InvalidJson
        The text is not JSON, is nested too deeply, or has a number of thousands of digits.
    DuplicateKey
        An object has the same key twice.
    """
    if len(body) <= PIECE:
        value, escaped = _decode(body), b"\\u" in body
    else:
        reader = _Reader(body)
        value, escaped = reader.document(), reader.escaped
    if escaped and not _is_unicode(value):
        raise InvalidJson("it has an unpaired surrogate, which is not a character")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        raise DuplicateKey(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _decode(text: bytes, offset: int = 0) -> Any:
    try:
        return _DECODER.decode(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidJson("it is not valid UTF-8", offset + error.start) from error
    except json.JSONDecodeError as error:
        raise InvalidJson(error.msg, offset + error.pos) from error
    except RecursionError as error:
        raise InvalidJson("it is nested too deeply") from error
    except DuplicateKey:
        raise
    except ValueError as error:
        raise InvalidJson("it has a number of thousands of digits") from error


def _decode_numbers(text: bytes, offset: int) -> list[float]:
    """A list of numbers, several times as fast as `_decode`, which says what is wrong if something is."""
    try:
        numbers: list[float] = from_json(text)
    except ValueError:
        numbers = _decode(text, offset)
    return numbers


def _is_unicode(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return all(_is_unicode(each) for pair in value.items() for each in pair)
    return all(_is_unicode(each) for each in value) if isinstance(value, list) else True


class _Reader:
    """Parses a large text: its structure in Python, which lets other threads run, the values in pieces."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._values = 0
        self.escaped = False
        """Whether a string has an escape: only then can it contain an unpaired surrogate."""

    def document(self) -> Any:
        value, end = self._value(self._skip(0), 0)
        end = self._skip(end)
        if end != len(self._text):
            raise InvalidJson("Extra data", end)
        return value

    def _value(self, start: int, depth: int) -> tuple[Any, int]:
        self._values += 1
        if self._values > MAX_VALUES:
            raise InvalidJson(f"it has more than {MAX_VALUES} values", start)
        if depth > MAX_DEPTH:
            raise InvalidJson("it is nested too deeply", start)
        first = self._text[start : start + 1]
        if first == b'"':
            return self._string(start + 1)
        if first == b"[":
            return self._list(start + 1, depth + 1)
        if first == b"{":
            return self._object(start + 1, depth + 1)
        word = _WORD.match(self._text, start)
        if word is None:
            raise InvalidJson("Expecting value", start)
        return _decode(word.group(), start), word.end()

    def _list(self, at: int, depth: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        at = self._skip(at)
        if self._text[at : at + 1] == b"]":
            return found, at + 1
        while True:
            at = self._numbers(at, found)
            value, at = self._value(at, depth)
            found.append(value)
            at, more = self._next(at, b"]")
            if not more:
                return found, at

    def _numbers(self, at: int, into: list[Any]) -> int:
        """Parse the numbers from ``at`` on that are followed by a comma; returns where the next value begins."""
        while (run := _NUMBERS.match(self._text, at, at + PIECE)) is not None:
            last = self._text.rfind(b",", at, run.end())
            if last < at:
                return at
            if last == at:
                raise InvalidJson("Expecting value", at)
            into.extend(_decode_numbers(b"[%b]" % self._text[at:last], at - 1))
            at = self._skip(last + 1)
        return at

    def _object(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        at = self._skip(at)
        if self._text[at : at + 1] == b"}":
            return found, at + 1
        while True:
            if self._text[at : at + 1] != b'"':
                raise InvalidJson("Expecting property name enclosed in double quotes", at)
            key, at = self._string(at + 1)
            at = self._skip(at)
            if self._text[at : at + 1] != b":":
                raise InvalidJson("Expecting ':' delimiter", at)
            if key in found:
                raise DuplicateKey(key)
            found[key], at = self._value(self._skip(at + 1), depth)
            at, more = self._next(at, b"}")
            if not more:
                return found, at

    def _string(self, at: int) -> tuple[str, int]:
        parts: list[str] = []
        start = at
        while True:
            end = self._whole(_PLAIN, at)
            plain = end > at
            if not plain:
                end = self._whole(_TEXT, at)
                self.escaped |= end > at
            piece = self._text[at:end]
            try:
                parts.append(piece.decode("utf-8") if plain else _decode(b'"%b"' % piece, at - 1))
            except UnicodeDecodeError as error:
                raise InvalidJson("it is not valid UTF-8", at + error.start) from error
            after = self._text[end : end + 1]
            if after == b'"':
                return _joined(parts), end + 1
            if end == at:
                reason = "Unterminated string starting at" if not after else "Invalid control character or escape at"
                raise InvalidJson(reason, at if after else start - 1)
            at = end

    def _whole(self, pattern: re.Pattern[bytes], at: int) -> int:
        """The end of a piece that ``pattern`` matches, which is never inside a character."""
        run = pattern.match(self._text, at, at + PIECE)
        end = run.end() if run else at
        first = end
        while first > at and end - first < 4 and self._text[first - 1] & 0xC0 == 0x80:
            first -= 1
        # A character of several bytes at the end goes to the next piece, unless it is all there is.
        return first - 1 if first - 1 > at and self._text[first - 1] >= 0xC0 else end

    def _next(self, at: int, closing: bytes) -> tuple[int, bool]:
        at = self._skip(at)
        after = self._text[at : at + 1]
        if after == b",":
            return self._skip(at + 1), True
        if after == closing:
            return at + 1, False
        raise InvalidJson("Expecting ',' delimiter", at)

    def _skip(self, at: int) -> int:
        while True:
            run = _SPACE.match(self._text, at, at + PIECE)
            end = run.end() if run else at
            if end < at + PIECE:
                return end
            at = end


def _joined(parts: list[str]) -> str:
    text = "".join(parts)
    if len(parts) > 1 and not text.isascii() and not _is_unicode(text):
        # The two surrogates of a pair may be in two pieces.
        with suppress(UnicodeDecodeError):
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
    return text

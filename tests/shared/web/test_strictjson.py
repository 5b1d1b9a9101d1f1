"""JSON is read as Python reads it, but for what Python lets pass; large texts in pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.web import strictjson

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
PIECES = pytest.mark.parametrize("piece", [8, strictjson.PIECE])


@PIECES
@given(value=VALUES, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_every_value_is_read_back(piece: int, value: Any, ascii_only: bool, indent: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strictjson, "PIECE", piece)
        assert strictjson.loads(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()) == value


@given(texts=st.lists(st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)))
def test_numbers_in_long_lists_are_those_that_python_reads(texts: list[str]) -> None:
    text = f"[{','.join(texts)}]"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strictjson, "PIECE", 8)
        assert repr(strictjson.loads(text.encode())) == repr(json.loads(text))


@PIECES
@given(value=VALUES, place=st.integers(0, 10_000), other=st.sampled_from(["", ",", '"', "x", "]", "1", "\\", "\x01"]))
def test_what_python_refuses_is_refused(piece: int, value: Any, place: int, other: str) -> None:
    text = json.dumps(value)
    place %= len(text)
    text = text[:place] + other + text[place + 1 :]
    try:
        expected: Any = json.loads(text, object_pairs_hook=strictjson._unique)
        json.dumps(expected, ensure_ascii=False).encode()
    except ValueError:
        expected = ValueError
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strictjson, "PIECE", piece)
        try:
            found: Any = strictjson.loads(text.encode())
        except ValueError:
            found = ValueError
    assert repr(found) == repr(expected)


@PIECES
@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1, "a": 2, "padding": ""}',
        b'{"deeper": [{"b": 1, "a": {}, "a": {}}]}',
        b'{"a": 1, "\\u0061": 2, "padding": ""}',
    ],
)
def test_a_key_that_is_sent_twice_is_named(monkeypatch: pytest.MonkeyPatch, piece: int, text: bytes) -> None:
    monkeypatch.setattr(strictjson, "PIECE", piece)
    with pytest.raises(strictjson.DuplicateKey) as caught:
        strictjson.loads(text)
    assert caught.value.key == "a"


@PIECES
@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"' + b"9" * 30 + b'": ' + b"9" * 5000 + b"}",
        b'["\xff\xfe and more"]',
        b'["\\ud800 and more"]',
        b'{"\\ud800 and more": 1}',
        b'"never ends',
        b'["a tab \t in it"]',
    ],
)
def test_what_cannot_be_held_is_refused(monkeypatch: pytest.MonkeyPatch, piece: int, text: bytes) -> None:
    monkeypatch.setattr(strictjson, "PIECE", piece)
    with pytest.raises(strictjson.InvalidJson):
        strictjson.loads(text)


def test_more_values_than_any_route_takes_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strictjson, "MAX_VALUES", 1000)
    with pytest.raises(strictjson.InvalidJson, match="more than 1000 values"):
        strictjson.loads(b"[" + b"[]," * strictjson.PIECE + b"[]]")
    assert len(strictjson.loads(b"[" + b"1," * strictjson.PIECE + b"1]")) == strictjson.PIECE + 1

"""Which addresses the operator's list allows, and what an address is."""

from __future__ import annotations

import pytest
from extractor.remote.allowed import AddressInvalid, Allowed, parse
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("entry", "address", "allowed"),
    [
        ("a.example", "https://a.example/1.jpg", True),
        ("a.example", "https://A.Example.:443/1.jpg", True),
        ("a.example", "http://a.example/1.jpg", False),
        ("http://a.example", "http://a.example/1.jpg", True),
        ("http://a.example", "https://a.example/1.jpg", True),
        ("https://a.example/", "https://a.example/1.jpg", True),
        ("a.example", "https://b.a.example/1.jpg", False),
        ("a.example", "https://xa.example/1.jpg", False),
        ("a.example", "https://a.example.evil/1.jpg", False),
        ("a.example", "https://a.example:22/1.jpg", False),
        ("a.example:8443", "https://a.example:8443/1.jpg", True),
        ("a.example:8443", "https://a.example/1.jpg", False),
        (".a.example", "https://x.y.a.example/1.jpg", True),
        (".a.example", "https://a.example/1.jpg", False),
        (".a.example", "https://xa.example/1.jpg", False),
        ("*", "https://any.where/1.jpg", True),
        ("*", "http://any.where/1.jpg", False),
        ("*", "https://any.where:6379/1.jpg", False),
        ("http://*", "http://any.where/1.jpg", True),
        ("10.0.0.0/8", "https://10.1.1.1/1.jpg", False),
        ("10.1.1.1", "https://10.1.1.1/1.jpg", True),
        ("s3://bucket", "s3://bucket/a/1.jpg", True),
        ("s3://bucket", "s3://bucket2/a/1.jpg", False),
        ("s3://bucket", "https://bucket/a/1.jpg", False),
        ("s3://bucket/a/", "s3://bucket/a/1.jpg", True),
        ("s3://bucket/a/", "s3://bucket/b/1.jpg", False),
        ("http://*", "s3://bucket/a/1.jpg", False),
        ("bucket", "s3://bucket/a/1.jpg", False),
        ("[fd00::1]", "https://[fd00::1]/1.jpg", True),
    ],
)
def test_an_entry_allows_what_it_says(entry: str, address: str, allowed: bool) -> None:
    assert Allowed.parse([entry]).allows(parse(address)) is allowed


def test_nothing_is_allowed_by_default() -> None:
    assert not Allowed.parse([])
    assert not Allowed.parse([]).allows(parse("https://a.example/1.jpg"))


@pytest.mark.parametrize(
    "entry",
    ["ftp://a.example", "a.example/path", "user@a.example", "10.0.0.0/99", "", "a b", "*.x", "a:b", "*:99999", "[::1"],
)
def test_an_entry_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="SHOAL_SOURCES_ALLOW"):
        Allowed.parse([entry])


@pytest.mark.parametrize(
    "written",
    [
        "https://",
        "https:///1.jpg",
        "https://user@a.example/1.jpg",
        "https://user:secret@a.example/1.jpg",
        "https://a.example:99999/1.jpg",
        "https://[::1/1.jpg",
        "https://a.example\\@127.0.0.1/1.jpg",
        "https://a.exa mple/1.jpg",
        "file:///etc/passwd",
        "s3://bucket",
        "s3://bucket/",
        "s3:///1.jpg",
        "s3://user@bucket/1.jpg",
        "s3://bucket/a/../b/1.jpg",
        "s3://bucket/a\n1.jpg",
        "https://a.example/" + "x" * 5000,
    ],
)
def test_what_is_no_plain_address_is_refused(written: str) -> None:
    with pytest.raises(AddressInvalid):
        parse(written)


def test_the_key_of_an_object_is_taken_as_it_is_written() -> None:
    address = parse("s3://bucket/a b/50%25?#ü.jpg")
    assert (address.host, address.path) == ("bucket", "/a b/50%25?#ü.jpg")
    assert parse(address.text) == address


def test_spellings_of_one_address_are_one() -> None:
    written = [
        "https://a.example/a%20b.jpg?x=1",
        "HTTPS://A.EXAMPLE:443/a b.jpg?x=1#part",
        " https://a.example./a b.jpg?x=1",
    ]
    assert {parse(each).text for each in written} == {"https://a.example/a%20b.jpg?x=1"}
    assert parse("https://bücher.example/ü.jpg").text == "https://xn--bcher-kva.example/%C3%BC.jpg"


@given(st.text(max_size=40), st.text(max_size=20))
def test_an_address_that_was_parsed_parses_to_itself(path: str, query: str) -> None:
    try:
        first = parse(f"https://a.example/{path}?{query}")
    except AddressInvalid:
        return
    assert first.host == "a.example"
    assert parse(first.text) == first
    assert first.text.isascii()

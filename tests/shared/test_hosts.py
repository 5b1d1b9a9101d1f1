"""Entries of lists of hosts: one grammar, whichever list they stand in."""

from __future__ import annotations

import pytest
from extractor.remote.allowed import Allowed, parse
from hypothesis import given
from hypothesis import strategies as st
from shoal.callbacks import AllowedHosts
from shoal.hosts import HostEntry


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("Images.Example.org", "images.example.org", None),
        ("a_b.example:8443", "a_b.example", 8443),
        (".example.org:1", ".example.org", 1),
        ("10.1.2.3:65535", "10.1.2.3", 65535),
        ("[FD00::1]:9000", "fd00::1", 9000),
        ("*", "*", None),
    ],
)
def test_an_entry_is_a_host_and_a_port(text: str, host: str, port: int | None) -> None:
    assert HostEntry.parse(text) == HostEntry(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "a,b",
        "a.example/",
        "https://a.example",
        "me@a.example",
        "..a",
        ".",
        "*.x",
        "-a",
        "a-",
        "a.example.",
        "bücher.example",
        "a:",
        "a:0",
        "a:65536",
        "a:+1",
        "a:１",
        "[::1",
        "[::zz]",
        "[a.example]",
        "[10.1.2.3.4]",
        "fd00::1",
        "a\n",
    ],
)
def test_what_is_none_is_refused_in_both_lists(text: str) -> None:
    for parse_list in (lambda each: HostEntry.parse(each), lambda each: AllowedHosts.of([each])):
        with pytest.raises(ValueError):
            parse_list(text)
    if "://" not in text and not text.endswith("/"):
        with pytest.raises(ValueError, match="SHOAL_SOURCES_ALLOW"):
            Allowed.parse([text])


def test_webhooks_go_nowhere_by_a_star() -> None:
    for text in ("*", "*:8443"):
        with pytest.raises(ValueError, match="SHOAL_CALLBACK_HOSTS"):
            AllowedHosts.of([text])


NAMES = st.from_regex(r"\.?[a-z]{1,3}\.[a-z]{1,3}", fullmatch=True)


@given(NAMES, st.from_regex(r"([a-z]{1,3}\.)?[a-z]{1,3}\.[a-z]{1,3}", fullmatch=True))
def test_both_lists_mean_the_same_hosts(entry: str, host: str) -> None:
    meant = host == entry or (entry.startswith(".") and host.endswith(entry))
    assert HostEntry.parse(entry).covers(host) is meant
    assert AllowedHosts.of([entry]).allows(host, 443) is meant
    assert Allowed.parse([entry]).allows(parse(f"https://{host}/1.jpg")) is meant

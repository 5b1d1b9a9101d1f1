"""Images are fetched in order, politely, again where that helps, and never from where they must not be."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
from extractor.images.located import FetchedImage, LostImage
from extractor.remote import fetcher as fetcher_module
from extractor.remote.allowed import Address, Allowed, parse
from extractor.remote.fetcher import Fetcher, Wanted
from extractor.remote.http import HttpGetter, Passing
from shoal.errors import ImageFetchFailed, ImageMissing

from tests.extractor.remote.server import ImageServer, answer

OK = answer(200, b"image")
Fetch = Callable[..., list[Any]]


def run(fetcher: Fetcher, urls: list[str]) -> list[Any]:
    with fetcher:
        found = [each for each in fetcher.stream(Wanted(parse(url), url) for url in urls) if each is not None]
    return [each.data if isinstance(each, FetchedImage) else each.code for each in found]


def make(entries: list[str], *, timeout_s: float = 5.0, per_host: int = 8, gone_s: float = 0.4) -> Fetcher:
    getter = HttpGetter(Allowed.parse(entries), connections=8, timeout_s=timeout_s, max_bytes=1000)
    return Fetcher(getter, connections=8, per_host=per_host, gone_s=gone_s)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher_module, "PAUSE_S", 0.02)


@pytest.fixture
def fetch(server: ImageServer) -> Fetch:
    """``fetch("/a", …)``: the bytes or the code of each path."""

    def all_of(*paths: str, allow: str = "", **options: Any) -> list[Any]:
        urls = [path if "://" in path else server.url + path for path in paths]
        return run(make([server.url, *filter(None, [allow])], **options), urls)

    return all_of


def test_images_come_in_the_order_of_the_list(server: ImageServer, fetch: Fetch) -> None:
    paths = [f"/{number}" for number in range(200)]
    for path in paths:
        server.answers[path] = [answer(200, path.encode())]
    assert fetch(*paths) == [path.encode() for path in paths]
    assert 1 < server.most <= 8


def test_a_host_gets_only_so_many_requests_at_once() -> None:
    changed = threading.Condition()
    running = most = 0

    def get(address: Address) -> bytes:
        nonlocal running, most
        with changed:
            running += 1
            most = max(most, running)
            changed.notify_all()
            changed.wait_for(lambda: running > 2, timeout=0.05)
            running -= 1
        return b"image"

    urls = [f"https://a.example/{number}" for number in range(20)]
    assert run(fetcher_of(Scripted(get), per_host=2), urls) == [b"image"] * 20
    assert most == 2


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (answer(404), "image_missing"),
        (answer(410), "image_missing"),
        (answer(403), "image_fetch_failed"),
        (answer(204), "image_fetch_failed"),
        (answer(200, b"x" * 2000), "image_too_large"),
        (answer(200, gzip.compress(b"x" * 100_000), Content_Encoding="gzip"), "image_fetch_failed"),
        (answer(302, Location="file:///etc/passwd"), "image_not_allowed"),
        (answer(302, Location="http://169.254.169.254/latest/meta-data/"), "image_not_allowed"),
        (answer(302, Location="http://127.0.0.1:1/"), "image_not_allowed"),
        (answer(302, Location="http://user@127.0.0.1/"), "image_not_allowed"),
        (answer(302, Location="/1"), "image_fetch_failed"),
    ],
)
def test_what_does_not_pass_by_itself_fails_at_once(server: ImageServer, fetch: Fetch, given: Any, code: str) -> None:
    server.answers["/1"] = [given]
    assert fetch("/1") == [code]
    assert server.asked["/1"] <= 6


def test_a_body_without_a_length_stops_at_the_limit(server: ImageServer, fetch: Fetch) -> None:
    server.answers["/1"] = [server.drip(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 2000)]
    assert fetch("/1") == ["image_too_large"]


@pytest.mark.parametrize("passing", [answer(500), answer(503), answer(200, b"ima", length=5), lambda connection: None])
def test_what_passes_by_itself_is_tried_again(server: ImageServer, fetch: Fetch, passing: Any) -> None:
    server.answers["/1"] = [passing, passing, OK]
    assert fetch("/1", gone_s=30.0) == [b"image"]
    assert server.asked["/1"] == 3


def test_a_body_that_stays_cut_off_is_an_error_of_its_own(server: ImageServer, fetch: Fetch) -> None:
    server.answers["/1"] = [answer(200, b"ima", length=5)]
    assert fetch("/1") == ["image_truncated"]


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"])
def test_a_server_that_sends_byte_by_byte_gains_no_time(server: ImageServer, fetch: Fetch, begin: bytes) -> None:
    server.answers["/1"] = [server.drip(begin)]
    server.answers["/2"] = [OK]
    assert fetch("/1", "/2", timeout_s=0.3) == ["image_fetch_failed", b"image"]


def test_a_redirect_to_an_allowed_host_is_followed(server: ImageServer, fetch: Fetch) -> None:
    server.answers["/1"] = [answer(301, Location="/2")]
    server.answers["/2"] = [answer(302, Location=f"{server.url}/3")]
    server.answers["/3"] = [OK]
    assert fetch("/1") == [b"image"]


def test_a_redirect_to_an_object_is_not_followed(server: ImageServer, fetch: Fetch) -> None:
    server.answers["/1"] = [answer(302, Location="s3://photos/1.jpg")]
    assert fetch("/1", allow="s3://photos") == ["image_not_allowed"]
    assert server.asked["/1"] == 1


def test_no_cookie_is_kept_and_nothing_compressed_is_asked_for(server: ImageServer, fetch: Fetch) -> None:
    server.answers["/1"] = [answer(302, Location="/2", Set_Cookie="a=b")]
    server.answers["/2"] = [OK]
    assert fetch("/1") == [b"image"]
    assert all("Cookie" not in headers for headers in server.headers)
    assert {headers["Accept-Encoding"] for headers in server.headers} == {"identity"}


def test_a_name_that_leads_to_a_private_address_is_not_asked(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/1"] = [OK]
    url, entry = f"http://images.example:{server.port}/1", f"http://images.example:{server.port}"
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert run(make([entry]), [url]) == ["image_not_allowed"]
    assert not server.asked
    assert run(make([entry, "10.0.0.0/8"]), [url]) == ["image_not_allowed"]
    assert run(make([entry, "127.0.0.0/8"]), [url]) == [b"image"]


def test_a_name_is_resolved_once_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def pointing(host: str, port: int, *_: Any, **__: Any) -> Any:
        asked.append(host)
        # Public when it is checked, loopback when it is asked again. (An address that routes nowhere.)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.88.99.1" if len(asked) == 1 else "127.0.0.1", port))]

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> Any:
        connected.append(address[0])
        raise OSError("no route")

    connected: list[str] = []
    monkeypatch.setattr(socket, "getaddrinfo", pointing)
    monkeypatch.setattr(socket, "create_connection", connect)
    getter = HttpGetter(Allowed.parse(["images.example"]), connections=1, timeout_s=5.0, max_bytes=1000)
    with pytest.raises(Passing):
        getter.get(parse("https://images.example/1"))
    getter.close()
    assert connected == ["192.88.99.1"]


def test_what_is_not_allowed_is_not_asked(server: ImageServer) -> None:
    assert run(make([]), [server.url + "/1"]) == ["image_not_allowed"]
    assert run(make([f"https://127.0.0.1:{server.port}"]), [server.url + "/1"]) == ["image_not_allowed"]
    assert not server.asked


# Hosts that ask to wait, and hosts that are down.


class Scripted:
    """A getter that answers as a test says."""

    def __init__(self, get: Callable[[Address], bytes]) -> None:
        self.asked: list[str] = []
        self._get = get

    def get(self, address: Address) -> bytes:
        self.asked.append(address.text)
        return self._get(address)

    def close(self) -> None:
        pass


def fetcher_of(getter: Scripted, **options: Any) -> Fetcher:
    return Fetcher(getter, **{"connections": 4, "per_host": 2, "gone_s": 0.2, **options})


def failing(wait_s: float | None = None) -> Passing:
    return Passing(ImageFetchFailed("a.example answers HTTP 503."), wait_s)


def test_a_host_that_asks_to_wait_is_left_alone_meanwhile() -> None:
    times: list[float] = []

    def get(address: Address) -> bytes:
        times.append(time.monotonic())
        if len(times) == 1:
            raise failing(wait_s=0.3)
        return b"image"

    urls = [f"https://a.example/{number}" for number in range(4)]
    assert run(fetcher_of(Scripted(get), per_host=1), urls) == [b"image"] * 4
    assert times[1] - times[0] >= 0.3


def test_a_host_that_asks_for_too_long_a_wait_is_not_waited_for() -> None:
    def get(address: Address) -> bytes:
        raise failing(wait_s=86_400)

    assert run(fetcher_of(Scripted(get)), ["https://a.example/1"]) == ["image_fetch_failed"]


@pytest.mark.parametrize("written", ["0", "date"])
def test_retry_after_is_read(server: ImageServer, fetch: Fetch, written: str) -> None:
    value = formatdate(time.time(), usegmt=True) if written == "date" else written
    server.answers["/1"] = [answer(429, Retry_After=value), OK]
    assert fetch("/1") == [b"image"]


def test_a_host_that_is_down_costs_its_images_and_little_time() -> None:
    def get(address: Address) -> bytes:
        if address.host == "down.example":
            raise failing()
        return b"image"

    getter = Scripted(get)
    urls = [f"https://{host}.example/{number}" for number in range(500) for host in ("down", "up")]
    assert run(fetcher_of(getter), urls) == ["image_fetch_failed", b"image"] * 500
    assert sum("down" in url for url in getter.asked) < 50


def test_a_host_that_comes_back_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher_module, "PROBE_S", 0.0)
    down = threading.Event()
    down.set()

    def get(address: Address) -> bytes:
        if down.is_set():
            raise failing()
        return b"image"

    fetcher = fetcher_of(Scripted(get))
    with fetcher:
        stream = fetcher.stream(Wanted(parse(f"https://a.example/{number}"), "") for number in range(3))
        first = next(each for each in stream if each is not None)
        assert isinstance(first, LostImage)
        assert "answers HTTP 503" in first.message
    down.clear()
    assert run(fetcher_of(Scripted(get)), ["https://a.example/1"]) == [b"image"]


def test_one_image_that_fails_on_a_host_that_works_is_given_up_after_a_few_tries() -> None:
    def get(address: Address) -> bytes:
        if address.path == "/bad":
            raise failing()
        time.sleep(0.001)
        return b"image"

    getter = Scripted(get)
    urls = ["https://a.example/bad", *(f"https://a.example/{number}" for number in range(600))]
    assert run(fetcher_of(getter, gone_s=4.0), urls) == ["image_fetch_failed", *[b"image"] * 600]
    assert getter.asked.count(urls[0]) == fetcher_module.TRIES


def test_a_bug_in_a_getter_becomes_an_error_row() -> None:
    def get(address: Address) -> bytes:
        raise RuntimeError("boom")

    assert run(fetcher_of(Scripted(get)), ["https://a.example/1"]) == ["image_fetch_failed"]


def test_little_is_held_while_nobody_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher_module, "AHEAD_BYTES", 1000)
    getter = Scripted(lambda address: b"x" * 100)
    with fetcher_of(getter, per_host=4) as fetcher:
        stream = fetcher.stream(Wanted(parse(f"https://a.example/{number}"), "") for number in range(100))
        found = [image for image in stream if image is not None]
        assert len(found) == 100
        assert fetcher._held == 0


def test_an_abandoned_stream_lets_go_of_what_it_held() -> None:
    getter = Scripted(lambda address: (_ for _ in ()).throw(ImageMissing("x")) if address.path == "/0" else b"x" * 100)
    with fetcher_of(getter, per_host=4) as fetcher:
        stream = fetcher.stream(Wanted(parse(f"https://a.example/{number}"), "") for number in range(50))
        while next(stream) is None:
            pass
        stream.close()  # type: ignore[attr-defined]
        assert fetcher._held == 0
        again = fetcher.stream([Wanted(parse("https://a.example/7"), "")])
        assert [each.data for each in again if isinstance(each, FetchedImage)] == [b"x" * 100]

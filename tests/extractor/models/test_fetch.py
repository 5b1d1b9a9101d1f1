"""Nothing is fetched from the machines of one's own network, wherever names and redirects point."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from extractor.models.download import DownloadFailed, download
from extractor.models.fetch import public_client
from shoal.outbound import ForbiddenAddress, is_public, public_addresses

PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::10.1.2.3",
    "64:ff9b:1::7f00:1",
    "fec0::1",
    "::1",
    "fe80::1%eth0",
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "2002:7f00:1::",
]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, str]]]:
    """Address of a server, and the redirects that it answers with by path."""
    redirects: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            target = redirects.get(self.path)
            self.send_response(302 if target else 200)
            if target:
                self.send_header("Location", target)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"secret")

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", redirects
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_one_s_own_network_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:8.8.8.8"])
def test_an_address_of_the_public_network_is(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "017700000001", "localhost", "0"])
def test_no_spelling_of_loopback_passes(host: str) -> None:
    with pytest.raises(ForbiddenAddress):
        public_addresses(host, 80)


def test_a_name_with_one_private_address_among_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("93.184.215.14", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ForbiddenAddress, match=r"10\.0\.0\.1"):
        public_addresses("weights.example", 443)


def test_a_name_is_resolved_once_so_that_it_cannot_change_between_check_and_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve, asked = socket.getaddrinfo, []

    def pointing(host: str, port: int, *rest: Any, **named: Any) -> Any:
        if host != "weights.example":
            return resolve(host, port, *rest, **named)
        asked.append(host)
        # Public when it is checked, loopback when it is asked again. (An address that routes nowhere.)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.88.99.1" if len(asked) == 1 else "127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", pointing)
    connected: list[str] = []

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> Any:
        connected.append(address[0])
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", connect)
    with public_client("https://weights.example/a") as client, pytest.raises(httpx.ConnectError):
        client.get("https://weights.example/a")
    assert connected == ["192.88.99.1"]


def test_a_name_that_points_to_loopback_is_not_asked(server: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    url = server[0].replace("127.0.0.1", "localhost") + "/weights.pth"
    with pytest.raises(DownloadFailed, match="not a public address"):
        download(url, tmp_path / "weights.pth", pause=lambda _: None)
    assert not (tmp_path / "weights.pth").exists()


@pytest.mark.parametrize(
    "target",
    [
        "http://localhost:{port}/secret",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://0x7f.1:{port}/",
        "http://0.0.0.0:{port}/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1:6379/_FLUSHALL",
    ],
)
def test_a_redirect_into_one_s_own_network_is_not_followed(
    server: tuple[str, dict[str, str]], tmp_path: Path, target: str
) -> None:
    url, redirects = server
    redirects["/weights.pth"] = target.format(port=url.rpartition(":")[2])
    with pytest.raises(DownloadFailed):
        download(f"{url}/weights.pth", tmp_path / "weights.pth", pause=lambda _: None)
    assert not (tmp_path / "weights.pth").exists()


def test_a_redirect_may_not_leave_https(monkeypatch: pytest.MonkeyPatch) -> None:
    with public_client("https://weights.example/a") as client, pytest.raises(ForbiddenAddress, match="not an https"):
        client.send(client.build_request("GET", "http://weights.example/a"))


def test_what_the_operator_wrote_as_an_address_is_fetched(server: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    url, redirects = server
    redirects["/a"] = "/b"
    download(f"{url}/a", tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").read_bytes() == b"secret"


def test_redirects_come_to_an_end(server: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    url, redirects = server
    redirects["/a"] = "/a"
    with pytest.raises(DownloadFailed):
        download(f"{url}/a", tmp_path / "weights.pth", pause=lambda _: None)

"""Objects of S3 that a list names, on a stand-in for its server, and on moto's where that is installed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from shoal.errors import AddressesNotAllowed
from shoal.process import free_port
from shoal.settings import Settings

from tests.conftest import WaitUntil
from tests.extractor.remote.server import ImageServer, answer
from tests.extractor.sources.contract import SourceContract, listed, picture, read


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def server(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageServer]:
    (settings.data / "served").mkdir()
    with ImageServer(settings.data / "served").running() as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


def reaching(settings: Settings, *allowed: str) -> Settings:
    return settings.model_copy(update={"sources_allow": frozenset(allowed), "sources_gone_s": 0.3})


def write(settings: Settings, *keys: str) -> dict[str, Any]:
    (settings.data / "list.txt").write_text("".join(f"s3://photos/{key}\n" for key in keys))
    return {"path": "list.txt"}


class TestObjects(SourceContract):
    removed = "image_missing"

    @pytest.fixture
    def settings(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
        (settings.data / "served").mkdir()
        with ImageServer(settings.data / "served").running() as server:
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
            yield reaching(settings, "s3://photos")

    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        lines = ["url,sha256"]
        for name, content in images.items():
            (data / "served/photos" / name).parent.mkdir(parents=True, exist_ok=True)
            (data / "served/photos" / name).write_bytes(content)
            lines.append(f"s3://photos/{name},{hashlib.sha256(content).hexdigest()}")
        (data / "list.csv").write_text("\n".join([*lines, ""]))
        return {"path": "list.csv"}


def test_a_bucket_that_is_not_allowed_is_refused(settings: Settings, server: ImageServer) -> None:
    fields = write(settings, "1.png")
    with pytest.raises(AddressesNotAllowed, match="s3://photos"):
        listed(reaching(settings, "s3://others", "http://*"), **fields)
    found = listed(reaching(settings, "s3://photos"), **fields)
    assert read(reaching(settings, "s3://photos/public/"), found, fields) == ["image_not_allowed"]
    assert not server.asked


def test_what_cannot_be_read_becomes_rows_of_errors(settings: Settings, server: ImageServer) -> None:
    limited = reaching(settings, "s3://photos").model_copy(update={"sources_max_bytes": 5000})
    (settings.data / "served/photos").mkdir()
    (settings.data / "served/photos/1.png").write_bytes(picture(1))
    (settings.data / "served/photos/large.png").write_bytes(b"x" * 6000)
    server.answers["/photos/denied.png"] = [answer(403)]
    server.answers["/photos/failing.png"] = [answer(500)]
    fields = write(settings, "large.png", "gone.png", "denied.png", "1.png", "failing.png")
    assert read(limited, listed(limited, **fields), fields) == [
        "image_too_large",
        "image_missing",
        "image_fetch_failed",
        picture(1),
        "image_fetch_failed",
    ]
    assert server.asked["/photos/denied.png"] == 1


def test_it_reads_from_another_s_server(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil
) -> None:
    program = shutil.which("moto_server")
    if program is None:
        pytest.skip("moto is not installed; the other tests use a stand-in")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: process.poll() is not None or _answers(url))
        httpx.put(f"{url}/photos")
        for number, key in enumerate(("cat/1.png", "a b/50%25+ü.png")):
            httpx.put(f"{url}/photos/{quote(key)}", content=picture(number))
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        open_to = reaching(settings, "s3://photos")
        fields = write(settings, "cat/1.png", "a b/50%25+ü.png", "gone.png")
        assert read(open_to, listed(open_to, **fields), fields) == [picture(0), picture(1), "image_missing"]
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code < 500
    except httpx.TransportError:
        return False

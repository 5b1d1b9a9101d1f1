"""Lists of addresses: how they are written, what is refused, what a job makes of images that are missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extractor import pipeline
from extractor.sources import listing
from shoal.errors import AddressesNotAllowed
from shoal.jobs.child import JobContext
from shoal.schemas import ImageSource
from shoal.settings import Settings
from shoal.store import Store

from tests.extractor.remote.server import ImageServer, answer
from tests.extractor.sources.contract import SourceContract, column, listed, picture, pictures, read

Lists = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server(settings: Settings) -> Iterator[ImageServer]:
    (settings.data / "served").mkdir()
    with ImageServer(settings.data / "served").running() as running:
        yield running


@pytest.fixture
def reaching(settings: Settings, server: ImageServer) -> Settings:
    """Settings that allow the server."""
    return settings.model_copy(update={"sources_allow": frozenset([server.url]), "sources_gone_s": 0.3})


def serve(data: Path, images: dict[str, bytes]) -> None:
    for name, content in images.items():
        (data / "served" / name).parent.mkdir(parents=True, exist_ok=True)
        (data / "served" / name).write_bytes(content)


class TestAddresses(SourceContract):
    removed = "image_missing"

    @pytest.fixture
    def settings(self, settings: Settings) -> Iterator[Settings]:
        (settings.data / "served").mkdir()
        with ImageServer(settings.data / "served").running() as server:
            self.url = server.url
            yield settings.model_copy(update={"sources_allow": frozenset([server.url])})

    def build(self, data: Path, images: dict[str, bytes]) -> dict[str, Any]:
        serve(data, images)
        lines = [f"{self.url}/{name},{hashlib.sha256(content).hexdigest()}" for name, content in images.items()]
        (data / "list.csv").write_text("\n".join(["url,sha256", *lines, ""]))
        return {"path": "list.csv"}


@pytest.fixture
def lists(reaching: Settings, server: ImageServer) -> Lists:
    """``lists(text, name)`` writes a list, ``URL`` in it stands for the server; the fields of ``images``."""

    def write(text: str, name: str = "list.txt") -> dict[str, Any]:
        (reaching.data / name).write_text(text.replace("URL", server.url))
        return {"path": name}

    return write


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "URL/a/1\nURL/a/2?size=large\n"),
        ("list.txt", "URL/a/1 cat\nURL/a/2?size=large dog\n"),
        ("list.csv", "URL/a/1,cat\nURL/a/2?size=large,dog\n"),
        ("list.csv", "link,label\nURL/a/1,cat\nURL/a/2?size=large,dog\n"),
        ("list.csv", "URL,TEXT,WIDTH\nURL/a/1,a cat,300\nURL/a/2?size=large,a dog,300\n"),
        ("list.jsonl", '{"url": "URL/a/1"}\n{"url": "URL/a/2?size=large"}\n'),
    ],
)
def test_addresses_need_no_extension(
    reaching: Settings, server: ImageServer, lists: Lists, name: str, text: str
) -> None:
    serve(reaching.data, {"a/1": picture(1), "a/2": picture(2)})
    fields = lists(text.replace("URL,TEXT", "Url,TEXT"), name)
    found = listed(reaching, **fields)
    assert column(found, "image_path") == [f"{server.url}/a/1", f"{server.url}/a/2?size=large"]
    assert read(reaching, found, fields) == [picture(1), picture(2)]


def test_a_table_of_addresses_and_paths(reaching: Settings, server: ImageServer) -> None:
    serve(reaching.data, {"1.png": picture(1)})
    (reaching.data / "2.png").write_bytes(picture(2))
    table = pa.table({"url": [f"{server.url}/1.png", "2.png", f"{server.url}/1.png#x"], "label": ["a", "b", "a"]})
    pq.write_table(table, reaching.data / "all.parquet")
    fields = {"path": "all.parquet"}
    found = listed(reaching, **fields)
    assert column(found, "label") == ["a", "b"]
    assert found.notes["not_taken"][0]["reason"] == "listed_twice"
    assert read(reaching, found, fields) == [picture(1), picture(2)]


def test_without_the_setting_a_list_of_addresses_is_refused(settings: Settings) -> None:
    (settings.data / "list.txt").write_text("https://images.example/1.jpg\nhttps://images.example/2.jpg\n")
    source = ImageSource(path="list.txt")
    for refuse in (
        lambda: listing.check(source, settings.data, deadline=None),
        lambda: listed(settings, path="list.txt"),
    ):
        with pytest.raises(AddressesNotAllowed, match=r"images\.example, but SHOAL_SOURCES_ALLOW is empty") as caught:
            refuse()
        assert caught.value.code == "addresses_not_allowed"
        assert caught.value.members["hosts"] == ["images.example"]


def test_what_is_not_allowed_becomes_rows_of_errors(reaching: Settings, server: ImageServer, lists: Lists) -> None:
    serve(reaching.data, {"1.png": picture(1)})
    fields = lists(
        "URL/1.png\nhttps://elsewhere.example/1.png\nhttps://user:secret@elsewhere.example/1.png\n"
        "http://127.0.0.1:1/1.png\nhttp://169.254.169.254/latest/1.png\n"
    )
    assert read(reaching, listed(reaching, **fields), fields) == [picture(1), *["image_not_allowed"] * 4]


def test_the_worker_s_own_setting_counts(reaching: Settings, server: ImageServer, lists: Lists) -> None:
    serve(reaching.data, {"1.png": picture(1)})
    fields = lists("URL/1.png\n")
    found = listed(reaching, **fields)
    closed = reaching.model_copy(update={"sources_allow": frozenset(["images.example"])})
    assert read(closed, found, fields) == ["image_not_allowed"]
    assert not server.asked


def test_folders_of_several_hosts_are_no_classes(settings: Settings) -> None:
    (settings.data / "list.txt").write_text("https://a.example/train/1.jpg\nhttps://b.example/wp-content/2.jpg\n")
    allowed = settings.model_copy(update={"sources_allow": frozenset("*")})
    assert column(listed(allowed, path="list.txt"), "label") == [None, None]


def test_a_list_of_which_some_are_missing_fails_no_job(
    reaching: Settings, server: ImageServer, lists: Lists, job: Callable[..., JobContext]
) -> None:
    serve(reaching.data, pictures(tuple(f"{number:03}.png" for number in range(100))))
    for number in (7, 8):
        (reaching.data / f"served/{number:03}.png").unlink()
    server.answers["/050.png"] = [answer(200, b"<html>Sorry</html>", Content_Type="text/html")]
    server.answers["/060.png"] = [answer(200, picture(60)[:100])]
    server.answers["/070.png"] = [answer(503), answer(200, picture(70))]
    fields = lists("".join(f"URL/{number:03}.png\n" for number in range(100)))
    context = job(images=fields, batch_size=16, shard_rows=50)
    result = pipeline.extract(context, reaching)
    assert (result["rows"], result["failed"]) == (96, 4)
    errors = Store(reaching.store).embeddings(str(result["embeddings"])).errors().to_pylist()
    assert {error["image_path"].rpartition("/")[2]: error["code"] for error in errors} == {
        "007.png": "image_missing",
        "008.png": "image_missing",
        "050.png": "image_unrecognised",
        "060.png": "image_truncated",
    }


def test_an_image_whose_checksum_differs_changed(reaching: Settings, lists: Lists) -> None:
    serve(reaching.data, {"1.png": picture(1), "2.png": picture(2)})
    rows = [
        {"url": "URL/1.png", "md5": hashlib.md5(picture(1)).hexdigest().upper()},
        {"url": "URL/2.png", "md5": "0" * 32},
    ]
    fields = lists("".join(json.dumps(row) + "\n" for row in rows), "list.jsonl")
    assert read(reaching, listed(reaching, **fields), fields) == [picture(1), "image_changed"]

"""Folders to pick from: what is listed and counted, what is left out, and that nothing outside the root is seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from extractor.api import routes
from extractor.sources import browse
from extractor.sources.folder import Budget
from fastapi.testclient import TestClient
from shoal.jobs.queue import JobQueue
from shoal.keys import Scope
from shoal.settings import Settings
from shoal.store import Store
from shoal.web.auth import needed_scope

Make = Callable[..., Path]
BODY: dict[str, Any] = {"model": "raw_pixels"}


@pytest.fixture
def client(settings: Settings, queue: JobQueue) -> Iterator[TestClient]:
    with TestClient(routes.build(settings, queue, Store(settings.store)), raise_server_exceptions=False) as client:
        yield client


def listed(client: TestClient, path: str = ".") -> dict[str, Any]:
    answer = client.get("/folders", params={"path": path})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_folders_come_with_the_images_below_them(client: TestClient, settings: Settings, make: Make) -> None:
    for name in ("cat/0.png", "cat/deep/1.png", "dog/2.png", "3.png"):
        make(name)
    (settings.data / "empty").mkdir()
    root = listed(client)
    assert [(each["path"], each["images"], each["exact"]) for each in root["folders"]] == [
        ("empty", 0, True),
        ("set", 4, True),
    ]
    inner = listed(client, "set")
    assert (inner["path"], inner["images"], inner["exact"]) == ("set", 4, True)
    assert [(each["name"], each["path"], each["images"]) for each in inner["folders"]] == [
        ("cat", "set/cat", 2),
        ("dog", "set/dog", 1),
    ]
    assert listed(client, "set/cat")["images"] == 2
    assert listed(client, str(settings.data / "set"))["path"] == "set"


def test_every_path_that_is_listed_can_be_extracted(client: TestClient, settings: Settings, make: Make) -> None:
    make("ä b/0.png")
    (settings.data / "set/list.txt").write_text("ä b/0.png\n")
    found = listed(client, "set")
    assert [(each["path"], each["format"], each["bytes"]) for each in found["files"]] == [("set/list.txt", "list", 11)]
    for each in (*found["folders"], *found["files"]):
        assert client.post("/extract", json={**BODY, "images": {"path": each["path"]}}).status_code == 202


def test_what_no_request_can_name_is_left_out(client: TestClient, settings: Settings, make: Make) -> None:
    make("0.png")
    for name in (".hidden", "@eaDir", "a{0..3}", "a\\b"):
        (settings.data / name).mkdir()
    os.mkdir(os.fsencode(settings.data) + b"/\xff")  # noqa: PTH102 - bytes that are not UTF-8
    (settings.data / ".list.txt").write_text("set/0.png\n")
    found = listed(client)
    assert [each["name"] for each in found["folders"]] == ["set"]
    assert found["files"] == []


def test_a_symlink_is_followed_within_the_root_only(
    client: TestClient, settings: Settings, make: Make, tmp_path: Path
) -> None:
    make("0.png")
    (tmp_path / "private").mkdir()
    (tmp_path / "private/list.txt").write_text("0.png\n")
    (settings.data / "out").symlink_to(tmp_path / "private")
    (settings.data / "out.txt").symlink_to(tmp_path / "private/list.txt")
    (settings.data / "within").symlink_to(settings.data / "set")
    (settings.data / "broken").symlink_to(settings.data / "nothing")
    found = listed(client)
    assert [(each["name"], each["images"]) for each in found["folders"]] == [("set", 1), ("within", 1)]
    assert found["files"] == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("..", "path_outside_root"),
        ("set/../..", "path_outside_root"),
        ("/etc", "path_outside_root"),
        ("out", "path_outside_root"),
        ("missing", "path_not_found"),
        ("set/0.png", "path_not_found"),
        ("", "out_of_range"),
        ("x" * 5000, "out_of_range"),
    ],
)
def test_nothing_else_is_looked_into(
    client: TestClient, settings: Settings, make: Make, tmp_path: Path, path: str, code: str
) -> None:
    make("0.png")
    (tmp_path / "private").mkdir()
    (settings.data / "out").symlink_to(tmp_path / "private")
    answer = client.get("/folders", params={"path": path})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert str(tmp_path) not in answer.text


def test_counting_and_listing_end_at_their_limits(
    client: TestClient, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/0.png", "a/1.png", "a/2.png", "b/3.png"):
        make(name)
    monkeypatch.setattr(browse, "COUNTED", Budget(entries=2, seconds=60))
    found = listed(client, "set")
    assert [(each["images"], each["exact"]) for each in found["folders"]] == [(2, False), (0, False)]
    assert (found["images"], found["exact"], found["truncated"]) == (2, False, False)
    monkeypatch.setattr(browse, "MOST_LISTED", 1)
    found = listed(client, "set")
    assert ([each["name"] for each in found["folders"]], found["truncated"]) == (["a"], True)
    monkeypatch.setattr(browse, "MOST_SEEN", 1)
    assert listed(client, "set")["truncated"]


def test_names_of_files_are_for_those_who_submit() -> None:
    assert needed_scope("GET", "/folders") is Scope.SUBMIT

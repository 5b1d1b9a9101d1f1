"""`shoal duplicates` and `shoal quality`, and the clients' methods behind them, against a server that answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shoal import Client
from shoal.cli import app
from shoal.errors import InvalidRequest
from typer.testing import CliRunner

from tests.shared.client.conftest import Script

JOB = {"id": "j1", "kind": "duplicates", "created_at": "2026-01-01T00:00:00Z", "request": {}, "state": "queued"}
TOTALS = {"groups": 1, "members": 3, "drops": 2, "same_files": 1}
FOUND = {"outliers": 1, "label_errors": 0, "image_issues": 2}
ROW = {"row": 0, "image_path": "a.png", "similarity": 1.0, "keep": True, "copy": None, "reason": "the sharpest"}
COPY = {**ROW, "row": 1, "image_path": "b [red].png", "similarity": 0.97, "keep": False, "copy": "near", "reason": ""}
GROUP = {"group": 0, "size": 3, "rows": [ROW, COPY]}
OUTLIER = {"row": 5, "image_path": "far.png", "distance": 1.25, "p": 0.001}
HOOK = "https://hooks.example.org/1"


@pytest.fixture(autouse=True)
def service(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clusterer whose jobs have ended when they are asked for."""
    results = {"/duplicates": {"duplicates": "d-j1", **TOTALS}, "/quality": {"quality": "q-j1", **FOUND}}
    submitted: list[str] = []

    def reply(path: str, body: Any) -> tuple[int, bytes]:
        route = path.partition("?")[0]
        if body is not None:
            submitted.append(route)
            return 202, json.dumps(JOB).encode()
        if route.startswith("/jobs/"):
            return 200, json.dumps({**JOB, "state": "succeeded", "result": results[submitted[-1]]}).encode()
        pages = {
            "/duplicates/d-j1/groups": {"groups": [GROUP], "total": 1, "next_cursor": None},
            "/quality/q-j1/outliers": {"rows": [OUTLIER], "total": 1, "next_cursor": None},
        }
        if route == "/duplicates/d-j1/members":
            return 200, b"".join(json.dumps(each).encode() + b"\n" for each in members)
        return 200, json.dumps(pages.get(route, {"rows": [], "total": 0, "next_cursor": None})).encode()

    members = [ROW, COPY, {**COPY, "image_path": "c.png"}]
    script.members = members  # type: ignore[attr-defined]
    script.reply = reply
    for name in ("SHOAL_CLUSTERER_URL", "SHOAL_EXTRACTOR_URL"):
        monkeypatch.setenv(name, script.url)


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "160"})


def test_duplicates_are_sought_shown_and_listed(script: Script, tmp_path: Path) -> None:
    drops = tmp_path / "drops.txt"
    words = ("--threshold", "0.9", "--link", "single", "--against", "e2", "--memory-limit", "1GiB")
    done = invoke("duplicates", "e1", *words, "--callback-url", HOOK, "--list-drops", str(drops))
    assert done.exit_code == 0, done.output
    assert script.seen[0][:2] == ("POST", "/duplicates")
    sent = {"embeddings": "e1", "against": "e2", "threshold": 0.9, "link": "single", "memory_limit": "1GiB"}
    assert script.seen[0][3] == {**sent, "callback_url": HOOK}
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[:3] == [
        ["d-j1"],
        ["group", "similarity", "keep", "copy", "image", "reason"],
        ["0", "1.0000", "keep", "a.png", "the", "sharpest"],
    ]
    assert lines[3:] == [["0.9700", "near", "b", "[red].png"], ["and", "1", "more"]]
    assert "1 groups of 3 images: 2 are copies" in done.stderr
    assert drops.read_text() == "b [red].png\nc.png\n"
    assert list(tmp_path.iterdir()) == [drops]


def test_only_what_was_given_is_sent(script: Script) -> None:
    assert invoke("duplicates", "e1", "--no-wait").stdout == "j1\n"
    assert invoke("quality", "e1", "--no-wait").stdout == "j1\n"
    assert [each[3] for each in script.seen] == [{"embeddings": "e1"}] * 2
    refused = invoke("duplicates", "e1", "--no-wait", "--list-drops", "x")
    assert refused.exit_code == 2
    assert "--list-drops" in refused.output


def test_a_path_that_a_list_cannot_name_is_said(script: Script, tmp_path: Path) -> None:
    script.members.append({**COPY, "image_path": "two\nlines.png"})  # type: ignore[attr-defined]
    done = invoke("duplicates", "e1", "--list-drops", str(tmp_path / "drops.txt"))
    assert isinstance(done.exception, InvalidRequest)
    assert "GET /duplicates/d-j1/members" in done.exception.detail
    assert list(tmp_path.iterdir()) == []


def test_quality_shows_what_stands_out(script: Script) -> None:
    done = invoke("quality", "e1", "-k", "5", "--memory-limit", "1GiB", "--callback-url", HOOK)
    assert done.exit_code == 0, done.output
    assert script.seen[0][:2] == ("POST", "/quality")
    sent = {"embeddings": "e1", "neighbours": 5, "memory_limit": "1GiB", "callback_url": HOOK}
    assert script.seen[0][3] == sent
    text = done.stdout
    assert text.startswith("q-j1\n")
    for title in ("1 outliers", "0 labels that are probably wrong", "2 files that stand out"):
        assert title in text
    assert ["5", "1.25", "0.001", "far.png"] in [line.split() for line in text.splitlines()]
    asked = [path.partition("?")[0] for _, path, _, _ in script.seen[1:] if path.startswith("/quality")]
    assert asked == ["/quality/q-j1/outliers", "/quality/q-j1/labels", "/quality/q-j1/images"]


@pytest.mark.parametrize("command", ["duplicates", "quality"])
def test_json_is_the_job_alone(command: str) -> None:
    done = invoke(command, "e1", "--json")
    assert json.loads(done.stdout)["result"][command] == f"{command[0]}-j1"


def test_the_clients_have_the_same(script: Script, client: Client, tmp_path: Path) -> None:
    client.duplicates("e1", threshold=0.9, callback_url=HOOK)
    client.quality("e1", neighbours=3, callback_url=HOOK)
    assert [each[3] for each in script.seen] == [
        {"embeddings": "e1", "threshold": 0.9, "callback_url": HOOK},
        {"embeddings": "e1", "neighbours": 3, "callback_url": HOOK},
    ]
    assert list(client.duplicate_groups("d-j1", copy="near", members=7)) == [GROUP]
    assert script.seen[-1][1] == "/duplicates/d-j1/groups?sort=size&copy=near&members=7&limit=200"
    assert list(client.quality_rows("q-j1", "outliers", everything=True)) == [OUTLIER]
    assert "all=true" in script.seen[-1][1]
    target = client.download_analysis("duplicates", "d-j1", "members", tmp_path / "members.jsonl", format="jsonl")
    assert len(target.read_text().splitlines()) == 3

"""`shoal assign` against a server that answers as scripted."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from shoal.cli import app
from shoal.errors import ImageTruncated
from typer.testing import CliRunner

from tests.shared.client.conftest import Script

KNOWN = {"cluster": 3, "distance": 0.25, "margin": 0.5, "is_outlier": False, "label": "dog"}
FAR = {"cluster": 14, "distance": 2.5, "margin": 0.5, "is_outlier": True, "label": None}
NAMED = {**KNOWN, "merged_cluster": 2, "name": "pets"}


@pytest.fixture
def images(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two files that a service at ``script`` would assign."""
    for name in ("SHOAL_CLUSTERER_URL", "SHOAL_EXTRACTOR_URL"):
        monkeypatch.setenv(name, script.url)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text(name)
    return [str(tmp_path / name) for name in ("a.png", "b.png")]


def sent(script: Script) -> list[bytes]:
    """The images of the request."""
    uris: list[str] = script.seen[0][3]["images"]
    return [base64.b64decode(uri.partition(",")[2]) for uri in uris]


def test_images_are_listed_with_their_clusters(script: Script, images: list[str]) -> None:
    script.answers = [(200, [KNOWN, FAR])]  # type: ignore[list-item]
    done = CliRunner().invoke(app, ["assign", "c1", *images])
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [
        ["image", "cluster", "distance", "outlier", "label"],
        [images[0], "3", "0.250", "no", "dog"],
        [images[1], "14", "2.500", "yes"],
    ]
    assert script.seen[0][1] == "/clusterings/c1/assign"
    assert sent(script) == [b"a.png", b"b.png"]


def test_names_have_a_column_once_there_are_some(script: Script, images: list[str]) -> None:
    script.answers = [(200, [NAMED, FAR])]  # type: ignore[list-item]
    done = CliRunner().invoke(app, ["assign", "c1", *images])
    assert [line.split()[4:] for line in done.stdout.splitlines()] == [["label", "name"], ["dog", "pets"], []]


def test_json_and_an_image_from_standard_input(script: Script, images: list[str]) -> None:
    script.answers = [(200, [KNOWN, FAR])]  # type: ignore[list-item]
    words = ["assign", "c1", "-", images[1], "--json", "--outlier-quantile", "0.5"]
    done = CliRunner().invoke(app, words, input=b"piped")
    assert json.loads(done.stdout) == [
        {"image": "-", **KNOWN, "merged_cluster": None, "name": None, "probability": None},
        {"image": images[1], **FAR, "merged_cluster": None, "name": None, "probability": None},
    ]
    assert script.seen[0][1] == "/clusterings/c1/assign?outlier_quantile=0.5"
    assert sent(script) == [b"piped", b"b.png"]


def test_a_bad_image_is_named_by_its_file(script: Script, images: list[str]) -> None:
    error = ImageTruncated("Input 1: The file is truncated or damaged.", input=1)
    script.answers = [(error.status, error.problem())]
    done = CliRunner().invoke(app, ["assign", "c1", *images])
    assert isinstance(done.exception, ImageTruncated)
    assert done.exception.detail == f"images[1] ({images[1]}): The file is truncated or damaged."


def test_embeddings_are_assigned_by_a_job(script: Script, images: list[str]) -> None:
    shift = {"psi": 0.3, "shift": "large", "psi_chance": 0.02, "beyond_chance": True}
    drift = {
        "outliers": {"quantile": 0.9, "distance": 1.0, "rows": 3, "share": 0.03, "train_share": 0.1},
        "sizes": shift,
        "distances": {**shift, "psi": 0.01, "shift": "small", "beyond_chance": False},
    }
    job = {
        "id": "j1",
        "kind": "assign",
        "state": "queued",
        "created_at": "2026-01-01T00:00:00Z",
        "attempt": 0,
        "cancel_requested": False,
        "request": {},
    }
    done = {**job, "state": "succeeded", "result": {"assignments": "a-j1", "drift": drift}}
    script.answers = [(202, job), (200, done)]
    words = ["assign", "c1", "--embeddings", "e1", "--outlier-quantile", "0.9", "--memory-limit", "1GiB"]
    words += ["--callback-url", "https://hooks.example.org/1"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    assert found.stdout == "a-j1\n"
    assert script.seen[0][1] == "/assign"
    body = {"clustering": "c1", "embeddings": "e1", "outlier_quantile": 0.9, "memory_limit": "1GiB"}
    body["callback_url"] = "https://hooks.example.org/1"
    assert script.seen[0][3] == body
    lines = found.stderr.splitlines()[-3:]
    assert lines[0] == "3 outliers: 3.00 % of the rows, 10.00 % of the train set's."
    assert "PSI of 0.300 (large), more than chance (0.020)" in lines[1]
    assert "not more than chance" in lines[2]


def test_a_webhook_needs_a_job(script: Script, images: list[str]) -> None:
    refused = CliRunner().invoke(app, ["assign", "c1", *images, "--callback-url", "https://hooks.example.org/1"])
    assert refused.exit_code == 2
    assert "--embeddings" in refused.output
    assert not script.seen


@pytest.mark.parametrize("words", [["assign", "c1"], ["assign", "c1", "a.png", "--embeddings", "e1"]])
def test_either_images_or_embeddings_are_given(script: Script, images: list[str], words: list[str]) -> None:
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert "one of them" in refused.output
    assert not script.seen

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


@pytest.fixture
def images(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two files that a service at ``script`` would assign."""
    monkeypatch.setenv("SHOAL_CLUSTERER_URL", script.url)
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


def test_json_and_an_image_from_standard_input(script: Script, images: list[str]) -> None:
    script.answers = [(200, [KNOWN, FAR])]  # type: ignore[list-item]
    words = ["assign", "c1", "-", images[1], "--json", "--outlier-quantile", "0.5"]
    done = CliRunner().invoke(app, words, input=b"piped")
    assert json.loads(done.stdout) == [{"image": "-", **KNOWN}, {"image": images[1], **FAR}]
    assert script.seen[0][1] == "/clusterings/c1/assign?outlier_quantile=0.5"
    assert sent(script) == [b"piped", b"b.png"]


def test_a_bad_image_is_named_by_its_file(script: Script, images: list[str]) -> None:
    error = ImageTruncated("Input 1: The file is truncated or damaged.", input=1)
    script.answers = [(error.status, error.problem())]
    done = CliRunner().invoke(app, ["assign", "c1", *images])
    assert isinstance(done.exception, ImageTruncated)
    assert done.exception.detail == f"images[1] ({images[1]}): The file is truncated or damaged."

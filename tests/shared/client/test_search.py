"""`Client.search` and `shoal search` against a server that answers as scripted."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from shoal import Client
from shoal.cli import app
from shoal.client import Image, Neighbour
from shoal.errors import EmbeddingsNotFound, ImageTruncated, ImageUnreadable, InvalidRequest
from typer.testing import CliRunner

from tests.shared.client.conftest import Script

NEAR = {"row": 3, "image_path": "a/3.png", "similarity": 0.987654, "label": "dog", "more": 1}
FAR = {"row": 14, "image_path": "a/14.png", "similarity": -0.25, "label": None}


def sent_image(script: Script) -> bytes:
    """The image of the last request."""
    uri: str = script.seen[-1][3]["image"]
    return base64.b64decode(uri.partition(",")[2])


def test_rows_and_vectors_are_sought(client: Client, script: Script) -> None:
    script.answers = [(200, [NEAR, FAR])]  # type: ignore[list-item]
    found = client.search("e", row=0, k=2)
    assert found == [Neighbour(3, "a/3.png", 0.987654, "dog"), Neighbour(14, "a/14.png", -0.25, None)]
    for vector in ([1, 2.5], np.array([1, 2.5], np.float16), np.array([[1, 2.5]])):
        assert client.search("e", vector=vector) == found
    assert [(method, path, body) for method, path, _, body in script.seen] == [
        ("POST", "/search", {"embeddings": "e", "row": 0, "k": 2}),
        *[("POST", "/search", {"embeddings": "e", "vector": [1.0, 2.5], "k": 10})] * 3,
    ]


def test_a_text_is_sought(client: Client, script: Script) -> None:
    script.answers = [(200, [NEAR])]  # type: ignore[list-item]
    assert client.search("e", text="a red boat", k=3)[0].row == 3
    assert script.seen[-1][3] == {"embeddings": "e", "text": "a red boat", "k": 3}


def test_images_are_sent_as_assign_sends_them(client: Client, script: Script, tmp_path: Path) -> None:
    script.answers = [(200, [NEAR])]  # type: ignore[list-item]
    pixels = np.random.default_rng(0).integers(0, 255, (5, 4, 3), np.uint8)
    picture = PIL.Image.fromarray(pixels)
    picture.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), content):
        assert client.search("e", image=image)[0].row == 3
        assert sent_image(script) == content
    shown: list[Image] = [picture, pixels]
    for each in shown:
        client.search("e", image=each)
        assert np.array_equal(np.asarray(PIL.Image.open(BytesIO(sent_image(script)))), pixels)


def test_a_bad_image_is_named(client: Client, script: Script, tmp_path: Path) -> None:
    error = ImageTruncated("Input 0: The file is truncated.", input=0)
    script.answers = [(error.status, error.problem())]
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ImageTruncated, match=r"a\.png: The file is truncated\.$"):
        client.search("e", image=tmp_path / "a.png")
    with pytest.raises(ImageTruncated, match=r"^image: The file is truncated\.$"):
        client.search("e", image=b"x")
    with pytest.raises(ImageUnreadable, match=r"gone\.png"):
        client.search("e", image="gone.png")


@pytest.mark.parametrize("given", [{}, {"row": 0, "image": b"1"}, {"row": 0, "vector": [1.0]}])
def test_exactly_one_is_sought(client: Client, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="exactly one of `row`, `image`, `vector` and `text`"):
        client.search("e", **given)


@pytest.mark.parametrize("vector", [[], [[1.0], [2.0]], ["a"], 3.0, [float("nan")], [[1], [2, 3]]])
def test_what_is_no_vector_is_refused(client: Client, vector: Any) -> None:
    with pytest.raises(InvalidRequest, match="`vector`"):
        client.search("e", vector=vector)


@pytest.fixture
def image(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file that a service at ``script`` would look for."""
    monkeypatch.setenv("SHOAL_CLUSTERER_URL", script.url)
    (tmp_path / "a.png").write_text("pixels")
    return str(tmp_path / "a.png")


def test_the_command_prints_a_table(script: Script, image: str) -> None:
    script.answers = [(200, [NEAR, FAR])]  # type: ignore[list-item]
    done = CliRunner().invoke(app, ["search", "e", "--row", "5", "-k", "2"])
    assert done.exit_code == 0, done.output
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["row", "similarity", "image", "label"],
        ["3", "0.9877", "a/3.png", "dog"],
        ["14", "-0.2500", "a/14.png"],
    ]
    assert script.seen[0][3] == {"embeddings": "e", "row": 5, "k": 2}


def test_the_command_prints_json_and_reads_standard_input(script: Script, image: str) -> None:
    script.answers = [(200, [FAR])]  # type: ignore[list-item]
    done = CliRunner().invoke(app, ["search", "e", "--image", image, "--json"])
    assert json.loads(done.stdout) == [FAR]
    assert sent_image(script) == b"pixels"
    CliRunner().invoke(app, ["search", "e", "--image", "-", "--json"], input=b"piped")
    assert sent_image(script) == b"piped"


def test_the_command_speaks_of_flags(script: Script, image: str) -> None:
    for words in ([], ["--row", "1", "--image", image]):
        done = CliRunner().invoke(app, ["search", "e", *words])
        assert done.exit_code == 2
        assert "--row N" in done.output
    error = InvalidRequest("`row` is 9, but e has 3 rows, numbered from 0.", field="row")
    script.answers = [(error.status, error.problem())]
    done = CliRunner().invoke(app, ["search", "e", "--row", "9"])
    assert isinstance(done.exception, InvalidRequest)
    assert done.exception.detail == "`--row` is 9, but e has 3 rows, numbered from 0."
    missing = EmbeddingsNotFound("No embeddings have the id e.")
    script.answers = [(missing.status, missing.problem())]
    assert isinstance(CliRunner().invoke(app, ["search", "e", "--row", "9"]).exception, EmbeddingsNotFound)

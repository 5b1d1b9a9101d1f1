"""Files that are no images, have another format's suffix, or end their decoder, among good ones: whole jobs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extractor import pipeline
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store

from tests.extractor.conftest import photo

Make = Callable[..., Path]
NewJob = Callable[..., JobContext]
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


def finished(settings: Settings, result: dict[str, Any]) -> EmbeddingSet:
    """The set of ``result``, each image of its listing once in the rows or the errors, every checksum verified."""
    store = Store(settings.store)
    assert store.verify(result["embeddings"]).ok
    embeddings = store.embeddings(result["embeddings"])
    assert embeddings.complete
    return embeddings


def vectors(embeddings: EmbeddingSet) -> dict[str, np.ndarray]:
    """Each image's embedding."""
    paths = embeddings.metadata(["image_path"]).column("image_path").to_pylist()
    return dict(zip(paths, embeddings.take(np.arange(embeddings.rows)), strict=True))


def codes(embeddings: EmbeddingSet) -> dict[str, str]:
    """Each failed image's code."""
    return {row["image_path"]: row["code"] for row in embeddings.errors().to_pylist()}


def test_an_image_under_another_formats_suffix_is_embedded_like_itself(
    settings: Settings, folder: Path, job: NewJob
) -> None:
    """Fails without: the content, and not the suffix, deciding the format."""
    for seed, (kind, suffix) in enumerate(SUFFIXES.items()):
        photo(seed).save(folder / f"{seed}{suffix}", kind)
        for other in SUFFIXES.values():
            (folder / f"{seed} named{other}").write_bytes((folder / f"{seed}{suffix}").read_bytes())
    found = vectors(finished(settings, pipeline.run(job(max_failed_fraction=1.0), settings)))
    assert len(found) == len(SUFFIXES) * (len(SUFFIXES) + 1)
    for seed, suffix in enumerate(SUFFIXES.values()):
        for other in SUFFIXES.values():
            np.testing.assert_array_equal(found[f"{seed} named{other}"], found[f"{seed}{suffix}"])


def test_what_is_no_image_is_an_error_whatever_its_suffix_says(
    settings: Settings, folder: Path, make: Make, job: NewJob
) -> None:
    make("good.png")
    for suffix in SUFFIXES.values():
        (folder / f"text{suffix}").write_text("This is no image, but several words about one. " * 20)
        (folder / f"zeros{suffix}").write_bytes(bytes(5000))
        (folder / f"paper{suffix}").write_bytes(b"%PDF-1.7\n" + bytes(5000))
        (folder / f"empty{suffix}").write_bytes(b"")
    embeddings = finished(settings, pipeline.run(job(max_failed_fraction=1.0), settings))
    assert codes(embeddings) == {
        f"{name}{suffix}": "image_empty" if name == "empty" else "image_unrecognised"
        for suffix in SUFFIXES.values()
        for name in ("text", "zeros", "paper", "empty")
    }
    assert list(vectors(embeddings)) == ["good.png"]


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``poison(number)``: images named `evil` end their decode process by this signal."""
    program = tmp_path / "program"
    program.mkdir()
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", str(program) + (os.pathsep + before if before else ""))

    def write(number: str) -> None:
        (program / "sitecustomize.py").write_text(
            "import os, signal\nfrom extractor.images import located\nreal = located.read_image_file\n"
            "def read(root, path, stamp, *more):\n    if 'evil' in path.name:\n"
            f"        os.kill(os.getpid(), signal.{number})\n"
            "    return real(root, path, stamp, *more)\nlocated.read_image_file = read\n"
        )

    return write


@pytest.mark.parametrize("number", ["SIGSEGV", "SIGKILL"])
def test_images_that_end_their_decoder_are_errors_by_name_and_all_others_are_embedded(
    settings: Settings, folder: Path, make: Make, job: NewJob, poison: Callable[[str], None], number: str
) -> None:
    settings = settings.model_copy(update={"decode_workers": 2})
    for i in range(14):
        make(f"{i:02d}.png", i)
    good = vectors(finished(settings, pipeline.run(job(), settings)))
    # The first of a job, two in a row on both sides of a shard's border, and the last.
    evil = ["00 evil.png", "06 evil a.png", "06 evil b.png", "14 evil.png"]
    for name in evil:
        make(name)
    poison(number)
    embeddings = finished(settings, pipeline.run(job(max_failed_fraction=0.5, shard_rows=8), settings))
    assert codes(embeddings) == dict.fromkeys(evil, "image_decoder_died")
    found = vectors(embeddings)
    assert found.keys() == good.keys()
    for path, vector in good.items():
        np.testing.assert_array_equal(found[path], vector)

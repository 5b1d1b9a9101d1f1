"""Small real images, written with Pillow, and settings of a machine of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shoal.jobs.child import JobContext
from shoal.settings import Settings

Make = Callable[..., Path]


def photo(seed: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """A smooth picture that no other seed gives."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Data, models and store below the test's own folder; one decode process."""
    for name in ("data", "models", "store"):
        (tmp_path / name).mkdir()
    return Settings(
        data=tmp_path / "data",
        models=tmp_path / "models",
        store=tmp_path / "store",
        decode_workers=1,
        device="cpu",
        offline=True,
    )


@pytest.fixture
def folder(settings: Settings) -> Path:
    """``<data>/set``, empty."""
    path = settings.data / "set"
    path.mkdir()
    return path


@pytest.fixture
def make(folder: Path) -> Make:
    """``make("cat/0.png", seed=0)`` writes a picture into the folder."""

    def write(name: str, seed: int = 0, size: tuple[int, int] = (60, 40)) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(seed, size).save(path)
        return path

    return write


def request(**fields: Any) -> dict[str, Any]:
    """An extract request as a client sends it: raw pixels of ``set`` unless told otherwise."""
    return {"images": {"path": "set"}, "model": "raw_pixels", "batch_size": 4, "shard_rows": 5, **fields}


@pytest.fixture
def job() -> Callable[..., JobContext]:
    """``job(model=…, checkpoint=…)``: the context of an extract job."""

    def context(*, checkpoint: dict[str, Any] | None = None, **fields: Any) -> JobContext:
        return JobContext.local(request(**fields), kind="extract:torch", checkpoint=checkpoint)

    return context


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

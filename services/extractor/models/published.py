"""Models that libraries publish by name, timm's and OpenCLIP's: from indexes, since no API imports either library.

The indexes are written by ``python -m extractor.models.timm_index`` and ``python -m extractor.models.open_clip_index``.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from extractor.images.transform import Transform
from extractor.models.spec import ModelSpec, WeightsSource

TIMM_INDEX = Path(__file__).with_name("timm_models.json")
OPEN_CLIP_INDEX = Path(__file__).with_name("open_clip_models.json")
TIMM_PREFIX = "timm:"
OPEN_CLIP_PREFIX = "open_clip:"


@cache
def _index(path: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return index


def timm_version() -> str:
    """The version of timm that the index describes."""
    return str(_index(TIMM_INDEX)["timm"])


@cache
def timm_names() -> tuple[str, ...]:
    """Every name that `timm_model` knows: architectures, and ``architecture.tag`` for each set of weights."""
    return _names(TIMM_INDEX)


@cache
def open_clip_names() -> tuple[str, ...]:
    """Every name that `open_clip_model` knows: architectures, and ``architecture.tag`` for each set of weights."""
    return _names(OPEN_CLIP_INDEX)


def _names(path: Path) -> tuple[str, ...]:
    rows = _index(path)["architectures"]
    return (*rows, *[f"{name}.{tag}" for name, row in rows.items() for tag in row["tags"] if tag])


def timm_model(name: str) -> ModelSpec | None:
    """timm's model called `name`, with its default weights when `name` has no tag; None if timm has no such model."""
    architecture, _, tag = name.partition(".")
    index = _index(TIMM_INDEX)
    row = index["architectures"].get(architecture)
    if row is None or (tag and tag not in row["tags"]):
        return None
    tag = tag or next(iter(row["tags"]))
    number, licence, hub, url = row["tags"][tag]
    size, crop_fraction, crop_mode, interpolation, mean, std = index["transforms"][number]
    stem = f"{architecture}.{tag}" if tag else architecture
    original = url.rpartition("/")[2]
    files = [f"{stem}.safetensors", f"{stem}.pth", f"{stem}.bin", *([original] if original else [])]
    digest = None
    if tag and hub is not None:
        url = f"https://huggingface.co/{hub or f'timm/{stem}'}/resolve/main/model.safetensors"
    elif url:
        files = [original, *files[:-1]]
        # Publishers put the first digits of the sha256 into the file's name.
        stated = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", original)
        digest = stated.group(1) if stated else None
    return ModelSpec(
        name=TIMM_PREFIX + name,
        backend="torch",
        architecture=stem,
        weights=WeightsSource("file", files=tuple(files), url=url or None, sha256=digest),
        layout="timm",
        transform=Transform(size, crop_fraction, interpolation, tuple(mean), tuple(std), crop_mode),
        dim=row["dim"],
        description="timm",
        licence=licence or None,
    )


def open_clip_model(name: str) -> ModelSpec | None:
    """OpenCLIP's model called `name`, which embeds images, and texts where its tokeniser comes with the library.

    Parameters
    ----------
    name
        An architecture of OpenCLIP, such as ``ViT-B-32``, and a tag of published weights after a dot,
        ``ViT-B-32.laion2b_s34b_b79k``; the first one without a tag.

    Returns
    -------
    ModelSpec or None
        None if OpenCLIP has no such model.
    """
    architecture, _, tag = name.partition(".")
    index = _index(OPEN_CLIP_INDEX)
    row = index["architectures"].get(architecture)
    if row is None or (tag and tag not in row["tags"]):
        return None
    tag = tag or next(iter(row["tags"]), "")
    number, hub, network = row["tags"].get(tag, (row["transform"], "", ""))
    stem = f"open_clip-{architecture}.{tag}" if tag else f"open_clip-{architecture}"
    size, crop_fraction, crop_mode, interpolation, mean, std = index["transforms"][number]
    url = f"https://huggingface.co/{hub}/resolve/main/open_clip_model.safetensors" if hub else None
    return ModelSpec(
        name=OPEN_CLIP_PREFIX + name,
        backend="torch",
        architecture=OPEN_CLIP_PREFIX + (network or architecture),
        weights=WeightsSource("file", files=tuple(f"{stem}.{end}" for end in ("safetensors", "bin", "pt")), url=url),
        layout="plain",
        transform=Transform(size, crop_fraction, interpolation, tuple(mean), tuple(std), crop_mode),
        dim=row["dim"],
        description="OpenCLIP",
        reads_text=row["text"],
    )

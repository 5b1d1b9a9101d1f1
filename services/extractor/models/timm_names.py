"""What timm's models are called and need as input, read from a file so that no API imports timm or torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

INDEX_FILE = Path(__file__).with_name("timm_models.json")
"""Written by ``python -m extractor.models.timm_index``."""


@dataclass(frozen=True)
class TimmModel:
    """An architecture of timm with one of its sets of pretrained weights.

    Attributes
    ----------
    architecture, tag
        Together timm's name ``architecture.tag``; `tag` is empty for an architecture without published weights.
    dim
        Width of the pooled features.
    transform
        Size, crop fraction, crop mode, interpolation, mean, std.
    licence
        SPDX-like name as timm states it, of the weights; None when timm states none.
    files
        Names under which a file with these weights is looked for, the first also for a download.
    url
        Where the weights can be downloaded; None when they are not published.
    sha256
        First digits of the file's sha256, where its publisher put them into the file's name.
    """

    architecture: str
    tag: str
    dim: int | None
    transform: tuple[int, float, str, str, tuple[float, ...], tuple[float, ...]]
    licence: str | None
    files: tuple[str, ...]
    url: str | None
    sha256: str | None

    @property
    def name(self) -> str:
        """timm's name of the model."""
        return f"{self.architecture}.{self.tag}" if self.tag else self.architecture


@cache
def _index() -> dict[str, Any]:
    index: dict[str, Any] = json.loads(INDEX_FILE.read_text(encoding="utf-8"))
    return index


def version() -> str:
    """The version of timm that the names are of."""
    return str(_index()["timm"])


@cache
def names() -> tuple[str, ...]:
    """Every name that `find` knows: architectures, and ``architecture.tag`` for each set of weights."""
    found = list(_index()["architectures"])
    found += [f"{a}.{t}" for a, row in _index()["architectures"].items() for t in row["tags"] if t]
    return tuple(found)


def find(name: str) -> TimmModel | None:
    """The model called `name` in timm, with its default weights when `name` has no tag; None when there is none."""
    architecture, _, tag = name.partition(".")
    row = _index()["architectures"].get(architecture)
    if row is None or (tag and tag not in row["tags"]):
        return None
    tag = tag or next(iter(row["tags"]))
    number, licence, hub, url = row["tags"][tag]
    size, crop, mode, interpolation, mean, std = _index()["transforms"][number]
    stem = f"{architecture}.{tag}" if tag else architecture
    original = url.rpartition("/")[2]
    files = [f"{stem}.safetensors", f"{stem}.pth", f"{stem}.bin", *([original] if original else [])]
    digits = None
    if tag and hub is not None:
        url = f"https://huggingface.co/{hub or f'timm/{stem}'}/resolve/main/model.safetensors"
    elif url:
        files = [original, *files[:-1]]
        stated = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", original)
        digits = stated.group(1) if stated else None
    return TimmModel(
        architecture=architecture,
        tag=tag,
        dim=row["dim"],
        transform=(size, crop, mode, interpolation, tuple(mean), tuple(std)),
        licence=licence or None,
        files=tuple(files),
        url=url or None,
        sha256=digits,
    )

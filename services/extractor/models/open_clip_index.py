"""Writes ``open_clip_models.json``: what the APIs need to know of OpenCLIP's models without importing it or torch.

Run ``python -m extractor.models.open_clip_index`` after a change of OpenCLIP's version.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import open_clip
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from extractor.models.published import OPEN_CLIP_INDEX
from extractor.models.timm_index import dump

CROP_MODES = {"shortest": "center", "squash": "squash"}
PLAIN = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic", "resize_mode": "shortest"}
"""The input of a model whose published weights state none."""


def _transform(size: int, cfg: Mapping[str, Any]) -> list[object]:
    """Size, crop fraction, crop mode, interpolation, mean and std."""
    mean, std = ([round(float(value), 12) for value in cfg[name]] for name in ("mean", "std"))
    return [size, 1.0, CROP_MODES[cfg["resize_mode"]], cfg["interpolation"], mean, std]


def build() -> dict[str, object]:
    """The index as a JSON document: transforms by number; architectures with dimension, text tower and weights.

    Left out are models whose text tower is of the `transformers` library, which is built from a download.
    """
    transforms: list[list[object]] = []
    architectures: dict[str, object] = {}

    def number_of(transform: list[object]) -> int:
        if transform not in transforms:
            transforms.append(transform)
        return transforms.index(transform)

    for name in open_clip.list_models():
        config = open_clip.get_model_config(name) or {}
        size = config["vision_cfg"]["image_size"]
        if "hf_model_name" in config["text_cfg"] or not isinstance(size, int):
            continue
        tags: dict[str, list[object]] = {}
        for tag in open_clip.list_pretrained_tags_by_model(name):
            cfg = open_clip.get_pretrained_cfg(name, tag)
            hub, _, file = cfg["hf_hub"].rpartition("/")
            if not hub or file:
                continue  # Not in the format of the library's current releases.
            # The same tensors with another activation are another function.
            quick = f"{name}-quickgelu"
            other = cfg.get("quick_gelu") and not config.get("quick_gelu") and quick in open_clip.list_models()
            tags[tag] = [number_of(_transform(size, {**PLAIN, **cfg})), hub, quick if other else ""]
        architectures[name] = {
            "dim": config["embed_dim"],
            "text": "hf_tokenizer_name" not in config["text_cfg"],
            "transform": number_of(_transform(size, PLAIN)),
            "tags": tags,
        }
    return {"open_clip": open_clip.__version__, "transforms": transforms, "architectures": architectures}


if __name__ == "__main__":
    dump(build(), OPEN_CLIP_INDEX)
    sys.stdout.write(f"{OPEN_CLIP_INDEX}\n")

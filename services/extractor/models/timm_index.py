"""Writes ``timm_models.json``: what the APIs need to know of timm's models without importing timm or torch.

Run ``python -m extractor.models.timm_index`` after a change of timm's version. Each architecture is built on PyTorch's
meta device, which costs no memory for its weights, and asked for the shape of its pooled features.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.models import get_arch_pretrained_cfgs

from extractor.models.published import TIMM_INDEX


def _transform(cfg: Any) -> list[Any] | None:
    """Size, crop fraction, crop mode, interpolation, mean and std; None when our preprocessing has no such input."""
    data = resolve_data_config(pretrained_cfg=cfg.to_dict())
    channels, height, width = data["input_size"]
    if channels != 3 or height != width or data["crop_mode"] not in ("center", "squash"):
        return None
    return [
        height,
        data["crop_pct"],
        data["crop_mode"],
        data["interpolation"],
        [round(float(v), 12) for v in data["mean"]],
        [round(float(v), 12) for v in data["std"]],
    ]


def embedding_dim(architecture: str, size: int) -> int:
    """Width of the pooled features of `architecture` without its classifier, found by a run on the meta device.

    Some architectures compute with real tensors that cannot be mixed with meta ones; for these it is the width that
    the architecture states.
    """
    with torch.device("meta"):
        module = timm.create_model(architecture, pretrained=False, num_classes=0).eval()
    stated = int(getattr(module, "head_hidden_size", None) or module.num_features)
    try:
        with torch.inference_mode():
            pixels = torch.empty(1, 3, size, size, device="meta")
            pooled = module.forward_head(module.forward_features(pixels), pre_logits=True)
    except (RuntimeError, NotImplementedError, TypeError, AttributeError, ValueError):
        return stated
    return int(pooled.shape[-1]) if isinstance(pooled, torch.Tensor) and pooled.ndim == 2 else stated


def build() -> dict[str, object]:
    """The index as a JSON document: transforms by number, architectures with their dimension and pretrained tags."""
    transforms: list[list[Any]] = []
    architectures: dict[str, object] = {}
    for architecture in timm.list_models():
        first = 0
        tags: dict[str, list[object]] = {}
        for name, cfg in get_arch_pretrained_cfgs(architecture).items():
            transform = _transform(cfg)
            if transform is None:
                continue
            if transform not in transforms:
                transforms.append(transform)
            tag = name.partition(".")[2]
            conventional = f"timm/{architecture}.{tag}"
            hub = "" if cfg.hf_hub_id == conventional else cfg.hf_hub_id
            first = first if tags else transforms.index(transform)
            tags[tag] = [transforms.index(transform), cfg.license or "", hub, cfg.url or ""]
        if tags:
            size = transforms[first][0]
            architectures[architecture] = {"dim": embedding_dim(architecture, size), "tags": tags}
    return {"timm": timm.__version__, "transforms": transforms, "architectures": architectures}


def dump(index: Mapping[str, Any], path: Path) -> None:
    """Write `index` with one line an architecture, so that a new version of its library gives a readable difference.

    Its first key is the library's name.
    """
    library = next(iter(index))
    rows = ",\n".join(
        f"{json.dumps(k)}:{json.dumps(v, separators=(',', ':'))}" for k, v in index["architectures"].items()
    )
    shapes = ",\n".join(json.dumps(t, separators=(",", ":")) for t in index["transforms"])
    path.write_text(
        f'{{"{library}":{json.dumps(index[library])},\n"transforms":[\n{shapes}\n],\n"architectures":{{\n{rows}\n}}}}\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    dump(build(), TIMM_INDEX)
    sys.stdout.write(f"{TIMM_INDEX}\n")

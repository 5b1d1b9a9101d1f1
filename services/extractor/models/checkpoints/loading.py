"""Loads a published checkpoint into a network, strictly: every tensor of either is accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from shoal.errors import WeightsInvalid
from shoal.store.records import KeyRules
from torch import Tensor, nn

from extractor.models.checkpoints.contents import NO_RULES, read_part, unused_patterns
from extractor.models.checkpoints.layouts import LAYOUTS, Layout
from extractor.models.checkpoints.matching import LISTED, Heads, Match, matches, signed
from extractor.models.checkpoints.reading import read

SHOWN = 12
"""Number of keys of each kind in an error's message; its members list up to `LISTED`."""


def load_into(module: nn.Module, path: Path, layout: str = "auto", rules: KeyRules | None = None) -> Match:
    """Load the checkpoint at `path` into `module`, which has no classifier.

    Parameters
    ----------
    layout
        A name of `extractor.models.checkpoints.layouts`; ``auto`` finds it.
    rules
        `prefix`, `rename` and `ignore` of the request, applied before the layout.

    Raises
    ------
    WeightsInvalid
        The file cannot be read; a tensor of the network is missing or has another shape; a tensor of the file belongs
        neither to the network nor to a known head; or a tensor holds NaN or infinity.
    """
    content = read(path)
    rules = rules or NO_RULES
    heads = _classifier_keys(module)
    tried: list[Match] = []
    for candidate in _candidates(content, layout, rules):
        for match in matches(module, content, candidate, heads, rules):
            if match.complete:
                _fill(module, match, path)
                return match
            tried.append(match)
    raise _refusal(path, content, layout, tried, rules)


def _candidates(content: Mapping[str, Any], layout: str, rules: KeyRules) -> list[Layout]:
    if layout == "auto":
        found = [known for known in LAYOUTS if signed(content, known, rules)]
        return [known for known in found if not known.averaged] or found
    found = [known for known in LAYOUTS if known.name == layout]
    if not found:
        names = ", ".join(known.name for known in LAYOUTS)
        raise WeightsInvalid(f"{layout!r} is not a key layout: choose `auto` or one of {names}.")
    return found


def _classifier_keys(module: nn.Module) -> Heads:
    """A function that returns the keys that the architecture of `module` has with its classifier only."""

    @cache
    def keys() -> frozenset[str]:
        cfg = getattr(module, "pretrained_cfg", None) or {}
        architecture = cfg.get("architecture") if isinstance(cfg, Mapping) else None
        if not architecture or not timm.is_model(architecture):
            return frozenset()
        with torch.device("meta"):
            complete = timm.create_model(architecture, pretrained=False)
        return frozenset(complete.state_dict()) - frozenset(module.state_dict())

    return keys


def _fill(module: nn.Module, match: Match, path: Path) -> None:
    state = module.state_dict()
    for name, tensor in match.tensors.items():
        if state[name].is_floating_point() and not tensor.is_floating_point():
            raise WeightsInvalid(
                f"{path.name}: {name!r} holds {tensor.dtype}, but the network needs floating point. Use a checkpoint "
                "that is not quantised.",
                file=path.name,
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsInvalid(f"{path.name}: {name!r} holds NaN or infinity.", file=path.name)
    counters: dict[str, Tensor] = {name: state[name] for name in match.absent_counters}
    module.load_state_dict({**match.tensors, **counters}, strict=True)


def _refusal(
    path: Path, content: Mapping[str, Any], layout: str, tried: list[Match], rules: KeyRules
) -> WeightsInvalid:
    names = list(dict.fromkeys(match.layout.name for match in tried))
    if not tried:
        return _nothing_read(path, content, layout, rules)
    best = min(tried, key=lambda match: match.faults)
    misshaped = [f"{key} is {_shape(has)}, needed {_shape(needed)}" for key, has, needed in best.misshaped]
    renamed = [f"{key} to {name}" for key, name in best.renamed]
    unused = unused_patterns(read_part(content, best.layout, rules), rules)
    sentences = [
        f"{path.name} does not fit the network (read as {best.layout.name!r}; tried: {', '.join(names)}).",
        _list("Missing", best.missing),
        _list("Unexpected", best.unexpected),
        _list("Of another shape", misshaped),
        _list("Ignored", best.ignored),
        _list("Renamed", renamed),
        _list("Patterns of `rename` that fit no key", unused),
        "" if best.misshaped or layout != "auto" else _advice(best),
    ]
    return WeightsInvalid(
        " ".join(s for s in sentences if s),
        file=path.name,
        layout=best.layout.name,
        layouts_tried=names,
        missing=best.missing[:LISTED],
        unexpected=best.unexpected[:LISTED],
        misshaped=misshaped[:LISTED],
        ignored=best.ignored[:LISTED],
        renamed=renamed[:LISTED],
    )


def _advice(best: Match) -> str:
    """Which field of the request may help."""
    if not best.missing:
        return "If the unexpected tensors are not needed, name them in the model's `ignore`."
    if not best.tensors and best.unexpected:
        return "Map the file's keys to the network's with the model's `prefix` or `rename`."
    return ""


def _nothing_read(path: Path, content: Mapping[str, Any], layout: str, rules: KeyRules) -> WeightsInvalid:
    parts = ", ".join(repr(str(key)) for key in list(content)[:SHOWN])
    if rules.prefix and any(read_part(content, known) for known in LAYOUTS):
        says = f"{path.name} holds no key that begins with {rules.prefix!r} where the layout {layout!r} looks for it."
    else:
        says = f"{path.name} holds no tensors where the layout {layout!r} has them."
    return WeightsInvalid(f"{says} At its top level are: {parts}.", file=path.name, layouts_tried=[])


def _list(title: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f", and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{title} ({len(items)}): {', '.join(items[:SHOWN])}{more}."


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a scalar"

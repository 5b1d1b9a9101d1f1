"""Which tensor of a checkpoint fills which tensor of the network, and what does not fit."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from extractor.checkpoints import names
from extractor.layouts import TRAINING_STATE, Layout

WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
Heads = Callable[[], frozenset[str]]
COUNTER = "num_batches_tracked"
"""BatchNorm's counter of batches: checkpoints before PyTorch 0.4.1 lack it and evaluation never reads it."""


@dataclass
class Match:
    """How a part of a checkpoint fits the network when read in one layout.

    Attributes
    ----------
    tensors
        By our names: what fills the network.
    missing
        Tensors of the network that nothing fills.
    unexpected
        Keys of the file, as they stand there, that belong neither to the network nor to a known head.
    misshaped
        (key of the file, its shape, the shape that the network needs).
    heads
        Keys of the file that belong to known heads.
    absent_counters
        BatchNorm counters that the file lacks: tolerated.
    other_parts
        Parts of a training checkpoint beside the one read.
    converted, merged
        Whether timm's own conversion was needed, and the keys that it joined with others or left out.
    """

    layout: Layout
    container: str
    prefix: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    absent_counters: list[str] = field(default_factory=list)
    other_parts: list[str] = field(default_factory=list)
    converted: bool = False
    merged: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every tensor is filled and every other one is accounted for."""
        return bool(self.tensors) and not (self.missing or self.unexpected or self.misshaped)

    @property
    def faults(self) -> int:
        """How far from complete, to find the layout that was most likely meant."""
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)


def matches(module: nn.Module, content: Mapping[str, Any], layout: Layout, heads: Heads) -> Iterator[Match]:
    """Every way in which `layout` can read `content`: one per prefix that is there.

    Parameters
    ----------
    heads
        Gives the keys of the classifier that `module` was built without.
    """
    container = container_of(content, layout)
    if container is None:
        return
    state = tensors_of(content, container)
    others = [key for key, value in content.items() if key != container and not (container == "" and key in state)]
    strange = [key for key in others if not _accounted(key, content[key])]
    for prefix in layout.prefixes:
        if any(_bare(key).startswith(prefix) for key in state):
            match = _match(module, state, Match(layout, container, prefix), heads)
            match.unexpected += strange
            match.other_parts = [key for key in others if key not in strange]
            yield match


def container_of(content: Mapping[str, Any], layout: Layout) -> str | None:
    """The first of the layout's containers that holds tensors; None when there is none.

    Only that one is read: to take, say, averaged weights because a key is missing from the others would hide a fault.
    """
    return next((c for c in layout.containers if tensors_of(content, c)), None)


def tensors_of(content: Mapping[str, Any], container: str) -> dict[str, Tensor]:
    """The tensors right below a part of the file, ``""`` for the file itself."""
    part = content if container == "" else content.get(container)
    if not isinstance(part, Mapping):
        return {}
    return {str(key): value for key, value in part.items() if isinstance(value, Tensor)}


def signed(content: Mapping[str, Any], layout: Layout) -> bool:
    """Whether `content` carries the layout's sign, or the layout has none."""
    container = container_of(content, layout)
    if container is None or layout.sign is None:
        return container is not None
    return any(re.fullmatch(layout.sign, _bare(key)) for key in tensors_of(content, container))


def _match(module: nn.Module, state: Mapping[str, Tensor], match: Match, heads: Heads) -> Match:
    wanted, layout = module.state_dict(), match.layout
    ours = rename(layout, module)
    origin: dict[str, str] = {}
    for key, tensor in state.items():
        bare = _bare(key)
        name = ours(bare[len(match.prefix) :]) if bare.startswith(match.prefix) else None
        if name is not None and name in wanted and name not in origin:
            match.tensors[name], origin[name] = tensor, key
        elif layout.is_head(bare):
            match.heads.append(key)
        else:
            match.unexpected.append(key)
    _compare(wanted, origin, match)
    if match.unexpected:
        _set_heads_aside(match, heads())
    if layout.converted_by_timm and (match.unexpected or match.missing):
        converted = _converted(module, state, match, heads)
        if converted is not None and converted.faults < match.faults:
            return converted
    return match


def _compare(wanted: Mapping[str, Tensor], origin: Mapping[str, str], match: Match) -> None:
    for name, needed in wanted.items():
        given = match.tensors.get(name)
        if given is None:
            (match.absent_counters if name.endswith(COUNTER) else match.missing).append(name)
        elif given.shape != needed.shape:
            match.misshaped.append((origin.get(name, name), tuple(given.shape), tuple(needed.shape)))


def _set_heads_aside(match: Match, classifier: frozenset[str]) -> None:
    found = [key for key in match.unexpected if _bare(key).removeprefix(match.prefix) in classifier]
    match.heads += found
    match.unexpected = [key for key in match.unexpected if key not in found]


def rename(layout: Layout, module: nn.Module) -> Callable[[str], str | None]:
    """From a key of the backbone to our name, None where the layout has no such key."""
    if layout.names is not None:
        table: dict[str, str] = getattr(names, layout.names)(module)
        return table.get
    if not layout.renames:
        return lambda name: name

    def by_pattern(name: str) -> str | None:
        for pattern, replacement in layout.renames:
            if re.fullmatch(pattern, name):
                return re.sub(pattern, replacement, name)
        return None

    return by_pattern


def _converted(module: nn.Module, state: Mapping[str, Tensor], direct: Match, heads: Heads) -> Match | None:
    """The match after the conversion that timm keeps for this architecture; None where it has none or it fails.

    timm's conversions also resample tensors whose shape does not fit. Here that counts as a wrong shape: a checkpoint
    for another image size would otherwise load without a word.
    """
    convert = getattr(sys.modules.get(type(module).__module__), "checkpoint_filter_fn", None)
    if convert is None:
        return None
    inside = {_bare(key): key for key in state if _bare(key).startswith(direct.prefix)}
    source = {bare[len(direct.prefix) :]: key for bare, key in inside.items()}
    try:
        result = convert({name: state[key] for name, key in source.items()}, module)
    except (KeyError, IndexError, ValueError, RuntimeError, AttributeError, TypeError, AssertionError):
        return None
    match = Match(direct.layout, direct.container, direct.prefix, converted=True)
    wanted = module.state_dict()
    for name, tensor in result.items():
        before = state[source[name]] if name in source else None
        if before is not None and _resampled(before, tensor):
            match.misshaped.append((source[name], tuple(before.shape), tuple(tensor.shape)))
        if name in wanted:
            match.tensors[name] = tensor
        else:
            match.unexpected.append(source.get(name, name))
    kept = {tensor.data_ptr() for tensor in result.values()}
    gone = [key for name, key in source.items() if name not in result and state[key].data_ptr() not in kept]
    match.merged = [key for key in gone if not match.layout.is_head(_bare(key))]
    match.heads = [key for key in gone if match.layout.is_head(_bare(key))]
    match.unexpected += [key for key in state if key not in inside.values()]
    match.heads += [key for key in match.unexpected if match.layout.is_head(_bare(key))]
    match.unexpected = [key for key in match.unexpected if key not in match.heads]
    _set_heads_aside(match, heads())
    _compare(wanted, source, match)
    return match


def _resampled(before: Tensor, after: Tensor) -> bool:
    """Whether `after` is more than another arrangement of `before`, or than its end.

    DINOv2's networks with registers add the class token's position to the token itself and keep those of the patches.
    """
    if before.numel() == after.numel():
        return False
    if before.ndim != after.ndim or before.ndim < 2 or after.shape[1] > before.shape[1]:
        return True
    return not torch.equal(before[:, before.shape[1] - after.shape[1] :], after)


def _accounted(key: Any, value: Any) -> bool:
    """Whether a part beside the network is training state, or holds no tensors at all."""
    return re.fullmatch(TRAINING_STATE, str(key)) is not None or not _holds_tensors(value)


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Tensor):
        return int(value.numel()) > 1
    if isinstance(value, Mapping):
        return any(_holds_tensors(v) for v in value.values())
    return isinstance(value, list | tuple) and any(_holds_tensors(v) for v in value)


def _bare(key: str) -> str:
    return WRAPPERS.sub("", key)

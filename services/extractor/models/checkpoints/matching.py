"""Which tensor of a checkpoint fills which tensor of the network, and what does not fit."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from shoal.store.records import KeyRules, LoadedCheckpoint
from torch import Tensor, nn

from extractor.models.checkpoints.contents import (
    NO_RULES,
    Entry,
    Part,
    accounted,
    bare,
    ignored,
    parts_beside,
    read_part,
)
from extractor.models.checkpoints.layouts import Layout

Heads = Callable[[], frozenset[str]]
LISTED = 200
"""Keys of each kind that a record or an error lists at most."""
COUNTER = "num_batches_tracked"
"""BatchNorm's counter of batches: checkpoints before PyTorch 0.4.1 lack it and evaluation never reads it."""


@dataclass
class Match:
    """How a part of a checkpoint fits the network when read in one layout.

    Attributes
    ----------
    tensors
        By timm's names: what fills the network.
    missing
        Tensors of the network with no matching key in the file.
    unexpected
        Keys of the file that belong neither to the network nor to a known head.
    misshaped
        (key of the file, its shape, the shape that the network needs).
    heads
        Keys of the file that belong to known heads, which an embedding does not need.
    ignored
        Keys of the file that the request's rules leave out, or that lack its prefix.
    renamed
        (key of the file, new name) of what the request's rules renamed.
    absent_counters
        BatchNorm's ``num_batches_tracked`` that the file lacks: tolerated, evaluation never reads them.
    other_parts
        Parts of a training checkpoint that are not read.
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
    ignored: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    absent_counters: list[str] = field(default_factory=list)
    other_parts: list[str] = field(default_factory=list)
    converted: bool = False
    merged: list[str] = field(default_factory=list)

    @property
    def filled(self) -> int:
        """How many of the network's tensors are filled."""
        return len(self.tensors)

    @property
    def complete(self) -> bool:
        """Whether every tensor is filled and every other one is accounted for."""
        return bool(self.tensors) and not (self.missing or self.unexpected or self.misshaped)

    @property
    def faults(self) -> int:
        """How far from complete, to find the layout that was most likely meant."""
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)

    def record(self, asked_layout: str, file: str | None = None) -> LoadedCheckpoint:
        """The record in the store of how the checkpoint was read; ``file`` as in `LoadedCheckpoint`."""
        return LoadedCheckpoint(
            asked_layout=asked_layout,
            container=self.container,
            prefix=self.prefix,
            filled=self.filled,
            renamed=len(self.renamed),
            ignored=tuple(self.ignored[:LISTED]),
            ignored_count=len(self.ignored),
            heads=tuple(self.heads[:LISTED]),
            heads_count=len(self.heads),
            file=file,
        )


@dataclass(frozen=True)
class _Split:
    """The entries of a part, parted by the layout's prefix.

    Attributes
    ----------
    inside
        With the prefix taken away and the layout's names made ours; those that the layout has no name for keep theirs.
    outside
        The others.
    head_names
        By key of the file: the name that tells whether an entry belongs to a head.
    """

    inside: list[Entry]
    outside: list[Entry]
    head_names: dict[str, str]

    def is_head(self, layout: Layout, entry: Entry) -> bool:
        """Whether a tensor belongs to a head that `layout` knows."""
        return any(re.fullmatch(pattern, self.head_names[entry.origins[0]]) for pattern in layout.heads)


def matches(
    module: nn.Module, content: Mapping[str, Any], layout: Layout, heads: Heads, rules: KeyRules = NO_RULES
) -> Iterator[Match]:
    """Every way in which `layout` can read `content`: one per prefix that is there.

    Parameters
    ----------
    heads
        Gives the keys of the classifier that `module` was built without.
    rules
        The request's rules for the keys.
    """
    part = read_part(content, layout, rules)
    if part is None:
        return
    beside = list(parts_beside(content, part.container))
    unaccounted = [name for name, value in beside if not accounted(name, value, rules)]
    for prefix, copy in _prefixes(part, layout):
        match = Match(layout, part.container, prefix, renamed=list(part.renamed))
        match = _match(module, _split(part, layout, prefix, copy, module), match, heads)
        _set_ignored_aside(match, part, rules)
        match.unexpected += unaccounted
        match.other_parts = [name for name, _ in beside if name not in unaccounted]
        yield match


def signed(content: Mapping[str, Any], layout: Layout, rules: KeyRules = NO_RULES) -> bool:
    """Whether `content` carries the layout's marker, or the layout defines no marker."""
    part = read_part(content, layout, rules)
    if part is None or layout.sign is None:
        return part is not None
    return any(re.fullmatch(layout.sign, entry.name) for entry in part.entries)


def _prefixes(part: Part, layout: Layout) -> list[tuple[str, bool]]:
    """The layout's prefixes that are there, and whether they are those of averaged copies."""

    def there(prefixes: Sequence[str]) -> list[str]:
        return [p for p in prefixes if any(entry.name.startswith(p) for entry in part.entries)]

    found = there(layout.prefixes)
    if [p for p in found if p] or not layout.copies:
        return [(prefix, False) for prefix in found]
    return [(prefix, True) for prefix in there(layout.copies)[:1]] or [(prefix, False) for prefix in found]


def _split(part: Part, layout: Layout, prefix: str, copy: bool, module: nn.Module) -> _Split:
    ours = rename(layout, module)
    inside, outside, head_names = [], [], {}
    for entry in part.entries:
        name, key = entry.name, entry.origins[0]
        head_names[key] = name
        if not name.startswith(prefix):
            outside.append(entry)
            continue
        rest = name[len(prefix) :]
        if copy:  # The heads of a copy are named as those of the original.
            head_names[key] = f"backbone.{rest}"
        renamed = ours(rest)
        if renamed is None:
            outside.append(entry)
        else:
            inside.append(Entry(renamed, entry.tensor, entry.origins))
    return _Split(_joined(inside, layout, module.state_dict()), outside, head_names)


def _joined(entries: list[Entry], layout: Layout, needed: Mapping[str, Tensor]) -> list[Entry]:
    """`entries` with the tensors put together that the network has as one."""
    by_name = {entry.name: entry for entry in entries}
    for pieces, whole in layout.joins:
        for name in [name for name in needed if re.fullmatch(rf"(.+\.)?{re.escape(whole)}\.\w+", name)]:
            parts = [name.replace(whole, piece) for piece in pieces]
            found = [by_name[part] for part in parts if part in by_name]
            if len(found) == len(parts) and len({entry.tensor.shape[1:] for entry in found}) == 1:
                for part in parts:
                    del by_name[part]
                origins = tuple(key for entry in found for key in entry.origins)
                by_name[name] = Entry(name, torch.cat([entry.tensor for entry in found]), origins)
    return list(by_name.values()) if layout.joins else entries


def _match(module: nn.Module, split: _Split, match: Match, heads: Heads) -> Match:
    needed, layout = {bare(name): name for name in module.state_dict()}, match.layout
    origin: dict[str, str] = {}
    for entry in split.inside:
        name = needed.get(entry.name)
        if name is not None and name not in origin:
            match.tensors[name], origin[name] = entry.tensor, " + ".join(entry.origins)
        elif split.is_head(layout, entry):
            match.heads += entry.origins
        else:
            match.unexpected += entry.origins
    for entry in split.outside:
        (match.heads if split.is_head(layout, entry) else match.unexpected).extend(entry.origins)
    _compare(module.state_dict(), origin, match)
    if match.unexpected:
        _set_heads_aside(match, split, heads())
    if layout.converted_by_timm and (match.unexpected or match.missing):
        converted = _converted(module, split, match, heads)
        if converted is not None and converted.faults < match.faults:
            return converted
    return match


def _compare(network: Mapping[str, Tensor], origin: Mapping[str, str], match: Match) -> None:
    for name, target in network.items():
        given = match.tensors.get(name)
        if given is None:
            (match.absent_counters if name.endswith(COUNTER) else match.missing).append(name)
        elif given.shape != target.shape:
            match.misshaped.append((origin.get(name, name), tuple(given.shape), tuple(target.shape)))


def _set_heads_aside(match: Match, split: _Split, classifier: frozenset[str]) -> None:
    found = [key for entry in split.inside if entry.name in classifier for key in entry.origins]
    match.heads += [key for key in match.unexpected if key in found]
    match.unexpected = [key for key in match.unexpected if key not in found]


def _set_ignored_aside(match: Match, part: Part, rules: KeyRules) -> None:
    """Leave out what the request's rules allow, under any of the key's names."""
    if rules.ignore:
        names = {key: entry.name for entry in part.entries for key in entry.origins}
        match.ignored = [key for key in match.unexpected if ignored(rules, key, bare(key), names.get(key, key))]
        match.unexpected = [key for key in match.unexpected if key not in set(match.ignored)]
    match.ignored += part.set_aside


def rename(layout: Layout, module: nn.Module) -> Callable[[str], str | None]:
    """From a key of the backbone to our name, None where the layout has no such key."""
    if layout.names is not None:
        return _efficientnet_names(module).get
    if not layout.renames:
        return lambda name: name

    def by_pattern(name: str) -> str | None:
        for pattern, replacement in layout.renames:
            if re.fullmatch(pattern, name):
                return re.sub(pattern, replacement, name)
        return name if layout.others_stay else None

    return by_pattern


def _efficientnet_names(module: nn.Module) -> dict[str, str]:
    """Names of lukemelas/EfficientNet-PyTorch and its ports to those of timm's EfficientNet `module`.

    Theirs numbers all blocks in one row, ours stage by stage; a block without expansion has one convolution less.
    Empty for a module that is no EfficientNet of timm.
    """
    stages = getattr(module, "blocks", None)
    if not isinstance(stages, nn.Sequential) or not hasattr(module, "conv_stem"):
        return {}
    pairs = [("_conv_stem", "conv_stem"), ("_bn0", "bn1"), ("_conv_head", "conv_head"), ("_bn1", "bn2")]
    number = 0
    for s, stage in enumerate(stages):
        for b, block in enumerate(stage):
            pairs += [(f"_blocks.{number}.{t}", f"blocks.{s}.{b}.{o}") for t, o in _block_names(block)]
            number += 1
    theirs = {ours: their for their, ours in pairs}
    names = {}
    for key in module.state_dict():
        part, _, tensor = key.rpartition(".")
        if part in theirs:
            names[f"{theirs[part]}.{tensor}"] = key
    return names


def _block_names(block: nn.Module) -> Iterator[tuple[str, str]]:
    if hasattr(block, "conv_pwl"):
        yield from (("_expand_conv", "conv_pw"), ("_bn0", "bn1"), ("_depthwise_conv", "conv_dw"), ("_bn1", "bn2"))
        yield from (("_project_conv", "conv_pwl"), ("_bn2", "bn3"))
    else:
        yield from (("_depthwise_conv", "conv_dw"), ("_bn1", "bn1"), ("_project_conv", "conv_pw"), ("_bn2", "bn2"))
    yield from (("_se_reduce", "se.conv_reduce"), ("_se_expand", "se.conv_expand"))


def _converted(module: nn.Module, split: _Split, direct: Match, heads: Heads) -> Match | None:
    """The match after timm's conversion for this architecture; None where timm has no conversion or it fails.

    timm's conversions also resample tensors whose shape does not fit. Here that counts as a wrong shape: a checkpoint
    for another image size would otherwise load silently.
    """
    convert = getattr(sys.modules.get(type(module).__module__), "checkpoint_filter_fn", None)
    if convert is None:
        return None
    source = {entry.name: entry for entry in split.inside}
    try:
        result = convert({name: entry.tensor for name, entry in source.items()}, module)
    except (KeyError, IndexError, ValueError, RuntimeError, AttributeError, TypeError, AssertionError):
        return None
    match = Match(direct.layout, direct.container, direct.prefix, renamed=direct.renamed, converted=True)
    needed = module.state_dict()
    origin = {name: " + ".join(entry.origins) for name, entry in source.items()}
    for name, tensor in result.items():
        before = source[name].tensor if name in source else None
        if before is not None and _resampled(before, tensor):
            match.misshaped.append((origin[name], tuple(before.shape), tuple(tensor.shape)))
        if name in needed:
            match.tensors[name] = tensor
        elif name in source and split.is_head(match.layout, source[name]):
            match.heads += source[name].origins
        else:
            match.unexpected += source[name].origins if name in source else [name]
    kept = {tensor.data_ptr() for tensor in result.values()}
    for name, entry in source.items():
        if name not in result and entry.tensor.data_ptr() not in kept:
            (match.heads if split.is_head(match.layout, entry) else match.merged).extend(entry.origins)
    for entry in split.outside:
        (match.heads if split.is_head(match.layout, entry) else match.unexpected).extend(entry.origins)
    _set_heads_aside(match, split, heads())
    _compare(needed, origin, match)
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

"""What a checkpoint file holds: its parts, and the tensors of a part under the names that a layout reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shoal.schemas.keypatterns import matches, renamer
from shoal.store.records import KeyRules
from torch import Tensor

from extractor.models.checkpoints.layouts import TRAINING_STATE, Layout

WRAPPERS = re.compile(r"(?:(?<=^)|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What DistributedDataParallel, torch.compile, FSDP and activation checkpoints put into names, wherever they wrap."""
NO_RULES = KeyRules()


@dataclass(frozen=True)
class Entry:
    """A tensor of the file.

    Attributes
    ----------
    name
        Its key without wrappers, and after the request's rules.
    origins
        Its keys in the file: more than one when it was put together.
    """

    name: str
    tensor: Tensor
    origins: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """The tensors of one part of the file, as the request's rules leave them.

    Attributes
    ----------
    container
        The part, ``""`` for the file itself; ``/`` leads into a part of a part.
    set_aside
        Keys that lack the request's prefix.
    renamed
        (key, new name) of what the request's rules renamed.
    """

    container: str
    entries: tuple[Entry, ...]
    set_aside: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()


def bare(key: str) -> str:
    """`key` without the names of wrappers."""
    return WRAPPERS.sub("", key)


def read_part(content: Mapping[str, Any], layout: Layout, rules: KeyRules = NO_RULES) -> Part | None:
    """The first of the layout's containers that holds tensors, by the request's rules; None if no container does.

    Only that one is read: falling back to averaged weights when the others lack a key would hide an error.
    A request's prefix may lead through the parts of the file, as ``state_dict.backbone.`` does.
    """
    prefix = bare(rules.prefix or "")
    containers: tuple[tuple[str, str], ...] = tuple((container, prefix) for container in layout.containers)
    if prefix:
        containers = (*containers, *_led_to(content, prefix))
    for container, rest in containers:
        state = tensors_of(content, container)
        if state and any(bare(key).startswith(rest) for key in state):
            return _part(container, state, rest, rules)
    return None


def tensors_of(content: Mapping[str, Any], container: str) -> dict[str, Tensor]:
    """The tensors right below a part of the file, ``""`` for the file itself."""
    part: Any = content
    for step in container.split("/") if container else ():
        part = part.get(step) if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping):
        return {}
    return {str(key): value for key, value in part.items() if isinstance(value, Tensor)}


def parts_beside(content: Mapping[str, Any], container: str) -> Iterator[tuple[str, Any]]:
    """Name and value of everything that is neither in the container nor on the way to it."""
    inside: Any = content
    steps = container.split("/") if container else []
    for depth, step in enumerate(steps):
        above = "".join(f"{name}/" for name in steps[:depth])
        yield from ((f"{above}{key}", value) for key, value in inside.items() if key != step)
        inside = inside[step]
    above = f"{container}/" if container else ""
    yield from ((f"{above}{key}", value) for key, value in inside.items() if not isinstance(value, Tensor))


def accounted(name: str, value: Any, rules: KeyRules) -> bool:
    """Whether a part beside the network is training state, or holds no tensors, or may be ignored."""
    last = name.rpartition("/")[2]
    known = re.fullmatch(TRAINING_STATE, last) is not None or not _holds_tensors(value)
    return known or ignored(rules, last)


def ignored(rules: KeyRules, *keys: str) -> bool:
    """Whether the request's rules let any of these names of a tensor be left over."""
    return any(matches(pattern, key) for pattern in rules.ignore for key in keys)


def unused_patterns(part: Part | None, rules: KeyRules) -> list[str]:
    """The request's patterns that fit no key at all, which a typing error makes likely."""
    renaming = [pattern for pattern, _ in rules.rename]
    if part is None:
        return renaming
    names = [bare(key) for entry in part.entries for key in entry.origins]
    prefix = bare(rules.prefix or "")
    names = [name.removeprefix(prefix) for name in names] + [new for _, new in part.renamed]
    return [pattern for pattern in renaming if not any(renamer(pattern, "")(name) is not None for name in names)]


def _led_to(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """The parts of the file that `prefix` names at its beginning, and what is left of it."""
    for key, value in content.items():
        if isinstance(value, Mapping) and prefix.startswith(f"{key}."):
            rest = prefix[len(str(key)) + 1 :]
            yield str(key), rest
            yield from ((f"{key}/{below}", left) for below, left in _led_to(value, rest))


def _part(container: str, state: Mapping[str, Tensor], prefix: str, rules: KeyRules) -> Part:
    entries, aside, renamed = [], [], []
    for key, tensor in state.items():
        name = bare(key)
        if not name.startswith(prefix):
            aside.append(key)
            continue
        before = name = name[len(prefix) :]
        for pattern, replacement in rules.rename:
            name = renamer(pattern, replacement)(name) or name
        if name != before:
            renamed.append((key, name))
        entries.append(Entry(name, tensor, (key,)))
    return Part(container, tuple(entries), tuple(aside), tuple(renamed))


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Tensor):
        return int(value.numel()) > 1
    if isinstance(value, Mapping):
        return any(_holds_tensors(v) for v in value.values())
    return isinstance(value, list | tuple) and any(_holds_tensors(v) for v in value)

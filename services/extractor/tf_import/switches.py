"""TF1 graphs that serve training and inference alike: resolves their switches and drops the training branch.

`tf.cond(is_training, …)` of TF1 is a set of ``Switch`` and ``Merge`` nodes. Where the predicate is known, one half of
them never runs; but it may assign to variables, and it cannot be traced into a TF2 function.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any

from shoal.errors import ImportInvalid

from extractor.tf_serving.protos import DataType

_SWITCHES = ("Switch", "RefSwitch")
_MERGES = ("Merge", "RefMerge")
_PASSING = ("Identity", "PlaceholderWithDefault", "StopGradient", *_SWITCHES)


def resolve_switches(graph: Any, off: frozenset[str] = frozenset()) -> None:
    """Replace, in place, each switch with a known predicate by the branch that runs.

    Parameters
    ----------
    graph
        A ``GraphDef``.
    off
        Names of boolean placeholders treated as False. Those with a default have its value.
    """
    nodes = {node.name: node for node in graph.node}
    for name in off & set(nodes):
        _make_false(nodes[name])
    ports = _ports(nodes)
    if not ports:
        return
    dead = _dead(nodes, ports)
    kept = [node for node in graph.node if node.name not in dead]
    for node in kept:
        _rewrite(node, ports, dead)
    del graph.node[:]
    graph.node.extend(kept)


def check_no_switches(graph: Any) -> None:
    """Raise `ImportInvalid` if a switch or a loop remains."""
    for node in graph.node:
        if node.op in (*_SWITCHES, *_MERGES, "Enter", "RefEnter"):
            raise ImportInvalid(
                f"The graph branches or loops on what it computes ({node.name!r}), in the way of TF1: that is not "
                "supported. Export it with fixed switches, or from TF2."
            )


def _ports(nodes: Mapping[str, Any]) -> dict[str, int]:
    """Which output runs of each switch whose predicate is known: 1 where it is true."""
    values = {name: _value(_split(node.input[1])[0], nodes) for name, node in nodes.items() if node.op in _SWITCHES}
    return {name: int(value) for name, value in values.items() if value is not None}


def _value(name: str, nodes: Mapping[str, Any]) -> bool | None:
    """The boolean value of a node where it follows from constants."""
    negated = False
    while (node := nodes.get(name)) is not None:
        if node.op == "Const":
            value = _constant(node)
            return None if value is None else value != negated
        if node.op == "LogicalNot":
            negated = not negated
        elif node.op not in _PASSING:
            return None
        name = _split(node.input[0])[0]
    return None


def _dead(nodes: Mapping[str, Any], ports: Mapping[str, int]) -> set[str]:
    """Nodes that never run; those in loops count as running."""
    dead: set[str] = set()
    for node in _sorted(nodes):
        gone = [_is_dead(each, ports, dead) for each in node.input]
        if node.op in _MERGES:
            gone = [all(flag for flag, each in zip(gone, node.input, strict=True) if not each.startswith("^"))]
        if any(gone):
            dead.add(node.name)
    return dead


def _is_dead(reference: str, ports: Mapping[str, int], dead: set[str]) -> bool:
    name, port = _split(reference)
    return name in dead or (not reference.startswith("^") and ports.get(name, port) != port)


def _sorted(nodes: Mapping[str, Any]) -> Iterator[Any]:
    """Nodes after all of their inputs; those in loops are left out."""
    waiting = {}
    consumers = defaultdict(list)
    for node in nodes.values():
        inputs = {_split(each)[0] for each in node.input} & set(nodes)
        waiting[node.name] = len(inputs)
        for name in inputs:
            consumers[name].append(node.name)
    ready = deque(name for name, count in waiting.items() if count == 0)
    while ready:
        name = ready.popleft()
        yield nodes[name]
        for consumer in consumers[name]:
            waiting[consumer] -= 1
            if waiting[consumer] == 0:
                ready.append(consumer)


def _rewrite(node: Any, ports: Mapping[str, int], dead: set[str]) -> None:
    """Make an identity of a resolved switch or merge; name the outputs of switches as those of identities."""
    inputs = [each for each in node.input if not _is_dead(each, ports, dead)]
    named = [_split(each)[0] if not each.startswith("^") and _split(each)[0] in ports else each for each in inputs]
    if node.name in ports:
        _make_identity(node, named[:1] + [each for each in named if each.startswith("^")])
    elif node.op in _MERGES and sum(not each.startswith("^") for each in named) == 1:
        _make_identity(node, named)
    else:
        del node.input[:]
        node.input.extend(named)


def _make_identity(node: Any, inputs: list[str]) -> None:
    dtype = node.attr["T"].type
    node.op = "Identity"
    del node.input[:]
    node.input.extend(inputs)
    node.attr.clear()
    node.attr["T"].type = dtype


def _make_false(node: Any) -> None:
    node.op = "Const"
    node.attr.clear()
    node.attr["dtype"].type = DataType.DT_BOOL
    value = node.attr["value"].tensor
    value.dtype = DataType.DT_BOOL
    value.tensor_shape.SetInParent()
    value.bool_val.append(False)


def _constant(node: Any) -> bool | None:
    tensor = node.attr["value"].tensor
    if tensor.tensor_shape.dim or node.attr["dtype"].type != DataType.DT_BOOL:
        return None
    return bool(tensor.bool_val[0]) if tensor.bool_val else tensor.tensor_content == b"\1"


def _split(reference: str) -> tuple[str, int]:
    name, _, port = reference.removeprefix("^").partition(":")
    return name, int(port or 0)

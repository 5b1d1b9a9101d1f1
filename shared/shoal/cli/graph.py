"""The flag of groups on the graph of nearest rows."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.cli.options import numbers_of
from shoal.errors import JsonValue
from shoal.schemas.graph import GRAPH_METHODS, GraphOptions

GRAPH = {"graph": "--graph", **{f"graph.{name}": f"--graph {name}=…" for name in GraphOptions.model_fields}}
"""Fields of a request to flags."""

GraphOption = Annotated[
    list[str] | None,
    typer.Option(
        "--graph",
        metavar="NAME=VALUE",
        help="Option of leiden or hdbscan, such as resolution=0.5 or min_cluster_size=20; repeatable.",
    ),
]


def graph_of(options: list[str] | None) -> dict[str, JsonValue] | None:
    """The options of the graph as the API takes them.

    Raises
    ------
    typer.BadParameter
        One is not ``NAME=VALUE`` with a number, or its name is unknown or there twice.
    """
    return numbers_of(options, "--graph", tuple(GraphOptions.model_fields), "resolution=0.5")


def counts_itself(method: str | None) -> bool:
    """Whether a method finds the number of groups itself."""
    return method in GRAPH_METHODS

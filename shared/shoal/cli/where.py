"""Flags that say which rows are clustered."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.errors import JsonValue

WhereLabel = Annotated[
    list[str] | None,
    typer.Option("--where-label", metavar="LABEL", help="Cluster only rows of the label; repeatable."),
]
WherePath = Annotated[
    list[str] | None,
    typer.Option(
        "--where-path",
        metavar="PATTERN",
        help="Cluster only images whose path matches the pattern, written as in .gitignore; repeatable.",
    ),
]
WhereClusters = Annotated[
    str | None,
    typer.Option(
        "--where-clusters",
        metavar="CLUSTERING:N,N",
        help="Cluster only rows in these clusters of another clustering, such as c-1f0e:3,17.",
    ),
]
WhereNoDuplicates = Annotated[
    str | None,
    typer.Option(
        "--where-no-duplicates", metavar="ID", help="Leave out rows that a result of `shoal duplicates` says to drop."
    ),
]


def where_of(
    labels: list[str] | None, paths: list[str] | None, clusters: str | None, duplicates: str | None
) -> dict[str, JsonValue] | None:
    """The field `where` of a request; None without a condition."""
    found = {
        "labels": labels or None,
        "paths": paths or None,
        "clusters": None if clusters is None else _clusters(clusters),
        "not_duplicates_of": duplicates,
    }
    return {name: value for name, value in found.items() if value is not None} or None


def _clusters(text: str) -> dict[str, JsonValue]:
    clustering, _, numbers = text.rpartition(":")
    parts = numbers.split(",")
    if not clustering or not all(each.isascii() and each.isdecimal() and len(each) < 10 for each in parts):
        raise typer.BadParameter(
            f"{text!r} is not valid: give CLUSTERING:N,N, such as c-1f0e:3,17.", param_hint="--where-clusters"
        )
    return {"clustering": clustering, "clusters": [int(each) for each in parts]}

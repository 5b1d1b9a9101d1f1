"""The flags of clusterings by heads, and of embeddings of the same images by several models."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.cli.options import numbers_of
from shoal.errors import JsonValue
from shoal.schemas import HeadOptions

HEADS = {
    "method": "--method",
    "heads": "--head",
    **{f"heads.{name}": f"--head {name}=…" for name in HeadOptions.model_fields},
    "spaces": "--space",
}
"""Fields of a request to flags."""

Method = Annotated[
    str | None,
    typer.Option(
        help="How rows are clustered: kmeans (the default); by a network trained on the embeddings: turtle or temi; or "
        "into as many groups as there are: leiden or hdbscan, without -k."
    ),
]
Methods = Annotated[str | None, typer.Option("--method", help="Methods, such as kmeans,turtle,leiden,hdbscan.")]
HeadOption = Annotated[
    list[str] | None,
    typer.Option(
        "--head",
        metavar="NAME=VALUE",
        help="Option of turtle or temi, such as steps=2000 or entropy=auto; repeatable.",
    ),
]
Space = Annotated[
    list[str] | None,
    typer.Option(
        "--space",
        metavar="ID",
        help="Id of embeddings of the same images by another model, clustered together; with --score "
        "TRAIN:SCORED[:SCORED…]; repeatable.",
    ),
]


def heads_of(options: list[str] | None) -> dict[str, JsonValue] | None:
    """The options of heads as the API takes them.

    Raises
    ------
    typer.BadParameter
        One is not ``NAME=VALUE`` with a number, or its name is unknown or there twice.
    """
    return numbers_of(options, "--head", tuple(HeadOptions.model_fields), "steps=2000")


def spaces_of(spaces: list[str] | None) -> list[JsonValue] | None:
    """The sets of other models as the API takes them."""
    found: list[JsonValue] = []
    for each in spaces or ():
        train, *score = each.split(":")
        found.append({"train": train, "score": score} if score else train)
    return found or None

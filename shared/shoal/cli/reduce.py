"""The flag of a reduction before k-means."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.schemas.reduce import NEIGHBOURS

METAVAR = "METHOD[:OPTION=N,…]"
EXAMPLES = "`smooth` or `smooth:neighbours=10,steps=2`"


def parse_choice(text: str) -> dict[str, object] | str | None:
    """As `parse_reduce`, or ``auto``, where one reduction is picked; ``none`` as it is."""
    return text if text in {"auto", "none"} else parse_reduce(text)


def parse_reduce(text: str) -> dict[str, object] | None:
    """The value of ``--reduce`` as the API takes it; None for ``none``.

    Raises
    ------
    typer.BadParameter
        It names no method, or an option is not a number.
    """
    method, _, options = text.partition(":")
    if text == "none":
        return None
    if method not in NEIGHBOURS:
        raise typer.BadParameter(f"{text!r} names no method: give {', '.join(NEIGHBOURS)}, such as {EXAMPLES}.")
    found: dict[str, object] = {"method": method}
    for option in options.split(",") if options else ():
        name, _, value = option.partition("=")
        if not value.isdecimal() or not value.isascii():
            raise typer.BadParameter(f"{option!r} is not an option with a number: write {EXAMPLES}.")
        if name in found:
            raise typer.BadParameter(f"{text!r} has `{name}` twice: write {EXAMPLES}.")
        found[name] = int(value)
    return found


Reduce = Annotated[
    object,
    typer.Option(
        "--reduce",
        parser=parse_choice,
        metavar=METAVAR,
        help=f"Change rows by the rows nearest to them before k-means: {EXAMPLES}, or `auto`, which tries all methods "
        "and none, and picks one without labels.",
    ),
]
Reductions = Annotated[
    list[object] | None,
    typer.Option(
        "--reduce",
        parser=parse_reduce,
        metavar=METAVAR,
        help=f"Change rows by the rows nearest to them before k-means: {EXAMPLES}, or `none`; repeatable.",
    ),
]

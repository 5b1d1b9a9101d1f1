"""The flag of a reduction before k-means."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.schemas.reduce import NEIGHBOURS

METAVAR = "METHOD[:OPTION=N,…]"
METHODS = ", ".join(f"`{each}`" for each in NEIGHBOURS)
EXAMPLES = "`smooth` or `smooth:neighbours=10,steps=2`"


def parse_choice(text: str) -> dict[str, object] | str | None:
    """As `parse_reduce`, or ``auto``, where one reduction is picked; ``none`` as it is."""
    return text if text in {"auto", "none"} else _parsed(text, ("auto", "none"))


def parse_reduce(text: str) -> dict[str, object] | None:
    """The value of ``--reduce`` as the API takes it; None for ``none``.

    Raises
    ------
    typer.BadParameter
        It names no method, or an option is not a number.
    """
    return None if text == "none" else _parsed(text, ("none",))


def _parsed(text: str, words: tuple[str, ...]) -> dict[str, object]:
    method, _, options = text.partition(":")
    if method not in NEIGHBOURS:
        *first, last = *NEIGHBOURS, *words
        raise typer.BadParameter(f"{text!r} names no method: give {', '.join(first)} or {last}, such as {EXAMPLES}.")
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
        help=f"Change rows by the rows nearest to them before k-means: by {METHODS}, with options such as "
        "`smooth:neighbours=10,steps=2`; `none`; or `auto`, which tries all of these and picks one without labels.",
    ),
]
Reductions = Annotated[
    list[object] | None,
    typer.Option(
        "--reduce",
        parser=parse_reduce,
        metavar=METAVAR,
        help=f"Change rows by the rows nearest to them before k-means: by {METHODS}, with options such as "
        "`smooth:neighbours=10,steps=2`; or `none`; repeatable.",
    ),
]

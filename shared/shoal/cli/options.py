"""Options ``NAME=VALUE`` of a flag that may be repeated."""

from __future__ import annotations

from typing import Final

import typer

from shoal.errors import JsonValue

WORDS: Final[dict[str, JsonValue]] = {"true": True, "false": False, "auto": "auto"}


def numbers_of(
    options: list[str] | None, flag: str, known: tuple[str, ...], example: str
) -> dict[str, JsonValue] | None:
    """Options ``NAME=VALUE`` of a flag as the API takes them.

    Raises
    ------
    typer.BadParameter
        A value is not a number, or its name is not among the ``known`` ones or there twice.
    """
    found: dict[str, JsonValue] = {}
    for each in options or ():
        name, _, text = each.partition("=")
        if name not in known:
            raise typer.BadParameter(f"{each!r} names no option: give one of {', '.join(known)}.", param_hint=flag)
        if name in found:
            raise typer.BadParameter(f"`{flag} {name}` is there twice: give it once.", param_hint=flag)
        try:
            found[name] = WORDS[text] if text in WORDS else float(text) if set(text) & set(".e") else int(text)
        except ValueError:
            raise typer.BadParameter(
                f"{each!r} is not valid: give NAME=VALUE, such as {example}.", param_hint=flag
            ) from None
    return found or None

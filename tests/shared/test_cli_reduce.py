"""The flag of a reduction before k-means."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from shoal.cli.reduce import parse_choice, parse_reduce


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("none", None),
        ("smooth", {"method": "smooth"}),
        ("smooth:neighbours=10,steps=2", {"method": "smooth", "neighbours": 10, "steps": 2}),
    ],
)
def test_a_flag_is_a_method_with_its_options(text: str, sent: Any) -> None:
    assert parse_reduce(text) == sent
    assert parse_choice(text) == ("none" if sent is None else sent)


def test_auto_is_for_commands_that_make_one_clustering() -> None:
    assert parse_choice("auto") == "auto"
    with pytest.raises(typer.BadParameter, match="names no method"):
        parse_reduce("auto")


@pytest.mark.parametrize(
    "text", ["tsne", "smooth:10", "smooth:neighbours=few", "smooth:steps=1,steps=2", "smooth:method=2"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="smooth:neighbours=10,steps=2"):
        parse_reduce(text)


def test_a_refusal_names_every_word_that_the_command_takes() -> None:
    with pytest.raises(typer.BadParameter, match="smooth, spectral, umap, auto or none"):
        parse_choice("smoth")
    with pytest.raises(typer.BadParameter, match="smooth, spectral, umap or none"):
        parse_reduce("smoth")

"""Texts as tokens: OpenCLIP's, in a time and a memory that no text makes large."""

from __future__ import annotations

import random
import string
from typing import Any

import open_clip
import pytest
import torch
from extractor.models import clip

NAME = "ViT-B-32"


def letters(count: int) -> str:
    return "".join(random.Random(0).choices(string.ascii_lowercase, k=count))


@pytest.mark.parametrize(
    "text",
    ["a photo of a duck, 2 &amp; 3", "它 ein é 😀 <end_of_text> don't", "duck " * 76, "duck " * 200, letters(1500)],
    ids=["words", "marks", "whole", "cut", "one word"],
)
def test_tokens_are_those_of_open_clip(text: str) -> None:
    expected = open_clip.get_tokenizer(NAME)([text, "duck"])
    assert torch.equal(clip.tokeniser(NAME)([text, "duck"]), expected)


def test_what_does_not_count_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCLIP's time for a word grows with its square: minutes for a few long ones."""
    read: list[str] = []
    tokenise: Any = clip.tokeniser(NAME)
    plain = tokenise.bpe
    monkeypatch.setattr(tokenise, "bpe", lambda word: read.append(word) or plain(word))
    tokenise([f"duck {letters(9000)} {letters(900)}"])
    assert [len(word) for word in read] == [4, clip.LONGEST_WORD]


def test_words_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip, "KNOWN_WORDS", 50)
    tokenise: Any = clip.tokeniser(NAME)
    for number in range(40):
        tokenise([f"{letters(number + 2)} {letters(number + 3)[1:]} <end_of_text>"])
    assert len(tokenise.cache) < 60

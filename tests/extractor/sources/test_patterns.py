"""Patterns of paths: what they match, as in ``.gitignore``, and that none takes long."""

from __future__ import annotations

import pytest
from extractor.sources.patterns import Selection, spread
from shoal.globs import Glob


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.jpg", "a.jpg", True),
        ("*.jpg", "deep/er/a.jpg", True),
        ("*.jpg", "a.JPG", False),
        ("cats", "cats/a.jpg", True),
        ("cats", "x/cats/a.jpg", True),
        ("cats", "xcats/a.jpg", False),
        ("/cats", "x/cats/a.jpg", False),
        ("/cats", "cats/a.jpg", True),
        ("x/cats/", "x/cats/a.jpg", True),
        ("x/*.jpg", "x/a.jpg", True),
        ("x/*.jpg", "x/y/a.jpg", False),
        ("x/**/*.jpg", "x/y/z/a.jpg", True),
        ("x/**/*.jpg", "x/a.jpg", True),
        ("**/a.jpg", "a.jpg", True),
        ("x/**", "x/y/a.jpg", True),
        ("x/**", "y/a.jpg", False),
        ("a?[0-9].png", "ab1.png", True),
        ("a?[!0-9].png", "ab1.png", False),
        ("a.b", "aXb", False),
    ],
)
def test_matching(pattern: str, path: str, matches: bool) -> None:
    assert Glob(pattern).matches(path) is matches


def test_no_pattern_takes_long() -> None:
    assert not Glob("*a" * 100 + "*b").matches("a" * 255)
    assert not Glob("/".join(["**", "a"] * 50) + "/b").matches("/".join(["a"] * 2000))


def test_exclude_wins_over_include() -> None:
    chosen = Selection(["*.jpg"], ["bad/**"])
    assert [chosen.takes(path) for path in ("a.jpg", "a.png", "bad/a.jpg")] == [True, False, False]


@pytest.mark.parametrize(
    ("count", "limit", "taken"), [(3, None, [0, 1, 2]), (3, 9, [0, 1, 2]), (6, 3, [0, 2, 4]), (5, 2, [0, 2])]
)
def test_a_limit_is_spread(count: int, limit: int | None, taken: list[int]) -> None:
    assert spread(count, limit) == taken

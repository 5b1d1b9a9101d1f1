"""What stands in one field of a label file."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.image_suffixes import IMAGE_SUFFIXES
from shoal.labels.columns import clean_label, looks_like_image, normal_path, text_of


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("dog", "dog"),
        (" dog\t", "dog"),
        ("golden retriever", "golden retriever"),
        ("1", "1"),
        ("1.0", "1"),
        ("-3.00", "-3"),
        ("-0.0", "0"),
        ("12.", "12"),
        ("1.5", "1.5"),
        ("007", "007"),
        ("007.0", "007.0"),
        ("v1.0", "v1.0"),
        ("None", "None"),
        ("nan", None),
        ("NaN", None),
        ("", None),
        ("  ", None),
        (None, None),
    ],
)
def test_a_label_is_the_same_however_it_is_written(written: str | None, stored: str | None) -> None:
    assert clean_label(written) == stored


@given(st.text())
def test_a_clean_label_stays_as_it_is(text: str) -> None:
    assert clean_label(clean_label(text)) == clean_label(text)


@given(st.integers(-(2**53), 2**53))
def test_whole_numbers_are_the_same_as_text_integer_and_float(number: int) -> None:
    assert {clean_label(text_of(value)) for value in (str(number), number, float(number))} == {str(number)}


@pytest.mark.parametrize("value", [0.5, float("inf"), [], {}, b"\xff"])
def test_what_is_no_label_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        text_of(value)


@pytest.mark.parametrize("path", ["./a/1.png", " a/1.png ", "././a/1.png", ".//a/1.png", "a\\1.png"])
def test_paths_that_are_written_otherwise_have_one_normal_form(path: str) -> None:
    assert normal_path(path) == "a/1.png"
    assert normal_path("a\u0308.png") == "\u00e4.png"


def test_names_of_images_are_told_by_their_ends() -> None:
    assert all(map(looks_like_image, ["1.png", "a/b.JPEG ", "x y.tiff", "1.webp", "a.TGA", "IMG_1.HEIC"]))
    assert all(looks_like_image(f"a{suffix}") for suffix in IMAGE_SUFFIXES)
    assert not any(map(looks_like_image, ["dog", "png", ".png", "1.5", "a.txt", ""]))

"""Patterns for keys: what they fit, and that none of them can take for ever."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from shoal.schemas import CustomModel
from shoal.schemas.keypatterns import LONGEST_KEY, check_ignored, check_pattern, matches, renamer


def test_plain_text_is_the_beginning_and_nothing_in_it_is_special() -> None:
    rename = renamer("encoder.", "")
    assert rename("encoder.conv1.weight") == "conv1.weight"
    assert rename("encoderx") is None
    assert rename("my.encoder.conv1") is None


def test_a_regular_expression_carries_its_groups_over() -> None:
    rename = renamer(r"^layer\.(\d+)\.", r"blocks.\1.")
    assert rename("layer.11.norm1.weight") == "blocks.11.norm1.weight"
    assert rename("x.layer.11.norm1.weight") is None


@pytest.mark.parametrize(
    ("pattern", "key", "wanted"),
    [
        ("predictor.", "predictor.0.weight", True),
        ("predictor.*", "predictor.0.weight", True),
        ("predictor.*", "my.predictor.0.weight", False),
        ("*.num_batches_tracked", "bn1.num_batches_tracked", True),
        (r"^queue(_ptr)?$", "queue_ptr", True),
        (r"^queue(_ptr)?$", "queue2", False),
    ],
)
def test_what_is_ignored(pattern: str, key: str, wanted: bool) -> None:
    assert matches(check_ignored(pattern), key) is wanted


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("^(a+)+$", "repeats a group"),
        (r"^\[(a+)+]$", "repeats a group"),
        ("^(a|a)*b", "repeats a group"),
        ("^(?=a)b", "look-around"),
        (r"^(a)\1", "back reference"),
        ("^.*.*.*.*x", "more than 3"),
        ("^" + "a?" * 30, "more than 6"),
        ("^" + "(a|a)" * 30, "more than 6"),
        ("^(", "not a regular expression"),
        ("^a{99999999999999999999}", "not a regular expression"),
        ("encoder.*", "begins with `^`"),
        ("a(b", "begins with `^`"),
    ],
)
def test_what_can_run_away_or_cannot_be_read_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("^", r"\^")):
        check_pattern(pattern)


@given(st.text(alphabet="^ab.*+?|()[]{}\\$123-,", max_size=40).map(lambda text: "^" + text))
def test_no_pattern_that_is_taken_is_slow(pattern: str) -> None:
    try:
        check_pattern(pattern)
    except ValueError:
        return
    began = time.process_time()
    renamer(pattern, "")("a" * (LONGEST_KEY - 1) + "!")
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    "fields",
    [
        {"rename": [["^(a)", r"\2"]]},
        {"rename": [["a"]]},
        {"rename": [["", "x"]]},
        {"rename": {"": "x"}},
        {"rename": [["a*", "x"]]},
        {"rename": [["a", "x"]] * 101},
        {"prefix": ""},
        {"ignore": [""]},
        {"ignore": ["^(a+)+"]},
        {"ignore": "a"},
    ],
)
def test_a_request_with_rules_that_cannot_be_applied_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CustomModel.model_validate({"architecture": "resnet18", "weights": "x.pth", **fields})


def test_renamings_are_pairs_or_an_object() -> None:
    for rename in ([["a.", "b."], ["^c", ""]], {"a.": "b.", "^c": ""}):
        model = CustomModel.model_validate({"architecture": "x", "weights": "y", "rename": rename})
        assert model.rename_pairs() == (("a.", "b."), ("^c", ""))

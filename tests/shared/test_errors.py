"""The error tree: what programs rely on."""

from __future__ import annotations

import pickle
import re

import pytest
from shoal import errors
from shoal.errors import ShoalError, by_code


def tree(root: type[ShoalError] = ShoalError) -> list[type[ShoalError]]:
    return [
        root,
        *(cls for child in root.__subclasses__() if child.__module__ == errors.__name__ for cls in tree(child)),
    ]


def test_the_drawn_tree_names_every_error_with_its_code_and_status() -> None:
    drawn = re.findall(r"(\w+) +([a-z_]+) +(\d{3})\b", errors.__doc__ or "")
    assert sorted(drawn) == sorted((cls.__name__, cls.code, str(cls.status)) for cls in tree())


def test_no_two_errors_share_a_code() -> None:
    codes = [cls.code for cls in tree()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("cls", tree(), ids=lambda cls: cls.code)
def test_a_problem_becomes_the_same_exception_on_the_other_side(cls: type[ShoalError]) -> None:
    sent = cls("the file a.jpg is empty", field="images.path", row=3)
    received = by_code(sent.problem())
    assert type(received) is cls
    assert received.problem() == sent.problem()


def test_an_unknown_code_is_kept() -> None:
    received = by_code({"code": "from_the_future", "detail": "new"})
    assert type(received) is ShoalError
    assert received.code == "from_the_future"


def test_errors_cross_process_borders() -> None:
    error = pickle.loads(pickle.dumps(errors.NotFinite("row 3 holds NaN", row=3)))
    assert isinstance(error, errors.NotFinite)
    assert error.members == {"row": 3}

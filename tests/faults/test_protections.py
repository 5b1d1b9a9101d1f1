"""What the tests are said to fail without stands in the code, and each of them says so itself."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.faults.protections.catalogue import PROTECTIONS, Protection

ROOT = Path(__file__).parents[2]
FAILS_WITHOUT = "Fails without: "


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda each: each.name)
def test_each_protection_can_be_removed(protection: Protection) -> None:
    for edit in protection.edits:
        assert (ROOT / edit.file).read_text().count(edit.old) == 1, edit


def test_each_test_says_what_it_fails_without() -> None:
    expected: dict[tuple[str, str], list[str]] = defaultdict(list)
    said: dict[tuple[str, str], list[str]] = defaultdict(list)
    for protection in PROTECTIONS:
        for test in protection.tests:
            file, *_, name = re.sub(r"\[.*", "", test).split("::")
            expected[file, name].append(protection.name)
    for path in (ROOT / "tests").rglob("test_*.py"):
        functions = [each for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.FunctionDef)]
        for function in functions:
            for paragraph in (ast.get_docstring(function) or "").split("\n\n"):
                _, found, why = " ".join(paragraph.split()).partition(FAILS_WITHOUT)
                if found:
                    said[str(path.relative_to(ROOT)), function.name] += why.removesuffix(".").split(", and without: ")
    assert said == expected

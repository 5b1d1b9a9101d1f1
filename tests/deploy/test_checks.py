"""The checks of `make check` and `make audit` that are ours."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import audit, typing_budget

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from typing import Any\n", {}),
        ("import typing\nx: typing.Any = 1\n", {"any": 1}),
        ("def f(x: list[Any], **more: Any) -> dict[str, Any]: ...\n", {"any": 3}),
        ("x = f()  # type: ignore[misc]\ny = '# type: ignore'\n", {"type-ignore": 1}),
        ('"""Any text may say Any."""\n# Any comment, too.\n', {}),
    ],
)
def test_names_and_comments_are_counted_and_texts_are_not(source: str, found: dict[str, int]) -> None:
    assert +typing_budget.count(source) == Counter(found)


@pytest.mark.parametrize(
    ("found", "kept", "says"),
    [(21, False, "allows 20. Give the new ones a type"), (20, True, ""), (15, True, ""), (14, True, "Lower it to 14")],
)
def test_a_budget_is_kept_exceeded_or_too_large(found: int, kept: bool, says: str) -> None:
    lines, within = typing_budget.report(Counter({"any": found}), {"any": 20})
    assert within == kept
    assert says in "".join(lines)
    assert bool(lines) == bool(says)


def test_the_packages_keep_their_budget() -> None:
    done = subprocess.run(
        [sys.executable, "deploy/typing_budget.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


VULNERABLE: dict[str, Any] = {
    "name": "one",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}, {"id": "PYSEC-2", "fix_versions": []}],
}
SOUND: dict[str, Any] = {"name": "two", "version": "2.0", "vulns": []}
UNKNOWN: dict[str, Any] = {"name": "three", "skip_reason": "Dependency not found on PyPI"}


def test_an_audit_names_each_vulnerability_and_where_it_is_fixed() -> None:
    lines, found = audit.report([VULNERABLE, SOUND, UNKNOWN])
    assert found
    assert lines[:2] == ["one 1.0: PYSEC-1, fixed in 1.1", "one 1.0: PYSEC-2, no fix published yet"]
    assert lines[-1].startswith("Not checked, ")
    assert lines[-1].endswith(": three.")


def test_an_audit_without_findings_says_how_much_it_checked() -> None:
    assert audit.report([SOUND]) == (["No published vulnerability in 1 pinned dependencies."], False)


def test_an_audit_that_reaches_nothing_says_that_nothing_was_checked() -> None:
    [line], found = audit.report([UNKNOWN])
    assert not found
    assert line.startswith("Nothing was checked: ")


def test_the_hooks_run_what_make_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = {hook["entry"].removeprefix(".venv/bin/").split(" --")[0] for hook in hooks}
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.split("\ncheck:")[1].split("\n\n")[0]
    checked = {line.removeprefix("\t$(BIN)/").split(" --")[0].removesuffix(" .") for line in recipe.splitlines()[1:]}
    assert tools == checked


def test_the_budget_is_for_what_the_check_counts() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["shoal"]["typing-budget"]) == set(typing_budget.count("x: Any = 1  # type: ignore\n"))

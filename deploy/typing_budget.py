"""Counts `Any` and `type: ignore` in the packages, and fails when there are more than pyproject.toml allows.

Both numbers may only fall: who removes some lowers them in `[tool.shoal.typing-budget]`.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("shared/shoal", "services/extractor", "services/clusterer")
SLACK = 5
"""How far below its budget a count may be before the check says to lower the budget."""


def count(source: str) -> Counter[str]:
    """How often a module's code names `Any`, its imports left aside, and how many lines it keeps from the type check.

    >>> sorted(count("from typing import Any\\nx: dict[str, Any] = f()  # type: ignore[misc]").items())
    [('any', 1), ('type-ignore', 1)]
    """
    names = sum(node.id == "Any" for node in _names(ast.parse(source)))
    comments = (token.string for token in tokenize.generate_tokens(io.StringIO(source).readline))
    ignores = sum(text.startswith("#") and "type: ignore" in text for text in comments)
    return Counter({"any": names, "type-ignore": ignores})


def _names(tree: ast.AST) -> Iterator[ast.Name]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node
        elif isinstance(node, ast.Attribute) and node.attr == "Any":
            yield ast.Name(node.attr)


def report(found: Counter[str], budget: dict[str, int]) -> tuple[list[str], bool]:
    """A line for each count that is not as it should be, and whether none exceeds its budget."""
    lines, kept = [], True
    for name, allowed in budget.items():
        what = f"{found[name]} `{name}` in the packages; [tool.shoal.typing-budget] allows {allowed}"
        if found[name] > allowed:
            kept = False
            lines.append(f"{what}. Give the new ones a type: a dataclass, a TypedDict, `object` or a type variable.")
        elif found[name] < allowed - SLACK:
            lines.append(f"{what}. Lower it to {found[name]} in pyproject.toml.")
    return lines, kept


def main() -> int:
    """Check the packages of this repository; the exit status."""
    budget = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["shoal"]["typing-budget"]
    found: Counter[str] = Counter()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            found += count(path.read_text())
    lines, kept = report(found, budget)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

"""Prints what pyproject.toml asks for with the extras named as arguments, one requirement a line.

The images install from this list, so that an edit of anything else in pyproject.toml leaves their largest layer as it
is.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extras: list[str]) -> list[str]:
    """The project's dependencies and those of ``extras``, extras of its own within them resolved."""
    found = list(project["dependencies"])
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:
            own = re.fullmatch(re.escape(project["name"]) + r"\[(.+)\]", requirement)
            found += requirements({**project, "dependencies": []}, own[1].split(",")) if own else [requirement]
    return sorted(set(found))


if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    sys.stdout.write("\n".join(requirements(project, sys.argv[1:])) + "\n")

"""Asks PyPI whether a pinned dependency has a published vulnerability: `make audit`.

Fails on findings alone. Where the vulnerability service cannot be reached, it says that nothing was checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
OPTIONS = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json")


def report(dependencies: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """What pip-audit's answer says, in lines, and whether it names a vulnerability.

    Parameters
    ----------
    dependencies
        As pip-audit writes them: ``name`` with ``version`` and ``vulns``, or ``name`` with ``skip_reason``.
    """
    checked = [each for each in dependencies if "vulns" in each]
    lines = [
        f"{each['name']} {each['version']}: {found['id']}"
        + (f", fixed in {', '.join(found['fix_versions'])}" if found["fix_versions"] else ", no fix published yet")
        for each in checked
        for found in each["vulns"]
    ]
    skipped = [each["name"] for each in dependencies if "vulns" not in each]
    if lines:
        lines.append("Raise these versions: make constraints, then make test.")
    elif checked:
        lines.append(f"No published vulnerability in {len(checked)} pinned dependencies.")
    if not checked:
        lines.append("Nothing was checked: PyPI's vulnerability service (https://pypi.org/pypi) cannot be reached.")
    elif skipped:
        lines.append(f"Not checked, because PyPI does not list their versions: {', '.join(skipped)}.")
    return lines, any(each["vulns"] for each in checked)


def main() -> int:
    """Run pip-audit over constraints.txt; the exit status."""
    uv = Path(sys.executable).with_name("uv")
    command: list[str | Path] = [uv, "tool", "run", "pip-audit", "--requirement", CONSTRAINTS, *OPTIONS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        sys.stdout.write(f"Nothing was checked: pip-audit could not run ({last}).\n")
        return 0
    lines, found = report(dependencies)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

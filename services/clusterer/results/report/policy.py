"""The policy that a stored report is served with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_HASHES: Final = re.compile(rb"script-src ('sha256-[A-Za-z0-9+/=]{44}'); style-src ('sha256-[A-Za-z0-9+/=]{44}')")
_HEAD: Final = 1000
"""Bytes of a page within which its own policy stands, before anything that was not written for it."""


def report_policy(page: Path) -> str | None:
    """What a report may do: run its own script and load nothing. None for one without a script."""
    with page.open("rb") as file:
        found = _HASHES.search(file.read(_HEAD))
    if found is None:
        return None
    script, style = (each.decode() for each in found.groups())
    return (
        f"default-src 'none'; img-src data:; script-src {script}; style-src {style}; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )

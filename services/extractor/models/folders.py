"""TensorFlow models below the models root.

``<root>/<name>/<version>/`` holds one SavedModel; versions are whole numbers and the highest is served. Nothing here
imports a numerical library.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shoal.errors import FileUnusable
from shoal.schemas import NAME_PATTERN
from shoal.userfiles import UserFile

LONGEST_NAME = 100
REPORT = Path("assets.extra") / "shoal.json"
WARM_UP = Path("assets.extra") / "tf_serving_warmup_requests"


def versions(folder: Path) -> list[int]:
    """The versions in a model's folder, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and (p / "saved_model.pb").is_file())


def served_models(root: Path) -> Iterator[tuple[str, int]]:
    """Name and highest version of each model below `root`, by name."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else ():
        found = versions(folder)
        if found:
            yield folder.name, found[-1]


def report(folder: Path, version: int) -> dict[str, Any] | None:
    """What the import recorded about a version; None if Shoal did not import it."""
    try:
        document = json.loads(UserFile(folder / str(version) / REPORT).read_text())
    except (FileUnusable, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def latest_report(root: Path, name: str) -> dict[str, Any] | None:
    """What the import recorded about the highest version of a model; None if there is none."""
    if re.fullmatch(NAME_PATTERN, name) is None or len(name) > LONGEST_NAME:
        return None  # No imported model has such a name, and not every text is a valid file name.
    found = versions(root / name)
    return report(root / name, found[-1]) if found else None


def fingerprint(folder: Path) -> str:
    """SHA-256 over the names and contents of the graph and the variables in a version folder."""
    digest = hashlib.sha256()
    for path in [folder / "saved_model.pb", *sorted((folder / "variables").glob("variables.*"))]:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

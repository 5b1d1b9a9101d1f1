"""What a process needs of a store that it never reads: its id, and where jobs keep what they work on.

Workers live for months beside the processes that run their jobs, so nothing here imports a numerical library.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

ID_FILE = ".id"
WORK_FOLDER = ".work"


def store_identity(root: Path) -> str | None:
    """Id and place of the store at ``root``, as one text; the id is drawn when the store has none yet.

    It tells two stores apart, whatever their paths are called in containers and on machines.

    Returns
    -------
    str or None
        ``"<32 hex digits> <path>"``; None where the store has no id and none can be written.
    """
    try:
        found = _read(root) or _create(root)
    except OSError:
        return None
    return None if found is None else f"{found} {root.resolve()}"


def _read(root: Path) -> str | None:
    try:
        text = (root / ID_FILE).read_text("ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    return text if re.fullmatch(r"[0-9a-f]{32}", text) else None


def _create(root: Path) -> str | None:
    root.mkdir(parents=True, exist_ok=True)
    drawn = secrets.token_hex(16)
    temporary = root / f"{ID_FILE}.{drawn}.tmp"
    try:
        temporary.write_text(f"{drawn}\n")
        # Linked, not renamed: whoever comes second takes the id that is there.
        with suppress(FileExistsError):
            os.link(temporary, root / ID_FILE)
    finally:
        temporary.unlink(missing_ok=True)
    return _read(root)

"""A store's identity and the name of its jobs' working folder, for processes that do not read the store.

Workers' supervisors import this module, so it imports no numerical library.
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
    """Id and path of the store at ``root``, as one text; a store without an id gets a random one.

    Two stores differ in it even if their paths are equal, as in containers or on several machines.

    Returns
    -------
    str or None
        ``"<32 hex digits> <path>"``; None if the store has no id and the id cannot be written.
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
    new_id = secrets.token_hex(16)
    temporary = root / f"{ID_FILE}.{new_id}.tmp"
    try:
        temporary.write_text(f"{new_id}\n")
        # Linked, not renamed: the first of several writers wins.
        with suppress(FileExistsError):
            os.link(temporary, root / ID_FILE)
    finally:
        temporary.unlink(missing_ok=True)
    return _read(root)

"""Folders that are named like classes, whatever people call these."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

LONGEST = 80
"""Characters of a folder's name, before the number of a second one."""
LONGEST_BYTES = 200
"""A file system takes 255, the number included."""
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]')
"""What some system takes for a separator or does not take at all, and marks that have a name read as another one."""
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


class ClassFolders:
    """A folder for each class: no separators, nothing hidden, no two that some system takes for the same.

    Parameters
    ----------
    reserved
        Names that no class gets.
    """

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._of: dict[str, str] = {}
        self._taken = {_key(name) for name in reserved}
        self._numbers: dict[str, int] = {}

    def of(self, label: str) -> str:
        """The folder of a class, always the same."""
        if label not in self._of:
            self._of[label] = self._new(plain_name(label))
        return self._of[label]

    def _new(self, plain: str) -> str:
        name, key = plain, _key(plain)
        number = self._numbers.get(key, 1)
        while _key(name) in self._taken:
            number += 1
            name = f"{plain} ({number})"
        self._numbers[key] = number
        self._taken.add(_key(name))
        return name


def plain_name(label: str) -> str:
    """A class's name as that of a folder."""
    text = _UNSAFE.sub("_", unicodedata.normalize("NFC", label).encode("utf-8", "replace").decode())[:LONGEST]
    plain = text.encode()[:LONGEST_BYTES].decode(errors="ignore").strip(" .") or "_"
    return f"{plain}_" if _DEVICES.fullmatch(plain) else plain


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())

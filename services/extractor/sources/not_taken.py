"""What a walk leaves out, counted by reason and by extension, in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from extractor.images.formats import Format
from extractor.sources.filenames import as_text

EXAMPLES = 3
NAMED_FOLDERS = 20
MOST_GROUPS = 100
"""Extensions beyond so many are counted together."""


class Reason(StrEnum):
    """Why a file or a folder is not taken. The values are stable."""

    UNSUPPORTED_FORMAT = "unsupported_format"
    NOT_AN_IMAGE = "not_an_image"
    NOT_LOOKED_INTO = "not_looked_into"
    UNFINISHED = "unfinished_download"
    FILE_UNREADABLE = "file_unreadable"
    NOT_A_FILE = "not_a_file"
    EMPTY_FOLDER = "empty_folder"
    FOLDER_UNREADABLE = "folder_unreadable"
    LINK_LEAVES_ROOT = "link_leaves_root"
    LINK_TO_PARENT = "link_to_parent"
    LINK_REPEATS = "link_repeats"


_OF_FILES = {
    Reason.UNSUPPORTED_FORMAT: ("holds {format}, {advice}", "hold {format}, {advice}"),
    Reason.NOT_AN_IMAGE: ("is not an image", "are not images"),
    Reason.NOT_LOOKED_INTO: (
        "was not looked into: thousands with this extension were, and none is an image",
        "were not looked into: thousands with this extension were, and none is an image",
    ),
    Reason.UNFINISHED: (
        "is taken for a download that has not ended: rename it if it has",
        "are taken for downloads that have not ended: rename them if they have",
    ),
    Reason.FILE_UNREADABLE: ("may not be read: give the worker permission",) * 2,
    Reason.NOT_A_FILE: (
        "is a pipe, a device or a link that leads nowhere",
        "are pipes, devices or links that lead nowhere",
    ),
}
_OF_FOLDERS = {
    Reason.EMPTY_FOLDER: ("{n} folder holds no image: {names}.", "{n} folders hold no image: {names}."),
    Reason.FOLDER_UNREADABLE: (
        "{n} folder cannot be listed, so what it holds is missing: {names}. Give the worker permission.",
        "{n} folders cannot be listed, so what they hold is missing: {names}. Give the worker permission.",
    ),
    Reason.LINK_LEAVES_ROOT: (
        "{n} link leads out of the data root and is not followed: put what it leads to below the root.",
        "{n} links lead out of the data root and are not followed: put what they lead to below the root.",
    ),
    Reason.LINK_TO_PARENT: (
        "{n} link leads to a folder above and is not followed.",
        "{n} links lead to a folder above and are not followed.",
    ),
    Reason.LINK_REPEATS: (
        "{n} link leads to a folder that is taken already.",
        "{n} links lead to folders that are taken already.",
    ),
}


@dataclass(slots=True)
class _Group:
    count: int = 0
    names: list[str] = field(default_factory=list)


@dataclass
class NotTakenCounts:
    """Counts what is left out; memory does not grow with the number of files."""

    _groups: dict[tuple[Reason, str | None, Format | None], _Group] = field(default_factory=dict)

    def add(self, reason: Reason, path: str, suffix: str | None = None, found: Format | None = None) -> None:
        """Count the file or folder ``path``.

        Parameters
        ----------
        suffix
            Its extension, such as ``.heic``.
        found
            The format that it holds.
        """
        key = (reason, suffix, found)
        if key not in self._groups and len(self._groups) >= MOST_GROUPS:
            key = (reason, None, found)
        group = self._groups.setdefault(key, _Group())
        group.count += 1
        # The first by name, so that the file system's order does not matter.
        most = NAMED_FOLDERS if reason in _OF_FOLDERS else EXAMPLES
        if len(group.names) < most or path < group.names[-1]:
            group.names = sorted([*group.names, path])[:most]

    def groups(self) -> list[dict[str, Any]]:
        """One object a reason and extension, with ``count``, ``examples`` and ``message``; most files first."""
        rows = [
            {
                "reason": reason.value,
                "suffix": suffix,
                "count": group.count,
                "examples": [as_text(name) for name in group.names[:EXAMPLES]],
                "message": _message(reason, suffix, found, group),
            }
            for (reason, suffix, found), group in self._groups.items()
        ]
        return sorted(rows, key=lambda row: (-int(str(row["count"])), str(row["reason"]), str(row["suffix"])))


def _message(reason: Reason, suffix: str | None, found: Format | None, group: _Group) -> str:
    one = group.count == 1
    if reason in _OF_FOLDERS:
        names = ", ".join(as_text(name) for name in group.names) + (", …" if group.count > len(group.names) else "")
        return _OF_FOLDERS[reason][not one].format(n=f"{group.count:,}", names=names)
    files = f"{suffix + ' ' if suffix else ''}file{'' if one else 's'}{'' if suffix else ' without a known extension'}"
    predicate = _OF_FILES[reason][not one]
    if found is not None:
        predicate = predicate.format(format=found.name, advice=found.advice)
    return f"{group.count:,} {files} {predicate}."

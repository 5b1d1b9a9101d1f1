"""Files that are not listed, counted by the reason and the extension."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypedDict

from shoal.userfiles import as_text

from extractor.images.decode import Format

SNIFFED_FILES = 10_000
"""After so many files of an extension without an image among them, the rest are not opened."""
EXAMPLES = 3
NAMED_FOLDERS = 20
MOST_GROUPS = 100
"""Further extensions are counted together."""


class Reason(StrEnum):
    """Why a file or a folder is not listed. The values are stable."""

    UNSUPPORTED_FORMAT = "unsupported_format"
    NOT_AN_IMAGE = "not_an_image"
    NOT_LOOKED_INTO = "not_looked_into"
    UNFINISHED = "unfinished_download"
    FILE_UNREADABLE = "file_unreadable"
    NOT_A_FILE = "not_a_file"
    LISTED_TWICE = "listed_twice"
    UNSAFE_NAME = "unsafe_name"
    NOT_NAMED = "not_named"
    EMPTY_FOLDER = "empty_folder"
    FOLDER_UNREADABLE = "folder_unreadable"
    LINK_LEAVES_ROOT = "link_leaves_root"
    LINK_TO_PARENT = "link_to_parent"
    LINK_REPEATS = "link_repeats"


_OF_FILES = {
    Reason.UNSUPPORTED_FORMAT: ("holds {format}, {advice}", "hold {format}, {advice}"),
    Reason.NOT_AN_IMAGE: ("is not an image", "are not images"),
    Reason.NOT_LOOKED_INTO: (
        f"was not opened: none of {SNIFFED_FILES:,} others with this extension is an image",
        f"were not opened: none of {SNIFFED_FILES:,} others with this extension is an image",
    ),
    Reason.UNFINISHED: (
        "looks like an unfinished download: rename it if it is complete",
        "look like unfinished downloads: rename them if they are complete",
    ),
    Reason.FILE_UNREADABLE: ("cannot be read: give the worker permission",) * 2,
    Reason.NOT_A_FILE: (
        "is a pipe, a device or a broken symlink",
        "are pipes, devices or broken symlinks",
    ),
    Reason.UNSAFE_NAME: (
        "would leave the archive's folder by its name",
        "would leave the archive's folder by their names",
    ),
    Reason.NOT_NAMED: ("is not named by a metadata file", "are not named by a metadata file"),
    Reason.LISTED_TWICE: ("is listed twice and taken once", "are listed twice and taken once"),
}
_OF_FOLDERS = {
    Reason.EMPTY_FOLDER: ("{n} folder holds no image: {names}.", "{n} folders hold no image: {names}."),
    Reason.FOLDER_UNREADABLE: (
        "{n} folder cannot be listed, so its images are missing: {names}. Give the worker permission.",
        "{n} folders cannot be listed, so their images are missing: {names}. Give the worker permission.",
    ),
    Reason.LINK_LEAVES_ROOT: (
        "{n} symlink leads out of the data root and is not followed: move its target below the root.",
        "{n} symlinks lead out of the data root and are not followed: move their targets below the root.",
    ),
    Reason.LINK_TO_PARENT: (
        "{n} symlink leads to a folder above the source and is not followed.",
        "{n} symlinks lead to a folder above the source and are not followed.",
    ),
    Reason.LINK_REPEATS: (
        "{n} symlink leads to a folder that is listed already.",
        "{n} symlinks lead to folders that are listed already.",
    ),
}


@dataclass(slots=True)
class _Group:
    count: int = 0
    names: list[str] = field(default_factory=list)


class NotTakenGroup(TypedDict):
    """Files or folders that are not listed for one reason, as in a job's result."""

    reason: str
    suffix: str | None
    count: int
    examples: list[str]
    message: str


@dataclass
class NotTaken:
    """Counts the files and folders that are not listed; its memory does not grow with their number."""

    _groups: dict[tuple[Reason, str | None, Format | None], _Group] = field(default_factory=dict)

    def add(self, reason: Reason, path: str, suffix: str | None = None, found: Format | None = None) -> None:
        """Count the file or folder ``path``.

        Parameters
        ----------
        suffix
            Its extension, such as ``.heic``.
        found
            The format of its content.
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

    def groups(self) -> list[NotTakenGroup]:
        """One group per reason and extension; those with the most files first."""
        rows = [
            NotTakenGroup(
                reason=reason.value,
                suffix=suffix,
                count=group.count,
                examples=[as_text(name) for name in group.names[:EXAMPLES]],
                message=_message(reason, suffix, found, group),
            )
            for (reason, suffix, found), group in self._groups.items()
        ]
        return sorted(rows, key=lambda row: (-row["count"], row["reason"], str(row["suffix"])))


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

"""The folder and the label file that a user names, as the services are asked for them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.cli.jobs import parse_labels
from shoal.errors import InvalidRequest, PathNotFound


@dataclass(frozen=True)
class Source:
    """A folder of images, as the services are asked for it.

    Attributes
    ----------
    folder
        Where it is.
    root
        The data root: what holds the folder, and the label file where there is one.
    labels
        As the API takes them.
    """

    folder: Path
    root: Path
    labels: str | dict[str, Any] = "folder"

    @property
    def path(self) -> str:
        """The folder below the data root."""
        return self.folder.relative_to(self.root).as_posix()

    @classmethod
    def of(cls, folder: Path, labels: str = "folder") -> Source:
        """The source that a user means.

        Raises
        ------
        PathNotFound
            There is no such folder or label file.
        InvalidRequest
            The folder cannot be asked for.
        """
        where = _existing(folder)
        parsed = _label_file(labels, where)
        if isinstance(parsed, str) or "file" not in parsed:
            return cls(where, where.parent, parsed)
        file = Path(parsed["file"])
        root = Path(os.path.commonpath([where.parent, file.parent]))
        return cls(where, root, {**parsed, "file": file.relative_to(root).as_posix()})


def _existing(folder: Path) -> Path:
    """The folder itself, by its true name.

    Raises
    ------
    PathNotFound, InvalidRequest
        It cannot be a folder of images.
    """
    where = folder.expanduser()
    if where.is_file():
        raise PathNotFound(f"{where} is a file: give the folder that holds the images, {where.parent.resolve()}.")
    if not where.is_dir():
        raise PathNotFound(f"There is no folder {where.absolute()}.")
    where = where.resolve()
    if not where.name:
        raise InvalidRequest(f"{where} is the whole machine: give the folder that holds the images.")
    try:
        str(where).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(where).decode(errors="backslashreplace")
        raise InvalidRequest(f"The name of the folder {shown} is not UTF-8: rename it.") from None
    if not os.access(where, os.R_OK | os.X_OK):
        raise PathNotFound(f"The folder {where} may not be read by this user: change its permissions.")
    return where


def _label_file(text: str, folder: Path) -> str | dict[str, Any]:
    """`parse_labels`, with the label file's path absolute: of the working directory, or in or beside the folder."""
    whole = Path(text).expanduser()
    parsed = {"file": str(whole)} if whole.is_file() else parse_labels(text)
    if isinstance(parsed, str) or "file" not in parsed:
        return parsed
    for base in (Path(), folder, folder.parent):
        file = base / Path(parsed["file"]).expanduser()
        if file.is_file():
            return {**parsed, "file": str(file.resolve())}
    raise PathNotFound(
        f"There is no label file {parsed['file']}: it is looked for in {Path.cwd()}, {folder} and {folder.parent}. "
        "`--labels` is `folder`, `none`, or a CSV or Parquet file.",
        field="images.labels",
    )

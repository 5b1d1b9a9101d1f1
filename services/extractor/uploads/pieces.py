"""Files of an upload that came in pieces, because they are larger than a part: found, and put together."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from shoal.embedding_files import parse_piece
from shoal.errors import ImportInvalid, PathNotFound
from shoal.schemas import ImportRequest
from shoal.store.files import remove_quietly, storage_errors
from shoal.store.uploads import Upload
from shoal.userfiles import below, confine


def check_paths(upload: Upload, request: ImportRequest) -> None:
    """Refuse paths that lead out of the upload, or that it does not have.

    Raises
    ------
    PathOutsideRoot, PathNotFound
    """
    named = {"path": request.path, **({"labels.file": request.labels.file} if request.labels else {})}
    for name, path in named.items():
        try:
            confine(upload.layout.images, path, name)
        except PathNotFound:
            if not _in_pieces(upload.layout.images, path, name):
                raise


def _in_pieces(root: Path, path: str, name: str) -> bool:
    pure = PurePosixPath(below(root, path))
    folder = confine(root, str(pure.parent), name)
    return folder.is_dir() and any((parse_piece(each.name) or ("",))[0] == pure.name for each in folder.iterdir())


@contextmanager
def whole_files(upload: Upload, work: Path, on_file: Callable[[int, int], None]) -> Iterator[Path]:
    """The folder of an upload's files, with those that were sent in pieces put together.

    Parameters
    ----------
    work
        Takes the files while they are used, if some came in pieces.
    on_file
        Called often with the files that are put together, and all of them; may raise to stop.

    Raises
    ------
    ImportInvalid
        Pieces of a file are missing, or do not belong together.
    StoreFull
    """
    root = upload.layout.images.resolve()
    files = [Path(where) / name for where, _, names in os.walk(root) for name in names]
    split: dict[Path, _Pieces] = {}
    for file in files:
        if (piece := parse_piece(file.name)) is not None:
            name, number, count = piece
            split.setdefault(file.with_name(name), _Pieces()).add(number, count, file)
    if not split:
        yield root
        return
    remove_quietly(work)
    try:
        for file in files:
            if parse_piece(file.name) is None:
                _link(file, work / file.relative_to(root))
        for done, (file, pieces) in enumerate(split.items()):
            ordered = pieces.ordered(str(file.relative_to(root)), file.exists())
            _join(ordered, work / file.relative_to(root), partial(on_file, done, len(split)))
        yield work.resolve()
    finally:
        remove_quietly(work)


@dataclass
class _Pieces:
    """The pieces of one file that have arrived."""

    counts: set[int] = field(default_factory=set)
    files: dict[int, Path] = field(default_factory=dict)

    def add(self, number: int, count: int, file: Path) -> None:
        self.counts.add(count)
        self.files[number] = file

    def ordered(self, name: str, exists: bool) -> list[Path]:
        count = max(self.counts)
        missing = next((number for number in range(count) if number not in self.files), None)
        if len(self.counts) > 1 or exists or missing is not None or len(self.files) != count:
            why = f"piece {missing} of {count} is missing" if missing is not None else "it was sent in two ways"
            raise ImportInvalid(f"{name} is not complete: {why}. Start another upload.", file=name)
        return [self.files[number] for number in range(count)]


def _link(file: Path, target: Path) -> None:
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)


def _join(pieces: list[Path], target: Path, on_piece: Callable[[], None]) -> None:
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            for piece in pieces:
                on_piece()
                with piece.open("rb") as source:
                    shutil.copyfileobj(source, out, 1 << 20)

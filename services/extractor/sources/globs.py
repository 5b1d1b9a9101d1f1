"""Patterns of paths, as in ``.gitignore``: which images of a source are taken."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from functools import lru_cache

ANY_DEPTH = "**"


class Glob:
    """A pattern of paths.

    Without a slash it matches a file or a folder of that name at any depth; with one, a path from the source's folder.
    ``*`` and ``?`` match within a name, ``**`` any number of folders. A folder that matches includes all below it.

    The time is linear in the lengths of pattern and path: `fnmatch` does not backtrack across ``*``.
    """

    def __init__(self, pattern: str) -> None:
        parts = pattern.strip("/").split("/")
        if len(parts) == 1 and not pattern.startswith("/"):
            parts.insert(0, ANY_DEPTH)
        if parts[-1] == ANY_DEPTH:
            parts[-1] = "*"  # And so all that is below.
        self._parts = [None if part == ANY_DEPTH else re.compile(fnmatch.translate(part)) for part in parts]

    def matches(self, path: str) -> bool:
        """Whether ``path``, or a folder that holds it, matches."""
        last = len(self._parts)
        reached = self._skipped({0})
        for name in path.split("/"):
            # A place in the pattern that is `**` stays where it is; any other is passed by a name that matches.
            moved = {
                at if part is None else at + 1 for at in reached for part in [self._parts[at]] if self._fits(part, name)
            }
            reached = self._skipped(moved)
            if last in reached:
                return True
        return False

    @staticmethod
    def _fits(part: re.Pattern[str] | None, name: str) -> bool:
        return part is None or part.match(name) is not None

    def _skipped(self, places: set[int]) -> set[int]:
        """``places`` and those after each `**`, which matches no folder, too; not past a last one."""
        found = set(places)
        for at, part in enumerate(self._parts[:-1]):
            if part is None and at in found:
                found.add(at + 1)
        return found


@lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> tuple[Glob, ...]:
    return tuple(map(Glob, patterns))


class Selection:
    """Which paths are taken.

    Parameters
    ----------
    include
        A path must match one of these; all paths do if there are none.
    exclude
        A path must match none of these.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include, self._exclude = _compiled(tuple(include)), _compiled(tuple(exclude))

    def __bool__(self) -> bool:
        return bool(self._include or self._exclude)

    def takes(self, path: str) -> bool:
        """Whether the image ``path`` is taken."""
        if self._include and not any(glob.matches(path) for glob in self._include):
            return False
        return not self.leaves_out(path)

    def leaves_out(self, path: str) -> bool:
        """Whether the file or folder ``path`` is excluded, with all that is below it."""
        return any(glob.matches(path) for glob in self._exclude)


def spread(count: int, limit: int | None) -> list[int]:
    """Which ``limit`` of ``count`` images are taken: evenly spread, so that each class of a sorted listing is there."""
    if limit is None or limit >= count:
        return list(range(count))
    return [at * count // limit for at in range(limit)]

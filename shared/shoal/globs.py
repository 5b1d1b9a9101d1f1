"""Patterns of paths as in ``.gitignore``."""

from __future__ import annotations

import fnmatch
import re

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

"""Patterns of paths: braces, as shells expand them, and globs, as in ``.gitignore``.

Braces name several files (``shards/{00000..00099}.tar``, ``{train,val}.zip``); globs say which images of a source are
taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product

from shoal.errors import SourceInvalid
from shoal.globs import Glob

MOST_FILES = 100_000
_BRACES = re.compile(r"\{([^{}/]*)\}")
_RANGE = re.compile(r"(\d{1,12})\.\.(\d{1,12})")


def is_pattern(path: str) -> bool:
    """Whether ``path`` has braces that stand for several names."""
    return any(".." in inner or "," in inner for inner in _BRACES.findall(path))


def split_pattern(pattern: str) -> tuple[str, str]:
    """The folder that holds all that ``pattern`` stands for, ``.`` for the root, and the rest of it."""
    start = pattern.rfind("/", 0, pattern.index("{")) + 1
    return pattern[:start] or ".", pattern[start:]


def expanded(pattern: str) -> list[str]:
    """The paths that ``pattern`` stands for, in its order; a range keeps its leading zeros.

    Raises
    ------
    SourceInvalid
        There are more than `MOST_FILES`.

    Examples
    --------
    >>> expanded("{a,b}/{08..10}.tar")[:4]
    ['a/08.tar', 'a/09.tar', 'a/10.tar', 'b/08.tar']
    """
    parts = _BRACES.split(pattern)
    texts: list[list[str]] = []
    count = 1
    for inner in parts[1::2]:
        count *= _count(inner)
        if count > MOST_FILES:
            raise SourceInvalid(
                f"`images.path` is {pattern!r}, which stands for more than {MOST_FILES:,} files.", field="images.path"
            )
        texts.append(list(_choices(inner)))
    fixed = parts[::2]
    return [
        "".join(each for pair in zip(fixed, [*chosen, ""], strict=True) for each in pair) for chosen in product(*texts)
    ]


def _count(inner: str) -> int:
    found = _RANGE.fullmatch(inner)
    return abs(int(found[2]) - int(found[1])) + 1 if found else inner.count(",") + 1


def _choices(inner: str) -> Iterator[str]:
    found = _RANGE.fullmatch(inner)
    if not found:
        yield from inner.split(",")
        return
    first, last = int(found[1]), int(found[2])
    width = len(found[1]) if found[1].startswith("0") or len(found[1]) == len(found[2]) else 0
    step = 1 if last >= first else -1
    for number in range(first, last + step, step):
        yield f"{number:0{width}}"


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

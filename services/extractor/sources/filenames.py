"""Names of files that are not UTF-8: how they stand in the listing, and how the file is found again.

Linux takes any bytes for a name, the store takes text. Python reads a byte that is no UTF-8 as a lone surrogate; the
listing writes such a byte as ``\\udcXX``, or as ``\\xXX`` where the first form could be taken for another file's name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

_FIRST = re.compile(r"\\udc([89a-f][0-9a-f])")
_SECOND = re.compile(r"\\(?:\\|x([89a-f][0-9a-f]))")


def is_text(path: str) -> bool:
    """Whether ``path`` can be stored as it is."""
    return path.isascii() or path.encode("utf-8", "replace") == path.encode("utf-8", "surrogatepass")


def listed_names(paths: Sequence[str]) -> list[str]:
    """``paths`` as the listing has them, in the same order: text, and distinct where the paths are.

    A path that is text stays as it is, whatever the others are called.
    """
    odd = [index for index, path in enumerate(paths) if not is_text(path)]
    names = list(paths)
    if not odd:
        return names
    taken = Counter(path for path in paths if is_text(path))
    for index in odd:
        names[index] = next(name for name in _forms(paths[index]) if not taken[name])
        taken[names[index]] += 1
    return names


def as_text(text: str) -> str:
    """``text`` as it can be stored: what is no UTF-8 is escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _forms(path: str) -> Iterator[str]:
    first = as_text(path)
    second = re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", path.replace("\\", "\\\\"))
    if "\\" not in path:
        yield first
    yield as_text(second)
    number = 2
    while True:  # Nobody finds such a file again: it becomes a row of errors.
        yield f"{first} ({number})"
        number += 1


def candidates(name: str) -> Iterator[str]:
    """The paths that ``name`` of a listing may stand for, the most likely first."""
    yield name
    if "\\" in name:
        yield _FIRST.sub(lambda match: chr(0xDC00 + int(match[1], 16)), name)
        yield _SECOND.sub(lambda match: chr(0xDC00 + int(match[1], 16)) if match[1] else "\\", name)

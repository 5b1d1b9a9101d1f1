"""Names of files as text.

Linux allows any bytes in a file name; the store takes text. Python reads a byte that is not UTF-8 as a lone surrogate;
the listing writes it as ``\\udcXX``, or as ``\\xXX`` where the first form may be another file's name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from shoal.userfiles import as_text

_ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")
_ESCAPED_AS_BYTE = re.compile(r"\\(?:\\|x([89a-f][0-9a-f]))")


def is_text(path: str) -> bool:
    """Whether ``path`` can be stored unchanged."""
    return path.isascii() or path.encode("utf-8", "replace") == path.encode("utf-8", "surrogatepass")


def listed_names(paths: Sequence[str]) -> list[str]:
    """``paths`` as the listing stores them, in the same order: as text, and distinct if the paths are.

    A path that is text stays unchanged, whatever the others are.
    """
    odd = [index for index, path in enumerate(paths) if not is_text(path)]
    names = list(paths)
    if not odd:
        return names
    taken = Counter(path for path in paths if is_text(path))
    for index in odd:
        names[index] = next(name for name in _escaped_forms(paths[index]) if not taken[name])
        taken[names[index]] += 1
    return names


def _escaped_forms(path: str) -> Iterator[str]:
    first = as_text(path)
    second = re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", path.replace("\\", "\\\\"))
    if "\\" not in path:
        yield first
    yield as_text(second)
    number = 2
    while True:  # No such file exists: it becomes an error row.
        yield f"{first} ({number})"
        number += 1


def candidate_paths(name: str) -> tuple[str, ...]:
    """The paths that ``name`` of a listing may stand for, the most likely first."""
    if "\\" not in name:
        return (name,)
    return (
        name,
        _ESCAPED.sub(lambda match: chr(0xDC00 + int(match[1], 16)), name),
        _ESCAPED_AS_BYTE.sub(lambda match: chr(0xDC00 + int(match[1], 16)) if match[1] else "\\", name),
    )

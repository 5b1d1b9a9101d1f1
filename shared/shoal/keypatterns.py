"""Patterns for a checkpoint's keys, as requests and catalogues write them; none can keep a processor busy for long.

A pattern is either plain text, which fits every key that begins with it, or a regular expression that begins with
``^``. What left-over keys are ignored by may also be a glob such as ``predictor.*``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import lru_cache

LONGEST = 200
"""Characters of a pattern or of a replacement."""
LONGEST_KEY = 200
"""Longer keys fit no regular expression."""
REPETITIONS = 3
"""Of ``*``, ``+`` and ``{}`` in one regular expression: the time for a key grows with its length to this power."""
CHOICES = 6
"""Of ``?`` and ``|`` in one regular expression: the time can double with each."""
_SPECIAL = set("\\*+?()[]{}|^$")
_GLOB = set("*?[")


def check_pattern(pattern: str) -> str:
    """`pattern`, if it may be the left side of a renaming.

    Raises
    ------
    ValueError
        It is neither plain text nor a regular expression of the kind that is allowed; the message says why.
    """
    if pattern.startswith("^"):
        _check_expression(pattern)
    elif special := sorted(_SPECIAL & set(pattern)):
        raise ValueError(f"{pattern!r} has {special[0]!r}: a regular expression begins with `^`, plain text has none")
    return pattern


def check_ignored(pattern: str) -> str:
    """`pattern`, if it may say which left-over keys are ignored: a glob will do, too.

    Raises
    ------
    ValueError
        See `check_pattern`.
    """
    return pattern if _is_glob(pattern) else check_pattern(pattern)


def check_replacement(pattern: str, replacement: str) -> None:
    """Refuse a replacement that names a group which `pattern` does not have.

    Raises
    ------
    ValueError
        It names such a group, or is malformed.
    """
    if pattern.startswith("^"):
        try:
            re.compile(pattern).sub(replacement, "")
        except (re.error, IndexError) as error:
            raise ValueError(f"the replacement {replacement!r} of {pattern!r} is not valid: {error}") from None


@lru_cache(maxsize=512)
def renamer(pattern: str, replacement: str) -> Callable[[str], str | None]:
    """A function that gives a key's new name, None where `pattern` does not fit it."""
    if not pattern.startswith("^"):
        return lambda key: replacement + key[len(pattern) :] if key.startswith(pattern) else None
    expression = re.compile(pattern)

    def rename(key: str) -> str | None:
        if len(key) > LONGEST_KEY or expression.match(key) is None:
            return None
        return expression.sub(replacement, key, count=1)

    return rename


def fits(pattern: str, key: str) -> bool:
    """Whether a pattern for ignored keys fits `key`: a glob the whole of it, others its beginning."""
    if _is_glob(pattern):
        return fnmatchcase(key, pattern)
    return renamer(pattern, "")(key) is not None


def _is_glob(pattern: str) -> bool:
    return not pattern.startswith("^") and bool(_GLOB & set(pattern))


def _check_expression(pattern: str) -> None:
    """Refuse what can take exponential time: repeated groups, look-arounds, back references, too many choices."""
    plain = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "\0", pattern)  # Without escaped characters and classes.
    if re.search(r"\)[*+{]", plain):
        raise ValueError(f"{pattern!r} repeats a group, which can take for ever: repeat single characters or classes")
    if re.search(r"\(\?(?!:)", plain) or re.search(r"(?<!\\)(?:\\\\)*\\[1-9]", pattern):
        raise ValueError(f"{pattern!r} has a look-around, a flag or a back reference, which are not allowed")
    if len(re.findall(r"[*+{]", plain)) > REPETITIONS:
        raise ValueError(f"{pattern!r} has more than {REPETITIONS} of `*`, `+` and `{{}}`")
    if len(re.findall(r"(?<!\()\?|\|", plain)) > CHOICES:
        raise ValueError(f"{pattern!r} has more than {CHOICES} of `?` and `|`")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # Of sets such as `[[`, whose meaning may change.
            re.compile(pattern)
    except (re.error, OverflowError, FutureWarning) as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None

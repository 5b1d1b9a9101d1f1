"""Patterns for the keys of a checkpoint, in requests and catalogues; none can take exponential time.

A pattern is either plain text, which matches every key that begins with it, or a regular expression that begins with
``^``. A pattern of `ignore` may also be a glob such as ``predictor.*``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import lru_cache

LONGEST = 200
"""Maximum length of a pattern or of a replacement."""
LONGEST_KEY = 200
"""Longer keys match no regular expression."""
REPETITIONS = 3
"""Maximum number of ``*``, ``+`` and ``{}`` in a regular expression: time grows with a key's length to this power."""
CHOICES = 6
"""Maximum number of ``?`` and ``|`` in a regular expression: its time can double with each."""
_SPECIAL = set("\\*+?()[]{}|^$")
_GLOB = set("*?[")


def check_pattern(pattern: str) -> str:
    """`pattern`, if it is allowed in `rename`.

    Raises
    ------
    ValueError
        It is neither plain text nor an allowed regular expression; the message says why.
    """
    if pattern.startswith("^"):
        _check_expression(pattern)
    elif special := sorted(_SPECIAL & set(pattern)):
        raise ValueError(
            f"{pattern!r} has the special character {special[0]!r}: a regular expression begins with `^`, plain text "
            "has no special characters"
        )
    return pattern


def check_ignored(pattern: str) -> str:
    """`pattern`, if it is allowed in `ignore`, where it may also be a glob.

    Raises
    ------
    ValueError
        See `check_pattern`.
    """
    return pattern if _is_glob(pattern) else check_pattern(pattern)


def check_replacement(pattern: str, replacement: str) -> None:
    """Refuse a malformed replacement.

    Raises
    ------
    ValueError
        It refers to a group that `pattern` does not have, or is not valid.
    """
    if pattern.startswith("^"):
        try:
            re.compile(pattern).sub(replacement, "")
        except (re.error, IndexError) as error:
            raise ValueError(f"the replacement {replacement!r} of {pattern!r} is not valid: {error}") from None


@lru_cache(maxsize=512)
def renamer(pattern: str, replacement: str) -> Callable[[str], str | None]:
    """A function that returns the new name of a key, or None if `pattern` does not match it."""
    if not pattern.startswith("^"):
        return lambda key: replacement + key[len(pattern) :] if key.startswith(pattern) else None
    expression = re.compile(pattern)

    def rename(key: str) -> str | None:
        if len(key) > LONGEST_KEY or expression.match(key) is None:
            return None
        return expression.sub(replacement, key, count=1)

    return rename


def matches(pattern: str, key: str) -> bool:
    """Whether a pattern of `ignore` matches `key`: a glob the whole key, others its beginning."""
    if _is_glob(pattern):
        return fnmatchcase(key, pattern)
    return renamer(pattern, "")(key) is not None


def _is_glob(pattern: str) -> bool:
    return not pattern.startswith("^") and bool(_GLOB & set(pattern))


def _check_expression(pattern: str) -> None:
    """Refuse what can take exponential time: repeated groups, look-arounds, back references, many alternatives."""
    plain = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "\0", pattern)  # Without escaped characters and classes.
    if re.search(r"\)[*+{]", plain):
        raise ValueError(f"{pattern!r} repeats a group, which can take exponential time: repeat characters or classes")
    if re.search(r"\(\?(?!:)", plain) or re.search(r"(?<!\\)(?:\\\\)*\\[1-9]", pattern):
        raise ValueError(f"{pattern!r} has a look-around, a flag or a back reference, none of which is allowed")
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

"""What stands in one field of a label file: a label, or an image's path."""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Decimal
from typing import Any

_WHOLE = re.compile(r"([+-]?)(0|[1-9][0-9]*)\.0*")
_IMAGE = re.compile(r".+\.(jpe?g|png|webp|bmp|gif|tiff?|p[pgnb]m|heic|heif|avif|jp2)", re.IGNORECASE | re.DOTALL)


def clean_label(value: str | None) -> str | None:
    """A label as it is stored, the same whatever file it comes from; None for an unlabelled image.

    Blanks around it are cut off. A blank and ``nan``, in any case, mean no label. A whole number that a table wrote as
    a float is the integer: ``1.0`` is ``1``.

    Examples
    --------
    >>> [clean_label(text) for text in (" dog ", "1.0", "007", "1.5", "NaN", " ")]
    ['dog', '1', '007', '1.5', None, None]
    """
    text = (value or "").strip()
    if not text or text.casefold() in {"nan", "-nan", "+nan"}:
        return None
    whole = _WHOLE.fullmatch(text)
    if whole is None:
        return text
    return whole[2] if whole[1] != "-" or whole[2] == "0" else f"-{whole[2]}"


def text_of(value: Any) -> str | None:
    """A single value of a typed table as the text that `clean_label` takes.

    Raises
    ------
    TypeError
        It is neither text, a number without a fraction, nor true or false; the message says what it is.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float | Decimal):
        if value != value:  # NaN
            return None
        whole = int(value) if math.isfinite(value) else None
        if whole != value:
            raise TypeError(f"the fraction {value!s}")
        return str(whole)
    if isinstance(value, bytes):  # How some writers of Parquet keep text.
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise TypeError("bytes that are no text in UTF-8") from error
    if isinstance(value, str | int):
        return str(value)
    raise TypeError(f"a {type(value).__name__}")


def normal_path(path: str) -> str:
    """A path without what differs between writers: blanks around it, ``./`` before it, backslashes, decomposed
    letters.

    Examples
    --------
    >>> normal_path(r" .\\dir\\1.png ")
    'dir/1.png'
    """
    text = unicodedata.normalize("NFC", path.strip()).replace("\\", "/")
    while text.startswith("./"):
        text = text[2:].lstrip("/").lstrip()
    return text


def looks_like_image(text: str) -> bool:
    """Whether it ends as the name of an image does."""
    return _IMAGE.fullmatch(text.strip()) is not None

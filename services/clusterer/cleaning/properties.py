"""Images that stand out by what is known of their files, and by the properties gathered while decoding."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa

from clusterer.data.rows import Float64Array

SMALL: Final = 64
"""Pixels of the shorter side. Where most images are so small, that is a property of the set: see `small_images`."""
ODD_ASPECT: Final = 3.0
LOW_DETAIL: Final = 0.03
"""Bytes of the file a pixel: photographs have ten times as many."""
DARK: Final = 0.32
"""Of ``luma_99``: default of cleanlab's Datalab for its issue ``dark``."""
BRIGHT: Final = 0.05
"""Of 1 - ``luma_5``: default of Datalab for ``light``."""
LOW_CONTRAST: Final = 0.05
"""Of ``luma_99`` - ``luma_1``: default of scikit-image's `is_low_contrast`."""
LOW_ENTROPY: Final = 1.5
"""Bits: default of Datalab for ``low_information``."""
BLURRY: Final = 100.0
"""Of the variance of the Laplacian: the usual threshold, and that of a photograph that is out of focus."""
OF_MEDIAN: Final = 0.5
"""What stands out is also below so much of the set's median: where most images are dark, none of them stands out."""


def find_issues(facts: pa.Table) -> list[tuple[str, Float64Array, Float64Array]]:
    """The properties, each with its value and its score for all rows.

    Parameters
    ----------
    facts
        ``width``, ``height`` and ``bytes`` of ``n`` images, and maybe ``luma_1``, ``luma_5``, ``luma_99``, ``entropy``
        and ``sharpness``; null where they are not known.

    Returns
    -------
    list
        Of names, ``(n,)`` values and ``(n,)`` scores: below 1 for images that stand out, the less the more they do;
        infinite where the facts are not known.
    """
    width, height, size = (_numbers(facts, name) for name in ("width", "height", "bytes"))
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    aspect = longer / np.maximum(shorter, 1)
    density = size / np.maximum(width * height, 1)
    found = [
        ("small", shorter, _score(shorter, SMALL)),
        ("odd_aspect", aspect, ODD_ASPECT / np.maximum(aspect, 1e-9)),
        ("low_detail", density, density / LOW_DETAIL),
    ]
    if "sharpness" in facts.column_names:
        found += _looks(facts)
    return [(name, value, np.where(np.isfinite(value), score, np.inf)) for name, value, score in found]


def small_images(facts: pa.Table) -> int:
    """How many images have a shorter side below `SMALL`, whatever is usual in the set."""
    return int(np.count_nonzero(np.minimum(_numbers(facts, "width"), _numbers(facts, "height")) < SMALL))


def _looks(facts: pa.Table) -> list[tuple[str, Float64Array, Float64Array]]:
    """What the images look like, as `find_issues` returns it."""
    low, high, entropy, sharpness = (_numbers(facts, name) for name in ("luma_5", "luma_99", "entropy", "sharpness"))
    width = high - _numbers(facts, "luma_1")
    dark, bright, contrast = _score(high, DARK), _score(1 - low, BRIGHT), _score(width, LOW_CONTRAST)
    # An image without light or contrast has no edges, in focus or not.
    blurry = np.where((dark < 1) | (contrast < 1), np.inf, _score(sharpness, BLURRY))
    return [
        ("dark", high, dark),
        ("bright", low, bright),
        ("low_contrast", width, contrast),
        ("low_entropy", entropy, _score(entropy, LOW_ENTROPY)),
        ("blurry", sharpness, blurry),
    ]


def _score(value: Float64Array, threshold: float) -> Float64Array:
    """Below 1 for values below both ``threshold`` and `OF_MEDIAN` of the median; NaN where ``value`` is."""
    known = value[np.isfinite(value)]
    typical = OF_MEDIAN * float(np.median(known)) if len(known) else 0.0
    least = min(threshold, typical)
    score: Float64Array = value / least if least > 0 else np.full_like(value, np.inf)
    return score


def _numbers(facts: pa.Table, name: str) -> Float64Array:
    column = facts.column(name).cast(pa.float64())
    return np.asarray(column.to_numpy(), np.float64)

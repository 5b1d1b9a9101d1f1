"""A linear classifier on the embeddings: the supervised reference for the clusters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from shoal.errors import InvalidRequest

from clusterer.data.rows import Float32Array, Float64Array, IntArray, Rows
from clusterer.evaluation.contingency import ClassPairs
from clusterer.kmeans.engine import sum_by_label

MaskArray = NDArray[np.bool_]

RIDGES = (1e-6, 1e-4, 1e-2, 1.0)
HELD_OUT = 0.2
_STREAM = 0x9B


class LinearProbe:
    """Ridge regression on the classes, one against the rest, as a classifier.

    A linear probe in closed form, without step size and epochs. Probes trained by gradient descent on logistic loss, as
    in the papers, score a few points higher.

    Parameters
    ----------
    rows
        ``(n, d)`` train rows; read in blocks, a few times.
    classes
        ``(n,)``: class of each, or -1 for rows to exclude.
    count
        Number of classes.

    Raises
    ------
    InvalidRequest
        Products of values do not fit float32.
    """

    def __init__(self, rows: Rows, classes: IntArray, count: int) -> None:
        known = np.flatnonzero(classes >= 0)
        shuffled = np.random.default_rng(_STREAM).permutation(known)
        held = max(1, int(len(shuffled) * HELD_OUT))
        judge, fit = (_mask(rows.n, part) for part in (shuffled[:held], shuffled[held:]))
        solved = _Ridge(rows, fit, classes, count)
        scores = [_share(solved.predict(rows, judge, ridge), classes[judge]) for ridge in RIDGES]
        best = int(np.argmax(scores))
        self.held_out_accuracy = scores[best]
        self._ridge = RIDGES[best]
        self._whole = solved

    def accuracy(self, rows: Rows, classes: IntArray, pairs: ClassPairs | None = None) -> float | None:
        """Share of the labelled rows of another set that it classifies correctly; None without any."""
        known = classes >= 0
        if not known.any():
            return None
        predicted = self._whole.predict(rows, known, self._ridge)
        if pairs is None:
            return _share(predicted, classes[known])
        return float(pairs.right(predicted, classes[known]).mean())


class _Ridge:
    """The solutions for every ridge from one eigendecomposition, fitted on the rows of a mask."""

    def __init__(self, rows: Rows, mask: MaskArray, classes: IntArray, count: int) -> None:
        n = int(mask.sum())
        self._bias = np.bincount(classes[mask], minlength=count) / n
        self._mean = sum((block.sum(axis=0, dtype=np.float64) for _, block in _picked(rows, mask)), np.zeros(rows.dim))
        self._mean /= n
        products = np.zeros((rows.dim, rows.dim))
        by_class = np.zeros((count, rows.dim))
        for part, block in _picked(rows, mask):
            x = block - self._mean.astype(np.float32)
            with np.errstate(over="ignore", invalid="ignore"):
                products += x.T @ x
            by_class += sum_by_label(x, classes[part].astype(np.int32), count)
        if not np.isfinite(products).all():
            raise InvalidRequest(
                "The embeddings have values whose products do not fit float32. Send `normalize` true, or divide them "
                "by a constant before they are imported.",
                field="normalize",
            )
        values, vectors = eigh(products)
        self._values, self._vectors = np.maximum(values, 0.0), vectors
        # The rows are centred, so centring the targets would not change the products.
        self._moments: Float64Array = vectors.T @ by_class.T

    def predict(self, rows: Rows, mask: MaskArray, ridge: float) -> IntArray:
        """The class of each row of the mask."""
        strength = max(float(self._values[-1]), 1e-30) * ridge
        weights = self._vectors @ (self._moments / (self._values + strength)[:, None])
        found = [((block - self._mean) @ weights + self._bias).argmax(axis=1) for _, block in _picked(rows, mask)]
        return np.concatenate(found).astype(np.int64) if found else np.empty(0, np.int64)


def _picked(rows: Rows, mask: MaskArray) -> Iterator[tuple[IntArray, Float32Array]]:
    """Numbers and values of the rows of a mask, block by block."""
    for first, batch in rows.batches():
        inside = np.flatnonzero(mask[first : first + len(batch)])
        if len(inside):
            yield first + inside, batch[inside]


def _mask(n: int, rows: IntArray) -> MaskArray:
    mask = np.zeros(n, dtype=bool)
    mask[rows] = True
    return mask


def _share(predicted: IntArray, classes: IntArray) -> float:
    return float((predicted == classes).mean())

"""A linear classifier on the embeddings: what labels would have bought, to hold the clusters against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from clusterer.labels import ClassPairs
from clusterer.rows import Float32Array, Float64Array, IntArray

RIDGES = (1e-6, 1e-4, 1e-2, 1.0)
HELD_OUT = 0.2
_STREAM = 0x9B


class LinearProbe:
    """Ridge regression on the classes, one against the rest, as a classifier.

    A closed form of a linear probe: no step size, no epochs. Probes trained by gradient descent on logistic loss, as
    the papers' are, come out a few points higher.

    Parameters
    ----------
    rows
        ``(n, d) float32`` train rows.
    classes
        ``(n,)``: class of each, or -1 for rows that take no part.
    count
        Number of classes.
    """

    def __init__(self, rows: Float32Array, classes: IntArray, count: int) -> None:
        known = np.flatnonzero(classes >= 0)
        shuffled = np.random.default_rng(_STREAM).permutation(known)
        held = max(1, int(len(shuffled) * HELD_OUT))
        judge, fit = np.sort(shuffled[:held]), np.sort(shuffled[held:])
        solved = _Ridge(rows[fit], classes[fit], count)
        scores = [_share(solved.predict(rows[judge], ridge), classes[judge]) for ridge in RIDGES]
        best = int(np.argmax(scores))
        self.held_out_accuracy = scores[best]
        self._ridge = RIDGES[best]
        self._whole = solved

    def accuracy(self, rows: Float32Array, classes: IntArray, pairs: ClassPairs | None = None) -> float | None:
        """Share of the labelled rows of another set that it gets right; None without any."""
        known = np.flatnonzero(classes >= 0)
        if not len(known):
            return None
        predicted = self._whole.predict(rows[known], self._ridge)
        if pairs is None:
            return _share(predicted, classes[known])
        return float(pairs.right(predicted, classes[known]).mean())


class _Ridge:
    """The solutions for every ridge from one eigendecomposition."""

    def __init__(self, rows: Float32Array, classes: IntArray, count: int) -> None:
        self._mean: Float64Array = rows.mean(axis=0, dtype=np.float64)
        x = rows - self._mean.astype(np.float32)
        targets = np.zeros((len(rows), count), dtype=np.float32)
        targets[np.arange(len(rows)), classes] = 1.0
        self._bias = targets.mean(axis=0)
        values, vectors = eigh((x.T @ x).astype(np.float64))
        self._values, self._vectors = np.maximum(values, 0.0), vectors
        self._moments: Float64Array = vectors.T @ (x.T @ (targets - self._bias)).astype(np.float64)

    def predict(self, rows: Float32Array, ridge: float) -> IntArray:
        strength = max(float(self._values[-1]), 1e-30) * ridge
        weights = self._vectors @ (self._moments / (self._values + strength)[:, None])
        scores: NDArray[np.float64] = (rows - self._mean) @ weights + self._bias
        predicted: IntArray = scores.argmax(axis=1).astype(np.int64)
        return predicted


def _share(predicted: IntArray, classes: IntArray) -> float:
    return float((predicted == classes).mean())

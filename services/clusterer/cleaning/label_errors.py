"""Labels that the neighbours of a row, and a model of the classes, contradict.

Two confidences in a label are multiplied: that of the neighbours, and that of a Gaussian model of the classes with
a shared covariance (linear discriminant analysis), fitted without the row's own fifth of the rows. Neighbours see the
local shape of classes; the model tells labels that no neighbour has apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clusterer.data.partitions import OnRows
from clusterer.data.rows import Float32Array, Float64Array, IntArray, Rows, block_rows, l2_normalize, ranges

FOLDS: Final = 5
SHRINKAGE: Final = 1.0
"""Weight of the mean variance of all directions beside each direction's own."""
MOST_CLASSES: Final = 2000
"""With more classes only the neighbours are asked."""
FLOOR: Final = 1e-12
SCORED_VALUES: Final = 2**20
"""Of rows times classes that are scored at once, or one row."""
PER_SCORED_VALUE: Final = 8 * 8
"""Bytes of one: confidences, shares and logarithms in float64, some of them of the block before, eight at once."""


@dataclass(frozen=True)
class LabelErrors:
    """How much is to be said for the label of each row whose class has two rows or more.

    Attributes
    ----------
    rows
        ``(m,) int64``.
    suggested
        ``(m,) int64``: the class that the row rather belongs to; its own if no other is as likely.
    score
        ``(m,) float32``: confidence in the label, from 0 to 1: the geometric mean of the two.
    disagreeing
        ``(m,) int32``: neighbours with another label.
    error
        ``(m,) bool``: whether the label is taken for wrong.
    """

    rows: IntArray
    suggested: IntArray
    score: Float32Array
    disagreeing: NDArray[np.int32]
    error: NDArray[np.bool_]


@dataclass(frozen=True)
class _Model:
    """Linear scores ``x @ weights + bias`` of the classes for each fold, fitted on the other folds."""

    weights: Float64Array
    bias: Float64Array

    def log_probabilities(self, batch: Float64Array, folds: IntArray) -> Float64Array:
        found = np.empty((len(batch), self.bias.shape[1]))
        for fold in range(FOLDS):
            mine = folds == fold
            found[mine] = batch[mine] @ self.weights[fold] + self.bias[fold]
        found -= found.max(axis=1, keepdims=True)
        return np.asarray(found - np.log(np.exp(found).sum(axis=1, keepdims=True)), np.float64)


def find_label_errors(rows: Rows, classes: IntArray, nearest: IntArray, on_rows: OnRows) -> LabelErrors:
    """Compare every label with the neighbours' labels and with a model of the classes.

    A label is taken for wrong if, among the classes that are at least as likely for the row as they are on average for
    rows with their label, another one is the most likely: confident learning's rule.

    Parameters
    ----------
    rows
        ``(n, d)``; they are scaled to length 1.
    classes
        ``(n,)`` from 0; -1 for rows without a label.
    nearest
        ``(n, k)``: the nearest rows of each row.

    References
    ----------
    C. Northcutt, L. Jiang, I. Chuang, "Confident learning: estimating uncertainty in dataset labels", JAIR 70 (2021).
    """
    count = int(classes.max(initial=-1)) + 1
    sizes = np.bincount(classes[classes >= 0], minlength=count)
    judged = (classes >= 0) & (sizes[np.maximum(classes, 0)] >= 2) if count else np.zeros(len(classes), bool)
    chosen = np.flatnonzero(judged)
    if not len(chosen):
        none = np.empty(0, np.int64)
        return LabelErrors(none, none, np.empty(0, np.float32), np.empty(0, np.int32), np.empty(0, bool))
    folds = _folds(classes)
    model = _fit(rows, classes, folds, count) if count <= MOST_CLASSES else None
    scorer = _Scorer(rows, classes, nearest, folds, model, count)
    own = np.empty(len(classes), np.float64)
    thresholds, times = np.zeros(count), np.zeros(count)
    for first, confidence, labels in scorer.batches():
        mine = labels >= 0
        share = _shares(confidence)
        at = np.flatnonzero(mine)
        own[first + at] = confidence[at, labels[at]]
        np.add.at(thresholds, labels[at], share[at, labels[at]])
        np.add.at(times, labels[at], 1)
        on_rows(first + len(labels))
    thresholds /= np.maximum(times, 1)
    suggested = np.empty(len(classes), np.int64)
    for first, confidence, labels in scorer.batches():
        share = _shares(confidence)
        confident = np.where(share >= thresholds, share, -1.0)
        best = confident.argmax(axis=1)
        suggested[first : first + len(labels)] = np.where(confident.max(axis=1) >= 0, best, labels)
        on_rows(first + len(labels))
    disagreeing = np.empty(len(chosen), np.int32)
    for part in ranges(len(chosen), max(1, SCORED_VALUES // max(1, nearest.shape[1]))):
        theirs = classes[nearest[chosen[part]]]
        disagreeing[part] = ((theirs != classes[chosen[part], None]) & (theirs >= 0)).sum(axis=1)
    error = suggested[chosen] != classes[chosen]
    return LabelErrors(chosen, suggested[chosen], own[chosen].astype(np.float32), disagreeing, error)


class _Scorer:
    """The confidence of each row in each class, block by block."""

    def __init__(
        self, rows: Rows, classes: IntArray, nearest: IntArray, folds: IntArray, model: _Model | None, count: int
    ) -> None:
        self._rows, self._classes, self._nearest = rows, classes, nearest
        self._folds, self._model, self._count = folds, model, count
        self._prior = np.bincount(classes[classes >= 0], minlength=count) / max(1, int(np.count_nonzero(classes >= 0)))

    def batches(self) -> Iterator[tuple[int, Float64Array, IntArray]]:
        """Yield the first row, ``(b, c)`` confidences and ``(b,)`` classes of each block."""
        step = max(1, SCORED_VALUES // self._count)
        for start, block in self._rows.batches():
            for offset in range(0, len(block), step):
                batch = block[offset : offset + step]
                first = start + offset
                part = slice(first, first + len(batch))
                logs = np.log(self._of_neighbours(self._nearest[part]))
                if self._model is not None:
                    modelled = self._model.log_probabilities(l2_normalize(batch).astype(np.float64), self._folds[part])
                    logs = 0.5 * (logs + np.maximum(modelled, np.log(FLOOR)))
                yield first, np.exp(logs), self._classes[part]

    def _of_neighbours(self, nearest: IntArray) -> Float64Array:
        """``(b, c)``: the share of neighbours in each class, and the classes' own shares as one more neighbour."""
        counts = np.tile(self._prior, (len(nearest), 1))
        theirs = self._classes[nearest]
        at, place = np.nonzero(theirs >= 0)
        np.add.at(counts, (at, theirs[at, place]), 1.0)
        return _shares(counts)


def _shares(confidence: Float64Array) -> Float64Array:
    return np.asarray(confidence / confidence.sum(axis=1, keepdims=True), np.float64)


def _folds(classes: IntArray) -> IntArray:
    """The fold of each row: those of a class are dealt out in turn, in an order that does not depend on their place."""
    order = np.random.default_rng(0).permutation(len(classes))
    ranked = order[np.argsort(classes[order], kind="stable")]
    folds = np.empty(len(classes), np.int64)
    starts = np.searchsorted(classes[ranked], classes[ranked], "left")
    folds[ranked] = (np.arange(len(classes)) - starts) % FOLDS
    return folds


def model_bytes(n: int, dim: int, classes: int) -> int:
    """Bytes that the model of ``n`` rows of ``dim`` columns takes while it is fitted."""
    # Of each fold the sums of the classes and their weights, and as much again while those of a fold are found.
    squares, moments = 8 * dim**2, 8 * 3 * FOLDS * dim * classes
    # The squares of each fold, and three more: their sum, what is within classes, and a copy that is solved. While they
    # are added up it is the product of one fold.
    return FOLDS * squares + moments + max(3 * squares, squares + _block_bytes(n, dim))


def scoring_bytes(n: int, dim: int, classes: int) -> int:
    """Bytes that scoring ``n`` rows takes beside their neighbours, with the model where there is one."""
    values = min(n * classes, max(SCORED_VALUES, classes))
    weights = 8 * FOLDS * dim * classes if classes <= MOST_CLASSES else 0
    return PER_SCORED_VALUE * values + weights + _block_bytes(n, dim)


def _block_bytes(n: int, dim: int) -> int:
    """Of a block of rows."""
    # As it is stored, of length 1, and in float64, of which the rows of a fold are copied twice.
    return min(n, block_rows(dim)) * dim * (4 + 4 + 8 - (-2 * 8 // FOLDS))


def _moments(
    rows: Rows, classes: IntArray, folds: IntArray, count: int
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Of each fold the ``(f, c, d)`` sums of each class, the ``(f, c)`` counts and the ``(f, d, d)`` squares."""
    dim = rows.dim
    sums, counts = np.zeros((FOLDS, count, dim)), np.zeros((FOLDS, count))
    second = np.zeros((FOLDS, dim, dim))
    for first, block in rows.batches():
        batch = l2_normalize(block).astype(np.float64)
        labels, own = classes[first : first + len(block)], folds[first : first + len(block)]
        for fold in range(FOLDS):
            mine = (own == fold) & (labels >= 0)
            second[fold] += batch[mine].T @ batch[mine]
            np.add.at(sums[fold], labels[mine], batch[mine])
            counts[fold] += np.bincount(labels[mine], minlength=count)
        del batch, block  # Else they lie beside the next ones.
    return sums, counts, second


def _fit(rows: Rows, classes: IntArray, folds: IntArray, count: int) -> _Model:
    """Sum the moments of each fold in one pass, then solve for the classes' weights without each."""
    dim = rows.dim
    sums, counts, second = _moments(rows, classes, folds, count)
    weights, bias = np.zeros((FOLDS, dim, count)), np.full((FOLDS, count), np.log(FLOOR))
    for fold in range(FOLDS):
        total, number = sums.sum(axis=0) - sums[fold], counts.sum(axis=0) - counts[fold]
        there = number > 0
        if not there.any():
            continue
        means = total[there] / number[there, None]
        within = second.sum(axis=0) - second[fold] - (means * number[there, None]).T @ means
        within /= max(number.sum() - np.count_nonzero(there), 1.0)
        within.flat[:: dim + 1] += SHRINKAGE * max(np.trace(within) / dim, FLOOR)
        weights[fold][:, there] = np.linalg.solve(within, means.T)
        bias[fold][there] = np.log(number[there] / number.sum()) - 0.5 * np.einsum(
            "cd,dc->c", means, weights[fold][:, there]
        )
        bias[fold][~there] = bias[fold][there].min() - 1e6
    return _Model(weights, bias)

"""Exact principal component analysis in one pass over the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigh
from scipy.linalg.blas import dsyrk
from shoal.errors import InvalidRequest

from clusterer.rows import BATCH_ROWS, Float64Array, Rows

NO_VARIANCE = 1e-12
"""Share of the largest variance below which a component is rounding noise of the float32 rows."""


@dataclass(frozen=True)
class Moments:
    """First and second moments of a set of rows.

    Attributes
    ----------
    n
        Number of rows.
    mean
        ``(d,) float64``.
    covariance
        ``(d, d) float64``, unbiased (divided by ``n - 1``).
    """

    n: int
    mean: Float64Array
    covariance: Float64Array


@dataclass(frozen=True)
class Pca:
    """A fitted projection on principal components.

    Attributes
    ----------
    mean
        ``(d,) float64``, subtracted first.
    components
        ``(c, d) float64``, orthonormal rows, by falling variance. The entry of largest magnitude of each row is
        positive, so that two fits of the same data agree in sign.
    explained_variance
        ``(c,) float64``, unbiased variance along each component.
    total_variance
        Variance of all ``d`` directions together.
    whiten
        Whether the projections are divided by their standard deviation.
    """

    mean: Float64Array
    components: Float64Array
    explained_variance: Float64Array
    total_variance: float
    whiten: bool

    @property
    def dim(self) -> int:
        """Number of components."""
        return int(self.components.shape[0])

    @property
    def explained_variance_ratio(self) -> Float64Array:
        """``(c,) float64``: the share of the total variance that each component explains."""
        return self.explained_variance / (self.total_variance or 1.0)

    @property
    def scale(self) -> Float64Array:
        """``(c,) float64``: what each projection is multiplied by.

        1 without whitening. A component without variance to speak of gets 0: dividing by its rounding noise would make
        that noise as important as everything else.
        """
        if not self.whiten:
            return np.ones(self.dim)
        floor = self.explained_variance[0] * NO_VARIANCE if self.dim else 0.0
        alive = self.explained_variance > floor
        return np.where(alive, 1.0 / np.sqrt(np.where(alive, self.explained_variance, 1.0)), 0.0)

    def truncate(self, components: int) -> Pca:
        """The same projection on its first ``components`` components only."""
        return Pca(
            self.mean,
            self.components[:components],
            self.explained_variance[:components],
            self.total_variance,
            self.whiten,
        )


def accumulate_moments(
    rows: Rows, *, batch_rows: int = BATCH_ROWS, on_rows: Callable[[int], None] | None = None
) -> Moments:
    """Mean and covariance of all rows in one pass.

    Sums are kept in float64 and taken about the mean of the first block, not about zero: the difference of two large
    and nearly equal numbers that the textbook formula ends with then never arises [1]_.

    Parameters
    ----------
    rows
        ``(n, d)`` with ``n >= 2``.
    on_rows
        Called after each block with the number of rows read so far.

    References
    ----------
    .. [1] Chan, Golub, LeVeque: Algorithms for computing the sample variance. The American Statistician 37 (1983).
    """
    d = rows.dim
    shift: Float64Array | None = None
    total = np.zeros(d)
    second = np.zeros((d, d), order="F")
    room = np.empty((min(batch_rows, rows.n), d))
    for first, batch in rows.batches(batch_rows):
        if shift is None:
            shift = batch.mean(axis=0, dtype=np.float64)
        block = np.subtract(batch, shift, out=room[: len(batch)])
        total += block.sum(axis=0)
        second = dsyrk(1.0, block.T, beta=1.0, c=second, overwrite_c=True)
        if on_rows is not None:
            on_rows(first + len(batch))
    offset = total / rows.n
    upper = np.triu(second - rows.n * np.outer(offset, offset)) / (rows.n - 1)
    covariance = upper + np.triu(upper, 1).T
    return Moments(rows.n, (offset if shift is None else shift + offset), covariance)


def fit_pca(moments: Moments, components: int | None = None, *, whiten: bool = False) -> Pca:
    """Principal components from the moments of the rows.

    Parameters
    ----------
    moments
        Of ``n`` rows of ``d`` columns.
    components
        How many to keep; all ``min(n, d)`` by default.
    whiten
        Divide each projection by its standard deviation.

    Raises
    ------
    InvalidRequest
        More components are asked for than the data can have.
    """
    d = len(moments.mean)
    most = min(moments.n, d)
    wanted = most if components is None else components
    if not 1 <= wanted <= most:
        raise InvalidRequest(
            f"`pca.components` is {wanted}, but {moments.n} rows of {d} dimensions have at most {most} components: "
            f"ask for 1 to {most}.",
            field="pca.components",
            limit=most,
        )
    # All pairs at once are found faster by divide and conquer, which cannot find some of them only.
    some: dict[str, Any] = (
        {"driver": "evr", "subset_by_index": (d - wanted, d - 1)} if wanted < d else {"driver": "evd"}
    )
    values, vectors = eigh(moments.covariance, **some)
    directions = vectors.T[::-1]
    strongest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    return Pca(
        mean=moments.mean,
        components=np.ascontiguousarray(directions * np.where(strongest < 0, -1.0, 1.0)),
        explained_variance=np.ascontiguousarray(np.maximum(values[::-1], 0.0)),
        total_variance=float(np.trace(moments.covariance)),
        whiten=whiten,
    )

"""Exact principal component analysis from the first and second moments of the rows, taken in one pass."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.linalg.blas import dsyrk
from shoal.errors import InvalidRequest
from shoal.host import available_cores

from clusterer.data.partitions import ExactSum, OnRows, Partition, partitions_of
from clusterer.data.rows import Float32Array, Float64Array, Rows
from clusterer.native.library import KernelUnavailable, i64, load_library, narrower_than_blas, rows_at

SOME = 256
"""Rows whose mean the sums are taken about, and rows of a covariance that are processed at once."""
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


class Sums(Protocol):
    """Sums of rows, and of their outer products, about a fixed point."""

    total: Float64Array
    """``(d,) float64``."""

    def add(self, batch: Float32Array) -> None:
        """Add ``(b, d) float32`` rows."""
        ...

    def second(self) -> Float64Array:
        """Sum of the outer products, ``(d, d) float64``, for the caller to overwrite; undefined above the diagonal."""
        ...


class BlasSums:
    """By a symmetric product of BLAS, which needs a float64 copy of each block."""

    def __init__(self, shift: Float64Array) -> None:
        self.total = np.zeros(len(shift))
        self._shift = shift
        self._second = np.zeros((len(shift), len(shift)), order="F")
        self._buffer = np.empty((0, len(shift)))

    def add(self, batch: Float32Array) -> None:
        if len(self._buffer) < len(batch):
            self._buffer = np.empty(batch.shape)
        block = np.subtract(batch, self._shift, out=self._buffer[: len(batch)])
        self.total += block.sum(axis=0)
        self._second = dsyrk(1.0, block.T, beta=1.0, c=self._second, overwrite_c=True)

    def second(self) -> Float64Array:
        return self._second.T


class _Moments(ctypes.Structure):
    _fields_ = (("d", ctypes.c_int64), *((name, ctypes.c_void_p) for name in ("shift", "sums", "second")))


class KernelSums:
    """By the compiled kernel, which converts rows to float64 in the cache; see ``native/src/moments.h``."""

    def __init__(self, library: ctypes.CDLL, shift: Float64Array, threads: int) -> None:
        d = len(shift)
        library.shoal_moments_width.restype = ctypes.c_int64
        width = library.shoal_moments_width(i64(d))
        self.total = np.zeros(d)
        self._library, self._threads, self._shift = library, threads, shift
        self._second = np.zeros((width, width))
        self._structure = _Moments(d, *(a.ctypes.data for a in (shift, self.total, self._second)))

    def add(self, batch: Float32Array) -> None:
        self._library.shoal_moments_add(*rows_at(batch), i64(len(batch)), ctypes.byref(self._structure), self._threads)

    def second(self) -> Float64Array:
        d = len(self.total)
        return self._second[:d, :d]


def open_sums(shift: Float64Array) -> Sums:
    """The faster kind of sums for this processor, empty.

    Parameters
    ----------
    shift
        ``(d,) float64``: the point about which they are taken.
    """
    try:
        variant, library = load_library()
    except KernelUnavailable:
        return BlasSums(shift)
    return BlasSums(shift) if narrower_than_blas(variant) else KernelSums(library, shift, available_cores())


@dataclass(frozen=True)
class MomentsStep:
    """The sums of the rows of a partition, and of their outer products, about a point.

    Attributes
    ----------
    shift
        ``(d,) float64``: the point.
    batch_rows, sums_about
        As of `accumulate_moments`.
    """

    shift: Float64Array
    batch_rows: int | None = None
    sums_about: Callable[[Float64Array], Sums] = open_sums

    def __call__(self, partition: Partition, on_rows: OnRows) -> tuple[ExactSum, ExactSum]:
        d = len(self.shift)
        first, second = ExactSum((d,)), ExactSum((d, d))
        for chunk in partition.chunks():
            sums = self.sums_about(self.shift)
            for _, batch in partition.batches(chunk, on_rows, batch_rows=self.batch_rows):
                sums.add(np.ascontiguousarray(batch))
            first.add(sums.total)
            second.add(sums.second())
        return first, second


def accumulate_moments(
    rows: Rows,
    *,
    batch_rows: int | None = None,
    on_rows: OnRows | None = None,
    sums_about: Callable[[Float64Array], Sums] = open_sums,
) -> Moments:
    """Mean and covariance of all rows in one pass.

    Sums are kept in float64 and taken about the mean of some rows instead of about zero, which avoids the cancellation
    of the textbook formula [1]_.

    Parameters
    ----------
    rows
        ``(n, d)`` with ``n >= 2``.
    on_rows
        Called after each block with the number of rows read so far.
    sums_about
        Makes the sums about a point.

    References
    ----------
    .. [1] Chan, Golub, LeVeque: Algorithms for computing the sample variance. The American Statistician 37 (1983).
    """
    if not rows.n:
        raise ValueError("there are no rows")
    shift = rows.take(np.arange(min(SOME, rows.n))).mean(axis=0, dtype=np.float64)
    found = partitions_of(rows).run(MomentsStep(shift, batch_rows, sums_about), on_rows=on_rows)
    offset = ExactSum.of([first for first, _ in found]).value() / rows.n
    covariance = ExactSum.of([second for _, second in found]).value()
    del found
    return Moments(rows.n, shift + offset, _covariance(covariance, offset, rows.n))


def _covariance(second: Float64Array, offset: Float64Array, n: int) -> Float64Array:
    """The covariance, in place and a few rows at a time: temporary matrices would take longer than the arithmetic."""
    d = len(offset)
    for first in range(0, d, SOME):
        part, before = slice(first, min(first + SOME, d)), slice(0, first)
        second[part] -= np.multiply.outer(n * offset[part], offset)
        second[part] /= n - 1
        lower = np.tril(second[part, part])
        second[part, part] = lower + np.tril(lower, -1).T
        second[before, part] = second[part, before].T
    return second


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

        1 without whitening. A component with negligible variance gets 0: dividing by its rounding noise would amplify
        that noise to unit variance.
        """
        if not self.whiten:
            return np.ones(self.dim)
        floor = self.explained_variance[0] * NO_VARIANCE if self.dim else 0.0
        alive = self.explained_variance > floor
        return np.where(alive, 1.0 / np.sqrt(np.where(alive, self.explained_variance, 1.0)), 0.0)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Pca:
        """The inverse of `arrays`."""
        mean, components, variance = (arrays[name] for name in ("mean", "components", "explained_variance"))
        return cls(mean, components, variance, float(arrays["total_variance"]), bool(arrays["whiten"]))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as named arrays."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    def truncate(self, components: int) -> Pca:
        """The same projection on its first ``components`` components only."""
        return Pca(
            self.mean,
            self.components[:components],
            self.explained_variance[:components],
            self.total_variance,
            self.whiten,
        )


def fit_pca(moments: Moments, components: int | None = None, *, whiten: bool = False, overwrite: bool = False) -> Pca:
    """Principal components from the moments of the rows.

    Parameters
    ----------
    moments
        Of ``n`` rows of ``d`` columns.
    components
        How many to keep; all ``min(n, d)`` by default.
    whiten
        Divide each projection by its standard deviation.
    overwrite
        Whether the covariance may be overwritten, which saves a copy.

    Raises
    ------
    InvalidRequest
        More components are requested than the data have.
    """
    d = len(moments.mean)
    most = min(moments.n, d)
    count = most if components is None else components
    if not 1 <= count <= most:
        raise InvalidRequest(
            f"`pca.components` is {count}, but {moments.n} rows of {d} dimensions have at most {most} components: "
            f"set it to 1 to {most}.",
            field="pca.components",
            limit=most,
        )
    # Divide and conquer is faster for all eigenpairs, but cannot compute a subset.
    some: dict[str, Any] = {"driver": "evr", "subset_by_index": (d - count, d - 1)} if count < d else {"driver": "evd"}
    total_variance = float(np.trace(moments.covariance))
    symmetric = moments.covariance.T  # LAPACK takes columns, and overwrites them
    columns = np.asarray(symmetric, order="F") if overwrite else np.array(symmetric, order="F")
    values, vectors = eigh(columns, overwrite_a=True, check_finite=False, **some)
    del columns, symmetric
    components_ = np.ascontiguousarray(vectors.T[::-1])
    del vectors
    for direction in components_:
        if direction[np.abs(direction).argmax()] < 0:
            np.negative(direction, out=direction)
    return Pca(
        mean=moments.mean,
        components=components_,
        explained_variance=np.ascontiguousarray(np.maximum(values[::-1], 0.0)),
        total_variance=total_variance,
        whiten=whiten,
    )

"""Exact principal component analysis from the moments of the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from shoal.errors import InvalidRequest

from clusterer.data.moments import Moments
from clusterer.data.rows import Float64Array

NO_VARIANCE = 1e-12
"""Share of the largest variance below which a component is rounding noise of the float32 rows."""


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
        Whether the covariance may be written over, which spares a copy of it.

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
    total_variance = float(np.trace(moments.covariance))
    symmetric = moments.covariance.T  # LAPACK wants columns, and writes over them
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

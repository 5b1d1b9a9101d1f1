"""The transform from stored embeddings to the space of the centroids.

It is fitted on the train set, stored beside the centroids, and applied unchanged to every set that is assigned later:
rows in one space compared with centroids in another give results at chance level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from shoal.errors import DimensionMismatch

from clusterer.data.rows import Float32Array, Float64Array, MappedRows, Rows, l2_normalize

if TYPE_CHECKING:
    from clusterer.data.pca import Pca


TILE_ROWS, TILE_PRODUCTS = 64, 2**20
"""Fewest rows, and fewest multiplications, of a product with a projection."""


@dataclass(frozen=True)
class Transform:
    """Normalisation, then projection, then unit length; each is optional.

    Attributes
    ----------
    dim_in
        Columns of the embeddings.
    normalize
        Whether rows are scaled to unit L2 norm first.
    mean, components, scale
        ``(d,)``, ``(c, d)`` and ``(c,) float64`` of the projection, or None: see `clusterer.data.pca.Pca`.
    unit
        Whether projected rows are scaled to unit L2 norm, for spherical k-means.
    widths
        Columns of each feature space where rows hold several beside each other: each is normalised by itself.
    """

    dim_in: int
    normalize: bool
    mean: Float64Array | None = None
    components: Float64Array | None = None
    scale: Float64Array | None = None
    unit: bool = False
    widths: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, dim_in: int, *, normalize: bool, pca: Pca | None, unit: bool = False, widths: tuple[int, ...] = ()
    ) -> Transform:
        """The transform of a fitted (or absent) projection; of one feature space, ``widths`` are left out."""
        widths = widths if len(widths) > 1 else ()
        if pca is None:
            return cls(dim_in, normalize, unit=unit, widths=widths)
        return cls(dim_in, normalize, pca.mean, pca.components, pca.scale, unit, widths)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Transform:
        """The inverse of `arrays`."""
        projection = {
            name: np.asarray(arrays[name], dtype=np.float64)
            for name in ("mean", "components", "scale")
            if name in arrays
        }
        unit = bool(arrays.get("unit", False))
        widths = tuple(int(each) for each in arrays.get("widths", ()))
        return cls(int(arrays["dim_in"]), bool(arrays["normalize"]), unit=unit, widths=widths, **projection)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays, for ``transform.npz``."""
        named: dict[str, NDArray[np.generic]] = {
            "dim_in": np.asarray(self.dim_in),
            "normalize": np.asarray(self.normalize),
        }
        for name in ("mean", "components", "scale"):
            value = getattr(self, name)
            if value is not None:
                named[name] = value
        if self.unit:
            named["unit"] = np.asarray(True)
        if self.widths:
            named["widths"] = np.asarray(self.widths, np.int64)
        return named

    @property
    def dim_out(self) -> int:
        """Columns after the transform."""
        return self.dim_in if self.components is None else int(self.components.shape[0])

    def __call__(self, batch: Float32Array) -> Float32Array:
        """Transform ``(b, dim_in) float32`` to ``(b, dim_out) float32``."""
        if self.normalize:
            batch = normalize_spaces(batch, self.widths)
        if self._projection is not None:
            batch = project(batch, *self._projection)
        return l2_normalize(batch) if self.unit else batch

    @cached_property
    def largest_value(self) -> float:
        """A row whose values are all at most this far from 0 has a finite result; others may have one."""
        if self._projection is None:
            return math.inf
        mean, matrix = self._projection
        # A sum of products, in whatever order, is at most the largest value times the sum of the weights; 4 is ample
        # for rounding.
        heaviest = max(1.0, float(np.abs(matrix).sum(axis=0, dtype=np.float64).max()))
        largest = float(np.finfo(np.float32).max) / (4 * heaviest) - float(np.abs(mean).max())
        # Values of normalised rows are at most 1.
        return (math.inf if largest >= 1 else 0.0) if self.normalize else largest

    def view(self, rows: Rows, name: str = "the rows") -> Rows:
        """A view of ``rows`` under this transform, applied block by block when they are read.

        Raises
        ------
        DimensionMismatch
            The number of columns is not that of the set that the transform was fitted on.
        """
        if rows.dim != self.dim_in:
            raise DimensionMismatch(
                f"{name} has {rows.dim} dimensions, but the centroids were fitted on embeddings of {self.dim_in}. "
                "Use embeddings of the same model.",
                expected=self.dim_in,
                got=rows.dim,
            )
        if not (self.normalize or self.unit) and self.components is None:
            return rows
        return MappedRows(rows, self, self.dim_out)

    @cached_property
    def _projection(self) -> tuple[Float32Array, Float32Array] | None:
        if self.mean is None or self.components is None or self.scale is None:
            return None
        matrix = (self.components * self.scale[:, None]).T
        return self.mean.astype(np.float32), np.ascontiguousarray(matrix, dtype=np.float32)


def normalize_spaces(batch: Float32Array, widths: tuple[int, ...]) -> Float32Array:
    """Scale each feature space of ``(b, d) float32`` rows to unit L2 norm; the whole rows without ``widths``."""
    if not widths:
        return l2_normalize(batch)
    borders = np.cumsum(widths)[:-1]
    return np.concatenate([l2_normalize(part) for part in np.split(batch, borders, axis=1)], axis=1)


def project(batch: Float32Array, mean: Float32Array, matrix: Float32Array) -> Float32Array:
    """``(batch - mean) @ matrix``, the same bits for a row whatever rows are beside it.

    BLAS adds in another order for few rows, and for those that do not fill its last tile: the last rows are multiplied
    in a tile of zeros. So a new row gets the distances that it has in a job.
    """
    tile = max(TILE_ROWS, -(-TILE_PRODUCTS // matrix.size // TILE_ROWS) * TILE_ROWS)
    whole = len(batch) // tile * tile
    projected = np.empty((len(batch), matrix.shape[1]), dtype=np.float32)
    if whole:
        np.matmul(batch[:whole] - mean, matrix, out=projected[:whole])
    if whole < len(batch):
        last = np.zeros((tile, len(mean)), dtype=np.float32)
        np.subtract(batch[whole:], mean, out=last[: len(batch) - whole])
        projected[whole:] = (last @ matrix)[: len(batch) - whole]
    return projected

"""What the points of a sweep share: one PCA for all truncations, and the projected rows of every set in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from clusterer.pca import Pca, accumulate_moments, fit_pca
from clusterer.rows import ArrayRows, Float32Array, MappedRows, Rows, in_memory, l2_normalize
from clusterer.transform import Transform

OnRows = Callable[[int], None]


@dataclass(frozen=True)
class Space:
    """The embeddings of some sets under one normalisation, projected on the most components that a point asks for.

    Attributes
    ----------
    pca
        Fitted on the train set alone, not whitened; None when no point asks for a projection.
    projected
        By embeddings id: ``(n, c) float32``.
    """

    pca: Pca | None
    projected: Mapping[str, Float32Array]

    @classmethod
    def fit(
        cls, sets: Mapping[str, Rows], train: str, *, normalize: bool, components: int | None, on_rows: OnRows
    ) -> Space:
        """Read the train set twice, once for the PCA and once to project it, and every other set once.

        Parameters
        ----------
        sets
            By embeddings id; ``train`` is one of them.
        components
            The most that any point asks for; None without projection.
        """
        if components is None:
            return cls(None, {})
        rows = MappedRows(sets[train], l2_normalize, sets[train].dim) if normalize else sets[train]
        pca = fit_pca(accumulate_moments(rows, on_rows=on_rows), components)
        return cls(pca, load(sets, Transform.of(sets[train].dim, normalize=normalize, pca=pca), on_rows))

    def truncated(self, components: int, *, whiten: bool) -> dict[str, ArrayRows]:
        """Every set on its first ``components`` components, as a PCA of so many would give it."""
        if self.pca is None:
            raise ValueError("the space has no projection")
        kept = self.pca.truncate(components)
        scale = Pca(kept.mean, kept.components, kept.explained_variance, kept.total_variance, whiten).scale
        found = {}
        for name, whole in self.projected.items():
            part = np.ascontiguousarray(whole[:, :components])
            if whiten:
                part = part * scale.astype(np.float32)
            found[name] = ArrayRows(part)
        return found


def load(sets: Mapping[str, Rows], transform: Transform, on_rows: OnRows) -> dict[str, Float32Array]:
    """Every set through ``transform``, in memory."""
    return {
        name: in_memory(transform.view(rows, f"embeddings {name!r}"), on_rows=on_rows).array
        for name, rows in sets.items()
    }

"""What the points of a sweep share: one PCA for all truncations, and the projected rows of every set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from clusterer.data.pca import Pca, accumulate_moments, fit_pca
from clusterer.data.rows import ArrayRows, Float32Array, MappedRows, Rows, l2_normalize
from clusterer.data.transform import Transform
from clusterer.jobs.workspace import Workspace

OnRows = Callable[[int], None]


@dataclass(frozen=True)
class Shelf:
    """Where rows are held.

    Attributes
    ----------
    work
        The sweep's working folder.
    memory
        Whether the memory suffices; otherwise rows lie in files of the folder.
    """

    work: Workspace
    memory: bool

    def fit(self, train: Rows, tag: str, *, normalize: bool, components: int, on_rows: OnRows) -> Pca:
        """The PCA of the train set in one read, which the next attempt finds again under the same ``tag``.

        Parameters
        ----------
        components
            The most that any point asks for.
        """
        name = f"pca-{_digest(tag)}"
        found = self.work.pca(name)
        if found is None:
            rows = MappedRows(train, l2_normalize, train.dim) if normalize else train
            found = fit_pca(accumulate_moments(rows, on_rows=on_rows), components)
            self.work.keep_pca(name, found)
        return found

    @contextmanager
    def hold(self, views: Mapping[str, Rows], tag: str, on_rows: OnRows) -> Iterator[dict[str, ArrayRows]]:
        """Every set of ``views``, computed once, until the block ends.

        Parameters
        ----------
        tag
            Tells views of the same sets apart, those through the PCA of another train set too: an attempt that dies
            leaves its files behind, and the next one must not take them for others.
        """
        names = {each: f"rows-{_digest(tag, each)}" for each in views}
        try:
            yield {
                each: self.work.hold(names[each], rows, memory=self.memory, on_rows=on_rows)
                for each, rows in views.items()
            }
        finally:
            for name in names.values():
                self.work.release(name)


@dataclass(frozen=True)
class Space:
    """The embeddings of some sets under one normalisation, projected on the most components that a point asks for.

    Attributes
    ----------
    pca
        Fitted on the train set alone, not whitened.
    projected
        By embeddings id: ``(n, c)`` rows.
    """

    pca: Pca
    projected: Mapping[str, ArrayRows]

    def truncated(self, components: int, *, whiten: bool) -> dict[str, Rows]:
        """Every set on its first ``components`` components, as a PCA of so many would give it."""
        kept = self.pca.truncate(components)
        scale = Pca(kept.mean, kept.components, kept.explained_variance, kept.total_variance, whiten).scale
        cut = partial(_cut, scale=scale.astype(np.float32) if whiten else None, components=components)
        return {name: MappedRows(whole, cut, components) for name, whole in self.projected.items()}


def views_of(sets: Mapping[str, Rows], transform: Transform) -> dict[str, Rows]:
    """Every set through ``transform``."""
    return {name: transform.view(rows, f"embeddings {name!r}") for name, rows in sets.items()}


def _cut(batch: Float32Array, *, components: int, scale: Float32Array | None) -> Float32Array:
    part = np.ascontiguousarray(batch[:, :components])
    return part if scale is None else part * scale


def _digest(*names: str) -> str:
    """A short name of a file for names that together are too long for one."""
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:32]

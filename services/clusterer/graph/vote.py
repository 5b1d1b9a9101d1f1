"""Groups of further rows, by the train rows nearest to each; nothing is fitted on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from shoal.schemas.graph import NOISE

from clusterer.data.partitions import OnRows, Partition
from clusterer.data.rows import Float32Array, Float64Array, IntArray, LabelArray
from clusterer.graph.near import RESOLVED, Among, Near
from clusterer.kmeans.assigned import Assigned
from clusterer.kmeans.engine import squared_distances

AT_ONCE: Final = 2048
"""Rows whose votes are counted together."""


@dataclass(frozen=True)
class Voters:
    """The train rows that give other rows their group; of equal ones the first.

    Attributes
    ----------
    method
        `leiden` or `hdbscan`.
    k
        The nearest rows that vote.
    labels
        ``(m,) int32``: the group of each, or `NOISE`.
    groups
        How many groups there are.
    firsts
        ``(m,) int64``: their numbers in the train set; None where no two rows are equal.
    samples
        The nearest rows within which a row is dense, itself counted; 0 where density does not matter.
    core
        ``(m,) float32``: their core distances; None where density does not matter.
    reach
        ``(groups,) float32``: how near a row must be to be in a group; None where density does not matter.
    """

    method: str
    k: int
    labels: LabelArray
    groups: int
    firsts: IntArray | None = None
    samples: int = 0
    core: Float32Array | None = None
    reach: Float32Array | None = None

    @property
    def noisy(self) -> bool:
        """Whether rows may be noise."""
        return self.reach is not None

    @property
    def bytes(self) -> int:
        """Bytes of memory."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays, for ``graph.npz``."""
        names = ("method", "k", "groups", "samples")
        named: dict[str, NDArray[np.generic]] = {name: np.asarray(getattr(self, name)) for name in names}
        kept = {name: getattr(self, name) for name in ("labels", "firsts", "core", "reach")}
        return {**named, **{name: each for name, each in kept.items() if each is not None}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Voters:
        """The inverse of `arrays`.

        Raises
        ------
        KeyError
            An array is missing.
        """
        firsts, core, reach = (arrays.get(name) for name in ("firsts", "core", "reach"))
        return cls(
            method=str(arrays["method"]),
            k=int(arrays["k"]),
            labels=np.asarray(arrays["labels"], np.int32),
            groups=int(arrays["groups"]),
            firsts=None if firsts is None else np.asarray(firsts, np.int64),
            samples=int(arrays["samples"]),
            core=None if core is None else np.asarray(core, np.float32),
            reach=None if reach is None else np.asarray(reach, np.float32),
        )

    def elected(self, near: Near) -> tuple[LabelArray, Float32Array]:
        """The group of rows ``(m,)`` with these nearest train rows, or `NOISE`; and by how much it leads.

        A vote counts the more the nearer it is. Where rows may be noise, a neighbour votes only if the row is as near
        to it as rows of its group are to each other. A train row that the row equals decides alone.
        """
        labels, lead = np.empty(len(near.rows), np.int32), np.empty(len(near.rows), np.float32)
        for first in range(0, len(near.rows), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            labels[part], lead[part] = self._elected(Near(near.rows[part], near.distance[part]))
        return labels, lead

    def lead_of(self, near: Near) -> Float32Array:
        """How far votes for the group that each voter has exceed those for another, as a share of all, 0 at least.

        Parameters
        ----------
        near
            The voters' own nearest ones.
        """
        found = np.empty(len(near.rows), np.float32)
        for first in range(0, len(near.rows), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            voted = self.labels[near.rows[part]]
            order = np.argsort(voted, axis=1, kind="stable")
            weights = 1.0 / np.maximum(near.distance[part].astype(np.float64), RESOLVED)
            voted, weights = np.take_along_axis(voted, order, axis=1), np.take_along_axis(weights, order, axis=1)
            sums, mine = _sums(voted, weights), voted == self.labels[part, None]
            own, other = np.where(mine, sums, 0.0).sum(axis=1), np.where(mine, 0.0, sums).max(axis=1)
            found[part] = np.maximum(own - other, 0.0) / weights.sum(axis=1)
        return found

    def _elected(self, near: Near) -> tuple[LabelArray, Float32Array]:
        voted = self.labels[near.rows]
        weights = 1.0 / np.maximum(near.distance.astype(np.float64), RESOLVED)
        equal = near.distance[:, :1] <= 0
        weights[equal[:, 0], 1:] = 0.0
        total = weights.sum(axis=1)
        heard = voted != NOISE
        if self.reach is not None and self.core is not None:
            own = near.distance[:, min(self.samples - 1, near.rows.shape[1]) - 1]
            away = np.maximum(np.maximum(own[:, None], self.core[near.rows]), near.distance)
            heard &= equal | (away <= self.reach[np.maximum(voted, 0)])
        weights[~heard] = 0.0
        # Neighbours of one group lie beside each other, then their votes are added up.
        order = np.argsort(np.where(heard, voted, self.groups), axis=1, kind="stable")
        voted, weights = np.take_along_axis(voted, order, axis=1), np.take_along_axis(weights, order, axis=1)
        sums = _sums(voted, weights)
        best = sums.argmax(axis=1)
        at = np.arange(len(sums))
        most = sums[at, best].copy()
        labels = np.where(most > 0, voted[at, best], NOISE)
        sums[voted == labels[:, None]] = 0.0
        second = np.where(most > 0, sums.max(axis=1), 0.0)
        return labels.astype(np.int32), ((most - second) / total).astype(np.float32)


def _sums(voted: LabelArray, weights: Float64Array) -> Float64Array:
    """``(m, k)``: at the first place of each run of equal values its sum of weights, 0 elsewhere."""
    begins = np.ones(voted.shape, bool)
    begins[:, 1:] = voted[:, 1:] != voted[:, :-1]
    sums = np.zeros(voted.shape)
    starts = np.flatnonzero(begins)
    sums.ravel()[starts] = np.add.reduceat(weights.ravel(), starts)
    return sums


@dataclass(frozen=True)
class GraphTarget:
    """The groups of one seed, ready for rows; immutable, so that many threads may use one.

    Attributes
    ----------
    voters
        Whose neighbours get their groups.
    among
        Finds those nearest to a row.
    centroids
        ``(k, d) float32``: the mean rows of the groups, from which distances are taken.
    """

    voters: Voters
    among: Among
    centroids: Float32Array

    @property
    def bytes(self) -> int:
        """Bytes of memory, about."""
        return self.voters.bytes + self.among.bytes + self.centroids.nbytes

    def assign(self, batch: Float32Array) -> Assigned:
        """The groups of ``(b, d) float32`` rows, in the space of the train rows; `NOISE` for those in none.

        The margin is how much the votes for the group exceed those for the second, as a share of all.
        """
        return measured(batch, *self.voters.elected(self.among.nearest(batch)), self.centroids)


def measured(batch: Float32Array, labels: LabelArray, margin: Float32Array, centroids: Float32Array) -> Assigned:
    """Rows with their groups, and how far they are from their centroids; noise, from the nearest one.

    Noise has no part in the inertia.
    """
    squared = np.empty(len(batch))
    inside = labels != NOISE
    difference = batch[inside] - centroids[labels[inside]]
    squared[inside] = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
    outside = np.flatnonzero(~inside)
    for first in range(0, len(outside), AT_ONCE):
        part = outside[first : first + AT_ONCE]
        squared[part] = squared_distances(batch[part], centroids).min(axis=1)
    return Assigned(labels, np.sqrt(squared).astype(np.float32), margin, float(squared[inside].sum()))


@dataclass(frozen=True)
class GraphStep:
    """Assigns the rows of a partition by the voters of each seed; with the inertia of each block.

    Attributes
    ----------
    voters, centroids
        By seed; see `GraphTarget`.
    among
        All seeds share it.
    """

    voters: Mapping[int, Voters]
    centroids: Mapping[int, Float32Array]
    among: Among
    COLUMNS: ClassVar = ("labels", "distance", "margin")

    def __call__(self, partition: Partition, on_rows: OnRows) -> dict[int, tuple[Assigned, list[float]]]:
        parts: dict[int, list[Assigned]] = {seed: [] for seed in self.voters}
        for chunk in partition.chunks():
            for _, batch in partition.batches(chunk, on_rows):
                near = self.among.nearest(batch)
                for seed, voters in self.voters.items():
                    parts[seed].append(measured(batch, *voters.elected(near), self.centroids[seed]))
        return {seed: (joined(found), [each.inertia for each in found]) for seed, found in parts.items()}


def joined(parts: list[Assigned]) -> Assigned:
    """Blocks of rows as one."""
    columns = {name: np.concatenate([getattr(each, name) for each in parts]) for name in GraphStep.COLUMNS}
    return Assigned(**columns, inertia=math.fsum(each.inertia for each in parts))

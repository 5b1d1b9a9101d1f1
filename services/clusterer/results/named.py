"""The clusters of a clustering as people named, merged and corrected them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from shoal.schemas.graph import NOISE
from shoal.store import Store
from shoal.store.annotations import Annotations
from shoal.store.clustering import Clustering

from clusterer.results.tables import cluster_numbers

NAMED_SCHEMA = pa.schema([("merged_cluster", pa.int32()), ("name", pa.string()), ("flag", pa.string())])
"""Columns beside ``cluster``, which stays the cluster that k-means found: the cluster after moves and merges, and its
name and flag."""
HEADING = re.compile(rb"<h3><span>([0-9]{1,9})</span>")
"""The heading of a cluster in a report."""


@dataclass(frozen=True, eq=False)
class Named:
    """Names, merges and moves of one clustering.

    Attributes
    ----------
    roots
        ``(k,) int32``: the cluster that each one is part of after all merges. Where rows may be noise, -1 follows:
        noise is part of nothing else, and its number, as a place, is the last one.
    names, flags
        ``(k,)`` strings: those of each cluster's root; null for none, and behind them for noise.
    moves
        By embeddings id: rows, ascending, and the clusters that they were moved to.
    """

    roots: NDArray[np.int32]
    names: pa.Array
    flags: pa.Array
    moves: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int32]]]

    @classmethod
    def of(cls, annotations: Annotations, k: int, *, noisy: bool = False) -> Named:
        """The names of a clustering of ``k`` clusters, and of noise."""
        roots = annotations.roots(k)
        names: list[str | None] = [None] * k
        flags: list[str | None] = [None] * k
        for cluster, note in annotations.notes.items():
            names[cluster], flags[cluster] = note.name, note.flag
        moves = {}
        for embeddings_id, rows in annotations.moves.items():
            ordered = sorted(rows)
            clusters = [rows[row] for row in ordered]
            moves[embeddings_id] = np.array(ordered, np.int64), np.array(clusters, np.int32)
        at = pa.array(roots)
        chosen, marks = (pa.array(each, pa.string()).take(at) for each in (names, flags))
        if noisy:
            roots = np.append(roots, np.int32(NOISE))
            chosen, marks = (pa.concat_arrays([each, pa.nulls(1, pa.string())]) for each in (chosen, marks))
        return cls(roots, chosen, marks, moves)

    @property
    def numbers(self) -> NDArray[np.int32]:
        """``(k,) int32``: the numbers of the clusters in their order, -1 behind them where rows may be noise."""
        return cluster_numbers(len(self.roots), noisy=len(self.roots) > 0 and int(self.roots[-1]) == NOISE)

    def slots(self, clusters: NDArray[np.int32]) -> NDArray[np.int32]:
        """The places of clusters in `roots` and `names`."""
        return np.where(clusters == NOISE, np.int32(len(self.roots) - 1), clusters)

    @property
    def spoken(self) -> bool:
        """Whether any cluster has a name, a flag or a merge."""
        k = len(self.roots)
        merged = bool((self.roots != self.numbers).any())
        return merged or self.names.null_count < k or self.flags.null_count < k

    @classmethod
    def read(cls, store: Store, clustering: Clustering) -> Named:
        """The names of a clustering now."""
        return cls.of(store.journal(clustering.id).read(), clustering.k, noisy=clustering.noisy)

    def moved(self, embeddings_id: str, rows: NDArray[np.int64], clusters: NDArray[np.int32]) -> NDArray[np.int32]:
        """``(n,) int32``: the clusters of rows of a set after moves and merges."""
        if embeddings_id in self.moves and len(rows):
            moved, targets = self.moves[embeddings_id]
            place = np.minimum(np.searchsorted(moved, rows), len(moved) - 1)
            clusters = np.where(moved[place] == rows, targets[place], clusters)
        return self.roots[clusters]

    def columns(self, merged: NDArray[np.int32]) -> list[pa.Array]:
        """The columns of `NAMED_SCHEMA` for rows of these merged clusters."""
        at = pa.array(self.slots(merged))
        return [pa.array(merged), self.names.take(at), self.flags.take(at)]

    def of_cluster(self, cluster: int) -> dict[str, int | str | None]:
        """The fields of `NAMED_SCHEMA` for one cluster of k-means."""
        columns = self.columns(self.roots[[cluster]])
        return {name: column[0].as_py() for name, column in zip(NAMED_SCHEMA.names, columns, strict=True)}


def with_names(page: bytes, named: Named) -> bytes:
    """A report with the name, the flag and the merge of each cluster beside its number."""

    def heading(found: re.Match[bytes]) -> bytes:
        cluster = int(found[1])
        if cluster >= len(named.roots):
            return found[0]
        said = named.of_cluster(cluster)
        parts = [] if said["merged_cluster"] == cluster else [f"→ {said['merged_cluster']}"]
        parts += [str(said["name"])] if said["name"] else []
        parts += [f"[{said['flag']}]"] if said["flag"] else []
        return found[0] + "".join(f" <b>{escape(part)}</b>" for part in parts).encode()

    return HEADING.sub(heading, page)

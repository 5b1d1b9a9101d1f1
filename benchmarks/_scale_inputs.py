"""What the cost model of clustering starts from: a problem, nodes, and rates of one core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

GB = 1e9


@dataclass(frozen=True)
class Problem:
    """A clustering.

    Attributes
    ----------
    dim_in, dim
        Columns of the embeddings, and after PCA; they differ only with PCA.
    iterations
        Passes of k-means, over ``fitted`` rows; all ``rows`` are assigned in the end.
    fitted
        Rows of the sample that k-means sees; None for all.
    itemsize
        Bytes of a stored value.
    metrics
        Whether silhouette and the like are computed.
    """

    rows: int
    dim_in: int
    k: int
    iterations: int = 25
    dim: int = 0
    fitted: int | None = None
    itemsize: int = 2
    metrics: bool = True

    @property
    def width(self) -> int:
        """Columns that k-means sees."""
        return self.dim or self.dim_in

    @property
    def projected(self) -> bool:
        """Whether there is a PCA."""
        return self.width != self.dim_in

    @property
    def seen(self) -> int:
        """Rows that k-means sees."""
        return self.rows if self.fitted is None else min(self.fitted, self.rows)


@dataclass(frozen=True)
class Nodes:
    """Machines that are all alike.

    Attributes
    ----------
    count
        How many.
    cores
        Of each, as many threads as its workers use together.
    memory_gb, disk_gb_s, network_gb_s
        Of each; the disk is where embeddings and rows that exceed the memory are read from.
    workers
        On each node; they share its cores evenly.
    distributed
        Whether actors hold the rows; otherwise the job's own process does, and nothing is sent.
    """

    count: int = 1
    cores: int = 2
    memory_gb: float = 16.0
    disk_gb_s: float = 1.0
    network_gb_s: float = 1.25
    workers: int = 1
    distributed: bool = True

    @property
    def all_workers(self) -> int:
        return self.count * self.workers


@dataclass(frozen=True)
class PassRate:
    """Products of rows with centroids a second and core, in a real run, in units of 1e9 multiply-adds.

    A pass that proves its labels without most products counts as if it had computed them all.

    Attributes
    ----------
    first
        Of the pass that sketches the rows.
    early, settled
        Means of passes 2 and 3, and of all later ones.
    search
        Of a search that sketches the rows on the way, as seeding does.
    two_nearest
        Of the final assignment, with distances and margins.
    """

    dim: int
    k: int
    first: float
    early: float
    settled: float
    search: float
    two_nearest: float


@dataclass(frozen=True)
class Rates:
    """What one core of a machine does, measured; bandwidths are of the whole machine.

    Attributes
    ----------
    passes
        At several numbers of columns and clusters.
    efficiency
        Rate of all cores together, relative to that of one core times their number.
    read_gvalues
        Values read from shards in the page cache, checked and converted, a second: 1e9.
    moments_gmac, project_gmac
        Multiply-adds of PCA's moments (``dim²`` a row) and of the projection, a second: 1e9.
    eig_gmac
        ``dim³`` of the eigenvectors of the moments, a second, on all cores: 1e9.
    centroids_gvalues
        Values of centroids prepared for a pass, with their sums read out, a second: 1e9.
    reduce_gvalues
        Values of partial sums added, a second: 1e9.
    draw_grows
        Rows among which a batch of seeds is drawn, a second: 1e9.
    metrics_gvalues, metrics_gmac
        Values of the sums of clusters and products with sampled rows, a second: 1e9.
    write_grows
        Rows of the result written, a second: 1e9.
    call_s
        Round trip of one small call to an actor.
    object_gb_s
        Bytes to an actor on the same machine and back, a second: 1e9.
    """

    passes: tuple[PassRate, ...]
    efficiency: float = 1.0
    read_gvalues: float = 1.0
    moments_gmac: float = 10.0
    project_gmac: float = 50.0
    eig_gmac: float = 1.0
    centroids_gvalues: float = 0.1
    reduce_gvalues: float = 0.5
    draw_grows: float = 0.1
    metrics_gvalues: float = 0.1
    metrics_gmac: float = 10.0
    write_grows: float = 0.005
    call_s: float = 0.001
    object_gb_s: float = 2.0

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Rates:
        """The inverse of `record`."""
        return cls(**{**record, "passes": tuple(PassRate(**each) for each in record["passes"])})

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def of_pass(self, kind: str, dim: int, k: float) -> float:
        """The rate of a kind of pass, interpolated in the logarithms of ``dim`` and ``k``.

        Beyond the sizes that were measured, the rate is that of the nearest one.
        """
        by_dim: dict[int, list[tuple[float, float]]] = {}
        for each in self.passes:
            by_dim.setdefault(each.dim, []).append((math.log(each.k), math.log(getattr(each, kind))))
        along = [(math.log(d), _interpolated(points, math.log(k))) for d, points in by_dim.items()]
        return math.exp(_interpolated(along, math.log(dim))) * GB


def _interpolated(points: Sequence[tuple[float, float]], x: float) -> float:
    """The value at ``x`` of the lines between points, and that of the last point beyond them."""
    ordered = sorted(points)
    if x <= ordered[0][0]:
        return ordered[0][1]
    for (left, below), (right, above) in pairwise(ordered):
        if x <= right:
            return below + (above - below) * (x - left) / (right - left)
    return ordered[-1][1]

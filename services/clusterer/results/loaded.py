"""A clustering in memory, to assign new rows as its job did."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray
from shoal.errors import DimensionMismatch, EmbeddingsNotFound, NotFinite
from shoal.schemas.graph import NOISE
from shoal.store import Store
from shoal.store.clustering import Clustering

from clusterer.data.rows import (
    ArrayRows,
    ChosenRows,
    Float32Array,
    LabelArray,
    Rows,
    StoredRows,
    first_not_finite,
    in_memory,
)
from clusterer.data.transform import Transform
from clusterer.graph import GraphTarget, Voters, among
from clusterer.heads.head import Head, HeadTarget
from clusterer.kmeans.assigned import Assigned, Target
from clusterer.kmeans.engine import Engine, NumpyEngine
from clusterer.kmeans.fast import FastEngine, KernelUnavailable
from clusterer.neighbours import Options
from clusterer.reduce import Fitted, Reduction

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Space:
    """One feature space.

    Attributes
    ----------
    model
        The record of the model whose embeddings were clustered.
    image_transform
        How images became that model's input; None if the embeddings are deleted.
    dim
        Length of an embedding.
    """

    model: Mapping[str, object]
    image_transform: Mapping[str, object] | None
    dim: int


@dataclass(frozen=True)
class LoadedClustering:
    """All that new rows need of a clustering; immutable, so that many threads may use one.

    Attributes
    ----------
    transform, target
        The way into the space of the centroids, and the centroids; with a head the head as well, with groups on the
        graph of nearest rows the rows that vote.
    labels
        ``(k,)`` strings: the label of each cluster, null for none; behind them that of noise, if there is any.
    distances
        ``(n,) float32``: distances of the train set's rows to their centroids, sorted; None if they are not stored,
        which is so if the train set was not scored.
    spaces
        The feature spaces whose vectors make a row, beside each other.
    reduction
        What rows go through between the transform and the centroids; None for nothing.
    noisy
        Whether rows may be noise.
    """

    id: str
    transform: Transform
    target: Target | HeadTarget | GraphTarget
    labels: pa.Array
    distances: Float32Array | None
    spaces: tuple[Space, ...]
    reduction: Reduction | None = None
    noisy: bool = False

    @classmethod
    def load(cls, store: Store, clustering_id: str) -> LoadedClustering:
        """Read a clustering.

        Raises
        ------
        ClusteringNotFound
            No clustering has that id.
        EmbeddingsNotFound
            It places or groups rows by train rows that are deleted.
        StoreCorrupt
            A file is missing or damaged.
        """
        clustering = store.clustering(clustering_id)
        centroids = clustering.centroids()
        transform = Transform.from_arrays(clustering.transform_arrays())
        reduction = stored_reduction(store, clustering, transform)
        target: Target | HeadTarget | GraphTarget
        if clustering.by_head:
            arrays = clustering.head_arrays()
            with clustering.reading(clustering.layout.head):
                target = HeadTarget(Head.from_arrays(arrays), centroids)
        elif clustering.by_graph:
            target = stored_target(store, clustering, transform, reduction)
        else:
            target = Target.of(centroids, exact_engine(), clustering.prices())
        return cls(
            id=clustering.id,
            transform=transform,
            target=target,
            labels=clustering.clusters().column("label").combine_chunks(),
            distances=train_distances(clustering),
            spaces=tuple(spaces_of(store, clustering)),
            reduction=reduction,
            noisy=clustering.noisy,
        )

    @property
    def k(self) -> int:
        """Number of clusters; noise is none."""
        return len(self.labels) - self.noisy

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.transform.dim_in

    @property
    def bytes(self) -> int:
        """Bytes of memory, about."""
        transform = sum(array.nbytes for array in self.transform.arrays().values())
        distances = 0 if self.distances is None else self.distances.nbytes
        # The engine has a sketch of the centroids in two layouts, a quarter of their size each.
        head = 0 if isinstance(self.target, Target) else self.target.bytes - self.target.centroids.nbytes
        centroids = 3 * self.target.centroids.nbytes // 2 + head
        reduction = 0 if self.reduction is None else self.reduction.bytes
        return int(3 * transform // 2 + centroids + self.labels.nbytes + distances + reduction)

    def label_of(self, clusters: LabelArray) -> pa.Array:
        """The labels of some clusters."""
        return self.labels.take(pa.array(np.where(clusters == NOISE, len(self.labels) - 1, clusters)))

    def check_dim(self, dim: int, row: int = 0) -> None:
        """Raise unless a row has as many values as the embeddings that were clustered.

        Raises
        ------
        DimensionMismatch
            The message names the row.
        """
        if dim != self.dim:
            raise DimensionMismatch(
                f"Row {row} has {dim} values, but the embeddings of this clustering have {self.dim} dimensions.",
                row=row,
                expected=self.dim,
                got=dim,
            )

    def check_size(self, rows: Float32Array, first: int = 0) -> None:
        """Raise unless `assign` can take ``(n, dim) float32`` embeddings, which are finite.

        Parameters
        ----------
        first
            Number of the first row, for errors.

        Raises
        ------
        NotFinite
            A row is so large that its projection is not finite.
        """
        if max(rows.max(), -rows.min()) > self.transform.largest_value:
            self._points(rows, first)

    def assign(self, rows: Float32Array, first: int = 0) -> Assigned:
        """The clusters of ``(n, dim) float32`` embeddings, which are finite.

        Parameters
        ----------
        first
            Number of the first row, for errors.

        Raises
        ------
        NotFinite
            As in `check_size`. Compiled engines take finite rows only.
        """
        # Distances between rows near the largest float32 become infinite.
        with np.errstate(over="ignore", invalid="ignore"):
            return self.target.assign(self._points(rows, first))

    def _points(self, rows: Float32Array, first: int) -> Float32Array:
        """The rows in the space of the centroids."""
        with np.errstate(over="ignore", invalid="ignore"):
            points = self.transform(rows)
            at = first_not_finite(points)
        if at is None:
            return points if self.reduction is None else self.reduction(points)
        raise NotFinite(f"Row {first + at} is too large: its projection is not a finite float32.", row=first + at)

    def outlier_distance(self, quantile: float) -> float | None:
        """The smallest distance of a train row that at least this share of them do not exceed; None if not known.

        It is one for all clusters, as k-means measures all by one distance: with one per cluster, small clusters would
        have a distance that few rows decide, and a cluster of one row a distance of 0.
        """
        if self.distances is None or not len(self.distances):
            return None
        return float(self.distances[min(math.ceil(quantile * len(self.distances)), len(self.distances)) - 1])


def stored_reduction(store: Store, clustering: Clustering, transform: Transform) -> Reduction | None:
    """See `LoadedClustering.reduction`. It reads all train rows.

    Raises
    ------
    EmbeddingsNotFound
        They are deleted.
    StoreCorrupt
        The reduction is damaged, or of other rows.
    """
    arrays = clustering.reduction_arrays()
    if arrays is None:
        return None
    rows = stored_train_rows(store, clustering, arrays.get("rows"))
    with clustering.reading(clustering.layout.reduction):
        fitted = Fitted.from_arrays(arrays)
    if fitted.rows != rows.n:
        raise clustering.corrupt(clustering.layout.reduction, f"is not of the {rows.n} rows of its train set")
    return Reduction.of(fitted, in_memory(transform.view(rows)), Options())


def stored_target(
    store: Store, clustering: Clustering, transform: Transform, reduction: Reduction | None
) -> GraphTarget:
    """The train rows that vote for the groups of other rows.

    Raises
    ------
    EmbeddingsNotFound
        They are deleted.
    StoreCorrupt
        The groups are damaged, or of other rows.
    """
    arrays = clustering.graph_arrays()
    with clustering.reading(clustering.layout.graph):
        voters = Voters.from_arrays(arrays)
    places = reduction is not None and reduction.fitted.method == "umap"
    rows: Rows
    if reduction is not None and reduction.fitted.coordinates is not None:
        rows = ArrayRows(reduction.fitted.coordinates)
    else:
        rows = transform.view(stored_train_rows(store, clustering, arrays.get("rows")))
    numbers = np.arange(rows.n, dtype=np.int64) if voters.firsts is None else voters.firsts
    if len(numbers) != len(voters.labels) or (len(numbers) and int(numbers[-1]) >= rows.n):
        raise clustering.corrupt(clustering.layout.graph, f"is not of the {rows.n} rows of its train set")
    distinct = in_memory(rows if voters.firsts is None else ChosenRows(rows, numbers))
    return GraphTarget(voters, among(distinct, voters.k, Options(), places=places), clustering.centroids())


def stored_train_rows(store: Store, clustering: Clustering, chosen: NDArray[np.generic] | None) -> Rows:
    """The rows that a clustering was fitted on, as they are stored.

    Raises
    ------
    EmbeddingsNotFound
        They are deleted.
    """
    train = str(clustering.spec.get("train"))
    try:
        embeddings = store.embeddings(train)
    except EmbeddingsNotFound as error:
        raise EmbeddingsNotFound(
            f"Clustering {clustering.id!r} places new rows by the rows of embeddings {train!r}, which are deleted. "
            "Extract the same images again, or cluster other embeddings.",
            embeddings=train,
        ) from error
    rows: Rows = StoredRows(embeddings, train)
    return rows if chosen is None else ChosenRows(rows, np.asarray(chosen, np.int64))


def spaces_of(store: Store, clustering: Clustering) -> Iterator[Space]:
    """The feature spaces of a clustering, in the order of their columns."""
    spec = clustering.spec
    one = {"train": spec.get("train"), "dim": spec["dim"], "model": spec.get("model", {})}
    for each in spec.get("spaces") or [one]:
        yield Space(each["model"], image_transform(store, each["train"]), int(each["dim"]))


def train_distances(clustering: Clustering) -> Float32Array | None:
    """See `LoadedClustering.distances`."""
    train = clustering.spec.get("train")
    if train not in clustering.scored or "distance" not in clustering.assignments_schema().names:
        return None
    column = clustering.assignments(train, columns=["distance"]).column("distance")
    return np.sort(column.to_numpy().astype(np.float32, copy=False))


def image_transform(store: Store, embeddings_id: str | None) -> Mapping[str, object] | None:
    """See `LoadedClustering.image_transform`."""
    try:
        found = store.embeddings_unchecked(embeddings_id or "")
    except EmbeddingsNotFound:
        return None
    return None if found is None else found.plan.transform


def transform_change(was: Mapping[str, object] | None, now: Mapping[str, object]) -> str | None:
    """How images become a network's input otherwise than they did; None if they do not.

    Either may lack fields: a release that adds one does not write it into the plans that exist.
    """
    for name, value in (was or {}).items():
        if now.get(name, value) != value:
            return f"`{name}` is {now[name]} instead of {value}"
    return None


def exact_engine() -> Engine:
    """The engine that this process searches with; every engine finds the same clusters."""
    try:
        return FastEngine()
    except KernelUnavailable as error:
        _log.warning("new rows are searched by numpy", reason=str(error))
        return NumpyEngine()

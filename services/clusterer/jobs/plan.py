"""What a clustering request comes to: which sets, how many clusters, which seeds. Shared by API and worker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from shoal.deadline import Deadline
from shoal.errors import ClustersInvalid, DimensionMismatch, InvalidRequest, LabelsRequired
from shoal.schemas import DEFAULT_EVALUATION_SEEDS, ClusterRequest
from shoal.store import EmbeddingSet, Store

from clusterer.data.rows import IntArray
from clusterer.evaluation.class_maps import MappedClasses
from clusterer.evaluation.contingency import UNLABELLED
from clusterer.jobs.sets import Sets, how_many_rows, label_column, require_rows
from clusterer.kmeans.lloyd import FitOptions

MOST_TRIED = 200
SEARCHED_ROWS = 10_000
"""The search for the number of clusters looks at a sample of so many rows where there are more."""
MOST_OVER = 1000
MOST_RESTARTS = 16
RESTART_BUDGET = 10_000_000_000
"""Multiply-adds that the restarts of one seed may cost together where the request does not say how many."""
TYPICAL_ITERATIONS = 25


@dataclass(frozen=True)
class Plan:
    """A checked request.

    Attributes
    ----------
    request
        As it was sent.
    train
        The set that everything is fitted on.
    scored
        The sets that are assigned and scored, in the order of the request.
    vocabulary
        The sorted labels of all these sets but those with a class map; classes are positions in it.
    train_classes
        Number of different labels in the train set.
    k
        Number of clusters.
    seeds
        One k-means each.
    search
        The fewest and the most clusters to try where ``k`` is still to be found; ``k`` is the most until then.
    class_maps
        By embeddings id: the classes of a scored set that has others than the train set, and which count as which.
    """

    request: ClusterRequest
    train: EmbeddingSet
    scored: tuple[EmbeddingSet, ...]
    vocabulary: tuple[str, ...]
    train_classes: int
    k: int
    seeds: tuple[int, ...]
    search: tuple[int, int] | None = None
    class_maps: Mapping[str, MappedClasses] = field(default_factory=dict)

    @property
    def restarts(self) -> int:
        """Runs of k-means per seed: as sent, or as many as cost little."""
        options, pca = self.request.kmeans, self.request.pca
        if options.restarts is not None:
            return options.restarts
        most = options.max_points_per_centroid
        rows = self.train.rows if most is None else min(self.train.rows, most * self.k)
        dim = (pca.components if pca else None) or self.train.dim
        return cheap_restarts(rows, dim, self.k, options.iterations)

    @property
    def fit_options(self) -> FitOptions:
        """How k-means runs for each seed."""
        sent = self.request.kmeans
        return FitOptions(
            init=sent.init,
            iterations=sent.iterations,
            restarts=self.restarts,
            algorithm=sent.algorithm,
            spherical=sent.spherical,
            balanced=sent.balanced,
        )

    @property
    def sampled_rows(self) -> int:
        """Rows of the sample that k-means sees; 0 where it sees the whole train set."""
        most = self.request.kmeans.max_points_per_centroid
        wanted = self.train.rows if most is None else most * self.k
        return wanted if wanted < self.train.rows else 0

    def vocabulary_of(self, embeddings_id: str) -> tuple[str, ...]:
        """The labels that the classes of a set are positions in."""
        mapped = self.class_maps.get(embeddings_id)
        return self.vocabulary if mapped is None else mapped.vocabulary

    def classes(self, embeddings: EmbeddingSet) -> IntArray:
        """``(rows,) int64``: the class of each row of a set, or -1."""
        names = pa.array(self.vocabulary_of(embeddings.id), pa.string())
        codes: Any = pc.index_in(label_column(embeddings), value_set=names, skip_nulls=True)
        found: IntArray = codes.fill_null(UNLABELLED).to_numpy().astype(np.int64)
        return found

    def unmapped_rows(self, embeddings: EmbeddingSet) -> int:
        """How many rows have a label that the set's class map does not name."""
        if embeddings.id not in self.class_maps:
            return 0
        column = label_column(embeddings)
        known = int(np.count_nonzero(self.classes(embeddings) != UNLABELLED))
        return len(column) - int(column.null_count) - known


def make_plan(
    store: Store,
    request: ClusterRequest,
    data: Path | None = None,
    *,
    deadline: Deadline | None,
    sets: Sets | None = None,
) -> Plan:
    """Check a request against the store; class maps are read from below ``data``.

    Parameters
    ----------
    deadline
        Of the request; None for no limit.
    sets
        What was read for other requests already.

    Raises
    ------
    EmbeddingsNotFound, EmbeddingsIncomplete
        A set does not exist, or is not finished.
    DimensionMismatch
        A scored set has other dimensions than the train set.
    LabelsRequired
        `over` without labels on the train set.
    ClustersInvalid
        The train set has fewer than two rows, or the number of clusters is below 2 or above that of the rows.
    PathOutsideRoot, PathNotFound, LabelsInvalid
        A class map cannot be read, or names no class of the sets.
    InvalidRequest
        More components or groups are asked for than there can be, or a scored set has no rows.
    """
    sets = sets or Sets(store, data, deadline=deadline)
    train = sets.open(request.train_id)
    scored = tuple(sets.open(embeddings_id) for embeddings_id in dict.fromkeys(request.scored_ids))
    for each in scored:
        _require_same_dim(train, each)
    require_rows(train, scored)
    wanted = {name: asked for name, asked in request.class_maps.items() if asked is not None}
    plain = frozenset[str]().union(*(sets.labels(each.id) for each in (train, *scored) if each.id not in wanted))
    vocabulary = tuple(sorted(plain))
    class_maps = {name: sets.class_map(asked, vocabulary, train.id, name) for name, asked in wanted.items()}
    train_classes = len(sets.labels(train.id))
    search = resolve_search(request, train)
    k = search[1] if search else resolve_clusters(request, train, train_classes)
    require_components(request, train)
    require_levels(request, k)
    return Plan(
        request=request,
        train=train,
        scored=scored,
        vocabulary=vocabulary,
        train_classes=train_classes,
        k=k,
        search=search,
        seeds=resolve_seeds(request, bool(train_classes)),
        class_maps=class_maps,
    )


def resolve_clusters(request: ClusterRequest, train: EmbeddingSet, classes: int) -> int:
    """The number of clusters that a request means for a train set of so many classes.

    Raises
    ------
    LabelsRequired
        `over` without classes.
    ClustersInvalid
        The number is below 2 or above that of the rows.
    """
    rows = train.rows
    if isinstance(request.clusters, int):
        k = request.clusters
        source, remedy = f"`clusters` is {k}", f"ask for 2 to {rows} clusters"
    elif request.over is None or not classes:
        raise LabelsRequired(
            f"`over` counts in classes, but embeddings {train.id!r} have no labels: send `clusters` instead.",
            field="over",
        )
    else:
        k = math.floor(request.over * classes + 0.5)
        named = "1 class" if classes == 1 else f"{classes} classes"
        source = f"`over` {request.over:g} times {named} is {k} cluster{'' if k == 1 else 's'}"
        remedy = f"ask for 2 to {rows} clusters, with `over` {_over_range(rows, classes)}, or send `clusters`"
    if not 2 <= k <= rows:
        raise ClustersInvalid(
            f"{source}, but embeddings {train.id!r} {how_many_rows(train)}: {remedy}.",
            clusters=k,
            rows=rows,
        )
    return k


def resolve_search(request: ClusterRequest, train: EmbeddingSet) -> tuple[int, int] | None:
    """The range to search where the number of clusters is to be found, or None.

    Raises
    ------
    ClustersInvalid
        There are fewer rows than clusters to try, or the search looks at fewer.
    """
    if request.clusters != "auto":
        return None
    low, high = request.clusters_range or default_range(train.rows)
    most = min(train.rows, SEARCHED_ROWS)
    if high > most:
        why = f"embeddings {train.id!r} {how_many_rows(train)}"
        if train.rows > SEARCHED_ROWS:
            why = f"`auto` looks at a sample of {SEARCHED_ROWS} of the {train.rows} rows"
        remedy = f"let it end at {most} or less"
        if low >= most:
            remedy = f"let it begin below {most} and end at {most} or less, or send the number as `clusters`"
        raise ClustersInvalid(
            f"`clusters_range` goes up to {high}, but {why}: {remedy}.",
            field="clusters_range",
            clusters=high,
            rows=train.rows,
            limit=most,
        )
    return low, high


def default_range(rows: int) -> tuple[int, int]:
    """The range that is searched when the request names none."""
    return 2, max(2, min(MOST_TRIED, rows // 10))


def resolve_seeds(request: ClusterRequest, labelled: bool) -> tuple[int, ...]:
    """The seeds: as sent, or three where labels make an evaluation of it, which needs a spread, or else one."""
    if request.seeds is not None:
        return tuple(request.seeds)
    if request.seed is not None:
        return (request.seed,)
    return DEFAULT_EVALUATION_SEEDS if labelled else DEFAULT_EVALUATION_SEEDS[:1]


def cheap_restarts(rows: int, dim: int, k: int, iterations: int) -> int:
    """How many runs of k-means are worth their time: many on few rows, where they are cheap, down to one on many."""
    one = rows * dim * k * min(iterations, TYPICAL_ITERATIONS)
    return max(1, min(MOST_RESTARTS, RESTART_BUDGET // one))


def _over_range(rows: int, classes: int) -> str:
    """Values of `over` that mean 2 to ``rows`` clusters, rounded so that both ends do."""
    least, most = math.ceil(1500 / classes) / 1000, math.floor(1000 * rows / classes) / 1000
    return f"from {least:g} to {min(most, MOST_OVER):g}"


def _require_same_dim(train: EmbeddingSet, scored: EmbeddingSet) -> None:
    if scored.dim != train.dim:
        raise DimensionMismatch(
            f"Embeddings {scored.id!r} have {scored.dim} dimensions, but {train.id!r}, which k-means is fitted on, "
            f"have {train.dim}: score embeddings of the same model.",
            expected=train.dim,
            got=scored.dim,
            embeddings=scored.id,
        )


def require_components(request: ClusterRequest, train: EmbeddingSet) -> None:
    """Refuse more components than the rows and dimensions of ``train`` can have.

    Raises
    ------
    InvalidRequest
        They are too many.
    """
    wanted = request.pca.components if request.pca else None
    limit = min(train.rows, train.dim)
    if wanted is not None and wanted > limit:
        raise InvalidRequest(
            f"`pca.components` is {wanted}, but the {train.rows} rows of {train.dim} dimensions of embeddings "
            f"{train.id!r} have at most {limit} components: ask for 1 to {limit}.",
            field="pca.components",
            limit=limit,
        )


def require_levels(request: ClusterRequest, k: int) -> None:
    """Refuse a hierarchy whose lowest level has not fewer groups than there are clusters.

    Raises
    ------
    InvalidRequest
        It has as many, or more.
    """
    levels = request.kmeans.levels
    if levels is not None and levels[0] >= k:
        remedy = f"start with 2 to {k - 1}" if k > 2 else "leave `kmeans.levels` out"
        raise InvalidRequest(
            f"`kmeans.levels` starts with {levels[0]} groups, but there are {k} clusters to group: {remedy}.",
            field="kmeans.levels",
            clusters=k,
        )

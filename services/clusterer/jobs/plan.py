"""A clustering request checked against the store: sets, number of clusters, seeds. Shared by API and worker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from shoal.deadline import Deadline
from shoal.errors import ClustersInvalid, InvalidRequest, LabelsRequired
from shoal.schemas import DEFAULT_EVALUATION_SEEDS, ClusterRequest, ReduceOptions
from shoal.schemas.cluster import HEAD_METHODS
from shoal.schemas.execution import Execution, on_cluster
from shoal.schemas.graph import GRAPH_METHODS
from shoal.schemas.reduce import TRIED
from shoal.store import EmbeddingSet, Store

from clusterer.evaluation.class_maps import MappedClasses
from clusterer.evaluation.contingency import UNLABELLED, LabelledSet
from clusterer.jobs.aligned import parts_of, widths_of
from clusterer.jobs.sets import EmbeddingSets, how_many_rows, label_column, require_rows, require_same_dim
from clusterer.kmeans.lloyd import FitOptions

MOST_TRIED = 200
SEARCHED_ROWS = 10_000
"""The search for a reduction and the number of clusters uses a sample of this many rows where there are more."""
MOST_OVER = 1000
MOST_EXPECTED = 1000
"""Groups that memory is planned for where their number is found later."""
MOST_RESTARTS = 16
RESTART_BUDGET = 10_000_000_000
"""Multiply-adds that all restarts of one seed may cost where the request sets no number of restarts."""
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
        The sorted labels of all sets without a class map; classes are positions in it.
    train_classes
        Number of different labels in the train set.
    k
        Number of clusters.
    seeds
        k-means runs once with each; HDBSCAN, which has no randomness, with the first alone.
    search
        The fewest and the most clusters to try where ``k`` is not chosen yet; ``k`` is the most until then.
    tried
        The reductions to try, None for none, where none is picked yet; empty otherwise.
    reduce
        What changes the rows before k-means; None for nothing, and until one of ``tried`` is picked.
    class_maps
        By embeddings id: the classes of a scored set whose classes differ from those of the train set.
    found
        By seed: the number of groups that a method found which chooses it itself; empty until then. ``k`` is an
        estimate of the most until then, and the number of the best seed afterwards.
    noisy
        Whether rows may be in none of these groups.
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
    found: Mapping[int, int] = field(default_factory=dict)
    noisy: bool = False
    tried: tuple[ReduceOptions | None, ...] = ()
    reduce: ReduceOptions | None = None

    @property
    def restarts(self) -> int:
        """Runs of k-means per seed: as sent, or the number that `cheap_restarts` gives."""
        options, pca = self.request.kmeans, self.request.pca
        if self.by_head or self.by_graph:
            return 1
        if options.restarts is not None:
            return options.restarts
        most = options.max_points_per_centroid
        rows = self.train.rows if most is None else min(self.train.rows, most * self.k)
        dim = self.reduced_dim or (pca.components if pca else None) or self.train.dim
        return cheap_restarts(rows, dim, self.k, options.iterations)

    @property
    def by_head(self) -> bool:
        """Whether a head clusters the rows."""
        return self.request.method in HEAD_METHODS

    @property
    def by_graph(self) -> bool:
        """Whether groups are found on the graph of nearest rows."""
        return self.request.method in GRAPH_METHODS

    def groups(self, seed: int) -> int:
        """How many groups the rows have with a seed."""
        return self.found.get(seed, self.k)

    def slots(self, seed: int) -> int:
        """How many values the clusters of rows have: those of the groups, and behind them one for noise."""
        return self.groups(seed) + self.noisy

    @property
    def reduced_places(self) -> bool:
        """Whether rows are places, not directions, once they are reduced."""
        return self.reduce is not None and self.reduce.method == "umap"

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of each feature space of the rows."""
        return widths_of(self.train)

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

    @property
    def reductions(self) -> tuple[ReduceOptions, ...]:
        """What may change the rows before k-means."""
        return tuple(each for each in (*self.tried, self.reduce) if each is not None)

    @property
    def reduced_dim(self) -> int | None:
        """Coordinates of reduced rows, at most; None where they have as many as before."""
        return None if self.reduce is None else self.reduce.component_count

    @property
    def components(self) -> int | None:
        """Principal components kept; None without PCA."""
        pca = self.request.pca
        return None if pca is None else pca.components or min(self.train.rows, self.train.dim)

    @property
    def sets(self) -> tuple[EmbeddingSet, ...]:
        """The train set, then the scored sets that are not it."""
        return (self.train, *(each for each in self.scored if each.id != self.train.id))

    def vocabulary_of(self, embeddings_id: str) -> tuple[str, ...]:
        """The labels that the classes of a set are positions in."""
        mapped = self.class_maps.get(embeddings_id)
        return self.vocabulary if mapped is None else mapped.vocabulary

    def read_labels(self) -> dict[str, LabelledSet]:
        """The class of each row of each set, by embeddings id."""
        return {each.id: self._labelled(each) for each in self.sets}

    def _labelled(self, embeddings: EmbeddingSet) -> LabelledSet:
        mapped, vocabulary = self.class_maps.get(embeddings.id), self.vocabulary_of(embeddings.id)
        column = label_column(embeddings)
        codes: Any = pc.index_in(column, value_set=pa.array(vocabulary, pa.string()), skip_nulls=True)
        classes = codes.fill_null(UNLABELLED).to_numpy().astype(np.int64)
        if mapped is None:
            return LabelledSet(embeddings.id, classes, vocabulary)
        unmapped = len(column) - int(column.null_count) - int(np.count_nonzero(classes != UNLABELLED))
        return LabelledSet(embeddings.id, classes, vocabulary, mapped.pairs, unmapped)


def make_plan(
    store: Store,
    request: ClusterRequest,
    data: Path | None = None,
    *,
    deadline: Deadline | None,
    sets: EmbeddingSets | None = None,
) -> Plan:
    """Check a request against the store; class maps are read from below ``data``.

    Parameters
    ----------
    deadline
        Of the request; None for no limit.
    sets
        Sets that other requests have read already.

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
        There are too many components or groups, or a scored set has no rows.
    SubsetTooSmall
        Fewer than two rows of the train set meet `where`.
    SetsNotAligned
        Sets of `spaces` are of other images, or in another order.
    """
    require_divisible(request, request.execution)
    sets = sets or EmbeddingSets(store, data, deadline=deadline)
    train = sets.train(request.aligned_with(request.train_id), request.where)
    ids = dict.fromkeys(request.scored_ids)
    scored = tuple(train if each == train.id else sets.aligned(*request.aligned_with(each)) for each in ids)
    for each in scored:
        for ours, theirs in zip(parts_of(train), parts_of(each), strict=True):
            require_same_dim(ours, theirs)
    require_rows(train, scored)
    mapped = {name: sent for name, sent in request.class_maps.items() if sent is not None}
    plain = frozenset[str]().union(*(sets.labels(each) for each in (train, *scored) if each.id not in mapped))
    vocabulary = tuple(sorted(plain))
    class_maps = {name: sets.class_map(sent, vocabulary, train.id, name) for name, sent in mapped.items()}
    train_classes = len(sets.labels(train))
    search = resolve_search(request, train)
    k = search[1] if search else resolve_clusters(request, train, train_classes)
    require_components(request, train)
    if request.method not in GRAPH_METHODS:
        require_levels(request, k)
    seeds = resolve_seeds(request, bool(train_classes))
    tried, reduce = resolve_reduce(request)
    return Plan(
        request, train, scored, vocabulary, train_classes, k, seeds, search, class_maps, tried=tried, reduce=reduce
    )


def resolve_clusters(request: ClusterRequest, train: EmbeddingSet, classes: int) -> int:
    """The number of clusters for a train set of ``classes`` classes; an estimate where a method finds it later.

    Raises
    ------
    LabelsRequired
        `over` without classes.
    ClustersInvalid
        The number is below 2 or above that of the rows.
    """
    rows = train.rows
    if request.method in GRAPH_METHODS:
        return max(2, min(MOST_EXPECTED, rows // 2))
    if isinstance(request.clusters, int):
        k = request.clusters
        field, source, remedy = "clusters", f"`clusters` is {k}", ""
    elif request.over is None or not classes:
        raise LabelsRequired(
            f"`over` is a multiple of the number of classes, but embeddings {train.id!r} have no labels. "
            "Send `clusters` instead.",
            field="over",
        )
    else:
        field, k = "over", math.floor(request.over * classes + 0.5)
        named = "1 class" if classes == 1 else f"{classes} classes"
        source = f"`over` {request.over:g} times {named} is {k} cluster{'' if k == 1 else 's'}"
        remedy = f"`over` {_over_range(rows, classes)}, or "
    if not 2 <= k <= rows:
        raise ClustersInvalid(
            f"{source}, but embeddings {train.id!r} {how_many_rows(train)}. Send {remedy}`clusters` from 2 to {rows}.",
            field=field,
            clusters=k,
            rows=rows,
        )
    return k


def resolve_search(request: ClusterRequest, train: EmbeddingSet) -> tuple[int, int] | None:
    """The range to search for `clusters: "auto"`, or None.

    Raises
    ------
    ClustersInvalid
        The range ends above the number of rows that the search uses.
    """
    if request.clusters != "auto":
        return None
    low, high = request.clusters_range or (2, max(2, min(MOST_TRIED, train.rows // 10)))
    most = min(train.rows, SEARCHED_ROWS)
    if high > most:
        why = f"embeddings {train.id!r} {how_many_rows(train)}"
        if train.rows > SEARCHED_ROWS:
            why = f"`auto` searches a sample of {SEARCHED_ROWS} of the {train.rows} rows"
        remedy = f"End it at {most} or lower"
        if low >= most:
            remedy = f"Start it below {most} and end it at {most} or lower, or send the number as `clusters`"
        raise ClustersInvalid(
            f"`clusters_range` ends at {high}, but {why}. {remedy}.",
            field="clusters_range",
            clusters=high,
            rows=train.rows,
            limit=most,
        )
    return low, high


def resolve_reduce(request: ClusterRequest) -> tuple[tuple[ReduceOptions | None, ...], ReduceOptions | None]:
    """The reductions to try for `reduce: "auto"`, with None for none, and the one that was sent."""
    if request.reduce != "auto":
        return (), request.reduce
    methods = [each for each in TRIED if not (each == "umap" and request.kmeans.spherical)]
    return (None, *(ReduceOptions(method=each) for each in methods)), None


def resolve_seeds(request: ClusterRequest, labelled: bool) -> tuple[int, ...]:
    """The seeds as sent. By default three where labels allow an evaluation, which needs a deviation; otherwise one.

    Nothing of HDBSCAN is random: it runs once, with the first seed.
    """
    if request.method == "hdbscan":
        return ((request.seeds or [request.seed or 0])[0],)
    if request.seeds is not None:
        return tuple(request.seeds)
    if request.seed is not None:
        return (request.seed,)
    return DEFAULT_EVALUATION_SEEDS if labelled else DEFAULT_EVALUATION_SEEDS[:1]


def cheap_restarts(rows: int, dim: int, k: int, iterations: int) -> int:
    """As many restarts as `RESTART_BUDGET` allows: many on few rows, down to one on many."""
    one = rows * dim * k * min(iterations, TYPICAL_ITERATIONS)
    return max(1, min(MOST_RESTARTS, RESTART_BUDGET // one))


def _over_range(rows: int, classes: int) -> str:
    """Values of `over` that mean 2 to ``rows`` clusters, rounded so that both ends do."""
    least, most = math.ceil(1500 / classes) / 1000, math.floor(1000 * rows / classes) / 1000
    return f"from {least:g} to {min(most, MOST_OVER):g}"


def require_components(request: ClusterRequest, train: EmbeddingSet) -> None:
    """Raise `InvalidRequest` for more components than the rows and dimensions of ``train`` can have."""
    components = request.pca.components if request.pca else None
    limit = min(train.rows, train.dim)
    if components is not None and components > limit:
        raise InvalidRequest(
            f"`pca.components` is {components}, but the {train.rows} rows of {train.dim} dimensions of embeddings "
            f"{train.id!r} have at most {limit} components. Send 1 to {limit}.",
            field="pca.components",
            limit=limit,
        )


def require_levels(request: ClusterRequest, k: int) -> None:
    """Raise `InvalidRequest` for levels of more groups than there are clusters."""
    levels = request.kmeans.levels
    if levels is not None and levels[0] >= k:
        remedy = f"Start with 2 to {k - 1}" if k > 2 else "Leave `kmeans.levels` out"
        raise InvalidRequest(
            f"`kmeans.levels` starts with {levels[0]} groups, but there are {k} clusters to group. {remedy}.",
            field="kmeans.levels",
            clusters=k,
        )


def require_divisible(request: ClusterRequest, execution: Execution | None) -> None:
    """Raise `InvalidRequest` for what no cluster can run in parts, where ``execution`` names one."""
    undivided = {
        "kmeans.engine": request.kmeans.engine == "faiss-super",
        "kmeans.algorithm": request.kmeans.algorithm == "mini-batch",
        "method": request.method != "kmeans",
        "spaces": request.spaces is not None,
    }
    if request.reduce is not None and on_cluster(execution):
        raise InvalidRequest(
            "`reduce` compares all rows in one process. Leave it out, or leave `execution` out.", field="reduce"
        )
    for name, asked in undivided.items() if on_cluster(execution) else ():
        if asked:
            sent = "sent" if name == "spaces" else f"`{attrgetter(name)(request)}`"
            raise InvalidRequest(
                f"`{name}` is {sent}, which reads all rows in one process. Leave it out, or leave `execution` out.",
                field=name,
            )

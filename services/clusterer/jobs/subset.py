"""The rows of an embeddings set that meet the conditions of `where`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import DTypeLike, NDArray
from shoal.errors import InvalidRequest, JsonValue, SubsetTooSmall
from shoal.globs import Glob
from shoal.schemas import Where, WhereClusters
from shoal.store import EmbeddingSet, Store
from shoal.store.analyses import DUPLICATES

from clusterer.data.rows import Float32Array, IntArray, require_finite
from clusterer.results.analyses import dropped_rows

FEWEST_ROWS = 2
"""Of a train set."""
Mask = NDArray[np.bool_]


class Subset(EmbeddingSet):
    """Some rows of an embeddings set, under its id.

    Vectors are read by their place among the chosen rows; metadata keeps the number of each row in the set.

    Parameters
    ----------
    whole
        The set.
    chosen
        ``(n,) int64``: numbers of the rows, ascending.
    """

    chosen: IntArray | None = None

    def __init__(self, whole: EmbeddingSet, chosen: IntArray) -> None:
        super().__init__(whole.layout, whole.plan, sent=True)
        self._whole = whole
        self.chosen = chosen

    def __reduce__(self) -> tuple[type[Subset], tuple[Any, ...]]:
        return type(self), (self._whole, self.chosen)

    @property
    def whole(self) -> EmbeddingSet:
        """The set."""
        return self._whole

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._whole.dim

    @property
    def rows(self) -> int:
        """Number of chosen rows."""
        return super().rows if self.chosen is None else len(self.chosen)

    @property
    def record(self) -> dict[str, JsonValue]:
        """For spec.json: rows chosen, all rows, and the SHA-256 of the chosen numbers as little-endian int64."""
        numbers = np.ascontiguousarray(self._numbers, dtype="<i8")
        digest = hashlib.sha256(numbers.tobytes()).hexdigest()
        return {"rows": self.rows, "of": self._whole.rows, "rows_sha256": digest}

    def iter_batches(
        self,
        batch_rows: int = 8192,
        *,
        dtype: DTypeLike = np.float32,
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The vectors of the chosen rows from ``start`` to ``stop``, read in ascending order; always float32."""
        stop = self.rows if stop is None else min(stop, self.rows)
        for first in range(start, stop, batch_rows):
            numbers = self._numbers[first : min(first + batch_rows, stop)]
            batch = self._whole.take(numbers)
            require_finite(batch, first, self.id, numbers)
            yield first, batch

    def take(self, rows: IntArray) -> Float32Array:
        """The vectors at some places among the chosen rows."""
        return self._whole.take(self._numbers[rows])

    def iter_metadata(
        self, columns: Sequence[str] | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[pa.Table]:
        """The metadata of the chosen rows whose numbers in the set are from ``start`` to ``stop``."""
        for table in self._whole.iter_metadata(columns, start=start, stop=stop):
            rows = table.column("row").to_numpy()
            low, high = np.searchsorted(self._numbers, (rows[0], rows[-1] + 1))
            if low < high:
                yield table.take(pa.array(self._numbers[low:high] - rows[0]))

    @property
    def _numbers(self) -> IntArray:
        return self.chosen if self.chosen is not None else np.arange(super().rows, dtype=np.int64)


def subset_of(store: Store, embeddings: EmbeddingSet, where: Where) -> Subset:
    """The rows of a set that meet every condition. Its metadata is read shard by shard.

    Raises
    ------
    ClusteringNotFound, DuplicatesNotFound
        The clustering of `clusters`, or the duplicates, do not exist.
    InvalidRequest
        They are of other embeddings, or the clustering has fewer clusters.
    SubsetTooSmall
        Fewer than two rows are left.
    """
    chosen: list[IntArray] = []
    masks = [] if where.clusters is None else [rows_in_clusters(store, embeddings, where.clusters)]
    masks += [] if where.not_duplicates_of is None else [rows_to_keep(store, embeddings, where.not_duplicates_of)]
    labels = None if where.labels is None else pa.array(where.labels, pa.string())
    globs = [Glob(pattern) for pattern in where.paths or ()]
    columns = [name for name, asked in (("label", where.labels), ("image_path", where.paths)) if asked is not None]
    for table in embeddings.iter_metadata(columns):
        rows = table.column("row").to_numpy()
        mask: Mask = np.ones(len(rows), dtype=bool)
        for each in masks:
            mask &= each[rows]
        if labels is not None:
            mask &= pc.is_in(table.column("label"), value_set=labels, skip_nulls=True).to_numpy()
        if globs:
            mask &= matching(table.column("image_path"), globs, mask)
        chosen.append(rows[mask])
    found = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
    if len(found) < FEWEST_ROWS:
        raise SubsetTooSmall(
            f"{'No row' if not len(found) else 'Only 1 row'} of the {embeddings.rows} of embeddings {embeddings.id!r} "
            f"meets `where`, but clustering needs at least {FEWEST_ROWS}. {_hint(where)}",
            field="where",
            embeddings=embeddings.id,
            rows=len(found),
        )
    return Subset(embeddings, found.astype(np.int64))


def rows_in_clusters(store: Store, embeddings: EmbeddingSet, wanted: WhereClusters) -> Mask:
    """``(n,)``: whether each row of a set is in one of some clusters of a clustering that has assigned the set."""
    clustering = store.clustering(wanted.clustering)
    if embeddings.id not in clustering.scored:
        raise InvalidRequest(
            f"Clustering {clustering.id!r} has not assigned embeddings {embeddings.id!r}, so its clusters choose none "
            f"of their rows. It has assigned {', '.join(clustering.scored)}.",
            field="where.clusters.clustering",
            scored=clustering.scored,
        )
    missing = [each for each in wanted.clusters if not clustering.has(each)]
    if missing:
        raise InvalidRequest(
            f"Clustering {clustering.id!r} has clusters {clustering.numbers_text}, not {missing[0]}.",
            field="where.clusters.clusters",
            clusters=clustering.k,
        )
    table = clustering.assignments(embeddings.id, columns=["row", "cluster"])
    inside = np.isin(table.column("cluster").to_numpy(), np.array(wanted.clusters))
    mask: Mask = np.zeros(embeddings.rows, dtype=bool)
    mask[table.column("row").to_numpy()[inside]] = True
    return mask


def rows_to_keep(store: Store, embeddings: EmbeddingSet, duplicates_id: str) -> Mask:
    """``(n,)``: whether each row of a set is to be kept, as decided or suggested, or in no group of duplicates."""
    found = store.analysis(DUPLICATES, duplicates_id)
    if embeddings.id not in found.sets:
        raise InvalidRequest(
            f"Duplicates {found.id!r} are not of embeddings {embeddings.id!r}, but of {', '.join(found.sets)}.",
            field="where.not_duplicates_of",
            sets=found.sets,
        )
    mask: Mask = np.ones(embeddings.rows, dtype=bool)
    decisions = store.decisions(DUPLICATES, duplicates_id).read().decisions
    mask[dropped_rows(found, embeddings.id, decisions)] = False
    return mask


def matching(paths: pa.ChunkedArray, globs: Sequence[Glob], asked: Mask) -> Mask:
    """``(n,)``: whether each path that is asked for matches one of the patterns."""
    found = np.zeros(len(paths), dtype=bool)
    at = np.flatnonzero(asked)
    texts = paths.take(pa.array(at)).to_pylist()
    found[at] = [any(glob.matches(str(path)) for glob in globs) for path in texts]
    return found


def _hint(where: Where) -> str:
    if where.labels is not None:
        return "Labels must be written exactly as they are stored: `GET /embeddings/{id}/rows` shows them."
    return "`GET /embeddings/{id}/rows` shows the paths."

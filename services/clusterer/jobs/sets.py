"""The embedding sets of a request: opened and checked, with their labels and class maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from shoal.deadline import Deadline
from shoal.errors import ClustersInvalid, DimensionMismatch, EmbeddingsIncomplete, InvalidRequest
from shoal.schemas import ClassMap, Where
from shoal.store import EmbeddingSet, Store

from clusterer.evaluation.class_maps import MappedClasses, read_class_map
from clusterer.jobs.aligned import Aligned, require_aligned
from clusterer.jobs.subset import FEWEST_ROWS, Subset, subset_of


class EmbeddingSets:
    """Finished embedding sets of a store with their labels and class maps; each is read once.

    Parameters
    ----------
    data
        The data root, below which class maps lie.
    deadline
        Of the request, checked before each class map is read; None for no limit.
    """

    def __init__(self, store: Store, data: Path | None, *, deadline: Deadline | None) -> None:
        self._store = store
        self._data = data or Path()
        self._deadline = deadline
        # Caches of the instance, so that they are freed with it.
        self.open = cache(self._open)
        self.aligned = cache(self._aligned)
        self.subset = cache(self._subset)
        self.labels = cache(self._labels)
        self.class_map = cache(self._class_map)

    def _open(self, embeddings_id: str) -> EmbeddingSet:
        return open_complete(self._store, embeddings_id)

    def _aligned(self, *ids: str) -> EmbeddingSet:
        """The set of an id, or those of several as one."""
        sets = tuple(self.open(each) for each in ids)
        require_aligned(sets)
        return sets[0] if len(sets) == 1 else Aligned(*sets)

    def train(self, ids: tuple[str, ...], where: Where | None) -> EmbeddingSet:
        """A train set, with ``where`` its rows that meet the conditions."""
        return self.aligned(*ids) if where is None else self.subset(ids, where.model_dump_json())

    def _subset(self, ids: tuple[str, ...], where: str) -> Subset:
        return subset_of(self._store, self.aligned(*ids), Where.model_validate_json(where))

    def _labels(self, embeddings: EmbeddingSet) -> frozenset[str]:
        distinct: list[str | None] = pc.unique(label_column(embeddings)).to_pylist()
        return frozenset(label for label in distinct if label is not None)

    def _class_map(self, sent: ClassMap, vocabulary: tuple[str, ...], train: str, scored: str) -> MappedClasses:
        if self._deadline is not None:
            self._deadline.check()
        names = f"the train set {train!r}", f"the scored set {scored!r}"
        ours, theirs = self.labels(self.open(train)), self.labels(self.open(scored))
        return read_class_map(self._data, sent, vocabulary, ours, theirs, names)


def open_complete(store: Store, embeddings_id: str) -> EmbeddingSet:
    """A finished embedding set.

    Raises
    ------
    EmbeddingsNotFound, EmbeddingsIncomplete
        It does not exist, or is not finished.
    """
    embeddings = store.embeddings(embeddings_id)
    if not embeddings.complete:
        missing = len(embeddings.missing_shards())
        raise EmbeddingsIncomplete(
            f"Embeddings {embeddings_id!r} are not finished: {missing} of {embeddings.plan.shards} shards are missing. "
            "Wait for the job that extracts them, or submit it again: it resumes where it stopped.",
            embeddings=embeddings_id,
            missing_shards=missing,
        )
    return embeddings


def require_rows(train: EmbeddingSet, scored: Sequence[EmbeddingSet] = ()) -> None:
    """Raise `ClustersInvalid` for a train set of fewer than two rows, `InvalidRequest` for an empty scored set."""
    if train.rows < FEWEST_ROWS:
        raise ClustersInvalid(
            _too_few(train, f"clustering needs at least {FEWEST_ROWS}"),
            field="embeddings",
            embeddings=train.id,
            rows=train.rows,
        )
    for each in scored:
        if not each.rows:
            raise InvalidRequest(
                _too_few(each, "scoring needs at least 1"), field="embeddings.score", embeddings=each.id, rows=0
            )


def require_same_dim(train: EmbeddingSet, scored: EmbeddingSet) -> None:
    if scored.dim != train.dim:
        raise DimensionMismatch(
            f"Embeddings {scored.id!r} have {scored.dim} dimensions, but the train set {train.id!r} has {train.dim}. "
            "Score embeddings of the same model.",
            expected=train.dim,
            got=scored.dim,
            embeddings=scored.id,
        )


def how_many_rows(embeddings: EmbeddingSet) -> str:
    """``have 120 rows``, and how many images could not be read."""
    rows = f"have {embeddings.rows} row{'' if embeddings.rows == 1 else 's'}"
    if isinstance(embeddings, Subset):
        return f"{rows} that {'meets' if embeddings.rows == 1 else 'meet'} `where`"
    if not embeddings.failed:
        return rows
    images = "1 image" if embeddings.failed == 1 else f"{embeddings.failed} images"
    return f"{rows} ({images} could not be read: see `GET /embeddings/{embeddings.id}/errors`)"


def label_column(embeddings: EmbeddingSet) -> pa.ChunkedArray:
    """The label of each row in row order, null for rows without one."""
    return embeddings.metadata(["label"]).column("label")


def _too_few(embeddings: EmbeddingSet, needed: str) -> str:
    rows, failed = embeddings.rows, embeddings.failed
    if not failed:
        return (
            f"Embeddings {embeddings.id!r} {how_many_rows(embeddings)}; {needed}. "
            "Embed more images, or choose other embeddings."
        )
    return (
        f"Only {rows} of {rows + failed} images of embeddings {embeddings.id!r} could be read; {needed}. "
        f"`GET /embeddings/{embeddings.id}/errors` says what is wrong with each of the others."
    )

"""The embeddings that a request names: opened, checked and read once each, however often they are named."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from shoal.deadline import Deadline
from shoal.errors import ClustersInvalid, EmbeddingsIncomplete, InvalidRequest
from shoal.schemas import ClassMap
from shoal.store import EmbeddingSet, Store

from clusterer.evaluation.class_maps import MappedClasses, read_class_map

FEWEST_ROWS = 2


class Sets:
    """Finished embedding sets of a store with their labels and class maps, each read when it is first asked for.

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
        # On the instance, so that what was read is let go of with it.
        self.open = cache(self._open)
        self.labels = cache(self._labels)
        self.class_map = cache(self._class_map)

    def _open(self, embeddings_id: str) -> EmbeddingSet:
        return open_complete(self._store, embeddings_id)

    def _labels(self, embeddings_id: str) -> frozenset[str]:
        return frozenset(distinct_labels(self.open(embeddings_id)))

    def _class_map(self, asked: ClassMap, vocabulary: tuple[str, ...], train: str, scored: str) -> MappedClasses:
        if self._deadline is not None:
            self._deadline.check()
        names = f"the train set {train!r}", f"the scored set {scored!r}"
        return read_class_map(self._data, asked, vocabulary, self.labels(train), self.labels(scored), names)


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
            "Wait for the job that extracts them, or submit it again: it goes on where it stopped.",
            embeddings=embeddings_id,
            missing_shards=missing,
        )
    return embeddings


def require_rows(train: EmbeddingSet, scored: Sequence[EmbeddingSet] = ()) -> None:
    """Refuse a train set of fewer than two rows, and scored sets without any.

    Raises
    ------
    ClustersInvalid, InvalidRequest
        There are too few.
    """
    if train.rows < FEWEST_ROWS:
        raise ClustersInvalid(
            f"{_there_are(train)}, and clustering needs at least {FEWEST_ROWS}: {_where_to_look(train)}",
            field="embeddings",
            embeddings=train.id,
            rows=train.rows,
        )
    for each in scored:
        if not each.rows:
            raise InvalidRequest(
                f"{_there_are(each)}, and scoring needs at least 1: {_where_to_look(each)}",
                field="embeddings.score",
                embeddings=each.id,
                rows=0,
            )


def how_many_rows(embeddings: EmbeddingSet) -> str:
    """``have 120 rows``, and why they are no more where images could not be read."""
    rows = f"have {embeddings.rows} row{'' if embeddings.rows == 1 else 's'}"
    return f"{rows} ({_failed(embeddings)})" if embeddings.failed else rows


def label_column(embeddings: EmbeddingSet) -> pa.ChunkedArray[Any]:
    """The label of each row in row order, null where it has none."""
    return embeddings.metadata(["label"]).column("label")


def distinct_labels(embeddings: EmbeddingSet) -> set[str]:
    """The different labels of a set; empty when it has none."""
    return {label for label in pc.unique(label_column(embeddings)).to_pylist() if label is not None}


def _there_are(embeddings: EmbeddingSet) -> str:
    rows, failed = embeddings.rows, embeddings.failed
    if not failed:
        return f"Embeddings {embeddings.id!r} {how_many_rows(embeddings)}"
    return f"Only {rows} of {rows + failed} images of embeddings {embeddings.id!r} could be read"


def _where_to_look(embeddings: EmbeddingSet) -> str:
    if not embeddings.failed:
        return "embed more images, or name other embeddings."
    return f"`GET /embeddings/{embeddings.id}/errors` says what is wrong with each of the others."


def _failed(embeddings: EmbeddingSet) -> str:
    images = "1 image" if embeddings.failed == 1 else f"{embeddings.failed} images"
    return f"{images} could not be read: see `GET /embeddings/{embeddings.id}/errors`"

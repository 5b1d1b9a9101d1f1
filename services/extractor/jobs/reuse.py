"""Rows of other sets of embeddings that a job takes over instead of embedding the same content again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow.compute as pc
import structlog
from numpy.typing import NDArray
from shoal.errors import InvalidRequest, NotFound, ShoalError
from shoal.store import EmbeddingSet, Plan, Store
from shoal.store.documents import read_plan

from extractor.images.child import Decoded, Stored
from extractor.images.known import KnownContents, digests_of
from extractor.images.pool import DecodePool
from extractor.images.properties import ImageProperties

MOST_ROWS = 20_000_000
"""Rows that are looked up: an entry takes 49 bytes of memory."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReusedRow:
    """An image that gets a stored row: ``vector`` is (dim,) float32, exactly what is stored."""

    outcome: Decoded
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class _Rows:
    """The rows with a digest of one set."""

    embeddings: EmbeddingSet
    rows: NDArray[np.int64]
    sizes: NDArray[np.int32]
    """(n, 2): width and height of each image."""
    digests: NDArray[np.uint64]


class StoredRows:
    """Rows that a job can take over, by their images' contents.

    Parameters
    ----------
    sets
        Not empty.
    pool
        Learns which files it need not decode.
    plan
        What the rows go into.
    """

    def __init__(self, sets: Sequence[_Rows], pool: DecodePool, plan: Plan) -> None:
        self._sets = [each.embeddings for each in sets]
        self._plan = plan
        self._known: KnownContents
        self._known, order = pool.know(np.concatenate([each.digests for each in sets]))
        self._set = np.repeat(np.arange(len(sets)), [len(each.rows) for each in sets])[order]
        self._row = np.concatenate([each.rows for each in sets])[order]
        self._size = np.concatenate([each.sizes for each in sets])[order]

    def rows(self, contents: Sequence[Stored]) -> dict[int, ReusedRow]:
        """The stored rows by ticket, without those that cannot be read: their set is not used any more."""
        places: defaultdict[int, list[tuple[int, Stored]]] = defaultdict(list)
        for content in contents:
            place = self._known.find(content.sha256)
            if place is not None:
                places[int(self._set[place])].append((place, content))
        found: dict[int, ReusedRow] = {}
        for number, wanted in places.items():
            try:
                found.update(self._read(self._sets[number], wanted))
            except (ShoalError, OSError) as error:
                log.warning("rows not reused", embeddings=self._sets[number].id, error=str(error))
                self._known.forget(self._set == number)
        return found

    def _read(self, embeddings: EmbeddingSet, wanted: Sequence[tuple[int, Stored]]) -> Iterator[tuple[int, ReusedRow]]:
        rows = self._row[[place for place, _ in wanted]]
        vectors = embeddings.take(rows)
        thumbnails = embeddings.thumbnails(rows) if self._plan.thumbnails else {}
        properties = {each.pop("row"): each for each in embeddings.properties(rows).to_pylist()}
        with np.errstate(over="ignore"):
            fits = np.isfinite(vectors.astype(self._plan.dtype)).all(axis=1)
        for (place, content), row, vector, fit in zip(wanted, rows.tolist(), vectors, fits, strict=True):
            thumbnail = thumbnails.get(row)
            if not fit or (self._plan.thumbnails and thumbnail is None):
                continue
            width, height = self._size[place].tolist()
            known = None if properties[row]["brightness"] is None else ImageProperties(**properties[row])
            outcome = Decoded(content.ticket, width, height, content.file_bytes, content.sha256, thumbnail, known)
            yield content.ticket, ReusedRow(outcome, vector)


def find_stored_rows(
    store: Store,
    embeddings: EmbeddingSet,
    reuse: str | None,
    pool: Callable[[], DecodePool],
    alive: Callable[[int], None],
) -> StoredRows | None:
    """The rows that can be taken over into ``embeddings``; None if there are none.

    Parameters
    ----------
    reuse
        The request's: ``auto`` for every fitting set of the store, finished or not; the id of one; None for none.
    pool
        The job's decode processes, before their first image.
    alive
        Called now and then with the number of rows seen.

    Raises
    ------
    EmbeddingsNotFound, InvalidRequest
        ``reuse`` is an id without a set, or of a set that does not fit.
    """
    if reuse is None:
        return None
    found: list[_Rows] = []
    seen = 0
    for each in _fitting(store, embeddings, reuse):
        if seen + each.rows > MOST_ROWS:
            log.warning("rows not reused", embeddings=each.id, error=f"more than {MOST_ROWS:,} rows in all")
            continue
        try:
            found += _rows(each, partial(_offset, alive, seen))
        except (ShoalError, OSError, ValueError) as error:
            log.warning("rows not reused", embeddings=each.id, error=str(error))
        seen += each.rows
    if not found:
        return None
    return StoredRows(found, pool(), embeddings.plan)


def _offset(alive: Callable[[int], None], before: int, rows: int) -> None:
    alive(before + rows)


def _fitting(store: Store, embeddings: EmbeddingSet, reuse: str) -> Iterator[EmbeddingSet]:
    if reuse != "auto":
        plan = store.embeddings(reuse).plan
        differing = differences(plan, embeddings.plan)
        if differing and reuse != embeddings.id:
            raise InvalidRequest(
                f"`reuse` is {reuse}, whose rows cannot be used here: they differ in {', '.join(differing)}. Send "
                "`reuse`: null, or `auto` for all embeddings that fit.",
                field="reuse",
            )
    for each in store.embeddings_ids() if reuse == "auto" else [reuse]:
        if each == embeddings.id:
            continue
        try:
            if not differences(read_plan(store.layout.embeddings(each)), embeddings.plan):
                yield store.embeddings(each)
        except (NotFound, FileNotFoundError):  # Deleted meanwhile.
            continue
        except (ShoalError, OSError) as error:
            log.warning("rows not reused", embeddings=each, error=str(error))


def differences(stored: Plan, wanted: Plan) -> list[str]:
    """Why rows of ``stored`` are not those that ``wanted`` asks for, in words; empty if they are."""
    facts = {
        "source": stored.source.kind == "images",
        "model": stored.model.digest == wanted.model.digest,
        "transform": stored.transform == wanted.transform,
        # Its ranges come from images of the job, so that rows of two jobs differ.
        "engine": stored.engine == wanted.engine != "openvino-int8",
        "dim": stored.dim == wanted.dim,
        "dtype": stored.dtype in ("float32", wanted.dtype),
        "thumbnails": stored.thumbnails or not wanted.thumbnails,
    }
    return [name for name, same in facts.items() if not same]


def _rows(embeddings: EmbeddingSet, alive: Callable[[int], None]) -> list[_Rows]:
    """The rows with a digest, as a list of none or one.

    Raises
    ------
    ShoalError, OSError, ValueError
        The metadata is damaged.
    """
    rows, sizes, digests = [], [], []
    for table in embeddings.iter_metadata(["width", "height", "sha256"]):
        whole = pc.and_(pc.equal(pc.utf8_length(table["sha256"]), 64), pc.is_valid(table["width"]))
        table = table.filter(pc.fill_null(whole, False))
        rows.append(table["row"].to_numpy())
        sizes.append(np.stack([table[name].to_numpy() for name in ("width", "height")], axis=1).astype(np.int32))
        digests.append(digests_of(table["sha256"].to_pylist()))
        alive(int(rows[-1][-1]) + 1 if len(rows[-1]) else 0)
    if not sum(map(len, rows)):
        return []
    return [_Rows(embeddings, np.concatenate(rows), np.concatenate(sizes), np.concatenate(digests))]

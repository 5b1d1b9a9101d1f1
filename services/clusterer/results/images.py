"""What pages show of the images of an embeddings set: paths, labels and thumbnails, kept in memory once read."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from shoal.errors import JsonValue
from shoal.store.reader import EmbeddingSet

from clusterer.data.rows import IntArray
from clusterer.evaluation.contingency import UNLABELLED
from clusterer.results.report.contents import data_uri, is_webp

THUMBNAIL_BYTES: Final = 64 * 2**20
"""Thumbnails kept of one set."""

Image = bytes | None
_numbers = itertools.count(1)


class SetImages:
    """The images of a complete embeddings set. Many threads may use one; each has a ``number`` of its own.

    Parameters
    ----------
    embeddings
        The set.
    room
        Bytes that its paths may take in memory; longer ones are read from the files each time.
    """

    def __init__(self, embeddings: EmbeddingSet, room: int) -> None:
        self.embeddings = embeddings
        self.number = next(_numbers)
        self._room = room
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Image] = OrderedDict()
        self._kept_bytes = 0
        self._held = 0

    @property
    def id(self) -> str:
        """The set's id."""
        return self.embeddings.id

    @property
    def bytes(self) -> int:
        """Bytes of memory, about."""
        return self._held + self._kept_bytes

    @cached_property
    def _paths(self) -> pa.ChunkedArray | None:
        """All paths; None where they would take too much memory."""
        found, size = [], 0
        for part in self.embeddings.iter_metadata(["image_path"]):
            column = part.column("image_path")
            size += column.nbytes
            if size > self._room:
                return None
            found.extend(column.chunks)
        self._held += size
        return pa.chunked_array(found, pa.string())

    @cached_property
    def labels(self) -> tuple[IntArray, tuple[str, ...]]:
        """``(n,) int64``: the class of each row, `UNLABELLED` for none, and the labels of the classes, in order."""
        column = pa.chunked_array(
            [chunk for part in self.embeddings.iter_metadata(["label"]) for chunk in part.column("label").chunks],
            pa.string(),
        )
        vocabulary = pc.unique(column.drop_null()).sort()
        found = pc.index_in(column, vocabulary)
        codes: IntArray = np.asarray(pc.fill_null(found, UNLABELLED)).astype(np.int64)
        self._held += codes.nbytes
        return codes, tuple(vocabulary.to_pylist())

    def have(self, rows: pa.ChunkedArray, image_ids: pa.ChunkedArray) -> bool:
        """Whether the images in ascending ``rows`` are those with ``image_ids``."""
        table = self.embeddings.metadata(["image_id"])
        if len(rows) and rows[-1].as_py() >= table.num_rows:
            return False
        same = pc.equal(table.column("image_id").take(rows), image_ids)
        return bool(pc.all(same, min_count=0).as_py())

    def described(self, rows: IntArray) -> list[tuple[str, str | None]]:
        """Path and label of rows, in their order."""
        codes, vocabulary = self.labels
        paths = self._paths
        at = pa.array(rows, pa.int64())
        found = (self._read_paths(rows) if paths is None else paths.take(at)).to_pylist()
        return [
            (path, None if code == UNLABELLED else vocabulary[code])
            for path, code in zip(found, codes[rows].tolist(), strict=True)
        ]

    def _read_paths(self, rows: IntArray) -> pa.Array:
        order = np.argsort(rows, kind="stable")
        found: list[str] = []
        first = 0
        for part in self.embeddings.iter_metadata(["image_path"]):
            stop = first + part.num_rows
            inside = rows[order][(rows[order] >= first) & (rows[order] < stop)] - first
            if len(inside):
                found += part.column("image_path").take(pa.array(inside)).to_pylist()
            first = stop
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return pa.array(found, pa.string()).take(pa.array(back))

    def containing(self, text: str) -> NDArray[np.bool_]:
        """``(n,) bool``: whether the path or the label of each row has ``text`` in it, whatever its case."""
        codes, vocabulary = self.labels
        sought = text.casefold()
        # One more at the end, for rows without a label: `UNLABELLED` is -1.
        with_text = np.array([*(sought in label.casefold() for label in vocabulary), False])
        parts = (
            [self._paths]
            if self._paths is not None
            else (part.column("image_path") for part in self.embeddings.iter_metadata(["image_path"]))
        )
        in_path = [np.asarray(pc.match_substring(part, text, ignore_case=True)) for part in parts]
        found: NDArray[np.bool_] = with_text[codes]
        return found | np.concatenate(in_path).astype(np.bool_) if in_path else found

    def with_label(self, label: str) -> NDArray[np.bool_]:
        """``(n,) bool``: whether each row has that label."""
        codes, vocabulary = self.labels
        at = vocabulary.index(label) if label in vocabulary else None
        return np.zeros(len(codes), np.bool_) if at is None else codes == at

    def thumbnails(self, rows: Iterable[int]) -> dict[int, str | None]:
        """The thumbnails of rows as data URIs; null for one that is not there, or is damaged.

        Raises
        ------
        IndexError
            A row is not one of the set.
        """
        wanted = list(dict.fromkeys(rows))
        with self._lock:
            found = {row: self._kept[row] for row in wanted if row in self._kept}
            for row in found:
                self._kept.move_to_end(row)
        missing = [row for row in wanted if row not in found]
        if missing:
            read = self.embeddings.thumbnails(missing, damaged=[])
            images = {row: read.get(row) for row in missing}
            shown = {row: image if image and is_webp(image) else None for row, image in images.items()}
            self._keep(shown)
            found |= shown
        return {row: None if (image := found[row]) is None else data_uri(image) for row in wanted}

    def _keep(self, images: Mapping[int, Image]) -> None:
        with self._lock:
            for row, image in images.items():
                if row not in self._kept:
                    self._kept[row] = image
                    self._kept_bytes += 64 + len(image or b"")
            while self._kept_bytes > THUMBNAIL_BYTES:
                _, image = self._kept.popitem(last=False)
                self._kept_bytes -= 64 + len(image or b"")

    def details(self, row: int) -> dict[str, JsonValue]:
        """All that the set says about the image of a row."""
        part = next(self.embeddings.iter_metadata(start=row, stop=row + 1))
        properties = self.embeddings.properties([row])
        known: dict[str, JsonValue] = part.slice(0, 1).to_pylist()[0]
        return known | {name: value for name, value in properties.to_pylist()[0].items() if value is not None}

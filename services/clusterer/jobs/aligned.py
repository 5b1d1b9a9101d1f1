"""Embeddings of the same images by several models, as one set whose vectors lie beside each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc
from numpy.typing import DTypeLike, NDArray
from shoal.errors import InvalidRequest, SetsNotAligned
from shoal.store import EmbeddingSet

from clusterer.data.rows import Float32Array, IntArray, require_finite
from clusterer.jobs.subset import Subset


class Aligned(EmbeddingSet):
    """Several aligned sets under the id, and with the metadata, of the first.

    Parameters
    ----------
    parts
        The sets, at least one; `require_aligned` has accepted them.
    """

    def __init__(self, *parts: EmbeddingSet) -> None:
        self.parts = parts
        super().__init__(parts[0].layout, parts[0].plan, sent=True)

    def __reduce__(self) -> tuple[type[Aligned], tuple[EmbeddingSet, ...]]:
        return type(self), self.parts

    @property
    def dim(self) -> int:
        """Length of all vectors of an image together."""
        return sum(each.dim for each in self.parts)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Of the vectors as they are read."""
        return np.dtype(np.float32)

    def iter_batches(
        self,
        batch_rows: int = 8192,
        *,
        dtype: DTypeLike = np.float32,
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The vectors from ``start`` to ``stop``; always float32.

        Raises
        ------
        NotFinite
            A vector contains NaN or infinity; the message names the set.
        """
        sources = [each.iter_batches(batch_rows, start=start, stop=stop) for each in self.parts]
        for blocks in zip(*sources, strict=True):
            first = blocks[0][0]
            for part, (_, block) in zip(self.parts, blocks, strict=True):
                require_finite(block, first, part.id)
            yield first, np.concatenate([block for _, block in blocks], axis=1)

    def take(self, rows: IntArray) -> Float32Array:
        """The vectors of some rows."""
        return np.concatenate([each.take(rows) for each in self.parts], axis=1)


def parts_of(embeddings: EmbeddingSet) -> tuple[EmbeddingSet, ...]:
    """The sets that one consists of: itself, unless it is `Aligned`, or a subset of such a one."""
    whole = embeddings.whole if isinstance(embeddings, Subset) else embeddings
    return whole.parts if isinstance(whole, Aligned) else (whole,)


def widths_of(embeddings: EmbeddingSet) -> tuple[int, ...]:
    """Columns of each feature space."""
    return tuple(each.dim for each in parts_of(embeddings))


def require_aligned(sets: tuple[EmbeddingSet, ...], field: str = "spaces") -> None:
    """Check that all sets have the images of the first, in their order.

    Raises
    ------
    InvalidRequest
        A set is there twice: its columns would count twice.
    SetsNotAligned
        A set has other images.
    """
    first, *others = sets
    ids = [each.id for each in sets]
    for place, name in enumerate(ids):
        if name in ids[:place]:
            raise InvalidRequest(
                f"Embeddings {name!r} are there twice. `{field}` needs embeddings by other models.", field=field
            )
    expected = first.metadata(["image_id", "image_path"]) if others else None
    for each in others:
        same = (
            f"`{field}` needs embeddings of the same images in the same order: extract the same source with each model"
        )
        if each.rows != first.rows:
            raise SetsNotAligned(
                f"Embeddings {each.id!r} have {each.rows} rows, but {first.id!r} have {first.rows}. {same}.",
                field=field,
                embeddings=each.id,
                rows=each.rows,
            )
        if expected is None:
            continue
        found = each.metadata(["image_id", "image_path"])
        differ = pc.not_equal(found.column("image_id"), expected.column("image_id"))
        row = pc.index(differ, True).as_py()
        if row >= 0:
            paths = [table.column("image_path")[row].as_py() for table in (found, expected)]
            raise SetsNotAligned(
                f"Row {row} of embeddings {each.id!r} is the image {paths[0]!r}, but that of {first.id!r} is "
                f"{paths[1]!r}. {same}.",
                field=field,
                embeddings=each.id,
                row=row,
            )

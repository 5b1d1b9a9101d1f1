"""What a search sends and answers."""

from __future__ import annotations

import os
from typing import NamedTuple

from shoal.client.images import Chunk, Image, encoded
from shoal.client.tables import Rows
from shoal.client.vectors import Json, Vector
from shoal.errors import InvalidRequest


class Neighbour(NamedTuple):
    """A row that a search found.

    Attributes
    ----------
    similarity
        The cosine of its embedding and the one that was sought.
    label
        The label of its image; None where it has none.
    """

    row: int
    image_path: str
    similarity: float
    label: str | None


def image_of(image: Image) -> Chunk:
    """An image as the one of a request; errors name its path."""
    name = os.fspath(image) if isinstance(image, str | os.PathLike) else "image"
    return Chunk(0, [encoded(image, name, 0)], [name])


def vector_of(vector: Vector) -> list[float]:
    """A vector as JSON takes it.

    Raises
    ------
    InvalidRequest
        It is not one list of finite numbers.
    """
    import numpy as np

    try:
        values = np.asarray(vector, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"`vector` is not a list of numbers: {error}.", field="vector") from None
    values = values[0] if values.ndim == 2 and len(values) == 1 else values
    if values.ndim != 1 or not values.size:
        raise InvalidRequest(f"`vector` has the shape {values.shape}: give (dim,), one vector.", field="vector")
    if not np.isfinite(values).all():
        raise InvalidRequest("`vector` has a value that is not finite.", field="vector")
    found: list[float] = values.tolist()
    return found


def found_in(answer: list[Json]) -> Rows[Neighbour]:
    """The rows of an answer."""
    return Rows(Neighbour(each["row"], each["image_path"], each["similarity"], each["label"]) for each in answer)

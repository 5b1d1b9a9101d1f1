"""Embeddings and assignments as the services send them, and as arrays."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

from shoal.client.tables import Tabular
from shoal.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Json = dict[str, Any]
Vectors: TypeAlias = "NDArray[np.floating] | Sequence[float] | Sequence[Sequence[float]]"
Vector: TypeAlias = "NDArray[np.floating] | Sequence[float]"
MAX_BYTES = 32 * 2**20
"""The most bytes of vectors that are sent in one request."""


class Assignment(NamedTuple):
    """The cluster of one image or vector.

    Attributes
    ----------
    distance
        To the cluster's centroid.
    margin
        How much farther the second nearest centroid is.
    is_outlier
        Whether it is farther from its centroid than nearly all rows of the train set are from theirs; None where these
        distances are unknown.
    label
        The cluster's label; None where it has none.
    merged_cluster
        The cluster that it is part of after merges; None from a service that knows no merges.
    name
        The name of that one; None where it has none.
    probability
        Of the cluster, by the clustering's head; None in a clustering by k-means.
    """

    cluster: int
    distance: float
    margin: float
    is_outlier: bool | None
    label: str | None
    merged_cluster: int | None = None
    name: str | None = None
    probability: float | None = None


@dataclass(frozen=True, eq=False)
class Assignments(Sequence[Assignment], Tabular):
    """The clusters of images or vectors, in their order: a sequence of `Assignment`, and one array a column."""

    cluster: NDArray[np.int32]
    distance: NDArray[np.float32]
    margin: NDArray[np.float32]
    is_outlier: NDArray[np.bool_] | None
    label: NDArray[np.object_]
    merged_cluster: NDArray[np.int32] | None = None
    name: NDArray[np.object_] | None = None
    probability: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, parts: Sequence[pa.Table]) -> Assignments:
        """From the answers to all requests, in order."""
        import pyarrow as pa

        table = pa.concat_tables(parts)
        outlier, merged = table.column("is_outlier"), table.column("merged_cluster")
        probability = table.column("probability")
        return cls(
            cluster=table.column("cluster").to_numpy(),
            distance=table.column("distance").to_numpy(),
            margin=table.column("margin").to_numpy(),
            is_outlier=None if outlier.null_count else outlier.to_numpy(),
            label=table.column("label").to_numpy(),
            merged_cluster=None if merged.null_count else merged.to_numpy(),
            name=table.column("name").to_numpy(),
            probability=None if probability.null_count else probability.to_numpy(),
        )

    def __len__(self) -> int:
        return len(self.cluster)

    @overload
    def __getitem__(self, at: int) -> Assignment: ...

    @overload
    def __getitem__(self, at: slice) -> Assignments: ...

    def __getitem__(self, at: int | slice) -> Assignment | Assignments:
        outlier = None if self.is_outlier is None else self.is_outlier[at]
        merged = None if self.merged_cluster is None else self.merged_cluster[at]
        probability = None if self.probability is None else self.probability[at]
        if isinstance(at, slice):
            plain = (self.cluster[at], self.distance[at], self.margin[at], outlier, self.label[at])
            name = None if self.name is None else self.name[at]
            return Assignments(*plain, merged, name, probability)
        return Assignment(
            int(self.cluster[at]),
            float(self.distance[at]),
            float(self.margin[at]),
            None if outlier is None else bool(outlier),
            self.label[at],
            None if merged is None else int(merged),
            None if self.name is None else self.name[at],
            None if probability is None else float(probability),
        )

    def to_arrow(self) -> pa.Table:
        """As a table of pyarrow."""
        import pyarrow as pa

        columns = ((field, getattr(self, field.name)) for field in _schema())
        return pa.table({field.name: pa.array(values, field.type) for field, values in columns if values is not None})


def _schema() -> pa.Schema:
    import pyarrow as pa

    types = (pa.int32(), pa.float32(), pa.float32(), pa.bool_(), pa.string(), pa.int32(), pa.string(), pa.float32())
    return pa.schema(list(zip(Assignment._fields, types, strict=True)))


def of_json(rows: list[Json]) -> pa.Table:
    """The table of an answer in JSON."""
    import pyarrow as pa

    return pa.Table.from_pylist(rows, _schema())


def of_arrow(stream: bytes) -> pa.Table:
    """The table of an answer that is an Arrow stream."""
    import pyarrow as pa

    table = pa.ipc.open_stream(stream).read_all()
    for field in (each for each in _schema() if each.name not in table.column_names):
        table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(list(Assignment._fields))


class Pieces:
    """Vectors split into requests, as bodies of `NPY`.

    Raises
    ------
    InvalidRequest
        They are no vectors of one length.
    """

    def __init__(self, vectors: Vectors) -> None:
        import numpy as np

        try:
            with np.errstate(over="ignore"):  # The service names the row of a value too large for float32.
                rows = np.asarray(vectors, np.float32, order="C")
        except (TypeError, ValueError) as error:
            raise InvalidRequest(
                f"`vectors` are not numbers in rows of one length: {str(error).rstrip('.')}.", field="vectors"
            ) from None
        rows = rows[None] if rows.ndim == 1 and rows.size else rows
        if rows.ndim != 2 or not rows.size:
            raise InvalidRequest(
                f"`vectors` has the shape {rows.shape}: give (n, dim), one row a vector.", field="vectors"
            )
        self._rows = rows
        self._step = max(1, MAX_BYTES // rows[0].nbytes)

    def starts(self) -> range:
        """The first row of each request."""
        return range(0, len(self._rows), self._step)

    def body(self, start: int) -> bytes:
        """The body of the request that begins at row ``start``."""
        import numpy as np

        file = BytesIO()
        np.save(file, self._rows[start : start + self._step], allow_pickle=False)
        return file.getvalue()


def embeddings_of(answer: Json) -> NDArray[np.float32]:
    """``(n, dim) float32`` from the answer of ``POST /v1/embeddings`` in base64."""
    import numpy as np

    rows = sorted(answer["data"], key=lambda row: int(row["index"]))
    return np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows]).astype(np.float32)

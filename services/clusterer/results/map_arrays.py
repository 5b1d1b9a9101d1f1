"""The map as arrays that a page draws: where each image lies, and one value an image to colour it by.

A file of arrays is the length of its header (uint32), the header (JSON), then the arrays that the header lists, one
after another; header and arrays are filled up to a multiple of 8 bytes. All is little-endian.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from shoal.errors import EmbeddingsNotFound, JsonValue
from shoal.store import Store
from shoal.store.clustering import Clustering

from clusterer.results.named import Named

By = Literal["cluster", "label", "distance", "margin", "flag"]
ALIGNED: Final = 8
STEPS: Final = 255
"""Steps of a distance or margin: the largest is 254, and 255 stands for no value."""
FARTHEST: Final = 0.995
"""Share of the rows whose distance or margin lies below the last step: a few far ones would flatten all others."""
LARGEST: Final = 65_535

Array = NDArray[np.generic]


@dataclass(frozen=True)
class MapArrays:
    """A header and its arrays.

    Attributes
    ----------
    header
        What the arrays mean; `encoded` adds their names, types and shapes.
    arrays
        By name.
    """

    header: dict[str, JsonValue]
    arrays: dict[str, Array] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """The bytes of the file."""
        listed: list[JsonValue] = [
            {"name": name, "dtype": str(array.dtype), "shape": list(array.shape)} for name, array in self.arrays.items()
        ]
        text = json.dumps({**self.header, "arrays": listed}, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 4) % ALIGNED)
        parts = [len(text).to_bytes(4, "little"), text]
        for array in self.arrays.values():
            stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            parts += [stored.tobytes(), bytes(-stored.nbytes % ALIGNED)]
        return b"".join(parts)


@dataclass(frozen=True)
class Places:
    """Where images lie, as small numbers.

    Attributes
    ----------
    points
        ``(n, 2) uint16`` in row order: 0 to 65,535 over the range of each axis.
    rows
        ``(n,) int64``: ascending.
    x, y
        The ranges.
    """

    points: NDArray[np.uint16]
    rows: NDArray[np.int64]
    x: tuple[float, float]
    y: tuple[float, float]


def places(clustering: Clustering, embeddings_id: str) -> Places:
    """Where the images of a set lie on the map."""
    table = clustering.map(embeddings_id)
    axes = [table.column(name).to_numpy().astype(np.float64) for name in ("x", "y")]
    ranges = [(float(axis.min()), float(axis.max())) if len(axis) else (0.0, 0.0) for axis in axes]
    quantised = np.empty((table.num_rows, 2), np.uint16)
    for column, (axis, (low, high)) in enumerate(zip(axes, ranges, strict=True)):
        quantised[:, column] = np.rint((axis - low) * (LARGEST / ((high - low) or 1.0)))
    return Places(quantised, table.column("row").to_numpy(), *ranges)


def points(clustering: Clustering, embeddings_id: str) -> MapArrays:
    """The `places` of a set as a file; the array ``rows`` is there where the rows are not 0 to n - 1."""
    found = places(clustering, embeddings_id)
    arrays: dict[str, Array] = {"points": found.points}
    rows = found.rows
    if len(rows) and (int(rows[0]) != 0 or int(rows[-1]) != len(rows) - 1):
        arrays["rows"] = rows.astype(np.uint32)
    header: dict[str, JsonValue] = {
        "clustering": clustering.id,
        "embeddings": embeddings_id,
        "count": len(rows),
        "x": list(found.x),
        "y": list(found.y),
    }
    return MapArrays(header, arrays)


def values(store: Store, clustering: Clustering, named: Named, embeddings_id: str, by: By) -> MapArrays:
    """One value of every image on the map, in the order of `points`, and what the values mean.

    ``distance`` and ``margin`` are 0 to 254 over the header's ``range``; 255 is none. The others are places in the
    header's ``legend``, and its length is none. A cluster is the one after moves and merges.
    """
    if by in ("distance", "margin"):
        return _scaled(clustering, embeddings_id, by)
    if by == "label":
        codes, legend = _labels(store, clustering, embeddings_id)
    else:
        rows, columns = _assigned(clustering, embeddings_id, "cluster")
        merged = named.moved(embeddings_id, rows, columns.to_numpy().astype(np.int32))
        codes, legend = (
            _clusters(clustering, named, embeddings_id, merged) if by == "cluster" else _flags(named, merged)
        )
    counts = np.bincount(codes, minlength=len(legend) + 1)
    entries: list[JsonValue] = [{**each, "count": int(counts[at])} for at, each in enumerate(legend)]
    kind = np.min_scalar_type(len(legend))
    header: dict[str, JsonValue] = {"by": by, "count": len(codes), "legend": entries, "none": int(counts[len(legend)])}
    return MapArrays(header, {"values": codes.astype(kind)})


def _assigned(clustering: Clustering, embeddings_id: str, column: str) -> tuple[NDArray[np.int64], pa.ChunkedArray]:
    """A column of the assignments, of the rows on the map."""
    rows = clustering.map(embeddings_id).column("row").to_numpy()
    table = clustering.assignments(embeddings_id, columns=["row", column])
    every = table.column("row").to_numpy()
    if len(every) == len(rows):
        return rows, table.column(column)
    return rows, table.column(column).take(pa.array(np.searchsorted(every, rows)))


def _scaled(clustering: Clustering, embeddings_id: str, by: str) -> MapArrays:
    _, column = _assigned(clustering, embeddings_id, by)
    found = column.to_numpy().astype(np.float64)
    known = np.isfinite(found)
    low, high = 0.0, 1.0
    if known.any():
        low, high = float(found[known].min()), float(np.quantile(found[known], FARTHEST))
    steps = np.full(len(found), STEPS, np.uint8)
    shares = (found[known] - low) / ((high - low) or 1.0)
    steps[known] = np.rint(np.clip(shares, 0.0, 1.0) * (STEPS - 1))
    header: dict[str, JsonValue] = {"by": by, "count": len(found), "range": [low, high], "none": int((~known).sum())}
    return MapArrays(header, {"values": steps})


def _clusters(
    clustering: Clustering, named: Named, embeddings_id: str, merged: NDArray[np.int32]
) -> tuple[NDArray[np.int64], list[dict[str, JsonValue]]]:
    """Only clusters that have images are in the legend."""
    used, codes = np.unique(merged, return_inverse=True)
    at = pa.array(named.slots(used))
    majority = clustering.clusters(embeddings_id).column("majority").take(at).to_pylist()
    names, flags = named.names.take(at).to_pylist(), named.flags.take(at).to_pylist()
    columns = zip(used.tolist(), names, flags, majority, strict=True)
    return codes.astype(np.int64), [
        {"cluster": cluster, "name": name, "flag": flag, "majority": label} for cluster, name, flag, label in columns
    ]


def _flags(named: Named, merged: NDArray[np.int32]) -> tuple[NDArray[np.int64], list[dict[str, JsonValue]]]:
    flags = pc.unique(named.flags).drop_null()
    flags = flags.take(pc.sort_indices(flags))
    of_cluster = pc.fill_null(pc.index_in(named.flags, flags), len(flags)).to_numpy(zero_copy_only=False)
    return of_cluster.astype(np.int64)[merged], [{"name": name} for name in flags.to_pylist()]


def _labels(
    store: Store, clustering: Clustering, embeddings_id: str
) -> tuple[NDArray[np.int64], list[dict[str, JsonValue]]]:
    rows, image_ids = _assigned(clustering, embeddings_id, "image_id")
    try:
        table = store.embeddings(embeddings_id).metadata(["image_id", "label"])
    except EmbeddingsNotFound:
        return np.zeros(len(rows), np.int64), []
    if len(rows) and int(rows[-1]) >= table.num_rows:
        return np.zeros(len(rows), np.int64), []
    table = table.take(pa.array(rows))
    # A set that was deleted and created again may have other images in its rows.
    same = pc.equal(table.column("image_id"), image_ids)
    found = pc.if_else(same, table.column("label"), pa.scalar(None, pa.string()))
    labels = pc.unique(found).drop_null()
    labels = labels.take(pc.sort_indices(labels))
    codes = pc.fill_null(pc.index_in(found, labels), len(labels)).to_numpy()
    return codes.astype(np.int64), [{"name": label} for label in labels.to_pylist()]

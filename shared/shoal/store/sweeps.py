"""Sweeps: a folder that grows point by point, so that a restarted job continues, and its table of results."""

from __future__ import annotations

import io
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from shoal.errors import StoreCorrupt, StoreError, SweepNotFound
from shoal.store.documents import first_line
from shoal.store.files import publish_file, publish_folder, remove_quietly, replace_file, storage_errors
from shoal.store.layout import StoreLayout, SweepLayout, is_id

FORMAT = 1
_POINT_NAME = re.compile(r"([0-9]{5,})\.json")
PARAMS: dict[str, pa.DataType] = {
    "embeddings": pa.string(),
    "model": pa.string(),
    "n": pa.int64(),
    "dim": pa.int64(),
    "normalize": pa.bool_(),
    "components": pa.int64(),
    "whiten": pa.bool_(),
    "reduce": pa.string(),
    "over": pa.float64(),
    "k": pa.int64(),
    "train_classes": pa.int64(),
    "method": pa.string(),
}
METRICS: dict[str, tuple[str, ...]] = {
    "accuracy_hungarian_train": ("accuracy", "hungarian", "train"),
    "accuracy_hungarian_scored": ("accuracy", "hungarian", "scored"),
    "accuracy_majority_train": ("accuracy", "majority", "train"),
    "accuracy_majority_scored": ("accuracy", "majority", "scored"),
    "accuracy_mixed_train": ("accuracy", "mixed", "train"),
    "accuracy_mixed_scored": ("accuracy", "mixed", "scored"),
    "accuracy_one_to_one": ("accuracy_one_to_one",),
    "ari": ("ari",),
    "ami": ("ami",),
    "nmi_arithmetic": ("nmi_arithmetic",),
    "homogeneity": ("homogeneity",),
    "completeness": ("completeness",),
    "fowlkes_mallows": ("fowlkes_mallows",),
    "purity": ("purity",),
    "silhouette": ("silhouette",),
    "davies_bouldin": ("davies_bouldin",),
    "calinski_harabasz": ("calinski_harabasz",),
    "inertia": ("inertia",),
    "empty_clusters": ("empty_clusters",),
    "size_imbalance": ("size_imbalance",),
    "chance_nmi": ("chance", "nmi"),
    "chance_accuracy": ("chance", "accuracy"),
}
SCHEMA = pa.schema(
    [
        ("point", pa.int64()),
        *PARAMS.items(),
        ("scored", pa.string()),
        ("scored_n", pa.int64()),
        ("n_labelled", pa.int64()),
        ("classes", pa.int64()),
        ("seeds", pa.int64()),
        ("restarts", pa.int64()),
        *((name + suffix, pa.float64()) for name in METRICS for suffix in ("", "_std")),
        ("stability", pa.float64()),
        ("linear_probe", pa.float64()),
        ("loss", pa.float64()),
        ("probe_accuracy", pa.float64()),
        ("neighbour_agreement", pa.float64()),
        ("seconds", pa.float64()),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
    ]
)

Row = dict[str, Any]
Point = Mapping[str, Any]


class Sweep:
    """One sweep, finished or not.

    Parameters
    ----------
    layout
        Paths of its folder.
    """

    def __init__(self, layout: SweepLayout) -> None:
        self.layout = layout
        self.id = layout.folder.name
        self.spec: dict[str, Any] = self._read(layout.spec, "request", "points")

    @property
    def total(self) -> int:
        """Number of points of the finished sweep."""
        return int(self.spec["points"])

    @property
    def complete(self) -> bool:
        """Whether all points and plots are written."""
        return self.layout.done.is_file()

    def finished_points(self) -> list[int]:
        """Numbers of the finished points, ascending."""
        found = (_POINT_NAME.fullmatch(entry.name) for entry in _entries(self.layout.points))
        return sorted(int(each[1]) for each in found if each)

    def points(self) -> list[dict[str, Any]]:
        """The finished points, by number."""
        fields = ("index", "request", "params", "scored")
        return [self._read(self.layout.point(index), *fields) for index in self.finished_points()]

    def drop_damaged_points(self, trash: Path) -> list[int]:
        """Move damaged points to the trash, so that they are computed again; returns their numbers."""
        dropped = []
        for index in self.finished_points():
            try:
                self._read(self.layout.point(index), "index", "request", "params", "scored")
            except StoreCorrupt:
                with storage_errors(trash):
                    trash.mkdir(parents=True, exist_ok=True)
                    self.layout.point(index).replace(trash / f"{self.id}.point-{index}.{secrets.token_hex(4)}")
                dropped.append(index)
        return dropped

    def table(self) -> list[Row]:
        """The points that are there as a tidy table; see `shoal.store.sweeps`."""
        return tidy(self.points())

    def plots(self) -> list[str]:
        """Names of the plots."""
        return sorted(entry.stem for entry in _entries(self.layout.plots) if entry.suffix == ".svg")

    def run(self) -> dict[str, Any]:
        """done.json: how the last attempt ran; empty until the sweep is complete."""
        return self._read(self.layout.done) if self.complete else {}

    def _read(self, path: Path, *fields: str) -> dict[str, Any]:
        try:
            document: Any = json.loads(path.read_bytes())
            if not isinstance(document, dict):
                raise ValueError("it is not a JSON object")
            missing = [name for name in fields if name not in document]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}")
        except (OSError, ValueError) as error:
            if not self.layout.folder.is_dir():
                raise sweep_not_found(self.id) from error
            name = f"sweeps/{self.id}/{self.layout.name_of(path)}"
            raise StoreCorrupt(
                f"{name} cannot be read ({first_line(error)}). `shoal verify {self.id}` lists all damage. Submit the "
                f"sweep again, and delete this one with `DELETE /sweeps/{self.id}`.",
                file=name,
                sweep=self.id,
            ) from error
        return document

    def commit_point(self, index: int, document: dict[str, Any]) -> bool:
        """Add a point; False if it exists, unchanged."""
        return publish_file(self.layout.point(index), lambda file: file.write(_encode(document)))

    def write_plot(self, name: str, extension: str, write: Callable[[BinaryIO], object]) -> None:
        """Add or replace a plot."""
        with storage_errors(self.layout.plots):
            self.layout.plots.mkdir(exist_ok=True)
        replace_file(self.layout.plot(name, extension), write)

    def finish(self, document: dict[str, Any]) -> None:
        """Write done.json: all points and plots are written."""
        publish_file(self.layout.done, lambda file: file.write(_encode(document)))


def create_sweep(store: StoreLayout, sweep_id: str, spec: Mapping[str, Any]) -> Sweep:
    """Create a sweep, which appears with its spec, or open the existing one.

    Raises
    ------
    StoreError
        ``sweep_id`` is not an id.
    """
    if not is_id(sweep_id):
        raise StoreError(f"{sweep_id!r} is not an id: use letters, digits, `.`, `_` and `-` only.")
    layout = store.sweep(sweep_id)
    if not layout.spec.is_file():
        prepared = SweepLayout(store.temporary / f"{sweep_id}.{secrets.token_hex(8)}")
        try:
            with storage_errors(prepared.folder):
                prepared.points.mkdir(parents=True)
                prepared.spec.write_bytes(_encode({"format": FORMAT, **spec}))
            publish_folder(prepared.folder, layout.folder)
        finally:
            remove_quietly(prepared.folder)
    return Sweep(layout)


def sweep_not_found(sweep_id: str) -> SweepNotFound:
    """The error for an unknown sweep id."""
    return SweepNotFound(
        f"Sweep {sweep_id!r} does not exist: `GET /sweeps` lists the ids; a sweep appears when its job starts.",
        sweep=sweep_id,
    )


def tidy(points: Iterable[Point]) -> list[Row]:
    """One row per point and scored set, means over the seeds and their standard deviations beside them.

    A point without groups has one row: its parameters and its error.
    """
    return [row for point in points for row in _rows(point)]


def as_csv(rows: list[Row]) -> bytes:
    """The table as CSV with a header."""
    out = io.BytesIO()
    csv.write_csv(pa.Table.from_pylist(rows, schema=SCHEMA), out)
    return out.getvalue()


def as_parquet(rows: list[Row]) -> bytes:
    """The table as one Parquet file."""
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), out, compression="zstd")
    return out.getvalue()


def _rows(point: Point) -> list[Row]:
    error = point.get("error")
    if error is None:
        return [_row(point, name) for name in point["scored"]]
    known = {
        "point": point["index"],
        **_params(point),
        "seconds": point["seconds"],
        "error_code": error["code"],
        "error_message": error["message"],
    }
    return [{name: known.get(name) for name in SCHEMA.names}]


def _params(point: Point) -> Row:
    params = point["params"]
    return {
        **{name: params[name] for name in PARAMS if name not in {"reduce", "method"}},
        "reduce": params.get("reduce"),
        "method": params.get("method", "kmeans"),
        "seeds": len(params["seeds"]),
        "restarts": params.get("restarts"),
    }


def _row(point: Point, scored: str) -> Row:
    entry = point["scored"][scored]
    mean, std = entry["mean"], entry["std"]
    values = {name: _look_up(mean, path) for name, path in METRICS.items()}
    deviations = {f"{name}_std": _look_up(std, path) for name, path in METRICS.items()}
    row = {
        "point": point["index"],
        **_params(point),
        "scored": scored,
        "scored_n": int(mean["n"]),
        "n_labelled": int(mean["n_labelled"]),
        "classes": int(mean["classes"]),
        **values,
        **deviations,
        "stability": (entry.get("stability") or {}).get("ari_mean"),
        "linear_probe": point.get("linear_probe", {}).get(scored),
        **_of_heads(point.get("heads", {}), ("loss", "probe_accuracy", "neighbour_agreement")),
        "seconds": point["seconds"],
        "error_code": None,
        "error_message": None,
    }
    return {name: row[name] for name in SCHEMA.names}


def _of_heads(heads: Mapping[str, Mapping[str, float]], names: tuple[str, ...]) -> dict[str, float | None]:
    """Means over the seeds of figures of heads, which need no labels; None with k-means."""
    return {name: _mean([each[name] for each in heads.values() if name in each]) for name in names}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _look_up(values: Any, path: tuple[str, ...]) -> float | None:
    for part in path:
        if values is None:
            return None
        values = values.get(part)
    return None if values is None else float(values)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"

"""Sweeps on disk: a folder that grows point by point, so that a restarted job goes on where it stopped."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from shoal.errors import StoreCorrupt, StoreError, SweepNotFound
from shoal.store.atomic import publish_file, remove_folder, replace_file, storage_errors
from shoal.store.documents import why
from shoal.store.layout import StoreLayout, SweepLayout, is_id
from shoal.store.survey import ids_in
from shoal.store.sweep_table import Row, tidy

FORMAT = 1
_POINT_NAME = re.compile(r"([0-9]{5,})\.json")


class Sweep:
    """One sweep, as far as it has come.

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
        """How many points it will have."""
        return int(self.spec["points"])

    @property
    def complete(self) -> bool:
        """Whether all points and plots are there."""
        return self.layout.done.is_file()

    def finished_points(self) -> list[int]:
        """Numbers of the points that are there, ascending."""
        found = (_POINT_NAME.fullmatch(entry.name) for entry in _entries(self.layout.points))
        return sorted(int(each[1]) for each in found if each)

    def points(self) -> list[dict[str, Any]]:
        """The points that are there, by number."""
        fields = ("index", "request", "params", "scored")
        return [self._read(self.layout.point(index), *fields) for index in self.finished_points()]

    def drop_damaged_points(self, trash: Path) -> list[int]:
        """Move points that cannot be read out of the sweep, so that they are made again; returns their numbers."""
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
        """The points that are there as a tidy table; see `shoal.store.sweep_table`."""
        return tidy(self.points())

    def plots(self) -> list[str]:
        """Names of the plots that are there."""
        return sorted(entry.stem for entry in _entries(self.layout.plots) if entry.suffix == ".svg")

    def run(self) -> dict[str, Any]:
        """How the last attempt ran; empty before the end."""
        return self._read(self.layout.done) if self.complete else {}

    def _read(self, path: Path, *fields: str) -> dict[str, Any]:
        try:
            document: Any = json.loads(path.read_bytes())
            if not isinstance(document, dict):
                raise ValueError("it holds no JSON object")
            missing = [name for name in fields if name not in document]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}")
        except (OSError, ValueError) as error:
            if not self.layout.folder.is_dir():
                raise not_found(self.id) from error
            name = f"sweeps/{self.id}/{path.relative_to(self.layout.folder).as_posix()}"
            raise StoreCorrupt(
                f"{name} cannot be read ({why(error)}). `shoal verify {self.id}` lists all damage; send the sweep "
                f"again, and delete this one with `DELETE /sweeps/{self.id}`.",
                file=name,
                sweep=self.id,
            ) from error
        return document

    def commit_point(self, index: int, document: dict[str, Any]) -> bool:
        """Add a point; False when it is there already, which stays as it is."""
        return publish_file(self.layout.point(index), lambda file: file.write(_encode(document)))

    def write_plot(self, name: str, extension: str, write: Callable[[BinaryIO], object]) -> None:
        """Add or replace a plot."""
        with storage_errors(self.layout.plots):
            self.layout.plots.mkdir(exist_ok=True)
        replace_file(self.layout.plot(name, extension), write)

    def finish(self, document: dict[str, Any]) -> None:
        """Say that all points and plots are there."""
        publish_file(self.layout.done, lambda file: file.write(_encode(document)))


def create_sweep(store: StoreLayout, sweep_id: str, spec: dict[str, Any]) -> Sweep:
    """Create a sweep, or open the one that is there.

    Raises
    ------
    StoreError
        ``sweep_id`` is not an id.
    """
    if not is_id(sweep_id):
        raise StoreError(f"{sweep_id!r} is not an id: use letters, digits, `.`, `_` and `-` only.")
    layout = store.sweep(sweep_id)
    with storage_errors(layout.folder):
        layout.points.mkdir(parents=True, exist_ok=True)
    publish_file(layout.spec, lambda file: file.write(_encode({"format": FORMAT, **spec})))
    return Sweep(layout)


def sweep_ids(store: StoreLayout) -> list[str]:
    """Ids of all sweeps, damaged or not, newest first."""
    folder = store.sweeps_folder
    return sorted(ids_in(folder), key=lambda name: (-_changed(folder / name / "spec.json"), name))


def open_sweep(store: StoreLayout, sweep_id: str) -> Sweep:
    """The sweep of that id.

    Raises
    ------
    SweepNotFound
        There is none.
    StoreCorrupt
        Its spec.json is damaged.
    """
    if not is_id(sweep_id) or not store.sweep(sweep_id).folder.is_dir():
        raise not_found(sweep_id)
    return Sweep(store.sweep(sweep_id))


def delete_sweep(store: StoreLayout, sweep_id: str) -> None:
    """Remove the sweep of that id in one step.

    Raises
    ------
    SweepNotFound
        There is none.
    """
    if not is_id(sweep_id) or not remove_folder(store.sweep(sweep_id).folder, store.trash):
        raise not_found(sweep_id)


def not_found(sweep_id: str) -> SweepNotFound:
    """The error for an id that names no sweep."""
    return SweepNotFound(
        f"There is no sweep {sweep_id!r}: `GET /sweeps` lists the ids; one appears when its job starts.", sweep=sweep_id
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0

"""Files of a running clustering job: state for its next attempt, and rows that do not fit in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from shoal.store.files import remove_quietly, replace_file, storage_errors

from clusterer.data.filerows import FileRows, write_rows
from clusterer.data.partitions import OnRows
from clusterer.data.pca import Pca
from clusterer.data.rows import Rows, in_memory
from clusterer.kmeans import Iteration, State
from clusterer.kmeans.assigned import Assigned, Assigning, assign_by
from clusterer.neighbours.work import Arrays, read_kept


class Workspace:
    """The working folder of one job.

    Files are replaced atomically, and only this job reads them. A file that cannot be read, as after a power loss, is
    treated as missing: its content is computed again.

    Parameters
    ----------
    folder
        Created when it is first needed.
    rows_in_memory
        Whether held rows lie in memory; otherwise in files of the folder.
    """

    def __init__(self, folder: Path, *, rows_in_memory: bool) -> None:
        self._folder = folder
        self.rows_in_memory = rows_in_memory

    def pca(self, name: str) -> Pca | None:
        """A PCA that an earlier attempt fitted. Another machine would compute other last bits."""
        arrays = read_kept(self._folder / f"{name}.npz")
        try:
            return None if arrays is None else Pca.from_arrays(arrays)
        except KeyError:  # Another version of Shoal kept other arrays.
            return None

    def keep_pca(self, name: str, pca: Pca) -> None:
        """Keep a PCA for the next attempt.

        Raises
        ------
        StoreFull, StoreError
            It could not be written. The same holds for everything that is kept here.
        """
        self._save(self._folder / f"{name}.npz", pca.arrays())

    def spread(self, rows: Rows) -> Rows:
        """``rows``, read where the job computes in each pass."""
        return rows

    def hold(self, name: str, rows: Rows, on_rows: OnRows | None = None) -> Rows:
        """``rows``, computed once and held in memory or in a file, which the next attempt opens."""
        if self.rows_in_memory:
            return in_memory(rows, on_rows=on_rows)
        file = self._folder / f"{name}.f32"
        try:
            return FileRows.open(file, rows.n, rows.dim)
        except (OSError, ValueError):  # an empty file cannot be mapped: ValueError
            self._make_folder()
            write_rows(file, rows, on_rows=on_rows)
            return FileRows.open(file, rows.n, rows.dim)

    def release(self, name: str) -> None:
        """Remove the file of held rows, if it exists; one that cannot be removed goes with the folder."""
        remove_quietly(self._folder / f"{name}.f32")

    @contextmanager
    def holding(self, views: Mapping[str, Rows], tag: str, on_rows: OnRows) -> Iterator[dict[str, Rows]]:
        """Every set of ``views``, computed once and held until the block ends.

        Parameters
        ----------
        tag
            Distinguishes views of the same sets, also through different PCAs: an attempt that dies leaves its files
            behind, and the next one must not read them as others.
        """
        names = {each: f"rows-{short_name(tag, each)}" for each in views}
        try:
            yield {each: self.hold(names[each], rows, on_rows) for each, rows in views.items()}
        finally:
            for name in names.values():
                self.release(name)

    def assign(self, name: str, rows: Rows, step: Assigning, on_rows: OnRows) -> dict[int, Assigned]:
        """The clusters of the rows of a set, by seed."""
        return assign_by(step, rows, on_rows)

    def state(self, seed: int, restart: int, *, n: int, k: int, dim: int, priced: bool = False) -> State | None:
        """The state of a k-means in an earlier attempt; None without a state of these shapes.

        Centroids of balanced k-means (``priced``) have their prices as one more column, but for the initial ones.
        """
        arrays = read_kept(self._state_file(seed, restart))
        if arrays is None:
            return None
        centroids, labels = arrays["centroids"], arrays.get("labels")
        if centroids.shape not in {(k, dim), (k, dim + priced)} or (labels is not None and labels.shape != (n,)):
            return None
        history = tuple(Iteration(**each) for each in json.loads(str(arrays["history"])))
        return State(centroids, labels, history)

    def keep_state(self, seed: int, restart: int, state: State) -> None:
        """Keep what the next iteration depends on."""
        names = Iteration.__dataclass_fields__
        history = [{name: getattr(each, name) for name in names} for each in state.history]
        arrays: Arrays = {"centroids": state.centroids, "history": np.asarray(json.dumps(history))}
        if state.labels is not None:
            arrays["labels"] = state.labels
        # Not synced to disk: on small jobs that costs more time than the iterations it saves after a power loss.
        self._save(self._state_file(seed, restart), arrays, durable=False)

    def folder(self, name: str) -> Path:
        """A folder of its own for a search, which keeps there what its next attempt can use."""
        return self.made_folder() / name

    def made_folder(self) -> Path:
        """The folder itself, which exists."""
        self._make_folder()
        return self._folder

    def arrays(self, name: str) -> Arrays | None:
        """Arrays that an earlier attempt kept under ``name``."""
        return read_kept(self._folder / f"{name}.npz")

    def keep_arrays(self, name: str, arrays: Arrays) -> None:
        """Keep arrays for the next attempt, durably."""
        self._save(self._folder / f"{name}.npz", arrays)

    def remove(self) -> None:
        """Remove the folder with all in it."""
        discard(self._folder)

    def _state_file(self, seed: int, restart: int) -> Path:
        return self._folder / f"kmeans-{seed}-{restart}.npz"

    def _make_folder(self) -> None:
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def _save(self, file: Path, arrays: Arrays, *, durable: bool = True) -> None:
        self._make_folder()
        replace_file(file, lambda opened: np.savez(opened, allow_pickle=False, **arrays), durable=durable)


def discard(folder: Path) -> None:
    """Remove the working folder of a job that has published: its attempt may have died before it did so."""
    remove_quietly(folder)


def short_name(*names: str) -> str:
    """A file name for ``names``, which together may be too long for one."""
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:32]

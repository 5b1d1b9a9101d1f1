"""The results in a store: clusterings, sweeps, assignments and analyses, opened, listed and removed by id."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

from shoal.errors import NotFound
from shoal.store.analyses import ANALYSES, Analysis, AnalysisKind
from shoal.store.assigned import AssignedSet, assignments_not_found
from shoal.store.clustering import Clustering, clustering_not_found
from shoal.store.files import remove_folder
from shoal.store.journal import Journal, Subject
from shoal.store.layout import SealedLayout, StoreLayout, SweepLayout, ids_in, is_id
from shoal.store.listing import Entry, open_each
from shoal.store.remote import RemoteSets
from shoal.store.sweeps import Sweep, sweep_not_found

L = TypeVar("L", bound=SealedLayout | SweepLayout)
Result = Clustering | Sweep | AssignedSet | Analysis
_STALE_S = 86_400.0
"""After this many seconds a half-prepared folder belongs to a dead process."""


class ResultStore:
    """The results below a store's root folder; parameters as of `shoal.store.Store`."""

    def __init__(self, root: Path, remote: RemoteSets | None = None) -> None:
        self.root = root
        self.layout = StoreLayout(root, remote)

    def results(self) -> list[Entry[Result]]:
        """Every clustering, sweep, set of assignments and analysis, damaged ones included, in this order of kinds."""
        analyses = (
            open_each(name, self.analysis_ids(kind), partial(self.analysis, kind)) for name, kind in ANALYSES.items()
        )
        return [
            *open_each("clustering", self.clustering_ids(), self.clustering),
            *open_each("sweep", self.sweep_ids(), self.sweep),
            *open_each("assignments", self.assigned_ids(), self.assigned),
            *chain.from_iterable(analyses),
        ]

    def clustering_ids(self) -> list[str]:
        """Ids of all clusterings, damaged or not, newest first."""
        return _newest_first(self.layout.clusterings_folder)

    def clustering(self, clustering_id: str) -> Clustering:
        """Open a clustering.

        Raises
        ------
        ClusteringNotFound
            No clustering has that id.
        StoreCorrupt
            The clustering is damaged, as far as its documents tell.
        """
        return Clustering(_existing(self.layout.clustering, clustering_id, clustering_not_found))

    def journal(self, clustering_id: str) -> Journal:
        """The journal of a clustering's annotations, which may be empty.

        Raises
        ------
        ClusteringNotFound
            No clustering has that id.
        """
        _existing(self.layout.clustering, clustering_id, clustering_not_found)
        return Journal(self.layout, clustering_id)

    def delete_clustering(self, clustering_id: str) -> None:
        """Remove a clustering in one step, then its annotations.

        Raises
        ------
        ClusteringNotFound
            No clustering has that id.
        """
        self._delete(self.layout.clusterings_folder, clustering_id, clustering_not_found)
        self._delete_journal(clustering_id)

    def sweep_ids(self) -> list[str]:
        """Ids of all sweeps, finished or not, damaged or not, newest first."""
        return _newest_first(self.layout.sweeps_folder, "spec.json")

    def sweep(self, sweep_id: str) -> Sweep:
        """Open a sweep.

        Raises
        ------
        SweepNotFound
            No sweep has that id.
        StoreCorrupt
            Its spec.json is damaged.
        """
        return Sweep(_existing(self.layout.sweep, sweep_id, sweep_not_found))

    def delete_sweep(self, sweep_id: str) -> None:
        """Remove a sweep in one step.

        Raises
        ------
        SweepNotFound
            No sweep has that id.
        """
        self._delete(self.layout.sweeps_folder, sweep_id, sweep_not_found)

    def assigned_ids(self) -> list[str]:
        """Ids of all assignments, damaged or not, newest first."""
        return _newest_first(self.layout.assignments_folder)

    def assigned(self, assignments_id: str) -> AssignedSet:
        """Open assignments.

        Raises
        ------
        AssignmentsNotFound
            No assignments have that id.
        StoreCorrupt
            Their spec.json is damaged.
        """
        return AssignedSet(_existing(self.layout.assigned, assignments_id, assignments_not_found))

    def delete_assigned(self, assignments_id: str) -> None:
        """Remove assignments in one step.

        Raises
        ------
        AssignmentsNotFound
            No assignments have that id.
        """
        self._delete(self.layout.assignments_folder, assignments_id, assignments_not_found)

    def analysis_ids(self, kind: AnalysisKind) -> list[str]:
        """Ids of all analyses of a kind, damaged or not, newest first."""
        return _newest_first(self.layout.analyses_folder(kind.name))

    def analysis(self, kind: AnalysisKind, which: str) -> Analysis:
        """Open an analysis.

        Raises
        ------
        DuplicatesNotFound, QualityNotFound
            None of that kind has that id.
        StoreCorrupt
            It is damaged, as far as its documents tell.
        """
        return Analysis(kind, _existing(partial(self.layout.analysis, kind.name), which, kind.missing))

    def decisions(self, kind: AnalysisKind, which: str) -> Journal:
        """The journal of the decisions about an analysis' rows, which may be empty.

        Raises
        ------
        DuplicatesNotFound, QualityNotFound
            None of that kind has that id.
        """
        _existing(partial(self.layout.analysis, kind.name), which, kind.missing)
        return Journal(self.layout, Subject.analysis(self.layout, kind, which))

    def delete_analysis(self, kind: AnalysisKind, which: str) -> None:
        """Remove an analysis in one step, then its decisions.

        Raises
        ------
        DuplicatesNotFound, QualityNotFound
            None of that kind has that id.
        """
        self._delete(self.layout.analyses_folder(kind.name), which, kind.missing)
        self._delete_journal(which)

    def _delete_journal(self, which: str) -> None:
        if self.layout.annotations(which).folder.is_dir():
            remove_folder(self.layout.annotations(which).folder, self.layout.trash)

    def _delete(self, parent: Path, name: str, error: Callable[[str], NotFound]) -> None:
        if not is_id(name) or not remove_folder(parent / name, self.layout.trash):
            raise error(name)
        temporary = self.layout.temporary
        for entry in temporary.iterdir() if temporary.is_dir() else ():
            with suppress(OSError):  # what killed processes were preparing
                if time.time() - entry.stat().st_mtime > _STALE_S:
                    shutil.rmtree(entry, ignore_errors=True)


def _existing(layout_of: Callable[[str], L], name: str, error: Callable[[str], NotFound]) -> L:
    """The paths of a result whose folder exists."""
    if not is_id(name) or not (layout := layout_of(name)).folder.is_dir():
        raise error(name)
    return layout


def _newest_first(folder: Path, file: str = "") -> list[str]:
    """The ids in ``folder`` by when each, or ``file`` in it, was changed."""
    return sorted(ids_in(folder), key=lambda name: (-_changed(folder / name / file), name))


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0

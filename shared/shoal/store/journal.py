"""The journal of what people say about a result: numbered entries, each created whole and never changed.

An entry is one file that appears in one step, under the number after the last one. Of two writers that read the same
state, the second finds its number taken: it changes nothing.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from shoal.errors import NotFound, PreconditionFailed, ShoalError, StoreCorrupt, StoreError, UndoConflict
from shoal.store.analyses import AnalysisKind
from shoal.store.annotations import Annotations, Changes, Entry, missing_clusters, problem_of
from shoal.store.clustering import clustering_not_found
from shoal.store.files import fsync_folder, publish_file, storage_errors
from shoal.store.layout import ENTRY_NAME, StoreLayout, is_id
from shoal.store.verify import VerifyReport

MOST_KEPT: Final = 64
"""Journals that a process remembers, so that it reads each entry once."""

_Stamp = tuple[int, int, int]
_kept: OrderedDict[Path, tuple[_Stamp, Annotations]] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class Subject:
    """A result that people say something about.

    Attributes
    ----------
    folder
        The result's: without it nothing is added.
    what
        What is said, in errors: ``names``, ``decisions``.
    history
        The route that lists the entries.
    missing
        The error for an unknown id.
    """

    id: str
    folder: Path
    what: str
    history: str
    missing: Callable[[str], NotFound]

    @classmethod
    def clustering(cls, store: StoreLayout, clustering_id: str) -> Subject:
        """A clustering, with its names and moves."""
        history = f"/clusterings/{clustering_id}/names/history"
        return cls(clustering_id, store.clustering(clustering_id).folder, "names", history, clustering_not_found)

    @classmethod
    def analysis(cls, store: StoreLayout, kind: AnalysisKind, which: str) -> Subject:
        """Duplicates or a quality check, with the decisions about its rows."""
        history = f"/{kind.name}/{which}/decisions/history"
        return cls(which, store.analysis(kind.name, which).folder, "decisions", history, kind.missing)


class Journal:
    """What is said about one result.

    Parameters
    ----------
    store
        Paths of the store.
    about
        The result, or the id of a clustering.
    """

    def __init__(self, store: StoreLayout, about: Subject | str) -> None:
        about = about if isinstance(about, Subject) else Subject.clustering(store, about)
        if not is_id(about.id):
            raise about.missing(about.id)
        self._store = store
        self._about = about
        self._id = about.id
        self.layout = store.annotations(about.id)

    def read(self) -> Annotations:
        """What all entries add up to.

        Raises
        ------
        StoreCorrupt
            An entry is missing or damaged.
        """
        found = self._remembered()
        if found is None:
            found = Annotations()
            self._check_numbers()
        entries = []
        number, seal = found.number, found.seal
        while (entry := self._entry(number + 1)) is not None:
            problem = problem_of(entry, number + 1, Annotations(number, seal))
            if problem:
                raise self._corrupt(number + 1, problem)
            entries.append(entry)
            number, seal = entry.number, entry.seal
        if entries:
            found = found.with_entries(entries)
            self._remember(found)
        return found

    def append(
        self, before: Annotations, changes: Changes, *, author: str | None, undoes: int | None = None
    ) -> Annotations:
        """Add an entry; from then on it counts.

        Parameters
        ----------
        before
            The state that the changes were made for.

        Returns
        -------
        Annotations
            The new state; ``before`` itself if nothing changes.

        Raises
        ------
        PreconditionFailed
            Another writer added an entry first.
        MergeCycle
            The merges would go round in a circle.
        ClusteringNotFound, DuplicatesNotFound, QualityNotFound
            The result was deleted.
        """
        if not changes:
            return before
        after = before.changed(changes)
        after.merges()
        entry = Entry(
            number=before.number + 1,
            token=secrets.token_hex(8),
            author=author,
            at=datetime.now(UTC),
            undoes=undoes,
            changes=changes,
            previous=before.seal,
        ).sealed()
        try:
            published = self._publish(entry)
        except FileNotFoundError:
            raise self._about.missing(self._id) from None
        # The link may exist although the call failed, as over NFS when the reply is lost.
        if not published and (there := self._entry(entry.number)) and there.token != entry.token:
            raise PreconditionFailed(
                f"Another writer changed the {self._about.what} of {self._id} meanwhile; nothing was changed. Read "
                "them again, and send the change with their new `ETag`.",
                clustering=self._id,
            )
        return before.with_entries([entry])

    def undo(self, before: Annotations, number: int | None, *, author: str | None) -> Annotations:
        """Add an entry that takes another one back: by default the last change that was not taken back.

        Raises
        ------
        UndoConflict
            There is nothing to take back, or what the entry changed was changed again.
        PreconditionFailed, MergeCycle, ClusteringNotFound
            As in `append`.
        """
        entry = next((each for each in self.entries(before.number) if _is_sought(each, number, before)), None)
        if entry is None:
            what = "no change is left to undo" if number is None else f"there is no entry {number} that could be undone"
            raise UndoConflict(
                f"Of the {self._about.what} of {self._id!r} {what}: `GET {self._about.history}` lists the entries.",
                entry=number,
            )
        if not before.holds(entry.changes):
            raise UndoConflict(
                f"What entry {entry.number} of {self._id} set was changed again by a later entry. Undo that one first.",
                entry=entry.number,
            )
        return self.append(before, entry.changes.reverted(), author=author, undoes=entry.number)

    def entries(self, newest: int) -> Iterator[Entry]:
        """The entries from number ``newest`` down to 1."""
        for number in range(newest, 0, -1):
            entry = self._entry(number)
            if entry is None:
                raise self._corrupt(number, "is missing")
            yield entry

    def numbers(self) -> list[int]:
        """Numbers of all entries, ascending."""
        try:
            found = (ENTRY_NAME.fullmatch(each.name) for each in self.layout.folder.iterdir())
            return sorted(int(each[1]) for each in found if each)
        except FileNotFoundError:
            return []

    def _publish(self, entry: Entry) -> bool:
        folder, temporary = self.layout.folder, self._store.temporary
        with storage_errors(folder):
            temporary.mkdir(parents=True, exist_ok=True)
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                fsync_folder(folder.parent)
                fsync_folder(folder.parent.parent)
        if not self._about.folder.is_dir():
            raise FileNotFoundError(folder)
        content = entry.model_dump_json(indent=1).encode() + b"\n"
        return publish_file(
            self.layout.entry(entry.number), lambda file: file.write(content), temporary_folder=temporary
        )

    def _entry(self, number: int) -> Entry | None:
        try:
            return Entry.model_validate_json(self.layout.entry(number).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._corrupt(number, f"cannot be read ({error.strerror or error})") from error
        except ValidationError as error:
            raise self._corrupt(number, f"is not an entry of a journal ({error.errors()[0]['msg']})") from error

    def _check_numbers(self) -> None:
        numbers = self.numbers()
        for expected, number in enumerate(numbers, start=1):
            # Listing a folder while entries are added may leave out the earlier ones.
            if number != expected and not self.layout.entry(expected).exists():
                raise self._corrupt(expected, "is missing")

    def _corrupt(self, number: int, problem: str) -> ShoalError:
        name = f"annotations/{self._id}/{self.layout.entry(number).name}"
        return StoreCorrupt(
            f"{name} {problem}. Restore it from a backup of the store; or move it and every later entry elsewhere, "
            f"which gives up the {self._about.what} since then.",
            file=name,
            clustering=self._id,
        )

    def _stamp(self, number: int) -> _Stamp | None:
        try:
            status = self.layout.entry(number).stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns

    def _remembered(self) -> Annotations | None:
        with _lock:
            kept = _kept.get(self.layout.folder)
        # Another file of this number: the clustering was deleted and made again.
        return kept[1] if kept and self._stamp(kept[1].number) == kept[0] else None

    def _remember(self, found: Annotations) -> None:
        stamp = self._stamp(found.number)
        with _lock:
            if stamp is not None:
                _kept[self.layout.folder] = stamp, found
                _kept.move_to_end(self.layout.folder)
            while len(_kept) > MOST_KEPT:
                _kept.popitem(last=False)


def _is_sought(entry: Entry, number: int | None, now: Annotations) -> bool:
    if now.undone(entry.number):
        return False
    return entry.undoes is None if number is None else entry.number == number


def check_journal(store: StoreLayout, about: Subject | str, report: VerifyReport, k: int | None) -> None:
    """Add the problems of a result's journal to a report.

    Parameters
    ----------
    about
        As of `Journal`.
    k
        Number of clusters of a clustering; None if it is not known.
    """
    journal = Journal(store, about)
    prefix = f"annotations/{journal.layout.folder.name}/"
    state = Annotations()
    for number in range(1, max(journal.numbers(), default=0) + 1):
        name = prefix + journal.layout.entry(number).name
        report.files += 1
        try:
            entry = next(_one(journal, number))
        except StoreError as error:
            report.add(name, error.detail.removeprefix(f"{name} "))
            return
        problem = problem_of(entry, number, state)
        if problem is None and not state.holds(entry.changes.reverted()):
            problem = "changes something that was not as it says"
        if problem is None and k is not None and any(True for _ in missing_clusters(entry.changes, k)):
            problem = f"names a cluster that the clustering does not have: they are 0 to {k - 1}"
        if problem:
            report.add(name, problem)
            return
        state = state.with_entries([entry])
    for path in sorted(journal.layout.folder.iterdir()) if journal.layout.folder.is_dir() else ():
        if not ENTRY_NAME.fullmatch(path.name):
            report.add(prefix + path.name, "is not an entry of the journal: it was added later")


def _one(journal: Journal, number: int) -> Iterator[Entry]:
    return journal.entries(number)

"""What people say about results: names, flags and merges of clusters, moves of images, decisions. No files here.

A `Journal` keeps the changes; `Annotations` is what they add up to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from shoal.errors import MergeCycle
from shoal.store.records import Record, seal_of

T = TypeVar("T")

FORMAT = 1
FIELDS = ("name", "flag", "merged_into")
MOST_NAMED = 20
"""Clusters of a circle that an error names."""


class Note(Record):
    """What is said about one cluster.

    Attributes
    ----------
    merged_into
        The cluster that it is part of; that one may be merged itself.
    """

    name: str | None = None
    flag: str | None = None
    merged_into: int | None = Field(None, ge=0)


class ClusterChange(Record):
    """One field of one cluster, before and after a change; null stands for nothing."""

    cluster: int = Field(ge=0)
    field: Literal["name", "flag", "merged_into"]
    before: str | int | None
    after: str | int | None


class MoveChange(Record):
    """The cluster that one image was moved to, before and after a change; null: it is where k-means put it."""

    embeddings: str
    row: int = Field(ge=0)
    before: int | None
    after: int | None


class Decision(Record):
    """What is decided about one image.

    Attributes
    ----------
    action
        Whether it stays in the set; None: nothing is said.
    label
        The label that is right for it, which may be the one that it has; None: nothing is said.
    """

    action: Literal["keep", "drop"] | None = None
    label: str | None = None


class DecisionChange(Record):
    """What is decided about one row, before and after a change; null stands for nothing."""

    row: int = Field(ge=0)
    before: Decision | None
    after: Decision | None


class Changes(Record):
    """All that one entry changes. Without decisions it is written as it was before there were any."""

    clusters: tuple[ClusterChange, ...] = ()
    moves: tuple[MoveChange, ...] = ()
    decisions: tuple[DecisionChange, ...] = Field((), exclude_if=lambda changes: not changes)

    def __bool__(self) -> bool:
        return bool(self.clusters or self.moves or self.decisions)

    def reverted(self) -> Changes:
        """The changes that take these back."""
        return Changes(
            clusters=tuple(
                each.model_copy(update={"before": each.after, "after": each.before}) for each in self.clusters
            ),
            moves=tuple(each.model_copy(update={"before": each.after, "after": each.before}) for each in self.moves),
            decisions=tuple(
                each.model_copy(update={"before": each.after, "after": each.before}) for each in self.decisions
            ),
        )


class Entry(Record):
    """One entry of a journal, never changed.

    Attributes
    ----------
    number
        From 1.
    token
        Drawn for this entry, so that its writer knows it again.
    author
        Name of the API key; None where no keys are needed.
    undoes
        Number of the entry that this one takes back.
    previous
        `seal` of the entry before; empty for the first.
    seal
        As in a manifest.json.
    """

    format: int = FORMAT
    number: int = Field(ge=1)
    token: str
    author: str | None
    at: datetime
    undoes: int | None = None
    changes: Changes
    previous: str
    seal: str = ""

    def sealed(self) -> Entry:
        """The same entry with its `seal`."""
        return self.model_copy(update={"seal": seal_of(self.model_dump(mode="json"))})


@dataclass(frozen=True)
class Annotations:
    """What the entries of a journal add up to.

    Attributes
    ----------
    number, seal
        Of the last entry; 0 and empty without any.
    notes
        By cluster; clusters of which nothing is said are left out.
    moves
        By embeddings id and row: the cluster that the image was moved to.
    decisions
        By row: what is decided about it.
    undone_by
        By number of an entry: the entry that took it back last.
    """

    number: int = 0
    seal: str = ""
    notes: Mapping[int, Note] = field(default_factory=dict)
    moves: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    decisions: Mapping[int, Decision] = field(default_factory=dict)
    undone_by: Mapping[int, int] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Differs between any two states of any journals."""
        return f"{self.number}-{self.seal}" if self.number else "0"

    def with_entries(self, entries: Iterable[Entry]) -> Annotations:
        """What they are after further entries."""
        after, undone = self._copy(), dict(self.undone_by)
        number, seal = self.number, self.seal
        for entry in entries:
            after.apply(entry.changes)
            if entry.undoes is not None:
                undone[entry.undoes] = entry.number
            number, seal = entry.number, entry.seal
        moves = {name: rows for name, rows in after.moves.items() if rows}
        return Annotations(number, seal, after.notes, moves, after.decisions, undone)

    def changed(self, changes: Changes) -> Annotations:
        """What they would be after further changes."""
        after = self._copy()
        after.apply(changes)
        return replace(self, notes=after.notes, moves=after.moves, decisions=after.decisions)

    def _copy(self) -> _Said:
        moves = {name: dict(rows) for name, rows in self.moves.items()}
        return _Said(dict(self.notes), moves, dict(self.decisions))

    def undone(self, number: int) -> bool:
        """Whether an entry was taken back, and its taking back was not."""
        undone, later = False, self.undone_by.get(number)
        while later is not None:
            undone, later = not undone, self.undone_by.get(later)
        return undone

    def holds(self, changes: Changes) -> bool:
        """Whether everything still is as ``changes`` left it."""
        return (
            all(self._now(each) == each.after for each in changes.clusters)
            and all(self.moves.get(each.embeddings, {}).get(each.row) == each.after for each in changes.moves)
            and all(self.decisions.get(each.row) == each.after for each in changes.decisions)
        )

    def _now(self, change: ClusterChange) -> object:
        return getattr(self.notes.get(change.cluster, _NOTHING), change.field)

    def setting(self, fields: Mapping[int, Mapping[str, str | int | None]]) -> Changes:
        """The changes that give these fields of clusters these values."""
        found = []
        for cluster in sorted(fields):
            now = self.notes.get(cluster, _NOTHING)
            for name in FIELDS:
                before = getattr(now, name)
                after = fields[cluster].get(name, before)
                if after != before:
                    change = {"cluster": cluster, "field": name, "before": before, "after": after}
                    found.append(ClusterChange.model_validate(change))
        return Changes(clusters=tuple(found))

    def replacing(self, notes: Mapping[int, Note]) -> Changes:
        """The changes after which ``notes`` is all that is said about clusters."""
        return self.setting(
            {cluster: dict(notes.get(cluster, _NOTHING)) for cluster in self.notes.keys() | notes.keys()}
        )

    def moving(self, embeddings: str, rows: Mapping[int, int | None]) -> Changes:
        """The changes that move images to clusters, or, for None, back to where k-means put them."""
        now = self.moves.get(embeddings, {})
        changed = ((row, now.get(row), rows[row]) for row in sorted(rows))
        return Changes(
            moves=tuple(
                MoveChange(embeddings=embeddings, row=row, before=before, after=after)
                for row, before, after in changed
                if before != after
            )
        )

    def deciding(self, rows: Mapping[int, Mapping[str, str | None] | None]) -> Changes:
        """The changes that give these fields of decisions these values; None takes back all that is said of a row."""
        found = []
        for row in sorted(rows):
            before, fields = self.decisions.get(row), rows[row]
            after = None if fields is None else Decision.model_validate({**dict(before or Decision()), **fields})
            after = None if after == Decision() else after
            if after != before:
                found.append(DecisionChange(row=row, before=before, after=after))
        return Changes(decisions=tuple(found))

    def root(self, cluster: int) -> int:
        """The cluster that one is part of after all merges: itself, if it is not merged.

        Raises
        ------
        MergeCycle
            The message names the clusters.
        """
        return self._follow(cluster, {})

    def roots(self, k: int) -> NDArray[np.int32]:
        """``(k,) int32``: the `root` of each cluster."""
        found = np.arange(k, dtype=np.int32)
        for cluster, root in self.merges().items():
            found[cluster] = root
        return found

    def merges(self) -> dict[int, int]:
        """The `root` of each cluster that is merged. Each merge is followed once, however long the chains are.

        Raises
        ------
        MergeCycle
            The message names the clusters.
        """
        known: dict[int, int] = {}
        for cluster in self.notes:
            self._follow(cluster, known)
        return known

    def _follow(self, cluster: int, known: dict[int, int]) -> int:
        """The root of a cluster; it and those between are added to the ``known`` ones."""
        path: dict[int, None] = {}
        at = cluster
        while at not in known and (into := self.notes.get(at, _NOTHING).merged_into) is not None:
            path[at] = None
            if into in path:
                ring = list(path)
                raise _cycle(ring[ring.index(into) :])
            at = into
        root = known.get(at, at)
        known.update(dict.fromkeys(path, root))
        return root

    def of_root(self, cluster: int) -> Note:
        """What is said about the cluster that one is part of after all merges."""
        return self.notes.get(self.root(cluster), _NOTHING)


_NOTHING = Note()


def _cycle(ring: list[int]) -> MergeCycle:
    shown = [str(each) for each in ring[:MOST_NAMED]] + ["…"] * (len(ring) > MOST_NAMED)
    text = " → ".join([*shown, str(ring[0])])
    return MergeCycle(
        f"The merges {text} go round in a circle. Leave one of these clusters unmerged.", clusters=ring[:MOST_NAMED]
    )


def as_json(notes: Mapping[int, Note]) -> dict[str, dict[str, object]]:
    """Notes as the API shows them, by cluster; fields without a value are left out."""
    return {str(cluster): notes[cluster].model_dump(exclude_none=True) for cluster in sorted(notes)}


def problem_of(entry: Entry, number: int, before: Annotations) -> str | None:
    """Why ``entry`` cannot follow ``before`` under ``number``; None if it can."""
    if seal_of(entry.model_dump(mode="json")) != entry.seal:
        return "does not match its seal: it was damaged or changed"
    if entry.number != number or entry.previous != before.seal:
        return "does not follow the entry before it"
    return None


def missing_clusters(changes: Changes, k: int) -> Iterator[int]:
    """Clusters in ``changes`` that a clustering of ``k`` does not have."""
    for change in changes.clusters:
        into = [change.after] if change.field == "merged_into" and isinstance(change.after, int) else []
        yield from (each for each in (change.cluster, *into) if each >= k)
    yield from (each.after for each in changes.moves if each.after is not None and each.after >= k)


@dataclass
class _Said:
    """What is said, while changes are applied."""

    notes: dict[int, Note]
    moves: dict[str, dict[int, int]]
    decisions: dict[int, Decision]

    def apply(self, changes: Changes) -> None:
        for change in changes.clusters:
            note = self.notes.get(change.cluster, _NOTHING).model_copy(update={change.field: change.after})
            _set(self.notes, change.cluster, None if note == _NOTHING else note)
        for move in changes.moves:
            _set(self.moves.setdefault(move.embeddings, {}), move.row, move.after)
        for each in changes.decisions:
            _set(self.decisions, each.row, each.after)


def _set(values: dict[int, T], key: int, value: T | None) -> None:
    if value is None:
        values.pop(key, None)
    else:
        values[key] = value

"""Published analyses as the API shows them: their facts, and pages of their tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from shoal.errors import JsonValue
from shoal.store.analyses import Analysis

from clusterer.data.rows import IntArray
from clusterer.results.decisions import Decided, Decisions

MOST_COUNTED: Final = 50
SORTS: dict[str, list[tuple[str, Literal["ascending", "descending"]]]] = {
    "size": [("group", "ascending")],
    "similarity": [("least_similarity", "descending"), ("group", "ascending")],
    "doubtful": [("least_similarity", "ascending"), ("group", "ascending")],
}
"""Groups are stored by size."""


def analysis_facts(found: Analysis) -> dict[str, JsonValue]:
    """What was analysed, how it ran, and the totals. JSON values only."""
    base = f"/{found.kind.name}/{found.id}"
    links = {"self": base, **{name: f"{base}/{name}" for name in found.kind.tables}}
    spec = {name: value for name, value in found.spec.items() if name != "format"}
    return {"id": found.id, **spec, **found.run(), "links": links}


@dataclass(frozen=True)
class Chosen:
    """Which groups or rows of an analysis are listed: those that meet every condition that is not None.

    Attributes
    ----------
    path
        Text in a path, in upper or lower case.
    decided
        Whether something is decided about the row, or about each row of the group in the first set.
    least, most
        Of the similarity of a group's least similar images.
    """

    path: str | None = None
    label: str | None = None
    decided: bool | None = None
    least: float | None = None
    most: float | None = None

    @property
    def all(self) -> bool:
        """Whether there is no condition."""
        return self == Chosen()

    def rows(self) -> list[pc.Expression]:
        """The conditions on a row's path and label."""
        by_path = [] if self.path is None else [pc.match_substring(pc.field("image_path"), self.path, ignore_case=True)]
        return by_path + ([] if self.label is None else [pc.field("label") == self.label])

    def findings(
        self, decisions: Decisions, equal: Mapping[str, str | None], marked: pc.Expression | None
    ) -> pc.Expression | None:
        """The conditions on a row of a quality check, with further ones, and values of columns; None without any."""
        found = [*([] if marked is None else [marked]), *self.rows()]
        found += [pc.field(name) == value for name, value in equal.items() if value is not None]
        if self.decided is not None:
            known = pc.field("row").isin(list(decisions))
            found.append(known if self.decided else ~known)
        return reduce(and_, found) if found else None

    def groups(self, found: Analysis, decisions: Decisions) -> list[pc.Expression]:
        """The conditions on a group."""
        bounds = [] if self.least is None else [pc.field("least_similarity") >= self.least]
        bounds += [] if self.most is None else [pc.field("least_similarity") <= self.most]
        if rows := self.rows():
            within = found.table("members", ["group"], reduce(and_, rows)).column("group")
            bounds.append(pc.field("group").isin(pc.unique(within)))
        if self.decided is not None:
            of_set = pc.field("embeddings").cast(pa.string()) == found.sets[0]
            known = pc.field("row").isin(list(decisions))
            open_groups = pc.field("group").isin(
                pc.unique(found.table("members", ["group"], of_set & ~known).column("group"))
            )
            bounds.append(~open_groups if self.decided else open_groups)
        return bounds


ALL: Final = Chosen()


def list_groups(
    found: Analysis,
    *,
    sort: str,
    start: int,
    limit: int,
    members: int,
    copy: str | None,
    chosen: Chosen = ALL,
    decisions: Decisions = MappingProxyType({}),
) -> tuple[int, list[dict[str, JsonValue]]]:
    """A page of the groups of duplicates, and how many there are.

    Parameters
    ----------
    members
        Rows of each group that are listed, the kept one first.
    copy
        Only groups whose rows are all copies of this kind; None for all.
    decisions
        What is decided about the rows of the first set.
    """
    if sort == "size" and copy is None and chosen.all:
        total, page = found.rows("groups"), found.page("groups", start, limit)
    else:
        conditions = chosen.groups(found, decisions) + ([] if copy is None else [pc.field("copy") == copy])
        table = found.table("groups", where=reduce(and_, conditions) if conditions else None)
        total = table.num_rows
        page = table.take(pc.sort_indices(table, sort_keys=SORTS[sort]).slice(start, limit))
    groups: list[dict[str, JsonValue]] = page.to_pylist()
    rows = _members(found, [(each["first"], min(each["size"], members)) for each in groups])
    decided = Decided(found, decisions)
    for each, listed in zip(groups, rows, strict=True):
        del each["first"]
        decided.add_to(listed)
        each["rows"] = listed
    return total, groups


def _members(found: Analysis, slices: list[tuple[int, int]]) -> list[list[dict[str, JsonValue]]]:
    """The rows of the members' table in some slices; slices that follow each other are read at once."""
    if not slices:
        return []
    first, last = min(start for start, _ in slices), max(start + count for start, count in slices)
    if last - first <= 2 * sum(count for _, count in slices):
        table = found.page("members", first, last - first)
        parts = [table.slice(start - first, count) for start, count in slices]
    else:
        parts = [found.page("members", start, count) for start, count in slices]
    return [part.drop_columns("group").to_pylist() for part in parts]


def list_rows(
    found: Analysis, table: str, *, start: int, limit: int, where: pc.Expression | None
) -> tuple[int, list[dict[str, JsonValue]]]:
    """A page of a table, and how many rows it has; with ``where``, of the rows that it selects."""
    if where is None:
        return found.rows(table), _json(found.page(table, start, limit))
    chosen = found.table(table, where=where)
    return chosen.num_rows, _json(chosen.slice(start, limit))


def _json(table: pa.Table) -> list[dict[str, JsonValue]]:
    """Rows as JSON values: NaN and infinity become null."""
    for index, column in enumerate(table.schema):
        if pa.types.is_floating(column.type):
            values = table.column(index)
            table = table.set_column(index, column.name, pc.if_else(pc.is_finite(values), values, None))
    rows: list[dict[str, JsonValue]] = table.to_pylist()
    return rows


def counts(found: Analysis, table: str, by: list[str], where: pc.Expression | None) -> list[dict[str, JsonValue]]:
    """How many rows of a table have which values, the most frequent first, at most `MOST_COUNTED`."""
    rows = found.table(table, by, where)
    grouped = rows.append_column("rows", pa.array(np.ones(rows.num_rows, np.int64))).group_by(by)
    summed = grouped.aggregate([("rows", "sum")]).rename_columns([*by, "rows"])
    ordered = summed.sort_by([("rows", "descending"), *((name, "ascending") for name in by)])
    listed: list[dict[str, JsonValue]] = ordered.slice(0, MOST_COUNTED).to_pylist()
    return listed


def dropped_rows(found: Analysis, embeddings_id: str, decisions: Decisions = MappingProxyType({})) -> IntArray:
    """``(m,) int64``: the rows of an embeddings set that duplicates say to drop, ascending; decisions come first."""
    return Decided(found, decisions).dropped(embeddings_id)

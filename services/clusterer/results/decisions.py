"""What is decided about the rows of duplicates and quality checks: what it adds up to, and lists of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from shoal.errors import InvalidRequest, JsonValue
from shoal.store.analyses import DUPLICATES, Analysis
from shoal.store.annotations import Decision

from clusterer.data.rows import IntArray

Decisions = Mapping[int, Decision]
KEEP, DROP = "keep", "drop"
DROPS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("image_id", pa.string()),
        ("image_path", pa.string()),
        ("label", pa.string()),
        ("group", pa.int64()),
        ("suggested", pa.string()),
        ("decided", pa.string()),
        ("action", pa.string()),
    ]
)
"""A row per image of duplicates that is to be dropped or of which something is decided."""
DECIDED_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("image_id", pa.string()),
        ("image_path", pa.string()),
        ("label", pa.string()),
        ("action", pa.string()),
        ("new_label", pa.string()),
    ]
)
"""A row per image of a quality check of which something is decided."""


@dataclass(frozen=True)
class Decided:
    """An analysis with the decisions about the rows of its set, of two sets the first."""

    found: Analysis
    decisions: Decisions

    def rows_with(self, action: str | None = None) -> IntArray:
        """``(m,) int64``: the rows that are decided, or decided so, ascending."""
        rows = [row for row, each in self.decisions.items() if action is None or each.action == action]
        return np.sort(np.array(rows, np.int64))

    def dropped(self, embeddings_id: str) -> IntArray:
        """``(m,) int64``: the rows of a set that are to be dropped, ascending: as decided, otherwise as suggested."""
        own = embeddings_id == self.found.sets[0]
        suggested = np.empty(0, np.int64)
        if self.found.kind is DUPLICATES:
            of_set = (pc.field("embeddings").cast(pa.string()) == embeddings_id) & ~pc.field("keep")
            suggested = np.sort(self.found.table("members", ["row"], of_set).column("row").to_numpy())
        if not own or not self.decisions:
            return suggested
        return np.setdiff1d(np.union1d(suggested, self.rows_with(DROP)), self.rows_with(KEEP))

    def require(self, rows: list[int]) -> None:
        """Refuse rows that the analysis does not have.

        Raises
        ------
        InvalidRequest
            The message names the first of them.
        """
        first = self.found.sets[0]
        if self.found.kind is DUPLICATES:
            of_set = pc.field("embeddings").cast(pa.string()) == first
            known = self.found.table("members", ["row"], of_set & pc.field("row").isin(rows)).column("row").to_pylist()
            missing = sorted(set(rows) - set(known))
            problem = f"is in no group of {self.found.id}: only images in groups are kept or dropped."
        else:
            count = int(self.found.spec["of"][first]["rows"])
            missing = sorted(row for row in rows if row >= count)
            problem = f"is not a row: {first} has rows 0 to {count - 1}."
        if missing:
            raise InvalidRequest(f"Row {missing[0]} of {first} {problem}", field=str(missing[0]), embeddings=first)

    def summary(self) -> dict[str, int]:
        """How much is decided, and how many images are to be dropped."""
        actions = [each.action for each in self.decisions.values()]
        return {
            "decided": len(self.decisions),
            "keep": actions.count("keep"),
            "drop": actions.count("drop"),
            "labels": sum(1 for each in self.decisions.values() if each.label is not None),
            "drops": len(self.dropped(self.found.sets[0])),
        }

    def table(self, *, only_decided: bool) -> pa.Table:
        """The list of decisions, by row.

        Parameters
        ----------
        only_decided
            Leave out what is only suggested.
        """
        return self._drops(only_decided) if self.found.kind is DUPLICATES else self._decided()

    def paths(self, *, only_decided: bool) -> list[str]:
        """The paths of the images that are to be dropped, by row.

        Raises
        ------
        InvalidRequest
            A path has a line break, which a list of lines cannot hold.
        """
        table = self.table(only_decided=only_decided)
        paths: list[str] = table.filter(pc.equal(table.column("action"), DROP)).column("image_path").to_pylist()
        for path in paths:
            if "\n" in path or "\r" in path:
                raise InvalidRequest(
                    f"The path {path!r} has a line break, so that a list of lines cannot name it. Export the list as "
                    "`csv` or `jsonl`."
                )
        return paths

    def _drops(self, only_decided: bool) -> pa.Table:
        of_set = pc.field("embeddings").cast(pa.string()) == self.found.sets[0]
        chosen = pc.field("row").isin(self.rows_with().tolist())
        chosen = chosen if only_decided else chosen | ~pc.field("keep")
        table = self.found.table("members", None, of_set & chosen).sort_by("row")
        suggested = [KEEP if keep else DROP for keep in table.column("keep").to_pylist()]
        decided = [self._action(row) for row in table.column("row").to_pylist()]
        facts = {
            **{name: table.column(name) for name in ("row", "image_id", "image_path", "label", "group")},
            "suggested": suggested,
            "decided": pa.array(decided, pa.string()),
            "action": [mine or theirs for mine, theirs in zip(decided, suggested, strict=True)],
        }
        return pa.table(facts).cast(DROPS_SCHEMA)

    def _decided(self) -> pa.Table:
        columns = ["row", "image_id", "image_path", "label"]
        chosen = pc.field("row").isin(self.rows_with().tolist())
        table = self.found.table("outliers", columns, chosen).sort_by("row")
        said = [self.decisions[row] for row in table.column("row").to_pylist()]
        facts = {
            **{name: table.column(name) for name in columns},
            "action": pa.array([each.action for each in said], pa.string()),
            "new_label": pa.array([each.label for each in said], pa.string()),
        }
        return pa.table(facts).cast(DECIDED_SCHEMA)

    def _action(self, row: int) -> str | None:
        said = self.decisions.get(row)
        return None if said is None else said.action

    def add_to(self, rows: list[dict[str, JsonValue]]) -> None:
        """Give each row of a page of the API the field ``decision``; null where nothing is said of it."""
        first = self.found.sets[0]
        for row in rows:
            own = row.get("embeddings", first) == first
            said = self.decisions.get(row["row"]) if own else None
            row["decision"] = None if said is None else said.model_dump()

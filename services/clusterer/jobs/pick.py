"""Picks what changes the rows before k-means, and the number of clusters: options are tried on a sample, and all judged
in one space."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Final

import numpy as np
from pydantic import TypeAdapter
from shoal.schemas import ReduceOptions

from clusterer.data.rows import ArrayRows, Rows
from clusterer.jobs.choose import (
    SEARCH_SEEDS,
    Figures,
    expected_numbers,
    fits_of,
    judge,
    sample_neighbours,
    sample_of,
    search_numbers,
)
from clusterer.jobs.plan import Plan
from clusterer.jobs.reduce import Reducing
from clusterer.jobs.workspace import Workspace, short_name
from clusterer.kmeans import Engine
from clusterer.neighbours import Nearest

FEWEST_SAMPLED: Final = 10
"""Rows of a cluster of the sample, at least, on average."""


@dataclass(frozen=True)
class Tried:
    """An option that was tried.

    Attributes
    ----------
    reduce
        The method, with what differs from its defaults; None for plain k-means.
    best
        The number of clusters that keeps the most, with its figures; of equals the smallest.
    numbers
        All numbers of clusters that were tried.
    seconds
        How long it took.
    """

    reduce: str | None
    best: Figures
    numbers: tuple[Figures, ...]
    seconds: float

    def record(self) -> dict[str, object]:
        """As JSON values."""
        numbers = [asdict(each) for each in self.numbers]
        return {"reduce": self.reduce, **asdict(self.best), "seconds": self.seconds, "numbers": numbers}

    @property
    def name(self) -> str:
        """What it is called."""
        return "plain k-means" if self.reduce is None else self.reduce


@dataclass(frozen=True)
class Pick:
    """The picked option, with all that were tried.

    Attributes
    ----------
    at
        Its place among them.
    rows, neighbours
        How many rows were clustered, and how many nearest rows of each were looked at.
    searched
        Whether the number of clusters was left open too.
    """

    at: int
    tried: tuple[Tried, ...]
    rows: int
    neighbours: int
    searched: bool

    @property
    def best(self) -> Tried:
        """The picked option."""
        return self.tried[self.at]

    def record(self) -> dict[str, object]:
        """For spec.json."""
        return {
            "reduce": self.best.reduce,
            "k": self.best.best.k,
            "why": self._why(),
            "rows": self.rows,
            "neighbours": self.neighbours,
            "seeds": list(SEARCH_SEEDS),
            "tried": [each.record() for each in self.tried],
        }

    def _why(self) -> str:
        best = self.best
        others = [each for each in self.tried if each is not best]
        other = max(others, key=lambda each: each.best.neighbours_kept) if self.at == 0 else self.tried[0]
        most = max(len(each.numbers) for each in self.tried)
        numbers = f" and up to {most} numbers of groups" if self.searched else ""

        def said(each: Tried) -> str:
            return f"{each.name} with {each.best.k} groups" if self.searched else each.name

        equal = other.best.neighbours_kept == best.best.neighbours_kept
        keeps = "as many; of equals the simplest is picked" if equal else f"{other.best.neighbours_kept:.3f}"
        return (
            f"Of {len(self.tried)} options{numbers}, {said(best)} keeps the most of the {self.neighbours} images "
            f"nearest to each in its group: a share of {best.best.neighbours_kept:.3f} above chance; {said(other)} "
            f"keeps {keeps}."
        )


@dataclass(frozen=True)
class Picking:
    """Tries the options of a plan.

    Attributes
    ----------
    memory
        Bytes that a search for neighbours may use.
    on_tried
        Called with the number of options done, the numbers of clusters tried in all, and how many are expected.
    on_rows
        Called between blocks of rows.
    """

    plan: Plan
    engine: Engine
    work: Workspace
    memory: int
    on_tried: Callable[[int, int, int], None]
    on_rows: Callable[[int], None]

    def __call__(self, train: Rows) -> tuple[Plan, Pick]:
        """The plan with the picked option and number of clusters."""
        rows, options = sample_of(train), self.plan.tried
        near = sample_neighbours(rows, self.work, self.memory, self.on_rows)
        low, high = self.plan.search or (self._number(rows, train),) * 2
        each_expected = expected_numbers(low, high)
        total = each_expected * len(options)
        tried: list[Tried] = []
        for done, option in enumerate(options):

            def on_number(count: int, done: int = done) -> None:
                self.on_tried(done, done * each_expected + min(count, each_expected), total)

            on_number(0)
            tried.append(self._try(rows, near, option, (low, high), on_number))
        self.on_tried(len(options), total, total)
        at = max(range(len(tried)), key=lambda each: (tried[each].best.neighbours_kept, -each))
        searched = self.plan.search is not None
        k = tried[at].best.k if searched else self.plan.k
        pick = Pick(at, tuple(tried), rows.n, near.rows.shape[1], searched)
        return replace(self.plan, tried=(), reduce=options[at], k=k, search=None), pick

    def _number(self, rows: ArrayRows, train: Rows) -> int:
        """The number of clusters that was sent, as far as a sample has enough rows for it."""
        return min(self.plan.k, train.n if rows.n == train.n else max(2, rows.n // FEWEST_SAMPLED))

    def _try(
        self,
        rows: ArrayRows,
        near: Nearest,
        option: ReduceOptions | None,
        limits: tuple[int, int],
        on_number: Callable[[int], None],
    ) -> Tried:
        """An option: a coarse grid of numbers of clusters, then those between the best one's neighbours."""
        name = f"tried-{'plain' if option is None else short_name(option.text)}"
        kept = self.work.arrays(name)
        if kept is not None:
            return TypeAdapter(Tried).validate_json(str(kept["tried"]))
        started = time.perf_counter()
        space = self._space(rows, near, option)
        found = search_numbers(*limits, lambda k: self._figures(space, near, k), on_number)
        text = None if option is None else option.text
        numbers = tuple(found[k] for k in sorted(found))
        tried = Tried(text, max(numbers, key=lambda each: each.worth), numbers, round(time.perf_counter() - started, 3))
        self.work.keep_arrays(name, {"tried": np.asarray(json.dumps(asdict(tried)))})
        return tried

    def _figures(self, space: Rows, near: Nearest, k: int) -> Figures:
        labels = {seed: fit.labels for seed, fit in fits_of(space, k, self.engine, self.on_rows).items()}
        return Figures(k, *judge(near, labels, k))

    def _space(self, rows: ArrayRows, near: Nearest, option: ReduceOptions | None) -> Rows:
        """The sample as an option changes it."""
        if option is None:
            return rows
        # A sample that is the whole set gives the very neighbours and coordinates that the clustering needs later.
        tag = "" if rows.n == self.plan.train.rows else "sample"
        seed, train = self.plan.seeds[0], self.plan.train.id
        reducing = Reducing(option, train, rows.n, seed, self.work, tag, self.memory, self.on_rows, near)
        return reducing.fit(rows)[1][-1]

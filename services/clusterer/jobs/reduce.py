"""The reduction of a job's rows: the neighbours of the train rows, what is fitted on them, and every set through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from shoal.host import available_cores
from shoal.schemas import ReduceOptions

from clusterer.data.partitions import OnRows
from clusterer.data.rows import ArrayRows, Float32Array, MappedRows, Rows, l2_normalize
from clusterer.jobs.plan import Plan
from clusterer.jobs.workspace import Workspace, short_name
from clusterer.neighbours import Copies, Nearest, Options, nearest_rows
from clusterer.reduce import Fitted, Reduction, SmoothedRows, diffusion_coordinates, umap_coordinates
from clusterer.reduce.smooth import least_similarities, mutual
from clusterer.reduce.spectral import MOST_ROUNDS
from clusterer.reduce.umap import EPOCHS


@dataclass(frozen=True)
class Reducing:
    """A reduction of sets.

    Attributes
    ----------
    options
        As sent.
    train, rows
        Id of the set that it is fitted on, and how many rows it has.
    seed
        Of what starts at random.
    work
        Keeps neighbours and rows.
    tag
        Distinguishes rows of the same sets that were transformed otherwise.
    memory
        Bytes that the search for neighbours may use beside its result.
    on_rows
        Progress: rows of the train set once for its neighbours and once for what is fitted, then those of other sets.
    near
        The nearest rows of every train row, at least as many as count, where they are known.
    """

    options: ReduceOptions
    train: str
    rows: int
    seed: int
    work: Workspace
    tag: str
    memory: int
    on_rows: OnRows
    near: Nearest | None = None

    @classmethod
    def of(cls, plan: Plan, work: Workspace, tag: str, memory: int, on_rows: OnRows) -> Reducing:
        """The reduction of a plan that has one; it depends on the first seed alone."""
        if plan.reduce is None:
            raise ValueError("the plan has no reduction")
        return cls(plan.reduce, plan.train.id, plan.train.rows, plan.seeds[0], work, tag, memory, on_rows)

    def fit(self, rows: Rows) -> tuple[Fitted, list[Rows]]:
        """What the reduction of the train rows ``(n, d)`` is, and these rows before each step and reduced, held."""
        nearest = self._nearest(rows)
        return self._smoothed(rows, nearest) if self.options.method == "smooth" else self._placed(rows, nearest)

    def _placed(self, rows: Rows, nearest: Nearest) -> tuple[Fitted, list[Rows]]:
        options, name = self.options, self._name("coordinates", self.options.text)
        kept = self.work.arrays(name)
        if kept is None:
            found = self._coordinates(nearest, options.component_count or 0)
            copies = Copies.of(rows)
            # Equal rows have the place of the first of them: forces and rounding would move them apart.
            kept = {"coordinates": found if copies is None else found[copies.firsts[copies.sets]]}
            self.work.keep_arrays(name, kept)
        coordinates = np.asarray(kept["coordinates"], np.float32)
        k = nearest.rows.shape[1]
        return Fitted(options.method, k, options.step_count, coordinates=coordinates), [ArrayRows(coordinates)]

    def _coordinates(self, nearest: Nearest, most: int) -> Float32Array:
        if self.options.method == "spectral":
            return diffusion_coordinates(
                nearest, most, self.options.step_count, seed=self.seed, on_round=self._part_of(MOST_ROUNDS)
            )
        return umap_coordinates(
            nearest, most, seed=self.seed, threads=available_cores(), on_epoch=self._part_of(EPOCHS)
        )

    def _part_of(self, total: int, before: int = 0) -> OnRows:
        """Progress of what is fitted, by some unit of which there are ``total``."""
        return lambda done: self.on_rows(self.rows + self.rows * (before + done) // total)

    def _after(self, before: int) -> OnRows:
        return lambda done: self.on_rows(before + done)

    def _smoothed(self, rows: Rows, nearest: Nearest) -> tuple[Fitted, list[Rows]]:
        least = least_similarities(nearest)
        steps = self.options.step_count
        neighbours = mutual(nearest, least)
        reduced: list[Rows] = [MappedRows(rows, l2_normalize, rows.dim)]
        for step, name in enumerate(self._steps()):
            report = self._part_of(steps * self.rows, step * self.rows)
            reduced.append(self.work.hold(name, SmoothedRows(reduced[-1], neighbours), report))
        k = nearest.rows.shape[1]
        return Fitted("smooth", k, steps, least, neighbours if steps > 1 else None), reduced

    def sets(self, rows: Mapping[str, Rows]) -> tuple[dict[str, Rows], Fitted]:
        """Every set reduced, held; the train set first, which the others are reduced by."""
        fitted, (*steps, train) = self.fit(rows[self.train])
        found = {self.train: train}
        if len(rows) > 1:
            options = Options(memory_limit=self.memory, folder=self.work.made_folder())
            reduction = Reduction.of(fitted, rows[self.train], options, steps)
            done = 2 * self.rows
            for name, each in rows.items():
                if name != self.train:
                    view = MappedRows(each, reduction, reduction.width)
                    found[name] = self.work.hold(self._reduced(name), view, self._after(done))
                    done += each.n
        for each_step in self._steps()[:-1]:
            self.work.release(each_step)
        return {name: found[name] for name in rows}, fitted

    def release(self, rows: Mapping[str, Rows]) -> None:
        """Remove the files of what `sets` held."""
        for name in (*self._steps(), *map(self._reduced, rows)):
            self.work.release(name)

    def _steps(self) -> list[str]:
        """The files of averaged rows, by step."""
        # An attempt that dies leaves files behind, which a reduction with other options must not read.
        steps = self.options.step_count if self.options.method == "smooth" else 0
        return [self._name("smoothed", f"{self.options.text} {step}") for step in range(steps)]

    def _reduced(self, name: str) -> str:
        """The file of the rows of a set."""
        return self._name("reduced", f"{self.options.text} {name}")

    def _nearest(self, rows: Rows) -> Nearest:
        """The nearest rows of every train row, or those that an earlier attempt kept."""
        k = self.options.neighbour_count
        name = self._name("nearest", k)
        kept = self.work.arrays(name)
        if kept is not None:
            return Nearest(kept["rows"], kept["similarity"])
        if self.near is not None:
            rows_of, similarity = self.near.rows[:, :k], self.near.similarity[:, :k]
            found = Nearest(np.ascontiguousarray(rows_of), np.ascontiguousarray(similarity))
        else:
            folder = self.work.folder(self._name("search", k))
            found = nearest_rows(rows, k, Options(memory_limit=self.memory, folder=folder, on_rows=self.on_rows))
        self.work.keep_arrays(name, {"rows": found.rows.astype(np.int32), "similarity": found.similarity})
        return found

    def _name(self, what: str, which: object) -> str:
        return f"{what}-{short_name(self.tag, str(which))}"

"""The map of a clustering: a place for every row of every scored set, by landmarks of the train set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clusterer.data.partitions import OnRows, Partition, joined, partitions_of
from clusterer.data.rows import Float32Array, IntArray, Rows
from clusterer.jobs.memory import Placement, Problem
from clusterer.jobs.plan import Plan
from clusterer.jobs.steps import Assignments
from clusterer.jobs.workspace import Workspace
from clusterer.map import MOST_LANDMARKS, Layout, Placer, choose_landmarks, lay_out
from clusterer.map.kernel import PlainKernel, open_kernel
from clusterer.map.layout import STEPS

FEWEST_LANDMARKS: Final = 256
MOST_WITHOUT_KERNEL: Final = 2000
"""The most landmarks where numpy computes the forces."""
PER_LANDMARK_VALUE: Final = 24
"""Bytes of each value of a landmark: the row, scaled and in panels, with copies while these are made."""
PER_LANDMARK: Final = 2048
"""Bytes of a landmark's neighbours, forces and place."""
PER_PLACED_ROW: Final = 64
"""Bytes of a row's place, and of its order in its cluster."""
KEPT: Final = "map"

OnDone = Callable[[int, int], None]
"""Called with what is done, and with all there is to do: landmarks and rows."""


def most_landmarks(problem: Problem, placement: Placement) -> int:
    """How many landmarks fit in the memory that is left beside rows and sketches."""
    held = problem.row_bytes if placement.rows_in_memory else 0
    kept = problem.sketch_bytes if placement.keep_bytes else 0
    results = problem.stages()["assign"] + PER_PLACED_ROW * problem.all_rows
    left = placement.limit - problem.process_bytes - held - kept - results
    fitting = left // (PER_LANDMARK_VALUE * problem.dim + PER_LANDMARK)
    return min(MOST_LANDMARKS, max(FEWEST_LANDMARKS, fitting))


def place_sets(
    plan: Plan,
    rows: Mapping[str, Rows],
    assignments: Assignments,
    best_seed: int,
    work: Workspace,
    most: int,
    on_done: OnDone,
) -> dict[str, Float32Array]:
    """The places ``(n, 2)`` of each scored set's rows, by embeddings id.

    Parameters
    ----------
    rows
        Every set, transformed.
    work
        Keeps the layout for the next attempt.
    most
        The most landmarks.
    """
    kernel = open_kernel()
    if isinstance(kernel, PlainKernel):
        most = min(most, MOST_WITHOUT_KERNEL)
    train = assignments[plan.train.id][best_seed]
    landmarks = choose_landmarks(train.labels, train.distance, most, best_seed)
    total = len(landmarks) + sum(each.rows for each in plan.scored)
    values = rows[plan.train.id].take(landmarks)
    layout = _kept(work, landmarks)
    if layout is None:
        layout = lay_out(
            values, kernel, seed=best_seed, on_step=lambda step: on_done(len(landmarks) * step // STEPS, total)
        )
        work.keep_arrays(KEPT, {"landmarks": landmarks, "places": layout.places, "spacing": layout.spacing})
    done, placed = len(landmarks), {}
    for each in plan.scored:
        own = landmarks if each.id == plan.train.id else np.empty(0, np.int64)
        if len(own) < each.rows:
            step, report = PlaceStep(values, layout, done), partial(_after, on_done, done, total)
            places = partitions_of(rows[each.id]).run(step, on_rows=report)
            placed[each.id] = joined(places)
        else:
            placed[each.id] = np.empty((each.rows, 2), np.float32)
        placed[each.id][own] = layout.places[: len(own)]
        done += each.rows
        on_done(done, total)
    return placed


@dataclass(frozen=True)
class PlaceStep:
    """The places ``(m, 2) float32`` of the rows of a partition.

    Attributes
    ----------
    landmarks, layout
        As of `Placer`.
    before
        Rows of other sets, whose numbers come first.
    """

    landmarks: Float32Array
    layout: Layout
    before: int

    def __call__(self, partition: Partition, on_rows: OnRows) -> Float32Array:
        placer = Placer(self.landmarks, self.layout, open_kernel())
        places = np.empty((partition.rows.n, 2), np.float32)
        for chunk in partition.chunks():
            for first, batch in partition.batches(chunk, on_rows):
                number = self.before + partition.first + first
                places[first : first + len(batch)] = placer.place(batch, np.arange(number, number + len(batch)))
        return places


def _after(on_done: OnDone, before: int, total: int, rows: int) -> None:
    on_done(before + rows, total)


def _kept(work: Workspace, landmarks: IntArray) -> Layout | None:
    """The layout that an earlier attempt kept, of the same landmarks."""
    arrays: Mapping[str, NDArray[np.generic]] = work.arrays(KEPT) or {}
    if {"landmarks", "places", "spacing"} - set(arrays) or not np.array_equal(arrays["landmarks"], landmarks):
        return None
    return Layout(np.asarray(arrays["places"], np.float32), np.asarray(arrays["spacing"], np.float32))

"""The points of a sweep, each a checked plan. Shared by API and worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from shoal.deadline import Deadline
from shoal.errors import InvalidRequest
from shoal.schemas import SweepRequest
from shoal.schemas.execution import on_cluster
from shoal.store import Store

from clusterer.jobs.plan import (
    Plan,
    make_plan,
    require_components,
    require_divisible,
    resolve_clusters,
    resolve_reduce,
    resolve_seeds,
)
from clusterer.jobs.sets import EmbeddingSets


@dataclass(frozen=True)
class Point:
    """One combination of a sweep.

    Attributes
    ----------
    index
        Its number in the order of the request's combinations: the same in every attempt.
    plan
        The same as that of a clustering job.
    """

    index: int
    plan: Plan

    @property
    def space(self) -> tuple[object, bool]:
        """Points of the same embeddings and normalisation share the reads of the data and the PCA."""
        return self.plan.request.embeddings, self.plan.request.normalize

    @property
    def projection(self) -> tuple[bool, int, bool]:
        """Points of the same space and projection share the projected rows: most components first, no PCA last."""
        pca, components = self.plan.request.pca, self.plan.components
        return (True, 0, False) if pca is None or components is None else (False, -components, pca.whiten)

    @property
    def reduction(self) -> str:
        """Points of the same space and projection with the same reduction share the reduced rows; empty without one."""
        reduce = self.plan.reduce
        return "" if reduce is None else reduce.model_dump_json()


def plan_points(
    store: Store, request: SweepRequest, data: Path | None = None, *, deadline: Deadline | None
) -> tuple[Point, ...]:
    """Check every combination against the store.

    The embeddings, labels and class maps are read once each, however many combinations there are.

    Parameters
    ----------
    deadline
        Of the request; None for no limit.

    Raises
    ------
    ShoalError
        As `clusterer.jobs.plan.make_plan`, for the first invalid combination.
    """
    if request.reduce is not None and on_cluster(request.execution):
        raise InvalidRequest(
            "A sweep with `reduce` runs in one process. Leave it out, or leave `execution` out.", field="reduce"
        )
    sets = EmbeddingSets(store, data, deadline=deadline)
    found: list[Point] = []
    base: Plan | None = None
    for index, each in enumerate(request.points()):
        if base is None or base.request.embeddings != each.embeddings:
            base = make_plan(store, each, deadline=deadline, sets=sets)
        require_components(each, base.train)
        require_divisible(each, request.execution)
        k = resolve_clusters(each, base.train, base.train_classes)
        seeds = resolve_seeds(each, bool(base.train_classes))
        found.append(Point(index, replace(base, request=each, k=k, seeds=seeds, reduce=resolve_reduce(each)[1])))
    return tuple(found)


def by_space(points: tuple[Point, ...]) -> Iterator[list[Point]]:
    """Points that share a space, those of one projection and reduction beside each other, few clusters before many."""
    for _, group in groupby(points, key=lambda point: point.space):
        yield sorted(group, key=lambda point: (point.projection, point.reduction, point.plan.k))

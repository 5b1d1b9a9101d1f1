"""Groups on the graph of nearest rows in a job: kept neighbours, a search per seed, votes for other rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from shoal.errors import ClustersInvalid, JsonValue
from shoal.host import available_cores
from shoal.schemas import MAX_CLUSTERS, GraphOptions
from shoal.schemas.graph import NOISE

from clusterer.data.partitions import OnRows
from clusterer.data.rows import ChosenRows, Float32Array, IntArray, LabelArray, Rows
from clusterer.graph import GraphStep, Near, Voters, among, communities, dense_groups, near_places
from clusterer.graph.communities import import_leiden
from clusterer.graph.vote import joined, measured
from clusterer.jobs.plan import Plan
from clusterer.jobs.workspace import Workspace, short_name
from clusterer.kmeans import KMeansFit
from clusterer.kmeans.assigned import Assigned
from clusterer.kmeans.engine import sum_by_label
from clusterer.kmeans.fit import Run
from clusterer.kmeans.lloyd import Fit
from clusterer.neighbours import Copies, Options, nearest_rows
from clusterer.neighbours.work import Arrays

FEWEST_DISTINCT: Final = 3
"""Rows that differ from each other, at least, so that there can be two groups."""


@dataclass(frozen=True)
class GraphFit:
    """The groups of one seed.

    Attributes
    ----------
    voters
        Give other rows their group.
    assigned
        The train rows; noise is `NOISE`.
    modularity
        What Leiden maximised; None otherwise.
    parts
        How many parts the pairs of nearest rows leave unconnected; None where it does not matter.
    fit
        The same as k-means would describe it: centroids are the mean rows of the groups.
    """

    voters: Voters
    assigned: Assigned
    modularity: float | None
    parts: int | None
    fit: KMeansFit

    def record(self) -> dict[str, JsonValue]:
        """For run.json."""
        found: dict[str, JsonValue] = {"groups": self.voters.groups, "neighbours": self.voters.k}
        if self.modularity is not None:
            found["modularity"] = self.modularity
        return found if self.parts is None else {**found, "parts": self.parts}


GraphFits = Mapping[int, GraphFit]
"""By seed."""


def options_of(plan: Plan) -> GraphOptions:
    """As sent, or the defaults."""
    return plan.request.graph or GraphOptions()


def neighbours_of(plan: Plan) -> int:
    """How many nearest rows of each row are needed; 0 for none."""
    return options_of(plan).neighbour_count(plan.request.method) if plan.by_graph else 0


@dataclass(frozen=True)
class Grouping:
    """A search for groups among the train rows of a plan.

    Attributes
    ----------
    work
        Keeps neighbours and labels.
    tag
        Distinguishes rows of the same set that were transformed or reduced otherwise.
    memory
        Bytes that the search for neighbours may use.
    on_rows
        Rows whose neighbours are found, or that are read; it may raise, where the job ends early.
    """

    plan: Plan
    work: Workspace
    memory: int
    on_rows: OnRows
    tag: str = ""

    def fit(self, rows: Rows) -> dict[int, GraphFit]:
        """The groups of ``(n, d)`` rows with each seed.

        Raises
        ------
        BackendNotInstalled
            The library of the method is not installed.
        ClustersInvalid
            There are fewer than two groups, or too many.
        """
        if self.plan.request.method == "leiden":
            import_leiden()
        copies = Copies.of(rows)
        distinct = rows if copies is None else ChosenRows(rows, copies.firsts)
        if distinct.n < FEWEST_DISTINCT:
            has = "has rows that are all equal" if distinct.n == 1 else f"has {distinct.n} different rows"
            raise self._refusal(f"{has}; groups need at least {FEWEST_DISTINCT} different ones", "Embed more images")
        near = self._near(distinct)
        return {seed: self._fit(rows, copies, distinct, near, seed) for seed in self.plan.seeds}

    def _near(self, rows: Rows) -> Near:
        """The nearest rows of every row, or those that an earlier attempt kept."""
        k = neighbours_of(self.plan)
        if self.plan.reduced_places:
            return near_places(rows, k)
        name = self._name("nearest", k)
        kept = self.work.arrays(name)
        if kept is None or {"rows", "distance"} - set(kept) or len(kept["rows"]) != rows.n:
            folder = self.work.folder(self._name("search", k))
            found = Near.of(
                nearest_rows(rows, k, Options(memory_limit=self.memory, folder=folder, on_rows=self.on_rows))
            )
            kept = {"rows": found.rows.astype(np.int32), "distance": found.distance}
            self.work.keep_arrays(name, kept)
        return Near(kept["rows"].astype(np.int64), kept["distance"])

    def _fit(self, rows: Rows, copies: Copies | None, distinct: Rows, near: Near, seed: int) -> GraphFit:
        name = self._name("groups", f"{options_of(self.plan).model_dump_json()} {seed}")
        kept = self.work.arrays(name)
        if kept is None or {"labels", "value"} - set(kept) or len(kept["labels"]) != distinct.n:
            kept = self._groups(distinct, near, seed)
            self.work.keep_arrays(name, kept)
        method, labels = self.plan.request.method, kept["labels"]
        groups = int(labels.max(initial=NOISE)) + 1
        self._require(groups, near)
        options, dense = options_of(self.plan), "core" in kept
        voters = Voters(
            method=method,
            k=near.rows.shape[1],
            labels=labels,
            groups=groups,
            firsts=None if copies is None else copies.firsts,
            samples=options.samples if dense else 0,
            core=kept.get("core"),
            reach=kept.get("reach"),
        )
        of_row = labels if copies is None else labels[copies.sets]
        lead = voters.lead_of(near)
        assigned, centroids = self._measured(rows, of_row, lead if copies is None else lead[copies.sets], groups)
        inside = np.where(of_row == NOISE, groups, of_row).astype(np.int32)
        run = Run(0, method, Fit(centroids, inside, assigned.inertia, (), True))
        value = float(kept["value"])
        return GraphFit(
            voters, assigned, None if dense else value, int(value) if dense else None, KMeansFit(run, (run,))
        )

    def _groups(self, rows: Rows, near: Near, seed: int) -> Arrays:
        options = options_of(self.plan)
        if self.plan.request.method == "leiden":
            found = communities(near, options.gamma, seed)
            return {"labels": by_size(found.labels), "value": np.asarray(found.modularity)}
        dense = dense_groups(
            rows,
            near,
            options.smallest,
            options.samples,
            places=self.plan.reduced_places,
            threads=available_cores(),
            on_part=lambda share: self.on_rows(round(share * rows.n)),
        )
        labels = by_size(dense.labels)
        order = np.empty(len(dense.reach), np.int64)
        order[labels[dense.labels >= 0]] = dense.labels[dense.labels >= 0]
        return {"labels": labels, "core": dense.core, "reach": dense.reach[order], "value": np.asarray(dense.parts)}

    def _measured(
        self, rows: Rows, labels: LabelArray, margin: Float32Array, groups: int
    ) -> tuple[Assigned, Float32Array]:
        """The train rows with their groups, and the mean rows of the groups."""
        sums = np.zeros((groups + 1, rows.dim))
        for first, batch in rows.batches():
            own = labels[first : first + len(batch)]
            sums += sum_by_label(batch, np.where(own == NOISE, groups, own), groups + 1)
            self.on_rows(first + len(batch))
        counts = np.bincount(labels[labels != NOISE], minlength=groups)
        centroids = (sums[:groups] / counts[:, None]).astype(np.float32)
        parts = []
        for first, batch in rows.batches():
            part = slice(first, first + len(batch))
            parts.append(measured(batch, labels[part], margin[part], centroids))
            self.on_rows(first + len(batch))
        return joined(parts), centroids

    def _require(self, groups: int, near: Near) -> None:
        method, (rows, neighbours) = self.plan.request.method, near.rows.shape
        if groups > MAX_CLUSTERS:
            remedy = "lower `graph.resolution`" if method == "leiden" else "larger `graph.min_cluster_size`"
            raise self._refusal(f"falls into {groups} groups; {MAX_CLUSTERS} are the most", f"Send a {remedy}")
        if groups >= 2:
            return
        options = options_of(self.plan)
        if method == "leiden":
            fewer = ""
            if neighbours == rows - 1:
                fewer = f", or `graph.neighbours` below {neighbours}, since all rows are connected with each other"
            raise self._refusal(
                "is one group for `leiden`",
                f"Send a higher `graph.resolution` than {options.gamma:g}, such as {2 * options.gamma:g}{fewer}",
            )
        remedies = [
            f"send `graph.{name}` below {value}"
            for name, value in (("min_cluster_size", options.smallest), ("min_samples", options.samples))
            if value > 2
        ]
        if not self.plan.reduced_places:
            remedies.append("send `reduce`: `umap`")
        remedy = ", ".join([*remedies, "or use `leiden`" if remedies else "use `leiden`"])
        raise self._refusal(
            f"has no two groups for `hdbscan`: all {rows} different rows are noise",
            remedy[:1].upper() + remedy[1:],
        )

    def _refusal(self, problem: str, remedy: str) -> ClustersInvalid:
        train = self.plan.train
        return ClustersInvalid(
            f"The train set {train.id!r} {problem}. {remedy}.", field="method", embeddings=train.id, rows=train.rows
        )

    def _name(self, what: str, which: object) -> str:
        return f"graph-{what}-{short_name(self.tag, self.plan.request.method if what == 'groups' else '', str(which))}"


def by_size(labels: LabelArray) -> LabelArray:
    """The same groups, numbered from the largest to the smallest, of equals the one of the first row first."""
    groups = int(labels.max(initial=NOISE)) + 1
    inside = labels >= 0
    sizes = np.bincount(labels[inside], minlength=groups)
    firsts: IntArray = np.full(groups, len(labels), np.int64)
    np.minimum.at(firsts, labels[inside], np.flatnonzero(inside))
    place = np.empty(groups + 1, np.int32)
    place[np.lexsort((firsts, -sizes))] = np.arange(groups)
    place[NOISE] = NOISE
    return place[labels]


def best_seed(plan: Plan, fits: GraphFits) -> int:
    """The seed of the highest modularity; the first of equals, and where there is none."""
    return max(plan.seeds, key=lambda seed: fits[seed].modularity or 0.0)


def found_plan(plan: Plan, fits: GraphFits) -> Plan:
    """The plan with the numbers of groups that were found."""
    found = {seed: each.voters.groups for seed, each in fits.items()}
    best = best_seed(plan, fits)
    return replace(plan, k=found[best], found=found, noisy=fits[best].voters.noisy)


def assign_sets(
    plan: Plan, rows: Mapping[str, Rows], fits: GraphFits, work: Workspace, memory: int, on_rows: OnRows
) -> dict[str, dict[int, Assigned]]:
    """The groups of every set with every seed: the train rows' own, and of others those that their neighbours vote for.

    Noise is one more group behind the others here, so that rows can be counted by group.
    """
    train = rows[plan.train.id]
    found = {plan.train.id: {seed: _with_noise_last(each.assigned, each) for seed, each in fits.items()}}
    others = {name: each for name, each in rows.items() if name != plan.train.id}
    if others:
        voters = {seed: each.voters for seed, each in fits.items()}
        one = voters[plan.seeds[0]]
        distinct = train if one.firsts is None else ChosenRows(train, one.firsts)
        options = Options(memory_limit=memory, folder=work.made_folder())
        space = among(distinct, one.k, options, places=plan.reduced_places)
        step = GraphStep(voters, {seed: each.fit.best.fit.centroids for seed, each in fits.items()}, space)
        done = train.n
        for name, each in others.items():
            assigned = work.assign(name, each, step, partial(_after, done, on_rows))
            found[name] = {seed: _with_noise_last(assigned[seed], fits[seed]) for seed in fits}
            done += each.n
    return {name: found[name] for name in rows}


def _after(before: int, on_rows: OnRows, done: int) -> None:
    on_rows(before + done)


def _with_noise_last(assigned: Assigned, fit: GraphFit) -> Assigned:
    labels = np.where(assigned.labels == NOISE, fit.voters.groups, assigned.labels).astype(np.int32)
    return replace(assigned, labels=labels)

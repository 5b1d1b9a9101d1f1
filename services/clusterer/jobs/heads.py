"""Heads in a job: their options, one run per seed, continued where an attempt died, and what the other stages need."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from shoal.errors import JsonValue
from shoal.memory import release_freed_memory
from shoal.schemas import HeadOptions

from clusterer.data.partitions import OnRows
from clusterer.data.rows import LabelArray, Rows
from clusterer.evaluation.agreement import BLOCK_ROWS, SAMPLE_ROWS, Neighbourhood
from clusterer.evaluation.probe import LinearProbe
from clusterer.heads.head import Head, Means
from clusterer.heads.temi import BOTTLENECK, HIDDEN, Temi, TemiOptions
from clusterer.heads.training import WATCHED_ROWS, Check, Schedule, Trained, Trainer, open_device, train
from clusterer.heads.turtle import Turtle, TurtleOptions
from clusterer.jobs.plan import Plan
from clusterer.jobs.workspace import Workspace
from clusterer.kmeans import KMeansFit
from clusterer.kmeans.fit import Run
from clusterer.kmeans.lloyd import Fit
from clusterer.neighbours import Options, nearest_rows

if TYPE_CHECKING:
    import torch

T = TypeVar("T", int, float)
NOTHING: Final[Mapping[str, float]] = {}
TURTLE_STEPS, TURTLE_ROWS = 6000, 10_000
TEMI_PASSES, TEMI_FEWEST_STEPS, TEMI_ROWS, NEIGHBOURS = 100, 1000, 1024, 50
RUNS: Final = 5
"""Of a seed, at most, where the job finds how equal its clusters are."""
SURE: Final = 0.999
"""Agreement of a run after which no further value is tried."""
KEEP_EVERY_S: Final = 10.0
"""Seconds between two saves of a run: the most work that a crash loses."""
PARAMETER_COPIES: Final = 9
"""Of the weights: gradients, Adam's two moments, the teacher, and a save in the making."""


@dataclass(frozen=True)
class HeadFit:
    """The head of one seed.

    Attributes
    ----------
    trained
        How its run ended.
    score
        Share of held-out rows that a linear classifier, trained on the clusters of the others, puts into theirs. It
        needs no labels.
    agreement
        How much more often than by chance nearest rows are in one cluster; see `Neighbourhood.agreement`.
    tried
        Where the job finds how equal clusters are: the option, and the value of this run.
    fit
        The same as k-means would describe it: centroids are the mean rows of the clusters.
    """

    trained: Trained
    score: float
    agreement: float
    tried: Mapping[str, float]
    fit: KMeansFit

    @property
    def head(self) -> Head:
        """The head."""
        return self.trained.head

    def record(self) -> dict[str, JsonValue]:
        """For run.json."""
        trained = self.trained
        return {
            "steps": trained.history[-1].step,
            "stopped_early": trained.stopped,
            "loss": trained.loss,
            "probe_accuracy": self.score,
            "neighbour_agreement": self.agreement,
            **self.tried,
        }

    @property
    def filled(self) -> int:
        """Clusters that have rows."""
        return len(np.unique(self.fit.best.fit.labels))

    @property
    def order(self) -> tuple[int, float, float]:
        """Of runs with several values, the greatest is the best: it uses most clusters, then agrees most."""
        return self.filled, self.agreement, self.score


HeadFits = Mapping[int, HeadFit]
"""By seed."""


@dataclass(frozen=True)
class Equality:
    """The option of a method that says how equal clusters are.

    Attributes
    ----------
    option
        Its name.
    equal
        The paper's value, which makes them about equal.
    free
        A value that leaves most of them empty; halfway in ratio to it lies the second value that is tried.
    most
        The greatest value that is allowed.
    """

    option: str
    equal: float
    free: float
    most: float


EQUALITY: Final = {"turtle": Equality("entropy", 10.0, 0.1, 10_000.0), "temi": Equality("beta", 0.6, 1.35, 1.0)}


@dataclass(frozen=True)
class Hooks:
    """Where a job hears of its heads; each may raise, where the job ends early.

    Attributes
    ----------
    neighbours, rows
        Get the number of rows done, of the search for neighbours and of passes over the rows.
    step
        Gets the number of runs done, the number of steps done with the next one, and its last check.
    kept
        Gets both numbers once what was reached is kept.
    """

    neighbours: OnRows
    rows: OnRows
    step: Callable[[int, int, Check | None], None]
    kept: Callable[[int, int], None]


def schedule_of(plan: Plan) -> Schedule:
    """How long each run goes on."""
    sent, n = plan.request.heads or HeadOptions(), plan.train.rows
    if plan.request.method == "turtle":
        return Schedule(sent.steps or TURTLE_STEPS, sent.batch_rows or TURTLE_ROWS, sent.early_stop)
    batch = sent.batch_rows or TEMI_ROWS
    steps = max(TEMI_FEWEST_STEPS, math.ceil(TEMI_PASSES * n / batch))
    return Schedule(sent.steps or steps, batch, sent.early_stop)


def runs_of(plan: Plan) -> int:
    """Runs of each seed, at most: several where the job finds how equal clusters are."""
    sent = getattr(plan.request.heads or HeadOptions(), EQUALITY[plan.request.method].option)
    return RUNS if sent == "auto" or (sent is None and plan.request.method == "turtle") else 1


def turtle_options(sent: HeadOptions, tried: Mapping[str, float] = NOTHING) -> TurtleOptions:
    """The options as sent or tried, or their defaults."""
    usual = TurtleOptions()
    return TurtleOptions(
        _or(sent.learning_rate, usual.learning_rate),
        _or(sent.inner_steps, usual.inner_steps),
        _number(tried.get("entropy", sent.entropy), usual.entropy),
    )


def temi_options(sent: HeadOptions, tried: Mapping[str, float] = NOTHING) -> TemiOptions:
    """The options as sent or tried, or their defaults."""
    usual = TemiOptions()
    return TemiOptions(
        _or(sent.learning_rate, usual.learning_rate),
        _or(sent.heads, usual.heads),
        _number(tried.get("beta", sent.beta), usual.beta),
        _or(sent.temperature, usual.temperature),
    )


def neighbours_of(plan: Plan) -> int:
    """How many nearest rows of each row are needed; 0 for none."""
    if plan.request.method != "temi":
        return 0
    return (plan.request.heads or HeadOptions()).neighbours or NEIGHBOURS


def step_values(plan: Plan) -> int:
    """Values of the largest array that a step makes."""
    batch = min(schedule_of(plan).batch_rows, plan.train.rows)
    if plan.request.method == "turtle":
        return batch * max(plan.reduced_dim or plan.components or plan.train.dim, plan.k)
    return 2 * batch * temi_options(plan.request.heads or HeadOptions()).heads * max(HIDDEN, plan.k)


def training_bytes(plan: Plan) -> int:
    """Memory of a run on the CPU, without PyTorch itself and without the rows."""
    dim, k, n = plan.reduced_dim or plan.components or plan.train.dim, plan.k, plan.train.rows
    batch = min(schedule_of(plan).batch_rows, n)
    watched = min(WATCHED_ROWS, n) * (dim + k)
    if plan.request.method == "turtle":
        values = 2 * batch * dim + 8 * batch * k * len(plan.widths) + 2 * PARAMETER_COPIES * dim * k
    else:
        heads = temi_options(plan.request.heads or HeadOptions()).heads
        weights = heads * (dim * HIDDEN + HIDDEN * BOTTLENECK + BOTTLENECK * k)
        values = 4 * batch * dim + 2 * heads * batch * (3 * HIDDEN + 4 * BOTTLENECK + 7 * k)
        values += PARAMETER_COPIES * weights + min(WATCHED_ROWS, n) * (HIDDEN + BOTTLENECK)
    means = 6 * k * dim
    neighbourhood = min(SAMPLE_ROWS, n) * (dim + BLOCK_ROWS)
    return 4 * max(values + watched + means, neighbourhood)


def fit_heads(
    plan: Plan, train_rows: Rows, device: str, work: Workspace, search_bytes: int, hooks: Hooks, tag: str = ""
) -> dict[int, HeadFit]:
    """Train a head with each seed.

    Parameters
    ----------
    train_rows
        Transformed.
    device
        See `open_device`.
    search_bytes
        Memory that the search for neighbours may use.
    tag
        Distinguishes several plans of one job.

    Raises
    ------
    BackendNotInstalled, EngineUnavailable
        There is no PyTorch, or no such device.
    JobError
        The loss became NaN or infinite.
    """
    where = open_device(device, step_values(plan))
    nearest = _nearest(plan, train_rows, work, search_bytes, hooks, tag)
    around, runs = Neighbourhood.of(train_rows), runs_of(plan)
    fits: dict[int, HeadFit] = {}
    for place, seed in enumerate(plan.seeds):

        def fit(number: int, tried: Mapping[str, float], seed: int = seed, place: int = place) -> HeadFit:
            name, run = f"head{tag}-{seed}" + (f"-{number}" if tried else ""), place * runs + number
            # The trainer is held no longer than this takes.
            trained = _trained(
                plan, _trainer(plan, train_rows, nearest, seed, where, tried), train_rows, work, name, run, hooks
            )
            release_freed_memory()  # Pieces that PyTorch freed do not fit what the next run needs.
            return _described(plan, trained, train_rows, around, tried, hooks)

        fits[seed] = fit(0, NOTHING) if runs == 1 else _most_agreeing(plan, fit)
    return fits


def _most_agreeing(plan: Plan, fit: Callable[[int, Mapping[str, float]], HeadFit]) -> HeadFit:
    """The best run by `HeadFit.order` on the way to the value that makes clusters least equal, none being empty.

    Below it groups get no cluster of their own; above it large groups are cut, through the midst of nearest rows.
    """
    between = EQUALITY[plan.request.method]
    full, empty = between.equal, between.free
    best = fit(0, {between.option: full})
    for number in range(1, RUNS):
        if best.filled == plan.k and best.agreement >= SURE:
            break
        value = min(round(math.sqrt(full * empty), 4), between.most)
        found = fit(number, {between.option: value})
        full, empty = (full, value) if found.filled < best.filled else (value, empty)
        best = max(best, found, key=lambda each: each.order)
    return best


def _trained(plan: Plan, trainer: Trainer, rows: Rows, work: Workspace, name: str, run: int, hooks: Hooks) -> Trained:
    kept = work.arrays(name)
    return train(
        trainer,
        rows,
        schedule_of(plan),
        on_step=partial(hooks.step, run),
        keep=_Keeper(work, name, run, hooks),
        kept=None if kept is None or "state" not in kept else kept["state"].tobytes(),
    )


def _described(
    plan: Plan, trained: Trained, rows: Rows, around: Neighbourhood, tried: Mapping[str, float], hooks: Hooks
) -> HeadFit:
    means = Means.of(rows, trained.head, hooks.rows)
    labels = means.labels.astype(np.int64)
    score = LinearProbe(rows, labels, plan.k).held_out_accuracy
    return HeadFit(trained, score, around.agreement(labels, plan.k), tried, _as_fit(means, trained))


def best_seed(plan: Plan, heads: HeadFits) -> int:
    """The seed of the best head, without labels: with TURTLE the one whose clusters a linear classifier learns best,
    with TEMI the one of the lowest loss, which also decides between equals. Losses of different options do not
    compare: where several were tried it is the run that agrees most with nearest rows."""
    if runs_of(plan) > 1:
        return max(plan.seeds, key=lambda seed: heads[seed].order)
    if plan.request.method == "turtle":
        return max(plan.seeds, key=lambda seed: (heads[seed].score, -heads[seed].trained.loss))
    return min(plan.seeds, key=lambda seed: heads[seed].trained.loss)


class _Keeper:
    """Keeps the state of one run, now and then and at its end."""

    def __init__(self, work: Workspace, name: str, place: int, hooks: Hooks) -> None:
        self._work, self._name, self._place, self._hooks = work, name, place, hooks
        self._last = time.monotonic()

    def __call__(self, state: Callable[[], bytes], done: int, *, last: bool) -> None:
        if not last and time.monotonic() - self._last < KEEP_EVERY_S:
            return
        self._work.keep_arrays(self._name, {"state": np.frombuffer(state(), np.uint8)})
        self._last = time.monotonic()
        self._hooks.kept(self._place, done)


def _nearest(plan: Plan, rows: Rows, work: Workspace, search_bytes: int, hooks: Hooks, tag: str) -> LabelArray | None:
    """``(n, m) int32``: the nearest other rows of each row; None where none are needed."""
    count = neighbours_of(plan)
    if not count:
        return None
    name = f"head-nearest{tag}"
    kept = work.arrays(name)
    if kept is not None and "rows" in kept:
        found: LabelArray = kept["rows"]
        return found
    options = Options(memory_limit=search_bytes, folder=work.folder(f"head-search{tag}"), on_rows=hooks.neighbours)
    found = nearest_rows(rows, count, options).rows.astype(np.int32)
    work.keep_arrays(name, {"rows": found})
    return found


def _trainer(
    plan: Plan,
    rows: Rows,
    nearest: LabelArray | None,
    seed: int,
    device: torch.device,
    tried: Mapping[str, float],
) -> Trainer:
    sent, schedule = plan.request.heads or HeadOptions(), schedule_of(plan)
    if nearest is None:
        apart = plan.components is None and plan.reduce is None
        widths = plan.widths if apart else (rows.dim,)
        return Turtle(
            rows, plan.k, widths, turtle_options(sent, tried), batch_rows=schedule.batch_rows, seed=seed, device=device
        )
    return Temi(
        rows,
        plan.k,
        nearest,
        temi_options(sent, tried),
        steps=schedule.steps,
        batch_rows=schedule.batch_rows,
        seed=seed,
        device=device,
    )


def _as_fit(means: Means, trained: Trained) -> KMeansFit:
    fit = Fit(means.centroids, means.labels, means.inertia, (), trained.stopped)
    run = Run(0, "head", fit, trained.resumed_at)
    return KMeansFit(run, (run,))


def _or(sent: T | None, usual: T) -> T:
    return usual if sent is None else sent


def _number(sent: float | str | None, usual: float) -> float:
    return sent if isinstance(sent, float | int) else usual

"""Training by steps on random batches: progress, early stop and checkpoints, the same for every kind of head."""

from __future__ import annotations

import importlib
import io
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from shoal.errors import BackendNotInstalled, EngineUnavailable, JobError, JsonValue
from shoal.host import available_cores

from clusterer.data.rows import Float32Array, IntArray, Rows
from clusterer.heads.head import Head

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHECKS: Final = 100
"""A run is checked this often: about every hundredth of its steps."""
WATCHED_ROWS: Final = 10_000
"""Rows whose clusters are compared from one check to the next."""
PATIENCE, CALM_STEPS, FEWEST_MOVED, FLAT = 5, 100, 1e-3, 1e-3
"""A run stops once in so many checks in a row, and for so many steps, at most this share of the watched rows moved from
one to the next, and the loss changed by at most this share of itself."""
SMALL_STEP: Final = 2**20
"""Values of a step below which one thread is faster than several."""
_BATCH_STREAM, _WATCH_STREAM, INIT_STREAM = 0x4EA, 0x4EB, 0x4EC


@dataclass(frozen=True)
class Schedule:
    """How long a run goes on, and in which batches.

    Attributes
    ----------
    steps
        At most.
    batch_rows
        Rows of a batch; all rows if there are fewer.
    early_stop
        Whether a run may stop before: see `PATIENCE`.
    """

    steps: int
    batch_rows: int
    early_stop: bool = True

    @property
    def check_steps(self) -> int:
        """Steps from one check to the next."""
        return max(1, self.steps // CHECKS)

    def is_over(self, done: int, calm: int) -> bool:
        """Whether a run ends after ``done`` steps, of which the last ``calm`` checks were calm."""
        settled = calm >= PATIENCE and calm * self.check_steps >= CALM_STEPS
        return done >= self.steps or (self.early_stop and settled)


@dataclass(frozen=True)
class Check:
    """How a run stood after some steps.

    Attributes
    ----------
    step
        From 1.
    loss
        Mean over the steps since the last check.
    moved
        Watched rows whose cluster changed since then; all of them at the first.
    empty
        Clusters without a watched row.
    seconds
        Wall time since then.
    """

    step: int
    loss: float
    moved: int
    empty: int
    seconds: float


@dataclass(frozen=True)
class Trained:
    """A run that has ended.

    Attributes
    ----------
    loss
        At its last check.
    stopped
        Whether it stopped before its last step.
    resumed_at
        Steps that an earlier, interrupted attempt had done.
    device
        Where it ran.
    """

    head: Head
    history: tuple[Check, ...]
    loss: float
    stopped: bool
    resumed_at: int
    device: str


class Trainer(ABC):
    """A head in training.

    Attributes
    ----------
    device
        Of its tensors.
    """

    device: torch.device

    @abstractmethod
    def step(self, number: int) -> Tensor:
        """One step, numbered from 0; the loss, ``(h,)`` of each head that is trained beside the others."""

    @abstractmethod
    def choose(self, losses: Float32Array) -> None:
        """Use the best of the heads from now on, by their mean losses ``(h,)`` since the last check."""

    @abstractmethod
    def labels(self, rows: Tensor) -> Tensor:
        """``(m,)``: the most probable cluster of ``(m, d)`` rows."""

    @abstractmethod
    def head(self) -> Head:
        """The head as it is now."""

    @abstractmethod
    def state(self) -> dict[str, JsonValue]:
        """All that the next step depends on, as tensors in dicts and lists."""

    @abstractmethod
    def restore(self, state: dict[str, JsonValue]) -> None:
        """Continue from a `state`."""


class Batches:
    """Random batches of rows, on a device. A batch depends on the seed and its number alone.

    Parameters
    ----------
    rows
        ``(n, d)``; on a GPU that they fit in with room to spare they are held there, else read batch by batch.
    """

    def __init__(self, rows: Rows, batch_rows: int, seed: int, device: torch.device) -> None:
        self.rows, self.device = rows, device
        self._size, self._seed = min(batch_rows, rows.n), seed
        self._held = self.take(np.arange(rows.n)) if self._fits() else None

    def chosen(self, number: int) -> tuple[IntArray, np.random.Generator]:
        """The rows of a batch, ascending, and the generator for whatever else is drawn in its step."""
        rng = np.random.default_rng([self._seed, _BATCH_STREAM, number])
        n = self.rows.n
        if self._size == n:
            return np.arange(n, dtype=np.int64), rng
        return np.sort(rng.choice(n, self._size, replace=False)).astype(np.int64), rng

    def at(self, number: int) -> Tensor:
        """``(b, d) float32``: a batch."""
        if self._size == self.rows.n and self._held is not None:
            return self._held
        return self.of(self.chosen(number)[0])

    def of(self, chosen: IntArray) -> Tensor:
        """``(m, d) float32``: some rows."""
        if self._held is None:
            return self.take(chosen)
        return self._held[as_tensor(chosen, self.device)]

    def take(self, chosen: IntArray) -> Tensor:
        """Some rows, read from where they lie."""
        return as_tensor(self.rows.take(np.asarray(chosen, np.int64)), self.device)

    def _fits(self) -> bool:
        if self._size == self.rows.n:
            return True
        torch = import_torch()
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        return bool(4 * self.rows.n * self.rows.dim < free // 2)


OnStep = Callable[[int, Check | None], None]
"""Called after each step with the number of steps done and the last check; raises where the job ends early."""


class Keep(Protocol):
    """Keeps what a run has reached."""

    def __call__(self, state: Callable[[], bytes], done: int, *, last: bool) -> None:
        """Keep ``state()``, all that the rest of the run depends on, after ``done`` steps; surely where it is over."""
        ...


def train(
    trainer: Trainer,
    rows: Rows,
    schedule: Schedule,
    *,
    on_step: OnStep,
    keep: Keep | None = None,
    kept: bytes | None = None,
) -> Trained:
    """Run the steps of a trainer.

    Parameters
    ----------
    rows
        ``(n, d)`` that it is trained on.
    keep
        Called after each check.
    kept
        What an interrupted run has kept; the result is that of an uninterrupted run on the same device.

    Raises
    ------
    JobError
        The loss became NaN or infinite.
    """
    watched = _watched(rows, trainer.device)
    history, last, calm, done = _restored(trainer, kept)
    resumed_at, losses, started = done, list["Tensor"](), time.perf_counter()
    while not schedule.is_over(done, calm):
        losses.append(trainer.step(done))
        done += 1
        if done % schedule.check_steps == 0 or done == schedule.steps:
            check, last = _check(trainer, losses, watched, last, done, time.perf_counter() - started)
            calm = calm + 1 if _is_calm(check, history, len(last)) else 0
            history.append(check)
            losses, started = [], time.perf_counter()
            if keep is not None:
                state = partial(_packed, trainer, history, last, calm, done)
                keep(state, done, last=schedule.is_over(done, calm))
        on_step(done, history[-1] if history else None)
    loss = history[-1].loss if history else float("nan")
    return Trained(trainer.head(), tuple(history), loss, done < schedule.steps, resumed_at, str(trainer.device))


def _watched(rows: Rows, device: torch.device) -> Tensor:
    n = min(rows.n, WATCHED_ROWS)
    chosen = np.random.default_rng(_WATCH_STREAM).choice(rows.n, n, replace=False)
    return as_tensor(rows.take(np.sort(chosen).astype(np.int64)), device)


def _check(
    trainer: Trainer, losses: list[Tensor], watched: Tensor, last: IntArray, done: int, seconds: float
) -> tuple[Check, IntArray]:
    torch = import_torch()
    means = torch.stack(losses).mean(dim=0).cpu().numpy()
    loss = float(means.min())
    if not np.isfinite(means).all():
        raise JobError(
            f"The loss is not finite after {done} steps. Send a lower `heads.learning_rate`, or `normalize` true."
        )
    trainer.choose(means)
    labels: IntArray = trainer.labels(watched).cpu().numpy().astype(np.int64)
    moved = int(np.count_nonzero(labels != last)) if len(last) else len(labels)
    empty = trainer.head().k - len(np.unique(labels))
    return Check(done, loss, moved, empty, seconds), labels


def _is_calm(check: Check, history: list[Check], watched: int) -> bool:
    if not history:
        return False
    flat = abs(history[-1].loss - check.loss) <= FLAT * max(abs(check.loss), FLAT)
    return flat and check.moved <= FEWEST_MOVED * watched


def _packed(trainer: Trainer, history: list[Check], last: IntArray, calm: int, done: int) -> bytes:
    torch = import_torch()
    checks = [[each.step, each.loss, each.moved, each.empty, each.seconds] for each in history]
    document = {"trainer": trainer.state(), "history": checks, "last": torch.from_numpy(last), "calm": calm}
    buffer = io.BytesIO()
    torch.save({**document, "done": done}, buffer)
    return buffer.getvalue()


def _restored(trainer: Trainer, kept: bytes | None) -> tuple[list[Check], IntArray, int, int]:
    if kept is None:
        return [], np.empty(0, np.int64), 0, 0
    document = import_torch().load(io.BytesIO(kept), map_location="cpu", weights_only=True)
    trainer.restore(document["trainer"])
    history = [Check(*each) for each in document["history"]]
    return history, document["last"].cpu().numpy(), int(document["calm"]), int(document["done"])


def import_torch() -> ModuleType:
    """PyTorch, which only the process that trains needs.

    Raises
    ------
    BackendNotInstalled
        It is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise BackendNotInstalled(
            "`method`: `turtle` and `temi` need PyTorch, which is not installed where this worker runs. Install it "
            "with `pip install 'shoal[heads]'`, or leave `method` out.",
            field="method",
        ) from error


def open_device(name: str, values: int = SMALL_STEP) -> torch.device:
    """The device that SHOAL_HEADS_DEVICE names; ``auto`` takes a GPU if there is one.

    Parameters
    ----------
    values
        Of the largest array of a step: where it is small, threads would wait longer for each other than they compute.

    Raises
    ------
    BackendNotInstalled
        PyTorch is not installed.
    EngineUnavailable
        The device does not exist. A fallback could compute for days on the wrong one.
    """
    torch = import_torch()
    torch.set_num_threads(available_cores() if values >= SMALL_STEP else 1)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EngineUnavailable(f"SHOAL_HEADS_DEVICE is {name!r}: set it to auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EngineUnavailable(
            f"SHOAL_HEADS_DEVICE is {name!r}, but this machine has {torch.cuda.device_count()} CUDA devices."
        )
    return device


def as_tensor(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """An array on a device; on the CPU they may share memory."""
    return import_torch().from_numpy(np.ascontiguousarray(array)).to(device)


def as_array(tensor: Tensor) -> Float32Array:
    """A ``float32`` copy of a tensor."""
    found: Float32Array = tensor.detach().cpu().numpy().astype(np.float32, copy=True)
    return found

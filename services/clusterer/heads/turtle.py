"""TURTLE: the labelling of the rows that linear classifiers in every feature space learn best [1]_.

A task encoder in each space, linear with normalised weights, gives the labels: the mean of their softmax. In each step,
linear probes are trained a little further on these labels; then the encoders move so that the probes, held fixed, have
a lower cross entropy, and the labels use all clusters. The gradient through the training of the probes is left out.

References
----------
.. [1] Gadetsky, Jiang, Brbić: Let go of your labels with unsupervised transfer. ICML 2024, arXiv 2406.07236.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from shoal.errors import JsonValue

from clusterer.data.rows import Float32Array, Rows
from clusterer.heads.head import Head, Layer, Network
from clusterer.heads.training import INIT_STREAM, Batches, Trainer, as_array, as_tensor, import_torch

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class TurtleOptions:
    """The method's settings; defaults are the paper's.

    Attributes
    ----------
    learning_rate
        Of Adam, for encoders and probes.
    inner_steps
        Steps of the probes in each step.
    entropy
        Weight of the entropy of the mean labels, γ in the paper.
    """

    learning_rate: float = 0.001
    inner_steps: int = 10
    entropy: float = 10.0


class Turtle(Trainer):
    """One run.

    Parameters
    ----------
    rows
        ``(n, d)``: the spaces beside each other.
    widths
        Columns of each space.
    """

    def __init__(
        self,
        rows: Rows,
        k: int,
        widths: Sequence[int],
        options: TurtleOptions,
        *,
        batch_rows: int,
        seed: int,
        device: torch.device,
    ) -> None:
        torch = import_torch()
        self.device = device
        self._widths, self._options = tuple(widths), options
        self._batches = Batches(rows, batch_rows, seed, device)
        rng = np.random.default_rng([seed, INIT_STREAM])
        self._directions = [self._parameter(_uniform(rng, width, k)) for width in widths]
        self._scales = [self._parameter(np.linalg.norm(as_array(each), axis=0)) for each in self._directions]
        self._shifts = [self._parameter(np.zeros(k, np.float32)) for _ in widths]
        self._probes = [self._parameter(_uniform(rng, width, k)) for width in widths]
        self._offsets = [self._parameter(np.zeros(k, np.float32)) for _ in widths]
        self._encoders = [*self._directions, *self._scales, *self._shifts]
        self._linear = [*self._probes, *self._offsets]
        self._outer, self._inner = (
            torch.optim.Adam(each, lr=options.learning_rate) for each in (self._encoders, self._linear)
        )

    def step(self, number: int) -> Tensor:
        torch = import_torch()
        parts = self._batches.at(number).split(self._widths, dim=1)
        labels = self._labels(parts)
        targets = labels.detach()
        for _ in range(self._options.inner_steps):
            self._inner.zero_grad(set_to_none=True)
            self._error(parts, targets).backward()
            self._inner.step()
        for each in self._linear:
            each.requires_grad_(False)
        mean = labels.mean(dim=0)
        loss = self._error(parts, labels) - self._options.entropy * torch.special.entr(mean).sum()
        self._outer.zero_grad(set_to_none=True)
        loss.backward()
        self._outer.step()
        for each in self._linear:
            each.requires_grad_(True)
        return loss.detach()[None]

    def choose(self, losses: Float32Array) -> None:
        return

    def labels(self, rows: Tensor) -> Tensor:
        with import_torch().no_grad():
            return self._labels(rows.split(self._widths, dim=1)).argmax(dim=1)

    def head(self) -> Head:
        layers = (Layer(as_array(self._weights(place)), as_array(shift)) for place, shift in enumerate(self._shifts))
        return Head(self._widths, tuple(Network((layer,)) for layer in layers))

    def state(self) -> dict[str, JsonValue]:
        return {
            "parameters": [each.detach().clone() for each in (*self._encoders, *self._linear)],
            "outer": self._outer.state_dict(),
            "inner": self._inner.state_dict(),
        }

    def restore(self, state: dict[str, JsonValue]) -> None:
        with import_torch().no_grad():
            for own, kept in zip((*self._encoders, *self._linear), state["parameters"], strict=True):
                own.copy_(kept)
        self._outer.load_state_dict(state["outer"])
        self._inner.load_state_dict(state["inner"])

    def _labels(self, parts: Sequence[Tensor]) -> Tensor:
        """``(b, k)``: the mean of the encoders' softmax."""
        found = [(part @ self._weights(place) + self._shifts[place]).softmax(dim=1) for place, part in enumerate(parts)]
        return sum(found[1:], found[0]) / len(found)

    def _error(self, parts: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The probes' cross entropy with the labels, the mean over rows and spaces."""
        found = [
            -(labels * (part @ weights + offset).log_softmax(dim=1)).sum(dim=1).mean()
            for part, weights, offset in zip(parts, self._probes, self._offsets, strict=True)
        ]
        return sum(found[1:], found[0]) / len(found)

    def _weights(self, place: int) -> Tensor:
        directions = self._directions[place]
        return self._scales[place] * directions / directions.norm(dim=0, keepdim=True)

    def _parameter(self, values: Float32Array) -> Tensor:
        return as_tensor(values.astype(np.float32), self.device).clone().requires_grad_(True)


def _uniform(rng: np.random.Generator, width: int, k: int) -> Float32Array:
    """``(width, k)`` first weights, as PyTorch's linear layers have them."""
    bound = 1 / np.sqrt(width)
    return rng.uniform(-bound, bound, (width, k)).astype(np.float32)

"""TEMI: heads whose outputs for an image and for one of its nearest neighbours tell most of each other [1]_.

A student and a teacher, the moving average of the student, see both images. The loss is the pointwise mutual
information of the student's output for one and the teacher's for the other, weighted by how probable it is that both
are in one cluster. Several heads are trained beside each other on the same pairs and share the weights of the pairs;
the one with the lowest loss is used.

References
----------
.. [1] Adaloglou, Michels, Kalisch, Kollmann: Exploring the limits of deep image clustering using pretrained models.
   BMVC 2023, arXiv 2303.17896. Their heads are those of DINO: Caron et al., arXiv 2104.14294.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from shoal.errors import JsonValue

from clusterer.data.rows import Float32Array, Rows
from clusterer.heads.head import Head, Layer, Network
from clusterer.heads.training import INIT_STREAM, Batches, Trainer, as_array, as_tensor, import_torch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HIDDEN, BOTTLENECK = 512, 256
"""Outputs of a head's first and second layer."""
FIRST_DEVIATION: Final = 0.02
WARM_UP: Final = 0.2
"""Share of the steps in which the learning rate rises to its value."""
MOST_MOMENTUM, LEAST_MOMENTUM, MEMORY = 0.996, 0.9, 0.05
"""Of the teacher's weights: as in the paper, but in short runs its memory is at most this share of the steps."""
SHARE_MOMENTUM: Final = 0.9
"""Of the teacher's mean probability of each cluster."""
WEIGHT_DECAY: Final = 1e-4


@dataclass(frozen=True)
class TemiOptions:
    """The method's settings; defaults are the paper's and those of its public code.

    Attributes
    ----------
    learning_rate
        Of AdamW.
    heads
        That are trained beside each other.
    beta
        Exponent of the probabilities in the mutual information: below 1 clusters get more equal sizes.
    temperature
        By which logits are divided.
    """

    learning_rate: float = 4e-4
    heads: int = 16
    beta: float = 0.6
    temperature: float = 0.1


class Temi(Trainer):
    """One run.

    Parameters
    ----------
    rows
        ``(n, d)``.
    nearest
        ``(n, m)`` numbers of the nearest other rows of each row.
    steps
        Of the run, of which a share is the warm-up.
    """

    def __init__(
        self,
        rows: Rows,
        k: int,
        nearest: NDArray[np.integer],
        options: TemiOptions,
        *,
        steps: int,
        batch_rows: int,
        seed: int,
        device: torch.device,
    ) -> None:
        torch = import_torch()
        self.device = device
        self._options, self._nearest = options, nearest
        self._warm_up = max(1, round(WARM_UP * steps))
        self._momentum = max(LEAST_MOMENTUM, min(MOST_MOMENTUM, 1 - 1 / (MEMORY * steps)))
        self._batches = Batches(rows, batch_rows, seed, device)
        self._student = self._first(rows.dim, k, np.random.default_rng([seed, INIT_STREAM]))
        self._teacher = [each.detach().clone() for each in self._student]
        for each in self._student:
            each.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(self._student, lr=options.learning_rate, weight_decay=WEIGHT_DECAY)
        self._shares = torch.full((options.heads, 1, k), 1 / k, device=device)
        self._best = 0

    def step(self, number: int) -> Tensor:
        torch = import_torch()
        chosen, rng = self._batches.chosen(number)
        others = self._nearest[chosen, rng.integers(self._nearest.shape[1], size=len(chosen))]
        both = torch.cat([self._batches.of(chosen), self._batches.of(others.astype(np.int64))])
        for group in self._optimizer.param_groups:
            group["lr"] = self._options.learning_rate * min(1.0, (number + 1) / self._warm_up)
        with torch.no_grad():
            theirs = self._logits(self._teacher, both).softmax(dim=2)
            first, second = theirs.split(len(chosen), dim=1)
            self._shares.lerp_(theirs.mean(dim=1, keepdim=True), 1 - SHARE_MOMENTUM)
            weights = (first * second).sum(dim=2).mean(dim=0)
        mine, his = self._logits(self._student, both).softmax(dim=2).split(len(chosen), dim=1)
        losses = -(weights * (self._information(mine, second) + self._information(his, first)) / 2).mean(dim=1)
        self._optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        self._optimizer.step()
        with torch.no_grad():
            for teacher, student in zip(self._teacher, self._student, strict=True):
                teacher.lerp_(student, 1 - self._momentum)
        return losses.detach()

    def choose(self, losses: Float32Array) -> None:
        self._best = int(losses.argmin())

    def labels(self, rows: Tensor) -> Tensor:
        own = [each[self._best : self._best + 1] for each in self._teacher]
        with import_torch().no_grad():
            return self._logits(own, rows)[0].argmax(dim=1)

    def head(self) -> Head:
        first, bias, second, shift, directions, scales = (as_array(each[self._best]) for each in self._teacher)
        last = scales * directions / np.linalg.norm(directions, axis=0) / np.float32(self._options.temperature)
        none = np.zeros(last.shape[1], np.float32)
        layers = (Layer(first, bias[0]), Layer(second, shift[0]), Layer(last.astype(np.float32), none))
        return Head((first.shape[0],), (Network(layers),))

    def state(self) -> dict[str, JsonValue]:
        return {
            "student": [each.detach().clone() for each in self._student],
            "teacher": [each.clone() for each in self._teacher],
            "optimizer": self._optimizer.state_dict(),
            "shares": self._shares.clone(),
            "best": self._best,
        }

    def restore(self, state: dict[str, JsonValue]) -> None:
        with import_torch().no_grad():
            for name, own in (("student", self._student), ("teacher", self._teacher)):
                for each, kept in zip(own, state[name], strict=True):
                    each.copy_(kept)
            self._shares.copy_(state["shares"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best = int(state["best"])

    def _information(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``(h, b)``: the pointwise mutual information of two images in each head."""
        return ((student * teacher) ** self._options.beta / self._shares).sum(dim=2).log()

    def _logits(self, weights: list[Tensor], rows: Tensor) -> Tensor:
        """``(h, b, k)``: divided by the temperature."""
        functional = import_torch().nn.functional
        first, bias, second, shift, directions, scales = weights
        found = functional.gelu(rows @ first + bias) @ second + shift
        found = functional.normalize(found, dim=2)
        last = scales * directions / directions.norm(dim=1, keepdim=True)
        return found @ last / self._options.temperature

    def _first(self, dim: int, k: int, rng: np.random.Generator) -> list[Tensor]:
        """The first weights of all heads: two layers with their bias, then directions and lengths of the last one."""
        h = self._options.heads

        def normal(*shape: int) -> Float32Array:
            return (FIRST_DEVIATION * np.clip(rng.standard_normal(shape), -2, 2)).astype(np.float32)

        arrays = (
            normal(h, dim, HIDDEN),
            np.zeros((h, 1, HIDDEN), np.float32),
            normal(h, HIDDEN, BOTTLENECK),
            np.zeros((h, 1, BOTTLENECK), np.float32),
            normal(h, BOTTLENECK, k),
            np.ones((h, 1, k), np.float32),
        )
        return [as_tensor(each, self.device).clone() for each in arrays]

"""A network with its preprocessing as one module, from uint8 pixels to embeddings: what engines compile and convert."""

from __future__ import annotations

import numpy as np
import torch
from shoal.settings import Settings
from shoal.store import ModelRecord
from torch import nn

from extractor.backends.torch import build_network
from extractor.models import architectures
from extractor.models.spec import ModelSpec


class PixelNetwork(nn.Module):
    """(n, size, size, 3) uint8 to (n, dim) float32.

    Parameters
    ----------
    network
        Without classifier, in evaluation mode.
    spec
        Its transform and embedding.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.network = network
        self._embedding = architectures.embedder(network, spec.embedding)
        for name, values in (("mean", spec.transform.mean), ("std", spec.transform.std)):
            self.register_buffer(name, torch.from_numpy(np.array(values, np.float32)).view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed a batch."""
        batch = pixels.permute(0, 3, 1, 2).to(torch.float32)
        return self._embedding(batch.div(255).sub(self.mean).div(self.std)).to(torch.float32)


def build(spec: ModelSpec, settings: Settings, record: ModelRecord) -> tuple[PixelNetwork, ModelRecord]:
    """The network of ``spec`` on the CPU, and its record; see `extractor.backends.torch.build_network`."""
    network, record = build_network(spec, settings, record)
    return PixelNetwork(network, spec).eval().requires_grad_(False), record

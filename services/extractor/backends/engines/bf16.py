"""The engines `bf16` and `compile`: PyTorch with automatic mixed precision, as it is or compiled by Inductor.

Weights and sums stay float32 where `torch.autocast` keeps them; convolutions and products are computed in bfloat16.
On a GPU images come through pinned memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import structlog
import torch
from shoal.settings import Settings
from shoal.store import ModelRecord

from extractor.backends.base import Backend
from extractor.backends.engines import pixelnet
from extractor.backends.engines.parts import Network, PartsBackend, Pixels, Rows
from extractor.backends.torch import keep_freed_memory, pick_device, to_device
from extractor.models.spec import ModelSpec

CPU_PART_PIXELS = 8 * 224**2
"""Input pixels of a part on a CPU. Larger parts leave its caches, smaller ones leave its cores waiting."""
GPU_PART_PIXELS = 64 * 224**2

log = structlog.get_logger(__name__)


class AmpBackend(PartsBackend):
    """A network in bfloat16 by `torch.autocast`, in the memory layout channels-last.

    Parameters
    ----------
    spec, settings, record
        See `extractor.backends.torch.TorchBackend`.
    numerics
        ``bf16``, ``compile-bf16`` or ``compile-f32``.
    """

    def __init__(self, spec: ModelSpec, settings: Settings, record: ModelRecord, numerics: str) -> None:
        self.device = pick_device(settings.device)
        network, record = pixelnet.build(spec, settings, record)
        # Networks of 4-dimensional weights only; those of a transformer's other layers have no such layout.
        self._network = network.to(self.device).to(memory_format=torch.channels_last)
        self._half = numerics.endswith("bf16")
        self._compiled = numerics.startswith("compile")
        on_gpu = self.device.type == "cuda"
        if not on_gpu:
            keep_freed_memory()
        pixels = GPU_PART_PIXELS if on_gpu else CPU_PART_PIXELS
        part = max(1, pixels // spec.transform.size**2)
        super().__init__(spec.transform, record, part=part, numerics=numerics)
        log.info("model loaded", model=spec.name, engine=numerics, device=str(self.device), part=self.part)

    def prepare(self, part: int) -> Network:
        """The network, compiled for this part where asked for."""
        run: Callable[[torch.Tensor], torch.Tensor] = self._network
        if self._compiled:
            run = torch.compile(self._network, dynamic=False)

        def embed(pixels: Pixels) -> Rows:
            batch = to_device(pixels, self.device)
            with torch.inference_mode(), self._autocast():
                rows: Rows = run(batch).cpu().numpy()
            return rows

        return embed

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self._half else nullcontext()


def _conforms(backend: AmpBackend) -> Backend:  # A type checker's proof that the protocol is met.
    return backend

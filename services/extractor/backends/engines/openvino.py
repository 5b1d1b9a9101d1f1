"""The engine `openvino`: the network converted to OpenVINO, in bfloat16, float16 or float32 as the plan says.

References
----------
https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import structlog
import torch
from shoal.errors import EngineUnavailable
from shoal.host import available_cores
from shoal.settings import Settings
from shoal.store import ModelRecord

from extractor.backends.base import Backend
from extractor.backends.engines import pixelnet
from extractor.backends.engines.numerics import import_openvino
from extractor.backends.engines.parts import Network, PartsBackend, Pixels, Rows
from extractor.models.spec import ModelSpec

openvino = import_openvino()

PART_PIXELS = 4 * 224**2
"""Input pixels of a part. One core takes one part through the network, so that its layers' outputs fit its caches."""
PRECISION = {"openvino-bf16": "bf16", "openvino-f16": "f16", "openvino-f32": "f32", "openvino-int8": "f32"}

if TYPE_CHECKING:
    from openvino import CompiledModel, Model

log = structlog.get_logger(__name__)


class OpenVinoBackend(PartsBackend):
    """A network run by OpenVINO on the CPU, a part per core at once.

    Parameters
    ----------
    spec, settings, record
        See `extractor.backends.torch.TorchBackend`.
    numerics
        A key of `PRECISION`.

    Raises
    ------
    EngineUnavailable
        OpenVINO cannot convert the network.
    """

    def __init__(self, spec: ModelSpec, settings: Settings, record: ModelRecord, numerics: str) -> None:
        network, record = pixelnet.build(spec, settings, record)
        self._size = spec.transform.size
        part = max(1, PART_PIXELS // self._size**2)
        self._core = openvino.Core()
        self._model = self.quantised(convert(network, part, self._size, spec.name))
        self._options = {
            "INFERENCE_PRECISION_HINT": PRECISION[numerics],
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": str(available_cores()),
            # The decode processes use the same cores.
            "ENABLE_CPU_PINNING": "NO",
        }
        self._compiled: tuple[int, CompiledModel] | None = None
        super().__init__(spec.transform, record, part=part, threads=available_cores(), numerics=numerics)
        log.info("model loaded", model=spec.name, engine=numerics, part=self.part, threads=available_cores())

    def quantised(self, model: Model) -> Model:
        """The converted model as it is run."""
        return model

    def prepare(self, part: int) -> Network:
        """A request of the model, compiled for this part."""
        with self._lock:
            if self._compiled is None or self._compiled[0] != part:
                self._model.reshape([part, self._size, self._size, 3])
                self._compiled = (part, self._core.compile_model(self._model, "CPU", self._options))
            request = self._compiled[1].create_infer_request()

        def embed(pixels: Pixels) -> Rows:
            request.infer([np.ascontiguousarray(pixels)], share_inputs=True)
            return np.array(request.get_output_tensor(0).data, np.float32)

        return embed


def convert(network: pixelnet.PixelNetwork, part: int, size: int, name: str) -> Model:
    """The network as a model of OpenVINO.

    Raises
    ------
    EngineUnavailable
        It has an operation that OpenVINO lacks.
    """
    example = torch.zeros((part, size, size, 3), dtype=torch.uint8)
    try:
        # Tracing, which PyTorch replaces by an export, takes a third of the time, and hooks of modules inside.
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            model = openvino.convert_model(network, example_input=example)
        model.reshape([part, size, size, 3])
        return model
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise EngineUnavailable(
            f'OpenVINO cannot convert the network of {name}: {first}. Send `engine`: "eager" or "bf16".',
            engine="openvino",
        ) from error


def _conforms(backend: OpenVinoBackend) -> Backend:  # A type checker's proof that the protocol is met.
    return backend

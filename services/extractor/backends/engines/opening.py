"""From a numerics class to a loaded engine. Each library is imported only when an engine needs it."""

from __future__ import annotations

from shoal.settings import Settings
from shoal.store import ModelRecord

from extractor.backends.base import Backend
from extractor.backends.engines.numerics import engine_of, require
from extractor.models.spec import ModelSpec


def open_engine(spec: ModelSpec, settings: Settings, record: ModelRecord, numerics: str) -> Backend:
    """Load the model with the engine that computes in ``numerics``.

    Raises
    ------
    EngineUnavailable
        This machine cannot compute in it, or the engine cannot run the network.
    WeightsMissing, WeightsInvalid
        The weights are not on this machine, or do not fit the architecture.
    """
    require(numerics, spec, settings)
    if engine_of(numerics) in ("bf16", "compile"):
        from extractor.backends.engines.bf16 import AmpBackend

        return AmpBackend(spec, settings, record, numerics)
    from extractor.backends.engines.openvino import OpenVinoBackend

    return OpenVinoBackend(spec, settings, record, numerics)

"""From a numerics class to a loaded engine. Each library is imported only when an engine needs it."""

from __future__ import annotations

from shoal.settings import Settings
from shoal.store import ModelRecord

from extractor.backends.base import Backend
from extractor.backends.engines.numerics import engine_of, require
from extractor.backends.engines.parts import Sample
from extractor.models.spec import ModelSpec


def open_engine(
    spec: ModelSpec, settings: Settings, record: ModelRecord, numerics: str, sample: Sample | None = None
) -> Backend:
    """Load the model with the engine that computes in ``numerics``.

    Parameters
    ----------
    sample
        Images for ``openvino-int8``, which sets its ranges by them.

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
    if numerics == "openvino-int8":
        from extractor.backends.engines.int8 import Int8Backend

        return Int8Backend(spec, settings, record, sample)
    from extractor.backends.engines.openvino import OpenVinoBackend

    return OpenVinoBackend(spec, settings, record, numerics)

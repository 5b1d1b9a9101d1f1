"""From a model's specification to a loaded backend; each library is imported only when its backend is asked for."""

from __future__ import annotations

import hashlib

from shoal.errors import UnknownModel
from shoal.settings import Settings
from shoal.store import ModelRecord

from extractor import weights
from extractor.backends.base import Backend
from extractor.modelspec import ModelSpec


def record_of(spec: ModelSpec, settings: Settings) -> ModelRecord:
    """What the store notes about the model, from its files alone: nothing is loaded.

    Raises
    ------
    WeightsMissing
        The model's weights are not on this machine.
    """
    path = weights.locate(spec, settings.models)
    digest = None
    if path is not None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ModelRecord(
        name=spec.name,
        backend=spec.backend,
        architecture=spec.architecture,
        weights_sha256=digest,
        weights_file=path.name if path is not None else None,
        layout=spec.layout,
        embedding=spec.embedding,
        seed=spec.seed,
    )


def open_backend(spec: ModelSpec, settings: Settings, record: ModelRecord) -> Backend:
    """Load the model.

    Raises
    ------
    WeightsMissing, WeightsInvalid
        The weights are not here, or do not fit the architecture.
    """
    if spec.architecture == "pixels":
        from extractor.backends.pixels import PixelsBackend

        return PixelsBackend(spec, record)
    if spec.backend == "torch":
        from extractor.backends.torch import TorchBackend

        return TorchBackend(spec, settings, record)
    raise UnknownModel(f"The model {spec.name!r} needs the backend {spec.backend!r}, which this version lacks.")

"""From a model's specification to a loaded backend; each library is imported only when its backend is asked for."""

from __future__ import annotations

from shoal.settings import Settings
from shoal.store import ModelRecord
from shoal.store.records import KeyRules

from extractor.backends.base import Backend
from extractor.models import weights
from extractor.models.download import OnProgress, sha256
from extractor.models.spec import ModelSpec
from extractor.tf_import.obtaining import OnStage


def record_of(
    spec: ModelSpec,
    settings: Settings,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
) -> ModelRecord:
    """What the store notes about the model, from its files alone: nothing is loaded.

    Weights that are not on this machine are downloaded where that is possible, and imported if need be; ``on_progress``
    and ``on_stage`` hear of it.

    Raises
    ------
    WeightsMissing
        The model's weights are not on this machine and cannot be downloaded.
    WeightsInvalid
        What was downloaded is not the published file.
    JobError
        TensorFlow Serving, which has the weights of its models, cannot be asked for the version that it serves.
    """
    if spec.backend == "tfserving":
        from extractor.backends import tfserving

        return tfserving.record_of(spec, settings, on_progress, on_stage)
    path = weights.obtain(
        spec, settings.models, offline=settings.offline, mirror=settings.mirror, on_progress=on_progress
    )
    digest = sha256(path) if path is not None else None
    if path is not None and digest is not None:
        weights.check_note(path, digest)
    return ModelRecord(
        name=spec.name,
        backend=spec.backend,
        architecture=spec.architecture,
        weights_sha256=digest,
        weights_file=path.name if path is not None else None,
        layout=spec.layout,
        embedding=spec.embedding,
        seed=spec.seed,
        keys=key_rules(spec),
    )


def key_rules(spec: ModelSpec) -> KeyRules | None:
    """What the model's description says about its checkpoint's keys; None when it says nothing."""
    rules = KeyRules(prefix=spec.prefix, rename=spec.rename, ignore=spec.ignore)
    return None if rules == KeyRules() else rules


def open_backend(spec: ModelSpec, settings: Settings, record: ModelRecord) -> Backend:
    """Load the model.

    Raises
    ------
    WeightsMissing, WeightsInvalid
        The weights are not here, or do not fit the architecture.
    JobError
        The model is not served, or not as the catalogue describes it.
    """
    if spec.handler is not None:
        from extractor.backends.handler import HandlerBackend

        return HandlerBackend(spec, settings, record)
    if spec.architecture == "pixels":
        from extractor.backends.pixels import PixelsBackend

        return PixelsBackend(spec, record)
    if spec.backend == "torch":
        from extractor.backends.torch import TorchBackend

        return TorchBackend(spec, settings, record)
    from extractor.backends.tfserving import TFServingBackend

    return TFServingBackend(spec, settings, record)

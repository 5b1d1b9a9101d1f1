"""From a model's specification to a loaded backend. Each library is imported only when a model needs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from shoal.errors import JobError, WeightsInvalid
from shoal.settings import Settings
from shoal.store import ModelRecord, Plan
from shoal.store.records import KeyRules

from extractor.backends.base import Backend
from extractor.backends.engines.numerics import require
from extractor.backends.engines.opening import open_engine
from extractor.backends.engines.parts import Sample
from extractor.models import folders, obtaining, weights
from extractor.models.download import OnProgress
from extractor.models.obtaining import OnStage
from extractor.models.spec import ModelSpec

if TYPE_CHECKING:
    from shoal.jobs.child import JobContext


def no_images(count: int) -> NDArray[np.uint8]:
    """No image: the listing is not made yet."""
    return np.empty((0, 0, 0, 3), np.uint8)


class ModelLoader:
    """The model of a job: recorded and loaded on first use. A job with all its work done does not load it.

    Parameters
    ----------
    spec
        The model.
    settings
        Models root and device.
    ctx
        The job whose progress shows the loading.
    begin
        Called before the network is loaded, to start what can go on meanwhile.
    """

    def __init__(
        self, spec: ModelSpec, settings: Settings, ctx: JobContext, begin: Callable[[], object] = lambda: None
    ) -> None:
        self.spec = spec
        self._settings = settings
        self._ctx = ctx
        self._begin = begin
        self._backend: Backend | None = None
        self.numerics: str | None = None
        """Numerics class in which the model runs; None for PyTorch's float32, or what the model's backend has."""
        self.sample: Sample = no_images
        """Decodes some images of the job, for engines that must see some."""

    def __enter__(self) -> ModelLoader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._backend is not None:
            self._backend.close()

    @cached_property
    def record(self) -> ModelRecord:
        """The model's record in the store."""
        stage = "download weights"

        def begin(name: str) -> None:
            nonlocal stage
            stage = name
            self._ctx.progress(stage)

        def report(done: int, total: int | None) -> None:
            self._ctx.progress(stage, done, total, unit="bytes")

        return record_of(self.spec, self._settings, report, begin)

    @property
    def loaded_record(self) -> ModelRecord:
        """`record`, with how the checkpoint was read; loads the network when there is a checkpoint."""
        has_checkpoint = self.spec.backend == "torch" and self.record.weights_file is not None
        return self.backend.record if has_checkpoint else self.record

    @property
    def backend(self) -> Backend:
        """The loaded model."""
        if self._backend is None:
            self._ctx.progress("load model")
            self._begin()
            self._backend = self._open()
        return self._backend

    def use(self, numerics: str | None) -> None:
        """Run the model in a numerics class, a plan's ``engine``, from now on.

        Raises
        ------
        EngineUnavailable
            This machine cannot compute in it.
        """
        require(numerics, self.spec, self._settings)
        if numerics != self.numerics and self._backend is not None:
            self._backend.close()
            self._backend = None
        self.numerics = numerics

    def _open(self) -> Backend:
        if self.numerics is None:
            return open_backend(self.spec, self._settings, self.record)
        return open_engine(self.spec, self._settings, self.record, self.numerics, self.sample)

    @property
    def dim(self) -> int:
        """Width of an embedding; loads the model when its specification does not state it."""
        return self.spec.dim if self.spec.dim is not None else self.backend.dim

    def backend_for(self, plan: Plan) -> Backend:
        """The loaded model, after a check that its width is the plan's.

        Raises
        ------
        WeightsInvalid
            The model's embeddings have another width.
        """
        if self.backend.dim != plan.dim:
            raise WeightsInvalid(
                f"{self.spec.name} gives embeddings of width {self.backend.dim}, but its catalogue entry states "
                f"{plan.dim}: correct `dim` in the catalogue, or the checkpoint."
            )
        return self.backend

    def require_unchanged(self, plan: Plan) -> None:
        """Refuse a plan that was begun with other weights: its rows could not be compared with each other.

        Raises
        ------
        JobError
            The model is not the one in the plan.
        """
        if self.record != plan.model.requested():
            raise JobError(
                f"The model {self.spec.name} has changed since {plan.id} was begun (its weights or its description): "
                "submit the request again to start a new set of embeddings."
            )


def record_of(
    spec: ModelSpec,
    settings: Settings,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
) -> ModelRecord:
    """The model's record in the store, from its files alone, without loading the model.

    Weights that are not on this machine are downloaded, and imported if need be; `on_progress` and `on_stage` are
    called meanwhile.

    Raises
    ------
    WeightsMissing
        The model's weights are not on this machine and cannot be downloaded.
    WeightsInvalid
        The download is not the published file.
    JobError
        TensorFlow Serving is to run the model, and does not serve it or does not answer.
    """
    if spec.backend == "tfserving":
        if settings.tf_serving_url:
            from extractor.backends import tfserving

            return tfserving.record_of(spec, settings, on_progress, on_stage)
        from extractor.backends import savedmodel

        return savedmodel.record_of(spec, settings, on_progress, on_stage)
    if spec.readiness(settings.models) == "ready":
        path = weights.locate(spec, settings.models)
    else:
        path = obtaining.obtain(
            spec, settings.models, offline=settings.offline, mirror=settings.mirror, on_progress=on_progress
        )
    digest = weights.sha256(path) if path is not None else None
    if path is not None and digest is not None:
        weights.check_note(path, digest)
    rules = KeyRules(prefix=spec.prefix, rename=spec.rename, ignore=spec.ignore)
    return ModelRecord(
        name=spec.name,
        backend=spec.backend,
        architecture=spec.architecture,
        weights_sha256=digest,
        weights_file=path.name if path is not None else None,
        layout=spec.layout,
        embedding=spec.embedding,
        seed=spec.seed,
        keys=None if rules == KeyRules() else rules,
    )


def import_libraries(backend: str, settings: Settings) -> None:
    """Import what models of ``backend`` need, so that the first one loads quickly.

    TensorFlow takes seconds and half a gigabyte, so it is left out where the models root holds no model of it.
    """
    if backend == "torch":
        import extractor.backends.torch
    elif settings.tf_serving_url:
        import extractor.backends.tfserving
    elif any(folders.served_models(settings.models)):
        import extractor.backends.savedmodel  # noqa: F401
        from extractor.tf_serving.loading import tensorflow

        tensorflow()


def open_backend(spec: ModelSpec, settings: Settings, record: ModelRecord) -> Backend:
    """Load the model.

    Raises
    ------
    WeightsMissing, WeightsInvalid
        The weights are not on this machine, or do not fit the architecture.
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
    if settings.tf_serving_url:
        from extractor.backends.tfserving import TFServingBackend

        return TFServingBackend(spec, settings, record)
    from extractor.backends.savedmodel import SavedModelBackend

    return SavedModelBackend(spec, settings, record)

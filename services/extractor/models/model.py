"""The model of a job, loaded when it is first needed: a job that finds all its work done loads nothing."""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING

from shoal.errors import JobError, WeightsInvalid
from shoal.settings import Settings
from shoal.store import ModelRecord, Plan

from extractor.backends.base import Backend
from extractor.backends.loading import open_backend, record_of
from extractor.models.spec import ModelSpec

if TYPE_CHECKING:
    from shoal.jobs.child import JobContext


class Model:
    """A model's specification, its record, and its backend once somebody asks for it.

    Parameters
    ----------
    spec
        The model.
    settings
        Models root and device.
    ctx
        The job that is told of the loading.
    """

    def __init__(self, spec: ModelSpec, settings: Settings, ctx: JobContext) -> None:
        self.spec = spec
        self._settings = settings
        self._ctx = ctx
        self._backend: Backend | None = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._backend is not None:
            self._backend.close()

    @cached_property
    def record(self) -> ModelRecord:
        """What the store notes about the model."""
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
            self._backend = open_backend(self.spec, self._settings, self.record)
        return self._backend

    @property
    def dim(self) -> int:
        """Width of an embedding; loads the model when its specification does not say."""
        return self.spec.dim if self.spec.dim is not None else self.backend.dim

    def backend_for(self, plan: Plan) -> Backend:
        """The loaded model, checked against the plan that it shall fill.

        Raises
        ------
        WeightsInvalid
            The model's embeddings have another width than the plan says.
        """
        if self.backend.dim != plan.dim:
            raise WeightsInvalid(
                f"{self.spec.name} gives embeddings of width {self.backend.dim}, and {plan.dim} is what its description"
                " says: correct `dim` in the catalogue, or the checkpoint."
            )
        return self.backend

    def require_unchanged(self, plan: Plan) -> None:
        """Refuse to go on with a plan that other weights began: its rows could not be compared with each other.

        Raises
        ------
        JobError
            The model is not the one that the plan names.
        """
        if self.record != plan.model.asked():
            raise JobError(
                f"The model {self.spec.name} is no longer the one that {plan.id} was begun with (its weights or its "
                "description changed): submit the request again, which starts a new set of embeddings."
            )

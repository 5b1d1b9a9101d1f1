"""Networks run by TensorFlow Serving, reached over gRPC. Nothing here imports TensorFlow."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import structlog
from numpy.typing import NDArray
from shoal.errors import ModelMismatch, ModelNotServed, WeightsMissing
from shoal.settings import Settings
from shoal.store import ModelRecord

from extractor.backends.base import Backend
from extractor.images.transform import Transform
from extractor.models import obtaining
from extractor.models.download import OnProgress
from extractor.models.obtaining import OnStage
from extractor.models.spec import ModelSpec
from extractor.tf_serving import exported
from extractor.tf_serving.client import POLL_S, ServingClient
from extractor.tf_serving.exported import INPUT, OUTPUT, SIGNATURE, Exported
from extractor.tf_serving.protos import PredictRequest, from_proto, to_proto

log = structlog.get_logger(__name__)

MAX_REQUEST_BYTES = 512 * 2**20
"""A larger batch is sent in parts: gRPC's own limit is 2 GiB, and the server holds several at once."""
NOTICED_S = 90.0
"""Seconds within which a server finds a new model in its folder."""


def record_of(
    spec: ModelSpec,
    settings: Settings,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
) -> ModelRecord:
    """The model's record in the store: the served version, and the hash of its weights where it is known.

    A published model that is not served is downloaded and imported first. The hash is the one that the import wrote,
    when the models root of this machine has that version; its files must still have it.

    Raises
    ------
    JobError
        The server does not serve the model, or cannot be reached.
    WeightsInvalid
        The download differs from the published file, or the imported files have changed.
    """
    client = ServingClient(settings)
    try:
        try:
            version = client.served_version(spec.name)
        except ModelNotServed as absent:
            _obtain(spec, settings, absent, on_progress, on_stage)
            version = _awaited_version(client, spec.name, settings, on_progress)
    finally:
        client.close()
    return exported.record(spec, settings.models, version)


def _obtain(
    spec: ModelSpec,
    settings: Settings,
    absent: ModelNotServed,
    on_progress: OnProgress | None,
    on_stage: OnStage | None,
) -> None:
    """Import a published model that is not on this machine; re-raise `absent` for any other."""
    if spec.weights.published is None or spec.weights.local_file(settings.models) is not None:
        raise absent
    try:
        obtaining.obtain(
            spec,
            settings.models,
            offline=settings.offline,
            mirror=settings.mirror,
            on_progress=on_progress,
            on_stage=on_stage,
        )
    except WeightsMissing as error:
        raise ModelNotServed(f"{absent.detail} {error.detail}", **error.members) from error


def _awaited_version(client: ServingClient, name: str, settings: Settings, on_progress: OnProgress | None) -> int:
    """The version that was just imported, once the server has seen it: TensorFlow Serving looks every minute."""
    deadline = time.monotonic() + max(settings.tf_serving_gone_s, NOTICED_S)
    while True:
        try:
            return client.served_version(name)
        except ModelNotServed:
            if time.monotonic() > deadline:
                raise
        if on_progress is not None:
            on_progress(0, None)
        time.sleep(POLL_S)


class TFServingBackend:
    """A model of TensorFlow Serving.

    The version is the one in the record: every request names it, so that embeddings of two versions never meet in one
    set.

    Parameters
    ----------
    spec
        The model.
    settings
        Where the server is and how long to wait for it.
    record
        As `record_of` made it.

    Raises
    ------
    ModelNotServed
        The server has no such model, or not this version.
    ModelMismatch
        The model's signature, dtypes or width are not those of the catalogue.
    ServingUnavailable, ServingRefused, ServingFailed
        The server is unreachable, rejects the client, or fails.
    """

    def __init__(self, spec: ModelSpec, settings: Settings, record: ModelRecord) -> None:
        self.transform: Transform = spec.transform
        self.record = record
        self.max_in_flight = settings.tf_serving_in_flight
        self._client = ServingClient(settings)
        try:
            version = exported.version_of(record)
            self.served = Exported.of(spec, version, self._client.signatures(spec.name, version))
        except BaseException:
            self._client.close()
            raise
        self.dim = self.served.dim
        self._executor = ThreadPoolExecutor(self.max_in_flight, thread_name_prefix="tfserving")
        row_bytes = 3 * spec.transform.size**2 * self.served.dtype.itemsize
        self._request_rows = max(1, MAX_REQUEST_BYTES // row_bytes)
        log.info("model served", model=spec.name, version=self.served.version, dim=self.dim)

    def submit(self, pixels: NDArray[np.uint8]) -> Future[NDArray[np.float32]]:
        """Embed (n, size, size, 3) uint8 as (n, dim) float32; up to `max_in_flight` batches run at once."""
        return self._executor.submit(self._embed, pixels)

    def close(self) -> None:
        """Cancel calls in flight, stop the threads and close the connection."""
        self._client.close()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        step = self._request_rows
        parts = [self._predict(pixels[start : start + step]) for start in range(0, len(pixels), step)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        request = PredictRequest(output_filter=[OUTPUT])
        request.model_spec.name = self.served.name
        request.model_spec.version.value = self.served.version
        request.model_spec.signature_name = SIGNATURE
        request.inputs[INPUT].CopyFrom(to_proto(pixels.astype(self.served.dtype, copy=False)))
        response = self._client.predict(request)
        try:
            embeddings = from_proto(response.outputs[OUTPUT])
        except (TypeError, ValueError) as error:
            raise ModelMismatch(f"The server's answer for {self.served.name!r} cannot be read: {error}.") from error
        return self.served.checked(embeddings, len(pixels))


def _conforms(backend: TFServingBackend) -> Backend:  # Checked by mypy: the class implements the protocol.
    return backend

"""A gRPC server with TensorFlow Serving's API that runs SavedModels with TensorFlow in this process.

For laptops, tests and machines without TensorFlow Serving's own binary. It reads the same folders and answers the same
calls: ``PredictionService`` (Predict, GetModelMetadata), ``ModelService`` (GetModelStatus) and gRPC's health service.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from shoal.errors import Unavailable

from extractor.models.folders import served_models
from extractor.tf_serving.batching import BatchLimits
from extractor.tf_serving.loading import tensorflow
from extractor.tf_serving.protos import (
    GetModelMetadataResponse,
    GetModelStatusResponse,
    ModelVersionStatus,
    PredictResponse,
    SignatureDefMap,
    add_ModelServiceServicer_to_server,
    add_PredictionServiceServicer_to_server,
    from_proto,
    to_proto,
)
from extractor.tf_serving.servables import Servables, ServingError

log = structlog.get_logger(__name__)
T = TypeVar("T")

GRACE_S = 5.0
HANDLERS = 32
"""Threads, one request each: more than one client has in flight, so that small requests are batched together."""


class PredictionService:
    """Answers ``tensorflow.serving.PredictionService`` and ``tensorflow.serving.ModelService``."""

    def __init__(self, servables: Servables) -> None:
        self._servables = servables

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Run a signature."""
        return _answer(context, lambda: self._predict(request, context))

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The signatures of a model."""
        return _answer(context, lambda: self._metadata(request, context))

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The state of each version of a model; a request for a version starts to load it."""
        return _answer(context, lambda: self._status(request))

    def Classify(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Not supported."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "only Predict is supported")

    Regress = MultiInference = PredictStreamed = Classify
    HandleReloadConfigRequest = Classify

    def _predict(self, request: Any, context: Any) -> Any:
        servable = self._servables.get(request.model_spec.name, _version(request), context.time_remaining())
        try:
            inputs = {name: from_proto(value) for name, value in request.inputs.items()}
        except (TypeError, ValueError) as error:
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
        signature = request.model_spec.signature_name
        outputs = servable.submit(signature, inputs).result(context.time_remaining())
        requested = set(request.output_filter) or set(outputs)
        if not requested <= set(outputs):
            raise ServingError(
                grpc.StatusCode.INVALID_ARGUMENT, f"the outputs are {sorted(outputs)}, not {sorted(requested)}"
            )
        response = PredictResponse()
        for name in requested:
            response.outputs[name].CopyFrom(to_proto(outputs[name]))
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        response.model_spec.signature_name = signature or "serving_default"
        return response

    def _metadata(self, request: Any, context: Any) -> Any:
        unknown = set(request.metadata_field) - {"signature_def"}
        if unknown or not request.metadata_field:
            raise ServingError(
                grpc.StatusCode.INVALID_ARGUMENT, f"metadata_field must be signature_def, not {sorted(unknown)}"
            )
        servable = self._servables.get(request.model_spec.name, _version(request), context.time_remaining())
        signatures = SignatureDefMap()
        for name, definition in servable.signature_defs.items():
            signatures.signature_def[name].CopyFrom(definition)
        response = GetModelMetadataResponse()
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        response.metadata["signature_def"].Pack(signatures)
        return response

    def _status(self, request: Any) -> Any:
        version, load = self._servables.load(request.model_spec.name, _version(request))
        status = ModelVersionStatus(version=version, state=ModelVersionStatus.LOADING)
        if load.done():
            error = load.exception()
            status.state = ModelVersionStatus.AVAILABLE if error is None else ModelVersionStatus.END
            if error is not None:
                status.status.error_code = grpc.StatusCode.FAILED_PRECONDITION.value[0]
                status.status.error_message = str(error)
        return GetModelStatusResponse(model_version_status=[status])


def _version(request: Any) -> int | None:
    spec = request.model_spec
    if spec.version_label:
        raise ServingError(grpc.StatusCode.FAILED_PRECONDITION, "version labels are not supported: send the version")
    return int(spec.version.value) if spec.HasField("version") else None


def _answer(context: Any, make: Callable[[], T]) -> T:
    """What `make` returns; its errors become gRPC statuses."""
    errors = tensorflow().errors
    try:
        return make()
    except ServingError as error:
        status, message = error.status, str(error)
    except TimeoutError:
        status, message = grpc.StatusCode.DEADLINE_EXCEEDED, "the batch was not computed in time"
    except errors.InvalidArgumentError as error:
        status, message = grpc.StatusCode.INVALID_ARGUMENT, error.message
    except errors.ResourceExhaustedError as error:
        status, message = grpc.StatusCode.RESOURCE_EXHAUSTED, error.message
    except Exception as error:
        log.exception("request failed")
        status, message = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
    context.abort(status, message)
    raise AssertionError("abort returned")


class SavedModelServer:
    """The server, started by `start` and ended by `stop`.

    Parameters
    ----------
    root
        ``<root>/<name>/<version>/saved_model.pb``.
    port
        0 binds a free port, which `port` then holds.
    """

    def __init__(
        self, root: Path, port: int = 0, *, host: str = "127.0.0.1", limits: BatchLimits | None = None
    ) -> None:
        self.servables = Servables(root, limits)
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.server(ThreadPoolExecutor(HANDLERS, thread_name_prefix="grpc"), options=options)
        service = PredictionService(self.servables)
        add_PredictionServiceServicer_to_server(service, self._server)
        add_ModelServiceServicer_to_server(service, self._server)
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            self.port = int(self._server.add_insecure_port(f"{host}:{port}"))
        except RuntimeError as error:
            raise Unavailable(f"port {port} of {host} cannot be used: {error}. Choose another with --port.") from error

    def start(self) -> None:
        """Accept requests."""
        self._server.start()
        for name in ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Refuse new requests, give those under way `grace_s`, let the models go."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()
        self.servables.close()


def serve(root: Path, port: int, *, host: str = "127.0.0.1", limits: BatchLimits | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    tensorflow()
    server = SavedModelServer(root, port, host=host, limits=limits)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    server.start()
    log.info("listening", host=host, port=server.port, root=str(root), models=[name for name, _ in served_models(root)])
    stopping.wait()
    server.stop()
    return 0

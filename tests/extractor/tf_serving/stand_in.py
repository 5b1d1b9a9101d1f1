"""In TensorFlow Serving's place where its binary cannot be had: its gRPC over real TensorFlow.

It serves the same folders and answers Predict, GetModelMetadata and GetModelStatus; a model is loaded when it is first
asked for. ``python stand_in.py MODELS --port 8500`` serves until SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from extractor.models import folders
from extractor.tf_serving.loading import tensorflow
from extractor.tf_serving.protos import (
    GetModelMetadataResponse,
    GetModelStatusResponse,
    ModelVersionStatus,
    PredictResponse,
    SavedModel,
    SignatureDefMap,
    add_ModelServiceServicer_to_server,
    add_PredictionServiceServicer_to_server,
    from_proto,
    to_proto,
)

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]


@dataclass(frozen=True)
class Loaded:
    """One version of one model."""

    definitions: dict[str, Any]
    model: Any

    @classmethod
    def of(cls, folder: Path) -> Loaded:
        proto = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        (graph,) = (graph for graph in proto.meta_graphs if set(graph.meta_info_def.tags) == {"serve"})
        definitions = {name: each for name, each in graph.signature_def.items() if not name.startswith("__")}
        return cls(definitions, tensorflow().saved_model.load(str(folder)))


class StandIn:
    """A server of ``<root>/<name>/<version>/saved_model.pb``; port 0 takes a free one, which `port` then is."""

    def __init__(self, root: Path, port: int = 0, *, host: str = "127.0.0.1") -> None:
        self._root = root
        self._loads: dict[Path, Future[Loaded]] = {}
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1)
        self._server = grpc.server(ThreadPoolExecutor(8), options=OPTIONS)
        add_PredictionServiceServicer_to_server(self, self._server)
        add_ModelServiceServicer_to_server(self, self._server)
        self.port = int(self._server.add_insecure_port(f"{host}:{port}"))

    def start(self) -> None:
        self._server.start()

    def stop(self, grace_s: float = 5.0) -> None:
        self._server.stop(grace_s).wait()
        self._loader.shutdown(cancel_futures=True)

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        loaded = self._load(request, context)[1].result()
        constant = tensorflow().constant
        inputs = {name: constant(from_proto(value)) for name, value in request.inputs.items()}
        try:
            outputs = loaded.model.signatures[request.model_spec.signature_name](**inputs)
        except tensorflow().errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        response = PredictResponse()
        for name in request.output_filter:
            response.outputs[name].CopyFrom(to_proto(outputs[name].numpy()))
        return response

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        signatures = SignatureDefMap()
        for name, definition in self._load(request, context)[1].result().definitions.items():
            signatures.signature_def[name].CopyFrom(definition)
        response = GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(signatures)
        return response

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        version, load = self._load(request, context)
        status = ModelVersionStatus(version=version, state=ModelVersionStatus.LOADING)
        if load.done():
            error = load.exception()
            status.state = ModelVersionStatus.AVAILABLE if error is None else ModelVersionStatus.END
            status.status.error_message = f"cannot be loaded: {error}" if error is not None else ""
        return GetModelStatusResponse(model_version_status=[status])

    def Classify(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "only Predict is supported")

    Regress = MultiInference = PredictStreamed = HandleReloadConfigRequest = Classify

    def _load(self, request: Any, context: Any) -> tuple[int, Future[Loaded]]:
        """The version that is asked for, by default the highest, and its load, which starts here."""
        spec = request.model_spec
        found = folders.versions(self._root / spec.name)
        version = int(spec.version.value) if spec.HasField("version") else max(found, default=0)
        if version not in found:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {spec.name}, {version}")
        folder = self._root / spec.name / str(version)
        with self._lock:
            if folder not in self._loads:
                self._loads[folder] = self._loader.submit(Loaded.of, folder)
            return version, self._loads[folder]


def main() -> None:
    """Serve until SIGTERM."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("models", type=Path)
    options.add_argument("--port", type=int, default=8500)
    options.add_argument("--host", default="127.0.0.1")
    chosen = options.parse_args()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    tensorflow()
    server = StandIn(chosen.models, chosen.port, host=chosen.host)
    server.start()
    sys.stdout.write(f"port={server.port}\n")
    sys.stdout.flush()
    stopping.wait()
    server.stop()


if __name__ == "__main__":
    main()

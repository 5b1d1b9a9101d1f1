"""SavedModels below a folder, loaded with TensorFlow on first use."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import structlog
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from extractor.models import folders
from extractor.models.folders import WARM_UP
from extractor.tf_serving.batching import Arrays, Batcher, BatchLimits, QueueFull
from extractor.tf_serving.loading import tensorflow
from extractor.tf_serving.protos import PredictionLog, SavedModel, dtype_name, from_proto

log = structlog.get_logger(__name__)


class ServingError(Exception):
    """A request that cannot be answered, with its gRPC status."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status


class Servable:
    """One version of one model, ready to run.

    Parameters
    ----------
    folder
        The version folder.
    """

    def __init__(self, name: str, version: int, folder: Path, limits: BatchLimits) -> None:
        tf = tensorflow()
        self.name = name
        self.version = version
        self.signature_defs = _signature_defs(folder)
        self._loaded = tf.saved_model.load(str(folder))
        self._batchers = {
            signature: Batcher(_runner(self._loaded.signatures[signature]), limits)
            for signature in self.signature_defs
            if signature in self._loaded.signatures
        }
        self._warm_up(folder / WARM_UP)

    def submit(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> Future[Arrays]:
        """The outputs of a signature, by name.

        Raises
        ------
        ServingError
            No such signature, inputs that do not fit it, or too many requests wait.
        """
        signature = signature or "serving_default"
        batcher = self._batchers.get(signature)
        if batcher is None:
            raise ServingError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"{self.name} has no signature {signature!r}; it has {sorted(self._batchers)}",
            )
        _check_inputs(self.signature_defs[signature], inputs)
        try:
            return batcher.submit(inputs)
        except QueueFull as error:
            raise ServingError(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from error

    def close(self) -> None:
        """Finish what waits."""
        for batcher in self._batchers.values():
            batcher.close()

    def _warm_up(self, path: Path) -> None:
        if not path.is_file():
            return
        for record in tensorflow().data.TFRecordDataset(str(path)):
            request = PredictionLog.FromString(record.numpy()).predict_log.request
            inputs = {key: from_proto(value) for key, value in request.inputs.items()}
            self.submit(request.model_spec.signature_name, inputs).result()


class Servables:
    """Every model below a root folder, each loaded on its first use and then kept.

    New models and versions are found on first request, without a restart.
    """

    def __init__(self, root: Path, limits: BatchLimits | None = None) -> None:
        self.root = root
        self._limits = limits or BatchLimits()
        self._lock = threading.Lock()
        self._loads: dict[tuple[str, int], Future[Servable]] = {}
        # One load at a time: each may need most of the memory.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")

    def versions(self, name: str) -> list[int]:
        """The versions of a model, ascending.

        Raises
        ------
        ServingError
            There is no such model.
        """
        found = folders.versions(self.root / name) if name and Path(name).name == name else []
        if not found:
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({name})")
        return found

    def load(self, name: str, version: int | None = None) -> tuple[int, Future[Servable]]:
        """The requested version, by default the highest, and its load, started if necessary.

        Raises
        ------
        ServingError
            There is no such model or version.
        """
        found = self.versions(name)
        version = found[-1] if version is None else version
        if version not in found:
            raise ServingError(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Specific({name}, {version})"
            )
        with self._lock:
            key = (name, version)
            if key not in self._loads:
                self._loads[key] = self._loader.submit(self._load, name, version)
            return version, self._loads[key]

    def get(self, name: str, version: int | None = None, timeout_s: float | None = None) -> Servable:
        """The requested model, loaded.

        Raises
        ------
        ServingError
            The model or version does not exist, or cannot be loaded.
        """
        _, load = self.load(name, version)
        try:
            return load.result(timeout_s)
        except TimeoutError as error:
            raise ServingError(grpc.StatusCode.UNAVAILABLE, f"{name} is still being loaded") from error

    def close(self) -> None:
        """Finish what waits and let everything go."""
        self._loader.shutdown(cancel_futures=True)
        for load in self._loads.values():
            if load.done() and not load.cancelled() and load.exception() is None:
                load.result().close()

    def _load(self, name: str, version: int) -> Servable:
        folder = self.root / name / str(version)
        log.info("loading", model=name, version=version)
        try:
            servable = Servable(name, version, folder, self._limits)
        except Exception as error:
            log.exception("cannot load", model=name, version=version)
            raise ServingError(
                grpc.StatusCode.FAILED_PRECONDITION, f"{name} version {version} cannot be loaded: {error}"
            ) from error
        log.info("serving", model=name, version=version)
        return servable


def _signature_defs(folder: Path) -> dict[str, Any]:
    proto = SavedModel()
    try:
        proto.ParseFromString((folder / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise ValueError(f"saved_model.pb is damaged: {error}") from error
    for graph in proto.meta_graphs:
        if set(graph.meta_info_def.tags) == {"serve"}:
            return {name: value for name, value in graph.signature_def.items() if not name.startswith("__")}
    raise ValueError("it holds no graph tagged `serve`")


def _runner(function: Any) -> Any:
    tf = tensorflow()

    def run(inputs: Arrays) -> Arrays:
        outputs = function(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: np.asarray(value.numpy()) for name, value in outputs.items()}

    return run


def _check_inputs(definition: Any, inputs: Mapping[str, NDArray[Any]]) -> None:
    """Check the inputs before the run, for clearer errors than TensorFlow's."""
    if set(inputs) != set(definition.inputs):
        raise _invalid(f"the inputs are {sorted(inputs)}, not {sorted(definition.inputs)}")
    rows = set()
    for name, value in inputs.items():
        info = definition.inputs[name]
        expected = [int(dim.size) for dim in info.tensor_shape.dim]
        if value.dtype != dtype_name(info.dtype):
            raise _invalid(f"the input {name!r} is {value.dtype}, not {dtype_name(info.dtype)}")
        if not info.tensor_shape.unknown_rank and (
            len(expected) != value.ndim
            or any(required not in (-1, actual) for required, actual in zip(expected, value.shape, strict=True))
        ):
            raise _invalid(f"the input {name!r} has the shape {list(value.shape)}, not {expected}")
        if value.ndim == 0 or len(value) == 0:
            raise _invalid(f"the input {name!r} has no rows")
        rows.add(len(value))
    if len(rows) > 1:
        raise _invalid(f"the inputs have different numbers of rows: {sorted(rows)}")


def _invalid(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)

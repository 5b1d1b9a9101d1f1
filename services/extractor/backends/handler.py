"""Models that an operator brings as a class, in the shape that TorchServe's handlers have.

The class is imported from Python's path, so it runs with all rights of the worker: only what the operator names in
``SHOAL_HANDLERS`` is ever imported.
"""

from __future__ import annotations

import importlib
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shoal.errors import InvalidRequest, JobError
from shoal.settings import Settings
from shoal.store import ModelRecord

from extractor.models.spec import ModelSpec


class Handler(Protocol):
    """What a handler offers.

    `preprocess` gets a list with one ``{"body": <PNG bytes>}`` an image, as TorchServe has it; a class with the
    attribute ``takes_pixels = True`` gets one uint8 array (n, size, size, 3) instead, which is quicker. The images are
    resized and cropped by the model's transform. What `postprocess` returns is read as an array (n, dim).
    """

    def initialize(self, context: Any) -> None:
        """Load the model. `context.system_properties` holds ``model_dir`` and ``gpu_id``, `context.manifest` the
        model's name and file, as TorchServe has them."""

    def preprocess(self, data: Any) -> Any: ...

    def inference(self, data: Any) -> Any: ...

    def postprocess(self, data: Any) -> Any: ...


class HandlerBackend:
    """A handler behind the interface of a backend.

    Raises
    ------
    InvalidRequest
        The handler is not allowed, cannot be imported, or lacks a method.
    JobError
        The handler fails, or gives no (n, dim) array of finite shape.
    """

    max_in_flight = 2

    def __init__(self, spec: ModelSpec, settings: Settings, record: ModelRecord) -> None:
        self.transform = spec.transform
        self.record = record
        self._name = spec.handler or ""
        self._handler = load(self._name, settings)
        try:
            self._handler.initialize(_context(spec, settings))
        except Exception as error:
            raise JobError(f"The handler {self._name} failed in initialize: {type(error).__name__}: {error}") from error
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="handler")
        size = spec.transform.size
        self.dim = int(self._embed(np.zeros((1, size, size, 3), np.uint8)).shape[1])

    def submit(self, pixels: NDArray[np.uint8]) -> Future[NDArray[np.float32]]:
        """Embed (n, size, size, 3) uint8 as (n, dim) float32."""
        return self._executor.submit(self._embed, pixels)

    def close(self) -> None:
        """Stop the thread and cancel the batches that wait."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        data = pixels if getattr(self._handler, "takes_pixels", False) else [{"body": _png(image)} for image in pixels]
        try:
            handler = self._handler
            output = _array(handler.postprocess(handler.inference(handler.preprocess(data))))
        except Exception as error:
            raise JobError(f"The handler {self._name} failed: {type(error).__name__}: {error}") from error
        if output.ndim != 2 or len(output) != len(pixels):
            raise JobError(
                f"The handler {self._name} returned an array of shape {output.shape} for {len(pixels)} images: "
                "postprocess must return one row of numbers per image."
            )
        return output


def load(name: str, settings: Settings) -> Handler:
    """An instance of the class ``module:Class``, which the operator's list must name.

    Raises
    ------
    InvalidRequest
        It is not on the list, cannot be imported, or lacks a method.
    """
    if name not in settings.handlers:
        raise InvalidRequest(f"The handler {name!r} is not allowed. Add it to SHOAL_HANDLERS, as module:Class.")
    module, _, attribute = name.partition(":")
    try:
        handler = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        raise InvalidRequest(f"The handler {name!r} cannot be created: {type(error).__name__}: {error}.") from error
    absent = [m for m in ("initialize", "preprocess", "inference", "postprocess") if not hasattr(handler, m)]
    if absent:
        raise InvalidRequest(f"The handler {name!r} lacks the methods {', '.join(absent)}.")
    return handler  # type: ignore[no-any-return]


def _context(spec: ModelSpec, settings: Settings) -> SimpleNamespace:
    gpu = settings.device.partition(":")[2] if settings.device.startswith("cuda") else None
    properties = {"model_dir": str(settings.models), "gpu_id": int(gpu) if gpu else None, "device": settings.device}
    path = spec.weights.local_file(settings.models)
    model = {"modelName": spec.name, "serializedFile": str(path) if path else None}
    return SimpleNamespace(system_properties=properties, manifest={"model": model}, options=dict(spec.options))


def _png(image: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _array(output: Any) -> NDArray[np.float32]:
    """(n, dim) float32 from a tensor, an array, or a list of them."""
    if isinstance(output, list | tuple):
        return np.stack([_array(row) for row in output]) if len(output) and not np.isscalar(output[0]) else _row(output)
    if hasattr(output, "detach"):
        output = output.detach().cpu().float().numpy()
    return _row(output)


def _row(output: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = np.asarray(output, dtype=np.float32)
    return array

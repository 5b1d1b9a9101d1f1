"""SavedModels run by TensorFlow in this process, where TF_SERVING_URL names no server."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from shoal.errors import JobError, ModelMismatch, ModelNotServed, ServingFailed, WeightsMissing
from shoal.host import available_cores
from shoal.settings import Settings
from shoal.store import ModelRecord

from extractor.backends.base import Backend
from extractor.images.transform import Transform
from extractor.models import obtaining
from extractor.models.download import OnProgress
from extractor.models.folders import WARM_UP
from extractor.models.obtaining import OnStage
from extractor.models.spec import ModelSpec
from extractor.tf_serving import exported
from extractor.tf_serving.exported import INPUT, OUTPUT, SIGNATURE, Exported
from extractor.tf_serving.loading import tensorflow
from extractor.tf_serving.protos import PredictionLog, SavedModel, from_proto

log = structlog.get_logger(__name__)


def record_of(
    spec: ModelSpec,
    settings: Settings,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
) -> ModelRecord:
    """The model's record in the store: its highest version below the models root, the one that is loaded.

    A published model that is not on this machine is downloaded and imported first. The record is the one that
    `tfserving.record_of` makes of the same folder.

    Raises
    ------
    ModelNotServed
        The model is not below the models root and cannot be downloaded.
    WeightsInvalid
        The download differs from the published file, or the imported files have changed.
    """
    try:
        path = obtaining.obtain(
            spec,
            settings.models,
            offline=settings.offline,
            mirror=settings.mirror,
            on_progress=on_progress,
            on_stage=on_stage,
        )
    except WeightsMissing as error:
        raise ModelNotServed(error.detail, **error.members) from error
    if path is None:
        raise AssertionError(f"{spec.name} has no files")
    return exported.record(spec, settings.models, int(path.parent.name))


class SavedModelBackend:
    """A version of a model, loaded with TensorFlow.

    On a CPU each image is a call of its own, one for each core at once: TensorFlow chooses other kernels, and so other
    bits, for another number of images. One thread for each core takes no longer than whole batches. A GPU gets whole
    batches.

    Parameters
    ----------
    spec
        The model.
    settings
        Models root and device.
    record
        As `record_of` made it; it names the version.

    Raises
    ------
    ModelNotServed
        The version is gone, or cannot be loaded.
    ModelMismatch
        The model's signature, dtypes or width are not those of the catalogue.
    JobError
        The device does not exist.
    """

    max_in_flight = 2

    def __init__(self, spec: ModelSpec, settings: Settings, record: ModelRecord) -> None:
        self.transform: Transform = spec.transform
        self.record = record
        self._tf = started(settings.device)
        self._model, self.served = self._loaded(spec, settings.models)
        self.dim = self.served.dim
        self._alone = not self._tf.config.get_visible_devices("GPU")
        self._batches = ThreadPoolExecutor(self.max_in_flight, thread_name_prefix="batch")
        self._calls = ThreadPoolExecutor(available_cores(), thread_name_prefix="savedmodel")
        log.info("model loaded", model=spec.name, version=self.served.version, dim=self.dim)

    def submit(self, pixels: NDArray[np.uint8]) -> Future[NDArray[np.float32]]:
        """Embed (n, size, size, 3) uint8 as (n, dim) float32."""
        return self._batches.submit(self._embed, pixels)

    def close(self) -> None:
        """Stop the threads and cancel the batches that wait."""
        self._batches.shutdown(wait=True, cancel_futures=True)
        self._calls.shutdown(wait=True)

    def _embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not self._alone:
            return self._call(pixels)
        return np.concatenate(list(self._calls.map(self._call, np.split(pixels, len(pixels)))))

    def _call(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        tf, errors = self._tf, self._tf.errors
        try:
            images = tf.constant(pixels.astype(self.served.dtype, copy=False))
            embeddings = self._model.signatures[SIGNATURE](**{INPUT: images})[OUTPUT].numpy()
        except errors.InvalidArgumentError as error:
            raise ModelMismatch(f"{self.served.name!r} refuses the images: {_first_line(error)}.") from error
        except errors.ResourceExhaustedError as error:
            raise ServingFailed(
                f"A batch of {len(pixels)} images is too large for {self.served.name!r} ({_first_line(error)}): set a "
                "smaller `batch_size`."
            ) from error
        except errors.OpError as error:
            raise ServingFailed(f"{self.served.name!r} failed: {_first_line(error)}.") from error
        return self.served.checked(embeddings, len(pixels))

    def _loaded(self, spec: ModelSpec, models_root: Path) -> tuple[Any, Exported]:
        version = exported.version_of(self.record)
        folder = models_root / spec.name / str(version)
        try:
            served = Exported.of(spec, version, _signatures(folder))
            model = self._tf.saved_model.load(str(folder))
            self._warm_up(model, folder / WARM_UP)
        except JobError:
            raise
        except Exception as error:  # TensorFlow raises whatever its loader meets.
            raise ModelNotServed(
                f"Version {version} of {spec.name!r} in {folder} cannot be loaded: {_first_line(error)}. Import it "
                f"again with `shoal models import-tf {spec.name} SOURCE_DIR`.",
                model=spec.name,
            ) from error
        return model, served

    def _warm_up(self, model: Any, path: Path) -> None:
        """Run the requests that were exported with the model, as TensorFlow Serving does before it serves."""
        if not path.is_file():
            return
        for entry in self._tf.data.TFRecordDataset(str(path)):
            request = PredictionLog.FromString(entry.numpy()).predict_log.request
            inputs = {name: self._tf.constant(from_proto(value)) for name, value in request.inputs.items()}
            model.signatures[request.model_spec.signature_name or SIGNATURE](**inputs)


def started(device: str) -> Any:
    """TensorFlow, on the device that SHOAL_DEVICE names, with a thread for each core of this process.

    ``auto`` takes the first GPU if there is one. A process that has used TensorFlow before keeps what it had.

    Raises
    ------
    JobError
        The device does not exist. A fallback could compute for days on the wrong one.
    """
    tf = tensorflow()
    gpus = tf.config.list_physical_devices("GPU")
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or not (index or "0").isdecimal():
        raise JobError(f"SHOAL_DEVICE is {device!r}: set it to auto, cpu, cuda or cuda:N.")
    if kind == "cuda" and int(index or 0) >= len(gpus):
        raise JobError(f"SHOAL_DEVICE is {device!r}, but TensorFlow finds {len(gpus)} GPUs on this machine.")
    cores = available_cores()
    try:
        tf.config.set_visible_devices([] if kind == "cpu" else gpus[int(index or 0) :][:1], "GPU")
        for gpu in tf.config.get_visible_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        tf.config.threading.set_intra_op_parallelism_threads(cores)
        tf.config.threading.set_inter_op_parallelism_threads(cores)
    except RuntimeError as error:
        log.warning("TensorFlow was in use before; device and threads stay as they are", reason=str(error))
    return tf


def _signatures(folder: Path) -> dict[str, Any]:
    """The ``SignatureDef`` of each signature of the graph that is served."""
    proto = SavedModel()
    try:
        proto.ParseFromString((folder / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise ValueError(f"saved_model.pb is damaged: {error}") from error
    for graph in proto.meta_graphs:
        if set(graph.meta_info_def.tags) == {"serve"}:
            return {name: value for name, value in graph.signature_def.items() if not name.startswith("__")}
    raise ValueError("it holds no graph tagged `serve`")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _conforms(backend: SavedModelBackend) -> Backend:  # Checked by mypy: the class implements the protocol.
    return backend

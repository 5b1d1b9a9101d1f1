"""A version folder for TensorFlow Serving: written from a network, published atomically, listed in the config."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from shoal.store.files import fsync_folder, fsync_tree, replace_file

from extractor.models.folders import WARM_UP, served_models, versions
from extractor.tf_import.graphs import Network
from extractor.tf_serving.exported import INPUT, OUTPUT, SIGNATURE
from extractor.tf_serving.loading import tensorflow
from extractor.tf_serving.protos import PredictionLog, to_proto

WARM_UP_BATCHES = (1, 8)

MODEL_CONFIG = "model.config"
BATCHING_CONFIG = "batching.config"
SERVING_ROOT = "/models"
"""Where the public image of TensorFlow Serving finds the models root."""

_BATCHING = """\
# For bulk work: requests bring whole batches, small ones are merged while the next is computed.
max_batch_size { value: 128 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 64 }
num_batch_threads { value: 2 }
enable_large_batch_splitting { value: true }
max_execution_batch_size { value: 128 }
"""

InputDtype = Literal["uint8", "float32"]


@dataclass(frozen=True)
class Scaling:
    """Scaling of pixel values from 0 to 255 in the graph: ``(pixels / 255 - mean) / std``, per channel R, G, B."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def apply(self, pixels: Any) -> Any:
        """The scaled float32 of a tensor or array of pixel values."""
        scaled = pixels / np.float32(255.0)
        if any(self.mean):
            scaled = scaled - np.asarray(self.mean, np.float32)
        if any(value != 1.0 for value in self.std):
            scaled = scaled / np.asarray(self.std, np.float32)
        return scaled


def save(
    network: Network, scaling: Scaling | None, folder: Path, *, size: int | None, dim: int, dtype: InputDtype
) -> None:
    """Write the SavedModel that serves `network`.

    Parameters
    ----------
    scaling
        None for a network that takes uint8 and scales it itself.
    folder
        Folder to write, later the version folder.
    size
        Side of the input if fixed; None accepts any size.
    dim
        Width of the embedding.
    dtype
        dtype of ``images``; float32 also ranges from 0 to 255.
    """
    tf = tensorflow()
    module = tf.Module(name="shoal")
    module.network = network.tracked

    def serve(images: Any) -> Any:
        if scaling is None:
            embedding = network.call(tf.cast(images, tf.uint8))
        else:
            embedding = network.call(scaling.apply(tf.cast(images, tf.float32)))
        return {OUTPUT: tf.ensure_shape(tf.identity(embedding), [None, dim])}

    spec = tf.TensorSpec([None, size, size, 3], dtype, name=INPUT)
    module.serve = tf.function(serve, input_signature=[spec], autograph=False)
    tf.saved_model.save(module, str(folder), signatures={SIGNATURE: module.serve})


def write_warm_up(folder: Path, name: str, *, size: int, dtype: InputDtype) -> None:
    """Requests that TensorFlow Serving runs before it calls the model available."""
    tf = tensorflow()
    path = folder / WARM_UP
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for rows in WARM_UP_BATCHES:
            log = PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = name
            request.model_spec.signature_name = SIGNATURE
            request.inputs[INPUT].CopyFrom(to_proto(np.zeros((rows, size, size, 3), dtype)))
            writer.write(log.SerializeToString())


def publish(prepared: Path, folder: Path) -> int:
    """Move a finished version folder into a model's folder under the next version, which it returns."""
    fsync_tree(prepared)
    version = max(versions(folder), default=0) + 1
    while True:
        try:
            os.rename(prepared, folder / str(version))  # noqa: PTH104  # fails on a folder that is not empty
        except OSError:
            if not (folder / str(version)).exists():
                raise
            version += 1
        else:
            fsync_folder(folder)
            return version


def write_configs(root: Path, serving_root: str = SERVING_ROOT) -> None:
    """Write ``model.config``, naming every model below `root`, and ``batching.config`` unless there is one."""
    entries = (
        f'  config {{ name: "{name}" base_path: "{serving_root}/{name}" model_platform: "tensorflow" }}\n'
        for name, _ in served_models(root)
    )
    _replace(root / MODEL_CONFIG, f"model_config_list {{\n{''.join(entries)}}}\n")
    if not (root / BATCHING_CONFIG).exists():
        _replace(root / BATCHING_CONFIG, _BATCHING)


def _replace(path: Path, text: str) -> None:
    replace_file(path, lambda file: file.write(text.encode()))

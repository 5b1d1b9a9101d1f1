"""Version folders that appear whole, and the configuration files that TensorFlow Serving reads beside them."""

from __future__ import annotations

import os
from pathlib import Path

from shoal.store.files import fsync_folder, fsync_tree, replace_file

from extractor.models.folders import served_models, versions

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

"""Where served models lie below the models root, and the configuration files that TensorFlow Serving reads there.

``<root>/<name>/<version>/`` holds one SavedModel; versions are whole numbers and the highest is served. Nothing here
imports TensorFlow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shoal.store.atomic import fsync_folder, fsync_tree, replace_file

MODEL_CONFIG = "model.config"
BATCHING_CONFIG = "batching.config"
REPORT = Path("assets.extra") / "shoal.json"
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


def versions(folder: Path) -> list[int]:
    """The versions in a model's folder, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and (p / "saved_model.pb").is_file())


def served_models(root: Path) -> Iterator[tuple[str, int]]:
    """Name and highest version of each model below `root`, by name."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else ():
        found = versions(folder)
        if found:
            yield folder.name, found[-1]


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


def report(folder: Path, version: int) -> dict[str, Any] | None:
    """What the import wrote about a version; None for a model that came here in another way."""
    try:
        document = json.loads((folder / str(version) / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def latest_report(root: Path, name: str) -> dict[str, Any] | None:
    """The report about the highest version of a model; None when there is no such model, or no report."""
    if Path(name).name != name:
        return None
    found = versions(root / name)
    return report(root / name, found[-1]) if found else None


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

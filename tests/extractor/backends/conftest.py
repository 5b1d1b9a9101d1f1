"""Models of TensorFlow, imported once for all tests of the backends."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from extractor.tf_import.importing import import_savedmodel
from extractor.tf_import.lite0 import save_lite0, torch_state
from shoal.settings import Settings


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models of `models` come from, by name."""
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="session")
def models(tf: Any, builders: ModuleType, sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``grid`` gives an 8 x 8 picture of its input, ``lite0`` is EfficientNet-Lite0; the others are small."""
    root = tmp_path_factory.mktemp("models")

    size, cells = 32, 8

    def grid(images: Any) -> Any:
        return tf.reshape(tf.nn.avg_pool2d(images, size // cells, size // cells, "VALID"), [-1, 3 * cells**2])

    builders.plain_tf2(sources / "grid", grid, dtype="float32")
    import_savedmodel("grid", sources / "grid", root, transform={"size": size, "crop_fraction": 1.0})
    builders.simclr_hub(sources / "simclr1")
    import_savedmodel("simclr1", sources / "simclr1", root, transform={"size": size, "crop_fraction": 1.0})
    builders.bigbigan_hub(sources / "bigbigan", size=size)
    import_savedmodel("bigbigan", sources / "bigbigan", root)
    builders.simclr_tf2(sources / "simclr2", selective=True)
    import_savedmodel("simclr2", sources / "simclr2", root, transform={"size": size, "crop_fraction": 1.0})
    save_lite0(torch_state(Settings(models=root)), sources / "lite0")
    import_savedmodel("lite0", sources / "lite0", root)
    return root

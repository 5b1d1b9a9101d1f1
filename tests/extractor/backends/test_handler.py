"""An operator's own class in TorchServe's shape, behind the interface of a backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from extractor.backends.base import Backend
from extractor.backends.loading import open_backend, record_of
from extractor.models import catalogue
from shoal.errors import InvalidRequest, JobError
from shoal.settings import Settings

PLANKTON = """
from io import BytesIO

import numpy as np
from PIL import Image


class Means:
    def initialize(self, context):
        self.model_dir = context.system_properties["model_dir"]
        self.name = context.manifest["model"]["modelName"]

    def preprocess(self, data):
        return [np.asarray(Image.open(BytesIO(row["body"])), np.float32) for row in data]

    def inference(self, data):
        return [image.mean(axis=(0, 1)) for image in data]

    def postprocess(self, data):
        return [row.tolist() for row in data]


class Pixels(Means):
    takes_pixels = True

    def preprocess(self, data):
        return data.astype(np.float32)

    def postprocess(self, data):
        return np.stack(data)


class Flat(Means):
    def postprocess(self, data):
        return data[0]


class Broken(Means):
    def inference(self, data):
        raise ZeroDivisionError("no plankton")


class NoModel(Means):
    def initialize(self, context):
        raise FileNotFoundError("weights")


class Half:
    def initialize(self, context): ...
"""


@pytest.fixture
def open_handler(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Backend]:
    """``open_handler("Means")`` opens the class as a backend; `allow` is the operator's list."""
    module = f"plankton_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(PLANKTON)
    monkeypatch.syspath_prepend(tmp_path)

    def opened(name: str, allow: tuple[str, ...] | None = None) -> Backend:
        handler = f"{module}:{name}"
        listed = frozenset(f"{module}:{n}" for n in (allow if allow is not None else (name,)))
        allowed = settings.model_copy(update={"handlers": listed})
        spec = catalogue.resolve(f"handler:{handler}", settings.models, settings=allowed)
        return open_backend(spec, allowed, record_of(spec, allowed))

    return opened


@pytest.mark.parametrize("name", ["Means", "Pixels"])
def test_a_handler_embeds(name: str, open_handler: Callable[..., Backend]) -> None:
    backend = open_handler(name)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    found = backend.submit(pixels).result()
    backend.close()
    assert (backend.dim, found.dtype) == (3, np.dtype(np.float32))
    np.testing.assert_allclose(found, pixels.mean(axis=(1, 2)), rtol=1e-4)
    assert name in backend.record.architecture


def test_a_handler_off_the_list_is_never_imported(open_handler: Callable[..., Backend]) -> None:
    with pytest.raises(InvalidRequest, match="SHOAL_HANDLERS"):
        open_handler("Means", allow=("Pixels",))


@pytest.mark.parametrize(
    ("name", "message"), [("Half", "lacks the methods preprocess"), ("Absent", "cannot be created")]
)
def test_a_class_of_another_shape_is_refused(name: str, message: str, open_handler: Callable[..., Backend]) -> None:
    with pytest.raises(InvalidRequest, match=message):
        open_handler(name)


@pytest.mark.parametrize(
    ("name", "message"), [("Broken", "ZeroDivisionError: no plankton"), ("NoModel", "initialize"), ("Flat", "one row")]
)
def test_a_failing_handler_says_what_failed(name: str, message: str, open_handler: Callable[..., Backend]) -> None:
    with pytest.raises(JobError, match=message):
        open_handler(name)

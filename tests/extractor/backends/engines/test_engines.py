"""The engines: each passes the same suite, against eager float32."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extractor.backends.base import Backend
from extractor.backends.engines import numerics as engines
from extractor.backends.engines.numerics import CLASSES, classes, engine_of, missing, require
from extractor.backends.engines.opening import open_engine
from extractor.backends.engines.parts import PartsBackend
from extractor.backends.loading import open_backend, record_of
from extractor.models import catalogue
from shoal.errors import EngineUnavailable, InvalidRequest, JobError, OutOfMemory
from shoal.schemas import CustomModel, TransformOverride
from shoal.settings import Settings

SIZE = 64
MODEL = CustomModel(architecture="test_resnet", weights="random", seed=0, transform=TransformOverride(size=SIZE))
LEAST_COSINE = 0.999
TOLERANCE = {"bf16": 1e-6, "compile-bf16": 1e-6, "compile-f32": 1e-6}
"""Of a row's length: how far a row may move with the other images of its batch; 0 for all others."""


def needs_openvino() -> None:
    # Not by importing it, which would also import what reports its use.
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed")


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(models=tmp_path_factory.mktemp("models"), device="cpu")


@pytest.fixture(scope="module")
def eager(machine: Settings) -> np.ndarray:
    """What eager float32 makes of 37 images."""
    spec = catalogue.resolve(MODEL, machine.models, settings=machine)
    backend = open_backend(spec, machine, record_of(spec, machine))
    rows = backend.submit(noise(37)).result()
    backend.close()
    return rows


@pytest.fixture(scope="module", params=[each for each in CLASSES if each != "openvino-int8"])
def engine(request: pytest.FixtureRequest, machine: Settings) -> Iterator[tuple[str, Backend]]:
    """Each engine that this machine can run."""
    why = missing(request.param, machine)
    if request.param == "compile-f32" and missing("compile-bf16", machine) is None:
        why = "compiled in bfloat16, which takes long enough"
    if why is not None:
        pytest.skip(why)
    spec = catalogue.resolve(MODEL, machine.models, settings=machine)
    backend = open_engine(spec, machine, record_of(spec, machine), request.param)
    yield request.param, backend
    backend.close()


def test_rows_are_those_of_eager_float32(engine: tuple[str, Backend], eager: np.ndarray) -> None:
    rows = engine[1].submit(noise(37)).result()
    assert rows.dtype == np.float32
    assert rows.shape == (37, engine[1].dim)
    assert cosines(rows, eager).min() >= LEAST_COSINE


def test_a_row_does_not_depend_on_the_other_images_of_its_batch(engine: tuple[str, Backend]) -> None:
    name, backend = engine
    images = noise(37)
    alone = np.concatenate([backend.submit(images[at : at + 1]).result() for at in range(37)])
    order = np.random.default_rng(0).permutation(37)
    for chosen in (np.arange(37), order, order[:5]):
        rows = backend.submit(images[chosen]).result()
        off = np.linalg.norm(rows - alone[chosen], axis=1) / np.linalg.norm(alone[chosen], axis=1)
        assert off.max() <= TOLERANCE.get(name, 0)


def test_many_batches_at_once_keep_their_rows_apart(engine: tuple[str, Backend]) -> None:
    images = noise(37)
    whole = engine[1].submit(images).result()
    running = [engine[1].submit(images[at : at + 9]) for at in range(0, 37, 9)]
    np.testing.assert_allclose(np.concatenate([each.result() for each in running]), whole, atol=1e-5)


def test_no_image_gives_no_row(engine: tuple[str, Backend]) -> None:
    assert engine[1].submit(noise(0)).result().shape == (0, engine[1].dim)


def test_an_engine_notes_the_same_model(engine: tuple[str, Backend], machine: Settings) -> None:
    spec = catalogue.resolve(MODEL, machine.models, settings=machine)
    assert engine[1].record.requested() == record_of(spec, machine)


class Sums(PartsBackend):
    """Sums of pixels, with memory for at most `room` images at once."""

    room = 99
    message = ""

    def prepare(self, part: int) -> Callable[[np.ndarray], np.ndarray]:
        def embed(pixels: np.ndarray) -> np.ndarray:
            assert len(pixels) == part
            if part > self.room:
                raise RuntimeError(self.message) if self.message else MemoryError
            return pixels.reshape(len(pixels), -1).sum(1, dtype=np.float32)[:, None]

        return embed


def sums(machine: Settings, **fields: Any) -> PartsBackend:
    spec = catalogue.resolve(MODEL, machine.models, settings=machine)
    kind = type("Kind", (Sums,), fields)
    return kind(spec.transform, record_of(spec, machine), part=8)


@pytest.mark.parametrize("message", ["", "[enforce fail] DefaultCPUAllocator: can't allocate memory", "std::bad_alloc"])
def test_parts_that_do_not_fit_into_memory_are_halved(machine: Settings, message: str) -> None:
    images = noise(21)
    backend = sums(machine, room=2, message=message)
    rows = backend.submit(images).result()
    backend.close()
    np.testing.assert_array_equal(rows[:, 0], images.reshape(21, -1).sum(1, dtype=np.float32))
    assert backend.part == 2


def test_an_image_that_does_not_fit_into_memory_is_an_error(machine: Settings) -> None:
    with pytest.raises(OutOfMemory, match="a single image"):
        sums(machine, room=0)


def test_another_failure_of_the_network_is_passed_on(machine: Settings) -> None:
    def prepare(self: PartsBackend, part: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda pixels: (_ for _ in ()).throw(JobError("no")) if pixels.any() else np.zeros((part, 1))

    backend = sums(machine, prepare=prepare)
    with pytest.raises(JobError, match="no"):
        backend.submit(noise(9)).result()
    backend.close()


def test_what_an_engine_lacks_is_named(machine: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = catalogue.resolve(MODEL, machine.models, settings=machine)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EngineUnavailable, match="C\\+\\+ compiler, and 'no-such-compiler' is not installed"):
        require("compile-f32", spec, machine)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(EngineUnavailable, match=r"`openvino` \(openvino-f32\).*shoal\[openvino\]"):
        require("openvino-f32", spec, machine)
    assert classes("openvino", machine) == []


def test_a_type_that_the_processor_lacks_is_named(machine: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_openvino()
    spec = catalogue.resolve(MODEL, machine.models, settings=machine)
    monkeypatch.setattr(engines, "openvino_types", lambda: frozenset({"FP32"}))
    with pytest.raises(EngineUnavailable, match="does not compute in BF16"):
        require("openvino-bf16", spec, machine)
    assert classes("openvino", machine) == ["openvino-f32"]


def test_a_model_that_is_no_network_of_pytorch_has_no_engines(machine: Settings) -> None:
    spec = catalogue.resolve("raw_pixels", machine.models, settings=machine)
    with pytest.raises(InvalidRequest, match="networks of PyTorch only"):
        require("bf16", spec, machine)
    require(None, spec, machine)


def test_a_class_of_a_newer_version_is_refused() -> None:
    with pytest.raises(EngineUnavailable, match="'int2'"):
        engine_of("int2")


def test_a_network_that_openvino_cannot_convert_is_refused(machine: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_openvino()
    import torch
    from extractor.models import architectures

    network = torch.nn.Identity()
    network.forward = lambda pixels: torch.linalg.eigvals(pixels[:, 0]).real
    monkeypatch.setattr(architectures, "build", lambda *_, **__: network)
    spec = catalogue.resolve(MODEL, machine.models, settings=machine)
    with pytest.raises(EngineUnavailable, match="cannot convert the network"):
        open_engine(spec, machine, record_of(spec, machine), "openvino-f32")


def test_openvino_tells_nobody_how_it_is_used(tmp_path: Path) -> None:
    needs_openvino()
    program = (
        "from extractor.backends.engines import openvino\nimport openvino.tools.ovc.telemetry_utils as used\n"
        "print(used.tm.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, check=True
    )
    assert done.stdout.split() == [b"openvino.tools.ovc.telemetry_stub"]
    assert not (tmp_path / "intel").exists()


def test_a_checkpoint_is_read_by_every_engine(tmp_path: Path) -> None:
    settings = Settings(models=tmp_path, device="cpu")
    spec = catalogue.resolve("tf_efficientnet_lite0", settings.models, settings=settings)
    backend = open_engine(spec, settings, record_of(spec, settings), "bf16")
    assert backend.record.loaded is not None
    assert backend.dim == 1280
    backend.close()

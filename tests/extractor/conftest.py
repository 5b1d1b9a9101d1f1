"""Small real images, settings below the test's own folder, and real TensorFlow, imported only by tests that need it."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shoal.jobs.child import JobContext
from shoal.settings import Settings

Make = Callable[..., Path]
TENSORFLOW_WARNINGS = (
    # TensorFlow's and its dependencies' own, raised while it is imported or while it saves a model.
    "ignore::DeprecationWarning:tensorflow.*",
    "ignore::DeprecationWarning:keras.*",
    "ignore:.*np.object.*:FutureWarning",
)


def photo(seed: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """A smooth picture that no other seed gives."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Data, models and store below the test's own folder; one decode process."""
    for name in ("data", "models", "store"):
        (tmp_path / name).mkdir()
    return Settings(
        data=tmp_path / "data",
        models=tmp_path / "models",
        store=tmp_path / "store",
        online=tmp_path / "online",
        decode_workers=1,
        device="cpu",
        offline=True,
    )


@pytest.fixture
def folder(settings: Settings) -> Path:
    """``<data>/set``, empty."""
    path = settings.data / "set"
    path.mkdir()
    return path


@pytest.fixture
def make(folder: Path) -> Make:
    """``make("cat/0.png", seed=0)`` writes a picture into the folder."""

    def write(name: str, seed: int = 0, size: tuple[int, int] = (60, 40)) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(seed, size).save(path)
        return path

    return write


def request(**fields: Any) -> dict[str, Any]:
    """An extract request as a client sends it: raw pixels of ``set`` unless told otherwise."""
    return {"images": {"path": "set"}, "model": "raw_pixels", "batch_size": 4, "shard_rows": 5, **fields}


@pytest.fixture
def job() -> Callable[..., JobContext]:
    """``job(model=…, checkpoint=…)``: the context of an extract job."""

    def context(*, checkpoint: dict[str, Any] | None = None, **fields: Any) -> JobContext:
        return JobContext.local(request(**fields), kind="extract:torch", checkpoint=checkpoint)

    return context


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name.startswith("tf_") or "tf" in getattr(item, "fixturenames", ()):
            for line in TENSORFLOW_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(line))


@pytest.fixture(scope="session")
def tf() -> Any:
    """TensorFlow."""
    from extractor.tf_serving.loading import tensorflow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Triton, which PyTorch loads on occasion, crashes a process that has loaded TensorFlow before it.
        with contextlib.suppress(ImportError):
            import triton  # noqa: F401
        return tensorflow()


@pytest.fixture(scope="session")
def builders(tf: Any) -> ModuleType:
    """Small networks in the layouts of the published ones."""
    spec = importlib.util.spec_from_file_location("tf_builders", Path(__file__).with_name("tf_builders.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def serve(tf: Any) -> Iterator[Callable[..., Any]]:
    """``serve(root, port=0)`` starts a server in this process; all are stopped after the test."""
    from tests.extractor.tf_serving.stand_in import StandIn

    servers = []

    def start(root: Path, port: int = 0) -> Any:
        server = StandIn(root, port)
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop(grace_s=0)


@pytest.fixture
def client_settings(tmp_path: Path) -> Callable[..., Settings]:
    """``client_settings(port, **fields)``: settings of a client that gives up soon."""

    def make(port: int, **fields: Any) -> Settings:
        for name in ("data", "models", "store"):
            (tmp_path / name).mkdir(exist_ok=True)
        return Settings(
            **{
                "data": tmp_path / "data",
                "models": tmp_path / "models",
                "store": tmp_path / "store",
                "decode_workers": 1,
                "device": "cpu",
                "tf_serving_url": f"127.0.0.1:{port}",
                "tf_serving_gone_s": 30.0,
                **fields,
            }
        )

    return make

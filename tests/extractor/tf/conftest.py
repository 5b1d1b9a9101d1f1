"""Real TensorFlow, imported once and only by the tests that need it, and a server over it."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from shoal.settings import Settings

TENSORFLOW_WARNINGS = (
    # TensorFlow's and its dependencies' own, raised while it is imported or while it saves a model.
    "ignore::DeprecationWarning:tensorflow.*",
    "ignore::DeprecationWarning:keras.*",
    "ignore:.*np.object.*:FutureWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
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
    spec = importlib.util.spec_from_file_location("tf_builders", Path(__file__).with_name("builders.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def serve(tf: Any) -> Iterator[Callable[..., Any]]:
    """``serve(root, port=0)`` starts a server in this process; all are stopped after the test."""
    from extractor.tf_serving.server import SavedModelServer

    servers = []

    def start(root: Path, port: int = 0, **options: Any) -> Any:
        server = SavedModelServer(root, port, **options)
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

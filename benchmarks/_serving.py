"""A TensorFlow model and a server of it, for the benchmarks that send images through gRPC."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from shoal.process import free_port

STAND_IN = Path(__file__).parent.parent / "tests" / "extractor" / "tf_serving" / "stand_in.py"
"""The server that the tests use in TensorFlow Serving's place."""


def prepared(root: Path, name: str) -> Path:
    """A models root with EfficientNet-Lite0 in it."""
    env = {**os.environ, "SHOAL_MODELS": str(root / "models")}
    (root / "models").mkdir()
    for arguments in (["export-lite0", str(root / "source")], ["import-tf", name, str(root / "source")]):
        subprocess.run([sys.executable, "-m", "extractor", *arguments], env=env, check=True)
    return root / "models"


@contextlib.contextmanager
def server(models: Path) -> Iterator[str]:
    """The address of a server of `models`."""
    port = free_port()
    command = [sys.executable, str(STAND_IN), str(models), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()

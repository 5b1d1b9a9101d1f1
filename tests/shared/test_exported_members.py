"""The public names."""

from __future__ import annotations

import subprocess
import sys

import shoal


def test_the_public_names_are_pinned() -> None:
    assert shoal.__all__ == ["AsyncClient", "Client", "ShoalError", "Store", "__version__"]
    assert all(hasattr(shoal, name) for name in shoal.__all__)


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import sys, shoal; print(sorted(set(sys.modules) & {'numpy', 'pyarrow', 'torch', 'fastapi', 'redis'}))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"

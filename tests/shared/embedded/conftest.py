"""Short folders for stores: a unix socket's path may have 107 bytes, and pytest's folders are longer somewhere."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder for one test."""
    folder = Path(tempfile.mkdtemp(prefix="shoal-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)

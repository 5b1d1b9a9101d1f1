"""Label files on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shoal.errors import LabelsInvalid
from shoal.userfiles import UserFile

MakeFile = Callable[[str, Any], UserFile]


@pytest.fixture
def make_file(tmp_path: Path) -> MakeFile:
    """A label file of text, bytes, an array, or columns."""

    def call(name: str, content: Any) -> UserFile:
        path = tmp_path / name
        if isinstance(content, np.ndarray):
            np.save(path, content)
        elif isinstance(content, dict):
            pq.write_table(pa.table(content), path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return UserFile(path, name, LabelsInvalid)

    return call

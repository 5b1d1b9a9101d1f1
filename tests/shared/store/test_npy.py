"""Growing .npy files."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.errors import StoreCorrupt
from shoal.store.npy import HEADER_BYTES, NpyWriter, npy_header, open_npy


@given(
    rows=st.integers(0, 2**62),
    dim=st.integers(1, 2**62),
    dtype=st.sampled_from([np.dtype("<f2"), np.dtype("<f4")]),
)
def test_the_header_has_one_length_whatever_the_shape(rows: int, dim: int, dtype: np.dtype[np.float32]) -> None:
    header = npy_header(rows, dim, dtype)
    assert len(header) == HEADER_BYTES
    assert header.endswith(b"\n")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_numpy_reads_what_was_appended(tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(0).normal(size=(7, 3)).astype(dtype)
    with (tmp_path / "x.npy").open("xb") as file:
        writer = NpyWriter(file, 3, np.dtype(dtype))
        writer.append(values[:4])
        writer.append(values[4:4])
        writer.append(np.asfortranarray(values[4:]))
        writer.finish()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), values)
    np.testing.assert_array_equal(open_npy(tmp_path / "x.npy", 7, 3, dtype), values)


def test_a_full_device_is_seen_as_one() -> None:
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises(OSError) as caught:
        NpyWriter(file, 3, np.dtype("float32"))
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "content",
    [b"", b"not numpy at all", *(npy_header(5, 3, np.dtype("<f4")) + b"\0" * size for size in (59, 61))],
)
def test_what_is_no_whole_npy_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"x\.npy"):
        open_npy(tmp_path / "x.npy", 5, 3, "float32")


def test_another_shape_or_type_than_committed_is_corrupt(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, 3), np.float32))
    for rows, dim, dtype in ((4, 3, "float32"), (5, 4, "float32"), (5, 3, "float16")):
        with pytest.raises(StoreCorrupt, match="holds"):
            open_npy(tmp_path / "x.npy", rows, dim, dtype)

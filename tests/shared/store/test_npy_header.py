"""What an .npy file says is compared with what it holds."""

from __future__ import annotations

import ast
import io
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from shoal.store.npy import NpyInvalid, map_npy, read_npz


def npy(header: str | dict[str, Any], payload: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = f"{header}\n".encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + payload


def header(shape: Any = (4, 2), descr: Any = "<f4", order: Any = False) -> dict[str, Any]:
    return {"descr": descr, "fortran_order": order, "shape": shape}


@pytest.fixture
def mapped(tmp_path: Path) -> Any:
    def call(content: bytes) -> Any:
        (tmp_path / "x.npy").write_bytes(content)
        with (tmp_path / "x.npy").open("rb") as file:
            return map_npy(file)

    return call


@given(
    hnp.arrays(st.one_of(hnp.floating_dtypes(), hnp.integer_dtypes(), hnp.unicode_string_dtypes()), hnp.array_shapes()),
    st.sampled_from([(1, 0), (2, 0), (3, 0)]),
    st.sampled_from("CF"),
)
def test_whatever_numpy_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, array: Any, version: tuple[int, int], order: Any
) -> None:
    array = np.array(array, order=order)
    path = tmp_path_factory.mktemp("x") / "x.npy"
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version)
    with path.open("rb") as file:
        found = map_npy(file)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,9}", fullmatch=True),
        hnp.arrays(st.one_of(hnp.floating_dtypes(), hnp.integer_dtypes()), hnp.array_shapes(min_dims=0, min_side=0)),
        max_size=4,
    ),
    st.sampled_from("CF"),
)
def test_archives_that_numpy_writes_are_read(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any], order: Any
) -> None:
    arrays = {name: np.array(array, order=order) for name, array in arrays.items()}
    path = tmp_path_factory.mktemp("x") / "x.npz"
    np.savez(path, **arrays)
    found = read_npz(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].flags.writeable


def test_headers_of_plain_arrays_are_read_without_python_s_parser_which_fails_in_threads(
    mapped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: str) -> None:
        raise SystemError("AST constructor recursion depth mismatch (before=51, after=65)")

    np.savez(tmp_path / "x.npz", dim_in=3, rows=np.ones((2, 3), np.float16), last=np.zeros(4, "<U3"))
    monkeypatch.setattr(ast, "literal_eval", fails)
    assert {name: array.shape for name, array in read_npz(tmp_path / "x.npz").items()} == {
        "dim_in": (),
        "rows": (2, 3),
        "last": (4,),
    }
    assert mapped(npy("{'shape': (2L,), 'fortran_order': True, 'descr': '<i2'}", bytes(4))).tolist() == [0, 0]


@pytest.mark.parametrize("at", [0, 10, 40, 140, 200, -60, -30, -10])
def test_damaged_archives_are_told(tmp_path: Path, at: int) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, rows=np.arange(8))
    content = bytearray(path.read_bytes())
    for bit in range(8):
        content[at] ^= 1 << bit
        path.write_bytes(content)
        with suppress(NpyInvalid, zipfile.BadZipFile, EOFError, OSError):
            assert read_npz(path)["rows"].tolist() == list(range(8))


def test_headers_of_python_2_and_arrays_without_values_are_read(mapped: Any) -> None:
    python2 = "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 1L), }"
    assert mapped(npy(python2, np.array([1, 2], np.float32).tobytes())).tolist() == [[1], [2]]
    assert mapped(npy(header((0, 7)))).shape == (0, 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"hello", "does not start with the .npy magic bytes"),
        (b"\x93NUMPY", "ends within its header"),
        (npy(header())[:30], "ends within its header"),
        (b"\x93NUMPY\x09\x00" + bytes(100), r"version 9\.0"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "its header claims 4,294,967,295 bytes"),
        (npy("(" * 500), "header cannot be read"),
        (npy("__import__('os').abort()"), "header cannot be read"),
        (npy("[1]"), "does not describe an array"),
        (npy({"descr": "<f4", "shape": (1,)}), "does not describe an array"),
        (npy(header((True, 8)), bytes(32)), r"the shape \(True, 8\)"),
        (npy(header((-1, 8)), bytes(32)), r"the shape \(-1, 8\)"),
        (npy(header((1.0, 8)), bytes(32)), r"the shape \(1\.0, 8\)"),
        (npy(header([1, 8]), bytes(32)), r"the shape \[1, 8\]"),
        (npy(header(order="no")), "fortran_order 'no'"),
        (npy(header(descr="float33")), "the dtype 'float33', which NumPy does not know"),
        (npy(header(descr=7)), "the dtype 7"),
        (npy(header(descr=[("a", "<f4", "x")])), "which NumPy does not know"),
        (npy(header(descr="|O")), "Python objects"),
        (npy(header(descr=[("a", "|O")])), "Python objects"),
        (npy(header((10**12,), "<U0")), "has no size"),
        (npy(header((2**62, 2**62)), bytes(32)), r"takes .* bytes, but 32 bytes follow it"),
        (npy(header((0, 2**70))), "an impossible shape"),
        (npy(header((1,) * 80), bytes(4)), "an impossible shape"),
        (npy(header((10**4000, 10**4000)), bytes(4)), "an impossible shape"),
        (npy(header((10**4000, 0))), "an impossible shape"),
        (npy(header((49, 2)), bytes(400)), r"\(49, 2\) float32, .* 392 bytes, but 400 .*: 50 rows instead of 49"),
        (npy(header((50, 2)), bytes(396)), r"\(50, 2\) float32, .* 400 bytes, but 396 .*: 49\.5 rows instead of 50"),
        (npy(header((0, 2)), bytes(8)), "0 bytes, but 8"),
        (npy(header(())), r"\(\) float32, which takes 4 bytes, but 0"),
    ],
)
def test_what_is_wrong_is_said(mapped: Any, content: bytes, message: str) -> None:
    with pytest.raises(NpyInvalid, match=message):
        mapped(content)


@given(st.binary(max_size=200))
def test_no_bytes_give_anything_but_an_array_or_a_reason(content: bytes) -> None:
    for start in (b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x01\x00\x40\x00{'descr': '<f4', 'fortran_order': False, "):
        with suppress(NpyInvalid, io.UnsupportedOperation):  # No file number to map.
            map_npy(io.BytesIO(start + content))

"""Bodies of vectors that are not what they say, and hostile ones: each is refused with the reason."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
from clusterer.api.vectors import Vectors, read_arrow, read_npy
from hypothesis import given
from hypothesis import strategies as st
from shoal.errors import DimensionMismatch, InvalidRequest, NotFinite, VectorsInvalid

DIM = 4
ROWS = np.arange(24, dtype=np.float32).reshape(6, DIM)


def check_dim(dim: int, row: int) -> None:
    if dim != DIM:
        raise DimensionMismatch(f"row {row}", row=row, got=dim)


def npy(values: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(values), **options)
    return file.getvalue()


def header(text: str, *, version: bytes = b"\1\0", values: bytes = b"") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode() + values


def stream(table: pa.Table, *, batch: int = 100, **options: Any) -> bytes:
    sink = io.BytesIO()
    with ipc.new_stream(sink, table.schema, options=ipc.IpcWriteOptions(**options)) as writer:
        for each in table.to_batches(batch):
            writer.write_batch(each)
    return sink.getvalue()


def column(rows: Any = ROWS, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array([None if row is None else [*map(_plain, row)] for row in rows], kind or pa.list_(pa.float32()))


def _plain(value: Any) -> float | None:
    return None if value is None else float(value)


FINE = stream(pa.table({"embedding": column()}), batch=2)
DESCRIPTION = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"

NPY_FAULTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is empty"),
    "another file": (b"\x89PNG\r\n" + bytes(100), "magic"),
    "no values": (header(DESCRIPTION % "6, 4"), "0 bytes follow"),
    "too few values": (npy(ROWS)[:-1], "95 bytes follow"),
    "too many values": (npy(ROWS) + b"\0", "97 bytes follow"),
    "two arrays": (npy(ROWS) * 2, "bytes follow"),
    "more than there is": (header(DESCRIPTION % f"{2**60}, 4"), "0 bytes follow"),
    "more than a number holds": (header(DESCRIPTION % f"{2**80}, 4"), "impossible shape"),
    "a cut header": (npy(ROWS)[:40], "ends within its header"),
    "an endless header": (b"\x93NUMPY\2\0" + struct.pack("<I", 2**31) + bytes(100), "limit"),
    "code in the header": (header("__import__('os').abort()"), "cannot be read"),
    "another version": (header(DESCRIPTION % "6, 4", version=b"\7\0"), "version 7.0"),
    "objects": (npy(np.array([[{}]], dtype=object), allow_pickle=True), "Python objects"),
    "whole numbers": (npy(ROWS.astype(np.int32)), "float16, float32 or float64"),
    "complex numbers": (npy(ROWS.astype(np.complex64)), "float16, float32 or float64"),
    "long floats": (npy(ROWS.astype(np.longdouble)), "float16, float32 or float64"),
    "records": (npy(np.zeros((3, 4), [("x", "<f4")])), "float16, float32 or float64"),
    "one row without rows": (npy(ROWS[0]), "two dimensions"),
    "three dimensions": (npy(ROWS[None]), "two dimensions"),
    "no rows": (npy(ROWS[:0]), "no rows"),
}
ARROW_FAULTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "another file": (b"\x89PNG\r\n" + bytes(100), "can be read:"),
    "an Arrow file": (b"ARROW1\0\0" + FINE, "can be read:"),
    "a cut batch": (FINE[:-60], "can be read:"),
    "something after the end": (FINE + b"more", "follow the end"),
    "no columns": (stream(pa.table({})), "none"),
    "no vectors": (stream(pa.table({"id": [1, 2]})), "`id`"),
    "no lists": (stream(pa.table({"embedding": [1.0, 2.0]})), "`embedding`"),
    "whole numbers": (stream(pa.table({"embedding": column(kind=pa.list_(pa.int32()))})), "`embedding`"),
    "lists of lists": (
        stream(pa.table({"embedding": pa.array([[[1.0] * 4]])})),
        "`embedding`",
    ),
    "two columns of vectors": (stream(pa.table({"a": column(), "b": column()})), "`a`, `b`"),
    "two of the same name": (
        stream(pa.Table.from_arrays([column(), column()], names=["embedding", "embedding"])),
        "`embedding`, `embedding`",
    ),
    "another column": (stream(pa.table({"embedding": column(), "path": list("abcdef")})), "`path`"),
    "many columns": (stream(pa.table({f"c{each}": column() for each in range(99)})), "`c9`."),
    "an id of another kind": (stream(pa.table({"embedding": column(), "id": [0.5] * 6})), "`id`"),
    "a null row": (stream(pa.table({"embedding": column([*ROWS[:5], None])}), batch=2), "Row 5 is null"),
    "a null value": (
        stream(pa.table({"embedding": column([*ROWS[:4], [1, 2, None, 3]])}), batch=2),
        "Row 4 has a null among",
    ),
    "a null row of fixed size": (
        stream(pa.table({"embedding": column([*ROWS[:3], None], pa.list_(pa.float32(), DIM))})),
        "Row 3 is null",
    ),
    "no rows": (stream(pa.table({"embedding": column([])})), "no rows"),
    "compressed": (stream(pa.table({"embedding": column()}), compression="zstd"), "compressed"),
    "dictionaries": (
        stream(pa.table({"embedding": column(), "id": pa.array(list("abcabc")).dictionary_encode()})),
        "`id`",
    ),
}


@pytest.mark.parametrize("name", NPY_FAULTS)
def test_an_array_that_is_not_one_of_vectors_is_refused(name: str) -> None:
    body, reason = NPY_FAULTS[name]
    with pytest.raises(VectorsInvalid) as caught:
        read_npy(body, check_dim)
    assert reason in str(caught.value)
    assert caught.value.status == 422


@pytest.mark.parametrize("name", ARROW_FAULTS)
def test_a_stream_that_is_not_one_of_vectors_is_refused(name: str) -> None:
    body, reason = ARROW_FAULTS[name]
    with pytest.raises(VectorsInvalid) as caught:
        read_arrow(body, check_dim)
    assert reason in str(caught.value)


def test_big_endian_streams_are_refused_not_misread() -> None:
    head = bytearray(pa.schema([("embedding", pa.list_(pa.float32()))]).serialize().to_pybytes())
    start = 8 + struct.unpack_from("<I", head, 8)[0]
    entries = start - struct.unpack_from("<i", head, start)[0]
    at = start + struct.unpack_from("<H", head, entries + 8)[0]
    schema = at + struct.unpack_from("<I", head, at)[0]
    entries = schema - struct.unpack_from("<i", head, schema)[0]
    # The first field of the schema is its byte order; writers leave out the usual one, 0.
    assert struct.unpack_from("<HH", head, entries + 4) == (0, 4)
    struct.pack_into("<H", head, entries + 4, 4)
    with pytest.raises(VectorsInvalid, match="little-endian"):
        read_arrow(bytes(head) + FINE[len(head) :], check_dim)


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float16()), pa.list_(pa.float32(), DIM)])
def test_batches_become_one_array(kind: pa.DataType) -> None:
    table = pa.table({"id": pa.array(range(6)), "embedding": column(kind=kind)})
    for batch in (1, 4, 6):
        found = read_arrow(stream(table, batch=batch), check_dim)
        assert np.array_equal(found.values, ROWS)
        assert found.ids is not None
        assert found.ids.to_pylist() == list(range(6))


def test_a_slice_of_a_table_is_read_as_the_slice() -> None:
    table = pa.table({"embedding": column([[9.0] * 9, *ROWS, [9.0]])}).slice(1, 6)
    assert np.array_equal(read_arrow(stream(table), check_dim).values, ROWS)


@pytest.mark.parametrize(("rows", "row"), [([[1.0] * 3] * 5, 0), ([*ROWS, [1.0] * 5], 6), ([*ROWS, []], 6), ([[]], 0)])
def test_a_row_of_another_length_is_named(rows: Any, row: int) -> None:
    with pytest.raises(DimensionMismatch) as caught:
        read_arrow(stream(pa.table({"embedding": column(rows)}), batch=3), check_dim)
    assert caught.value.members["row"] == row


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(dtype: Any, value: float) -> None:
    values = np.zeros((3000, 512), dtype)
    values[2987, 7] = value
    with pytest.raises(NotFinite) as caught:
        Vectors(values).check_finite()
    assert caught.value.members["row"] == 2987


def test_what_float32_cannot_hold_is_not_finite() -> None:
    with pytest.raises(NotFinite):
        Vectors(np.full((2, DIM), 1e39)).check_finite()
    Vectors(np.full((2, DIM), 3e38, np.float32)).check_finite()


@pytest.mark.parametrize("read", [read_npy, read_arrow])
@given(data=st.data())
@hypothesis.settings(max_examples=300)
def test_no_damage_gets_past(read: Callable[..., Vectors], data: st.DataObject) -> None:
    body = bytearray(npy(ROWS) if read is read_npy else stream(pa.table({"id": list("abcdef"), "embedding": column()})))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body
    with suppress(InvalidRequest):
        found = read(bytes(body), check_dim)
        assert found.values.shape == (found.n, DIM)
        assert {block.shape[1] for _, block in found.blocks()} == {DIM}
        assert found.ids is None or len(found.ids.to_pylist()) == found.n

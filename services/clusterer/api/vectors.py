"""The vectors of a request: a JSON list of rows, an ``.npy`` array or an Arrow stream, each read strictly.

Neither format can hold more than its bytes say: headers are compared with the size of the body, and Arrow's compression
is refused, since a small body could then fill the memory.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc
from numpy.typing import NDArray
from shoal.errors import NotFinite, VectorsInvalid
from shoal.store.npy import NpyInvalid, read_header, require_size

from clusterer.data.rows import Float32Array, first_not_finite

FloatArray = NDArray[np.floating]
CheckDim = Callable[[int, int], None]
"""Raises unless a row, the second argument, may have as many values as the first one says."""

COLUMN: Final = "embedding"
ID: Final = "id"
BLOCK_VALUES: Final = 2**19
"""Values that are computed on in one go: about 20 ms. A small request then waits little behind large ones."""
FEWEST_ROWS, MOST_ROWS = 64, 8192
SHOWN_COLUMNS: Final = 10


@dataclass(frozen=True)
class Vectors:
    """Rows to assign.

    Attributes
    ----------
    values
        ``(n, dim)`` of any float type, byte order and memory order.
    ids
        ``(n,)`` integers or strings that name the rows in the answer; None if none were sent.
    """

    values: FloatArray
    ids: pa.Array | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.values.shape[0])

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        rows = BLOCK_VALUES // int(self.values.shape[1]) // FEWEST_ROWS * FEWEST_ROWS
        return min(MOST_ROWS, max(FEWEST_ROWS, rows))

    def blocks(self) -> Iterator[tuple[int, Float32Array]]:
        """All rows in order, as ``(first row, (b, dim) float32)``."""
        for first in range(0, self.n, self.block_rows):
            # What is too large for float32 becomes infinite, which `check_finite` refuses.
            with np.errstate(over="ignore"):
                block = np.ascontiguousarray(self.values[first : first + self.block_rows], dtype=np.float32)
            yield first, block

    def check_finite(self) -> None:
        """Raise unless all values are finite as float32.

        Raises
        ------
        NotFinite
            The message names the row.
        """
        for first, block in self.blocks():
            at = first_not_finite(block)
            if at is not None:
                raise NotFinite(f"Row {first + at} holds a value that is not a finite float32.", row=first + at)


def of_rows(rows: Sequence[Sequence[float]], check_dim: CheckDim) -> Vectors:
    """The rows of a JSON body, handled one by one: in one go they would hold the interpreter lock."""
    for row, vector in enumerate(rows):
        check_dim(len(vector), row)
    values = np.empty((len(rows), len(rows[0])), np.float32)
    with np.errstate(over="ignore"):
        for row, vector in enumerate(rows):
            values[row] = vector
    return Vectors(values)


def read_npy(body: bytes, check_dim: CheckDim) -> Vectors:
    """The array of an ``.npy`` body, without a copy.

    Raises
    ------
    VectorsInvalid
        It is not one ``(rows, dim)`` array of float16, float32 or float64.
    DimensionMismatch
        Its rows have another length than the embeddings that were clustered.
    """
    try:
        header = read_header(io.BytesIO(body))
        require_size(header, len(body) - header.offset)
    except NpyInvalid as error:
        raise VectorsInvalid(f"The body is not a complete .npy file: {error}.") from error
    if header.dtype.kind != "f" or header.dtype.itemsize > 8 or len(header.shape) != 2:
        raise VectorsInvalid(
            f"The array is {header}. Send float16, float32 or float64 of two dimensions: rows and values."
        )
    _require_rows(header.shape[0])
    check_dim(header.shape[1], 0)
    flat = np.frombuffer(body, header.dtype, offset=header.offset)
    return Vectors(flat.reshape(header.shape, order="F" if header.fortran_order else "C"))


def read_arrow(body: bytes, check_dim: CheckDim) -> Vectors:
    """The vectors, and the ids, of a body in Arrow's streaming format.

    Raises
    ------
    VectorsInvalid
        It is not such a stream, has other columns, a null, no rows, or compressed buffers.
    DimensionMismatch
        A row has another length than the embeddings that were clustered.
    """
    try:
        return _read_stream(pa.BufferReader(body), check_dim)
    except (pa.ArrowException, struct.error, ValueError, OverflowError, OSError, EOFError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise VectorsInvalid(f"The body is not an Arrow stream that can be read: {reason}.") from error


def _read_stream(source: pa.BufferReader, check_dim: CheckDim) -> Vectors:
    messages = ipc.MessageReader.open_stream(source)
    try:
        head = messages.read_next_message()
    except StopIteration:
        raise VectorsInvalid("The body is empty. Send an Arrow stream.") from None
    if head.type != "schema" or _is_big_endian(head):
        raise VectorsInvalid("The stream does not begin with a schema of little-endian values.")
    schema = ipc.read_schema(head)
    column, named = _columns(schema)
    values: list[FloatArray] = []
    ids: list[pa.Array] = []
    rows = 0
    for message in _following(messages):
        if message.type != "record batch" or _is_compressed(message):
            raise VectorsInvalid(
                "The stream has compressed or dictionary-encoded columns. Write it without compression, and plain."
            )
        batch = ipc.read_record_batch(message, schema)
        batch.validate(full=True)
        if batch.num_rows:
            values.append(_values(batch.column(column), rows, check_dim))
            ids += [batch.column(named)] if named is not None else []
        rows += batch.num_rows
    if source.tell() != source.size():
        raise VectorsInvalid(f"{source.size() - source.tell()} bytes follow the end of the stream.")
    _require_rows(rows)
    together = values[0] if len(values) == 1 else np.concatenate(values)
    return Vectors(together, pa.chunked_array(ids).combine_chunks() if ids else None)


def _following(messages: ipc.MessageReader) -> Iterator[ipc.Message]:
    while True:
        try:
            yield messages.read_next_message()
        except StopIteration:
            return


def _columns(schema: pa.Schema) -> tuple[int, int | None]:
    """Places of the column of vectors and of the ids."""
    names = [field.name for field in schema]
    shown = ", ".join(f"`{name[:50]}`" for name in names[:SHOWN_COLUMNS])
    lists = [place for place, field in enumerate(schema) if _is_list(field.type)]
    chosen = [place for place in lists if names[place] == COLUMN] or lists
    named = [place for place, field in enumerate(schema) if field.name == ID and _names_rows(field.type)]
    if len(chosen) != 1 or len(named) > 1 or len(names) != len(chosen) + len(named):
        raise VectorsInvalid(
            f"The columns are {shown or 'none'}. Send one column of lists of float16, float32 or float64, and at most "
            "one more, `id`, of whole numbers or strings."
        )
    return chosen[0], named[0] if named else None


def _is_list(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and pa.types.is_floating(kind.value_type))


def _names_rows(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _values(column: pa.Array, first: int, check_dim: CheckDim) -> FloatArray:
    """``(rows, dim)`` values of a column, whose first row is row ``first`` of the stream; without a copy."""
    if column.null_count:
        row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise VectorsInvalid(f"Row {row} is null. Send vectors only.", row=row)
    if pa.types.is_fixed_size_list(column.type):
        dim = int(column.type.list_size)
        check_dim(dim, first)
    else:
        lengths = pc.list_value_length(column).to_numpy()
        dim = int(lengths[0])
        odd = np.flatnonzero(lengths != dim)
        check_dim(dim, first)
        if len(odd):
            check_dim(int(lengths[odd[0]]), first + int(odd[0]))
    flat = column.flatten()
    if flat.null_count:
        row = first + int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0]) // dim
        raise VectorsInvalid(f"Row {row} has a null among its values. Send numbers only.", row=row)
    values: FloatArray = flat.to_numpy().reshape(len(column), dim)
    return values


def _require_rows(rows: int) -> None:
    if not rows:
        raise VectorsInvalid("The body has no rows. Send at least one.")


def _is_big_endian(schema: ipc.Message) -> bool:
    content = schema.metadata.to_pybytes()
    endianness = _place(content, _header(content), 0)
    return bool(endianness and content[endianness])


def _is_compressed(batch: ipc.Message) -> bool:
    content = batch.metadata.to_pybytes()
    return bool(_place(content, _header(content), 3))


def _header(content: bytes) -> int:
    """Place of the header's table in a message."""
    at = _place(content, struct.unpack_from("<I", content)[0], 2)
    return at + int(struct.unpack_from("<I", content, at)[0])


def _place(content: bytes, table: int, field: int) -> int:
    """Place of a field of a table, given by its number; 0 if it is not there.

    References
    ----------
    The FlatBuffers binary format; Arrow's ``Message.fbs`` and ``Schema.fbs`` number the fields.
    """
    entries = table - struct.unpack_from("<i", content, table)[0]
    if 4 + 2 * field >= struct.unpack_from("<H", content, entries)[0]:
        return 0
    offset = int(struct.unpack_from("<H", content, entries + 4 + 2 * field)[0])
    return table + offset if offset else 0

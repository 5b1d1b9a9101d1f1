"""Arrays as TensorFlow's ``TensorProto`` and back, as one block of bytes, never element by element."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractor.tf_serving.stubs import DataType, TensorProto

_DTYPES: dict[int, np.dtype[Any]] = {
    DataType.DT_FLOAT: np.dtype(np.float32),
    DataType.DT_DOUBLE: np.dtype(np.float64),
    DataType.DT_INT32: np.dtype(np.int32),
    DataType.DT_UINT8: np.dtype(np.uint8),
    DataType.DT_INT64: np.dtype(np.int64),
    DataType.DT_BOOL: np.dtype(np.bool_),
    DataType.DT_HALF: np.dtype(np.float16),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_VALUE_FIELDS = {
    DataType.DT_FLOAT: "float_val",
    DataType.DT_DOUBLE: "double_val",
    DataType.DT_INT32: "int_val",
    DataType.DT_UINT8: "int_val",
    DataType.DT_INT64: "int64_val",
    DataType.DT_BOOL: "bool_val",
}


def dtype_name(code: int) -> str:
    """A dtype's code as people write it, such as ``uint8``."""
    return str(_DTYPES[code]) if code in _DTYPES else str(DataType.Name(code)).removeprefix("DT_").lower()


def to_proto(array: NDArray[Any]) -> Any:
    """`array` as a ``TensorProto`` whose ``tensor_content`` is its bytes in C order, little endian.

    Raises
    ------
    TypeError
        Images and embeddings do not have this dtype.
    """
    code = _CODES.get(array.dtype)
    if code is None:
        raise TypeError(f"arrays of {array.dtype} are not sent to TensorFlow")
    proto = TensorProto(dtype=code, tensor_content=array.tobytes())
    for length in array.shape:
        proto.tensor_shape.dim.add(size=length)
    return proto


def from_proto(proto: Any) -> NDArray[Any]:
    """The array in a ``TensorProto``; read-only where it shares the message's bytes.

    Servers may fill ``tensor_content`` or the typed field; in the latter, the last value stands for all that are left
    out.

    Raises
    ------
    TypeError
        Images and embeddings do not have this dtype.
    ValueError
        The values do not fill the shape.
    """
    dtype = _DTYPES.get(proto.dtype)
    if dtype is None:
        raise TypeError(f"tensors of {dtype_name(proto.dtype)} are not understood")
    shape = tuple(int(dim.size) for dim in proto.tensor_shape.dim)
    if proto.tensor_content:
        return np.frombuffer(proto.tensor_content, dtype=dtype).reshape(shape)
    count = int(np.prod(shape, dtype=np.int64))
    if proto.dtype == DataType.DT_HALF:
        values = np.array(proto.half_val, dtype=np.uint16).view(np.float16)
    else:
        values = np.array(getattr(proto, _VALUE_FIELDS[proto.dtype]), dtype=dtype)
    if values.size < count:
        if values.size == 0:
            raise ValueError(f"a tensor of shape {shape} came without values")
        values = np.concatenate([values, np.full(count - values.size, values[-1], dtype=dtype)])
    return values.reshape(shape)

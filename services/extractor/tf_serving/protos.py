"""TensorFlow Serving's protobuf and gRPC classes, loaded without TensorFlow; arrays as ``TensorProto`` and back.

The generated modules of tensorflow-serving-api refer to generated modules that lie inside the package ``tensorflow``,
so that importing them runs ``tensorflow/__init__.py``: many seconds and hundreds of megabytes for a client that only
moves bytes. While they are imported here, a bare package with TensorFlow's search path stands in its place; it is taken
away again afterwards, so that a later ``import tensorflow`` is the ordinary one. Message classes are the same objects
either way: the protobuf runtime keeps one class for each descriptor.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray


@contextmanager
def _without_tensorflow() -> Iterator[None]:
    if "tensorflow" in sys.modules:
        yield
        return
    found = importlib.util.find_spec("tensorflow")
    if found is None or found.submodule_search_locations is None:
        raise ImportError("TensorFlow's message classes are not installed: install `shoal[tf]`.")
    bare = ModuleType("tensorflow")
    bare.__path__ = list(found.submodule_search_locations)
    sys.modules["tensorflow"] = bare
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name == "tensorflow" or name.startswith("tensorflow.")]:
            del sys.modules[name]


with _without_tensorflow():
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow.core.framework.types_pb2 import DataType
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow_serving.apis.get_model_metadata_pb2 import (
        GetModelMetadataRequest,
        GetModelMetadataResponse,
        SignatureDefMap,
    )
    from tensorflow_serving.apis.get_model_status_pb2 import (
        GetModelStatusRequest,
        GetModelStatusResponse,
        ModelVersionStatus,
    )
    from tensorflow_serving.apis.model_pb2 import ModelSpec
    from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub, add_ModelServiceServicer_to_server
    from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    from tensorflow_serving.apis.prediction_service_pb2_grpc import (
        PredictionServiceStub,
        add_PredictionServiceServicer_to_server,
    )

__all__ = [
    "DataType",
    "GetModelMetadataRequest",
    "GetModelMetadataResponse",
    "GetModelStatusRequest",
    "GetModelStatusResponse",
    "ModelServiceStub",
    "ModelSpec",
    "ModelVersionStatus",
    "PredictRequest",
    "PredictResponse",
    "PredictionLog",
    "PredictionServiceStub",
    "SavedModel",
    "SignatureDefMap",
    "TensorProto",
    "add_ModelServiceServicer_to_server",
    "add_PredictionServiceServicer_to_server",
    "dtype_name",
    "from_proto",
    "to_proto",
]

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
        raise TypeError(f"arrays of {array.dtype} are not supported")
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
        raise TypeError(f"tensors of {dtype_name(proto.dtype)} are not supported")
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
            raise ValueError(f"a tensor of shape {shape} has no values")
        values = np.concatenate([values, np.full(count - values.size, values[-1], dtype=dtype)])
    return values.reshape(shape)

"""TensorFlow Serving's protobuf and gRPC classes, loaded without TensorFlow.

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
]

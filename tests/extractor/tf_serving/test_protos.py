from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from extractor.tf_serving.protos import DataType, TensorProto, from_proto, to_proto
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DTYPES = [np.float32, np.float64, np.float16, np.uint8, np.int32, np.int64, np.bool_]


@given(hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
def test_arrays_come_back_as_they_were(array: np.ndarray) -> None:
    back = from_proto(to_proto(array))
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()
    assert back.shape == array.shape


def test_values_travel_as_bytes() -> None:
    proto = to_proto(np.ones((2, 3), np.float32))
    assert len(proto.tensor_content) == 24
    assert not proto.float_val


def test_an_array_that_is_not_contiguous_keeps_its_order() -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4).T
    assert (from_proto(to_proto(array)) == array).all()


def filled(field: str, values: list[float], dtype: int, *shape: int) -> TensorProto:
    proto = TensorProto(dtype=dtype)
    getattr(proto, field).extend(values)
    for length in shape:
        proto.tensor_shape.dim.add(size=length)
    return proto


def test_servers_that_answer_value_by_value_are_understood() -> None:
    proto = filled("float_val", [1.5, 2.5, -3.0, 0.0], DataType.DT_FLOAT, 2, 2)
    assert from_proto(proto).tolist() == [[1.5, 2.5], [-3.0, 0.0]]


def test_the_last_value_stands_for_those_left_out() -> None:
    assert from_proto(filled("float_val", [1.0, 7.0], DataType.DT_FLOAT, 4)).tolist() == [1.0, 7.0, 7.0, 7.0]


def test_half_floats_are_bit_patterns() -> None:
    assert from_proto(filled("half_val", [0x3C00], DataType.DT_HALF, 2)).tolist() == [1.0, 1.0]


def test_a_shape_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="has no values"):
        from_proto(filled("float_val", [], DataType.DT_FLOAT, 2))


def test_text_is_refused() -> None:
    with pytest.raises(TypeError, match="string"):
        from_proto(TensorProto(dtype=DataType.DT_STRING))
    with pytest.raises(TypeError, match="complex64"):
        to_proto(np.zeros(1, np.complex64))


def test_the_client_does_without_tensorflow_itself() -> None:
    code = (
        "import sys; import extractor.backends.tfserving, extractor.tf_serving.client; "
        "sys.exit(any(n == 'tensorflow' or n.startswith('tensorflow.') for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tensorflow_can_be_imported_afterwards(tf: object) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert (tf.make_ndarray(to_proto(array)) == array).all()  # type: ignore[attr-defined]
    assert (from_proto(tf.make_tensor_proto(array)) == array).all()  # type: ignore[attr-defined]

"""What is read from ONNX's messages is what the `onnx` package reads."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from milpverify.network.onnx_messages import STORED, numbers
from tests.paths import need

TYPES = (np.float32, np.float64, np.float16, np.int8, np.uint8, np.int16, np.int32, np.int64, np.bool_)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("raw", [True, False])
def test_numbers_are_those_that_onnx_reads(dtype: type[np.generic], raw: bool) -> None:
    drawn = np.random.default_rng(0).normal(size=(3, 4)) * 40.0
    array = (np.abs(drawn) if dtype in (np.uint8, np.bool_) else drawn).astype(dtype)
    tensor = numpy_helper.from_array(array)
    if not raw:
        tensor = helper.make_tensor("w", tensor.data_type, array.shape, array.ravel().tolist())
    assert tensor.HasField("raw_data") is raw
    found = numbers(tensor)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(found, numpy_helper.to_array(tensor))


def test_every_type_read_is_covered() -> None:
    assert {numpy_helper.from_array(np.zeros(1, dtype)).data_type for dtype in TYPES} == set(STORED)


def test_a_size_that_does_not_fit_the_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="reshape"):
        numbers(TensorProto(data_type=TensorProto.FLOAT, dims=[3], float_data=[1.0, 2.0]))


def test_a_network_is_the_same_with_and_without_the_rest_of_onnx() -> None:
    file = sorted(need("acasxu", "onnx").iterdir())[0]
    read = f"from milpverify.network.from_onnx import from_onnx; print(from_onnx({str(file)!r}).fingerprint"
    codes = (f"import onnx; {read})", f"import sys; {read}, 'onnx' in sys.modules)")
    full, lean = (subprocess.run([sys.executable, "-c", c], capture_output=True, text=True, check=True) for c in codes)
    assert lean.stdout.split() == [full.stdout.strip(), "False"]

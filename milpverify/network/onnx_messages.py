"""ONNX's protobuf messages and the numbers in its tensors, without the rest of the `onnx` package.

Loading all of that package takes as long as proving an easy property.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

# By number of type: the field without raw data, what it holds, and the type; floats of 16 bits stand as integers.
STORED = {
    1: ("float_data", "<f4", "<f4"),
    2: ("int32_data", "u1", "u1"),
    3: ("int32_data", "i1", "i1"),
    5: ("int32_data", "<i2", "<i2"),
    6: ("int32_data", "<i4", "<i4"),
    7: ("int64_data", "<i8", "<i8"),
    9: ("int32_data", "?", "?"),
    10: ("int32_data", "<u2", "<f2"),
    11: ("double_data", "<f8", "<f8"),
}


@cache
def messages() -> Any:
    """A module with `ModelProto` and its like: the file of `onnx` that defines them, or `onnx` where it has none."""
    if "onnx" not in sys.modules and (package := find_spec("onnx")) is not None:
        for folder in package.submodule_search_locations or ():
            file = Path(folder) / "onnx_ml_pb2.py"
            spec = spec_from_file_location("milpverify.network._onnx_ml_pb2", file) if file.is_file() else None
            if spec is not None and spec.loader is not None:
                module = module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
    import onnx

    return onnx


def numbers(tensor: Any) -> np.ndarray:
    """A `TensorProto` of one of the types `STORED` as an array. Exact.

    Raises:
        ValueError: If its size does not fit its shape, or its numbers are elsewhere.
    """
    field, stored, dtype = STORED[tensor.data_type]
    if tensor.HasField("segment"):
        raise ValueError("it is a segment of a larger tensor")
    if tensor.HasField("raw_data"):
        flat = np.frombuffer(tensor.raw_data, dtype=dtype)
    else:
        flat = np.array(getattr(tensor, field)).astype(stored).view(dtype)
    return flat.reshape(tuple(tensor.dims))

"""A network so small that every answer about it can be worked out by hand.

    y_0 = relu(x)        y_1 = 1 - relu(x)

At x = 1 the label is 0, with the margin y_0 - y_1 = 2 relu(x) - 1 = 1. Within eps of it the worst margin is
2 max(1 - eps, 0) - 1, and the nearest input with another label is x = 1/2, at the distance 1/2 in every norm.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PROPERTY = """\
(declare-const X_0 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(assert (>= X_0 {low}))
(assert (<= X_0 {high}))
(assert (<= Y_0 Y_1))
"""


def write_network(path: Path, *, weight: float = 1.0, op: str = "Relu") -> str:
    """Write the network; `weight` replaces its first weight, `op` its activation."""
    constants = {"W": [[weight]], "b": [0.0], "V": [[1.0, -1.0]], "c": [0.0, 1.0]}
    nodes = [
        helper.make_node("Gemm", ["x", "W", "b"], ["zhat"], name="first"),
        helper.make_node(op, ["zhat"], ["z"], name="activation"),
        helper.make_node("Gemm", ["z", "V", "c"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.array(v, dtype=np.float32), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return str(path)


def write_input(path: Path, *values: float) -> str:
    """Write an input."""
    np.save(path, np.array(values))
    return str(path)


def write_property(path: Path, low: str, high: str) -> str:
    """Write: no input between low and high gets y_0 <= y_1."""
    path.write_text(PROPERTY.format(low=low, high=high))
    return str(path)

"""Small ONNX models, one per operator and configuration, and how to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class OnnxCase:
    """A model of a few nodes from `x` to `y`.

    Attributes:
        name: For the test's id.
        nodes: In order; the last one computes `y`.
        weights: Arrays, or shapes of random float32 weights.
        shape: Shape of `x`.
        opset: Version of the operator set.
    """

    name: str
    nodes: Sequence[Any]
    weights: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[Any, ...] = (1, 6)
    opset: int = 17

    def model(self, seed: int = 0, **changes: Any) -> Any:
        """The ONNX message."""
        return build(self.nodes, arrays(self.weights, seed), self.shape, self.opset, **changes)


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> Any:
    """A node; names are separated by blanks, `-` stands for an input left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=f"{op.lower()}_{outputs.split()[0]}", **attributes)


def arrays(weights: Mapping[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 arrays where only a shape is given."""
    generator = np.random.default_rng(seed)
    return {
        name: np.asarray(value)
        if isinstance(value, (np.ndarray, np.generic))
        else generator.standard_normal(value).astype(np.float32)
        for name, value in weights.items()
    }


def build(
    nodes: Sequence[Any],
    weights: Mapping[str, np.ndarray],
    shape: Sequence[Any],
    opset: int = 17,
    *,
    outputs: Sequence[str] = ("y",),
    inputs: Sequence[str] = ("x",),
    kind: int = TensorProto.FLOAT,
    weights_as_inputs: bool = False,
    domains: Sequence[str] = (),
) -> Any:
    """A model message."""
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    entries = [helper.make_tensor_value_info(name, kind, shape) for name in inputs]
    if weights_as_inputs:
        entries += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    exits = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
    graph = helper.make_graph(list(nodes), "g", entries, exits, tensors)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def write(folder: Path, model: Any, name: str = "net.onnx") -> Path:
    """The model as a file."""
    path = folder / name
    onnx.save(model, str(path))
    return path


def run(model: Any, x: np.ndarray) -> np.ndarray:
    """onnxruntime's output."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def ints(*values: int) -> np.ndarray:
    """int64 array of one axis."""
    return np.array(values, dtype=np.int64)


def floats(*values: float) -> np.ndarray:
    """float32 array of one axis."""
    return np.array(values, dtype=np.float32)


IMAGE, TALL, SIGNAL = (1, 2, 7, 6), (1, 4, 5, 8), (1, 3, 9)
N = node


def conv(name: str, kernel: tuple[int, ...], shape: tuple[int, ...] = IMAGE, **attributes: Any) -> OnnxCase:
    return OnnxCase(f"conv {name}", [N("Conv", "x w b", **attributes)], {"w": kernel, "b": (kernel[0],)}, shape)


def pool(op: str, name: str, shape: tuple[int, ...] = IMAGE, opset: int = 17, **attributes: Any) -> OnnxCase:
    return OnnxCase(f"{op} {name}", [N(op, "x", **attributes)], {}, shape, opset)


CONVOLUTIONS = [
    conv("plain", (3, 2, 3, 3)),
    OnnxCase("conv without bias", [N("Conv", "x w")], {"w": (3, 2, 2, 3)}, IMAGE),
    conv("stride", (3, 2, 3, 2), strides=[2, 3]),
    conv("uneven padding", (3, 2, 3, 3), pads=[0, 1, 2, 3]),
    conv("dilation", (3, 2, 2, 3), dilations=[3, 2]),
    conv("groups", (6, 2, 3, 3), TALL, group=2, pads=[1, 1, 1, 1]),
    conv("depthwise", (4, 1, 3, 3), TALL, group=4, strides=[2, 2]),
    conv("everything", (4, 2, 2, 3), TALL, group=2, strides=[2, 1], dilations=[2, 3], pads=[1, 2, 0, 3]),
    conv("same upper", (3, 2, 3, 4), auto_pad="SAME_UPPER", strides=[2, 2]),
    conv("same lower", (3, 2, 3, 4), auto_pad="SAME_LOWER", strides=[2, 1]),
    conv("valid", (3, 2, 3, 4), auto_pad="VALID"),
    conv("kernel_shape given", (3, 2, 3, 4), kernel_shape=[3, 4]),
    conv("signal", (4, 3, 3), SIGNAL, strides=[2], pads=[1, 2]),
    conv("signal groups", (6, 1, 2), SIGNAL, group=3, dilations=[3]),
    conv("pixel", (3, 2, 1, 1)),
]
POOLS = [
    pool("MaxPool", "2x2", kernel_shape=[2, 2], strides=[2, 2]),
    pool("MaxPool", "3x2 overlapping", kernel_shape=[3, 2]),
    pool("MaxPool", "padded", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    pool("MaxPool", "uneven padding", kernel_shape=[3, 4], strides=[2, 3], pads=[0, 1, 2, 3]),
    pool("MaxPool", "ceil", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    pool("MaxPool", "ceil, padded", kernel_shape=[2, 3], strides=[3, 4], pads=[1, 1, 1, 1], ceil_mode=1),
    pool("MaxPool", "dilation", kernel_shape=[2, 3], dilations=[3, 2]),
    pool("MaxPool", "same", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    pool("MaxPool", "signal", SIGNAL, kernel_shape=[4], strides=[3]),
    pool("MaxPool", "one pixel", kernel_shape=[1, 1], strides=[2, 2]),
    pool("AveragePool", "2x2", kernel_shape=[2, 2], strides=[2, 2]),
    pool("AveragePool", "3x2", kernel_shape=[3, 2]),
    pool("AveragePool", "padding counted", kernel_shape=[3, 3], pads=[1, 0, 2, 1], count_include_pad=1),
    pool("AveragePool", "padding not counted", kernel_shape=[3, 3], pads=[1, 0, 2, 1], count_include_pad=0),
    pool("AveragePool", "ceil", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    pool("AveragePool", "ceil, padded", kernel_shape=[3, 3], strides=[3, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    pool(
        "AveragePool",
        "ceil, padding counted",
        opset=19,
        kernel_shape=[3, 3],
        strides=[3, 2],
        pads=[1, 1, 1, 1],
        ceil_mode=1,
        count_include_pad=1,
    ),
    pool("AveragePool", "dilation", opset=19, kernel_shape=[2, 2], dilations=[3, 2]),
    pool("AveragePool", "same", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    pool("AveragePool", "signal", SIGNAL, kernel_shape=[4], strides=[2], pads=[1, 1]),
    pool("GlobalAveragePool", "image"),
    pool("GlobalMaxPool", "image"),
]
MATRICES = [
    OnnxCase("matmul right", [N("MatMul", "x w")], {"w": (6, 4)}),
    OnnxCase("matmul right, several rows", [N("MatMul", "x w")], {"w": (6, 4)}, (2, 3, 6)),
    OnnxCase("matmul right, vector input", [N("MatMul", "x w")], {"w": (6, 4)}, (6,)),
    OnnxCase("matmul right, vector weights", [N("MatMul", "x w")], {"w": (6,)}, (3, 6)),
    OnnxCase("matmul right, leading one", [N("MatMul", "x w")], {"w": (1, 6, 4)}, (3, 6)),
    OnnxCase("matmul right, leading one and a vector", [N("MatMul", "x w")], {"w": (1, 6, 4)}, (6,)),
    OnnxCase("matmul left", [N("MatMul", "w x")], {"w": (4, 6)}, (6, 1)),
    OnnxCase("matmul left, several columns", [N("MatMul", "w x")], {"w": (4, 6)}, (1, 2, 6, 3)),
    OnnxCase("matmul left, vector input", [N("MatMul", "w x")], {"w": (4, 6)}, (6,)),
    OnnxCase("matmul left, vector weights", [N("MatMul", "w x")], {"w": (6,)}, (2, 6, 3)),
    OnnxCase("matmul left, leading one", [N("MatMul", "w x")], {"w": (1, 4, 6)}, (6, 3)),
    OnnxCase("matmul of vectors", [N("MatMul", "w x")], {"w": (6,)}, (6,)),
    OnnxCase("gemm", [N("Gemm", "x w c")], {"w": (6, 4), "c": (4,)}),
    OnnxCase("gemm without c", [N("Gemm", "x w")], {"w": (6, 4)}),
    OnnxCase("gemm transB", [N("Gemm", "x w c", transB=1)], {"w": (4, 6), "c": (1, 4)}),
    OnnxCase("gemm transA", [N("Gemm", "x w c", transA=1)], {"w": (6, 4), "c": (3, 4)}, (6, 3)),
    OnnxCase("gemm alpha beta", [N("Gemm", "x w c", alpha=0.3, beta=-1.7, transB=1)], {"w": (4, 6), "c": (4,)}),
    OnnxCase("gemm beta zero", [N("Gemm", "x w c", beta=0.0)], {"w": (6, 4), "c": (4,)}),
    OnnxCase("gemm computed second", [N("Gemm", "w x c", alpha=0.7)], {"w": (4, 6), "c": (4, 3)}, (6, 3)),
    OnnxCase(
        "gemm computed second, both turned", [N("Gemm", "w x c", transA=1, transB=1)], {"w": (6, 4), "c": ()}, (3, 6)
    ),
    OnnxCase("gemm computed c", [N("Gemm", "a b x", beta=0.5)], {"a": (2, 3), "b": (3, 6)}, (1, 6)),
]
ARITHMETIC = [
    OnnxCase("add constant", [N("Add", "x c")], {"c": (2, 1, 6)}, IMAGE),
    OnnxCase("add to scalar", [N("Add", "c x")], {"c": ()}, IMAGE),
    OnnxCase("add widens x", [N("Add", "x c")], {"c": (3, 6)}, (1, 6)),
    OnnxCase("sub constant", [N("Sub", "x c")], {"c": (1, 6)}),
    OnnxCase("sub from constant", [N("Sub", "c x")], {"c": (6,)}),
    OnnxCase("mul", [N("Mul", "x c")], {"c": (2, 1, 1)}, IMAGE),
    OnnxCase("mul left", [N("Mul", "c x")], {"c": (2, 7, 6)}, IMAGE),
    OnnxCase("div", [N("Div", "x c")], {"c": floats(2, -3, 0.1, 4, 1, -1)}),
    OnnxCase("neg", [N("Neg", "x")]),
    OnnxCase("add computed", [N("Relu", "x", "r"), N("Add", "x r")]),
    OnnxCase("add itself", [N("Add", "x x")]),
    OnnxCase("sub computed, broadcast", [N("ReduceSum", "x", "r"), N("Sub", "x r")], {}, (1, 2, 3)),
    OnnxCase("sum of three", [N("Relu", "x", "r"), N("Sum", "x r c")], {"c": (6,)}),
    OnnxCase("sum of one", [N("Sum", "x")]),
    OnnxCase(
        "folded constants",
        [
            N("Add", "a b", "c"),
            N("Mul", "c a", "d"),
            N("Sub", "d b", "e"),
            N("Div", "e b", "f"),
            N("Neg", "f", "g"),
            N("Mul", "x g"),
        ],
        {"a": (6,), "b": (6,)},
    ),
    OnnxCase("reduce sum", [N("ReduceSum", "x axes")], {"axes": ints(1, 3)}, IMAGE),
    OnnxCase("reduce sum, all", [N("ReduceSum", "x", keepdims=0)], {}, IMAGE),
    OnnxCase("reduce sum, nothing", [N("ReduceSum", "x", noop_with_empty_axes=1)], {}, IMAGE),
    OnnxCase("reduce sum, attribute", [N("ReduceSum", "x", axes=[-1], keepdims=0)], {}, IMAGE, 11),
    OnnxCase("reduce mean", [N("ReduceMean", "x", axes=[2, -1], keepdims=0)], {}, IMAGE),
    OnnxCase("reduce mean, input axes", [N("ReduceMean", "x axes")], {"axes": ints(2)}, IMAGE, 18),
    OnnxCase("reduce max", [N("ReduceMax", "x", axes=[3])], {}, IMAGE),
    OnnxCase("reduce max, all", [N("ReduceMax", "x", keepdims=0)]),
    OnnxCase(
        "batch norm",
        [N("BatchNormalization", "x g b m v", epsilon=0.01, momentum=0.8)],
        {"g": (2,), "b": (2,), "m": (2,), "v": floats(0.3, 4.0)},
        IMAGE,
    ),
    OnnxCase(
        "batch norm of a vector",
        [N("BatchNormalization", "x g b m v")],
        {"g": (6,), "b": (6,), "m": (6,), "v": floats(1, 2, 3, 0.1, 0.01, 7)},
    ),
    OnnxCase(
        "batch norm, old",
        [N("BatchNormalization", "x g b m v", spatial=1)],
        {"g": (2,), "b": (2,), "m": (2,), "v": floats(0.3, 4.0)},
        IMAGE,
        8,
    ),
]
ACTIVATIONS = [
    OnnxCase("relu", [N("Relu", "x")]),
    OnnxCase("relu twice", [N("Relu", "x", "a"), N("Relu", "a")]),
    OnnxCase("leaky relu", [N("LeakyRelu", "x")]),
    OnnxCase("leaky relu, slope", [N("LeakyRelu", "x", alpha=0.3)]),
    OnnxCase("leaky relu, negative and steep", [N("LeakyRelu", "x", "a", alpha=-0.5), N("LeakyRelu", "a", alpha=1.5)]),
    OnnxCase("prelu", [N("PRelu", "x s")], {"s": (2, 1, 1)}, IMAGE),
    OnnxCase("prelu, one slope", [N("PRelu", "x s")], {"s": (1,)}),
    OnnxCase("clip, inputs", [N("Clip", "x lo hi")], {"lo": np.float32(-0.3), "hi": np.float32(0.7)}),
    OnnxCase("clip, low only", [N("Clip", "x lo")], {"lo": np.float32(-0.3)}),
    OnnxCase("clip, high only", [N("Clip", "x - hi")], {"hi": np.float32(0.7)}),
    OnnxCase("clip, neither", [N("Clip", "x")]),
    OnnxCase("clip, infinite", [N("Clip", "x lo hi")], {"lo": np.float32(-np.inf), "hi": np.float32(np.inf)}),
    OnnxCase("clip, empty inside", [N("Clip", "x lo hi")], {"lo": np.float32(0.25), "hi": np.float32(0.25)}),
    OnnxCase("clip, attributes", [N("Clip", "x", min=-0.3, max=0.7)], {}, (1, 6), 9),
    OnnxCase("clip, one attribute", [N("Clip", "x", min=-0.3)], {}, (1, 6), 9),
    OnnxCase("clip, relu6", [N("Clip", "x lo hi")], {"lo": np.float32(0), "hi": np.float32(6)}),
    OnnxCase("abs", [N("Abs", "x")]),
    OnnxCase("max with constant", [N("Max", "c x")], {"c": (6,)}),
    OnnxCase("min with constant", [N("Min", "x c")], {"c": (1, 2, 1, 1)}, IMAGE),
    OnnxCase("max of computed", [N("Neg", "x", "a"), N("Mul", "x c", "b"), N("Max", "x a b")], {"c": (6,)}),
    OnnxCase("min of computed", [N("Neg", "x", "a"), N("Mul", "x c", "b"), N("Min", "x a b c")], {"c": (6,)}),
    OnnxCase("max of one", [N("Max", "x")]),
]
SHAPES = [
    OnnxCase("flatten", [N("Flatten", "x")], {}, IMAGE),
    OnnxCase("flatten axis 2", [N("Flatten", "x", axis=2)], {}, IMAGE),
    OnnxCase("flatten axis -1", [N("Flatten", "x", axis=-1)], {}, IMAGE),
    OnnxCase("flatten axis 0", [N("Flatten", "x", axis=0)], {}, IMAGE),
    OnnxCase("reshape", [N("Reshape", "x s")], {"s": ints(0, -1, 3)}, IMAGE),
    OnnxCase("squeeze", [N("Squeeze", "x axes")], {"axes": ints(0, -1)}, (1, 3, 2, 1)),
    OnnxCase("squeeze all", [N("Squeeze", "x")], {}, (1, 3, 2, 1)),
    OnnxCase("squeeze, attribute", [N("Squeeze", "x", axes=[3])], {}, (1, 3, 2, 1), 11),
    OnnxCase("unsqueeze", [N("Unsqueeze", "x axes")], {"axes": ints(-1, 1)}, (1, 3)),
    OnnxCase("unsqueeze, attribute", [N("Unsqueeze", "x", axes=[0, 2])], {}, (1, 3), 11),
    OnnxCase("transpose", [N("Transpose", "x", perm=[0, 2, 3, 1])], {}, IMAGE),
    OnnxCase("transpose all", [N("Transpose", "x")], {}, IMAGE),
    OnnxCase("slice", [N("Slice", "x s e a")], {"s": ints(1, -4), "e": ints(2**62, -1), "a": ints(2, 3)}, IMAGE),
    OnnxCase(
        "slice, steps",
        [N("Slice", "x s e a t")],
        {"s": ints(0, -1), "e": ints(7, -(2**62)), "a": ints(2, -1), "t": ints(3, -2)},
        IMAGE,
    ),
    OnnxCase(
        "slice, backwards to an end",
        [N("Slice", "x s e a t")],
        {"s": ints(5), "e": ints(1), "a": ints(3), "t": ints(-1)},
        IMAGE,
    ),
    OnnxCase("slice, no axes", [N("Slice", "x s e")], {"s": ints(0, 1), "e": ints(1, 2)}, IMAGE),
    OnnxCase("slice, attributes", [N("Slice", "x", starts=[1], ends=[-1], axes=[2])], {}, IMAGE, 9),
    OnnxCase("gather", [N("Gather", "x i", axis=3)], {"i": ints(3, -1, 3)}, IMAGE),
    OnnxCase("gather matrix", [N("Gather", "x i", axis=1)], {"i": ints(4, 0, 1, 1).reshape(2, 2)}),
    OnnxCase("gather one", [N("Gather", "x i", axis=1)], {"i": np.array(2)}),
    OnnxCase(
        "split", [N("Split", "x s", "a b", axis=1), N("Sub", "a b", "c"), N("Concat", "b c", axis=1)], {"s": ints(3, 3)}
    ),
    OnnxCase("split, equal", [N("Split", "x", "a b c", axis=1), N("Concat", "c a b", axis=-1)]),
    OnnxCase(
        "split, attribute", [N("Split", "x", "a b", axis=1, split=[2, 4]), N("Concat", "b a", axis=1)], {}, (1, 6), 11
    ),
    OnnxCase(
        "split, num_outputs",
        [N("Split", "x", "a b", axis=1, num_outputs=2), N("Concat", "b a", axis=1)],
        {},
        (1, 5),
        18,
    ),
    OnnxCase("concat", [N("Relu", "x", "r"), N("Concat", "r c x", axis=1)], {"c": (1, 3, 7, 6)}, IMAGE),
    OnnxCase("concat itself", [N("Concat", "x x", axis=-1)]),
    OnnxCase("expand", [N("Expand", "x s")], {"s": ints(2, 3, 1)}, (3, 1)),
    OnnxCase("tile", [N("Tile", "x r")], {"r": ints(1, 2, 1)}, (1, 2, 3)),
    OnnxCase("pad", [N("Pad", "x p")], {"p": ints(0, 0, 1, 2, 0, 1, 0, 3)}, IMAGE),
    OnnxCase("pad with a value", [N("Pad", "x p v")], {"p": ints(0, 1, 1, 2), "v": np.float32(0.4)}),
    OnnxCase("pad crops", [N("Pad", "x p v")], {"p": ints(0, 0, -1, 2, 0, 1, -2, -3), "v": np.float32(0.4)}, IMAGE),
    OnnxCase("pad, axes", [N("Pad", "x p - a")], {"p": ints(1, 2), "a": ints(-1)}, IMAGE, 18),
    OnnxCase("pad, attribute", [N("Pad", "x", pads=[0, 1, 0, 2], value=1.5)], {}, (1, 6), 10),
    OnnxCase("pad, reflect", [N("Pad", "x p", mode="reflect")], {"p": ints(0, 0, 1, 2, 0, 0, 2, 1)}, IMAGE),
    OnnxCase("pad, edge", [N("Pad", "x p", mode="edge")], {"p": ints(0, 0, 1, 2, 0, 0, 2, 1)}, IMAGE),
    OnnxCase("dropout", [N("Dropout", "x", "y mask")]),
    OnnxCase("dropout, inputs", [N("Dropout", "x r t")], {"r": np.float32(0.4), "t": np.array(False)}),
    OnnxCase("dropout, attribute", [N("Dropout", "x", ratio=0.3)], {}, (1, 6), 10),
    OnnxCase("identity", [N("Identity", "x")]),
    OnnxCase("cast", [N("Cast", "x", to=1)]),
    OnnxCase(
        "constant node",
        [N("Constant", "", "c", value=numpy_helper.from_array(floats(1, 2, 3, 4, 5, 6))), N("Add", "x c")],
    ),
    OnnxCase("constant node, numbers", [N("Constant", "", "c", value_floats=[1.0, 2, 3, 4, 5, 0.1]), N("Mul", "x c")]),
    OnnxCase("constant node, one number", [N("Constant", "", "c", value_float=0.1), N("Mul", "x c")]),
    OnnxCase(
        "flatten by computed shape",
        [
            N("Shape", "x", "s"),
            N("Gather", "s zero", "n", axis=0),
            N("Unsqueeze", "n axes", "u"),
            N("Concat", "u minus", "t", axis=0),
            N("Reshape", "x t"),
        ],
        {"zero": np.array(0), "axes": ints(0), "minus": ints(-1)},
        IMAGE,
    ),
    OnnxCase(
        "shape arithmetic",
        [
            N("Shape", "x", "s", start=2),
            N("Div", "s two", "h"),
            N("Cast", "h", "f", to=1),
            N("Cast", "f", "i", to=7),
            N("Mul", "i two", "e"),
            N("Slice", "x zero e axes"),
        ],
        {"two": ints(2), "zero": ints(0, 0), "axes": ints(2, 3)},
        IMAGE,
    ),
    OnnxCase(
        "constant of shape",
        [N("ConstantOfShape", "s", "c", value=numpy_helper.from_array(floats(0.25))), N("Add", "x c")],
        {"s": ints(2, 6)},
    ),
]
COMPOSED = [
    OnnxCase(
        "conv, batch norm, relu, pool, gemm",
        [
            N("Conv", "x w b", "a", pads=[1, 1, 1, 1]),
            N("BatchNormalization", "a g b2 m v", "n"),
            N("Relu", "n", "r"),
            N("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
            N("Flatten", "p", "f"),
            N("Gemm", "f q c", transB=1),
        ],
        {
            "w": (4, 2, 3, 3),
            "b": (4,),
            "g": (4,),
            "b2": (4,),
            "m": (4,),
            "v": floats(1, 2, 0.5, 0.1),
            "q": (3, 36),
            "c": (3,),
        },
        IMAGE,
    ),
    OnnxCase(
        "conv, pool, relu",
        [N("Conv", "x w b", "a"), N("MaxPool", "a", "p", kernel_shape=[3, 3], strides=[2, 1]), N("Relu", "p")],
        {"w": (3, 2, 2, 2), "b": (3,)},
        IMAGE,
    ),
    OnnxCase(
        "conv, norm, conv",
        [N("Conv", "x w b", "a"), N("BatchNormalization", "a g b m v", "n"), N("Conv", "n w2 b")],
        {"w": (3, 2, 2, 2), "b": (3,), "g": (3,), "m": (3,), "v": floats(1, 2, 0.5), "w2": (3, 3, 2, 2)},
        IMAGE,
    ),
    OnnxCase(
        "residual",
        [
            N("Conv", "x w b", "a", pads=[1, 1, 1, 1]),
            N("Relu", "a", "r"),
            N("Conv", "r w b", "c", pads=[1, 1, 1, 1]),
            N("Add", "c x", "s"),
            N("Relu", "s", "t"),
            N("AveragePool", "t", kernel_shape=[2, 2]),
        ],
        {"w": (2, 2, 3, 3), "b": (2,)},
        IMAGE,
    ),
    OnnxCase(
        "dense net",
        [
            N("Gemm", "x w1 b1", "a"),
            N("Relu", "a", "r"),
            N("Concat", "x r", "c", axis=1),
            N("Gemm", "c w2 b2", "d"),
            N("LeakyRelu", "d", "l", alpha=0.1),
            N("Concat", "l c", "e", axis=1),
            N("MatMul", "e w3"),
        ],
        {"w1": (6, 5), "b1": (5,), "w2": (11, 4), "b2": (4,), "w3": (15, 2)},
    ),
]
CASES = [*CONVOLUTIONS, *POOLS, *MATRICES, *ARITHMETIC, *ACTIVATIONS, *SHAPES, *COMPOSED]

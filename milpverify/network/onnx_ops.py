"""ONNX operators that compute: arithmetic, matrices, convolutions, pooling and activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from milpverify.errors import NetworkError
from milpverify.network import onnx_shapes as shapes
from milpverify.network import pooling
from milpverify.network.expression import (
    Expr,
    add,
    constant,
    convolve,
    matmul,
    matmul_left,
    negative,
    scale,
    scaled_matmul,
    shift,
)
from milpverify.network.onnx_site import Site, Value
from milpverify.network.pooling import Window
from milpverify.network.rounding import rounded_product, rounded_quotient, rounded_sum

Handler = Callable[[Site], "Value | list[Value]"]

SMOOTH = frozenset(
    "Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp GRU Gelu HardSwish LRN LSTM Log LogSoftmax "
    "LpNormalization Mish Pow RNN Reciprocal ReduceL2 ReduceLogSumExp Selu Sigmoid Sin Sinh Softmax Softplus Softsign "
    "Sqrt Swish Tan Tanh".split()
)


def _known_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, bool]:
    return rounded_sum(*_wide(a, b))


def _known_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, bool]:
    return rounded_product(*_wide(a, b))


def _known_quotient(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, bool]:
    return rounded_quotient(*_wide(a, b))


def _wide(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.broadcast_arrays(a, b)
    return a.astype(np.float64), b.astype(np.float64)


def _folded(site: Site, how: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, bool]]) -> np.ndarray:
    """Arithmetic of two known values; integers (of shapes) stay integers."""
    a, b = site.finite(0), site.finite(1)
    if site.node.op == "Div" and not b.all():
        raise NetworkError(f"from_onnx: {site.place} divides by zero. Remove the zero from '{site.node.inputs[1]}'.")
    result, exact = how(a, b)
    if site.known(0).dtype.kind in "iu" and site.known(1).dtype.kind in "iu":
        return np.trunc(result).astype(np.int64)
    if not exact:
        site.lowering.note(
            f"{site.node.name}: constants were combined in float64 with rounding (relative error up to 2^-53)."
        )
    return result


def _both_known(site: Site) -> bool:
    return not any(isinstance(site.value(i), Expr) for i in (0, 1))


def sum_node(site: Site) -> Value:
    if site.n_inputs == 2 and _both_known(site):
        return _folded(site, _known_sum)
    return reduce(add, [site.expr(i) for i in range(site.n_inputs)])


def subtract(site: Site) -> Value:
    if _both_known(site):
        return _folded(site, lambda a, b: _known_sum(a, -b))
    return add(site.expr(0), negative(site.expr(1)))


def multiply(site: Site) -> Value:
    if _both_known(site):
        return _folded(site, _known_product)
    for x, factor in ((0, 1), (1, 0)):
        if not isinstance(site.value(factor), Expr):
            return scale(site.expr(x), site.finite(factor))
    raise site.refuse(
        "multiplies two values computed from the input, which is not piecewise linear", "Keep one factor constant."
    )


def divide(site: Site) -> Value:
    if _both_known(site):
        return _folded(site, _known_quotient)
    if isinstance(site.value(1), Expr):
        raise site.refuse(
            "divides by a value computed from the input, which is not piecewise linear", "Divide by a constant."
        )
    return site.lowering.divide(site.expr(0), site.finite(1), site.node.name)


def negate(site: Site) -> Value:
    value = site.value(0)
    return negative(value) if isinstance(value, Expr) else -value


def matmul_node(site: Site) -> Value:
    left, right = site.value(0), site.value(1)
    if isinstance(left, Expr) and isinstance(right, Expr):
        raise site.refuse(
            "multiplies two values computed from the input, which is not piecewise linear", "Keep one factor constant."
        )
    if isinstance(right, Expr):
        return matmul_left(site.finite(0), right)
    return matmul(site.expr(0), site.finite(1))


def gemm(site: Site) -> Value:
    alpha, beta = site.number("alpha", 1.0), site.number("beta", 1.0)
    turned = site.integer("transA", 0), site.integer("transB", 0)
    a, b = (site.rearrange(site.value(i), np.transpose) if turned[i] else site.value(i) for i in (0, 1))
    if isinstance(a, Expr) and isinstance(b, Expr):
        raise site.refuse(
            "multiplies two values computed from the input, which is not piecewise linear", "Keep one factor constant."
        )
    if isinstance(b, Expr):
        product = scale(matmul_left(_turned(site.finite(0), turned[0]), b), np.array(alpha))
    else:
        left = a if isinstance(a, Expr) else constant(a)
        product = scaled_matmul(left, _turned(site.finite(1), turned[1]), alpha)
    if not site.has(2):
        return product
    total = add(product, scale(site.expr(2), np.array(beta)))
    if total.shape != product.shape:
        raise site.refuse(f"adds C of shape {site.value(2).shape} to {product.shape}", "Give C a shape that fits.")
    return total


def _turned(matrix: np.ndarray, turn: int) -> np.ndarray:
    return matrix.T if turn else matrix


def windows_of(site: Site, spatial: Sequence[int], sizes: Sequence[int]) -> list[Window]:
    """The sliding windows of a Conv or pooling node over axes of the given lengths."""
    rank = len(spatial)
    strides, dilations = site.integer_list("strides", [1] * rank), site.integer_list("dilations", [1] * rank)
    pads, ceil = site.integer_list("pads", [0] * 2 * rank), bool(site.integer("ceil_mode", 0))
    mode = site.text("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise site.refuse(f"has auto_pad={mode!r}", "Use explicit pads.")
    if mode != "NOTSET" and any(pads):
        raise site.refuse(f"has both auto_pad={mode!r} and pads", "Use one of them.")
    if not len(sizes) == len(strides) == len(dilations) == rank or len(pads) != 2 * rank:
        given = f"windows {list(sizes)}, strides {strides}, dilations {dilations} and pads {pads}"
        raise site.refuse(f"has {given} for {rank} spatial axes", "Check the file with onnx.checker.")
    if mode.startswith("SAME"):
        if ceil or any(d != 1 for d in dilations):
            raise site.refuse(f"has auto_pad={mode!r} with dilations or ceil_mode", "Use explicit pads.")
        total = [max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in zip(spatial, strides, sizes, strict=True)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = small + large if mode == "SAME_UPPER" else large + small
    return [Window(sizes[i], strides[i], pads[i], pads[i + rank], dilations[i], ceil) for i in range(rank)]


def convolution(site: Site) -> Value:
    x, kernel = site.expr(0), site.finite(1)
    spatial = list(kernel.shape[2:])
    if site.integer_list("kernel_shape", spatial) != spatial:
        raise site.refuse(f"has a kernel_shape other than its weights' {spatial}", "Check the file with onnx.checker.")
    windows = windows_of(site, x.shape[2:], spatial)
    padding = [w.before for w in windows], [w.after for w in windows]
    groups = site.integer("group", 1)
    y = convolve(x, kernel, [w.stride for w in windows], padding, [w.dilation for w in windows], groups)
    if not site.has(2):
        return y
    bias = site.finite(2)
    if bias.shape != kernel.shape[:1]:
        raise site.refuse(
            f"has a bias of shape {bias.shape} for {kernel.shape[0]} channels", "Give one number per channel."
        )
    return shift(y, bias.reshape(-1, *[1] * len(spatial)))


def max_pool(site: Site) -> Value:
    site.expect("storage_order", 0)
    x = site.expr(0)
    windows = windows_of(site, x.shape[2:], site.integer_list("kernel_shape", ()))
    return pooling.max_pool(site.lowering, x, windows, site.node.name)


def average_pool(site: Site) -> Value:
    x, counted = site.expr(0), bool(site.integer("count_include_pad", 0))
    windows = windows_of(site, x.shape[2:], site.integer_list("kernel_shape", ()))
    return pooling.average_pool(site.lowering, x, windows, counted, site.node.name)


def global_average_pool(site: Site) -> Value:
    x = site.expr(0)
    return pooling.reduce_mean(site.lowering, x, range(2, len(x.shape)), True, site.node.name)


def global_max_pool(site: Site) -> Value:
    x = site.expr(0)
    return pooling.reduce_max(site.lowering, x, range(2, len(x.shape)), True, site.node.name)


def reduction(site: Site) -> Value:
    since = 13 if site.node.op == "ReduceSum" else 18
    x, axes, keep = site.expr(0), site.axes(1, since), bool(site.integer("keepdims", 1))
    if site.integer("noop_with_empty_axes", 0) and not axes:
        return x
    if site.node.op == "ReduceSum":
        return pooling.reduce_sum(x, axes or (), keep)
    how = pooling.reduce_mean if site.node.op == "ReduceMean" else pooling.reduce_max
    return how(site.lowering, x, axes or (), keep, site.node.name)


def batch_normalization(site: Site) -> Value:
    x, epsilon = site.expr(0), site.number("epsilon", 1e-5)
    site.ignore("momentum")
    site.expect("spatial", 1)
    site.expect("training_mode", 0)
    if site.opset < 14 and any(site.node.outputs[1:]):  # how older operator sets mark training
        raise site.refuse("returns the statistics of its batch", "Export the model in inference mode (model.eval()).")
    gamma, beta, mean, variance = (site.finite(i) for i in range(1, 5))
    return site.lowering.batch_norm(x, gamma, beta, mean, variance, epsilon, site.node.name)


def relu(site: Site) -> Value:
    return site.lowering.relu(site.expr(0), site.node.name)


def leaky_relu(site: Site) -> Value:
    return site.lowering.leaky_relu(
        site.expr(0), np.array(site.number("alpha", float(np.float32(0.01)))), site.node.name
    )


def prelu(site: Site) -> Value:
    return site.lowering.leaky_relu(site.expr(0), site.finite(1), site.node.name)


def clip(site: Site) -> Value:
    if site.opset < 11:
        lo, hi = site.number("min", -np.inf), site.number("max", np.inf)
    else:
        given = site.scalar(1), site.scalar(2)
        lo, hi = (-np.inf if given[0] is None else given[0]), (np.inf if given[1] is None else given[1])
    return site.lowering.clip(site.expr(0), lo, hi, site.node.name)


def absolute(site: Site) -> Value:
    return site.lowering.absolute(site.expr(0), site.node.name)


def extremum(site: Site) -> Value:
    how = site.lowering.maximum if site.node.op == "Max" else site.lowering.minimum
    # Constants last: max(x, c) = c + relu(x - c) reads x once.
    order = sorted(range(site.n_inputs), key=lambda i: not isinstance(site.value(i), Expr))
    return reduce(lambda a, b: how(a, b, site.node.name), [site.expr(i) for i in order])


OPERATORS: dict[str, Handler] = {
    "Abs": absolute,
    "Add": sum_node,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Cast": shapes.cast,
    "Clip": clip,
    "Concat": shapes.concat,
    "Constant": shapes.constant_node,
    "ConstantOfShape": shapes.constant_of_shape,
    "Conv": convolution,
    "Div": divide,
    "Dropout": shapes.dropout,
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Gather": shapes.gather,
    "Gemm": gemm,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "Identity": shapes.identity,
    "LeakyRelu": leaky_relu,
    "MatMul": matmul_node,
    "Max": extremum,
    "MaxPool": max_pool,
    "Min": extremum,
    "Mul": multiply,
    "Neg": negate,
    "PRelu": prelu,
    "Pad": shapes.pad,
    "ReduceMax": reduction,
    "ReduceMean": reduction,
    "ReduceSum": reduction,
    "Relu": relu,
    "Reshape": shapes.reshape_node,
    "Shape": shapes.shape_of,
    "Slice": shapes.slice_node,
    "Split": shapes.split,
    "Squeeze": shapes.squeeze,
    "Sub": subtract,
    "Sum": sum_node,
    "Tile": shapes.tile,
    "Transpose": shapes.transpose,
    "Unsqueeze": shapes.unsqueeze,
}

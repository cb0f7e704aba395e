"""ATen operators lowered to affine maps and ReLUs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from milpverify.network import pooling
from milpverify.network import torch_shapes as shapes
from milpverify.network.expression import (
    Expr,
    add,
    convolve,
    matmul,
    matmul_left,
    negative,
    scale,
    scaled_matmul,
    shift,
)
from milpverify.network.pooling import Window
from milpverify.network.torch_call import Call

Handler = Callable[[Call], "Expr | list[Expr]"]


def addition(call: Call) -> Expr:
    return add(call.expr("self"), _alpha(call, call.expr("other")))


def subtraction(call: Call) -> Expr:
    return add(call.expr("self"), negative(_alpha(call, call.expr("other"))))


def reverse_subtraction(call: Call) -> Expr:
    return add(call.expr("other"), negative(_alpha(call, call.expr("self"))))


def _alpha(call: Call, x: Expr) -> Expr:
    return scale(x, np.array(call.number("alpha"))) if call.has("alpha") else x


def multiplication(call: Call) -> Expr:
    a, b = call.take("self"), call.take("other")
    if isinstance(a, Expr) and isinstance(b, Expr):
        raise call.refuse(
            "multiplies two values computed from the input, which is not piecewise linear", "Keep one factor constant."
        )
    return scale(a, call.as_known(b, "other")) if isinstance(a, Expr) else scale(b, call.as_known(a, "self"))


def division(call: Call) -> Expr:
    other = call.take("other")
    if isinstance(other, Expr):
        raise call.refuse(
            "divides by a value computed from the input, which is not piecewise linear", "Divide by a constant."
        )
    return call.lowering.divide(call.expr("self"), call.as_known(other, "other"), call.label)


def negation(call: Call) -> Expr:
    return negative(call.expr("self"))


def product(call: Call) -> Expr:
    second = "other" if call.has("other") else "mat2"
    a, b = call.take("self"), call.take(second)
    if isinstance(a, Expr) and isinstance(b, Expr):
        raise call.refuse(
            "multiplies two values computed from the input, which is not piecewise linear", "Keep one factor constant."
        )
    return matmul(a, call.as_known(b, second)) if isinstance(a, Expr) else matmul_left(call.as_known(a, "self"), b)


def linear_layer(call: Call) -> Expr:
    y = matmul(call.expr("input"), call.known("weight").T)
    return shift(y, call.known("bias")) if call.has("bias") else y


def addmm(call: Call) -> Expr:
    alpha, beta = call.number("alpha"), call.number("beta")
    y = scaled_matmul(call.expr("mat1"), call.known("mat2"), alpha)
    return add(y, scale(call.expr("self"), np.array(beta)))


def convolution(call: Call) -> Expr:
    x, kernel = call.expr("input"), call.known("weight")
    rank = kernel.ndim - 2
    if call.optional("transposed", False):
        raise call.refuse("is a transposed convolution, which is not read", "Replace it by a convolution.")
    call.ignore("output_padding")  # of transposed convolutions only
    dilation, padding = call.integers("dilation", rank), call.take("padding")
    if padding == "valid":
        padding = 0
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel.shape[2:], strict=True)]
        sides = [t // 2 for t in total], [t - t // 2 for t in total]
    else:
        each = [padding] * rank if isinstance(padding, int) else list(padding) * (rank if len(padding) == 1 else 1)
        sides = each, each
    y = convolve(x, kernel, call.integers("stride", rank), sides, dilation, call.take("groups"))
    return shift(y, call.known("bias").reshape(-1, *[1] * rank)) if call.has("bias") else y


def _windows(call: Call, rank: int) -> list[Window]:
    sizes = call.integers("kernel_size", rank)
    strides = (call.integers("stride", rank) if call.has("stride") else []) or sizes
    pads = call.integers("padding", rank)
    dilation = call.integers("dilation", rank) if call.has("dilation") else [1] * rank
    ceil = bool(call.take("ceil_mode"))
    return [Window(k, s, p, p, d, ceil) for k, s, p, d in zip(sizes, strides, pads, dilation, strict=True)]


def max_pool(call: Call) -> list[Expr] | Expr:
    x = call.expr("self")
    y = pooling.max_pool(call.lowering, x, _windows(call, 1 if "1d" in call.name else 2), call.label)
    return [y] if "indices" in call.name else y


def average_pool(call: Call) -> Expr:
    x, counted = call.expr("self"), bool(call.take("count_include_pad"))
    return pooling.average_pool(call.lowering, x, _windows(call, 1 if "1d" in call.name else 2), counted, call.label)


def adaptive_average_pool(call: Call) -> Expr:
    x, outputs = call.expr("self"), call.integers("output_size")
    windows = pooling.adaptive_windows(x.shape[-len(outputs) :], outputs)
    return pooling.average_pool(call.lowering, x, windows, True, call.label)


def batch_norm(call: Call) -> Expr | list[Expr]:
    x, epsilon = call.expr("input"), call.number("eps")
    call.ignore("momentum", "cudnn_enabled")
    if call.optional("training", False) or not (call.has("running_mean") and call.has("running_var")):
        raise call.refuse(
            "normalises by the statistics of its batch", "Call model.eval(), and use track_running_stats=True."
        )
    mean, variance = call.known("running_mean"), call.known("running_var")
    gamma = call.known("weight") if call.has("weight") else np.ones_like(mean)
    beta = call.known("bias") if call.has("bias") else np.zeros_like(mean)
    y = call.lowering.batch_norm(x, gamma, beta, mean, variance, epsilon, call.label)
    return y if call.name == "batch_norm" else [y]


def relu(call: Call) -> Expr:
    return call.lowering.relu(call.expr("self"), call.label)


def leaky_relu(call: Call) -> Expr:
    return call.lowering.leaky_relu(call.expr("self"), np.array(call.number("negative_slope")), call.label)


def prelu(call: Call) -> Expr:
    x, slope = call.expr("self"), call.known("weight")
    if slope.size > 1 and slope.ndim == 1:
        slope = slope.reshape(-1, *[1] * (len(x.shape) - 2))
    return call.lowering.leaky_relu(x, slope, call.label)


def clamp(call: Call) -> Expr:
    low, high = ("min_val", "max_val") if call.name == "hardtanh" else ("min", "max")
    lo = call.number(low) if call.has(low) else None
    hi = call.number(high) if call.has(high) else None
    return call.lowering.clip(call.expr("self"), lo, hi, call.label)


def relu6(call: Call) -> Expr:
    return call.lowering.clip(call.expr("self"), 0.0, 6.0, call.label)


def absolute(call: Call) -> Expr:
    return call.lowering.absolute(call.expr("self"), call.label)


def extremum(call: Call) -> Expr:
    a, b = call.take("self"), call.take("other")
    how = call.lowering.maximum if call.name == "maximum" else call.lowering.minimum
    # The constant last: max(x, c) = c + relu(x - c) reads x once.
    first, second = (a, b) if isinstance(a, Expr) else (b, a)
    return how(call.as_expr(first, "self"), call.as_expr(second, "other"), call.label)


def reduction(call: Call) -> Expr:
    x = call.expr("self")
    axes, keep = _axes(call), bool(call.optional("keepdim", False))
    if call.name == "sum":
        return pooling.reduce_sum(x, axes, keep)
    if call.name == "mean":
        return pooling.reduce_mean(call.lowering, x, axes, keep, call.label)
    if call.name == "amax":
        return pooling.reduce_max(call.lowering, x, axes, keep, call.label)
    return negative(pooling.reduce_max(call.lowering, negative(x), axes, keep, call.label))


def max_along(call: Call) -> list[Expr] | Expr:
    x, whole = call.expr("self"), not call.has("dim")
    y = pooling.reduce_max(call.lowering, x, _axes(call), bool(call.optional("keepdim", False)), call.label)
    return y if whole else [y]


def _axes(call: Call) -> list[int]:
    return call.integers("dim") if call.has("dim") else []


OPERATORS: dict[str, Handler] = {
    "abs": absolute,
    "adaptive_avg_pool1d": adaptive_average_pool,
    "adaptive_avg_pool2d": adaptive_average_pool,
    "_adaptive_avg_pool2d": adaptive_average_pool,
    "add": addition,
    "addmm": addmm,
    "alias": shapes.identity,
    "alpha_dropout": shapes.dropout,
    "amax": reduction,
    "amin": reduction,
    "avg_pool1d": average_pool,
    "avg_pool2d": average_pool,
    "batch_norm": batch_norm,
    "cat": shapes.cat,
    "chunk": shapes.split,
    "clamp": clamp,
    "clamp_max": clamp,
    "clamp_min": clamp,
    "clip": clamp,
    "clone": shapes.identity,
    "concat": shapes.cat,
    "concatenate": shapes.cat,
    "constant_pad_nd": shapes.pad,
    "contiguous": shapes.identity,
    "conv1d": convolution,
    "conv2d": convolution,
    "convolution": convolution,
    "copy": shapes.copy,
    "detach": shapes.identity,
    "div": division,
    "divide": division,
    "dropout": shapes.dropout,
    "expand": shapes.expand,
    "feature_alpha_dropout": shapes.dropout,
    "feature_dropout": shapes.dropout,
    "flatten": shapes.flatten,
    "hardtanh": clamp,
    "index": shapes.index_tensors,
    "index_select": shapes.index_select,
    "leaky_relu": leaky_relu,
    "lift_fresh_copy": shapes.identity,
    "linear": linear_layer,
    "matmul": product,
    "max": max_along,
    "max_pool1d": max_pool,
    "max_pool2d": max_pool,
    "max_pool2d_with_indices": max_pool,
    "maximum": extremum,
    "mean": reduction,
    "minimum": extremum,
    "mm": product,
    "mul": multiplication,
    "multiply": multiplication,
    "_native_batch_norm_legit_no_training": batch_norm,
    "neg": negation,
    "numpy_T": shapes.turned,
    "pad": shapes.pad,
    "permute": shapes.permute,
    "prelu": prelu,
    "_prelu_kernel": prelu,
    "relu": relu,
    "relu6": relu6,
    "repeat": shapes.repeat,
    "reshape": shapes.view,
    "rsub": reverse_subtraction,
    "select": shapes.select_along,
    "select_scatter": shapes.select_scatter,
    "slice": shapes.slice_along,
    "slice_scatter": shapes.slice_scatter,
    "split": shapes.split,
    "split_with_sizes": shapes.split,
    "squeeze": shapes.squeeze,
    "stack": shapes.stack,
    "sub": subtraction,
    "subtract": subtraction,
    "sum": reduction,
    "t": shapes.turned,
    "to": shapes.cast,
    "_to_copy": shapes.cast,
    "transpose": shapes.transpose,
    "true_divide": division,
    "unbind": shapes.split,
    "_unsafe_view": shapes.view,
    "unsqueeze": shapes.unsqueeze,
    "view": shapes.view,
}

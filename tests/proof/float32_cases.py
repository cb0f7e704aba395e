"""Networks of float32 numbers, and float32 executions of them in any order of summation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from milpverify.network.convolution import Conv2d
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense
from tests.proof.literal import single

LEAST_NORMAL = 2.0**-126


def rounded(values: np.ndarray) -> np.ndarray:
    """The nearest float32 numbers, as float64."""
    return np.asarray(values).astype(np.float32).astype(np.float64)


def in_float32(net: Network) -> Network:
    """A chain with its weights and biases rounded to float32."""

    def layer(affine: Affine) -> Affine:
        terms = tuple((op, rounded(vector)) for op, vector in affine.bias_terms)
        return replace(affine.map_arrays(rounded), bias_terms=terms)

    return Network(net.input_shape, net.output_shape, tuple(map(layer, net.layers)), layer(net.output))


def dense(*maps: tuple[Any, Any]) -> Network:
    """A chain of matrices and biases."""
    affines = []
    for k, (W, b) in enumerate(maps):
        matrix, bias = np.array(W, dtype=np.float64), np.array(b, dtype=np.float64)
        affines.append(Affine(((k, Dense(matrix)),), ((None, bias),), len(bias), f"layer_{k + 1}"))
    n, m = affines[0].blocks[0][1].in_size, affines[-1].size
    return Network((1, n), (1, m), tuple(affines[:-1]), affines[-1])


def onnx_bytes(net: Network) -> bytes:
    """A chain as an ONNX file of float32: MatMul and Add, Conv and Add, Relu."""
    nodes, weights, current, shape = [], [], "x", net.input_shape
    shape = shape if len(shape) == 2 else (1, *shape)
    for k, affine in enumerate((*net.layers, net.output)):
        (_, op), ((_, bias),) = affine.blocks[0], affine.bias_terms
        last = affine is net.output
        if isinstance(op, Conv2d):
            pads = {"pads": list(op.padding), "strides": list(op.stride), "group": op.groups}
            tensors = op.kernel, bias.reshape(op.out_shape)
            nodes.append(helper.make_node("Conv", [current, f"W{k}"], [f"p{k}"], **pads))
        else:
            assert isinstance(op, Dense)
            tensors = np.ascontiguousarray(op.matrix.T), bias
            nodes.append(helper.make_node("Flatten", [current], [f"f{k}"]))
            nodes.append(helper.make_node("MatMul", [f"f{k}", f"W{k}"], [f"p{k}"]))
        for name, tensor in zip("Wb", tensors, strict=True):
            weights.append(numpy_helper.from_array(tensor.astype(np.float32), f"{name}{k}"))
        nodes.append(helper.make_node("Add", [f"p{k}", f"b{k}"], ["y" if last else f"zhat{k}"]))
        nodes += [] if last else [helper.make_node("Relu", [f"zhat{k}"], [f"z{k}"])]
        current = f"z{k}"
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    exits = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "chain", ends, exits, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def nearest(q: Fraction) -> float:
    """The nearest float32 number, ties to even."""
    below = np.float32(float(single(q)))
    above = np.nextafter(below, np.float32(np.inf))
    low, high = q - Fraction(float(below)), Fraction(float(above)) - q
    if low == high:
        return float(below if not int(below.view(np.uint32)) & 1 else above)
    return float(below if low < high else above)


@dataclass
class Execution:
    """One way to run a network in float32.

    Attributes:
        rng: Of the orders.
        order: "chain", "pairs" or "tree": one accumulator, pairwise, or any two partial sums next.
        fused: Whether a product is added with one rounding (in chains).
        flushed: Whether subnormal numbers are taken, and given, as zero.
    """

    rng: np.random.Generator
    order: str
    fused: bool
    flushed: bool

    def values(self, net: Network, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """zhat of each layer, and y."""
        z, hidden = x, []
        for affine in (*net.layers, net.output):
            ((_, op),), bias = affine.blocks, affine.bias
            rows = op.rows(np.arange(op.out_size))
            zhat = np.array([self._row(row, z, b) for row, b in zip(rows, bias.tolist(), strict=True)])
            hidden.append(zhat)
            z = np.maximum(zhat, 0.0)
        return hidden[:-1], hidden[-1]

    def _flush(self, value: float) -> float:
        return 0.0 if self.flushed and abs(value) < LEAST_NORMAL else value

    def _row(self, row: np.ndarray, z: np.ndarray, bias: float) -> float:
        order = self.rng.permutation(len(row))
        factors = [(self._flush(w), self._flush(v)) for w, v in zip(row[order].tolist(), z[order].tolist())]  # noqa: B905
        bias = self._flush(bias)
        if self.order == "chain":
            first = self.rng.random() < 0.5  # the bias starts the sum or ends it
            total = bias if first else 0.0
            for w, v in factors:
                total = self._multiplied(w, v, total) if self.fused else self._sum(self._multiplied(w, v), total)
            return total if first else self._sum(total, bias)
        parts = [*(self._multiplied(w, v) for w, v in factors), bias]
        while len(parts) > 1:
            if self.order == "tree":
                i, j = sorted(self.rng.choice(len(parts), 2, replace=False).tolist())
                b, a = parts.pop(j), parts.pop(i)
                parts.append(self._sum(a, b))
            else:
                pairs = [self._sum(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
                parts = pairs + (parts[-1:] if len(parts) % 2 else [])
        return parts[0]

    def _sum(self, a: float, b: float) -> float:
        return self._flush(float(np.float32(a + b)))  # float64 first rounds harmlessly: 53 >= 2 * 24 + 2

    def _multiplied(self, w: float, v: float, added: float = 0.0) -> float:
        """w v + added, rounded once."""
        if added == 0.0:
            return self._flush(float(np.float32(w * v)))  # exact in float64
        return self._flush(nearest(Fraction(w) * Fraction(v) + Fraction(added)))


def executions(rng: np.random.Generator) -> list[Execution]:
    """Every kind of execution."""
    kinds = [("chain", False), ("chain", True), ("pairs", False), ("tree", False)]
    return [Execution(rng, order, fused, flushed) for order, fused in kinds for flushed in (False, True)]


def points(rng: np.random.Generator, lower: np.ndarray, upper: np.ndarray, count: int) -> list[np.ndarray]:
    """Float32 inputs of a box of float32 numbers: corners and others."""
    found = []
    for _ in range(count):
        share = rng.random(len(lower)) if rng.random() < 0.5 else rng.integers(0, 2, len(lower))
        found.append(np.clip(rounded(lower + (upper - lower) * share), lower, upper))
    return found

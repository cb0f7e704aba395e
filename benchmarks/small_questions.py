"""Small networks, boxes and unsafe sets whose least slack is known exactly, in every form that a checker reads.

A question is kept as plain matrices. From them come the package's objects, an ONNX file and a property's file for the
stand-alone checker, and the rationals for `exact_slack`: no reader stands between the question and its truth.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import milpverify as mv
from benchmarks.exact_slack import Layer, forward, least_slack
from milpverify.network.convolution import Conv2d
from milpverify.network.graph import Affine
from milpverify.network.operators import Dense, LinearOperator


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution of an image: kernel (out, in, rows, columns), image (channels, height, width)."""

    kernel: np.ndarray
    image: tuple[int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, left, bottom, right

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        (top, left, bottom, right), (_, height, width) = self.padding, self.image
        out, _, rows, columns = self.kernel.shape
        return (
            out,
            (height + top + bottom - rows) // self.stride[0] + 1,
            (width + left + right - columns) // self.stride[1] + 1,
        )

    def matrix(self) -> np.ndarray:
        """The same map as a matrix."""
        out, high, wide = self.out_shape
        channels, height, width = self.image
        W = np.zeros((out, high, wide, channels, height, width))
        for o, p, q, c, i, j in np.ndindex(out, high, wide, *self.kernel.shape[1:]):
            row, column = p * self.stride[0] - self.padding[0] + i, q * self.stride[1] - self.padding[1] + j
            if 0 <= row < height and 0 <= column < width:
                W[o, p, q, c, row, column] = self.kernel[o, c, i, j]
        return W.reshape(out * high * wide, channels * height * width)


@dataclass(frozen=True, eq=False)
class PlainLayer:
    """A layer: matrices by source (0 the input, k the k-th hidden layer), and the bias; float64."""

    blocks: dict[int, np.ndarray]
    bias: np.ndarray
    convolution: Convolution | None = None  # what the only matrix is, where it is one; the bias is one of channels

    def exact(self) -> Layer:
        """In rationals."""
        blocks = [(s, [[Fraction(w) for w in row] for row in W.tolist()]) for s, W in sorted(self.blocks.items())]
        return blocks, [Fraction(b) for b in self.bias.tolist()]

    def affine(self) -> Affine:
        """As the package has it."""
        blocks: list[tuple[int, LinearOperator]] = [(s, Dense(W)) for s, W in sorted(self.blocks.items())]
        if self.convolution is not None:
            c = self.convolution
            blocks = [(blocks[0][0], Conv2d(c.kernel, c.image, c.stride, c.padding))]
        return Affine(tuple(blocks), ((None, self.bias),), len(self.bias))


@dataclass(frozen=True, eq=False)
class PlainCase:
    """A box and an unsafe set {y : C y <= d}."""

    lower: list[Fraction]
    upper: list[Fraction]
    C: np.ndarray
    d: list[Fraction]

    def exact_rows(self) -> list[list[Fraction]]:
        """C in rationals."""
        return [[Fraction(v) for v in row] for row in self.C.tolist()]


@dataclass(frozen=True, eq=False)
class Question:
    """A network and the cases of a property.

    Attributes:
        layers: Hidden layers, then the output.
        cases: Those of one box stand side by side.
        kind: What sort of question it is, for statistics.
        bits: F where the weights lie halfway between multiples of 2^-F, else 0.
    """

    n_inputs: int
    layers: tuple[PlainLayer, ...]
    cases: tuple[PlainCase, ...]
    kind: str = ""
    input_shape: tuple[int, ...] = field(default=())
    bits: int = 0

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return len(self.layers[-1].bias)

    @cached_property
    def exact(self) -> list[Layer]:
        """The layers in rationals."""
        return [layer.exact() for layer in self.layers]

    @cached_property
    def least(self) -> tuple[Fraction, list[Fraction]]:
        """The least slack of all cases, and an input that attains it."""
        found = (least_slack(self.exact, c.lower, c.upper, c.exact_rows(), c.d) for c in self.cases)
        return min(found, key=lambda pair: pair[0])

    @cached_property
    def net(self) -> mv.Network:
        """The package's network."""
        affines = [layer.affine() for layer in self.layers]
        shape = self.input_shape or (1, self.n_inputs)
        return mv.Network(shape, (1, self.n_outputs), tuple(affines[:-1]), affines[-1])

    @cached_property
    def prop(self) -> mv.Property:
        """The package's property; cases of one box share their region."""
        regions: dict[tuple[tuple[Fraction, ...], ...], mv.Box] = {}
        cases = []
        for i, c in enumerate(self.cases):
            key = tuple(c.lower), tuple(c.upper)
            region = regions.setdefault(key, mv.Box.of_fractions(*key))
            cases.append(mv.Case(region, mv.Polyhedron(c.C, np.zeros(len(c.d)), tuple(c.d)), f"case {i}"))
        return mv.Property(tuple(cases), self.n_inputs, self.n_outputs)

    @property
    def is_chain(self) -> bool:
        """Whether every layer reads the one before it and no other: what the stand-alone checker reads."""
        return all(list(layer.blocks) == [k] for k, layer in enumerate(self.layers))

    def onnx(self) -> bytes:
        """The network's file: float64 Gemm, Conv, Flatten and Relu."""
        assert self.is_chain
        nodes, constants, current = [], [], "x"
        shape = self.input_shape or (1, self.n_inputs)
        flat = len(shape) == 2
        for k, layer in enumerate(self.layers):
            name, c = ("y" if k == len(self.layers) - 1 else f"zhat{k}"), layer.convolution
            if c is None and not flat:
                nodes.append(helper.make_node("Flatten", [current], [f"flat{k}"]))
                current, flat = f"flat{k}", True
            W, b = (
                (layer.blocks[k], layer.bias)
                if c is None
                else (c.kernel, layer.bias[:: len(layer.bias) // len(c.kernel)])
            )
            constants += [numpy_helper.from_array(np.array(W), f"W{k}"), numpy_helper.from_array(np.array(b), f"b{k}")]
            inputs = [current, f"W{k}", f"b{k}"]
            if c is None:
                nodes.append(helper.make_node("Gemm", inputs, [name], transB=1))
            else:
                nodes.append(helper.make_node("Conv", inputs, [name], strides=list(c.stride), pads=list(c.padding)))
            if name != "y":
                nodes.append(helper.make_node("Relu", [name], [f"z{k}"]))
                current = f"z{k}"
        ends = [
            helper.make_tensor_value_info(name, TensorProto.DOUBLE, list(sizes))
            for name, sizes in (("x", shape), ("y", (1, self.n_outputs)))
        ]
        graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        return bytes(model.SerializeToString())

    def document(self) -> bytes:
        """The property's file."""
        places: dict[str, int] = {}
        regions: list[dict[str, Any]] = []
        cases = []
        for c in self.cases:
            exact = [[str(q) for q in side] for side in (c.lower, c.upper)]
            key = json.dumps(exact)
            if key not in places:
                places[key] = len(regions)
                regions.append({"type": "Box", "lower": [], "upper": [], "exact": exact, "cuts": {"A": [], "b": []}})
            cases.append({"name": "", "region": places[key], "C": c.C.tolist(), "d": [str(q) for q in c.d]})
        head = {"format": "milpverify-property", "version": 1, "name": "", "label": None}
        sizes = {"n_inputs": self.n_inputs, "n_outputs": self.n_outputs}
        return json.dumps({**head, **sizes, "regions": regions, "cases": cases}).encode()


WEIGHTS = ("normal", "ties", "huge", "tiny", "mixed", "halves")
SHAPES = ("dense", "dense", "dense", "convolution", "skip")


def random_question(rng: np.random.Generator, most_neurons: int = 8) -> Question:
    """A network of some shape and scale of weights, and one to three cases over one or two boxes."""
    shape, weights = str(rng.choice(SHAPES)), str(rng.choice(WEIGHTS))
    draw = _Draw(rng, weights)
    n, layers, input_shape = NETWORKS[shape](draw, most_neurons)
    boxes = [draw.box(n) for _ in range(int(rng.integers(1, 3)))]
    cases = []
    for k in sorted(int(k) for k in rng.integers(len(boxes), size=int(rng.integers(1, 4)))):
        C = draw.matrix(int(rng.integers(1, 4)), len(layers[-1].bias))
        cases.append(PlainCase(*boxes[k], C, _right_sides(draw, layers, *boxes[k], C)))
    bits = draw.bits if weights == "halves" else 0
    return Question(n, tuple(layers), tuple(cases), f"{shape} {weights}", input_shape, bits)


@dataclass
class _Draw:
    """Numbers of one kind: see `WEIGHTS`."""

    rng: np.random.Generator
    kind: str

    def __post_init__(self) -> None:
        self.bits = int(self.rng.choice([16, 16, 20, 24]))

    def matrix(self, m: int, n: int) -> np.ndarray:
        """Weights."""
        rng = self.rng
        if self.kind == "ties":  # patterns touch, optima are degenerate
            return rng.integers(-2, 3, (m, n)).astype(float)
        if self.kind == "halves":  # all rounded by as much as can be, and all in one direction
            return (2.0 * rng.integers(-(2**15), 2**15, (m, n)) + 1.0) * 2.0 ** -(self.bits + 1)
        W = rng.normal(size=(m, n)) / np.sqrt(n)
        W = W.astype(np.float32).astype(np.float64) if rng.random() < 0.5 else W
        low, high = {"normal": (0, 1), "huge": (8, 31), "tiny": (-40, -8), "mixed": (-31, 31)}[self.kind]
        return np.asarray(W * 2.0 ** int(rng.integers(low, high)))

    def bias(self, m: int, W: np.ndarray) -> np.ndarray:
        """A bias of about the size of the weights."""
        if self.kind in ("ties", "halves"):
            return self.matrix(m, 1)[:, 0]
        return np.asarray(0.4 * self.rng.normal(size=m) * np.abs(W).max(initial=1e-300))

    def rational(self) -> Fraction:
        """A right-hand side."""
        return (
            Fraction(int(self.rng.integers(-3, 4)))
            if self.kind == "ties"
            else Fraction(int(self.rng.integers(-999, 999)), 1000)
        )

    def box(self, n: int) -> tuple[list[Fraction], list[Fraction]]:
        """A box of decimals, of integers for ties; now and then without width, or large."""
        rng, unit = self.rng, 1 if self.kind == "ties" else 1000
        size = unit * (1 if rng.random() < 0.7 else int(rng.choice([100, 1000])))
        middle, radius = rng.integers(-2 * unit, 2 * unit + 1, n), rng.integers(0, size + 1, n)
        radius = np.where(rng.random(n) < 0.1, 0, radius)
        low, high = ([Fraction(int(v), unit) for v in (middle + side * radius).tolist()] for side in (-1, 1))
        return low, high


def _dense(draw: _Draw, most: int) -> tuple[int, list[PlainLayer], tuple[int, ...]]:
    rng = draw.rng
    n, depth = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    sizes = [n, *(int(v) for v in rng.integers(1, most // depth + 1, depth)), int(rng.integers(1, 4))]
    layers = []
    for k, (columns, rows) in enumerate(itertools.pairwise(sizes)):
        W = draw.matrix(rows, columns)
        layers.append(PlainLayer({k: W}, draw.bias(rows, W)))
    return n, layers, ()


def _convolution(draw: _Draw, most: int) -> tuple[int, list[PlainLayer], tuple[int, ...]]:
    """An image of one or two channels, a convolution to two to six neurons, two dense neurons, two outputs."""
    rng = draw.rng
    image = ((1, 2, 3), (2, 2, 2), (1, 2, 2))[int(rng.integers(3))]
    padding = tuple(int(v) for v in rng.integers(0, 2, 4))
    kernel = draw.matrix(int(rng.integers(1, 3)), image[0] * 4).reshape(-1, image[0], 2, 2)
    conv = Convolution(kernel, image, (2, int(rng.integers(1, 3))), padding)  # type: ignore[arg-type]
    W = conv.matrix()
    if len(W) > most - 2:
        return _convolution(draw, most)
    per_channel = draw.bias(len(kernel), W)
    V, U = draw.matrix(2, len(W)), draw.matrix(2, 2)
    layers = [
        PlainLayer({0: W}, np.repeat(per_channel, len(W) // len(kernel)), conv),
        PlainLayer({1: V}, draw.bias(2, V)),
        PlainLayer({2: U}, draw.bias(2, U)),
    ]
    return W.shape[1], layers, (1, *image)


def _skip(draw: _Draw, most: int) -> tuple[int, list[PlainLayer], tuple[int, ...]]:
    """Every layer reads every earlier one, and the input."""
    sizes = [2, *(int(v) for v in draw.rng.integers(1, most // 2 + 1, 2)), 2]
    layers = []
    for k, rows in enumerate(sizes[1:]):
        blocks = {s: draw.matrix(rows, sizes[s]) for s in range(k + 1)}
        layers.append(PlainLayer(blocks, draw.bias(rows, blocks[k])))
    return 2, layers, ()


def _right_sides(
    draw: _Draw, layers: list[PlainLayer], lower: list[Fraction], upper: list[Fraction], C: np.ndarray
) -> list[Fraction]:
    """Right-hand sides of any size, or near what the rows are at some corner, so that they compete."""
    if draw.kind == "ties" or draw.rng.random() < 0.3:
        return [draw.rational() for _ in C]
    exact = [layer.exact() for layer in layers]
    found = []
    low, high = (forward(exact, x) for x in (lower, upper))
    for row in C.tolist():
        a, b = (sum((Fraction(c) * v for c, v in zip(row, y, strict=True)), Fraction(0)) for y in (low, high))
        found.append(a + (b - a) * Fraction(int(draw.rng.integers(-500, 1500)), 1000))
    return found


NETWORKS = {"dense": _dense, "convolution": _convolution, "skip": _skip}

"""Operators of every kind with dyadic coefficients, small enough that floats compute them exactly."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from milpverify.network.convolution import Conv2d
from milpverify.network.operators import Dense, LinearOperator, Product, Scaling, Selection, Sum


def quarters(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Multiples of 1/4 in [-2, 2], some of them zero."""
    return np.asarray(generator.integers(-8, 9, shape) / 4.0)


@st.composite
def convolutions(draw: st.DrawFn) -> Conv2d:
    """A convolution with any stride, padding, dilation and groups that leave an output."""
    groups = draw(st.integers(1, 2))
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    spans = dilation[0] * (rows - 1) + 1, dilation[1] * (columns - 1) + 1
    padding = draw(st.tuples(*[st.integers(0, 2)] * 4))
    height = draw(st.integers(max(1, spans[0] - padding[0] - padding[2]), 6))
    width = draw(st.integers(max(1, spans[1] - padding[1] - padding[3]), 6))
    fan_in, fan_out = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    kernel = quarters(generator, (groups * fan_out, fan_in, rows, columns))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return Conv2d(kernel, (groups * fan_in, height, width), stride, padding, dilation, groups)


@st.composite
def matching(draw: st.DrawFn, out_size: int | None, in_size: int) -> LinearOperator:
    """A simple operator from R^in_size, to R^out_size where that is given."""
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    rows = draw(st.integers(1, 6)) if out_size is None else out_size
    kinds = ["dense", "selection"] + (["scaling"] if rows == in_size else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "dense":
        return Dense(quarters(generator, (rows, in_size)))
    if kind == "scaling":
        return Scaling(quarters(generator, (in_size,)))
    return Selection(generator.integers(-1, in_size, rows), in_size)


@st.composite
def linear_operators(draw: st.DrawFn) -> LinearOperator:
    """Any operator, sums and products of two or three included."""
    first: LinearOperator = draw(st.one_of(convolutions(), st.integers(1, 6).flatmap(lambda n: matching(None, n))))
    kind = draw(st.sampled_from(["plain", "sum", "product", "both"]))
    if kind in ("product", "both"):
        first = Product((draw(matching(None, first.out_size)), first))
    if kind in ("sum", "both"):
        first = Sum((first, draw(matching(first.out_size, first.in_size))))
    return first

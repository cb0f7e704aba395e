"""Programs that the tests of this folder share, and an enumeration that solves small ones without a
solver."""

from __future__ import annotations

import itertools
from dataclasses import fields

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from milpverify.program.program import Program, ProgramBuilder

# No deadline: a shared machine can stall any single solve.
FEW = settings(derandomize=True, deadline=None, max_examples=25)
MANY = settings(derandomize=True, deadline=None, max_examples=80)

# Quarters are exact floats, and keep every row at least 1/4 away from a tolerance.
QUARTERS = st.integers(-12, 12).map(lambda k: k / 4)


def build(
    cost: object,
    rows: object,
    row_lower: object,
    row_upper: object,
    column_lower: object = 0.0,
    column_upper: object = 1.0,
    integer: object = False,
    offset: float = 0.0,
) -> Program:
    """A Program from dense parts; `integer` is one flag for all columns or one each."""
    costs = np.atleast_1d(np.asarray(cost, dtype=float))
    matrix = np.asarray(rows, dtype=float).reshape(-1, len(costs))
    builder = ProgramBuilder()
    n = len(costs)
    parts = (np.broadcast_to(np.asarray(v), (n,)) for v in (column_lower, column_upper, integer))
    columns = [
        builder.add_columns([f"x_{j}"], low, up, bool(whole))[0]
        for j, (low, up, whole) in enumerate(zip(*parts, strict=True))
    ]
    builder.add_rows([(columns, matrix)], row_lower, row_upper, [f"r_{i}" for i in range(len(matrix))])
    builder.set_cost(columns, costs, offset)
    return builder.build("case")


def dense(program: Program) -> np.ndarray:
    """A as a dense array."""
    matrix = np.zeros((program.n_rows, program.n_columns))
    matrix[program.row_of_nonzero(), program.row_index] = program.row_value
    return matrix


def assert_same(left: Program, right: Program) -> None:
    """Every field equal to the last bit."""
    for field in fields(Program):
        a, b = getattr(left, field.name), getattr(right, field.name)
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, field.name


def enumerate_optimum(program: Program) -> float:
    """The exact optimum of an all-integer program with small finite bounds; inf if infeasible."""
    ranges = [np.arange(low, up + 1) for low, up in zip(program.column_lower, program.column_upper, strict=True)]
    points = np.array(list(itertools.product(*ranges)))
    rows = points @ dense(program).T
    feasible = ((rows >= program.row_lower) & (rows <= program.row_upper)).all(axis=1)
    return float(np.where(feasible, points @ program.cost + program.offset, np.inf).min())


@st.composite
def row_sides(draw: st.DrawFn) -> tuple[float, float]:
    """Lower and upper side of a row: one-sided, two-sided or equal."""
    side, width = draw(QUARTERS), draw(st.integers(0, 8)) / 4
    return draw(st.sampled_from([(-np.inf, side), (side, np.inf), (side, side + width), (side, side)]))


@st.composite
def programs(draw: st.DrawFn, continuous: bool = False) -> Program:
    """A small program over boxes: all integer, or with some continuous columns."""
    n, m = draw(st.integers(1, 5)), draw(st.integers(0, 4))
    row = st.lists(QUARTERS, min_size=n, max_size=n)
    lower = [draw(st.integers(-2, 1)) for _ in range(n)]
    sides = [draw(row_sides()) for _ in range(m)]
    return build(
        draw(row),
        [draw(row) for _ in range(m)],
        [low for low, _ in sides],
        [up for _, up in sides],
        lower,
        [low + draw(st.integers(0, 3)) for low in lower],
        [not continuous or draw(st.booleans()) for _ in range(n)],
        draw(QUARTERS) * 10,
    )


def market_split(rows: int = 4, columns: int = 40) -> Program:
    """A program that no solver finishes within seconds, with a point found at once (Cornuejols & Dawande
    1998)."""
    rng = np.random.default_rng(3)
    weights = rng.integers(1, 100, (rows, columns)).astype(float)
    half = np.floor(weights.sum(axis=1) / 2)
    cost = np.r_[np.zeros(columns), np.ones(2 * rows)]
    upper = np.r_[np.ones(columns), np.full(2 * rows, 1e4)]
    matrix = np.hstack([weights, np.eye(rows), -np.eye(rows)])
    return build(cost, matrix, half, half, 0.0, upper, upper == 1, offset=7.0)

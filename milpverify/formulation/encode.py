"""(Condensed network, region, rows) -> Program, and the map back from its columns to inputs and neurons.

Columns read x0, x1, ... (inputs), z2_17 and a2_17 (output and phase of neuron 17 of layer 2 in the original network),
slack or eps (what is minimised).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from milpverify.formulation.relu import BigM, NeuronRows, ReLUEncoding
from milpverify.network.condense import Condensed
from milpverify.network.graph import UNIT, Affine, relu
from milpverify.program.program import Program, ProgramBuilder
from milpverify.spec.regions import Box, L1Ball, LinfBall, Region

# Objective coefficients (next to a largest one of about 1) that a solver need not respect: HiGHS takes a reduced cost
# of 1e-7 on the wrong side for optimal, and hundreds of such inputs add up.
NEGLIGIBLE = 2e-7
# An input interval at most this wide passes for a point with solvers, whatever its coefficients make of the width.
NARROW = 2e-6

LARGEST_SLACK = 1e15  # a row needs a finite side; this one never binds


@dataclass(frozen=True, eq=False)
class Encoded:
    """A program about a network, and how to read its solutions.

    Attributes:
        program: Minimises; its optimum is a slack max_i (C_i y - d_i) or a distance.
        condensed: The network it is about.
        rows: Which outputs of the condensed network it uses.
        d: Their right-hand sides, shape (len(rows),).
        x: Columns of the inputs.
        z, a: Columns of the neurons' outputs and phases, per layer.
        unsafe: Rows that hold the outputs inside the unsafe set; none where the slack is minimised.
        inside: How far inside a polished solution must lie, so that rounding cannot put it outside; in `unit`s.
        unit: What the program's rows (and its objective, where that is a slack) count in, in units of y; a power of 2.
    """

    program: Program
    condensed: Condensed
    rows: np.ndarray
    d: np.ndarray
    x: np.ndarray
    z: tuple[np.ndarray, ...]
    a: tuple[np.ndarray, ...]
    unsafe: np.ndarray
    inside: float = 0.0
    unit: float = 1.0

    @property
    def minimises_slack(self) -> bool:
        """Whether the objective is a slack, not a distance."""
        return not len(self.unsafe)

    @property
    def reach(self) -> float:
        """The largest sum of sizes that a row or the objective can come to: what float64 loses is relative to it."""
        program = self.program
        size = np.maximum(np.abs(program.column_lower), np.abs(program.column_upper))
        size = np.where(np.isfinite(size), size, 0.0)  # the slack itself
        terms = np.abs(program.row_value) * size[program.row_index]
        sums = np.bincount(program.row_of_nonzero(), weights=terms, minlength=program.n_rows)
        return float(max(sums.max(initial=0.0), np.abs(program.cost) @ size + abs(program.offset)))

    @property
    def scale(self) -> float:
        """The largest size of an input, a neuron or a coefficient, at least 1.

        Solvers' tolerances are absolute: one of 1e-7 in an input becomes 1e-7 times its coefficient in a neuron.
        """
        bounds = self.condensed.bounds
        coefficients = np.abs(self.program.row_value).max(initial=0.0), np.abs(self.program.cost).max(initial=0.0)
        sizes = [np.abs(part).max(initial=0.0) for part in (*bounds.lower, *bounds.upper)]
        inputs = self.program.column_lower[self.x], self.program.column_upper[self.x]
        return float(max(1.0, *coefficients, *sizes, *(np.abs(side).max(initial=0.0) for side in inputs)))

    def input(self, solution: np.ndarray) -> np.ndarray:
        """The network input of a solution of the program, shape (n_inputs,)."""
        return np.asarray(solution[self.x])

    def with_phases(self, solution: np.ndarray) -> Program:
        """The LP that keeps a solution's activation pattern, where every relu is on one of its sides, exactly."""
        row_upper = self.program.row_upper.copy()
        row_upper[self.unsafe] -= self.inside
        return replace(self._fixed(solution).relax(), row_upper=row_upper)

    def at_pattern_of(self, x: np.ndarray) -> Program:
        """The program on an input's activation pattern, without the unsafe set: the input itself is a point of it.

        The fixed phases stay integers, so that a solver treats it as it treats the whole program.
        """
        pattern = np.zeros(self.program.n_columns)
        for zhat, phases in zip(self.condensed.net.activations(x)[0], self.a, strict=True):
            pattern[phases] = zhat > 0
        row_lower, row_upper = self.program.row_lower.copy(), self.program.row_upper.copy()
        row_lower[self.unsafe], row_upper[self.unsafe] = -LARGEST_SLACK, np.inf
        return replace(self._fixed(pattern), row_lower=row_lower, row_upper=row_upper)

    def _fixed(self, solution: np.ndarray) -> Program:
        lower, upper = self.program.column_lower.copy(), self.program.column_upper.copy()
        for phases in self.a:
            lower[phases] = upper[phases] = np.round(solution[phases])
        return self.program.with_column_bounds(lower, upper)

    def at_input(self, x: np.ndarray) -> np.ndarray | None:
        """The solution that an input of the region stands for, as a solver's starting point.

        None where the program has columns that x alone does not tell (those of a ball).
        """
        values = np.zeros(self.program.n_columns)
        told = len(self.x) + sum(map(len, self.z)) + sum(map(len, self.a))
        hidden, outputs = self.condensed.net.activations(x)
        values[self.x] = x
        for zhat, z, a in zip(hidden, self.z, self.a, strict=True):
            values[z], values[a] = relu(zhat), zhat > 0
        if self.program.column_names[-1] == "slack":
            values[-1], told = (outputs[self.rows] - self.d).max() / self.unit, told + 1
        return values if told == self.program.n_columns else None


@dataclass(frozen=True, eq=False)
class Columns:
    """Where the inputs (x), neurons' outputs (z) and phases (a) of a condensed network stand in a program."""

    x: np.ndarray
    z: tuple[np.ndarray, ...]
    a: tuple[np.ndarray, ...]

    def blocks(self, affine: Affine, rows: np.ndarray | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
        """An affine map of the condensed network as pairs (columns, matrix)."""
        index = np.arange(affine.size) if rows is None else rows
        sources = (self.x, *self.z)
        return [(sources[source], op.rows(index)) for source, op in affine.blocks]


def encode_slack(
    condensed: Condensed,
    region: Region,
    rows: Sequence[int] | np.ndarray,
    d: np.ndarray,
    encoding: ReLUEncoding | None = None,
    unit: float = 1.0,
) -> Encoded:
    """Minimise max_i (y_i - d_i) over the region, y_i the chosen outputs of the condensed network.

    Exact up to the rounding of the condensed network, which the rows give way to, where region.linear_rows() is exact
    (not for L2 balls, whose outer cuts make the program a relaxation).

    Args:
        condensed: Outputs are the rows of unsafe polyhedra.
        region: Where the condensed network's bounds hold.
        rows: Outputs that must all be small, at least one.
        d: Right-hand sides, shape (len(rows),).
        encoding: Defaults to `BigM()`.
        unit: What the slack is counted in; see `objective_unit`.
    """
    index, d = np.asarray(rows, dtype=int), np.asarray(d, dtype=np.float64)
    builder = ProgramBuilder(absorb_tiny=True)
    condensed, lower, upper = at_points(condensed, region)
    columns = add_network(builder, condensed, region, lower, upper, encoding)
    output = condensed.net.output
    right = (output.bias[index] - d - _row_error(condensed, index, d)) / unit
    if len(index) == 1:
        blocks = [(column, matrix / unit) for column, matrix in columns.blocks(output, index)]
        _set_row_cost(builder, blocks, float(right[0]), region, condensed)
    else:
        slack = builder.add_columns(["slack"], -np.inf, np.inf)
        builder.add_rows(slack_rows(columns, output, index, slack, unit), right, np.inf, row_names(index))
        builder.set_cost(slack, [1.0])
    none = np.zeros(0, dtype=int)
    program = builder.build("slack")
    return Encoded(program, condensed, index, d, columns.x, columns.z, columns.a, none, unit=unit)


def objective_unit(condensed: Condensed, rows: np.ndarray) -> float:
    """A power of 2 that lifts the largest coefficient of some outputs to about 1 where all are small.

    A solver's tolerances are absolute: 1e-7 is nothing next to a margin of 1, and everything next to one of 1e-6.
    """
    largest = max((float(np.abs(op.rows(rows)).max(initial=0.0)) for _, op in condensed.net.output.blocks), default=0.0)
    return 2.0 ** max(math.floor(math.log2(largest)), -300) if 0.0 < largest < 0.1 else 1.0


def slack_rows(
    columns: Columns, output: Affine, index: np.ndarray, slack: np.ndarray, unit: float = 1.0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The left-hand sides of slack - W_i z / unit >= (b_i - d_i) / unit, one row per index."""
    minus = [(column, -matrix / unit) for column, matrix in columns.blocks(output, index)]
    return [(slack, np.ones((len(index), 1))), *minus]


def row_names(index: np.ndarray) -> list[str]:
    """Names of the rows that hold the slack above the unsafe set's rows."""
    return [f"row{i}" for i in range(len(index))]


def encode_distance(
    condensed: Condensed,
    ball: LinfBall | L1Ball,
    rows: Sequence[int] | np.ndarray,
    d: np.ndarray,
    inside: float = 0.0,
    encoding: ReLUEncoding | None = None,
) -> Encoded:
    """Minimise the distance from the ball's centre to a point of the ball with y_i <= d_i for all i.

    Args:
        condensed: Outputs are the rows of unsafe polyhedra; its bounds hold in the ball.
        ball: Gives centre, norm, clip and the largest distance of interest.
        rows, d: As in `encode_slack`.
        inside: How far inside the unsafe set polished solutions must lie, in units of y.
        encoding: Defaults to `BigM()`.

    Source:
        Tjeng, Xiao & Tedrake 2019, eq. 3 to 7.
    """
    index, d = np.asarray(rows, dtype=int), np.asarray(d, dtype=np.float64)
    builder = ProgramBuilder(absorb_tiny=True)
    # The ball's own rows follow with its radius as a column: here its box and cuts are enough.
    hull = Box(ball.lower, ball.upper, cuts=ball.cuts)
    columns = add_network(builder, condensed, hull, ball.lower, ball.upper, encoding)
    eps = builder.add_columns(["eps"], 0.0, float(ball.eps))
    eye, one = np.eye(len(columns.x)), np.ones((len(columns.x), 1))
    centre = np.asarray(ball.center)
    if isinstance(ball, LinfBall):
        builder.add_rows([(columns.x, eye), (eps, -one)], -np.inf, centre, [f"below{i}" for i in columns.x])
        builder.add_rows([(columns.x, eye), (eps, one)], centre, np.inf, [f"over{i}" for i in columns.x])
    else:
        s = builder.add_columns([f"s{i}" for i in columns.x], 0.0, float(ball.eps))
        builder.add_rows([(columns.x, eye), (s, -eye)], -np.inf, centre, [f"below{i}" for i in columns.x])
        builder.add_rows([(columns.x, eye), (s, eye)], centre, np.inf, [f"over{i}" for i in columns.x])
        builder.add_rows([(s, one.T), (eps, -np.ones((1, 1)))], -np.inf, 0.0, ["norm"])
    output = condensed.net.output
    names = [f"unsafe{i}" for i in range(len(index))]
    unit = objective_unit(condensed, index)
    blocks = [(column, matrix / unit) for column, matrix in columns.blocks(output, index)]
    right = (d - output.bias[index] + _row_error(condensed, index, d)) / unit
    unsafe = builder.add_rows(blocks, -np.inf, right, names)
    builder.set_cost(eps, [1.0])
    program = builder.build("distance")
    return Encoded(program, condensed, index, d, columns.x, columns.z, columns.a, unsafe, inside / unit, unit)


def add_network(
    builder: ProgramBuilder,
    condensed: Condensed,
    region: Region,
    lower: np.ndarray,
    upper: np.ndarray,
    encoding: ReLUEncoding | None,
) -> Columns:
    """Add the inputs between `lower` and `upper` and the unstable neurons, with the rows that tie them all together."""
    encoding = encoding or BigM()
    x = builder.add_columns([f"x{i}" for i in range(region.dimension)], lower, upper)
    columns = Columns(x, (), ())
    for k, affine in enumerate(condensed.net.layers, start=1):
        labels = tuple(f"{k}_{neuron}" for neuron in condensed.kept[k - 1])
        l, u = condensed.bounds.lower[k - 1], condensed.bounds.upper[k - 1]
        if labels:
            blocks, error = tuple(columns.blocks(affine)), condensed.errors[k - 1]
            z, a = encoding.add(builder, NeuronRows(labels, blocks, affine.bias, l, u, error))
        else:
            z = a = np.zeros(0, dtype=np.int32)
        columns = Columns(x, (*columns.z, z), (*columns.a, a))
    _add_region(builder, region, x)
    return columns


def at_points(condensed: Condensed, region: Region) -> tuple[Condensed, np.ndarray, np.ndarray]:
    """Bounds of the inputs' columns, where an interval of a box too narrow for solvers is its midpoint.

    The condensed network comes back with what that moves its layers and outputs by, at most, added to its errors.
    """
    narrow = (region.upper - region.lower <= NARROW) & (region.upper > region.lower) & region.is_box
    if not narrow.any():
        return condensed, region.lower, region.upper
    middle = np.clip(region.lower / 2 + region.upper / 2, region.lower, region.upper)
    moved = np.nextafter(np.maximum(middle - region.lower, region.upper - middle), np.inf) * narrow
    moved = moved * (1.0 + 2.0 * (len(moved) + 4) * UNIT)
    errors = []
    for error, part in zip(condensed.errors, (*condensed.net.layers, condensed.net.output), strict=True):
        errors.append(error + sum(op.magnitude().apply(moved) for source, op in part.blocks if source == 0))
    small = replace(condensed, errors=tuple(errors))
    return small, np.where(narrow, middle, region.lower), np.where(narrow, middle, region.upper)


def _add_region(builder: ProgramBuilder, region: Region, x: np.ndarray) -> None:
    """The rows of a region beyond its box: norm balls, linear cuts."""
    extra = region.linear_rows()
    if not extra.n_rows:
        return
    auxiliary = builder.add_columns(extra.aux_names, extra.aux_lower, extra.aux_upper)
    triplets = (extra.rows, extra.cols, extra.vals)
    builder.add_rows([(np.concatenate([x, auxiliary]), triplets)], extra.row_lower, extra.row_upper, extra.row_names)


def _row_error(condensed: Condensed, index: np.ndarray, d: np.ndarray) -> np.ndarray:
    """How far y_i - d_i can be from what the rows say, at most: condensing, and the rounding of right-hand sides."""
    return np.asarray(condensed.errors[-1][index] + 4.0 * UNIT * (np.abs(d) + np.abs(condensed.net.output.bias[index])))


def _set_row_cost(
    builder: ProgramBuilder,
    blocks: list[tuple[np.ndarray, np.ndarray]],
    offset: float,
    region: Region,
    condensed: Condensed,
) -> None:
    """One output as the objective; coefficients below a solver's notice go into the offset at their least."""
    indices = np.concatenate([columns for columns, _ in blocks]) if blocks else np.zeros(0, dtype=int)
    values = np.concatenate([matrix[0] for _, matrix in blocks]) if blocks else np.zeros(0)
    sources = [source for source, _ in condensed.net.output.blocks]
    low = [region.lower if source == 0 else np.zeros_like(condensed.bounds.upper[source - 1]) for source in sources]
    high = [region.upper if source == 0 else condensed.bounds.upper[source - 1] for source in sources]
    tiny = np.abs(values) < NEGLIGIBLE
    if tiny.any():
        ends = values[tiny] * np.concatenate(low)[tiny], values[tiny] * np.concatenate(high)[tiny]
        size = float(np.abs(ends).max(axis=0).sum())
        offset += float(np.minimum(*ends).sum()) - 2.0 * (len(values) + 4) * UNIT * size
    builder.set_cost(indices[~tiny], values[~tiny], offset)

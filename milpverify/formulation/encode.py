"""(Condensed network, region, rows) -> Program, and the map back from its columns to inputs and neurons.

Columns read x0, x1, ... (inputs), z2_17 and a2_17 (output and phase of neuron 17 of layer 2 in the original network),
slack or eps (what is minimised). One that ends in _scaled counts in a unit of its own; see `Frame`. On a grid, integer
columns k0, k1, ... stand for the inputs k0 / steps, k1 / steps, ...
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from milpverify.formulation.relu import BigM, NeuronRows, ReLUEncoding
from milpverify.network.condense import Condensed
from milpverify.network.graph import UNIT, Affine, Bounds, relu
from milpverify.network.operators import Dense
from milpverify.program.blocks import Triplets
from milpverify.program.program import Program, ProgramBuilder
from milpverify.spec.regions import Grid, Region

# Objective coefficients (next to a largest one of about 1) that a solver need not respect: HiGHS takes a reduced cost
# of 1e-7 on the wrong side for optimal, and hundreds of such inputs add up.
NEGLIGIBLE = 2e-7
FINE = 2.0**-6  # columns get a unit of their own where that is below this: ordinary programs keep theirs

LARGEST_SLACK = 1e15  # a row needs a finite side; this one never binds


@dataclass(frozen=True, eq=False)
class Frame:
    """What columns stand for: value = origin + unit * column.

    Solvers' tolerances are absolute. To HiGHS an interval of width 1e-6 is a point, whatever a weight of 1e6 makes of
    it, and a program that is feasible within it may pass for infeasible. So a narrow interval with large coefficients
    counts from its middle in a unit of its own: a power of 2, so that scaling is exact.

    The points of a grid count in steps, and are integers: the float unit 1 / steps is off by its rounding.

    Attributes:
        origin: Shape (n,); 0 where the unit is 1.
        unit: Shape (n,).
        lost: By how much a value can be off, shape (n,); 0 but on a grid.
        integer: Whether the columns are integers.
    """

    origin: np.ndarray
    unit: np.ndarray
    lost: np.ndarray | float = 0.0
    integer: bool = False

    @classmethod
    def of(cls, lower: np.ndarray, upper: np.ndarray, unit: np.ndarray) -> Frame:
        """Counted from the middle where the unit is not 1."""
        return cls(np.where(unit < 1.0, np.clip(lower / 2 + upper / 2, lower, upper), 0.0), unit)

    @classmethod
    def of_grid(cls, region: Region, grid: Grid) -> Frame:
        """Counted in the steps of a region's grid."""
        n, reach = region.dimension, np.maximum(np.abs(region.lower), np.abs(region.upper))
        return cls(np.zeros(n), np.full(n, 1.0 / grid.steps), 4.0 * UNIT * reach, True)

    def columns(self, values: np.ndarray) -> np.ndarray:
        """The columns that stand for some values. Floating."""
        columns = np.asarray((values - self.origin) / self.unit)
        return np.rint(columns) if self.integer else columns

    def values(self, columns: np.ndarray) -> np.ndarray:
        """What columns stand for. Floating."""
        return np.asarray(self.origin + self.unit * columns)

    def bounds(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the columns. Rounded outward; exact on a grid, for the bounds of its points."""
        if self.integer:
            return self.columns(lower), self.columns(upper)
        scaled = self.unit < 1.0
        low, high = self.columns(lower), self.columns(upper)
        return (
            np.where(scaled, np.nextafter(low, -np.inf), lower),
            np.where(scaled, np.nextafter(high, np.inf), upper),
        )

    def names(self, names: Sequence[str]) -> list[str]:
        """Names of the columns."""
        if self.integer:
            return [f"k{name.removeprefix('x')}" for name in names]
        return [f"{name}_scaled" if unit < 1.0 else name for name, unit in zip(names, self.unit, strict=True)]

    def then(self, other: Frame) -> Frame:
        """The frame of these columns and then of others."""
        lost = [np.broadcast_to(frame.lost, frame.unit.shape) for frame in (self, other)]
        origin, unit = np.concatenate([self.origin, other.origin]), np.concatenate([self.unit, other.unit])
        return Frame(origin, unit, np.concatenate(lost))

    def rows(
        self, matrix: tuple[np.ndarray, np.ndarray, np.ndarray], low: np.ndarray, high: np.ndarray
    ) -> tuple[Triplets, np.ndarray, np.ndarray]:
        """Rows over values, low <= A value <= high, as rows over the columns. Rounded outward.

        A row that meets a scaled column is divided by a power of 2 where its coefficients would all be small.

        Args:
            matrix: A as (rows, cols, values).
            low, high: Shape (m,).
        """
        rows, cols, values = matrix
        m = len(low)
        terms = values * self.origin[cols]
        shift, size = (np.bincount(rows, weights=part, minlength=m) for part in (terms, np.abs(terms)))
        count = np.bincount(rows, weights=self.unit[cols] < 1.0, minlength=m)
        lost = 2.0 * (count + 4) * UNIT
        off = np.bincount(rows, np.abs(values) * np.broadcast_to(self.lost, self.unit.shape)[cols], m) * (1.0 + lost)
        values = values * self.unit[cols]
        largest = np.zeros(m)
        np.maximum.at(largest, rows, np.abs(values))
        scale = np.where((count > 0) & (0.0 < largest) & (largest < 0.5), _power_below(largest), 1.0)
        low = np.where(count > 0, low - shift - lost * (size + np.abs(low)) - off, low) / scale
        high = np.where(count > 0, high - shift + lost * (size + np.abs(high)) + off, high) / scale
        return (rows, cols, values / scale[rows]), low, high


@dataclass(frozen=True, eq=False)
class Encoded:
    """A program about a network, and how to read its solutions.

    Attributes:
        program: Minimises; its optimum is a slack max_i (C_i y - d_i) or a distance.
        condensed: The network it is about, over the program's columns.
        rows: Which outputs of the condensed network it uses.
        d: Their right-hand sides, shape (len(rows),).
        x: Columns of the inputs.
        z, a: Columns of the neurons' outputs and phases, per layer.
        unsafe: Rows that hold the outputs inside the unsafe set; none where the slack is minimised.
        frame: What the columns of the inputs stand for.
        inside: How far inside a polished solution must lie, so that rounding cannot put it outside; as the rows count.
        unit: What the objective counts in, in units of y (a slack) or of x (a distance); a power of 2.
    """

    program: Program
    condensed: Condensed
    rows: np.ndarray
    d: np.ndarray
    x: np.ndarray
    z: tuple[np.ndarray, ...]
    a: tuple[np.ndarray, ...]
    unsafe: np.ndarray
    frame: Frame
    inside: float = 0.0
    unit: float = 1.0

    @property
    def reach(self) -> float:
        """The largest sum of sizes that a row or the objective can come to: what float64 loses is relative to it."""
        program = self.program
        size = np.maximum(np.abs(program.column_lower), np.abs(program.column_upper))
        size = np.where(np.isfinite(size), size, 0.0)  # the slack itself
        terms = np.abs(program.row_value) * size[program.row_index]
        sums = np.bincount(program.row_of_nonzero(), weights=terms, minlength=program.n_rows)
        objective = (np.abs(program.cost) @ size + abs(program.offset)) * self._step
        steps = size[self.x].max(initial=0.0) if self.frame.integer else 0.0  # integers are only so to a tolerance
        return float(max(sums.max(initial=0.0), objective, steps))

    @property
    def _step(self) -> float:
        """What the objective is multiplied by before its size is judged: on a grid it counts in a finer unit than y."""
        return self.unit if self.frame.integer else 1.0

    def scale(self, bounds: Bounds) -> float:
        """The largest size of an input, a neuron or a coefficient, at least 1: what a solver's tolerance grows with.

        Solvers' tolerances are absolute: one of 1e-7 in an input becomes 1e-7 times its coefficient in a neuron.

        Args:
            bounds: Of all neurons: those folded away count too.
        """
        program = self.program
        sides = (program.column_lower[self.x], program.column_upper[self.x])
        inputs = (self.frame.values(side) for side in sides)
        # A tolerance in steps of a grid is that much less in the input.
        columns = () if self.frame.integer else sides
        sizes = (program.row_value, program.cost * self._step, *columns, *inputs, *bounds.lower, *bounds.upper)
        return float(max(1.0, *(np.abs(part).max(initial=0.0) for part in sizes)))

    def input(self, solution: np.ndarray) -> np.ndarray:
        """The network input of a solution of the program, shape (n_inputs,)."""
        return self.frame.values(solution[self.x])

    def with_phases(self, solution: np.ndarray) -> Program:
        """The LP that keeps a solution's activation pattern, where every relu is on one of its sides, exactly."""
        row_upper = self.program.row_upper.copy()
        row_upper[self.unsafe] -= self.inside
        return replace(self._fixed(solution).relax(), row_upper=row_upper)

    def at_pattern_of(self, x: np.ndarray) -> Program:
        """The program on an input's activation pattern, without the unsafe set: the input itself is a point of it.

        The fixed phases stay integers, so that a solver treats it as it treats the whole program.
        """
        pattern = self._pattern(x)
        row_lower, row_upper = self.program.row_lower.copy(), self.program.row_upper.copy()
        row_lower[self.unsafe], row_upper[self.unsafe] = -LARGEST_SLACK, np.inf
        return replace(self._fixed(pattern), row_lower=row_lower, row_upper=row_upper)

    def with_phases_of(self, x: np.ndarray) -> Program:
        """`with_phases` of the solution that an input stands for, as far as its phases go."""
        return self.with_phases(self._pattern(x))

    def _pattern(self, x: np.ndarray) -> np.ndarray:
        """The phases of an input's activation pattern in their columns, all else 0."""
        pattern = np.zeros(self.program.n_columns)
        for zhat, phases in zip(self.condensed.net.activations(self.frame.columns(x))[0], self.a, strict=True):
            pattern[phases] = zhat > 0
        return pattern

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
        values[self.x] = self.frame.columns(x)
        hidden, outputs = self.condensed.net.activations(values[self.x])
        for zhat, z, a in zip(hidden, self.z, self.a, strict=True):
            values[z], values[a] = relu(zhat), zhat > 0
        if self.program.column_names[-1] == "slack":
            values[-1], told = (outputs[self.rows] - self.d).max() / self.unit, told + 1
        return values if told == self.program.n_columns else None

    def with_cut(self, normal: np.ndarray, right: float, name: str) -> Encoded:
        """The program with the row normal . x <= right. Rounded outward.

        Entries far below the largest are left out, and paid for at the far end of their columns.
        """
        none, index = np.zeros(len(normal), dtype=int), np.arange(len(normal))
        (_, _, values), _, high = self.frame.rows((none, index, normal), np.array([-np.inf]), np.array([right]))
        keep = np.abs(values) > 1e-9 * np.abs(values).max()
        lower, upper = self.program.column_lower[self.x], self.program.column_upper[self.x]
        lost = float((np.abs(values) * np.maximum(np.abs(lower), np.abs(upper)))[~keep].sum())
        high = high + lost * (1.0 + 2.0 * (len(normal) + 4) * UNIT)
        rows = [(self.x[keep], np.asarray(values)[keep][None, :])]
        return replace(self, program=self.program.with_rows(rows, -np.inf, high, [name]))


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


@dataclass(frozen=True, eq=False)
class Scaled:
    """A condensed network whose narrow inputs and neurons count in units of their own.

    Attributes:
        condensed: Over the inputs' columns; a neuron's z and zhat are divided by its unit.
        frame: Of the inputs.
        units: Of the neurons, per layer.
    """

    condensed: Condensed
    frame: Frame
    units: tuple[np.ndarray, ...]

    @classmethod
    def of(
        cls, condensed: Condensed, region: Region, rows: np.ndarray, unit: float = 1.0, *, alike: bool = False
    ) -> Scaled:
        """Choose the units, and count in them. Exact up to the rounding of biases, which the errors make up for.

        From the outputs down, a column's unit is what changes some row by about that row's unit, but no less than the
        column's width.

        Args:
            condensed: Its bounds hold in the region.
            region: Bounds the inputs.
            rows: The outputs that matter.
            unit: What they count in.
            alike: Whether all inputs get the finest unit of any.
        """
        parts = (*condensed.net.layers, condensed.net.output)
        blocks = [{source: np.abs(op.rows(np.arange(part.size))) for source, op in part.blocks} for part in parts]
        blocks[-1] = {source: matrix[rows] for source, matrix in blocks[-1].items()}
        widths = [region.upper - region.lower]
        widths += [u - l for l, u in zip(condensed.bounds.lower, condensed.bounds.upper, strict=True)]
        gains = [np.zeros(len(width)) for width in widths]
        units = [np.ones(len(width)) for width in widths]
        above = np.full(len(rows), unit)
        for k in range(len(parts) - 1, -1, -1):
            for source, matrix in blocks[k].items():
                gain = (matrix / above[:, None]).max(axis=0, initial=0.0)
                gains[source] = np.maximum(gains[source], gain)
            above = units[k] = own_unit(widths[k], gains[k])
        if alike and (widths[0] > 0).any():
            units[0] = np.where(widths[0] > 0, units[0].min(), 1.0)
        units = [np.where(u < FINE, u, 1.0) for u in units]
        frame = Frame.of(region.lower, region.upper, units[0])
        if region.grid is not None:
            frame = Frame.of_grid(region, region.grid)
            units[0] = frame.unit
        small = condensed if all((u == 1.0).all() for u in units) else _counted_in(condensed, frame, units)
        return cls(small, frame, tuple(units[1:]))


def own_unit(width: np.ndarray, gain: np.ndarray | float) -> np.ndarray:
    """The power of 2 at or below max(width, 1 / gain), at most 1; 1 where the width is 0."""
    with np.errstate(divide="ignore"):
        finest = np.minimum(np.maximum(width, 1.0 / np.asarray(gain, dtype=np.float64)), 1.0)
    return np.where(width > 0, _power_below(finest), 1.0)


def _power_below(size: np.ndarray) -> np.ndarray:
    return np.asarray(np.ldexp(1.0, np.frexp(size)[1] - 1))


def _counted_in(condensed: Condensed, frame: Frame, units: Sequence[np.ndarray]) -> Condensed:
    """The condensed network over a frame's columns, its neurons divided by their units."""
    parts, errors = [], []
    rows_count_in = (*units[1:], np.ones(condensed.net.n_outputs))
    for part, error, unit in zip((*condensed.net.layers, condensed.net.output), condensed.errors, rows_count_in,
                                 strict=True):  # fmt: skip
        bias, blocks = part.bias, []
        for source, op in part.blocks:
            matrix = op.rows(np.arange(part.size))
            if source == 0:
                size = np.abs(matrix) @ np.abs(frame.origin)
                lost = 2.0 * (len(frame.origin) + 4) * UNIT * (size + np.abs(bias))
                off = np.abs(matrix) @ np.broadcast_to(frame.lost, frame.unit.shape)
                error = error + np.where(size > 0, lost, 0.0) + off * (1.0 + 2.0 * (len(frame.origin) + 4) * UNIT)
                bias = bias + matrix @ frame.origin
            blocks.append((source, Dense(matrix * units[source] / unit[:, None])))
        parts.append(Affine(tuple(blocks), ((None, bias / unit),), part.size, part.name))
        errors.append(error / unit)
    bounds = condensed.bounds
    lower = tuple(l / unit for l, unit in zip(bounds.lower, units[1:], strict=True))
    upper = tuple(u / unit for u, unit in zip(bounds.upper, units[1:], strict=True))
    net = replace(condensed.net, layers=tuple(parts[:-1]), output=parts[-1])
    return replace(condensed, net=net, bounds=replace(bounds, lower=lower, upper=upper), errors=tuple(errors))


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
    scaled = Scaled.of(condensed, region, index, unit)
    small, output = scaled.condensed, scaled.condensed.net.output
    columns = add_network(builder, scaled, region, encoding)
    right = (output.bias[index] - d - row_error(small, index, d)) / unit
    if len(index) == 1:
        blocks = [(column, matrix / unit) for column, matrix in columns.blocks(output, index)]
        lower, upper = scaled.frame.bounds(region.lower, region.upper)
        _set_row_cost(builder, blocks, float(right[0]), small, lower, upper)
    else:
        slack = builder.add_columns(["slack"], -np.inf, np.inf)
        builder.add_rows(slack_rows(columns, output, index, slack, unit), right, np.inf, row_names(index))
        builder.set_cost(slack, [1.0])
    none = np.zeros(0, dtype=int)
    program = builder.build("slack")
    return Encoded(program, small, index, d, columns.x, columns.z, columns.a, none, scaled.frame, unit=unit)


def objective_unit(condensed: Condensed, rows: np.ndarray, grid: Grid | None = None) -> float:
    """A power of 2 that lifts the largest coefficient of some outputs to about 1 where all are small.

    With a grid it is finer by a step: the coefficients of columns that count steps are as much smaller. A solver's
    tolerances are absolute: 1e-7 is nothing next to a margin of 1, and everything next to one of 1e-6.
    """
    largest = max((float(np.abs(op.rows(rows)).max(initial=0.0)) for _, op in condensed.net.output.blocks), default=0.0)
    step = 1.0 if grid is None else 2.0 ** -math.ceil(math.log2(grid.steps))
    return step * (2.0 ** max(math.floor(math.log2(largest)), -300) if 0.0 < largest < 0.1 else 1.0)


def slack_rows(
    columns: Columns, output: Affine, index: np.ndarray, slack: np.ndarray, unit: float = 1.0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The left-hand sides of slack - W_i z / unit >= (b_i - d_i) / unit, one row per index."""
    minus = [(column, -matrix / unit) for column, matrix in columns.blocks(output, index)]
    return [(slack, np.ones((len(index), 1))), *minus]


def row_names(index: np.ndarray) -> list[str]:
    """Names of the rows that hold the slack above the unsafe set's rows."""
    return [f"row{i}" for i in range(len(index))]


def add_network(builder: ProgramBuilder, scaled: Scaled, region: Region, encoding: ReLUEncoding | None) -> Columns:
    """Add the inputs of a region and the unstable neurons, with the rows that tie them all together."""
    encoding, condensed, frame = encoding or BigM(), scaled.condensed, scaled.frame
    names = frame.names([f"x{i}" for i in range(region.dimension)])
    x = builder.add_columns(names, *frame.bounds(region.lower, region.upper), integer=frame.integer)
    columns = Columns(x, (), ())
    for k, affine in enumerate(condensed.net.layers, start=1):
        plain, units = [f"{k}_{neuron}" for neuron in condensed.kept[k - 1]], scaled.units[k - 1]
        labels = tuple(f"{label}_scaled" if u < 1.0 else label for label, u in zip(plain, units, strict=True))
        l, u = condensed.bounds.lower[k - 1], condensed.bounds.upper[k - 1]
        if labels:
            blocks, error = tuple(columns.blocks(affine)), condensed.errors[k - 1]
            z, a = encoding.add(builder, NeuronRows(labels, blocks, affine.bias, l, u, error))
        else:
            z = a = np.zeros(0, dtype=np.int32)
        columns = Columns(x, (*columns.z, z), (*columns.a, a))
    _add_region(builder, region, x, frame)
    return columns


def _add_region(builder: ProgramBuilder, region: Region, x: np.ndarray, frame: Frame) -> None:
    """The rows of a region beyond its box: norm balls, linear cuts."""
    extra = region.linear_rows()
    if not extra.n_rows:
        return
    low, high = np.asarray(extra.aux_lower), np.asarray(extra.aux_upper)
    own = helper_frame(frame, low, high)
    auxiliary = builder.add_columns(own.names(extra.aux_names), *own.bounds(low, high))
    matrix, lower, upper = frame.then(own).rows((extra.rows, extra.cols, extra.vals), extra.row_lower, extra.row_upper)
    builder.add_rows([(np.concatenate([x, auxiliary]), matrix)], lower, upper, extra.row_names)


def helper_frame(frame: Frame, lower: np.ndarray, upper: np.ndarray) -> Frame:
    """The frame of columns that measure inputs: as fine as the finest of those, but no finer than their own width."""
    finest = frame.unit.min(initial=1.0)
    unit = own_unit(upper - lower, 1.0 / finest)
    return Frame.of(lower, upper, np.where(unit < FINE, unit, 1.0) if finest < 1.0 else np.ones(len(lower)))


def row_error(condensed: Condensed, index: np.ndarray, d: np.ndarray) -> np.ndarray:
    """How far y_i - d_i can be from what the rows say, at most: condensing, and the rounding of right-hand sides."""
    return np.asarray(condensed.errors[-1][index] + 4.0 * UNIT * (np.abs(d) + np.abs(condensed.net.output.bias[index])))


def _set_row_cost(
    builder: ProgramBuilder,
    blocks: list[tuple[np.ndarray, np.ndarray]],
    offset: float,
    condensed: Condensed,
    lower: np.ndarray,
    upper: np.ndarray,
) -> None:
    """One output as the objective; coefficients below a solver's notice go into the offset at their least."""
    indices = np.concatenate([columns for columns, _ in blocks]) if blocks else np.zeros(0, dtype=int)
    values = np.concatenate([matrix[0] for _, matrix in blocks]) if blocks else np.zeros(0)
    sources = [source for source, _ in condensed.net.output.blocks]
    low = [lower if source == 0 else np.zeros_like(condensed.bounds.upper[source - 1]) for source in sources]
    high = [upper if source == 0 else condensed.bounds.upper[source - 1] for source in sources]
    tiny = np.abs(values) < NEGLIGIBLE
    if tiny.any():
        ends = values[tiny] * np.concatenate(low)[tiny], values[tiny] * np.concatenate(high)[tiny]
        size = float(np.abs(ends).max(axis=0).sum())
        offset += float(np.minimum(*ends).sum()) - 2.0 * (len(values) + 4) * UNIT * size
    builder.set_cost(indices[~tiny], values[~tiny], offset)

r"""The triangle relaxation as a linear program, and the multipliers nu that its row duals are.

For an unstable neuron, l < 0 < u, with its pre-activation as a column of its own:

    zhat - W t = b        z - zhat >= 0        z - u / (u - l) zhat <= -l u / (u - l)        0 <= z <= u

Minimising a row over these, the dual of the first row is the nu of `bounds.dual`, and g(nu) is the optimum. (Without
the column, nu is the dual of the second row plus u / (u - l) times that of the third: twice the coefficients, and 1.6
times the time on dense networks.)

Source: Ehlers 2017 (the triangle); Wong & Kolter 2018 (its dual); Salman et al. 2019 (no choice of nu does better).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from milpverify.errors import InputError, SolverError
from milpverify.program.highs import WarmLP
from milpverify.program.program import Program, ProgramBuilder
from milpverify.program.solver import Solution, Status
from milpverify.tighten.target import Target, left

DECIDED = 1e-6  # an optimum this far above zero, next to the row's largest coefficient, survives its rounding


@dataclass(frozen=True, eq=False)
class Side:
    """One LP: minimise sign times a row.

    Attributes:
        row: Which row.
        sign: 1.0, or -1.0 to maximise it.
    """

    row: int
    sign: float


@dataclass(frozen=True, eq=False)
class Found:
    """What one LP says. Floating: only g turns nu into a bound.

    Attributes:
        side: Of which one.
        nu: Of all neurons below, layer by layer, shape (n_below,); None if HiGHS had no answer.
    """

    side: Side
    nu: np.ndarray | None


Group = tuple[Side, ...]  # sides of one neuron: once one is decided, the next ones are of no interest


@dataclass(frozen=True, eq=False)
class TriangleProgram:
    """One LP for all rows of a target; only its costs change.

    Attributes:
        program: The LP, without costs.
        cost: The rows over its columns, shape (n_rows, n_columns), the largest coefficient of each about 1.
        offset: Their constants, in the same units.
        unit: The powers of 2 that cost and offset were divided by.
        affine: The LP's rows whose duals are nu, in the order of the neurons.
    """

    program: Program
    cost: np.ndarray
    offset: np.ndarray
    unit: np.ndarray
    affine: np.ndarray

    @classmethod
    def of(cls, target: Target) -> TriangleProgram:
        """The LP of a target.

        Raises:
            InputError, SolverError: If its numbers are none that a solver can work with.
        """
        program, sources, affine = _relaxation(target)
        cost = np.zeros((target.n_rows, program.n_columns))
        output = target.condensed.net.output
        for source, op in output.blocks:
            cost[:, sources[source]] = op.rows(np.arange(target.n_rows))
        largest = np.abs(cost).max(axis=1, initial=0.0)
        unit = 2.0 ** np.floor(np.log2(np.where(largest > 0, largest, 1.0)))
        return cls(program, cost / unit[:, None], output.bias / unit, unit, affine)

    def solve(self, groups: Sequence[Group], ends: float) -> Iterator[Found]:
        """Minimise side after side until a time on the clock of `time.monotonic`."""
        lp: WarmLP | None = None
        for group in groups:
            for side in group:
                if time.monotonic() >= ends:
                    return
                try:
                    lp = lp or WarmLP(self.program)
                    solution = self._run(lp, side, left(ends, time.monotonic()))
                except (InputError, SolverError):
                    lp = None  # nobody knows what state it is in
                    yield Found(side, None)
                    continue
                if solution.status in (Status.TIME_LIMIT, Status.INTERRUPTED):
                    return
                found = self._read(side, solution)
                yield found
                if found.nu is not None and (solution.objective or 0.0) > DECIDED:
                    break

    def _run(self, lp: WarmLP, side: Side, seconds: float) -> Solution:
        lp.change_cost(np.arange(self.program.n_columns), side.sign * self.cost[side.row])
        lp.change_offset(side.sign * float(self.offset[side.row]))
        return lp.run(seconds)

    def _read(self, side: Side, solution: Solution) -> Found:
        if solution.status is not Status.OPTIMAL or solution.row_dual is None:
            return Found(side, None)
        nu = solution.row_dual[self.affine] * self.unit[side.row]
        return Found(side, nu if np.isfinite(nu).all() else None)


def _relaxation(target: Target) -> tuple[Program, list[np.ndarray], np.ndarray]:
    """The LP, its columns per source (x, z_1, ...), and the rows whose duals are nu."""
    builder, region, below = ProgramBuilder(absorb_tiny=True), target.region, target.condensed
    sources = [np.asarray(builder.add_columns([f"x{i}" for i in range(region.dimension)], region.lower, region.upper))]
    affine: list[np.ndarray] = [np.zeros(0, dtype=np.int32)]
    for j, kept in enumerate(target.kept, start=1):
        layer, error = below.net.layers[j - 1], below.errors[j - 1]
        l, u = below.bounds.lower[j - 1], below.bounds.upper[j - 1]
        labels, unit, slope = [f"{j}_{i}" for i in kept], np.eye(len(kept)), u / (u - l)
        zhat = builder.add_columns([f"zhat{label}" for label in labels], l, u)
        z = builder.add_columns([f"z{label}" for label in labels], 0.0, u)
        every = np.arange(len(kept))
        terms = [(sources[source], -op.rows(every)) for source, op in layer.blocks]
        names = [f"affine{label}" for label in labels]
        affine.append(builder.add_rows([(zhat, unit), *terms], layer.bias - error, layer.bias + error, names))
        builder.add_rows([(z, unit), (zhat, -unit)], 0.0, np.inf, [f"above{label}" for label in labels])
        names = [f"below{label}" for label in labels]
        builder.add_rows([(z, unit), (zhat, -unit * slope)], -np.inf, -slope * l, names)
        sources.append(z)
    extra = region.linear_rows()
    if extra.n_rows:
        auxiliary = builder.add_columns(extra.aux_names, extra.aux_lower, extra.aux_upper)
        matrix = (np.concatenate([sources[0], auxiliary]), (extra.rows, extra.cols, extra.vals))
        builder.add_rows([matrix], extra.row_lower, extra.row_upper, extra.row_names)
    return builder.build("triangle"), sources, np.concatenate(affine)

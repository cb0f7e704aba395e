"""The triangle relaxation with some neurons exact: a linear program with one binary for each of them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from milpverify.bounds.backward import Crown
from milpverify.bounds.dual import DualBound
from milpverify.bounds.method import BoundMethod
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.small import folded_rows
from milpverify.errors import OptionError
from milpverify.formulation.encode import Encoded, encode_slack, objective_unit
from milpverify.formulation.trust import LARGEST_REACH, admits_a_known_point
from milpverify.network.graph import Bounds
from milpverify.program.highs import Highs
from milpverify.program.solver import Limits, Solver, Status
from milpverify.spec.regions import L2Ball
from milpverify.tighten.lp import TriangleLP
from milpverify.tighten.target import Target, check_limits, left, one_region, tell

Neuron = tuple[int, int]  # hidden layer from 1, index in that layer


@dataclass(frozen=True, eq=False)
class Minimum:
    """The least value of a row over a relaxation.

    Attributes:
        value: A lower bound of it, on the solver's word less its tolerance; -infinity where there is none.
        outputs: All outputs of the target at the best point of the relaxation; None where the solver found none.
    """

    value: float
    outputs: np.ndarray | None


@dataclass(frozen=True)
class ExactNeurons(BoundMethod):
    """The triangle relaxation, less the slack of some neurons, which are exact: "what if we branched on these?".

    Rows of outputs are minimised; hidden neurons are bounded by CROWN, whose bounds the program stands on. With every
    unstable neuron listed it is the exact program. Solver-trusted: a bound counts less `tolerance`, times the largest
    bound or coefficient where that exceeds 1, but no less than the LP's. As with `MILPTightening`, programs whose sums
    reach beyond 1e7 are not believed, nor one in which the solver finds no point on the pattern of a known input.

    Attributes:
        neurons: (hidden layer from 1, index) of the neurons made exact; stable ones among them change nothing.
        time_limit_s_per_row: Wall time for each row.
        tolerance: How far a solver's bound may be off.
        gap: Programs are closed to this difference.
        solver: Who solves them.

    Raises:
        OptionError: If an option makes no sense.

    Source:
        Tjeng, Xiao & Tedrake 2019, section 4.1, relaxed but for the listed binaries; Ehlers 2017 (the relaxation).
    """

    neurons: tuple[Neuron, ...] = ()
    time_limit_s_per_row: float = math.inf
    tolerance: float = 1e-5
    gap: float = 1e-6
    solver: Solver = field(default_factory=Highs)
    name: ClassVar[str] = "exact neurons"
    solver_trusted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_limits("ExactNeurons", time_limit_s_per_row=self.time_limit_s_per_row)
        for name in ("tolerance", "gap"):
            if not 0 < getattr(self, name) < math.inf:
                raise OptionError(f"ExactNeurons: {name} must be positive and finite, got {getattr(self, name)}.")
        object.__setattr__(self, "neurons", tuple((int(layer), int(index)) for layer, index in self.neurons))

    def layer(self, problem: DualProblem, k: int) -> tuple[np.ndarray, np.ndarray]:
        return Crown().layer(problem, k)

    def refine(self, problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return Crown().refine(problem, k, l, u)

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        relaxed = TriangleLP().rows(problem, rows)
        value = np.array([found.value for found in self.minima(problem, rows)])
        return DualBound(np.maximum(relaxed.value, value), relaxed.input_lam, solver_trusted=True)

    def minima(self, problem: DualProblem, rows: np.ndarray, others: np.ndarray | None = None) -> list[Minimum]:
        """The least value of every row, and further rows at the points that attain them.

        Args:
            problem: With every hidden layer bounded.
            rows: Shape (m, n_outputs).
            others: Shape (m', n_outputs); each `Minimum.outputs` holds the m rows and then these.

        Raises:
            BoundsError: If the problem is a batch.
            OptionError: If the region is an L2 ball, or the network has no such neuron.
            SolverError: If a solver fails.
        """
        region, k = one_region("ExactNeurons", problem), len(problem.layers)
        if isinstance(region, L2Ball):
            raise OptionError("ExactNeurons: an L2 ball is no linear program. Give the box or the L1 ball around it.")
        for layer, index in self.neurons:
            if not (1 <= layer < k and 0 <= index < problem.affine(layer).size):
                raise OptionError(
                    f"ExactNeurons: neuron ({layer}, {index}) came; the network has hidden layers 1..{k - 1} of "
                    f"{[problem.affine(j).size for j in range(1, k)]} neurons. Give (layer, index)."
                )
        every = rows if others is None else np.concatenate([rows, others])
        target = Target.of(problem, k, folded_rows(problem, k, every), region)
        bounds = Bounds(problem.lower, problem.upper)
        return [self._minimum(target, bounds, i) for i in range(len(rows))]

    def _minimum(self, target: Target, bounds: Bounds, row: int) -> Minimum:
        """One row's; nothing where the solver's word is not believed."""
        index, nothing = np.array([row]), Minimum(-math.inf, None)
        ends = time.monotonic() + self.time_limit_s_per_row
        unit = objective_unit(target.condensed, index)
        encoded = encode_slack(target.condensed, target.region, index, np.zeros(1), unit=unit)
        if encoded.reach > LARGEST_REACH:
            tell("ExactNeurons", f"row {row}", [f"a program with sums beyond {LARGEST_REACH:g} is not believed"])
            return nothing
        encoded = replace(encoded, program=replace(encoded.program, integer=_chosen(encoded, self.neurons)))
        solver = self.solver
        if isinstance(solver, Highs):
            solver = replace(solver, mip_gap_abs=self.gap / encoded.unit / 2, mip_gap_rel=0.0)
        solution = solver.solve(encoded.program, Limits(left(ends, time.monotonic())))
        left_s = left(ends, time.monotonic())
        # The region has points, so that no row is without values.
        if solution.status is Status.INFEASIBLE or not admits_a_known_point(encoded, target.region, solver, left_s):
            tell("ExactNeurons", f"row {row}", ["the solver finds no point where there is one: it is not believed"])
            return nothing
        value = solution.dual_bound * encoded.unit - self.tolerance * encoded.scale(bounds)
        return Minimum(value, None if solution.x is None else _outputs(encoded, solution.x))


def _chosen(encoded: Encoded, neurons: Sequence[Neuron]) -> np.ndarray:
    """Which columns are integers: the phases of the chosen neurons, shape (n_columns,)."""
    integer = np.zeros(encoded.program.n_columns, dtype=bool)
    for layer, (kept, phases) in enumerate(zip(encoded.condensed.kept, encoded.a, strict=True), start=1):
        wanted = [index for chosen, index in neurons if chosen == layer]
        integer[phases[np.isin(kept, wanted)]] = True
    return integer


def _outputs(encoded: Encoded, solution: np.ndarray) -> np.ndarray:
    """All outputs of the condensed network at a point of the relaxation. Floating."""
    values = [solution[encoded.x], *(solution[z] for z in encoded.z)]
    return np.asarray(encoded.condensed.net.output.apply(values))

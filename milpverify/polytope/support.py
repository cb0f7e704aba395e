"""Support functions of sets of outputs in a plane: one direction after the other, or many at once."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from milpverify.bounds.backward import Crown, FastLin
from milpverify.bounds.dual import fixed
from milpverify.bounds.method import BoundMethod
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.small import folded_rows
from milpverify.errors import InputError, SolverError
from milpverify.network.graph import Bounds, Network
from milpverify.polytope.exact_neurons import ExactNeurons
from milpverify.program.highs import WarmLP
from milpverify.program.solver import Status
from milpverify.proof.evidence import Grade
from milpverify.spec.property import Case, Polyhedron
from milpverify.spec.regions import L2Ball, Region
from milpverify.tasks.margin import Minimiser, least_slack
from milpverify.tasks.prepare import Prepared
from milpverify.tasks.progress import Clock
from milpverify.tighten.lp import TriangleLP
from milpverify.tighten.target import Target, left
from milpverify.tighten.triangle import TriangleProgram


@dataclass(frozen=True, eq=False)
class Answer:
    """What is known of some directions.

    Attributes:
        offsets: h >= max d . p over the exact set, shape (m,). Rounded for the floats that d P is as a row of outputs.
        points: Points of the method's own set, shape (m, 2); NaN where a solver had none; None for other methods.
        solver_trusted: Whether some offset rests on a solver's word.
    """

    offsets: np.ndarray
    points: np.ndarray | None = None
    solver_trusted: bool = False


@dataclass(frozen=True, eq=False)
class Plane:
    """A network over a region with bounded hidden neurons, and two functionals P of its outputs.

    Attributes:
        net, region, bounds: As of `bound_rows`.
        rows: P, shape (2, n_outputs).
    """

    net: Network
    region: Region
    bounds: Bounds
    rows: np.ndarray

    @property
    def problem(self) -> DualProblem:
        """The same for the dual function."""
        return DualProblem.of(self.net, self.region, self.bounds)


class SupportFunction(ABC):
    """A method's h, as directions are asked for."""

    @abstractmethod
    def ask(self, directions: np.ndarray) -> Answer:
        """h for unit vectors of the plane, shape (m, 2)."""


class RowSupport(SupportFunction):
    """Any bound method: every direction is a row of outputs, all of them one batch. Rounded."""

    def __init__(self, plane: Plane, method: BoundMethod) -> None:
        self._plane, self._method, self._problem = plane, method, plane.problem

    def ask(self, directions: np.ndarray) -> Answer:
        found = self._method.rows(self._problem, -directions @ self._plane.rows)
        return Answer(-found.value, None, found.solver_trusted)


class TriangleSupport(SupportFunction):
    """The triangle LP, warm started: its points, and the bounds that g makes of its multipliers. Rounded.

    CROWN's and Fast-Lin's choices of multipliers over the same hidden bounds are tried too: where the LP's are off by
    the solver's tolerance, one of them can be the better.
    """

    def __init__(self, plane: Plane, method: TriangleLP) -> None:
        self._plane, self._problem, self._limit_s = plane, plane.problem, method.time_limit_s
        k = len(self._problem.layers)
        self._target = Target.of(self._problem, k, folded_rows(self._problem, k, plane.rows), plane.region)
        self._triangle = TriangleProgram.of(self._target)
        self._lp = WarmLP(self._triangle.program)

    def ask(self, directions: np.ndarray) -> Answer:
        rows = -directions @ self._plane.rows
        best = np.maximum(*(method.rows(self._problem, rows).value for method in (Crown(), FastLin())))
        ends = time.monotonic() + self._limit_s
        found = [self._minimise(-direction, left(ends, time.monotonic())) for direction in directions]
        if self._target.n_below:
            parts = pairwise(np.cumsum([0, *map(len, self._target.kept)]))
            nu = np.stack([part for _, part in found])
            proved = self._target.bound(-directions, fixed([nu[:, a:b] for a, b in parts])).value
            best = np.maximum(best, proved)
        return Answer(-best, np.stack([point for point, _ in found]))

    def _minimise(self, combination: np.ndarray, left_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Where the LP makes a combination of the plane's rows least, and its multipliers; NaN and 0 without answer."""
        triangle = self._triangle
        weights = combination * triangle.unit
        cost, offset = weights @ triangle.cost, float(weights @ triangle.offset)
        largest = float(np.abs(cost).max(initial=0.0))
        unit = 2.0 ** math.floor(math.log2(largest)) if largest > 0 else 1.0
        none = np.full(2, np.nan), np.zeros(len(triangle.affine))
        try:
            self._lp.change_cost(np.arange(len(cost)), cost / unit)
            self._lp.change_offset(offset / unit)
            solution = self._lp.run(left_s)
        except SolverError:
            self._lp = WarmLP(triangle.program)  # nobody knows what state the old one is in
            return none
        if solution.status is not Status.OPTIMAL or solution.x is None or solution.row_dual is None:
            return none
        nu = solution.row_dual[triangle.affine] * unit
        return triangle.unit * (triangle.cost @ solution.x + triangle.offset), nu if np.isfinite(nu).all() else none[1]


class ExactNeuronsSupport(SupportFunction):
    """The triangle LP with some neurons exact. On a solver's word."""

    def __init__(self, plane: Plane, method: ExactNeurons) -> None:
        self._plane, self._method, self._problem = plane, method, plane.problem

    def ask(self, directions: np.ndarray) -> Answer:
        rows = -directions @ self._plane.rows
        relaxed = TriangleLP().rows(self._problem, rows).value
        found = self._method.minima(self._problem, rows, self._plane.rows)
        value = np.array([minimum.value for minimum in found])
        missing = np.full(2, np.nan)
        points = [missing if minimum.outputs is None else minimum.outputs[-2:] for minimum in found]
        return Answer(-np.maximum(relaxed, value), np.stack(points), True)


class ExactSupport(SupportFunction):
    """The exact set: a least slack for every direction, whose witness is a point of it, as a float64 output.

    Attributes:
        clock: Ends the searches: what it does not reach stays a bracket, and the outline's polygons stay apart there.
    """

    def __init__(self, plane: Plane, method: Minimiser, clock: Clock) -> None:
        self._plane, self._method, self._problem, self.clock = plane, method, plane.problem, clock

    def ask(self, directions: np.ndarray) -> Answer:
        plane, rows = self._plane, -directions @ self._plane.rows
        crown = Crown().rows(self._problem, rows)
        starts = np.asarray(plane.region.minimiser(crown.input_lam))
        offsets, points, trusted = -crown.value, np.full((len(rows), 2), np.nan), plane.bounds.solver_trusted
        for i, row in enumerate(rows):
            case = Case(plane.region, Polyhedron(row[None], np.zeros(1)), f"direction {i}")
            prepared = Prepared(plane.net, (case,), plane.bounds, crown.value[i : i + 1], starts[i : i + 1])
            # Half of what is left is for the directions that follow from these.
            share = None if math.isinf(self.clock.left) else max(self.clock.left / (2 * (len(rows) - i)), 1e-3)
            bracket = least_slack([prepared], Clock("outline", share), self._method).bracket
            offsets[i] = min(offsets[i], -bracket.lower)
            trusted |= bracket.lower_grade is Grade.SOLVER_TRUSTED
            if bracket.witness is not None:
                points[i] = plane.rows @ bracket.witness.y
        return Answer(offsets, points, trusted)


def support_of(plane: Plane, method: BoundMethod | Minimiser, clock: Clock) -> SupportFunction:
    """The support function of a method; the clock is for exact ones."""
    if isinstance(method, Minimiser):
        return ExactSupport(plane, method, clock)
    if isinstance(method, ExactNeurons):
        return ExactNeuronsSupport(plane, method)
    if isinstance(method, TriangleLP) and not isinstance(plane.region, L2Ball):
        try:
            return TriangleSupport(plane, method)
        except (InputError, SolverError):
            pass  # the numbers are none for an LP: the method does without, and says so
    return RowSupport(plane, method)

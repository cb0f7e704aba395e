"""Node LPs: the triangle relaxation with ideal cuts at a node of a search, warm-started from the last one.

HiGHS only chooses multipliers: every bound is g's, of the node's own bounds (`node_claim`). Cuts are slopes, valid at
every node with a right-hand side of its own, so all nodes share them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from milpverify.bounds.problem import DualProblem
from milpverify.errors import InputError, SolverError
from milpverify.network.graph import relu
from milpverify.program.solver import Solution, Status
from milpverify.search.cut_pool import CutPool
from milpverify.search.node_claim import Claim, Duals, at_node, claim, evaluate
from milpverify.search.node_program import NodeProgram, NodeState
from milpverify.spec.regions import L2Ball, Region

LOST = 1e-6  # what a claim with kappa may fall short of the LP's optimum before one without is tried


@dataclass(frozen=True)
class CutRounds:
    """How ideal inequalities are separated.

    Attributes:
        root: Rounds at the first LP.
        node: Rounds at later ones; cuts of earlier nodes stay in the LP.
        stall: Stop once a round gains less than that share of what is missing to the cut-off, or of the optimum's
            size where there is none.
        violation: Least violation of a row, in units of its neuron's upper bound.
        most: Rows kept; beyond it, those that have not bound for the longest time go.
        layers: Only the first so many layers; all when None.
    """

    root: int = 30
    node: int = 2
    stall: float = 0.002
    violation: float = 1e-3
    most: int = 2000
    layers: int | None = None


@dataclass(frozen=True, eq=False)
class NodeLpResult:
    """What the LP says about a node.

    Attributes:
        value: Lower bound of max_i (y_i - d_i) over the node, in units of y; infinite if the node is proven empty, and
            -infinite if HiGHS had no answer. Rounded.
        infeasible: Whether that emptiness is proven.
        optimum: The LP's. Floating; infinite if HiGHS finds it infeasible, NaN without an answer.
        x: An input of the region near the LP's solution; None without one.
        zhat, z: The solution's, per layer, shape (n_j,); empty without one.
        mu: On all rows, shape (n_rows,); 0 for a node that is proven empty.
        nu: Per layer, shape (n_j,): multipliers that prove a bound without kappa, nearly as good as those without cuts
            can be; they prove `value` where `claim.kappa` is empty.
        claim: The multipliers that prove `value`.
        rounds, cuts: Rounds of separation taken, and rows in the LP.
        seconds: Wall time.
    """

    value: float
    infeasible: bool
    optimum: float
    x: np.ndarray | None
    zhat: tuple[np.ndarray, ...]
    z: tuple[np.ndarray, ...]
    mu: np.ndarray
    nu: tuple[np.ndarray, ...]
    claim: Claim | None
    rounds: int = 0
    cuts: int = 0
    seconds: float = 0.0

    @property
    def gaps(self) -> tuple[np.ndarray, ...]:
        """Per neuron z - relu(zhat) at the LP's solution: 0 where splitting it gains nothing at once."""
        return tuple(z - relu(zhat) for z, zhat in zip(self.z, self.zhat, strict=True))


class NodeLp:
    """The LPs of one condensed problem.

    Args:
        problem: Condensed (`bounds.small.small_problem`), numpy; its last layer holds the rows of all cases.
        cuts: How to separate; None for the triangle relaxation alone. May be replaced between solves.

    Raises:
        InputError: If the region is no polyhedron (an L2 ball), or a number is none that a solver can work with.
        SolverError: If HiGHS refuses the program.
    """

    def __init__(self, problem: DualProblem, cuts: CutRounds | None = None) -> None:
        self.problem, self.cuts = problem, cuts
        self._parts = NodeProgram.of(problem)
        self._neurons = tuple(self._parts.neurons(j) for j in range(1, len(problem.layers)))
        self._pool = CutPool(self._parts, self._neurons)
        self._state = NodeState.at_root(self._parts, problem)
        self._fresh = True

    @staticmethod
    def fits(region: object) -> bool:
        """Whether a region has node LPs."""
        return isinstance(region, Region) and not isinstance(region, L2Ball)

    @property
    def n_cuts(self) -> int:
        """Cut rows in the LP."""
        return len(self._pool)

    def solve(
        self,
        l: Sequence[np.ndarray],
        u: Sequence[np.ndarray],
        rows: np.ndarray,
        d: np.ndarray,
        cutoff: float = math.inf,
        time_limit_s: float = math.inf,
    ) -> NodeLpResult:
        """Minimise max_i (y_i - d_i) over a node.

        Args:
            l, u: Proven bounds of the node, per layer; a neuron split active has l = 0, one split inactive u = 0.
            rows: The case's rows among the problem's, shape (m,), at least one.
            d: Their right-hand sides, shape (m,).
            cutoff: A bound above it needs no cuts.
            time_limit_s: Wall time for all rounds together.
        """
        began = time.monotonic()
        ends = began + time_limit_s
        node = at_node(self.problem, l, u)
        every = np.zeros(len(self._parts.bias[-1]))
        every[rows] = d
        if any((low > high).any() for low, high in zip(l, u, strict=True)):
            return self._empty(every, time.monotonic() - began)
        try:
            solution, rounds = self._run(node, rows, d, cutoff, ends)
        except (InputError, SolverError):
            self._restart()  # nobody knows what state it is in
            return self._nothing(every, time.monotonic() - began)
        return self._read(node, rows, every, solution, rounds, time.monotonic() - began)

    def _run(
        self, node: DualProblem, rows: np.ndarray, d: np.ndarray, cutoff: float, ends: float
    ) -> tuple[Solution, int]:
        state, unit = self._state, self._parts.unit
        state.place(node.lower, node.upper)
        state.aim(rows, d)
        self._pool.place(state.lp, node)
        solution = self._minimise(ends)
        last, rounds = solution, 0
        allowed = 0 if self.cuts is None else self.cuts.root if self._fresh else self.cuts.node
        while self.cuts is not None and rounds < allowed and last.status is Status.OPTIMAL:
            optimum = (last.objective or 0.0) * unit
            if last.x is None or optimum > cutoff or time.monotonic() >= ends:
                break
            if not self._pool.separate(state.lp, node, last.x, self.cuts.violation, self.cuts.layers):
                break
            last, rounds = self._minimise(ends), rounds + 1
            if last.status not in (Status.OPTIMAL, Status.INFEASIBLE):
                break
            solution = last
            gain = (last.objective or 0.0) * unit - optimum
            missing = cutoff - optimum if math.isfinite(cutoff) else 1.0 + abs(optimum)
            if last.status is Status.INFEASIBLE or gain < self.cuts.stall * missing:
                break
        self._fresh = self._fresh and rounds == 0
        return solution, rounds

    def _minimise(self, ends: float) -> Solution:
        left = math.inf if math.isinf(ends) else max(0.0, ends - time.monotonic())
        return self._state.lp.run(left)

    def _read(
        self, node: DualProblem, rows: np.ndarray, d: np.ndarray, solution: Solution, rounds: int, seconds: float
    ) -> NodeLpResult:
        y = solution.row_dual if solution.status is Status.OPTIMAL else solution.ray
        if y is None or not np.isfinite(y).all():
            return self._nothing(d, seconds)
        y = np.pad(y, (0, self._state.lp.n_rows - len(y)))  # rows that came after the last optimum have no duals
        infeasible = solution.status is Status.INFEASIBLE
        duals = self._duals(y, rows, infeasible)
        found = claim(node, self._neurons, self._parts.W, duals, d)
        plain = self._plain(node, duals)
        best = 0.0 if infeasible else (solution.objective or 0.0) * self._parts.unit
        if found.kappa and found.value < best - LOST * (1.0 + abs(best)):
            other = evaluate(node, found.mu, plain, (), d)
            found = replace(other, lam=found.lam) if other.value > found.value else found
        nu = tuple(part[0] for part in plain)
        n_cuts = len(self._pool)
        if self.cuts is not None:
            self._pool.retire(self._state.lp, y, self.cuts.most)
        if infeasible:
            value = math.inf if found.value > 0 else -math.inf
            return NodeLpResult(value, found.value > 0, math.inf, None, (), (), found.mu, nu, found, rounds, n_cuts,
                                seconds)  # fmt: skip
        x, zhat, z = self._point(solution)
        optimum = (solution.objective or 0.0) * self._parts.unit
        return NodeLpResult(found.value, False, optimum, x, zhat, z, found.mu, nu, found, rounds, n_cuts, seconds)

    def _duals(self, y: np.ndarray, rows: np.ndarray, infeasible: bool) -> Duals:
        """The LP's duals, or its ray brought to a size of about 1, as multipliers of the problem."""
        parts = self._parts
        mu = np.zeros(len(parts.outputs))
        if infeasible:
            scale = 1.0 / max(float(np.abs(y).max(initial=0.0)), 1e-300)
        else:
            mu[rows] = np.maximum(y[parts.outputs[rows]], 0.0)
            total = float(mu.sum())  # 1, but for the solver's tolerance
            if not total > 0.5:
                mu[rows], total = 1.0, float(len(rows))
            mu, scale = mu / total, parts.unit / total  # the rows count in `unit`, and nu in units of y
        nu = tuple(y[layer.affine] * scale for layer in parts.layers)
        return Duals(mu, nu, self._pool.duals(y, scale))

    def _plain(self, node: DualProblem, duals: Duals) -> tuple[np.ndarray, ...]:
        """nu with each cut replaced by the triangle's upper side."""
        nu = []
        for part, cuts, l, u in zip(duals.nu, duals.cuts, node.lower, node.upper, strict=True):
            scalar = part.copy()
            if cuts is not None and len(cuts.neurons):
                low, high = np.minimum(l[cuts.neurons], 0.0), np.maximum(u[cuts.neurons], 0.0)
                width = high - low
                scalar[cuts.neurons] += cuts.weight * high / np.where(width > 0, width, 1.0)
            nu.append(scalar[None, :])
        return tuple(nu)

    def _point(self, solution: Solution) -> tuple[np.ndarray, tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        assert solution.x is not None and isinstance(self.problem.region, Region)
        values, parts = solution.x, self._parts
        x = self.problem.region.project(values[parts.sources[: parts.ends[0]]])
        zhat = tuple(values[layer.zhat] for layer in parts.layers)
        return x, zhat, tuple(values[layer.z] for layer in parts.layers)

    def _empty(self, d: np.ndarray, seconds: float) -> NodeLpResult:
        """Bounds that cross prove a node empty by themselves."""
        nu = tuple(np.zeros(len(l)) for l in self.problem.lower)
        return NodeLpResult(math.inf, True, math.inf, None, (), (), np.zeros(len(d)), nu, None, seconds=seconds)

    def _nothing(self, d: np.ndarray, seconds: float) -> NodeLpResult:
        nu = tuple(np.zeros(len(l)) for l in self.problem.lower)
        return NodeLpResult(-math.inf, False, math.nan, None, (), (), np.zeros(len(d)), nu, None, seconds=seconds)

    def _restart(self) -> None:
        self._pool = CutPool(self._parts, self._neurons)
        self._state = NodeState.at_root(self._parts, self.problem)
        self._fresh = True

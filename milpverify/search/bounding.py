"""Two ways to bound the nodes of a tree over ReLU phases, and the rule that chooses between them.

Dual ascent takes many nodes at once, cheaply; an LP with ideal cuts takes one at a time and is much tighter where
neurons see few inputs. A tree that closes a gap G by gains of g a level has about 2^(G / g) nodes, so what counts is

    log2(seconds a node) + G / g

as measured on the tree itself.

Source: Le Bodic & Nemhauser 2017 (the size of an abstract branch-and-bound tree).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import numpy as np

from milpverify.bounds.nodes import NodeProblem
from milpverify.errors import InputError, SolverError
from milpverify.search.branching import choose, relaxation_cost
from milpverify.search.domain import Nodes
from milpverify.search.node_lp import CutRounds, NodeLp
from milpverify.search.question import Question

TRIAL_NODES = 4  # bounded in a way before it is judged
AGAIN = 20.0  # times as long as a trial takes goes by before the other way is tried again
LP_S = 2.0  # of one LP at most
LEAST_TRIAL_S = 0.05


@dataclass(eq=False)
class Record:
    """What a way of bounding has done lately: nodes, seconds, and what the bound gained from parent to child."""

    nodes: float = 0.0
    seconds: float = 0.0
    gain: float = 0.0

    def add(self, nodes: int, seconds: float, gain: float) -> None:
        """Remember, and let what is long past fade."""
        fade = 1.0 if self.nodes < 64 else 0.9
        self.nodes, self.seconds = fade * self.nodes + nodes, fade * self.seconds + seconds
        self.gain = fade * self.gain + gain

    def cost(self, missing: float) -> float:
        """The logarithm of the seconds it would take to gain what is missing."""
        if not self.gain > 0:
            return math.inf
        return math.log2(max(self.seconds / self.nodes, 1e-9)) + missing * self.nodes / self.gain


@dataclass(frozen=True)
class Ascending:
    """Bound nodes by dual ascent, many at once.

    Attributes:
        batch: Nodes split at once.
        steps: Of the ascent on each node, from its parent's multipliers.
        rate: Step size of the ascent.
        candidates: Neurons of a node whose children are looked at before one is split.
    """

    batch: int = 64
    steps: int = 8
    rate: float = 0.25
    candidates: int = 6

    def neurons(self, problem: NodeProblem, nodes: Nodes) -> np.ndarray:
        """Where to split."""
        return choose(problem, nodes, self.candidates)

    def bound(self, problem: NodeProblem, nodes: Nodes, steps: int | None = None) -> tuple[Nodes, np.ndarray]:
        """The nodes with their bounds, and a point of the region for each."""
        found = problem.ascend(nodes.l, nodes.u, nodes.multipliers, self.steps if steps is None else steps, self.rate)
        value = problem.claim(nodes.l, nodes.u, found.multipliers)
        alpha, beta, theta, mu = found.multipliers.parts
        score = relaxation_cost(nodes.l, nodes.u, found.lam).astype(nodes.score.dtype)
        lower = np.maximum(nodes.lower, value)
        return replace(nodes, alpha=alpha, beta=beta, theta=theta, mu=mu, score=score, lower=lower), found.x


@dataclass(frozen=True)
class Programs:
    """Bound nodes by LPs, warm-started, one at a time.

    Attributes:
        cuts: Which ideal single-neuron inequalities are added; None for the triangle relaxation alone.
    """

    cuts: CutRounds | None = field(default_factory=lambda: CutRounds(node=1))

    def started(self, problem: NodeProblem) -> RunningPrograms | None:
        """The LPs of a problem; None where its region or its numbers are not for one."""
        if not NodeLp.fits(problem.problem.region) or not problem.n_neurons:
            return None
        try:
            return RunningPrograms(problem, self.cuts)
        except (InputError, SolverError):
            return None


class RunningPrograms:
    """The LPs of one problem, warm-started from each other."""

    def __init__(self, problem: NodeProblem, cuts: CutRounds | None) -> None:
        self._problem = problem
        self._lp = NodeLp(problem.problem, cuts)

    def bound(self, question: Question, rows_of: np.ndarray, nodes: Nodes) -> tuple[Nodes, np.ndarray, np.ndarray]:
        """The nodes with their bounds, the LPs' points, and which nodes have one."""
        problem = self._problem
        lower, score = nodes.lower.copy(), nodes.score.copy()
        x, has = np.zeros((len(nodes), problem.n_inputs)), np.zeros(len(nodes), dtype=bool)
        spans = [problem.span(j) for j in range(1, problem.n_hidden + 1)]
        for b in range(len(nodes)):
            rows = np.flatnonzero(rows_of[nodes.case[b]])
            l, u = ([side[b, span] for span in spans] for side in (nodes.l, nodes.u))
            limit = min(LP_S, max(question.left_s, 1e-3))
            result = self._lp.solve(l, u, rows, problem.d[rows], question.cutoff + question.spare, limit)
            lower[b] = max(lower[b], result.value)
            if result.claim is not None and result.z:
                gaps, lam = np.concatenate(result.gaps), np.concatenate(result.claim.lam)
                score[b] = np.maximum(gaps, 0.0) * np.abs(np.minimum(lam, 0.0))
            if result.x is not None:
                x[b], has[b] = result.x, True
        return replace(nodes, lower=lower, score=score), x, has


class Chooser:
    """Which way to bound next, by what each has been measured to gain: 0 for ascents, 1 for programs."""

    def __init__(self, programs: bool, ascents: bool) -> None:
        self._ways = [way for way, there in enumerate((ascents or not programs, programs)) if there]
        self._records = (Record(), Record())
        self._new = {1}
        self._tried = [time.monotonic()] * 2

    def is_new(self, way: int) -> bool:
        """Whether a way has costs of its own to pay before it is judged."""
        return way in self._new

    def started(self, way: int) -> None:
        """Those costs are paid."""
        self._new.discard(way)

    def next(self, missing: float) -> int:
        """The way to go, with so much missing to the cut-off."""
        if len(self._ways) == 1:
            return self._ways[0]
        for way in self._ways:
            if self._records[way].nodes < TRIAL_NODES:
                return way
        missing = missing if math.isfinite(missing) else 1.0
        way = int(self._records[1].cost(missing) < self._records[0].cost(missing))
        other = self._records[1 - way]
        trial_s = max(other.seconds / other.nodes * TRIAL_NODES, LEAST_TRIAL_S)
        return 1 - way if time.monotonic() - self._tried[1 - way] > AGAIN * trial_s else way

    def add(self, way: int, seconds: float, gains: np.ndarray) -> None:
        """What a way has just done; gains of the children it bounded."""
        self._tried[way] = time.monotonic()
        self._records[way].add(len(gains), seconds, float(gains.sum()))

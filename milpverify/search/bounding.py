"""Two ways to bound the nodes of a tree over ReLU phases: by dual ascent, many at once, and by LPs with ideal cuts.

Ascents are cheap; LPs are much tighter where neurons see few inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from milpverify.bounds.nodes import NodeProblem
from milpverify.errors import InputError, SolverError
from milpverify.search.branching import Chains, choose, relaxation_cost
from milpverify.search.domain import Nodes
from milpverify.search.node_lp import CutRounds, NodeLp
from milpverify.search.question import Question

LP_S = 0.5  # of one LP with its cuts at most


@dataclass(frozen=True)
class Ascending:
    """Bound nodes by dual ascent, many at once.

    Attributes:
        batch: Nodes split at once.
        steps: Of the ascent on each node, from its parent's multipliers.
        more_steps: Of a further one on nodes that this left with less than their parent's bound, 0 for none: bounding
            neurons again moves the slopes, and without it the multipliers would fit less and less further down.
        rate: Step size of the ascent.
        candidates: Neurons of a node whose children are looked at before one is split.
        chain: Neurons of a node split in one step at most, each but the first only where the one before has the phase
            that looks harder. A step costs nearly the same for a few nodes as for one, so a narrow tree grows faster.
        splits: Neurons split in one step, over all nodes; with more nodes than that each is split once.
    """

    batch: int = 64
    steps: int = 8
    more_steps: int = 60
    rate: float = 0.25
    candidates: int = 6
    chain: int = 4
    splits: int = 24

    def chains(self, problem: NodeProblem, nodes: Nodes, together: int) -> Chains:
        """Where to split some of the `together` nodes of a step."""
        length = min(self.chain, self.splits // together)
        return choose(problem, nodes, self.candidates, max(1, length))

    def bound(self, problem: NodeProblem, nodes: Nodes, steps: int | None = None) -> tuple[Nodes, np.ndarray]:
        """The nodes with their bounds, and a point of the region for each."""
        value, bounded, x = self._ascended(problem, nodes, self.steps if steps is None else steps)
        lost = value < nodes.lower
        if steps is None and self.more_steps and lost.any():
            _, again, points = self._ascended(problem, bounded[lost], self.more_steps)
            bounded, x[lost] = bounded.replaced(lost, again), points
        return bounded, x

    def _ascended(self, problem: NodeProblem, nodes: Nodes, steps: int) -> tuple[np.ndarray, Nodes, np.ndarray]:
        found = problem.ascend(nodes.l, nodes.u, nodes.multipliers, steps, self.rate)
        value = problem.claim(nodes.l, nodes.u, found.multipliers)
        alpha, beta, theta, mu = found.multipliers.parts
        score = relaxation_cost(nodes.l, nodes.u, found.lam).astype(nodes.score.dtype)
        lower = np.maximum(nodes.lower, value)
        nodes = replace(nodes, alpha=alpha, beta=beta, theta=theta, mu=mu, score=score, lower=lower)
        return value, nodes, found.x


@dataclass(frozen=True)
class Programs:
    """Bound nodes by LPs, warm-started, one at a time.

    Attributes:
        cuts: Which ideal single-neuron inequalities are added; None for the triangle relaxation alone.
    """

    cuts: CutRounds | None = field(default_factory=lambda: CutRounds(node=1))

    def started(self, problem: NodeProblem) -> RunningPrograms | None:
        """The LPs of a problem; None where its region is not for one."""
        if not NodeLp.fits(problem.problem.region) or not problem.n_neurons:
            return None
        return RunningPrograms(problem, self.cuts)


class RunningPrograms:
    """The LPs of one problem, warm-started from each other; made when the first is asked for."""

    def __init__(self, problem: NodeProblem, cuts: CutRounds | None) -> None:
        self._problem, self._cuts = problem, cuts

    @cached_property
    def _lp(self) -> NodeLp | None:
        """None where the problem's numbers are not for an LP."""
        try:
            return NodeLp(self._problem.problem, self._cuts)
        except (InputError, SolverError):
            return None

    def bound(self, question: Question, rows_of: np.ndarray, nodes: Nodes) -> tuple[Nodes, np.ndarray, np.ndarray]:
        """The nodes with their bounds, the LPs' points, and which nodes have one; by ascent where there is no LP."""
        problem, lp = self._problem, self._lp
        if lp is None:
            nodes, points = Ascending().bound(problem, nodes)
            return nodes, points, np.ones(len(nodes), dtype=bool)
        lower, score = nodes.lower.copy(), nodes.score.copy()
        x, has = np.zeros((len(nodes), problem.n_inputs)), np.zeros(len(nodes), dtype=bool)
        spans = [problem.span(j) for j in range(1, problem.n_hidden + 1)]
        for b in range(len(nodes)):
            rows = np.flatnonzero(rows_of[nodes.case[b]])
            l, u = ([side[b, span] for span in spans] for side in (nodes.l, nodes.u))
            limit = min(LP_S, max(question.left_s, 1e-3))
            result = lp.solve(l, u, rows, problem.d[rows], question.cutoff + question.spare, limit)
            lower[b] = max(lower[b], result.value)
            if result.claim is not None and result.z:
                gaps, lam = np.concatenate(result.gaps), np.concatenate(result.claim.lam)
                score[b] = np.maximum(gaps, 0.0) * np.abs(np.minimum(lam, 0.0))
            if result.x is not None:
                x[b], has[b] = result.x, True
        return replace(nodes, lower=lower, score=score), x, has

"""Branch and bound over ReLU phases: nodes in batches, bounded by dual ascent on the condensed network.

A node is dropped only when g, rounded outward, says so. All cases share one tree, its bounds and its best point.

Source: Bunel et al. 2020 (branch and bound for piecewise-linear networks); Wang et al. 2021 (beta-CROWN); Xu et al.
2021.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from milpverify.bounds.nodes import NodeProblem
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.small import folded_rows, small_problem
from milpverify.errors import OptionError
from milpverify.search.branching import choose, scores
from milpverify.search.domain import Nodes, Pool
from milpverify.search.planes import with_root_planes
from milpverify.search.question import Answer, CaseAnswer, Question, Search, Steps, TreeProgress, driven

TELL_S = 0.2
PROBE_GAIN = 0.97  # another round of probing follows where one left at most this share of the free neurons
LATE, LIMIT = "time ran out in the tree", "the tree's limit of nodes was reached"
STUCK = "the last nodes of the tree lie within rounding of what they had to clear"


@dataclass(frozen=True)
class ReluSplitting(Search):
    """Branch and bound over ReLU phases.

    Attributes:
        batch: Nodes split at once.
        steps: Of the dual ascent on each node, from its parent's multipliers.
        root_steps: Of the ascent at the root.
        rate: Step size of the ascent.
        candidates: Neurons of a node whose children are looked at before one is split.
        refresh: Later neurons of a node that are bounded again after a split, those that matter most to its bound; 0
            leaves the parent's bounds.
        plane_steps: Of the ascent at the root that finds upper planes of single neurons, which all nodes share; 0 for
            none.
        budget_bytes: Open nodes are searched lowest bound first, and deepest first once they take more memory.
        probe_steps: Of the ascent on both children of every free neuron at the root: a child that closes fixes the
            neuron's phase; 0 for none.
        most_probed: Only with at most so many free neurons.
        node_limit: Give up after so many nodes; None for no limit.
    """

    batch: int = 64
    steps: int = 8
    root_steps: int = 60
    rate: float = 0.25
    candidates: int = 6
    refresh: int = 32
    plane_steps: int = 200
    budget_bytes: int = 2 * 2**30
    node_limit: int | None = None
    probe_steps: int = 8
    most_probed: int = 400

    def __post_init__(self) -> None:
        for name in ("batch", "steps", "root_steps", "candidates", "budget_bytes"):
            if getattr(self, name) < 1:
                raise OptionError(f"ReluSplitting: {name} must be at least 1, got {getattr(self, name)}.")
        if self.refresh < 0 or not 0 < self.rate < np.inf:
            raise OptionError("ReluSplitting: refresh must not be negative, and rate must be positive.")

    def run(self, question: Question) -> Answer:
        return driven(self.stepwise(question))

    def stepwise(self, question: Question) -> Steps:
        """The search, a batch of nodes at a time."""
        tree = _Tree(question, self)
        yield from tree.grow()
        return tree.answer()


class _Tree:
    """One run."""

    def __init__(self, question: Question, how: ReluSplitting) -> None:
        self.question, self.how = question, how
        self.open_cases = np.sort(question.open)
        self.closed_lower = np.where(question.closed(question.lower), question.lower, np.inf)
        self.stuck_lower = np.full(len(question.cases), np.inf)
        self.count, self.told = 0, time.monotonic()
        self.problem = self._problem()
        if how.plane_steps and len(self.open_cases) and self.problem.n_hidden:
            self.problem = with_root_planes(self.problem, how.plane_steps)
        self.rows_of = self._rows_of()
        self.pool: Pool | None = None

    def _problem(self) -> NodeProblem:
        q = self.question
        chosen = [q.cases[i] for i in self.open_cases]
        rows = np.concatenate([case.unsafe.C for case in chosen]) if chosen else np.zeros((0, q.net.n_outputs))
        d = np.concatenate([case.unsafe.d for case in chosen]) if chosen else np.zeros(0)
        problem, k = DualProblem.of(q.net, q.region, q.bounds), len(q.net.layers) + 1
        return NodeProblem.of(small_problem(problem, k, folded_rows(problem, k, rows)), d)

    def _rows_of(self) -> np.ndarray:
        """Per case which of the stacked rows are its own, (n_cases, m)."""
        mask = np.zeros((len(self.question.cases), len(self.problem.d)), dtype=bool)
        start = 0
        for i in self.open_cases:
            end = start + len(self.question.cases[i].unsafe.d)
            mask[i, start:end] = True
            start = end
        return mask

    def grow(self) -> Iterator[None]:
        """Search until answered, out of time, or nothing is open."""
        if not len(self.open_cases):
            return
        root = self._root()
        self.pool = Pool(root, self.how.budget_bytes)
        self._take_in(root, self.how.root_steps)
        if self.how.probe_steps:
            self._probe_roots()
        yield
        most = np.inf if self.how.node_limit is None else self.how.node_limit
        while len(self.pool) and self.count < most and not self.question.decided and self.question.left_s > 0:
            self._tell()
            nodes = self.pool.pop(self.how.batch)
            nodes = self._drop_closed(nodes)
            if not len(nodes):
                continue
            neuron = choose(self.problem, nodes, self.how.candidates)
            children = nodes.split(neuron)
            self._take_in(self._refreshed(children, np.concatenate([neuron, neuron])), self.how.steps)
            yield

    def _root(self) -> Nodes:
        n = len(self.open_cases)
        l, u = (np.repeat(side[None], n, axis=0) for side in self.problem.root)
        mu = self.rows_of[self.open_cases].astype(self.problem.dtype)
        alpha = (u > -l).astype(self.problem.dtype)
        theta = np.zeros((n, len(self.problem.planes)), self.problem.dtype)
        theta = self.problem.shared(theta + 1)
        return Nodes(
            l, u, alpha, np.zeros_like(alpha), theta, mu / mu.sum(axis=1, keepdims=True), np.zeros_like(alpha),
            self.open_cases, self.question.lower[self.open_cases], np.zeros(n),
        )  # fmt: skip

    def _probe_roots(self) -> None:
        """Try both phases of every free neuron at the roots: where one is closed, the other holds, and more follows."""
        assert self.pool is not None
        roots = self.pool.pop(len(self.pool))
        for i in range(len(roots)):
            root, before = roots[i : i + 1], np.inf
            while len(root) and not self.question.decided and self.question.left_s > 0:
                count = int(root.free.sum())
                if count > PROBE_GAIN * before or not 0 < count <= self.how.most_probed:
                    break
                before, root = count, self._probed(root)
            self.pool.push(root)

    def _probed(self, root: Nodes) -> Nodes:
        """The root with the phases fixed that one round of probing proves, bounded again; or nothing if it is closed."""
        free = np.flatnonzero(root.free[0])
        l, u = root.l.copy(), root.u.copy()
        for first in range(0, len(free), self.how.batch):
            some = free[first : first + self.how.batch]
            children = root[np.zeros(len(some), dtype=int)].split(some)
            found = self.problem.ascend(children.l, children.u, children.multipliers, self.how.probe_steps, self.how.rate)
            value = self.problem.claim(children.l, children.u, found.multipliers) - self.question.spare
            self.count += len(children)
            self._offer(children.case, found.x)
            closed = self.question.closed(value)
            np.minimum.at(self.closed_lower, children.case[closed], value[closed])
            active, inactive = closed[: len(some)], closed[len(some) :]
            u[0, some[active]] = np.minimum(u[0, some[active]], 0.0)
            l[0, some[inactive]] = np.maximum(l[0, some[inactive]], 0.0)
        if (l > u).any():
            return root[:0]
        if np.array_equal(l, root.l) and np.array_equal(u, root.u):
            return root
        fixed = replace(root, l=l, u=u)
        fixed = self._refreshed(fixed, np.full(1, -1))
        return self._bounded(fixed, self.how.root_steps)

    def _drop_closed(self, nodes: Nodes) -> Nodes:
        closed = self.question.closed(nodes.lower)
        np.minimum.at(self.closed_lower, nodes.case[closed], nodes.lower[closed])
        return nodes[~closed & ~self.question.settled[nodes.case]]

    def _take_in(self, nodes: Nodes, steps: int) -> None:
        """Bound nodes, and keep those that stay open."""
        assert self.pool is not None
        self.pool.push(self._bounded(nodes, steps))

    def _bounded(self, nodes: Nodes, steps: int) -> Nodes:
        """The nodes that stay open, bounded; their minimisers are offered."""
        empty = (nodes.l > nodes.u).any(axis=1)
        self.count += len(nodes)
        nodes = nodes[~empty]
        if not len(nodes):
            return nodes
        found = self.problem.ascend(nodes.l, nodes.u, nodes.multipliers, steps, self.how.rate)
        value = self.problem.claim(nodes.l, nodes.u, found.multipliers) - self.question.spare
        alpha, beta, theta, mu = found.multipliers.parts
        lower = np.maximum(nodes.lower, value)
        nodes = replace(nodes, alpha=alpha, beta=beta, theta=theta, mu=mu, lam=found.lam, lower=lower)
        self._offer(nodes.case, found.x)
        nodes = self._drop_closed(nodes)
        leaf = ~nodes.free.any(axis=1)
        if leaf.any():
            self._leaves(nodes[leaf])
            nodes = nodes[~leaf]
        return nodes

    def _leaves(self, nodes: Nodes) -> None:
        """Nodes without a free neuron: a long ascent is their last chance."""
        found = self.problem.ascend(nodes.l, nodes.u, nodes.multipliers, 200, self.how.rate / 4)
        value = self.problem.claim(nodes.l, nodes.u, found.multipliers) - self.question.spare
        lower = np.maximum(nodes.lower, value)
        self._offer(nodes.case, found.x)
        closed = self.question.closed(lower)
        np.minimum.at(self.closed_lower, nodes.case[closed], lower[closed])
        np.minimum.at(self.stuck_lower, nodes.case[~closed], lower[~closed])

    def _offer(self, case: np.ndarray, x: np.ndarray) -> None:
        """The most promising of some points, if it is better than the best so far."""
        x = np.asarray(x, dtype=np.float64)
        slack = np.where(self.rows_of[case], self.problem.forward(x), -np.inf).max(axis=1)
        i = int(slack.argmin())
        if slack[i] < self.question.best and (self.question.gap is not None or slack[i] <= 0):
            self.question.offer(int(case[i]), x[i])

    def _refreshed(self, nodes: Nodes, neuron: np.ndarray) -> Nodes:
        """The nodes with neurons above a split bounded again: those whose relaxation costs the bound most.

        Args:
            nodes: Which.
            neuron: Per node the one that was split; -1 for many, in any layer.
        """
        layer = np.where(neuron < 0, 1, self.problem.layer_of(neuron))
        last = self.problem.n_hidden
        if not self.how.refresh or (layer == last).all():
            return nodes
        score = scores(nodes)
        l, u = nodes.l.copy(), nodes.u.copy()
        for j in range(int(layer.min()) + 1, last + 1):
            span = self.problem.span(j)
            part = np.where((layer < j)[:, None], score[:, span], -1.0)
            if part.shape[1] > self.how.refresh:
                least = np.partition(part, -self.how.refresh, axis=1)[:, -self.how.refresh, None]
                part = np.where(part >= least, part, -1.0)
            node, place = np.nonzero(part >= 0)
            if not len(node):
                continue
            low, high = self.problem.refreshed(l, u, node, place + span.start)
            l[node, place + span.start] = np.maximum(l[node, place + span.start], low)
            u[node, place + span.start] = np.minimum(u[node, place + span.start], high)
        return replace(nodes, l=l, u=u)

    def _tell(self) -> None:
        tell, now = self.question.tell, time.monotonic()
        if tell is not None and now - self.told > TELL_S and self.pool is not None:
            self.told = now
            tell(TreeProgress(self.count, len(self.pool), float(self._lower().min()), self.question.best))

    def _lower(self) -> np.ndarray:
        """Per case the least bound of all its nodes."""
        lower = np.minimum(self.closed_lower, self.stuck_lower)
        return lower if self.pool is None else np.minimum(lower, self.pool.lower(len(lower)))

    def answer(self) -> Answer:
        """What the tree has proven so far."""
        q, lower = self.question, np.maximum(self._lower(), self.question.lower)
        open_ = np.zeros(len(lower), dtype=bool) if self.pool is None else self.pool.lower(len(lower)) < np.inf
        answers = []
        for i in range(len(q.cases)):
            closed = bool(q.closed(lower[i : i + 1])[0])
            late = bool(open_[i]) and not closed and q.left_s <= 0
            reason = "" if closed or q.decided else STUCK if not open_[i] else LATE if late else LIMIT
            holds = q.gap is None and closed
            answers.append(CaseAnswer(float(lower[i]), holds, q.bounds.solver_trusted, late, reason))
        return Answer(tuple(answers), self.count)

"""Branch and bound over ReLU phases on the condensed network.

A node is dropped only when g, rounded outward, says so. All cases share one tree, its bounds and its best point.

Source: Bunel et al. 2020 (branch and bound for piecewise-linear networks); Wang et al. 2021 (beta-CROWN); Xu et al.
2021.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from milpverify.bounds.nodes import NodeProblem
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.small import folded_rows, small_problem
from milpverify.errors import OptionError
from milpverify.search.bounding import Ascending, Chooser, Programs
from milpverify.search.branching import ranked
from milpverify.search.domain import Nodes, Pool
from milpverify.search.planes import with_root_planes
from milpverify.search.question import Answer, CaseAnswer, Question, Search, Steps, TreeProgress, driven

TELL_S = 0.2
LAST_STEPS = 200  # of the ascent on a node without free neurons
LATE, LIMIT = "time ran out in the tree", "the tree's limit of nodes was reached"
STUCK = "the last nodes of the tree lie within rounding of what they had to clear"
TOO_LARGE = "too many unstable neurons for a tree over their phases: their dense weights would take {:.3g} GB"


@dataclass(frozen=True)
class ReluSplitting(Search):
    """Branch and bound over ReLU phases.

    Attributes:
        ascents: Bounds many nodes at once by dual ascent; None for programs alone.
        programs: Bounds nodes by LPs with cuts; None for ascents alone. With both, what gains more a second, as
            measured in this tree, goes on.
        root_steps: Of the ascent at the root.
        plane_steps: Of the ascent at the root that finds upper planes of single neurons, which all nodes share; 0 for
            none.
        refresh: Later neurons of a node that are bounded again after a split, those that matter most to its bound; 0
            leaves the parent's bounds.
        budget_bytes: Open nodes are searched lowest bound first, and deepest first once they take more memory. A
            condensed network that does not fit is refused.
        node_limit: Give up after so many nodes; None for no limit.

    Raises:
        OptionError: If one is out of range, or there is neither way of bounding.
    """

    ascents: Ascending | None = field(default_factory=Ascending)
    programs: Programs | None = field(default_factory=Programs)
    root_steps: int = 60
    plane_steps: int = 200
    refresh: int = 32
    budget_bytes: int = 2 * 2**30
    node_limit: int | None = None

    def __post_init__(self) -> None:
        if min(self.root_steps, self.plane_steps, self.refresh) < 0 or self.budget_bytes < 1:
            raise OptionError(
                f"ReluSplitting: root_steps={self.root_steps}, plane_steps={self.plane_steps} and refresh="
                f"{self.refresh} must not be negative, budget_bytes={self.budget_bytes} must be positive."
            )
        if self.ascents is None and self.programs is None:
            raise OptionError("ReluSplitting: give ascents, programs, or both; there is nothing to bound nodes with.")

    def run(self, question: Question) -> Answer:
        return driven(self.stepwise(question))

    def stepwise(self, question: Question) -> Steps:
        """The search, some nodes at a time."""
        needed = _dense_bytes(question)
        if needed > self.budget_bytes:
            return _declined(question, TOO_LARGE.format(needed / 1e9))
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
        if how.plane_steps and how.ascents and self.problem.n_neurons and len(self.open_cases):
            self.problem = with_root_planes(self.problem, how.plane_steps)
        self.rows_of = self._rows_of()
        self.ascents = how.ascents or Ascending()
        self.programs = None if how.programs is None else how.programs.started(self.problem)
        self.chooser = Chooser(self.programs is not None, how.ascents is not None)
        self.pool = Pool(self._root(), how.budget_bytes)

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

    def _root(self) -> Nodes:
        n = len(self.open_cases)
        l, u = (np.repeat(side[None], n, axis=0) for side in self.problem.root)
        mu = self.rows_of[self.open_cases].astype(self.problem.dtype)
        alpha = (u > -l).astype(self.problem.dtype)
        theta = self.problem.shared(np.ones((n, len(self.problem.planes)), self.problem.dtype))
        return Nodes(
            l, u, alpha, np.zeros_like(alpha), theta, mu / mu.sum(axis=1, keepdims=True), np.zeros_like(alpha),
            self.open_cases, self.question.lower[self.open_cases], np.zeros(n),
        )  # fmt: skip

    def grow(self) -> Iterator[None]:
        """Search until answered, out of time, or nothing is open."""
        if not len(self.open_cases):
            return
        self._take_in(self._ascended(self._root(), self.how.root_steps))
        most = np.inf if self.how.node_limit is None else self.how.node_limit
        while len(self.pool) and self.count < most and not self.question.decided and self.question.left_s > 0:
            yield
            self._tell()
            way = self.chooser.next(self.question.cutoff - self.pool.least)
            nodes = self._still_open(self.pool.pop(1 if way else self.ascents.batch))
            if way and len(nodes) and self.chooser.is_new(way):
                self._take_in(self._programmed(nodes))  # the first LP pays for the root's cuts
                self.chooser.started(way)
            elif len(nodes):
                self._split(nodes, way)

    def _split(self, nodes: Nodes, way: int) -> None:
        began = time.monotonic()
        neuron = ranked(nodes).argmax(axis=1) if way else self.ascents.neurons(self.problem, nodes)
        children = self._refreshed(nodes.split(neuron), np.concatenate([neuron, neuron]))
        before = children.lower
        children, empty = self._not_empty(children)
        after = np.full(len(before), np.inf)
        children = self._programmed(children) if way else self._ascended(children)
        after[~empty] = children.lower
        cutoff = max(self.question.cutoff, float(before.min()))
        gains = np.minimum(after, cutoff if np.isfinite(cutoff) else np.inf) - before
        self.chooser.add(way, time.monotonic() - began, np.maximum(np.where(np.isfinite(gains), gains, 0.0), 0.0))
        self._take_in(children)

    def _not_empty(self, nodes: Nodes) -> tuple[Nodes, np.ndarray]:
        """The nodes whose bounds do not cross, and a mask of the others, which are proven empty."""
        empty = np.asarray((nodes.l > nodes.u).any(axis=1))
        self.count += len(nodes)
        return nodes[~empty], empty

    def _ascended(self, nodes: Nodes, steps: int | None = None) -> Nodes:
        if not len(nodes):
            return nodes
        before = nodes.lower
        nodes, x = self.ascents.bound(self.problem, nodes, steps)
        self._offer(nodes.case, x)
        return self._less_spare(nodes, before)

    def _programmed(self, nodes: Nodes) -> Nodes:
        assert self.programs is not None
        before = nodes.lower
        nodes, x, has = self.programs.bound(self.question, self.rows_of, nodes)
        if has.any():
            self._offer(nodes.case[has], x[has])
        return self._less_spare(nodes, before)

    def _less_spare(self, nodes: Nodes, before: np.ndarray) -> Nodes:
        """The nodes with what a solver's word on the hidden bounds may cost taken off new bounds."""
        spare = self.question.spare
        return replace(nodes, lower=np.maximum(before, nodes.lower - spare)) if spare else nodes

    def _take_in(self, nodes: Nodes) -> None:
        """Keep the nodes that stay open for splitting; those with nothing left to split end here."""
        nodes = self._still_open(nodes)
        leaf = ~nodes.free.any(axis=1)
        if leaf.any():
            self._leaves(nodes[leaf])
            nodes = nodes[~leaf]
        self.pool.push(nodes)

    def _still_open(self, nodes: Nodes) -> Nodes:
        closed = self.question.closed(nodes.lower)
        np.minimum.at(self.closed_lower, nodes.case[closed], nodes.lower[closed])
        return nodes[~closed & ~self.question.settled[nodes.case]]

    def _leaves(self, nodes: Nodes) -> None:
        """Nodes without a free neuron are linear: an LP, or else a long ascent, has the last word."""
        if self.programs is not None:
            nodes = self._programmed(nodes)
        if not self.question.closed(nodes.lower).all():
            nodes = self._ascended(nodes, LAST_STEPS)
        nodes = self._still_open(nodes)
        np.minimum.at(self.stuck_lower, nodes.case, nodes.lower)

    def _offer(self, case: np.ndarray, x: np.ndarray) -> None:
        """The most promising of some points, if it is better than the best so far."""
        x = np.asarray(x, dtype=np.float64)
        slack = np.where(self.rows_of[case], self.problem.forward(x), -np.inf).max(axis=1)
        i = int(slack.argmin())
        if slack[i] < self.question.best and (self.question.gap is not None or slack[i] <= 0):
            self.question.offer(int(case[i]), x[i])

    def _refreshed(self, nodes: Nodes, neuron: np.ndarray) -> Nodes:
        """The nodes with neurons above a split bounded again: those whose relaxation costs the bound most."""
        layer, last = self.problem.layer_of(neuron), self.problem.n_hidden
        if not self.how.refresh or (layer == last).all():
            return nodes
        score = ranked(nodes)
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
        if tell is not None and now - self.told > TELL_S:
            self.told = now
            tell(TreeProgress(self.count, len(self.pool), float(self._lower().min()), self.question.best))

    def _lower(self) -> np.ndarray:
        """Per case the least bound of all its nodes."""
        lower = np.minimum(self.closed_lower, self.stuck_lower)
        return np.minimum(lower, self.pool.lower(len(lower)))

    def answer(self) -> Answer:
        """What the tree has proven so far."""
        q, lower = self.question, np.maximum(self._lower(), self.question.lower)
        open_ = self.pool.lower(len(lower)) < np.inf
        answers = []
        for i in range(len(q.cases)):
            closed = bool(q.closed(lower[i : i + 1])[0])
            late = bool(open_[i]) and not closed and q.left_s <= 0
            reason = "" if closed or q.decided else STUCK if not open_[i] else LATE if late else LIMIT
            holds = q.gap is None and closed
            answers.append(CaseAnswer(float(lower[i]), holds, q.bounds.solver_trusted, late, reason))
        return Answer(tuple(answers), self.count)


def _dense_bytes(question: Question) -> int:
    """What the condensed network's weights take, in both precisions."""
    columns, entries = question.net.n_inputs, 0
    for count in question.bounds.n_unstable:
        entries += count * columns
        columns += count
    return 12 * entries


def _declined(question: Question, reason: str) -> Answer:
    """What is known of every case without a search."""
    closed = question.closed(question.lower)
    holds = closed if question.gap is None else np.zeros_like(closed)
    return Answer(tuple(
        CaseAnswer(float(lower), bool(h), question.bounds.solver_trusted, reason="" if c else reason)
        for lower, h, c in zip(question.lower, holds, closed, strict=True)
    ))  # fmt: skip

"""A tree over ReLU phases on the condensed network, bounded in one way.

A node is dropped only when g, rounded outward, says so. All cases share one tree, its bounds and its best point.

Source: Bunel et al. 2020 (branch and bound for piecewise-linear networks); Wang et al. 2021 (beta-CROWN); Xu et al.
2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from milpverify.bounds.nodes import NodeProblem
from milpverify.bounds.own_planes import OwnPlanes
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.small import folded_rows, small_problem
from milpverify.search.bounding import Ascending, Programs
from milpverify.search.branching import Chains, ranked
from milpverify.search.domain import Nodes, Pool, saved_nodes
from milpverify.search.planes import root_planes, root_theta
from milpverify.search.question import Answer, CaseAnswer, Question
from milpverify.search.record import State

LAST_STEPS = 200  # of the ascent on a node without free neurons
MOST_INPUTS = 50  # of a neuron on average, where nodes have planes of their own: what they cost
LATE, LIMIT = "time ran out in the tree", "the tree's limit of nodes or seconds was reached"
STUCK = "the last nodes of the tree lie within rounding of what they had to clear"
BETWEEN = "a tree over phases sees all inputs between the points of the grid, and some of those may be unsafe"


class ReluTree:
    """One tree.

    Args:
        question: What is asked; its open cases are the roots.
        ascents: Bounds the nodes; None to bound them by `programs`.
        programs: LPs for nodes, or only for those without free neurons where there are ascents; None for no LP at all.
        plane_steps, root_steps, refresh, budget_bytes: As of `ReluSplitting`.
        found: What `state` gave of a tree on the same question and the same bounds: to go on from; None to begin.
    """

    def __init__(
        self,
        question: Question,
        ascents: Ascending | None,
        programs: Programs | None,
        *,
        plane_steps: int,
        root_steps: int,
        refresh: int,
        budget_bytes: int,
        found: State | None = None,
    ) -> None:
        self._question, self._refresh, self._root_steps = question, refresh, root_steps
        found = found or {}
        self._open_cases = found.get("open_cases", np.sort(question.open))
        self._closed_lower = np.where(question.closed(question.lower), question.lower, np.inf)
        self._stuck_lower = np.full(len(question.cases), np.inf)
        self.count, self.begun = 0, bool(found)
        self._problem = self._condensed()
        self._rows_of = self._own_rows()
        self._planed: dict[int, NodeProblem] = {}
        self._theta = np.zeros((len(self._open_cases), 0))
        if plane_steps and ascents and self._problem.n_neurons and len(self._open_cases):
            self._take_planes(plane_steps, found)
        self._ascents = ascents or Ascending()
        self._programs = None if programs is None else programs.started(self._problem)
        self._by_programs = ascents is None and self._programs is not None
        root = self._root()
        self._pool = Pool(root, budget_bytes)
        self._start = root  # open until what came of them is in the pool
        if found:
            self._closed_lower, self._stuck_lower = found["closed_lower"].copy(), found["stuck_lower"].copy()
            self.count, self._start = int(found["count"]), root[:0]
            self._pool.push(saved_nodes(found, root))

    def _condensed(self) -> NodeProblem:
        q = self._question
        chosen = [q.cases[i] for i in self._open_cases]
        rows = np.concatenate([case.unsafe.C for case in chosen]) if chosen else np.zeros((0, q.net.n_outputs))
        d = np.concatenate([case.unsafe.d for case in chosen]) if chosen else np.zeros(0)
        problem, k = DualProblem.of(q.net, q.region, q.bounds), len(q.net.layers) + 1
        return NodeProblem.of(small_problem(problem, k, folded_rows(problem, k, rows)), d)

    def _take_planes(self, steps: int, found: State) -> None:
        """Planes, from the roots on: each node's own where they are not too many, else per case a problem with them."""
        mine, n = self._rows_of[self._open_cases].astype(np.float64), self._problem.n_neurons
        mine = mine / mine.sum(axis=1, keepdims=True)
        self._theta = np.ones((len(mine), n))
        if OwnPlanes.gammas_over(self._problem) <= MOST_INPUTS * n:
            self._problem = own = OwnPlanes.over(self._problem)
            none = np.zeros((len(mine), n + own.n_gammas))
            self._theta = none if found else root_theta(own, mine, steps, self._question.ends)
            return
        if found:
            problems = [self._problem.with_planes(np.arange(n), P) for P in found["planes"]]
        else:
            problems, self._theta = root_planes(self._problem, mine, steps, self._question.ends)
        self._planed = dict(zip(self._open_cases.tolist(), problems, strict=True))

    def _groups(self, nodes: Nodes) -> list[tuple[NodeProblem, np.ndarray]]:
        """The nodes by the problem they are bounded on, as indices."""
        if not self._planed:
            return [(self._problem, np.arange(len(nodes)))]
        return [(self._planed[int(case)], np.flatnonzero(nodes.case == case)) for case in np.unique(nodes.case)]

    def _own_rows(self) -> np.ndarray:
        """Per case which of the stacked rows are its own, (n_cases, m)."""
        mask = np.zeros((len(self._question.cases), len(self._problem.d)), dtype=bool)
        start = 0
        for i in self._open_cases:
            end = start + len(self._question.cases[i].unsafe.d)
            mask[i, start:end] = True
            start = end
        return mask

    def _root(self) -> Nodes:
        n = len(self._open_cases)
        l, u = (np.repeat(side[None], n, axis=0) for side in self._problem.root)
        mu = self._rows_of[self._open_cases].astype(self._problem.dtype)
        alpha = (u > -l).astype(self._problem.dtype)
        theta = self._theta.astype(self._problem.dtype)
        return Nodes(
            l, u, alpha, np.zeros_like(alpha), theta, mu / mu.sum(axis=1, keepdims=True), np.zeros_like(alpha),
            self._open_cases, self._question.lower[self._open_cases], np.zeros(n),
        )  # fmt: skip

    def grow(self) -> Iterator[None]:
        """Search, some nodes at a time, until answered, out of time, or nothing is open."""
        root = self._start
        if len(root):
            self._take_in(self._programmed(root) if self._by_programs else self._ascended(root, self._root_steps))
            self._start = root[:0]
            self.begun = True
        while len(self._pool) and not self._question.decided and self._question.left_s > 0:
            yield
            nodes = self._still_open(self._pool.pop(1 if self._by_programs else self._ascents.batch))
            if len(nodes):
                self._split(nodes)
            self._pool.release()

    def _split(self, nodes: Nodes) -> None:
        by = self._by_programs
        if by:
            chains = Chains.by_score(nodes)
        else:
            groups = self._groups(nodes)
            parts = [self._ascents.chains(problem, nodes[group], len(nodes)) for problem, group in groups]
            chains = Chains.concat(parts)[np.argsort(np.concatenate([group for _, group in groups]))]
        children = self._refreshed(*chains.children(nodes))
        self.count += len(children)
        children = children[~(children.l > children.u).any(axis=1)]  # crossing bounds prove a node empty
        self._take_in(self._programmed(children) if by else self._ascended(children))

    def _ascended(self, nodes: Nodes, steps: int | None = None) -> Nodes:
        if not len(nodes):
            return nodes
        before = nodes.lower
        groups = self._groups(nodes)
        parts = [self._ascents.bound(problem, nodes[group], steps) for problem, group in groups]
        back = np.argsort(np.concatenate([group for _, group in groups]))
        nodes = Nodes.concat([part for part, _ in parts])[back]
        self._offer(nodes.case, np.concatenate([x for _, x in parts])[back])
        return self._less_spare(nodes, before)

    def _programmed(self, nodes: Nodes) -> Nodes:
        assert self._programs is not None
        before = nodes.lower
        nodes, x, has = self._programs.bound(self._question, self._rows_of, nodes)
        if has.any():
            self._offer(nodes.case[has], x[has])
        return self._less_spare(nodes, before)

    def _less_spare(self, nodes: Nodes, before: np.ndarray) -> Nodes:
        """The nodes with what a solver's word on the hidden bounds may cost taken off new bounds."""
        spare = self._question.spare
        return replace(nodes, lower=np.maximum(before, nodes.lower - spare)) if spare else nodes

    def _take_in(self, nodes: Nodes) -> None:
        """Keep the nodes that stay open for splitting; those with nothing left to split end here."""
        nodes = self._still_open(nodes)
        leaf = ~nodes.free.any(axis=1)
        if leaf.any():
            self._leaves(nodes[leaf])
            nodes = nodes[~leaf]
        self._pool.push(nodes)

    def _still_open(self, nodes: Nodes) -> Nodes:
        q = self._question
        lower = np.maximum(nodes.lower, q.lower[nodes.case])  # another tree may have closed a whole case
        closed = q.closed(lower)
        np.minimum.at(self._closed_lower, nodes.case[closed], lower[closed])
        return nodes[~closed & ~q.settled[nodes.case]]

    def _leaves(self, nodes: Nodes) -> None:
        """Nodes without a free neuron are linear: an LP, or else a long ascent, has the last word."""
        if self._programs is not None:
            nodes = self._programmed(nodes)
        if not self._question.closed(nodes.lower).all():
            nodes = self._ascended(nodes, LAST_STEPS)
        nodes = self._still_open(nodes)
        np.minimum.at(self._stuck_lower, nodes.case, nodes.lower)

    def _offer(self, case: np.ndarray, x: np.ndarray) -> None:
        """The most promising of some points, if it is better than the best so far."""
        x, region = np.asarray(x, dtype=np.float64), self._question.region
        if region.grid is not None and len(x):
            x = region.project(x)
        slack = np.where(self._rows_of[case], self._problem.forward(x), -np.inf).max(axis=1)
        i = int(slack.argmin())
        if slack[i] < self._question.best and (self._question.gap is not None or slack[i] <= 0):
            self._question.offer(int(case[i]), x[i])

    def _refreshed(self, nodes: Nodes, neuron: np.ndarray) -> Nodes:
        """The nodes with neurons above a split bounded again: those whose relaxation costs the bound most."""
        layer, last = self._problem.layer_of(neuron), self._problem.n_hidden
        if not self._refresh or (layer == last).all():
            return nodes
        score = ranked(nodes)
        l, u = nodes.l.copy(), nodes.u.copy()
        for j in range(int(layer.min()) + 1, last + 1):
            span = self._problem.span(j)
            part = np.where((layer < j)[:, None], score[:, span], -1.0)
            if part.shape[1] > self._refresh:
                least = np.partition(part, -self._refresh, axis=1)[:, -self._refresh, None]
                part = np.where(part >= least, part, -1.0)
            node, place = np.nonzero(part >= 0)
            if not len(node):
                continue
            low, high = self._problem.refreshed(l, u, node, place + span.start)
            l[node, place + span.start] = np.maximum(l[node, place + span.start], low)
            u[node, place + span.start] = np.minimum(u[node, place + span.start], high)
        return replace(nodes, l=l, u=u)

    def state(self) -> dict[str, np.ndarray]:
        """What `found` takes. All open nodes are in it; call it between two steps of `grow`."""
        nodes = Nodes.concat([self._pool.all(), self._start])
        planes = np.array([self._planed[case].planes.P for case in self._open_cases.tolist() if self._planed])
        return {
            "open_cases": self._open_cases, "closed_lower": self._closed_lower, "stuck_lower": self._stuck_lower,
            "count": np.array(self.count), "planes": planes, **nodes.arrays(),
        }  # fmt: skip

    @property
    def n_open(self) -> int:
        """Open nodes."""
        return len(self._pool)

    def lower(self) -> np.ndarray:
        """Per case what the tree has proven so far, shape (n_cases,)."""
        lower = np.minimum(np.minimum(self._closed_lower, self._stuck_lower), self._open_lower())
        lower = np.where(self._question.settled, -np.inf, lower)  # their nodes were dropped, not closed
        return np.maximum(lower, self._question.lower)

    def _open_lower(self) -> np.ndarray:
        """Per case the least bound of its open nodes, infinite where it has none."""
        least = self._pool.lower(len(self._closed_lower))
        np.minimum.at(least, self._start.case, self._start.lower)
        return least

    def answer(self) -> Answer:
        """What the tree has proven so far."""
        q, lower = self._question, self.lower()
        stuck, between = STUCK if q.region.grid is None else BETWEEN, q.region.grid is not None
        open_ = self._open_lower() < np.inf
        answers = []
        for i in range(len(q.cases)):
            closed = bool(q.closed(lower[i : i + 1])[0])
            late = bool(open_[i]) and not closed and q.left_s <= 0
            ended = not open_[i] or (between and not late and self._stuck_lower[i] < np.inf)
            reason = "" if closed or q.decided else stuck if ended else LATE if late else LIMIT
            holds = q.gap is None and closed
            answers.append(CaseAnswer(float(lower[i]), holds, q.bounds.solver_trusted, late, reason))
        return Answer(tuple(answers), self.count)

"""A tree over ReLU phases that keeps what closed its leaves: the part of a proof that is searched for.

It splits as `relu_tree` does, but bounds nothing again after a split, so that splits and multipliers are all a checker
needs. Sources there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from milpverify.bounds.nodes import NodeProblem
from milpverify.errors import InputError, SolverError
from milpverify.proof.certificate import LeafTree, PlaneSet
from milpverify.search.bounding import Ascending
from milpverify.search.domain import Nodes, Pool
from milpverify.search.node_lp import NodeLp
from milpverify.search.planes import raised_planes

LAST_STEPS = 200  # of the ascent on a node without free neurons
LEAST_SHARE = 1e-3  # of a plane at the root: what is less is left out


@dataclass(frozen=True, eq=False)
class Closed:
    """The leaves of a closed tree, with what closed them.

    Attributes:
        phase: +1 where a leaf has a neuron active, -1 inactive, 0 where it is free, (leaves, N).
        alpha, beta, theta, mu: As of `bounds.nodes.Multipliers`, in the precision that they were found in.
        neuron, planes: Neurons that have a plane, and its slopes P, (planes,) and (planes, columns), single precision.
        lower: Least bound of a leaf.
    """

    phase: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    theta: np.ndarray
    mu: np.ndarray
    neuron: np.ndarray
    planes: np.ndarray
    lower: float

    def __len__(self) -> int:
        return len(self.phase)

    def written(self, number: int) -> tuple[LeafTree, PlaneSet | None]:
        """The tree as a proof has it, and the planes it uses, which become set `number` of its context."""
        tree, order = leaf_tree(self.phase, self.alpha, self.beta, self.mu)
        used = np.flatnonzero(self.theta.any(axis=0))
        if not len(used):
            return tree, None
        planes = PlaneSet(self.neuron[used].astype(np.int32), self.planes[used])
        return replace(tree, planes=number, theta=self.theta[order][:, used]), planes


@dataclass(frozen=True)
class PhaseProver:
    """Closes a case by a tree over phases.

    Attributes:
        ascents: Bounds the nodes.
        root_steps, plane_steps: Of the ascents at the root.
        node_limit: Give up after so many nodes.
        budget_bytes: Of open nodes.
    """

    ascents: Ascending = field(default_factory=Ascending)
    root_steps: int = 60
    plane_steps: int = 200
    node_limit: int = 200_000
    budget_bytes: int = 2**30

    def close(
        self,
        problem: NodeProblem,
        left_s: Callable[[], float] = lambda: math.inf,
        tell: Callable[[int, int], None] | None = None,
    ) -> Closed | None:
        """The leaves of a tree whose every leaf has g > 0; None if limits came first, or a leaf stays open.

        Args:
            problem: Of one case: all rows are its own.
            left_s: Asked now and then for the seconds that are left.
            tell: Told nodes so far and open ones.
        """
        problem, theta, P = self._planed(problem, time.monotonic() + left_s())
        done: list[Nodes] = []
        nodes = self._bounded(problem, _root(problem, theta), self.root_steps)
        pool, count = Pool(nodes, self.budget_bytes), 1
        while True:
            ends = ~nodes.free.any(axis=1) & (nodes.lower <= 0.0)
            last = self._last(problem, nodes[ends])
            if last is None:
                return None
            done += [_in_precision(nodes[nodes.lower > 0.0], problem.dtype), last]  # what the multipliers have anyhow
            pool.push(nodes[~ends & (nodes.lower <= 0.0)])
            if not len(pool):
                break
            if count >= self.node_limit or left_s() <= 0:
                return None
            if tell is not None:
                tell(count, len(pool))
            nodes = pool.pop(self.ascents.batch)
            pool.release()
            nodes, _ = self.ascents.chains(problem, nodes, len(nodes)).children(nodes)
            count += len(nodes)
            nodes = self._bounded(problem, nodes)
        return _closed(problem, Nodes.concat([part for part in done if len(part)]), P)

    def _planed(self, problem: NodeProblem, ends: float) -> tuple[NodeProblem, np.ndarray, np.ndarray]:
        """The problem with planes of the neurons that gain by one, their first shares and their slopes."""
        n, none = problem.n_neurons, np.zeros((0, problem.ends[-1]), dtype=np.float32)
        if not n or not self.plane_steps:
            return problem, np.zeros((1, 0)), none
        rows = np.full((1, len(problem.d)), 1.0 / len(problem.d))
        slopes, theta = raised_planes(problem, rows, self.plane_steps, ends)
        used = np.flatnonzero((theta[0] > LEAST_SHARE) & np.isfinite(slopes[0]).all(axis=1))
        P = slopes[0][used].astype(np.float32)
        return problem.with_planes(used, P.astype(np.float64)), theta[:, used], P

    def _bounded(self, problem: NodeProblem, nodes: Nodes, steps: int | None = None) -> Nodes:
        nodes, _ = self.ascents.bound(problem, nodes, steps)
        last = (nodes.lower <= 0.0) & ~nodes.free.any(axis=1)
        if last.any():
            nodes = nodes.replaced(last, self.ascents.bound(problem, nodes[last], LAST_STEPS)[0])
        return nodes

    def _last(self, problem: NodeProblem, nodes: Nodes) -> Nodes | None:
        """Nodes without a free neuron that no ascent closes, with an LP's multipliers; None where one stays open."""
        if not len(nodes):
            return nodes
        try:
            lp = NodeLp(problem.problem)
        except (InputError, SolverError):
            return None
        nodes = _in_precision(nodes, np.float64)
        beta, theta, mu = nodes.beta.copy(), np.zeros_like(nodes.theta), nodes.mu.copy()
        none, spans = np.zeros(0), [problem.span(j) for j in range(1, problem.n_hidden + 1)]
        for b in range(len(nodes)):
            l, u = ([side[b, span] for span in spans] for side in (nodes.l, nodes.u))
            claim = lp.solve(l, u, np.arange(len(problem.d)), problem.d).claim
            if claim is None:
                return None
            nu, lam = (np.concatenate([none, *map(np.ravel, of)]) for of in (claim.nu, claim.lam))
            beta[b], mu[b] = np.where(nodes.l[b] >= 0, lam - nu, nu), claim.mu
        nodes = replace(nodes, beta=beta, theta=theta, mu=mu)
        lower = problem.claim(nodes.l, nodes.u, nodes.multipliers)
        return replace(nodes, lower=lower) if (lower > 0.0).all() else None


def leaf_tree(phase: np.ndarray, alpha: np.ndarray, beta: np.ndarray, mu: np.ndarray) -> tuple[LeafTree, np.ndarray]:
    """The leaves of a tree without planes as a proof has them, and their order there.

    Args:
        phase: As of `preorder`.
        alpha, beta, mu: As of `LeafTree`, one row a leaf.
    """
    split, order = preorder(phase)
    some_alpha = alpha[order] if alpha.size else None
    some_beta = beta[order] if beta.any() else None
    return LeafTree(split if len(split) > 1 else None, some_alpha, some_beta, mu[order]), order


def preorder(phase: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tree over neurons whose leaves have given phases: its list in preorder, and the leaves in their order there.

    A tree's leaves always have a neuron that none of them leaves free, and splitting at it gives two trees again.

    Args:
        phase: +1, -1 or 0, (leaves, N); the leaves of a tree.
    """
    phase = phase.copy()  # splits that have been written are taken out of it
    split: list[int] = []
    order: list[int] = []
    waiting = [np.arange(len(phase))]
    while waiting:
        some = waiting.pop()
        if len(some) == 1 and not (phase[some[0]] != 0).any():
            split.append(-1)
            order.append(int(some[0]))
            continue
        neuron = int((phase[some] != 0).all(axis=0).argmax())
        side = phase[some, neuron]
        assert (side > 0).any() and (side < 0).any()
        split.append(neuron)
        phase[some, neuron] = 0
        waiting += [some[side < 0], some[side > 0]]
    return np.array(split, dtype=np.int32), np.array(order, dtype=int)


def _root(problem: NodeProblem, theta: np.ndarray) -> Nodes:
    """The node without splits; all rows are its own."""
    l, u = (side[None].copy() for side in problem.root)
    alpha = (u > -l).astype(problem.dtype)
    none, m = np.zeros_like(alpha), len(problem.d)
    mu = np.full((1, m), 1.0 / m, dtype=problem.dtype)
    return Nodes(
        l, u, alpha, none, theta.astype(problem.dtype), mu, none, np.zeros(1, dtype=int), np.array([-np.inf]),
        np.zeros(1),
    )  # fmt: skip


def _in_precision(nodes: Nodes, dtype: Any) -> Nodes:
    return Nodes(*(part.astype(dtype) if part.dtype.kind == "f" else part for part in nodes.arrays().values()))


def _closed(problem: NodeProblem, leaves: Nodes, P: np.ndarray) -> Closed:
    free = leaves.free
    phase = np.where(free, 0, np.where(leaves.l >= 0, 1, -1)).astype(np.int8)
    alpha = np.where(free, np.clip(leaves.alpha, 0.0, 1.0), 0.0).astype(leaves.alpha.dtype)
    beta = np.where(free, 0.0, leaves.beta).astype(leaves.beta.dtype)
    theta = np.maximum(leaves.theta, 0.0)
    lower = float(leaves.lower.min(initial=np.inf))
    return Closed(phase, alpha, beta, theta, leaves.mu, problem.planes.neuron, P, lower)

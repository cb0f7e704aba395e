"""A tree over ReLU phases that keeps what closed its leaves: the part of a proof that is searched for.

It splits as `relu_tree` does, but bounds nothing again after a split, so that splits and multipliers are all a checker
needs. Sources there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from milpverify.bounds.node_parts import Multipliers
from milpverify.bounds.nodes import NodeProblem
from milpverify.errors import InputError, SolverError
from milpverify.proof.certificate import LeafTree, PlaneSet
from milpverify.search.bounding import Ascending
from milpverify.search.domain import Nodes, Pool
from milpverify.search.node_lp import NodeLp
from milpverify.search.planes import raised_planes

LAST_STEPS = 200  # of the ascent on a node without free neurons
LEAST_SHARE = 1e-3  # of a plane: what is less is left out


@dataclass(frozen=True, eq=False)
class Closed:
    """The leaves of a closed tree, with what closed them.

    Attributes:
        phase: +1 where a leaf has a neuron active, -1 inactive, 0 where it is free, (leaves, N).
        alpha, beta, theta, mu: As of `bounds.nodes.Multipliers`; in single precision where that is enough.
        planes: Slopes P of a plane for each neuron, (N, columns), single precision.
        lower: Least bound of a leaf.
    """

    phase: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    theta: np.ndarray
    mu: np.ndarray
    planes: np.ndarray
    lower: float

    def __len__(self) -> int:
        return len(self.phase)

    def written(self, number: int) -> tuple[LeafTree, PlaneSet | None]:
        """The tree as a proof has it, and the planes it uses, which become set `number` of its context."""
        split, order = preorder(self.phase)
        alpha, beta, mu = (part[order] for part in (self.alpha, self.beta, self.mu))
        used = np.flatnonzero((self.theta > LEAST_SHARE).any(axis=0) & self.planes.any(axis=1))
        theta = None if not len(used) else self.theta[order][:, used]
        planes = None if not len(used) else PlaneSet(used.astype(np.int32), self.planes[used])
        tree = LeafTree(
            split if len(split) > 1 else None,
            alpha if alpha.size else None,
            beta if beta.any() else None,
            mu,
            None if planes is None else number,
            theta,
        )
        return tree, planes


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
        self, problem: NodeProblem, ends: float = math.inf, tell: Callable[[int, int], None] | None = None
    ) -> Closed | None:
        """The leaves of a tree whose every leaf has g > 0; None if limits came first, or a leaf stays open.

        Args:
            problem: Of one case: all rows are its own.
            ends: When to give up, on `time.monotonic`'s clock.
            tell: Told nodes so far and open ones.
        """
        problem, theta, P = self._planed(problem, ends)
        done: list[Nodes] = []
        nodes = self._bounded(problem, _root(problem, theta), self.root_steps)
        pool, count, last = Pool(nodes, self.budget_bytes), 1, _LastPrograms(problem)
        while True:
            closed = nodes.lower > 0.0
            done.append(_slim(problem, nodes[closed]))
            nodes = nodes[~closed]
            stuck = ~nodes.free.any(axis=1)
            if stuck.any():
                solved = last.bound(nodes[stuck])
                if not (solved.lower > 0.0).all():
                    return None
                done.append(solved)
                nodes = nodes[~stuck]
            pool.push(nodes)
            if not len(pool):
                break
            if count >= self.node_limit or time.monotonic() >= ends:
                return None
            if tell is not None:
                tell(count, len(pool))
            nodes = pool.pop(self.ascents.batch)
            pool.release()
            nodes, _ = self.ascents.chains(problem, nodes, len(nodes)).children(nodes)
            count += len(nodes)
            nodes = self._bounded(problem, nodes)
        return _closed(problem, Nodes.concat(done), P)

    def _planed(self, problem: NodeProblem, ends: float) -> tuple[NodeProblem, np.ndarray, np.ndarray]:
        """The problem with a plane for each neuron, their first shares and their slopes."""
        n, none = problem.n_neurons, np.zeros((problem.n_neurons, problem.ends[-1]), dtype=np.float32)
        if not n or not self.plane_steps:
            return problem, np.zeros((1, 0)), none[:0]
        rows = np.full((1, len(problem.d)), 1.0 / len(problem.d))
        slopes, theta = raised_planes(problem, rows, self.plane_steps, ends)
        P = np.nan_to_num(slopes[0].astype(np.float32))
        return problem.with_planes(np.arange(n), P.astype(np.float64)), theta, P

    def _bounded(self, problem: NodeProblem, nodes: Nodes, steps: int | None = None) -> Nodes:
        nodes, _ = self.ascents.bound(problem, nodes, steps)
        last = (nodes.lower <= 0.0) & ~nodes.free.any(axis=1)
        if last.any():
            nodes = nodes.replaced(last, self.ascents.bound(problem, nodes[last], LAST_STEPS)[0])
        return nodes


class _LastPrograms:
    """LPs of nodes whose every neuron has a phase: exact up to float64, where ascents end a little below.

    Args:
        problem: Of all nodes.
    """

    def __init__(self, problem: NodeProblem) -> None:
        self._problem = problem
        self._lp: NodeLp | None = None

    def bound(self, nodes: Nodes) -> Nodes:
        """The nodes with the LPs' multipliers, and what these prove, in double precision."""
        found = [self._one(nodes.l[i], nodes.u[i]) for i in range(len(nodes))]
        alpha, beta, mu = (np.array(part) for part in zip(*found, strict=True))
        theta = np.zeros((len(nodes), nodes.theta.shape[1]))
        lower = self._problem.claim(nodes.l, nodes.u, Multipliers(alpha, beta, theta, mu))
        return replace(nodes, alpha=alpha, beta=beta, theta=theta, mu=mu, lower=lower)

    def _one(self, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """alpha, beta and mu of one node; zeros, which prove nothing, where HiGHS has no answer."""
        problem, n, m = self._problem, len(l), len(self._problem.d)
        try:
            self._lp = self._lp or NodeLp(problem.problem)
        except (InputError, SolverError):
            return np.zeros(n), np.zeros(n), np.zeros(m)
        spans = [problem.span(j) for j in range(1, problem.n_hidden + 1)]
        result = self._lp.solve([l[s] for s in spans], [u[s] for s in spans], np.arange(m), problem.d)
        if result.claim is None:
            return np.zeros(n), np.zeros(n), np.zeros(m)
        lam = np.concatenate([*result.claim.lam, np.zeros(0)])
        nu = np.concatenate([*(part[0] for part in result.claim.nu), np.zeros(0)])
        return np.zeros(n), np.maximum(np.where(l >= 0, lam - nu, nu), 0.0), result.claim.mu


def preorder(phase: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tree over neurons whose leaves have given phases: its list in preorder, and the leaves in their order there.

    A tree's leaves always have a neuron that none of them leaves free, and splitting at it gives two trees again.

    Args:
        phase: +1, -1 or 0, (leaves, N); the leaves of a tree.
    """
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
        phase = phase.copy() if not split[1:] else phase
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


def _slim(problem: NodeProblem, nodes: Nodes) -> Nodes:
    """Leaves in single precision, where that closes them too."""
    single = Multipliers(*(part.astype(np.float32) for part in nodes.multipliers.parts))
    if not len(nodes) or not (problem.claim(nodes.l, nodes.u, single) > 0.0).all():
        return nodes
    return Nodes(*(part.astype(np.float32) if part.dtype.kind == "f" else part for part in nodes.arrays().values()))


def _closed(problem: NodeProblem, leaves: Nodes, P: np.ndarray) -> Closed:
    free = leaves.free
    phase = np.where(free, 0, np.where(leaves.l >= 0, 1, -1)).astype(np.int8)
    alpha = np.where(free, np.clip(leaves.alpha, 0.0, 1.0), 0.0)
    beta = np.where(free, 0.0, np.maximum(leaves.beta, 0.0))
    theta = np.maximum(leaves.theta, 0.0)
    return Closed(phase, alpha, beta, theta, leaves.mu, P, float(leaves.lower.min(initial=np.inf)))

"""Bounds of hidden neurons by a small tree each: what no relaxation of the layers below can give.

A few splits for every neuron cost seconds, and pay twice: neurons become stable, and the layers above are bounded over
what is left. On deep dense networks that settles what a tree over the whole network does not reach.

Source: Xu et al. 2021 and Zhang et al. 2022 (intermediate bounds refined by branch and bound and by programs); Tjeng et
al. 2019 (by programs); here on the dual function.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import numpy as np

from milpverify.bounds.ascent import dense_weights
from milpverify.bounds.nodes import NodeProblem
from milpverify.bounds.planes import Planes
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.processes import share
from milpverify.bounds.slopes import KappaCrown, both_signs
from milpverify.errors import OptionError
from milpverify.network.arrays import to_host
from milpverify.network.graph import Affine
from milpverify.network.operators import Dense
from milpverify.search.bounding import Ascending
from milpverify.search.domain import Nodes, Pool
from milpverify.search.planes import plane_slopes

LEAST_BATCH = 4
LEAST_GROUPS = 2  # of neurons for each worker
LOOK, HOPE = 64, 4.0  # nodes before a tree must be likely to settle its neuron, by how much more than so far it gains
POOL_BYTES = 2**30


@dataclass(frozen=True)
class NeuronTrees(KappaCrown):
    """Input-wise multipliers, and then for each neuron that stays unstable a tree over the phases below it.

    Slower than `KappaCrown` by a factor of about five, and much tighter from the third layer on.

    Attributes:
        nodes: Of one side of one neuron, at most.
        ascents: Bounds them.
        workers: Processes that share a layer's neurons, where those are enough to pay for starting them. More than one
            needs the usual `if __name__ == "__main__":` in the script.

    Neurons that nobody has come to when `ascent.ends` is over get no tree.

    Raises:
        OptionError: If `nodes` is negative, or there is no worker.
    """

    layer_kappa_steps: int = 30
    nodes: int = 400
    ascents: Ascending = field(default_factory=lambda: Ascending(batch=64))
    workers: int = 1
    name: ClassVar[str] = "trees"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nodes < 0 or self.workers < 1:
            raise OptionError(
                f"NeuronTrees: nodes={self.nodes} must not be negative, and workers={self.workers} at least 1."
            )

    def groups_after(
        self, small: DualProblem, groups: Sequence[np.ndarray], l: np.ndarray, u: np.ndarray
    ) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        if self.workers < 2 or len(groups) < LEAST_GROUPS * self.workers:
            return super().groups_after(small, groups, l, u)
        run = partial(_bounded, replace(self, workers=1), small)
        return share(
            "NeuronTrees", run, [(both_signs(some, len(l)), l[some], u[some]) for some in groups], self.workers
        )

    def neurons_after(
        self, small: DualProblem, rows: np.ndarray, l: np.ndarray, u: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return (l, u) if self.ascent.late else super().neurons_after(small, rows, l, u)

    def neurons_with_planes(
        self, small: DualProblem, rows: np.ndarray, planes: Planes, sides: np.ndarray
    ) -> np.ndarray:
        problem, n = NodeProblem.of(_only(small, rows), np.zeros(len(rows))), len(rows) // 2
        slopes, sides = plane_slopes(problem, planes), sides.copy()
        alpha = np.concatenate([to_host(part) for part in planes.slopes.alpha], axis=1)
        for i in range(n):
            for row in (i, n + i) if sides[i] > sides[n + i] else (n + i, i):  # first the side nearer to its sign
                if max(sides[i], sides[n + i]) >= 0 or self.ascent.late:
                    break
                planed = problem.with_planes(np.arange(problem.n_neurons), slopes[row])
                sides[row] = self._raised(planed, row, float(sides[row]), alpha[row : row + 1])
        return sides

    def _raised(self, problem: NodeProblem, row: int, lower: float, alpha: np.ndarray) -> float:
        """A lower bound of one row, by a tree that ends once it is not negative."""
        nodes, settled = _root(problem, row, lower, alpha), np.inf
        nodes, _ = self.ascents.bound(problem, nodes)
        pool, count = Pool(nodes, POOL_BYTES), 0
        while True:
            nodes = nodes[~(nodes.l > nodes.u).any(axis=1)]
            done = (nodes.lower >= 0) | ~nodes.free.any(axis=1)
            settled = min(settled, float(nodes.lower[done].min(initial=np.inf)))
            pool.push(nodes[~done])
            lowest = min(float(pool.lower(1)[0]), settled)
            hopeless = count >= LOOK and lowest + HOPE * (lowest - lower) < 0
            if count >= self.nodes or settled <= lowest or hopeless:
                return max(lowest, lower)
            nodes = pool.pop(max(min(self.ascents.batch, len(pool) // 2), LEAST_BATCH))
            pool.release()
            nodes, _ = self.ascents.chains(problem, nodes, len(nodes)).children(nodes)
            count += len(nodes)
            nodes, _ = self.ascents.bound(problem, nodes)


def _bounded(
    method: NeuronTrees, small: DualProblem, piece: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """What a worker does for one group of neurons."""
    return method.neurons_after(small, *piece)


def _root(problem: NodeProblem, row: int, lower: float, alpha: np.ndarray) -> Nodes:
    l, u = (side[None].copy() for side in problem.root)
    mu = np.zeros((1, len(problem.d)), problem.dtype)
    mu[0, row] = 1.0
    alpha, theta = alpha.astype(problem.dtype), np.ones((1, problem.n_neurons), problem.dtype)
    none = np.zeros_like(alpha)
    return Nodes(l, u, alpha, none, theta, mu, none, np.zeros(1, dtype=int), np.array([lower]), np.zeros(1))


def _only(small: DualProblem, rows: np.ndarray) -> DualProblem:
    """The problem on the host, with rows of its last layer in place of that layer.

    Each row is a neuron or its negative: nothing is rounded.
    """
    place = np.abs(rows).argmax(axis=1)
    sign = rows[np.arange(len(rows)), place]
    ends = np.cumsum([small.n_inputs, *(layer.size for layer in small.layers[:-1])]).tolist()
    layers = []
    for j, layer in enumerate(small.layers, start=1):
        weights, bias = dense_weights(small, j, tuple(ends)), layer.bias
        if j == len(small.layers):
            weights, bias = weights[place] * sign[:, None], bias[place] * sign
        blocks = enumerate(np.split(weights, ends[: j - 1], axis=1))
        layers.append(Affine(tuple((i, Dense(part)) for i, part in blocks), ((None, bias),), len(bias), layer.name))
    slack = (*small.slack[:-1], small.slack[-1][place])
    return replace(small, layers=tuple(layers), slack=slack, like=np.zeros(0))

"""Bounds of hidden neurons by a small tree each: what no relaxation of the layers below can give.

A few splits for every neuron cost seconds, and pay twice: neurons become stable, and the layers above are bounded over
what is left. On deep dense networks that settles what a tree over the whole network does not reach.

Source: Xu et al. 2021 and Zhang et al. 2022 (intermediate bounds refined by branch and bound and by programs); Tjeng et
al. 2019 (by programs); here on the dual function.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from milpverify.bounds.ascent import dense_weights
from milpverify.bounds.nodes import NodeProblem
from milpverify.bounds.planes import Planes
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.slopes import KappaCrown
from milpverify.errors import OptionError
from milpverify.network.arrays import to_host
from milpverify.network.graph import Affine
from milpverify.network.operators import Dense
from milpverify.search.bounding import Ascending
from milpverify.search.domain import Nodes, Pool
from milpverify.search.planes import plane_slopes

LEAST_BATCH = 4
POOL_BYTES = 2**30


@dataclass(frozen=True)
class NeuronTrees(KappaCrown):
    """Input-wise multipliers, and then for each neuron that stays unstable a tree over the phases below it.

    Slower than `KappaCrown` by a factor of about five, and much tighter from the third layer on.

    Attributes:
        nodes: Of one side of one neuron, at most.
        ascents: Bounds them.
        ends: On `time.monotonic`'s clock: neurons that nobody has come to by then get no tree.

    Raises:
        OptionError: If `nodes` is negative.
    """

    layer_kappa_steps: int = 30
    nodes: int = 100
    ascents: Ascending = field(default_factory=lambda: Ascending(batch=32))
    ends: float = math.inf
    name: ClassVar[str] = "trees"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nodes < 0:
            raise OptionError(f"NeuronTrees: nodes={self.nodes} must not be negative.")

    def neurons_after(
        self, small: DualProblem, rows: np.ndarray, l: np.ndarray, u: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return (l, u) if time.monotonic() > self.ends else super().neurons_after(small, rows, l, u)

    def neurons_with_planes(
        self, small: DualProblem, rows: np.ndarray, planes: Planes, sides: np.ndarray
    ) -> np.ndarray:
        problem, n = NodeProblem.of(_only(small, rows), np.zeros(len(rows))), len(rows) // 2
        slopes, sides = plane_slopes(problem, planes), sides.copy()
        alpha = np.concatenate([to_host(part) for part in planes.slopes.alpha], axis=1)
        for i in range(n):
            for row in (i, n + i) if sides[i] > sides[n + i] else (n + i, i):  # first the side nearer to its sign
                if max(sides[i], sides[n + i]) >= 0 or time.monotonic() > self.ends:
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
            lowest = float(pool.lower(1)[0])
            if count >= self.nodes or settled <= lowest:
                return max(min(lowest, settled), lower)
            nodes = pool.pop(max(min(self.ascents.batch, len(pool) // 2), LEAST_BATCH))
            pool.release()
            nodes, _ = self.ascents.chains(problem, nodes, len(nodes)).children(nodes)
            count += len(nodes)
            nodes, _ = self.ascents.bound(problem, nodes)


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

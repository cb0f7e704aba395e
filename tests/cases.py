"""The lists that the laws range over: networks, regions, bound methods, encodings, solvers.

A new method, encoding or solver is one row here, and every law of tests/laws applies to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from milpverify.bounds.backward import Crown, FastLin
from milpverify.bounds.method import BoundMethod, Interval
from milpverify.bounds.norms import NormBounds
from milpverify.bounds.slopes import AlphaCrown, FastLinStep, KappaCrown
from milpverify.formulation.relu import BigM, ReLUEncoding
from milpverify.network.convolution import Conv2d
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense, LinearOperator, Product, Scaling, Sum
from milpverify.program.highs import Highs
from milpverify.program.pulp_backend import Cbc, PulpHighs
from milpverify.program.solver import Solver
from milpverify.search.neuron_trees import NeuronTrees
from milpverify.spec.regions import Box, L1Ball, L2Ball, LinfBall, Region
from milpverify.tighten.lp import TriangleLP

settings.register_profile("laws", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("laws")

BOUND_METHODS: dict[str, BoundMethod] = {
    "interval": Interval(),
    "fastlin": FastLin(),
    "fastlin pure": FastLin(intersect=False),
    "crown": Crown(),
    "crown pure": Crown(intersect=False),
    "fastlin step": FastLinStep(),
    "alpha": AlphaCrown(),
    "kappa": KappaCrown(),
    "trees": NeuronTrees(nodes=12),
    "norms": NormBounds(),
    "lp": TriangleLP(),
}
ENCODINGS: dict[str, ReLUEncoding] = {"big-M": BigM(), "big-M with zhat": BigM(preactivation_columns=True)}
SOLVERS: dict[str, Solver] = {"highs": Highs(), "cbc": Cbc(), "pulp highs": PulpHighs()}


def affine(blocks: dict[int, LinearOperator], bias: np.ndarray, name: str = "") -> Affine:
    """A layer from its blocks and a stored bias."""
    return Affine(tuple(sorted(blocks.items())), ((None, bias),), len(bias), name)


def weights(rng: np.random.Generator, rows: int, columns: int) -> Dense:
    """A random matrix of float32 values, as files store them."""
    return Dense(rng.normal(size=(rows, columns)).astype(np.float32).astype(np.float64) / np.float32(np.sqrt(columns)))


def bias(rng: np.random.Generator, n: int) -> np.ndarray:
    """A random float32 bias in float64."""
    return (0.3 * rng.normal(size=n)).astype(np.float32).astype(np.float64)


def chain(rng: np.random.Generator) -> Network:
    """2 to 3 inputs, two hidden layers, 3 outputs."""
    n, a, b = rng.integers(2, 4), rng.integers(2, 5), rng.integers(2, 4)
    layers = (affine({0: weights(rng, a, n)}, bias(rng, a)), affine({1: weights(rng, b, a)}, bias(rng, b)))
    return Network((int(n),), (3,), layers, affine({2: weights(rng, 3, b)}, bias(rng, 3)))


def skip(rng: np.random.Generator) -> Network:
    """Every layer reads every earlier one and the input; lazy sums and products among the blocks."""
    first = affine({0: weights(rng, 3, 2)}, bias(rng, 3))
    through = Product((Scaling(rng.normal(size=3)), weights(rng, 3, 2)))
    second = affine({0: Sum((through, weights(rng, 3, 2))), 1: weights(rng, 3, 3)}, bias(rng, 3))
    output = affine({0: weights(rng, 2, 2), 1: weights(rng, 2, 3), 2: weights(rng, 2, 3)}, bias(rng, 2))
    return Network((2,), (2,), (first, second), output)


def convolution(rng: np.random.Generator) -> Network:
    """A padded, strided convolution on a 1x3x3 image and a dense layer."""
    kernel = rng.normal(size=(1, 1, 2, 2)).astype(np.float32).astype(np.float64)
    conv = Conv2d(kernel, (1, 3, 3), stride=(1, 2), padding=(0, 1, 1, 0))
    first = affine({0: conv}, bias(rng, conv.out_size))
    second = affine({1: weights(rng, 2, conv.out_size)}, bias(rng, 2))
    return Network((1, 3, 3), (2,), (first, second), affine({2: weights(rng, 2, 2)}, bias(rng, 2)))


NETWORKS: dict[str, Callable[[np.random.Generator], Network]] = {
    "chain": chain,
    "skip": skip,
    "convolution": convolution,
}


def box(rng: np.random.Generator, n: int) -> Region:
    """A random box, some sides of zero width."""
    middle, radius = rng.normal(size=n), rng.uniform(0.0, 1.0, n) * (rng.random(n) > 0.2)
    return Box(middle - radius, middle + radius)


REGIONS: dict[str, Callable[[np.random.Generator, int], Region]] = {
    "box": box,
    "linf clipped": lambda rng, n: LinfBall(rng.uniform(0, 1, n), rng.uniform(0.1, 0.6), clip=(0, 1)),
    "l1 clipped": lambda rng, n: L1Ball(rng.uniform(0, 1, n), rng.uniform(0.1, 1.0), clip=(0, 1)),
    "l1": lambda rng, n: L1Ball(rng.normal(size=n), rng.uniform(0.1, 1.0)),
    "l2 clipped": lambda rng, n: L2Ball(rng.uniform(0, 1, n), rng.uniform(0.1, 1.0), clip=(0, 1)),
    "l2": lambda rng, n: L2Ball(rng.normal(size=n), rng.uniform(0.1, 1.0)),
}
POLYHEDRAL = ("box", "linf clipped", "l1 clipped", "l1")

seeds = st.integers(0, 2**31 - 1)


def brute_force_minimum(net: Network, region: Region, row: np.ndarray) -> float:
    """min of row . y over a polyhedral region; see `brute_force_slack`."""
    return brute_force_slack(net, region, row[None, :], np.zeros(1))


def brute_force_slack(net: Network, region: Region, C: np.ndarray, d: np.ndarray) -> float:
    """min over the region of max_i (C_i y - d_i) by one LP per activation pattern: no bounds, no binaries.

    The region must be a polyhedron. Infinite if no pattern has a point, which cannot happen for a region that is not
    empty.
    """
    extra = region.linear_rows()
    n, aux = net.n_inputs, extra.n_aux
    dense = np.zeros((extra.n_rows, n + aux + 1))
    np.add.at(dense, (extra.rows, extra.cols), extra.vals)
    low, high = np.isfinite(extra.row_lower), np.isfinite(extra.row_upper)
    fixed = np.concatenate([dense[high], -dense[low]])
    fixed_right = np.concatenate([extra.row_upper[high], -extra.row_lower[low]])
    sides = (
        np.concatenate([region.lower, extra.aux_lower, [-np.inf]]),
        np.concatenate([region.upper, extra.aux_upper, [np.inf]]),
    )
    cost = np.zeros(n + aux + 1)
    cost[-1] = 1.0
    best = np.inf
    for pattern in itertools.product((0.0, 1.0), repeat=net.n_neurons):
        maps, rows, start = [(np.eye(n), np.zeros(n))], [], 0
        for layer in net.layers:
            W, b = _affine_map(layer, maps, n)
            on = np.array(pattern[start : start + layer.size])
            rows.append((W * (1 - 2 * on)[:, None], -b * (1 - 2 * on), 0.0))  # zhat >= 0 where on, <= 0 where off
            maps.append((W * on[:, None], b * on))
            start += layer.size
        W, b = _affine_map(net.output, maps, n)
        rows.append((C @ W, d - C @ b, -1.0))  # C y - d <= t
        A = np.concatenate(
            [np.hstack([A, np.zeros((len(A), aux)), np.full((len(A), 1), t)]) for A, _, t in rows] + [fixed]
        )
        right = np.concatenate([r for _, r, _ in rows] + [fixed_right])
        answer = linprog(cost, A_ub=A, b_ub=right, bounds=np.stack(sides, axis=1))
        if answer.status == 0:
            best = min(best, float(answer.fun))
    return best


def _affine_map(layer: Affine, maps: list[tuple[np.ndarray, np.ndarray]], n: int) -> tuple[np.ndarray, np.ndarray]:
    W, b = np.zeros((layer.size, n)), np.array(layer.bias)
    for source, op in layer.blocks:
        matrix = op.dense()
        W, b = W + matrix @ maps[source][0], b + matrix @ maps[source][1]
    return W, b

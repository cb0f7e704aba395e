"""Small networks for the tests of certificates, with inputs and their labels."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np

from milpverify.certificates.radii import Ball
from milpverify.network.convolution import Conv2d
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense, LinearOperator, Product, Scaling, Sum
from milpverify.spec.regions import L1Ball, L2Ball, LinfBall

NORMS: dict[str, type[Ball]] = {"linf": LinfBall, "l2": L2Ball, "l1": L1Ball}


def affine(blocks: dict[int, LinearOperator], bias: np.ndarray) -> Affine:
    return Affine(tuple(sorted(blocks.items())), ((None, np.asarray(bias, float)),), len(bias))


def chain(seed: int, *sizes: int) -> Network:
    """Dense layers of these sizes, the first the input's and the last the output's."""
    rng = np.random.default_rng(seed)
    layers = [
        affine({k: Dense(rng.normal(size=(b, a)) * np.sqrt(2 / a))}, 0.3 * rng.normal(size=b))
        for k, (a, b) in enumerate(pairwise(sizes))
    ]
    return Network((sizes[0],), (sizes[-1],), tuple(layers[:-1]), layers[-1])


def skips(seed: int) -> Network:
    """Every layer reads all sources below it; one block is a lazy sum of a lazy product."""
    rng = np.random.default_rng(seed)

    def dense(rows: int, columns: int) -> Dense:
        return Dense(rng.normal(size=(rows, columns)) / np.sqrt(columns))

    lazy = Sum((Product((Scaling(rng.normal(size=5)), dense(5, 3))), dense(5, 3)))
    first = affine({0: dense(6, 3)}, 0.3 * rng.normal(size=6))
    second = affine({0: lazy, 1: dense(5, 6)}, 0.3 * rng.normal(size=5))
    output = affine({0: dense(3, 3), 1: dense(3, 6), 2: dense(3, 5)}, 0.3 * rng.normal(size=3))
    return Network((3,), (3,), (first, second), output)


def convolution(seed: int) -> Network:
    """A 1x4x4 image, a strided padded convolution, a dense output with a skip from the input."""
    rng = np.random.default_rng(seed)
    conv = Conv2d(rng.normal(size=(2, 1, 3, 3)), (1, 4, 4), (2, 2), (1, 1, 1, 1))
    hidden = affine({0: conv}, 0.3 * rng.normal(size=conv.out_size))
    blocks = {0: Dense(rng.normal(size=(3, 16)) / 4), 1: Dense(rng.normal(size=(3, conv.out_size)) / 3)}
    return Network((1, 1, 4, 4), (1, 3), (hidden,), affine(blocks, rng.normal(size=3)))


NETWORKS = {"chain": lambda seed: chain(seed, 3, 7, 6, 3), "skips": skips, "convolution": convolution}


def points(net: Network, seed: int, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs, and the classes that the network gives them."""
    x = np.random.default_rng(seed).normal(size=(count, net.n_inputs))
    return x, net.forward(x).argmax(axis=1)


def length(delta: np.ndarray, ball: type[Ball]) -> np.ndarray:
    """The ball's norm over the last axis."""
    return np.linalg.norm(delta, {LinfBall: np.inf, L2Ball: 2, L1Ball: 1}[ball], axis=-1)


def exact_output(net: Network, x: list[Fraction]) -> list[Fraction]:
    """The outputs in rational arithmetic: no rounding."""
    values = [x]
    for layer in (*net.layers, net.output):
        total = [Fraction(b) for b in layer.bias.tolist()]
        for source, op in layer.blocks:
            for i, row in enumerate(op.dense().tolist()):
                total[i] += sum(Fraction(w) * v for w, v in zip(row, values[source], strict=True))
        values.append([max(t, Fraction(0)) for t in total] if layer is not net.output else total)
    return values[-1]

"""Networks for the replay tests, and a second evaluation of them in fractions that shares nothing with the package."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense, Product, Scaling
from milpverify.proof.evidence import Replay, Witness
from milpverify.spec.property import Case, Polyhedron
from milpverify.spec.regions import Region


def chain(*layers: tuple[Sequence[Sequence[float]], Sequence[float]]) -> Network:
    """Dense layers with a ReLU between each two."""
    parts = [
        Affine(((k, Dense(np.array(W, float))),), ((None, np.array(b, float)),), len(b))
        for k, (W, b) in enumerate(layers)
    ]
    n = parts[0].blocks[0][1].in_size
    return Network((n,), (parts[-1].size,), tuple(parts[:-1]), parts[-1])


def wild_network(seed: int) -> Network:
    """Two hidden layers, skips everywhere, products of maps, a bias pushed through a map, scales from 2^-30 to 2^60."""
    rng = np.random.default_rng(seed)
    sizes = [2, 4, 3]
    layers = []
    for k, size in enumerate((4, 3, 2), start=1):
        blocks = []
        for j in range(k):
            matrix = rng.normal(size=(size, sizes[j])) * 2.0 ** rng.integers(-30, 30)
            blocks.append((j, Product((Scaling(rng.normal(size=size) * 2.0 ** rng.integers(-3, 30)), Dense(matrix)))))
        terms = ((None, rng.normal(size=size)), (blocks[0][1], rng.normal(size=2)))
        layers.append(Affine(tuple(blocks), terms, size))
    return Network((2,), (2,), tuple(layers[:-1]), layers[-1])


def brute_forward(net: Network, x: Sequence[Fraction | float]) -> list[Fraction]:
    """y in fractions, entry by entry; knows the operators of `wild_network` only."""
    values = [[Fraction(v) for v in x]]
    for layer in (*net.layers, net.output):
        total = [Fraction(0)] * layer.size
        for op, vector in [
            *((op, values[j]) for j, op in layer.blocks),
            *((op, [Fraction(float(v)) for v in vector]) for op, vector in layer.bias_terms),
        ]:
            total = [a + b for a, b in zip(total, _brute_apply(op, vector), strict=True)]
        values.append([max(v, Fraction(0)) for v in total])
    return total


def _brute_apply(op: object, vector: list[Fraction]) -> list[Fraction]:
    if op is None:
        return vector
    if isinstance(op, Product):
        for factor in reversed(op.factors):
            vector = _brute_apply(factor, vector)
        return vector
    if isinstance(op, Scaling):
        return [Fraction(float(a)) * v for a, v in zip(op.diagonal, vector, strict=True)]
    assert isinstance(op, Dense)
    return [sum((Fraction(float(a)) * v for a, v in zip(row, vector, strict=True)), Fraction(0)) for row in op.matrix]


def case(region: Region, C: Sequence[Sequence[float]], d: Sequence[float], name: str = "case") -> Case:
    return Case(region, Polyhedron(np.array(C, float), np.array(d, float)), name)


def report(slack: float = -0.5, in_region: bool = True) -> Replay:
    return Replay(in_region, Fraction(slack), slack, slack)


def witness(slack: float = -0.5, in_region: bool = True) -> Witness:
    return Witness(np.array([0.1, 1.0]), np.array([2.5]), "y0 <= 3", report(slack, in_region))

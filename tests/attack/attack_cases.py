"""Small networks for the attack tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from milpverify.network.convolution import Conv2d
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense, LinearOperator
from milpverify.spec.property import Case, Polyhedron
from milpverify.spec.regions import Region


def affine(blocks: Sequence[tuple[int, LinearOperator]], bias: np.ndarray) -> Affine:
    return Affine(tuple(blocks), ((None, np.asarray(bias, float)),), len(bias))


def skip_network(seed: int, n: int = 3, hidden: Sequence[int] = (7, 6), outputs: int = 3) -> Network:
    """Every layer and the output read all sources below them."""
    rng = np.random.default_rng(seed)
    sizes = [n, *hidden]
    layers = []
    for k, size in enumerate((*hidden, outputs), start=1):
        blocks = [(j, Dense(rng.normal(size=(size, sizes[j])) / np.sqrt(sizes[j]))) for j in range(k)]
        layers.append(affine(blocks, rng.normal(size=size)))
    return Network((n,), (outputs,), tuple(layers[:-1]), layers[-1])


def convolution_network(seed: int) -> Network:
    """1x5x5 image, a strided padded convolution, a dense output with a skip from the input."""
    rng = np.random.default_rng(seed)
    conv = Conv2d(rng.normal(size=(2, 1, 3, 3)), (1, 5, 5), (2, 2), (1, 1, 1, 1))
    hidden = affine([(0, conv)], rng.normal(size=conv.out_size))
    blocks = [(0, Dense(rng.normal(size=(3, 25)))), (1, Dense(rng.normal(size=(3, conv.out_size))))]
    return Network((1, 1, 5, 5), (1, 3), (hidden,), affine(blocks, rng.normal(size=3)))


def linear_network(matrix: np.ndarray, bias: np.ndarray) -> Network:
    """y = matrix x + bias, no ReLU at all."""
    return Network((matrix.shape[1],), (matrix.shape[0],), (), affine([(0, Dense(matrix))], bias))


def case(region: Region, C: Sequence[Sequence[float]], d: Sequence[float], name: str = "case") -> Case:
    return Case(region, Polyhedron(np.array(C, float), np.array(d, float)), name)


def slack_at(net: Network, case: Case, x: np.ndarray) -> np.ndarray:
    """max_i (C_i y - d_i) at x (..., n), written out again."""
    return (net.forward(x) @ case.unsafe.C.T - case.unsafe.d).max(axis=-1)

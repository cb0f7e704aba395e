"""Random dense networks, to look at and to measure on when no trained one is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from milpverify.errors import NetworkError
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense


def random_network(sizes: Sequence[int], seed: int = 0) -> Network:
    """A dense ReLU network with weights N(0, 1/sqrt(n_in)) (standard deviation) and biases N(0, 1).

    Args:
        sizes: Inputs, neurons of each ReLU layer, outputs.
        seed: Of the generator: the same network every time.

    Raises:
        NetworkError: If there are fewer than two sizes, or one is not positive.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise NetworkError(f"random_network: sizes {list(sizes)} came, expected at least two positive ones: 2, 100, 2.")
    rng = np.random.default_rng(seed)
    layers = []
    for k, (n_in, n_out) in enumerate(pairwise(sizes)):
        W, b = rng.standard_normal((n_out, n_in)) / np.sqrt(n_in), rng.standard_normal(n_out)
        layers.append(Affine(((k, Dense(W)),), ((None, b),), n_out, f"layer {k + 1}"))
    return Network((sizes[0],), (sizes[-1],), tuple(layers[:-1]), layers[-1])

"""Small networks of two inputs, and the area within a loop."""

from itertools import pairwise

import numpy as np

from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense


def dense_net(layers) -> Network:
    """A chain of (W, b) with ReLUs in between."""
    affines = [
        Affine(((k, Dense(np.asarray(W, dtype=np.float64))),), ((None, np.asarray(b, dtype=np.float64)),), len(b))
        for k, (W, b) in enumerate(layers)
    ]
    return Network((affines[0].blocks[0][1].in_size,), (affines[-1].size,), tuple(affines[:-1]), affines[-1])


def random_net(seed: int, widths: tuple[int, ...]) -> Network:
    """Weights N(0, 2 / n_in), biases N(0, 1/4)."""
    rng = np.random.default_rng(seed)
    return dense_net((rng.normal(0.0, np.sqrt(2.0 / n), (m, n)), rng.normal(0.0, 0.5, m)) for n, m in pairwise(widths))


def two_class_net() -> Network:
    """y = (relu(x_0), relu(x_1))."""
    return dense_net([(np.eye(2), np.zeros(2)), (np.eye(2), np.zeros(2))])


def area_within(loop: np.ndarray) -> float:
    """The area within a closed loop, positive when counter-clockwise."""
    x, y = (loop - loop[0]).T
    return float(0.5 * (x * np.roll(y, -1) - np.roll(x, -1) * y).sum())

"""Networks with several classes on a plane, and the area within a loop."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from milpverify.network.graph import Network
from tests.polytope.planar_cases import network


def lively_net(seed: int, widths: tuple[int, ...]) -> Network:
    """Weights N(0, 2 / n_in), biases N(0, 1/4): no class wins everywhere."""
    rng = np.random.default_rng(seed)
    return network(*((rng.normal(0.0, np.sqrt(2.0 / n), (m, n)), rng.normal(0.0, 0.5, m)) for n, m in pairwise(widths)))


def two_class_net() -> Network:
    """y = (relu(x_0), relu(x_1))."""
    return network((np.eye(2), np.zeros(2)), (np.eye(2), np.zeros(2)))


def area_within(loop: np.ndarray) -> float:
    """The area within a closed loop, positive when counter-clockwise."""
    x, y = (loop - loop[0]).T
    return float(0.5 * (x * np.roll(y, -1) - np.roll(x, -1) * y).sum())

"""Regions with a grid on small networks, and the truth about them: every grid point, in exact rationals."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from milpverify.network.exact import forward_exact
from milpverify.network.graph import Network
from milpverify.spec.property import Case
from milpverify.spec.regions import Box, Grid, L1Ball, L2Ball, LinfBall, Region
from tests.cases import NETWORKS

STEPS = 3


def grid_points(region: Region) -> Iterator[tuple[Fraction, ...]]:
    """Every point of a region with a grid, decided by the definition alone."""
    assert region.grid is not None
    steps, sides = region.grid.steps, []
    for low, high in zip(region.exact_lower, region.exact_upper, strict=True):
        indices = range(int(np.floor(float(low) * steps)) - 1, int(np.ceil(float(high) * steps)) + 2)
        sides.append([q for q in (Fraction(k, steps) for k in indices) if low <= q <= high])
    return (point for point in itertools.product(*sides) if region.contains(list(point)))


def least_slack(net: Network, case: Case) -> Fraction:
    """The exact least slack of a case over the grid points of its region."""
    return min(case.unsafe.slack_exact(forward_exact(net, point)) for point in grid_points(case.region))


def network(seed: int, kind: str = "chain") -> Network:
    """A random small network."""
    return NETWORKS[kind](np.random.default_rng(seed))


def grid_regions(n: int, seed: int) -> dict[str, Region]:
    """One region of every kind around a random point, with a grid of `STEPS` points a unit."""
    rng = np.random.default_rng(seed)
    centre, grid = rng.normal(size=n), Grid(STEPS)
    cut = rng.normal(size=n)
    box = Box(centre - 1.0 * rng.random(n) - 0.2, centre + 1.0 * rng.random(n) + 0.2)
    return {
        "box": box.with_grid(grid),
        "box with a cut": box.with_cuts(cut, float(cut @ centre) + 0.3).with_grid(grid),
        "linf": LinfBall(centre, 0.8, grid=grid),
        "linf clipped": LinfBall(centre, 1.0, clip=(centre - 0.3, centre + 2.0), grid=grid),
        "l1": L1Ball(centre, 1.4, grid=grid),
        "l2": L2Ball(centre, 1.0, grid=grid),
    }

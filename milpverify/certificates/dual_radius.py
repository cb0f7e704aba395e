"""The dual radius: the largest ball that a bound method proves, by bisection. Every step is a proof."""

from __future__ import annotations

from typing import Any

import numpy as np

from milpverify.bounds.backward import Crown, FastLin
from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.bounds.method import BoundMethod
from milpverify.certificates.radii import (
    Ball,
    CertifiedRadii,
    Exactness,
    check_ball,
    class_labels,
    enclosed,
    margin_rows,
    numpy_inputs,
)
from milpverify.errors import BoundsError, OptionError, RegionError
from milpverify.network.graph import Network
from milpverify.spec.regions import LinfBall

FIRST = 2.0**-6  # the first radius tried, in units of the input
LARGEST = 2.0**60  # beyond that a network's margin is taken not to depend on its input
SHRINKS = (*(2.0**-p for p in (44, 38, 32, 26, 20, 14, 8, 5, 3, 2, 1)),)


def dual_radius(
    net: Network,
    x: Any,
    labels: Any,
    *,
    ball: type[Ball] = LinfBall,
    clip: tuple[float, float] | None = None,
    method: BoundMethod | None = None,
    relative_gap: float = 1e-3,
) -> CertifiedRadii:
    """The largest radius at which bounds prove every margin positive, found by bisection. Rounded.

    Args:
        net: The network, numpy operators.
        x: One input or a batch.
        labels: The class of each.
        ball: Of the norm.
        clip: Range the perturbed input must stay in; the radius is then about inputs in that range.
        method: `FastLin(intersect=False)` when None, the dual bound of Wong & Kolter.
        relative_gap: The bisection ends when the radius proven and one not proven differ by less.

    Returns:
        Radii that are proven; with a clip, infinite where the whole range is.

    Raises:
        NetworkError, PropertyError, RegionError, OptionError: If an argument does not fit.

    Source:
        Wong & Kolter 2018, section 5 (bisection for the largest certified eps); Weng et al. 2018, algorithm 1.
    """
    who = "dual_radius"
    check_ball(who, ball)
    if not 0 < relative_gap < 1:
        raise OptionError(f"{who}: relative_gap must lie between 0 and 1, got {relative_gap}.")
    x = numpy_inputs(who, net, x)
    labels = class_labels(who, net, labels, len(x))
    _, margin = enclosed(net, x, margin_rows(labels, net.n_outputs))
    correct = (margin > 0).all(axis=1)
    method = FastLin(intersect=False) if method is None else method
    value = np.zeros(len(x))
    for i in np.flatnonzero(correct):
        value[i] = _bisected(net, ball(x[i], FIRST, clip=clip), int(labels[i]), method, relative_gap)
    return CertifiedRadii(value, correct, Exactness.ROUNDED)


def proves(net: Network, region: Ball, label: int, method: BoundMethod | None = None) -> bool:
    """Whether bounds prove that the label is strictly on top everywhere in a region. Rounded.

    Args:
        net: The network, numpy operators.
        region: Any ball.
        label: The class.
        method: `Crown()` when None.
    """
    rows = margin_rows(np.array([label]), net.n_outputs)[0]
    try:
        bounds = compute_bounds(net, region, method)
        return bool((bound_rows(net, region, bounds, rows, method).value > 0).all())
    except BoundsError:  # overflow in a huge ball: nothing is proven
        return False


def proven_below(net: Network, x: np.ndarray, label: int, ball: type[Ball], radius: float) -> float:
    """A radius just below one that floating point computed, at which `Crown()` bounds prove the label. Rounded.

    Where no neuron changes its phase these bounds are exact, so that next to nothing is lost.

    Args:
        net: The network, numpy operators.
        x: Shape (n_inputs,).
        label: The class.
        ball: Of the norm.
        radius: What floating point claims; at least 0.

    Returns:
        At most `radius`; 0 where nothing near it is proven. In place of infinity, what bisection proves.
    """
    if np.isinf(radius):
        return _bisected(net, ball(x, FIRST), label, Crown(), 1e-3)
    for shrink in SHRINKS:
        eps = radius * (1.0 - shrink)
        if eps > 0 and proves(net, ball(x, eps), label, Crown()):
            return eps
    return 0.0


def _bisected(net: Network, region: Ball, label: int, method: BoundMethod, relative_gap: float) -> float:
    """Double or halve from the region's own radius, then bisect."""

    def proven(eps: float) -> bool:
        try:
            return proves(net, region.scaled_to(eps), label, method)
        except RegionError:  # center + eps overflows
            return False

    low, high = 0.0, FIRST
    while proven(high):
        low, high = high, 2.0 * high
        if low >= _reach(region) or low > LARGEST:
            return np.inf if low >= _reach(region) else low
    while low == 0.0 and high > 2.0**-60:
        if proven(high / 2.0):
            low = high / 2.0
        else:
            high /= 2.0
    while low > 0.0 and high - low > relative_gap * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if proven(middle) else (low, middle)
    return low


def _reach(region: Ball) -> float:
    """A radius that covers the clip, in L1 and so in every norm; infinite without one."""
    if region.clip is None:
        return np.inf
    low, high = region.clip
    farthest = np.maximum(np.abs(low - region.center), np.abs(high - region.center))
    return float(farthest.sum() * (1.0 + 2.0**-30))

r"""The decision boundary certificate of two-layer networks: a margin over how fast it can fall, phases unknown.

Let m(x) = v . relu(W x + b) + c be the margin against one target, v = W_2^T (e_label - e_target), and zhat = W x + b.
By the mean value theorem, neuron by neuron,

    m(x + delta) = m(x) + sum_i v_i t_i w_i . delta        with some t_i in [lo_i, hi_i],

where within ||delta|| <= r a neuron moves by at most r ||w_i||_*, so with rho_i = |zhat_i| / (r ||w_i||_*) the slopes
lie in [1, 1] or [0, 0] if rho_i >= 1 (open or closed), else in [rho_i, 1] (open) or [0, 1 - rho_i] (closed). Hence

    r D(r) < m(x)  proves the ball,        D(r) = max over t of || W^T (v * t) ||_*.

The published certificate takes the decision boundary for the hyperplanes of all patterns a in {0, 1}^n that occur:
there the numerator is min_a |v . (a * zhat) + c|, a linear program over a box with a closed form, m(x) - sum over the
neurons that can flip of max(v_i, 0) |zhat_i|, and t is any such a. It can never exceed the above, and is returned
beside it.

With middles c_i and half widths h_i of the slopes, D(r) is at most
||W^T (v * c)||_* plus the maximum of ||W^T (v * h * s)||_* over |s| <= 1, and that

    <=  sum_i |v_i| h_i ||w_i||_*                 (any norm)
    <=  || sum_i |w_i| |v_i| h_i ||_*               (any norm, entry by entry)
    <=  sigma(W) ||v * h||_2                        (L2; times sqrt(n) in L-inf)
    <=  sigma(W / ||w||_2) || |v| h ||w||_2 ||_2    (likewise, with rows of length 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from milpverify.certificates.gains import TINY, dual_norms_above, row_norms_above, spectral_norm_above
from milpverify.certificates.radii import (
    Ball,
    CertifiedRadii,
    Exactness,
    check_ball,
    class_labels,
    enclosed,
    margin_rows,
    need_plain_layers,
    numpy_inputs,
)
from milpverify.errors import OptionError
from milpverify.network.graph import UNIT, Network
from milpverify.network.operators import Product, Sum
from milpverify.spec.regions import L1Ball, L2Ball, LinfBall

OUTWARD = 2.0**-48  # by which slopes are widened: more than their rounding
STEPS = 60  # of a bisection, at most


@dataclass(frozen=True, eq=False)
class DecisionBoundaryCertificate(CertifiedRadii):
    """Radii by mean slopes, and by the hyperplanes of all patterns.

    Attributes:
        hyperplanes: The same with the numerator of the hyperplanes, shape (batch,); at most `value` up to the
            bisection's gap.
    """

    hyperplanes: np.ndarray


def decision_boundary_certificate(
    net: Network, x: Any, labels: Any, *, ball: type[Ball] = L2Ball, relative_gap: float = 1e-3
) -> DecisionBoundaryCertificate:
    """The largest r with r D(r) < m(x) for every target, by bisection. Rounded: each step is a proof.

    Args:
        net: One hidden layer, no skip connection; numpy operators. Its weights are made dense.
        x: One input or a batch.
        labels: The class of each.
        ball: Of the norm.
        relative_gap: Where the bisections end.

    Raises:
        UnsupportedError: If the network is deeper, or not a chain.
        NetworkError, PropertyError, OptionError: If another argument does not fit.

    Source:
        Singla & Feizi 2019, "Robustness certificates against adversarial examples for ReLU networks" (the decision
        boundary certificate of two-layer networks: a linear program over spectral norms). The slopes' ranges, and so
        the margin itself as numerator, are our own; Higham 2002, section 3.1 for the rounding.
    """
    who = "decision_boundary_certificate"
    check_ball(who, ball)
    need_plain_layers(who, net, 1)
    if not 0 < relative_gap < 1:
        raise OptionError(f"{who}: relative_gap must lie between 0 and 1, got {relative_gap}.")
    x = numpy_inputs(who, net, x)
    labels = class_labels(who, net, labels, len(x))
    rows = margin_rows(labels, net.n_outputs)
    bounds, margin = enclosed(net, x, rows)
    correct = (margin > 0).all(axis=1)
    weights = _Weights.of(net, ball)
    value, planes = np.zeros(len(x)), np.zeros(len(x))
    for i in np.flatnonzero(correct):
        l, u = bounds.lower[0][i], bounds.upper[0][i]
        targets = [_Target.of(net, weights, row, m, l, u) for row, m in zip(rows[i], margin[i], strict=True)]
        value[i] = min(_bisected(t.falls_short, relative_gap) for t in targets)
        planes[i] = min(_bisected(t.hyperplanes_apart, relative_gap) for t in targets)
    return DecisionBoundaryCertificate(value, correct, Exactness.ROUNDED, planes)


@dataclass(frozen=True, eq=False)
class _Weights:
    """What depends on the network alone: W, the norms of its rows and its spectral norms, all from above."""

    ball: type[Ball]
    W: np.ndarray
    size: np.ndarray  # at least |W|
    dual: np.ndarray
    euclid: np.ndarray
    sigma: float
    sigma_unit: float

    @classmethod
    def of(cls, net: Network, ball: type[Ball]) -> _Weights:
        op = net.layers[0].blocks[0][1]
        W, dual, euclid = op.dense(), row_norms_above(op, ball), row_norms_above(op, L2Ball)
        lost, frobenius = np.zeros_like(W), 0.0
        if isinstance(op, Sum | Product):  # their entries are rounded, by no more than this share of the magnitude's
            lost = 4.0 * (op.roundings + op.in_size + 8) * UNIT * op.absolute.dense() + TINY
            frobenius = float(dual_norms_above(lost.reshape(-1), L2Ball))
        least = float(euclid.min(initial=np.inf))
        sigma_unit = spectral_norm_above(W / euclid[:, None]) + frobenius / least + 4.0 * UNIT * np.sqrt(len(W))
        return cls(ball, W, np.abs(W) + lost, dual, euclid, spectral_norm_above(W) + frobenius, sigma_unit)

    def spread(self, reach: np.ndarray) -> float:
        """An upper bound of max ||W^T (reach * s)||_* over |s| <= 1; reach >= 0 of shape (n,)."""
        per_entry = float(dual_norms_above((reach @ self.size) * (1.0 + 4.0 * (len(reach) + 4) * UNIT), self.ball))
        by_rows = float((reach * self.dual).sum())
        if self.ball is L1Ball:
            return per_entry
        weighted = self.sigma_unit * float(dual_norms_above(reach * self.euclid, L2Ball))
        spectral = min(self.sigma * float(dual_norms_above(reach, L2Ball)), weighted)
        factor = np.sqrt(self.W.shape[1]) if self.ball is LinfBall else 1.0
        return float(min(per_entry, by_rows, spectral * factor) * (1.0 + 8.0 * (len(reach) + 4) * UNIT))


@dataclass(frozen=True, eq=False)
class _Target:
    """One margin at one input.

    Attributes:
        v: Shape (n,), floating; v_size is at least |v| and v_high at least v, exactly.
        margin: At most m(x).
        distance: At most |zhat_i| / ||w_i||_*, shape (n,); 0 where the sign of zhat_i is not sure.
        height: At least |zhat_i|.
        open: Whether zhat_i may be positive.
        lost: At least the error of every entry of W^T (v * c), shape (n_inputs,).
    """

    weights: _Weights
    v: np.ndarray
    v_size: np.ndarray
    v_high: np.ndarray
    margin: float
    distance: np.ndarray
    height: np.ndarray
    open: np.ndarray
    lost: np.ndarray

    @classmethod
    def of(
        cls, net: Network, weights: _Weights, row: np.ndarray, margin: float, l: np.ndarray, u: np.ndarray
    ) -> _Target:
        op = net.output.blocks[0][1]
        v = op.transpose_apply(row)
        error = 4.0 * (op.roundings + op.out_size + 8) * UNIT * op.absolute.transpose_apply(np.abs(row)) + TINY
        v_size = (np.abs(v) + error) * (1.0 + 4.0 * UNIT)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.nextafter(np.maximum(np.maximum(l, -u), 0.0) / weights.dual, 0.0)
        distance[weights.dual == 0] = np.inf  # it never moves
        n = len(v)
        lost = (8.0 * (n + 8) * UNIT * v_size + 2.0 * error) @ weights.size + TINY
        lost += v_size @ (weights.size - np.abs(weights.W)) * 2.0
        height = np.maximum(np.abs(l), np.abs(u))
        return cls(weights, v, v_size, np.maximum(v + 2.0 * error, 0.0), float(margin), distance, height, u > 0, lost)

    def falls_short(self, r: float) -> bool:
        """Whether r D(r) < m(x). Rounded: True is a proof."""
        with np.errstate(over="ignore"):
            rho = np.minimum(self.distance / r * (1.0 - 8.0 * UNIT), 1.0)
        wide = rho < 1.0
        low = np.where(self.open, np.where(self.distance > 0, rho, 0.0) - OUTWARD * wide, 0.0)
        high = np.where(self.open, 1.0, np.where(wide, 1.0 - rho + OUTWARD, 0.0))
        return self._below(r, np.maximum(low, 0.0), np.minimum(high, 1.0), self.margin)

    def hyperplanes_apart(self, r: float) -> bool:
        """Whether all hyperplanes that hold the boundary within r are farther than r. Rounded: True is a proof."""
        flips = self.distance < r * (1.0 + 8.0 * UNIT)
        low = np.where(flips | ~self.open, 0.0, 1.0)
        high = np.where(flips | self.open, 1.0, 0.0)
        falls = np.where(flips, self.v_high * self.height, 0.0).sum() * (1.0 + 4.0 * (len(low) + 8) * UNIT)
        return self._below(r, low, high, float(np.nextafter(self.margin - falls, -np.inf)))

    def _below(self, r: float, low: np.ndarray, high: np.ndarray, numerator: float) -> bool:
        middle, half = (low + high) / 2.0, (high - low) / 2.0
        half = np.where(half > 0, half + OUTWARD, 0.0)
        fixed = np.abs((self.v * middle) @ self.weights.W) + self.lost
        speed = float(dual_norms_above(fixed, self.weights.ball)) + self.weights.spread(self.v_size * half)
        return bool(r * speed * (1.0 + 8.0 * UNIT) < numerator)


def _bisected(proves: Callable[[float], bool], relative_gap: float) -> float:
    """The largest r that proves, up to the gap: doubled or halved from 1, then bisected."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        if not proves(high):
            break
        low, high = high, 2.0 * high
    else:
        return low
    for _ in range(STEPS):
        if low > 0.0 or proves(high / 2.0):
            low = max(low, high / 2.0)
            break
        high /= 2.0
    while low > 0.0 and high - low > relative_gap * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if proves(middle) else (low, middle)
    return low

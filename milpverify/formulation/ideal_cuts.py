r"""The ideal inequalities of single neurons: separated in closed form, for all neurons of a layer at once.

A neuron z = relu(w.t + b) over inputs t in a box; m_i and h_i are the least and the largest w_i t_i. For any vector g,

    z <= g.t + R + P a       with   R = max_box(-g.t),   P + R = b + max_box((w - g).t)

holds at a = 0, z = 0 and at a = 1, z = w.t + b: a row for programs with the binary a. Without it, the larger of the two
right-hand sides counts:    z <= g.t + max(R, P + R).

*With a.* g_i = w_i on a set I of inputs and 0 elsewhere: with the big-M rows, all sets together are the convex hull of
{ (t, a, z) }. At a point, the most violated one has I = { i : w_i t_i - m_i (1 - a) < h_i a }.

*Without.* g = gamma w with gamma in [0, 1]. The best upper bound of z at a point t is a fractional knapsack,

    min sum_i gamma_i (w_i t_i - m_i)    subject to    sum_i gamma_i (h_i - m_i) = b + sum_i h_i,

filled in the order of (w_i t_i - m_i) / (h_i - m_i): all gamma_i are 0 or 1 but one. Together they are the convex hull
of { (t, z) } from above.

Both hold wherever the box does: R and P are computed anew for another box (`right_sides`), g stays.

Source: Anderson, Huchette, Ma, Tjandraatmadja & Vielma 2020, theorem 1 and proposition 2 (with a, and its separation);
Tjandraatmadja, Anderson, Huchette, Ma, Patel & Vielma 2020, theorem 1 and proposition 2 (without).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from milpverify.network.graph import UNIT

TINY = 1e-9  # coefficients below that share of a neuron's largest weight are left out, and so are
DROPPED = 1e-11  # those below that: solvers would drop them


class Box(NamedTuple):
    """Bounds of all inputs of a layer, each of shape (n_inputs,)."""

    lower: np.ndarray
    upper: np.ndarray


@dataclass(frozen=True, eq=False)
class Neurons:
    """The neurons of a layer, by what they read.

    Attributes:
        columns: The inputs with a weight, shape (n, r); -1 fills up.
        weights: Their weights, shape (n, r), 0 where `columns` fills up.
        bias: Shape (n,).
        error: How far the exact pre-activations can be from w.t + b, shape (n,).
    """

    columns: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    error: np.ndarray

    @classmethod
    def of(cls, W: np.ndarray, bias: np.ndarray, error: np.ndarray | float = 0.0) -> Neurons:
        """From a dense matrix, shape (n, n_inputs)."""
        used = W != 0
        count = used.sum(axis=1)
        width = int(count.max(initial=0))
        order = np.argsort(~used, axis=1, kind="stable")[:, :width]
        listed = np.arange(width) < count[:, None]
        weights = np.where(listed, np.take_along_axis(W, order, axis=1), 0.0)
        return cls(np.where(listed, order, -1), weights, bias, np.broadcast_to(error, bias.shape))

    def __getitem__(self, index: np.ndarray) -> Neurons:
        return Neurons(self.columns[index], self.weights[index], self.bias[index], self.error[index])

    def read(self, values: np.ndarray) -> np.ndarray:
        """Each neuron's inputs out of all inputs (n_inputs,), shape (n, r); 0 where `columns` fills up."""
        return np.where(self.columns >= 0, values[self.columns], 0.0)

    def spread(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """m and h, the least and the largest w_i t_i, each (n, r)."""
        low, high = self.weights * self.read(box.lower), self.weights * self.read(box.upper)
        return np.minimum(low, high), np.maximum(low, high)


@dataclass(frozen=True, eq=False)
class IdealCuts:
    """Rows z - g.t - phase a <= right, one per entry; without binaries `phase` is 0.

    Attributes:
        neurons: Whose z, shape (q,); one neuron may have several.
        slopes: g on the neuron's inputs (`Neurons.columns`), shape (q, r).
        phase, right: Shape (q,).
        violation: At the point that was separated, in units of z, shape (q,).
    """

    neurons: np.ndarray
    slopes: np.ndarray
    phase: np.ndarray
    right: np.ndarray
    violation: np.ndarray

    def __len__(self) -> int:
        return len(self.neurons)

    def __getitem__(self, index: np.ndarray) -> IdealCuts:
        parts = (self.neurons, self.slopes, self.phase, self.right, self.violation)
        return IdealCuts(*(part[index] for part in parts))


def right_sides(neurons: Neurons, slopes: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """R and P + R of a slope g for each of some neurons, as its inputs' box asks. Rounded up.

    Args:
        neurons: One per row of `slopes`.
        slopes: Any g, shape (q, r).
        box: Of all inputs.
    """
    low, high = neurons.read(box.lower), neurons.read(box.upper)
    rest = neurons.weights - slopes
    off = -np.minimum(slopes * low, slopes * high).sum(axis=1)
    on = neurons.bias + np.maximum(rest * low, rest * high).sum(axis=1)
    size = ((np.abs(neurons.weights) + np.abs(slopes)) * np.maximum(np.abs(low), np.abs(high))).sum(axis=1)
    lost = 2.0 * (slopes.shape[1] + 6) * UNIT * (size + np.abs(neurons.bias)) + 2.0**-1000
    return off + lost, on + lost + neurons.error * (1.0 + 2.0**-40)


def without_phases(neurons: Neurons, box: Box, t: np.ndarray, z: np.ndarray, least: float = 1e-6) -> IdealCuts:
    """The most violated inequality in (t, z) of each neuron that has one. Valid: rounded outward.

    Args:
        neurons: Of one layer.
        box: Of its inputs.
        t: The inputs of a point, shape (n_inputs,).
        z: The neurons' outputs there, shape (n,).
        least: Violations up to that are none, in units of z.
    """
    m, h = neurons.spread(box)
    width, cap = h - m, neurons.bias + h.sum(axis=1)
    over = np.clip(neurons.weights * neurons.read(t) - m, 0.0, width)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(width > 0, over / width, np.inf)
        order = np.argsort(ratio, axis=1, kind="stable")
        filled = np.take_along_axis(width, order, axis=1)
        room = cap[:, None] - (np.cumsum(filled, axis=1) - filled)
        share = np.where(filled > 0, np.clip(room / filled, 0.0, 1.0), 0.0)
    gamma = np.zeros_like(width)
    np.put_along_axis(gamma, order, share, axis=1)
    slopes = _without_tiny(gamma * neurons.weights, neurons.weights)
    off, on = right_sides(neurons, slopes, box)
    right = np.maximum(off, on)
    violation = z - (slopes * neurons.read(t)).sum(axis=1) - right
    # Where the box fixes the neuron's sign, its upper side is the triangle's.
    wanted = (violation > least) & (cap > 0) & (neurons.bias + m.sum(axis=1) < 0)
    every = np.arange(len(z))
    return IdealCuts(every, slopes, np.zeros(len(z)), right, violation)[wanted]


def with_phases(
    neurons: Neurons, box: Box, t: np.ndarray, z: np.ndarray, a: np.ndarray, least: float = 1e-6
) -> IdealCuts:
    """The most violated inequality in (t, a, z) of each neuron that has one. Valid where a is 0 or 1: rounded outward.

    Args:
        neurons, box, t, z, least: As in `without_phases`.
        a: The neurons' phases at the point, in [0, 1], shape (n,).
    """
    m, h = neurons.spread(box)
    values, phase = neurons.weights * neurons.read(t), np.clip(a, 0.0, 1.0)[:, None]
    chosen = values - m * (1.0 - phase) < h * phase
    slopes = _without_tiny(np.where(chosen, neurons.weights, 0.0), neurons.weights)
    off, on = right_sides(neurons, slopes, box)
    step = np.nextafter(on - off, np.inf)
    flat = np.abs(step) <= DROPPED
    off, step = np.where(flat, np.maximum(off, on), off), np.where(flat, 0.0, step)
    violation = z - (slopes * neurons.read(t)).sum(axis=1) - off - step * a
    return IdealCuts(np.arange(len(z)), slopes, step, off, violation)[violation > least]


def _without_tiny(slopes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    least = np.maximum(TINY * np.abs(weights).max(axis=1, initial=0.0), DROPPED)
    return np.where(np.abs(slopes) > least[:, None], slopes, 0.0)

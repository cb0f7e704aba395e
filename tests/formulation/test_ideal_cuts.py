"""Laws of ideal inequalities: no point of a neuron's graph is ever cut, and separated to the end they are its hull."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from scipy.optimize import linprog

from milpverify.formulation.ideal_cuts import Box, IdealCuts, Neurons, right_sides, with_phases, without_phases
from tests.cases import seeds


def layer(rng: np.random.Generator, n: int = 4, inputs: int = 5) -> tuple[Neurons, Box, np.ndarray]:
    """Neurons that read some of the inputs of a box, where some sides have no width, and their dense weights."""
    W = rng.normal(size=(n, inputs)) * (rng.random((n, inputs)) > 0.3)
    middle, radius = rng.normal(size=inputs), rng.uniform(0.0, 1.0, inputs) * (rng.random(inputs) > 0.2)
    bias = 0.3 * rng.normal(size=n) - W @ middle
    return Neurons.of(W, bias), Box(middle - radius, middle + radius), W


def any_point(rng: np.random.Generator, neurons: Neurons, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """t in the box, z far above most upper sides, a in [0, 1]."""
    share = rng.random(len(box.lower))
    t = box.lower * (1 - share) + box.upper * share
    return t, rng.uniform(0.0, 3.0, len(neurons.bias)), rng.random(len(neurons.bias))


def separated(rng: np.random.Generator, neurons: Neurons, box: Box, phases: bool) -> IdealCuts:
    t, z, a = any_point(rng, neurons, box)
    return with_phases(neurons, box, t, z, a) if phases else without_phases(neurons, box, t, z)


def exact(values: np.ndarray) -> list[Fraction]:
    return [Fraction(float(v)) for v in values]


def graph_points(rng: np.random.Generator, w: np.ndarray, b: float, box: Box) -> list[list[Fraction]]:
    """Rational inputs where a neuron's cuts are tightest: corners, points of the kink on edges, and some inside."""
    low, high = exact(box.lower), exact(box.upper)
    points = [list(corner) for corner in product(*zip(low, high, strict=True))]
    weights, bias = exact(w), Fraction(b)
    for corner in list(points):
        value = bias + sum(a * t for a, t in zip(weights, corner, strict=True))
        for i, (a, lo, hi) in enumerate(zip(weights, low, high, strict=True)):
            if a and lo <= (kink := corner[i] - value / a) <= hi:
                points.append([*corner[:i], kink, *corner[i + 1 :]])
    for _ in range(20):
        share = exact(rng.random(len(low)))
        points.append([lo + s * (hi - lo) for lo, hi, s in zip(low, high, share, strict=True)])
    return points


@pytest.mark.parametrize("phases", (False, True))
@given(seed=seeds)
def test_no_point_of_the_graph_is_cut(phases: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    neurons, box, W = layer(rng)
    for _ in range(2):
        cuts = separated(rng, neurons, box, phases)
        for k, i in enumerate(cuts.neurons):
            slopes, phase, right = exact(cuts.slopes[k]), Fraction(cuts.phase[k]), Fraction(cuts.right[k])
            weights, bias = exact(W[i]), Fraction(float(neurons.bias[i]))
            for t in graph_points(rng, W[i], float(neurons.bias[i]), box):
                p = bias + sum(a * v for a, v in zip(weights, t, strict=True))
                read = sum(g * t[c] for g, c in zip(slopes, neurons.columns[i].tolist(), strict=True) if c >= 0)
                # At p = 0 either phase is allowed.
                assert max(p, Fraction(0)) - read - (phase if p > 0 else 0) <= right
                if p == 0:
                    assert -read - phase <= right


@pytest.mark.parametrize("phases", (False, True))
@given(seed=seeds)
def test_what_the_point_violates_is_cut_off_by_as_much_as_is_said(phases: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    neurons, box, _ = layer(rng)
    t, z, a = any_point(rng, neurons, box)
    cuts = with_phases(neurons, box, t, z, a) if phases else without_phases(neurons, box, t, z)
    some = neurons[cuts.neurons]
    left = z[cuts.neurons] - (cuts.slopes * some.read(t)).sum(axis=1) - cuts.phase * a[cuts.neurons]
    assert left - cuts.right == pytest.approx(cuts.violation, abs=1e-12)
    assert (cuts.violation > 0).all()


@given(seed=seeds)
def test_slopes_of_one_box_with_the_right_side_of_a_smaller_one_cut_nothing_of_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    neurons, box, W = layer(rng)
    cuts = separated(rng, neurons, box, False)
    ends = np.sort(rng.random((2, len(box.lower))), axis=0)
    small = Box(*(box.lower + share * (box.upper - box.lower) for share in ends))
    off, on = right_sides(neurons[cuts.neurons], cuts.slopes, small)
    share = rng.random((200, len(box.lower)))
    points = small.lower + share * (small.upper - small.lower)
    for k, i in enumerate(cuts.neurons):
        z = np.maximum(points @ W[i] + neurons.bias[i], 0.0)
        read = np.array([neurons[np.array([i])].read(t)[0] @ cuts.slopes[k] for t in points])
        assert (z - read <= max(off[k], on[k]) + 1e-12).all()
        assert max(off[k], on[k]) <= cuts.right[k] + 1e-9


def hull_above(w: np.ndarray, b: float, box: Box, t: np.ndarray) -> float:
    """The largest z with (t, z) in the convex hull of a neuron's graph: t as a mean of two halves, one a side."""
    # t = t0 + t1 with t0 in (1 - a) box and w.t0 + b (1 - a) <= 0, t1 in a box and w.t1 + b a >= 0; z = w.t1 + b a.
    n = len(w)
    cost = np.concatenate([np.zeros(n), -w, [-b]])
    equal = np.hstack([np.eye(n), np.eye(n), np.zeros((n, 1))])
    eye, none = np.eye(n), np.zeros((n, n))
    rows = [
        np.concatenate([w, np.zeros(n), [-b]])[None],
        np.concatenate([np.zeros(n), -w, [-b]])[None],
        np.hstack([eye, none, box.upper[:, None]]),
        np.hstack([-eye, none, -box.lower[:, None]]),
        np.hstack([none, eye, -box.upper[:, None]]),
        np.hstack([none, -eye, box.lower[:, None]]),
    ]
    right = np.concatenate([[-b, 0.0], box.upper, -box.lower, np.zeros(2 * n)])
    sides = [(None, None)] * (2 * n) + [(0.0, 1.0)]
    answer = linprog(cost, A_ub=np.concatenate(rows), b_ub=right, A_eq=equal, b_eq=t, bounds=sides)
    assert answer.status == 0
    return float(-answer.fun)


@given(seed=seeds)
def test_the_best_inequality_at_a_point_is_the_upper_side_of_the_hull(seed: int) -> None:
    rng = np.random.default_rng(seed)
    neurons, box, W = layer(rng)
    t, _, _ = any_point(rng, neurons, box)
    z = np.full(len(neurons.bias), 100.0)
    cuts = without_phases(neurons, box, t, z)
    m, h = neurons.spread(box)
    crossing = (neurons.bias + m.sum(axis=1) < 0) & (neurons.bias + h.sum(axis=1) > 0)
    assert cuts.neurons.tolist() == np.flatnonzero(crossing).tolist()
    for i, violation in zip(cuts.neurons, cuts.violation, strict=True):
        assert 100.0 - violation == pytest.approx(hull_above(W[i], float(neurons.bias[i]), box, t), abs=1e-7)


def maximised(
    separate: Callable[[np.ndarray, np.ndarray, np.ndarray], IdealCuts], neurons: Neurons, box: Box, cost: np.ndarray
) -> float:
    """max z - cost.t over one neuron, its cuts added until none is violated; columns t, z, a."""
    n = len(box.lower)
    rows: list[np.ndarray] = []
    right: list[float] = []
    top = 10.0 + float(np.abs(neurons.weights).sum() * np.abs(np.stack(box)).max() + np.abs(neurons.bias).max())
    sides = [*zip(box.lower, box.upper, strict=True), (0.0, top), (0.0, 1.0)]
    for _ in range(200):
        A, b = (np.array(rows), np.array(right)) if rows else (None, None)
        answer = linprog(np.concatenate([cost, [-1.0, 0.0]]), A_ub=A, b_ub=b, bounds=sides)
        assert answer.status == 0
        cuts = separate(answer.x[:n], answer.x[n : n + 1], answer.x[n + 1 :])
        if not len(cuts):
            return float(-answer.fun)
        dense = np.zeros(n + 2)
        listed = neurons.columns[0] >= 0
        dense[neurons.columns[0][listed]] = -cuts.slopes[0][listed]
        dense[n:] = 1.0, -cuts.phase[0]
        rows, right = [*rows, dense], [*right, float(cuts.right[0])]
    raise AssertionError("separation does not end")


@pytest.mark.parametrize("phases", (False, True))
@given(seed=seeds)
def test_separated_to_the_end_one_neuron_is_its_convex_hull(phases: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    neurons, box, W = layer(rng, n=1, inputs=4)
    m, h = neurons.spread(box)
    if not neurons.bias[0] + m.sum() < 0 < neurons.bias[0] + h.sum():
        return
    cost = rng.normal(size=4) * 0.7

    def separate(t: np.ndarray, z: np.ndarray, a: np.ndarray) -> IdealCuts:
        if phases:
            return with_phases(neurons, box, t, z, a, 1e-7)
        return without_phases(neurons, box, t, z, 1e-7)

    # The truth: z - cost.t is convex in t on the graph, and largest at a corner of the box.
    corners = np.array(list(product(*zip(box.lower, box.upper, strict=True))))
    truth = (np.maximum(corners @ W[0] + neurons.bias[0], 0.0) - corners @ cost).max()
    assert maximised(separate, neurons, box, cost) == pytest.approx(truth, abs=1e-5)

"""Rounded radii never exceed the exact distance to the nearest input without its label, not by the last bit.

Everything here is rational: weights and inputs are the fractions that floating-point numbers are, the nearest point is
looked for among all corners of all patterns, the network is evaluated and the distances are compared without rounding.

Under a pattern the inputs without the label fill polyhedra, cut out by the hyperplanes where a neuron, a margin or a
side of the clip is zero. A nearest point of one is a foot of the perpendicular on some of these (L2), or else a corner,
once the planes along which an L-inf or L1 ball has its edges are added.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, product
from typing import TypeAlias

import numpy as np
import pytest
from certificate_cases import NORMS, affine, exact_output

from milpverify.bounds.backward import Crown
from milpverify.certificates.decision_boundary import decision_boundary_certificate
from milpverify.certificates.dual_radius import dual_radius
from milpverify.certificates.gains import lipschitz_certificate
from milpverify.certificates.linear_model import linear_certificate
from milpverify.certificates.radii import Ball, Exactness
from milpverify.certificates.simplex import simplex_certificate
from milpverify.network.graph import Network
from milpverify.network.operators import Dense
from milpverify.spec.regions import L1Ball, L2Ball, LinfBall

CASES = 16
Point: TypeAlias = tuple[Fraction, ...]
Plane: TypeAlias = tuple[Fraction, ...]  # (g_1, .., g_n, r): the u with g . u = r, as a step from the input
Clip: TypeAlias = tuple[float, float] | None


def network(rng: np.random.Generator) -> Network:
    """One or two inputs and up to four neurons: integers in units of some power of ten, with ties and dead rows."""
    inputs, outputs = int(rng.integers(1, 3)), int(rng.integers(2, 4))
    hidden = [[], [int(rng.integers(1, 5))], [int(rng.integers(1, 3)), 2]][int(rng.choice(3, p=[0.2, 0.5, 0.3]))]
    integers, skip = rng.random() < 0.7, rng.random() < 0.3
    sizes, layers = [inputs, *hidden], []
    for k, size in enumerate((*hidden, outputs), start=1):
        unit = 10.0 ** rng.integers(-6, 7) if rng.random() < 0.5 else 1.0
        numbers = (lambda *s: rng.integers(-3, 4, s) * 1.0) if integers else (lambda *s: rng.normal(size=s))
        blocks = {j: Dense(numbers(size, sizes[j]) * unit) for j in (range(k) if skip else [k - 1])}
        layers.append(affine(blocks, numbers(size) * rng.choice([0.0, 1.0, unit, unit])))
    return Network((inputs,), (outputs,), tuple(layers[:-1]), layers[-1])


def affine_parts(net: Network, pattern: tuple[int, ...]) -> tuple[list[list[Fraction]], list[list[Fraction]]]:
    """Rows (a_1, .., a_n, c) of every neuron a . x + c under a pattern, and those of the outputs."""
    n, start, neurons = net.n_inputs, 0, []
    values = [[[Fraction(int(i == j)) for j in range(n + 1)] for i in range(n)]]
    for layer in (*net.layers, net.output):
        total = [[Fraction(0)] * n + [Fraction(b)] for b in layer.bias.tolist()]
        for source, op in layer.blocks:
            for row, weights in zip(total, op.dense().tolist(), strict=True):
                for weight, below in zip(map(Fraction, weights), values[source], strict=True):
                    row[:] = [r + weight * v for r, v in zip(row, below, strict=True)]
        if layer is net.output:
            return neurons, total
        opened, start = pattern[start : start + layer.size], start + layer.size
        neurons += total
        values.append([[v * o for v in row] for row, o in zip(total, opened, strict=True)])
    raise AssertionError


def corners(planes: list[Plane], ball: type[Ball]) -> Iterator[Point]:
    """Where as many planes meet as there are inputs, one or two; in L2 also the feet on single ones."""
    if planes and len(planes[0]) == 2:
        yield from ((r / g,) for g, r in planes)
        return
    if ball is L2Ball:
        yield from ((r * a / (a * a + b * b), r * b / (a * a + b * b)) for a, b, r in planes)
    for (a, b, r), (c, d, s) in combinations(planes, 2):
        if a * d != b * c:
            yield (r * d - b * s) / (a * d - b * c), (a * s - r * c) / (a * d - b * c)


def length(step: Point, ball: type[Ball]) -> Fraction:
    """The norm, its square in L2."""
    if ball is L2Ball:
        return sum((v * v for v in step), Fraction(0))
    return max(map(abs, step)) if ball is LinfBall else sum(map(abs, step), Fraction(0))


def exact_minimum(net: Network, x: np.ndarray, label: int, ball: type[Ball], clip: Clip = None) -> Fraction | None:
    """The length of the shortest step to an input where the label is not strictly on top; None where there is none."""
    centre = tuple(map(Fraction, x.tolist()))
    n, one, zero = len(centre), Fraction(1), Fraction(0)
    units = [tuple(one if i == j else zero for j in range(n)) for i in range(n)]
    edges = [(*unit, zero) for unit in units] if ball is L1Ball else []
    if ball is LinfBall and n == 2:
        edges = [(one, one, zero), (one, -one, zero)]
    edges += [(*unit, Fraction(side) - c) for side in clip or () for unit, c in zip(units, centre, strict=True)]
    best, tried = None, set()
    for pattern in product((0, 1), repeat=net.n_neurons):
        neurons, outputs = affine_parts(net, pattern)
        for other in outputs[:label] + outputs[label + 1 :]:
            rows = [*neurons, [a - b for a, b in zip(outputs[label], other, strict=True)]]
            planes = [(*g, -c - sum(a * v for a, v in zip(g, centre, strict=True))) for *g, c in rows if any(g)]
            for step in ((zero,) * n, *corners(planes + edges, ball)):
                away = length(step, ball)
                if step in tried or (best is not None and away >= best):
                    continue
                tried.add(step)
                point = [c + s for c, s in zip(centre, step, strict=True)]
                y = exact_output(net, point)
                inside = clip is None or all(clip[0] <= p <= clip[1] for p in point)
                if inside and max(y[:label] + y[label + 1 :]) >= y[label]:
                    best = away
    return best


def radii(net: Network, x: np.ndarray, label: int, ball: type[Ball], clip: Clip) -> dict[str, tuple[float, Clip]]:
    """Everything that claims to be rounded, with the range that it is about."""
    made = {
        "simplex": simplex_certificate(net, x, label, ball=ball, rounded=True),
        "lipschitz": lipschitz_certificate(net, x, label, ball=ball),
        "dual": dual_radius(net, x, label, ball=ball),
    }
    clipped = dual_radius(net, x, label, ball=ball, clip=clip, method=Crown())
    plain = all([s for s, _ in a.blocks] == [k] for k, a in enumerate((*net.layers, net.output)))
    found = {}
    if plain and not net.layers:
        made["linear"] = linear_certificate(net, x, label, ball=ball)
    if plain and len(net.layers) == 1:
        made["slopes"] = slopes = decision_boundary_certificate(net, x, label, ball=ball, relative_gap=1e-9)
        found["hyperplanes"] = (float(slopes.hyperplanes[0]), None)
    assert all(certificate.exactness is Exactness.ROUNDED for certificate in (*made.values(), clipped))
    found |= {name: (float(certificate.value[0]), None) for name, certificate in made.items()}
    return found | {"clipped dual": (float(clipped.value[0]), clip)}


@pytest.mark.parametrize("ball", NORMS.values(), ids=NORMS.keys())
def test_no_rounded_radius_is_above_the_exact_minimum(ball: type[Ball]) -> None:
    reached = set()
    for case in range(CASES):
        rng = np.random.default_rng([5, case])
        net = network(rng)
        x = rng.integers(-20, 21, net.n_inputs) / rng.choice([1.0, 10.0])
        label = int(net.forward(x).argmax())
        clip = (float(x.min()) - rng.integers(0, 3), float(x.max()) + rng.integers(0, 3))
        exact = {box: exact_minimum(net, x, label, ball, box) for box in (None, clip)}
        for name, (value, box) in radii(net, x, label, ball, clip).items():
            least = exact[box]
            if np.isinf(value):
                assert least is None, (case, name)
            elif least is not None:
                claimed = Fraction(value) ** (2 if ball is L2Ball else 1)
                assert claimed <= least, (case, name)
                if claimed and claimed > least * (1 - Fraction(1, 10**6)):
                    reached.add(name)
    assert {"simplex", "slopes", "linear"} <= reached  # so close that rounding upwards would show

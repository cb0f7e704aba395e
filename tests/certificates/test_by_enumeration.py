"""On small networks the nearest adversarial point is found by going through all patterns: nothing may contradict it.

In every pattern the margins are affine, and the nearest point of a polyhedron in the plane lies on one of its sides, at
the foot of the perpendicular (L2), or where two of these lines meet: sides, and those along which an L-inf or L1 ball
has its corners. All such points are tried; the network itself says which of them are adversarial.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from certificate_cases import NORMS, affine, exact_output, length

from milpverify.attack.deepfool import DeepFool
from milpverify.attack.images import attack_images
from milpverify.certificates.decision_boundary import decision_boundary_certificate
from milpverify.certificates.dual_radius import dual_radius
from milpverify.certificates.gains import lipschitz_certificate
from milpverify.certificates.linear_model import linear_certificate
from milpverify.certificates.radii import Ball, CertifiedRadii, Exactness
from milpverify.certificates.simplex import simplex_certificate
from milpverify.network.graph import Network
from milpverify.network.operators import Dense
from milpverify.spec.regions import L1Ball, L2Ball

PUSHES = (0.0, 2.0**-50, 2.0**-46, 2.0**-40, 2.0**-34)  # beyond a point that rounding left on the wrong side


def small_network(rng: np.random.Generator, skip: bool) -> Network:
    """Two inputs, up to two layers; often with integers, so that there are ties, kinks and dead neurons."""
    integers = rng.random() < 0.5

    def numbers(*shape: int) -> np.ndarray:
        return rng.integers(-2, 3, shape).astype(float) if integers else rng.normal(size=shape)

    hidden = [int(h) for h in rng.integers(1, 4, rng.integers(0, 3))]
    sizes, layers = [2, *hidden], []
    for k, size in enumerate((*hidden, int(rng.integers(2, 4))), start=1):
        sources = range(k) if skip else [k - 1]
        layers.append(affine({j: Dense(numbers(size, sizes[j])) for j in sources}, numbers(size)))
    return Network((2,), (layers[-1].size,), tuple(layers[:-1]), layers[-1])


def planes(net: Network, pattern: tuple[float, ...]) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows (a_1, a_2, c) of every neuron a . x + c under a pattern, and those of the outputs."""
    values, rows = [np.eye(2, 3)], []
    start = 0
    for layer in (*net.layers, net.output):
        total = sum((op.dense() @ values[source] for source, op in layer.blocks), np.zeros((layer.size, 3)))
        total[:, 2] += layer.bias
        rows.append(total)
        opened = np.array(pattern[start : start + layer.size])  # none are left for the output
        values.append(opened[:, None] * total if len(opened) else total)
        start += layer.size
    return [row for part in rows[:-1] for row in part], rows[-1]


def nearest(net: Network, x: np.ndarray, label: int, ball: type[Ball]) -> np.ndarray | None:
    """The nearest of all candidates that the network does not call its label, up to rounding; None without any."""
    if ball is L1Ball:
        through = [np.array([1.0, 0.0, -x[0]]), np.array([0.0, 1.0, -x[1]])]
    else:
        through = [np.array([1.0, s, -x[0] - s * x[1]]) for s in (1.0, -1.0)]
    found = [x]
    for pattern in product((0.0, 1.0), repeat=net.n_neurons):
        neurons, outputs = planes(net, pattern)
        for row in np.delete(outputs[label] - outputs, label, axis=0):
            lines = [line for line in (row, *neurons, *through) if np.abs(line[:2]).max() > 0]
            if ball is L2Ball:
                found += [x - (line[:2] @ x + line[2]) / (line[:2] @ line[:2]) * line[:2] for line in lines]
            for a, b in combinations(lines, 2):
                if abs(np.linalg.det([a[:2], b[:2]])) > 1e-9:
                    found.append(np.linalg.solve([a[:2], b[:2]], [-a[2], -b[2]]))
    points = np.array(found)
    y = net.forward(points)
    wrong = y[:, label] - np.delete(y, label, axis=1).max(axis=1) <= 1e-11 * (1 + np.abs(y).max(axis=1))
    return points[wrong][length(points[wrong] - x, ball).argmin()] if wrong.any() else None


def refuted(net: Network, x: np.ndarray, label: int, ball: type[Ball], radius: float, point: np.ndarray) -> bool:
    """Whether the point, or one a little beyond it, is adversarial and nearer than a radius, all in rationals."""
    centre = [Fraction(c) for c in x.tolist()]
    for push in PUSHES:
        step = [(Fraction(p) - c) * (1 + Fraction(push)) for p, c in zip(point.tolist(), centre, strict=True)]
        y = exact_output(net, [c + s for c, s in zip(centre, step, strict=True)])
        if max(y[:label] + y[label + 1 :]) >= y[label]:
            if ball is L2Ball:
                return sum(s * s for s in step) < Fraction(radius) ** 2
            return (sum if ball is L1Ball else max)(abs(s) for s in step) < Fraction(radius)
    return False


def certificates(net: Network, x: np.ndarray, label: int, ball: type[Ball]) -> dict[str, CertifiedRadii]:
    found: dict[str, CertifiedRadii] = {
        "simplex": simplex_certificate(net, x, label, ball=ball),
        "simplex rounded": simplex_certificate(net, x, label, ball=ball, rounded=True),
        "lipschitz": lipschitz_certificate(net, x, label, ball=ball),
        "dual": dual_radius(net, x, label, ball=ball),
    }
    chain = all([s for s, _ in a.blocks] == [k] for k, a in enumerate((*net.layers, net.output)))
    if chain and len(net.layers) == 1:
        found["decision boundary"] = decision_boundary_certificate(net, x, label, ball=ball)
    if chain and not net.layers:
        found["linear"] = linear_certificate(net, x, label, ball=ball)
    return found


@pytest.mark.parametrize("ball", NORMS.values(), ids=NORMS.keys())
@pytest.mark.parametrize("skip", [False, True], ids=["chain", "skips"])
def test_the_nearest_point_of_all_patterns_contradicts_no_certificate_and_no_attack(
    ball: type[Ball], skip: bool
) -> None:
    near = 0
    for case in range(25):
        rng = np.random.default_rng([11, case])
        net = small_network(rng, skip)
        x = rng.integers(-2, 3, 2).astype(float) if rng.random() < 0.4 else rng.normal(size=2)
        label = int(net.forward(x).argmax())
        point = nearest(net, x, label, ball)
        for name, radii in certificates(net, x, label, ball).items():
            value = float(radii.value[0])
            if point is None or not value:
                continue
            away = float(length(point - x, ball))
            near += value > away * (1 - 1e-6)
            assert value <= away * (1 + 1e-7), name
            if radii.exactness is Exactness.ROUNDED:
                assert not refuted(net, x, label, ball, value, point), name
        attacked = attack_images(net, x, [label], DeepFool(norm=ball))
        if attacked.success[0]:
            assert point is not None and attacked.distance[0] >= length(point - x, ball) * (1 - 1e-7)
    assert near > 5  # some certificates are exact, so the law has teeth

"""The papers' certificates, indicators and attacks, written down as they stand there, against this package's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import milpverify as mv
from milpverify.attack.steps import onto_half_space
from tests.paper_chains import ATTACKS, EPS, OTHERS, SINGLA, TUTORIAL, ZHU, Dense, compares, free, seeds


@compares(
    ZHU, "eq. 3 to 7: the linear network with injected noise", "optimal perturbation delta_0*",
    "optimal noise delta_i*", "eq. 8, indicator d", "eq. 9, indicator r",
)  # fmt: skip
@seeds
def test_the_indicators_are_those_of_the_linear_network_with_its_optimal_noise(seed: int) -> None:
    case = Dense(seed)
    slope = [np.where(free(l, u), u / np.where(free(l, u), u - l, 1.0), l >= 0) for l, u in case.limits]
    lam, above = [], case.c
    for W, D in zip(case.W[:0:-1], slope[::-1], strict=True):
        lam.insert(0, W.T @ above)
        above = D * lam[0]
    first = case.W[0].T @ above
    z = point = case.x - EPS * np.sign(first)
    r = 0.0
    for W, b, D, (l, u), below in zip(case.W, case.b, slope, case.limits, lam, strict=False):
        zhat = W @ z + b
        z = D * zhat + np.where(free(l, u) & (below < 0), -D * l, 0.0)
        r += float(np.abs(z - np.maximum(zhat, 0.0))[free(l, u)].sum())
    bound = float(case.c @ (case.W[-1] @ z + case.b[-1]))
    assert all((np.abs(part) > 1e-9).all() for part in lam)  # no noise is free
    found = mv.tightness(case.net, case.x, case.label, EPS, rows=case.c[None, None])
    np.testing.assert_allclose(found.x[0, 0], point, atol=1e-12)
    assert found.bound[0, 0] == pytest.approx(bound, abs=1e-9)
    assert found.d[0, 0] == pytest.approx(float(case.c @ case.forward(point)[1]) - bound, abs=1e-9)
    assert found.r[0, 0] == pytest.approx(r, abs=1e-9)


@compares(
    SINGLA, "the network is piecewise linear (in words)", "algorithm 1", "distance to the region's faces",
    "distance to the linear decision boundary", "simplex certificate",
)  # fmt: skip
@seeds
def test_the_simplex_certificate_is_the_lesser_of_both_distances(seed: int) -> None:
    case = Dense(seed)
    A, a, faces = np.eye(len(case.x)), np.zeros(len(case.x)), []
    for W, b in zip(case.W[:-1], case.b[:-1], strict=True):
        A, a = W @ A, W @ a + b
        sign = np.where(A @ case.x + a > 0, 1.0, -1.0)
        faces.append((sign[:, None] * A, sign * a))
        A, a = A * (sign > 0)[:, None], a * (sign > 0)
    C, d = case.W[-1] @ A, case.W[-1] @ a + case.b[-1]
    region = mv.activation_region(case.net, case.x)
    for k, (P, q) in enumerate(faces):
        np.testing.assert_allclose(region.P[k][0], P, atol=1e-12)
        np.testing.assert_allclose(region.q[k][0], q, atol=1e-12)
        np.testing.assert_allclose(region.slack(case.x[None])[k][0], P @ case.x + q, atol=1e-12)
    np.testing.assert_allclose(region.C[0], C, atol=1e-12)
    np.testing.assert_allclose(region.d[0], d, atol=1e-12)
    np.testing.assert_allclose(region.output(case.x[None])[0], case.forward(case.x)[1], atol=1e-12)
    sizes = [np.linalg.norm(P, axis=1) for P, _ in faces]
    P_min = min(((P @ case.x + q)[size > 0] / size[size > 0]).min() for (P, q), size in zip(faces, sizes, strict=True))
    y = C @ case.x + d
    d_min = min((y[case.label] - y[k]) / np.linalg.norm(C[case.label] - C[k]) for k in case.others)
    found = mv.simplex_certificate(case.net, case.x, case.label)
    assert (found.region[0], found.boundary[0]) == (pytest.approx(P_min, rel=1e-9), pytest.approx(d_min, rel=1e-9))
    assert found.value[0] == min(found.region[0], found.boundary[0])


@compares(TUTORIAL, "chapter 2: the inner maximum, binary", "chapter 2: several classes")
@compares(TUTORIAL, "chapter 2: distance of a linear classifier")
@compares(ATTACKS, "affine binary classifier", "affine multi-class classifier")
@seeds
def test_linear_models_have_the_textbooks_closed_forms(seed: int) -> None:
    case = Dense(seed, (4, 3))
    W, b, others, label = case.W[0], case.b[0], case.others, case.label
    w, f = W[label] - W[others], (W @ case.x + b)[label] - (W @ case.x + b)[others]
    worst = mv.worst_linear_margins(case.net, case.x, case.label, EPS)[0]
    np.testing.assert_allclose(worst, f - EPS * np.abs(w).sum(axis=1), atol=1e-12)
    for k, target in enumerate(others):
        attained = case.x - EPS * np.sign(w[k])
        y = W @ attained + b
        assert y[label] - y[target] == pytest.approx(worst[k], abs=1e-12)
    distance = (f / np.linalg.norm(w, axis=1)).min()
    assert mv.linear_certificate(case.net, case.x, case.label).value[0] == pytest.approx(distance, rel=1e-9)
    step, reached = onto_half_space(w[:1], f[:1], np.array(-np.inf), np.array(np.inf), mv.L2Ball)
    assert reached[0]
    np.testing.assert_allclose(step[0], -f[0] * w[0] / (w[0] @ w[0]), atol=1e-12)
    plain = mv.DeepFool(draws=0, passes=1, straight=False, overshoot=0.02)
    assert mv.attack_images(case.net, case.x, case.label, plain).distance[0] == pytest.approx(1.02 * distance, rel=1e-9)


@compares(ATTACKS, "Goodfellow, section 4: fast gradient sign", "Kurakin, section 2.2: basic iterative method")
@seeds
def test_the_sign_attacks_take_the_papers_steps(seed: int) -> None:
    case = Dense(seed)

    def margin(x: np.ndarray) -> float:
        return float(case.c @ case.forward(x)[1])

    one = case.x - EPS * np.sign(case.gradient(case.x, case.c))
    fast = mv.Fgsm().attack_all(case.net, case.prop.cases)[0]
    np.testing.assert_allclose(fast.x, min((case.x, one), key=margin), atol=1e-12)
    for count, size in ((3, 0.2), (6, 0.3)):  # within the ball, and onto its sides
        x, seen = case.x, [case.x]
        for _ in range(count):
            x = np.clip(x - size * EPS * np.sign(case.gradient(x, case.c)), case.x - EPS, case.x + EPS)
            seen.append(x)
        attack = mv.IterativeFgsm(steps=count, step_size=size)
        steps = attack.attack_all(case.net, case.prop.cases, stop=-np.inf)[0]
        np.testing.assert_allclose(steps.x, min(seen, key=margin), atol=1e-9)


@compares(TUTORIAL, "chapter 3: targeted attacks")
def test_the_objectives_of_targeted_attacks() -> None:
    y = np.array([0.3, -1.0, 2.0, 0.7])
    rows = np.array([[[1.0, 0.0, -1.0, 0.0]]])
    assert (mv.MarginToTarget().rows(rows) @ y).item() == y[0] - y[2]
    assert (mv.TargetAgainstOthers().rows(rows) @ y).item() == pytest.approx(y[0] + y[1] + y[3] - y[2])


@compares(OTHERS, "Szegedy et al. 2014; Tsuzuku et al. 2018")
@seeds
def test_the_lipschitz_radius_is_at_least_margin_over_the_product_of_spectral_norms(seed: int) -> None:
    case = Dense(seed)
    product = np.prod([np.linalg.norm(W, 2) for W in case.W[:-1]])
    y = case.forward(case.x)[1]
    published = min(
        (y[case.label] - y[k]) / (np.linalg.norm(case.W[-1][case.label] - case.W[-1][k]) * product) for k in case.others
    )
    found: Any = mv.lipschitz_certificate(case.net, case.x, case.label, ball=mv.L2Ball).value[0]
    assert published * (1.0 - 1e-6) <= found <= mv.attack_radius(
        case.net, case.x, case.label, mv.DeepFool(), ball=mv.L2Ball, eps_max=100.0
    ).upper  # fmt: skip

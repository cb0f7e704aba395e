"""The papers' programs, dual bounds and robust losses, written down as they stand there, against this package's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import Bounds as Limits
from scipy.optimize import LinearConstraint, linprog, milp

import milpverify as mv
from milpverify.certificates.linear_network import margin_bound
from milpverify.certificates.radii import margin_rows
from tests.paper_chains import EPS, OTHERS, TJENG, TUTORIAL, WK, Dense, compares, free, seeds


def program(case: Dense, binary: bool) -> float:
    """Equation 4 of Wong & Kolter with equation 3 for every ReLU, or equation 6 of Tjeng et al. for every ReLU.

    Columns: the input, then zhat, z and a of each hidden layer.
    """
    sizes, n = [len(l) for l, _ in case.limits], len(case.x)
    total = n + 3 * sum(sizes)
    low, high, whole = np.full(total, -np.inf), np.full(total, np.inf), np.zeros(total)
    low[:n], high[:n] = case.x - EPS, case.x + EPS
    equal: list[tuple[np.ndarray, float]] = []
    least: list[tuple[np.ndarray, float]] = []  # row . columns <= right
    z, start, unit = np.arange(n), n, np.eye(total)
    for W, b, (l, u) in zip(case.W, case.b, case.limits, strict=False):
        zhat, new, a = (start + k * len(l) + np.arange(len(l)) for k in range(3))
        low[a], high[a], low[new], whole[a] = 0.0, 1.0, 0.0, binary
        for i in range(len(l)):
            equal.append((unit[zhat[i]] - W[i] @ unit[z], b[i]))
            if not free(l, u)[i]:
                equal.append((unit[new[i]] - (l[i] >= 0) * unit[zhat[i]], 0.0))
                continue
            least.append((unit[zhat[i]] - unit[new[i]], 0.0))
            if binary:
                least.append((unit[new[i]] - unit[zhat[i]] - l[i] * unit[a[i]], -l[i]))
                least.append((unit[new[i]] - u[i] * unit[a[i]], 0.0))
            else:
                least.append((-u[i] * unit[zhat[i]] + (u[i] - l[i]) * unit[new[i]], -u[i] * l[i]))
        z, start = new, start + 3 * len(l)
    cost, constant = (case.c @ case.W[-1]) @ unit[z], float(case.c @ case.b[-1])
    A_eq, b_eq = np.array([row for row, _ in equal]), np.array([right for _, right in equal])
    A, right = np.array([row for row, _ in least]).reshape(-1, total), np.array([right for _, right in least])
    if binary:
        rows = [LinearConstraint(A_eq, b_eq, b_eq), LinearConstraint(A, -np.inf, right)]
        return float(milp(cost, integrality=whole, bounds=Limits(low, high), constraints=rows).fun) + constant
    sides = np.column_stack([low, high])
    return float(linprog(cost, A, right, A_eq, b_eq, bounds=sides).fun) + constant


@compares(WK, "eq. 3, the hull of one ReLU", "eq. 4, the LP over the outer polytope")
@seeds
def test_the_relaxed_program_and_the_triangle_bound_are_the_papers_lp(seed: int) -> None:
    case = Dense(seed)
    assert any(free(l, u).any() for l, u in case.limits)
    optimum = program(case, binary=False)
    relaxed = mv.Highs().solve(mv.big_m(case.net, case.prop, case.bounds).relax()).objective
    assert relaxed == pytest.approx(optimum, abs=1e-6)
    triangle = case.row_bound(mv.TriangleLP())
    assert optimum - 1e-5 <= triangle <= optimum + 1e-7


@compares(TJENG, "eq. 6")
@compares(TUTORIAL, "chapter 3: the integer program")
@seeds
def test_the_mixed_integer_program_is_the_papers(seed: int) -> None:
    case = Dense(seed)
    optimum = program(case, binary=True)
    assert mv.Highs().solve(mv.big_m(case.net, case.prop, case.bounds)).objective == pytest.approx(optimum, abs=1e-5)
    found = mv.worst_margin(case.net, case.prop)
    assert found.lower - 1e-5 <= optimum <= found.upper + 1e-5


def theorem_1(case: Dense, alpha: list[np.ndarray]) -> float:
    """J(x, g(c, alpha)): equations 5 to 7 of Wong & Kolter."""
    nu, value = -case.c, 0.0
    for i in range(len(case.W) - 1, -1, -1):
        value -= nu @ case.b[i]
        nuhat = case.W[i].T @ nu
        if i == 0:
            break
        l, u = case.limits[i - 1]
        positive, negative = np.maximum(nuhat, 0.0), np.maximum(-nuhat, 0.0)
        mixed = u / np.where(free(l, u), u - l, 1.0) * positive - alpha[i - 1] * negative
        nu = np.where(u <= 0, 0.0, np.where(l >= 0, nuhat, mixed))
        value += float((l * np.maximum(nu, 0.0))[free(l, u)].sum())
    return float(value - case.x @ nuhat - EPS * np.abs(nuhat).sum())


def algorithm_1(case: Dense) -> list[tuple[np.ndarray, np.ndarray]]:
    """(l, u) of every layer, the output among them: algorithm 1 of Wong & Kolter, forward as they write it."""
    nuhat, gamma = case.W[0].T, [case.b[0]]
    nus: list[tuple[np.ndarray, np.ndarray]] = []  # (l of the unstable neurons, nu) of every layer so far
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for i in range(len(case.W)):
        if i > 0:
            l, u = found[-1]
            D = np.where(free(l, u), u / np.where(free(l, u), u - l, 1.0), l >= 0)
            step = D[:, None] * case.W[i].T
            nus = [*((low, nu @ step) for low, nu in nus), (l[free(l, u)], step[free(l, u)])]
            gamma = [*(term @ step for term in gamma), case.b[i]]
            nuhat = nuhat @ step
        psi = case.x @ nuhat + sum(gamma)
        reach = EPS * np.abs(nuhat).sum(axis=0)
        low = psi - reach + sum(below @ np.maximum(-nu, 0.0) for below, nu in nus)
        high = psi + reach - sum(below @ np.maximum(nu, 0.0) for below, nu in nus)
        found.append((np.asarray(low), np.asarray(high)))
    return found


@compares(
    WK, "theorem 1, eq. 5 to 7: the dual network", "eq. 5, the maximum over alpha in [0, 1]",
    "alpha = u/(u - l), the matrices D_i",
)  # fmt: skip
@seeds
def test_the_dual_bounds_are_theorem_1_and_no_choice_of_alpha_is_above_the_lp(seed: int) -> None:
    case = Dense(seed)
    slopes = [u / np.where(u > l, u - l, 1.0) for l, u in case.limits]
    published = theorem_1(case, slopes)
    rounded = case.row_bound(mv.FastLin(intersect=False))
    assert rounded <= published + 1e-12 and rounded == pytest.approx(published, abs=1e-9)
    relaxed = mv.LinearNetwork.of(case.net, case.x, EPS)
    assert margin_bound(relaxed, case.c[None, None])[0, 0] == pytest.approx(published, abs=1e-9)
    optimum, rng = program(case, binary=False), np.random.default_rng(seed)
    drawn = [theorem_1(case, [rng.random(len(l)) for l, _ in case.limits]) for _ in range(200)]
    assert max(drawn) <= optimum + 1e-7
    assert max(drawn) - 1e-6 <= case.row_bound(mv.AlphaCrown(steps=200)) <= optimum + 1e-7


@compares(WK, "algorithm 1")
@seeds
def test_the_layers_bounds_are_algorithm_1(seed: int) -> None:
    case = Dense(seed)
    published, relaxed = algorithm_1(case), mv.LinearNetwork.of(case.net, case.x, EPS)
    for k, (l, u) in enumerate(published[:-1]):
        np.testing.assert_allclose(case.bounds.lower[k], l, atol=1e-9)
        np.testing.assert_allclose(case.bounds.upper[k], u, atol=1e-9)
        np.testing.assert_allclose(relaxed.lower[k][0], l, atol=1e-9)
        np.testing.assert_allclose(relaxed.upper[k][0], u, atol=1e-9)


@compares(
    WK, "theorem 2 (the robust loss)", "eq. 33 (appendix): the multi-class hinge on the bound",
    "eq. 34 (appendix): cross-entropy on the bound",
)  # fmt: skip
@compares(TUTORIAL, "chapter 4: training on bounds")
@seeds
def test_the_robust_losses_are_those_of_the_bounds_and_above_the_loss_in_the_ball(seed: int) -> None:
    torch = pytest.importorskip("torch")
    from milpverify.training.losses import robust_cross_entropy, robust_hinge

    case = Dense(seed)
    J = margin_bound(mv.LinearNetwork.of(case.net, case.x, EPS), margin_rows(np.array([case.label]), 3))
    scores = np.concatenate([[0.0], -J[0]])  # of -J, the label first
    cross_entropy = -np.log(np.exp(scores)[0] / np.exp(scores).sum())
    hinge = max(0.0, *(1.0 + scores[1:] - scores[0]))
    whole, label = torch.tensor(-scores[None]), torch.tensor([0])
    assert float(robust_cross_entropy(whole, label)) == pytest.approx(cross_entropy, abs=1e-12)
    assert float(mv.worst_cross_entropy(J)[0]) == pytest.approx(cross_entropy, abs=1e-12)
    assert float(robust_hinge(whole, label)) == pytest.approx(hinge, abs=1e-12)
    near = case.x + EPS * np.random.default_rng(seed).uniform(-1, 1, (500, len(case.x)))
    y = case.net.forward(near)
    assert (np.log(np.exp(y - y[:, [case.label]]).sum(axis=1)) <= cross_entropy + 1e-9).all()
    assert (np.maximum(1.0 + y[:, case.others].max(axis=1) - y[:, case.label], 0.0) <= hinge + 1e-9).all()


@compares(OTHERS, "Gowal et al. 2018, section 3")
@seeds
def test_intervals_are_pushed_forward_and_the_last_layer_is_folded_into_the_margin(seed: int) -> None:
    case = Dense(seed)
    bounds = mv.compute_bounds(case.net, case.ball, mv.Interval())
    low, high = case.x - EPS, case.x + EPS
    for k, (W, b) in enumerate(zip(case.W[:-1], case.b[:-1], strict=True)):
        middle, reach = W @ (low + high) / 2 + b, np.abs(W) @ (high - low) / 2
        np.testing.assert_allclose(bounds.lower[k], middle - reach, atol=1e-12)
        np.testing.assert_allclose(bounds.upper[k], middle + reach, atol=1e-12)
        low, high = np.maximum(middle - reach, 0), np.maximum(middle + reach, 0)
    row = case.c @ case.W[-1]
    least = row @ (low + high) / 2 + case.c @ case.b[-1] - np.abs(row) @ (high - low) / 2
    found = mv.bound_rows(case.net, case.ball, bounds, case.c[None], mv.Interval()).value[0]
    assert found == pytest.approx(least, abs=1e-12)

"""Formulas of the papers, written down as they stand there, against the functions that docs/equations.md names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import Bounds as Limits
from scipy.optimize import LinearConstraint, linprog, milp

import milpverify as mv
from milpverify.attack.steps import onto_half_space
from milpverify.certificates.linear_network import margin_bound
from milpverify.certificates.radii import margin_rows
from tests.equation_rows import equation_rows

EPS = 0.15
WK, ZHU, SINGLA, TUTORIAL = "Wong & Kolter 2018", "Zhu et al. 2020", "Singla & Feizi 2019", "Kolter & Madry"
TJENG, ATTACKS, OTHERS = "Tjeng, Xiao & Tedrake 2019", "Attacks", "Bounds, proofs and training of others"
COMPARED: set[str] = set()

Test = Callable[..., None]


def compares(paper: str, *there: str) -> Callable[[Test], Test]:
    """Note which rows of the map a test compares."""
    COMPARED.update(f"{paper}: {name}" for name in there)
    return lambda test: test


seeds = pytest.mark.parametrize("seed", range(4))


class Dense:
    """A chain of dense layers as W_1, b_1, ..., W_k, b_k, a point x with its class, and the margin c to another one."""

    def __init__(self, seed: int, sizes: tuple[int, ...] = (4, 9, 7, 3)) -> None:
        rng = np.random.default_rng(seed)
        self.net = mv.random_network(sizes, seed)
        affines = (*self.net.layers, self.net.output)
        self.W = [affine.blocks[0][1].dense() for affine in affines]
        self.b = [np.asarray(affine.bias, float) for affine in affines]
        self.x = rng.normal(size=sizes[0])
        self.label = int(self.net.forward(self.x).argmax())
        self.others = [k for k in range(sizes[-1]) if k != self.label]
        self.c = np.eye(sizes[-1])[self.label] - np.eye(sizes[-1])[self.others[-1]]
        self.ball = mv.LinfBall(self.x, EPS)
        self.prop = mv.robustness(self.net, self.ball, self.label, targets=self.others[-1:])
        self.bounds = mv.compute_bounds(self.net, self.ball, mv.FastLin(intersect=False))

    @property
    def limits(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(l, u) of every hidden layer."""
        return list(zip(self.bounds.lower, self.bounds.upper, strict=True))

    def forward(self, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Pre-activations of the hidden layers, and the outputs."""
        hidden, z = [], x
        for W, b in zip(self.W[:-1], self.b[:-1], strict=True):
            hidden.append(W @ z + b)
            z = np.maximum(hidden[-1], 0.0)
        return hidden, self.W[-1] @ z + self.b[-1]

    def gradient(self, x: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Of c . y at x."""
        for W, zhat in zip(self.W[:0:-1], self.forward(x)[0][::-1], strict=True):
            c = (W.T @ c) * (zhat > 0)
        return self.W[0].T @ c

    def row_bound(self, method: mv.BoundMethod) -> float:
        return float(mv.bound_rows(self.net, self.ball, self.bounds, self.c[None], method).value[0])


def free(l: np.ndarray, u: np.ndarray) -> np.ndarray:
    return (l < 0) & (u > 0)


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
    x, seen = case.x, [case.x]
    for _ in range(6):
        x = np.clip(x - 0.3 * EPS * np.sign(case.gradient(x, case.c)), case.x - EPS, case.x + EPS)
        seen.append(x)
    steps = mv.IterativeFgsm(steps=6, step_size=0.3).attack_all(case.net, case.prop.cases, stop=-np.inf)[0]
    np.testing.assert_allclose(steps.x, min(seen, key=margin), atol=1e-9)


@compares(TUTORIAL, "chapter 3: targeted attacks")
def test_the_objectives_of_targeted_attacks() -> None:
    y = np.array([0.3, -1.0, 2.0, 0.7])
    rows = np.array([[[1.0, 0.0, -1.0, 0.0]]])
    assert (mv.MarginToTarget().rows(rows) @ y).item() == y[0] - y[2]
    assert (mv.TargetAgainstOthers().rows(rows) @ y).item() == pytest.approx(sum(y[j] - y[2] for j in (0, 1, 3)))


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


def test_the_rows_marked_as_compared_are_those_compared_here() -> None:
    assert {row.key for row in equation_rows() if row.checked} == COMPARED

"""Laws of node LPs: never above the truth, as good as the LP is, exact where every phase is decided."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import linprog

import milpverify as mv
from milpverify.bounds.dual import dual_bound, fixed
from milpverify.bounds.kappa import Kappa
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.small import folded_rows, small_problem
from milpverify.errors import BoundsError, InputError
from milpverify.program.solver import Solution
from milpverify.search.node_claim import at_node
from milpverify.search.node_lp import CutRounds, NodeLp, NodeLpResult
from milpverify.search.node_program import NodeProgram
from tests.cases import affine, bias, seeds, weights

FEW = settings(max_examples=5)
REGIONS = ("box", "linf clipped", "l1 clipped", "cut")
MANY = CutRounds(root=100, node=100, stall=0.0, violation=1e-7)
Bounds = list[np.ndarray]
Run = Callable[[float], Solution]


def region_of(kind: str, rng: np.random.Generator, n: int) -> mv.Region:
    middle = rng.uniform(0.2, 0.8, n)
    if kind == "box":
        return mv.Box(middle - rng.uniform(0.2, 0.8, n), middle + rng.uniform(0.2, 0.8, n))
    if kind == "linf clipped":
        return mv.LinfBall(middle, 0.6, clip=(0, 1))
    if kind == "l1 clipped":
        return mv.L1Ball(middle, 0.9, clip=(0, 1))
    return mv.LinfBall(middle, 0.6).with_cuts(rng.normal(size=n), 0.7)


def problem(rng: np.random.Generator, kind: str = "box", widths: Sequence[int] = (3, 5, 4)) -> DualProblem:
    """A condensed problem with three rows: a skip connection, a few stable neurons folded away."""
    n, a, b = widths
    first = affine({0: weights(rng, a, n)}, bias(rng, a))
    second = affine({0: weights(rng, b, n), 1: weights(rng, b, a)}, bias(rng, b))
    output = affine({1: weights(rng, 3, a), 2: weights(rng, 3, b)}, bias(rng, 3))
    net = mv.Network((n,), (3,), (first, second), output)
    region = region_of(kind, rng, n)
    whole = DualProblem.of(net, region, mv.compute_bounds(net, region))
    return small_problem(whole, 3, folded_rows(whole, 3, rng.normal(size=(3, 3))))


def node_of(rng: np.random.Generator, small: DualProblem, share: float = 0.4) -> tuple[Bounds, Bounds]:
    """Some neurons split, either way."""
    lower, upper = [l.copy() for l in small.lower], [u.copy() for u in small.upper]
    for l, u in zip(lower, upper, strict=True):
        split, active = rng.random(len(l)) < share, rng.random(len(l)) < 0.5
        l[split & active], u[split & ~active] = 0.0, 0.0
    return lower, upper


def least_slack(small: DualProblem, lower: Bounds, upper: Bounds, rows: np.ndarray, d: np.ndarray) -> float:
    """min over the node of max_i (y_i - d_i), by one LP for each pattern of what is not split; infinite if empty."""
    parts = NodeProgram.of(small)
    region = small.region
    assert isinstance(region, mv.Region)
    extra = region.linear_rows()
    n, aux = small.n_inputs, extra.n_aux
    low, high = (np.concatenate([np.zeros(0), *side]) for side in (lower, upper))
    sides = [*zip(region.lower, region.upper, strict=True), *zip(extra.aux_lower, extra.aux_upper, strict=True)]
    dense = np.zeros((extra.n_rows, n + aux))
    np.add.at(dense, (extra.rows, extra.cols), extra.vals)
    above, below = np.isfinite(extra.row_upper), np.isfinite(extra.row_lower)
    fixed_rows = np.concatenate([dense[above], -dense[below]])
    fixed_right = np.concatenate([extra.row_upper[above], -extra.row_lower[below]])
    best = np.inf
    options = [(1.0,) if l >= 0 else (0.0,) if u <= 0 else (0.0, 1.0) for l, u in zip(low, high, strict=True)]
    for pattern in itertools.product(*options):
        A, right = [np.append(row, 0.0) for row in fixed_rows], list(fixed_right)
        maps, start = np.hstack([np.eye(n), np.zeros((n, 1))]), 0  # z as affine maps of x, the constant last
        for W, b in zip(parts.W, parts.bias, strict=True):
            zhat = W @ maps
            zhat[:, -1] += b
            if len(maps) == len(parts.sources):
                break
            on = np.array(pattern[start : start + len(b)])
            for row, active in zip(zhat, on, strict=True):
                sign = 1.0 - 2.0 * active
                A.append(np.concatenate([sign * row[:-1], np.zeros(aux + 1)]))
                right.append(-sign * row[-1])
            maps, start = np.vstack([maps, on[:, None] * zhat]), start + len(b)
        for i, limit in zip(rows, d, strict=True):
            A.append(np.concatenate([zhat[i, :-1], np.zeros(aux), [-1.0]]))
            right.append(limit - zhat[i, -1])
        cost = np.append(np.zeros(n + aux), 1.0)
        answer = linprog(cost, A_ub=np.array(A), b_ub=np.array(right), bounds=[*sides, (None, None)])
        if answer.status == 0:
            best = min(best, float(answer.fun))
    return best


def check(small: DualProblem, result: NodeLpResult, truth: float, rows: np.ndarray, d: np.ndarray) -> None:
    """What every answer must be, given the least slack of the node."""
    assert result.value <= truth + 1e-9
    if result.infeasible:
        assert truth == np.inf and result.value == np.inf
        return
    assert result.value == pytest.approx(result.optimum, rel=1e-6, abs=1e-6)
    assert result.x is not None and isinstance(small.region, mv.Region) and small.region.contains(result.x)
    assert all((gap >= -1e-6).all() for gap in result.gaps)


def proves(small: DualProblem, lower: Bounds, upper: Bounds, result: NodeLpResult) -> float:
    """g of the multipliers that are handed out, once more."""
    assert result.claim is not None
    claim = result.claim
    node = at_node(small, lower, upper)
    return float(dual_bound(node, len(node.layers), claim.mu[None, :], fixed(claim.nu), claim.kappa).value[0])


@pytest.mark.parametrize("cuts", (None, MANY), ids=("triangle", "cuts"))
@pytest.mark.parametrize("kind", REGIONS)
@FEW
@given(seed=seeds)
def test_values_are_never_above_the_truth_and_reach_the_lp(kind: str, cuts: CutRounds | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    small = problem(rng, kind)
    lp, d = NodeLp(small, cuts), rng.normal(size=1)
    for i in range(3):
        lower, upper = node_of(rng, small, 0.5 if i else 0.0)
        row = np.array([i % 3])
        result = lp.solve(lower, upper, row, d)
        truth = least_slack(small, lower, upper, row, d)
        check(small, result, truth, row, d)
        if np.isfinite(result.value):
            assert proves(small, lower, upper, result) - d[0] == pytest.approx(result.value, abs=1e-9)


@FEW
@given(seed=seeds)
def test_conjunctions_are_bounded_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    small = problem(rng)
    lp = NodeLp(small, MANY)
    for rows in (np.array([0, 1]), np.array([0, 1, 2]), np.array([2])):
        lower, upper = node_of(rng, small)
        d = rng.normal(size=len(rows))
        result = lp.solve(lower, upper, rows, d)
        check(small, result, least_slack(small, lower, upper, rows, d), rows, d)
        assert result.mu[np.setdiff1d(np.arange(3), rows)].max(initial=0.0) == 0.0
        alone = [lp.solve(lower, upper, rows[[i]], d[[i]]).value for i in range(len(rows))]
        assert result.value >= max(alone) - 1e-6


@pytest.mark.parametrize("cuts", (None, MANY), ids=("triangle", "cuts"))
@FEW
@given(seed=seeds)
def test_decided_patterns_are_exact_and_empty_ones_proven_empty(cuts: CutRounds | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    small = problem(rng)
    lp, rows, d = NodeLp(small, cuts), np.array([1]), np.zeros(1)
    lp.solve(small.lower, small.upper, rows, d)
    for _ in range(6):
        lower, upper = node_of(rng, small, 1.0)
        result = lp.solve(lower, upper, rows, d)
        truth = least_slack(small, lower, upper, rows, d)
        check(small, result, truth, rows, d)
        assert result.infeasible == (truth == np.inf)
        if not result.infeasible:
            assert result.value == pytest.approx(truth, abs=1e-6)
            assert max(gap.max(initial=0.0) for gap in result.gaps) <= 1e-6


def test_both_kinds_of_pattern_occur() -> None:
    rng = np.random.default_rng(3)
    small, kinds = problem(rng), set()
    lp = NodeLp(small)
    for _ in range(40):
        kinds.add(lp.solve(*node_of(rng, small, 1.0), np.array([0]), np.zeros(1)).infeasible)
    assert kinds == {True, False}


@FEW
@given(seed=seeds)
def test_cuts_only_help_and_the_order_of_nodes_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    small, row, d = problem(rng), np.array([0]), np.zeros(1)
    nodes = [(list(small.lower), list(small.upper)), *(node_of(rng, small) for _ in range(4))]
    plain, cut = NodeLp(small), NodeLp(small, MANY)
    without = [plain.solve(*node, row, d) for node in nodes]
    values = [cut.solve(*node, row, d).value for node in nodes]
    for node, alone, value in zip(nodes, without, values, strict=True):
        assert value >= alone.value - 1e-6
        assert NodeLp(small).solve(*node, row, d).value == pytest.approx(alone.value, abs=1e-6)
        assert plain.solve(*node, row, d).value == pytest.approx(alone.value, abs=1e-6)
        assert cut.solve(*node, row, d).value == pytest.approx(value, abs=1e-5)


def test_cuts_raise_the_root_bound_and_their_kappa_proves_it() -> None:
    gains = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        small, row, d = problem(rng, widths=(4, 8, 6)), np.array([0]), np.zeros(1)
        lp = NodeLp(small, MANY)
        result = lp.solve(small.lower, small.upper, row, d)
        assert result.value == pytest.approx(result.optimum, abs=1e-6)
        gains.append(result.value - NodeLp(small).solve(small.lower, small.upper, row, d).value)
        assert lp.n_cuts == result.cuts
        if gains[-1] > 1e-3:
            assert result.claim is not None and result.claim.kappa
            # Without kappa nothing above the triangle can be proven: no scalar nu does better than its LP.
            node = at_node(small, small.lower, small.upper)
            mu = result.claim.mu[None, :]
            scalar = dual_bound(node, 3, mu, fixed([part[None, :] for part in result.nu])).value[0]
            assert scalar < result.value
    assert max(gains) > 1e-3


@FEW
@given(seed=seeds)
def test_tightened_bounds_of_a_node_are_used(seed: int) -> None:
    rng = np.random.default_rng(seed)
    small, row, d = problem(rng), np.array([2]), np.zeros(1)
    lower, upper = node_of(rng, small)
    lp = NodeLp(small, MANY)
    loose = lp.solve(lower, upper, row, d)
    # Proven over the node: the range of every pre-activation, by the node's own LP.
    for j in range(2):
        for i in range(len(lower[j])):
            if not lower[j][i] < 0 < upper[j][i]:
                continue
            for sign in (1.0, -1.0):
                layer = affine({s: op for s, op in small.affine(j + 1).blocks}, small.affine(j + 1).bias)
                one = replace(small, layers=(*small.layers[:j], layer), lower=small.lower[:j], upper=small.upper[:j],
                              slack=small.slack[: j + 1])  # fmt: skip
                nu = [np.zeros((1, len(part))) for part in lower[:j]]
                unit = sign * np.eye(layer.size)[i][None, :]
                value = dual_bound(at_node(one, lower[:j], upper[:j]), j + 1, unit, fixed(nu)).value[0]
                if sign > 0:
                    lower[j][i] = max(lower[j][i], value)
                else:
                    upper[j][i] = min(upper[j][i], -value)
    tight = lp.solve(lower, upper, row, d)
    truth = least_slack(small, lower, upper, row, d)
    check(small, tight, truth, row, d)
    assert tight.value >= loose.value - 1e-6
    again = lp.solve(list(small.lower), list(small.upper), row, d)
    check(small, again, least_slack(small, list(small.lower), list(small.upper), row, d), row, d)


@pytest.mark.parametrize("wrong", ("sign", "noise", "huge", "nan"))
@FEW
@given(seed=seeds)
def test_wrong_duals_make_no_false_claim(wrong: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    small = problem(rng)
    lp, rows, d = NodeLp(small, MANY), np.array([0, 1]), rng.normal(size=2)
    honest = lp._state.lp.run
    change = {
        "sign": lambda y: -y,
        "noise": lambda y: y + rng.normal(size=y.shape),
        "huge": lambda y: 1e300 * (1.0 + y),
        "nan": lambda y: y * np.nan,
    }[wrong]

    def spoilt(time_limit_s: float) -> Solution:
        answer = honest(time_limit_s)
        if answer.row_dual is not None:
            answer = replace(answer, row_dual=change(answer.row_dual))
        return replace(answer, ray=None if answer.ray is None else change(answer.ray))

    lp._state.lp.run = spoilt  # type: ignore[method-assign]
    for _ in range(4):
        lower, upper = node_of(rng, small, 0.7)
        result = lp.solve(lower, upper, rows, d)
        truth = least_slack(small, lower, upper, rows, d)
        assert result.value <= truth + 1e-9
        assert not result.infeasible or truth == np.inf


@FEW
@given(seed=seeds)
def test_a_share_of_kappa_and_the_rest_of_nu_make_no_false_claim(seed: int) -> None:
    rng = np.random.default_rng(seed)
    small = problem(rng)
    lower, upper = node_of(rng, small)
    node, row, none = at_node(small, lower, upper), np.array([0]), np.zeros(1)
    truth = least_slack(small, lower, upper, row, none)
    parts = NodeProgram.of(small)
    for _ in range(20):
        nu = [rng.normal(size=(1, len(l))) for l in lower]
        kappa = []
        for j, l in enumerate(lower, start=1):
            width = parts.W[j - 1].shape[1]
            inputs = np.broadcast_to(np.arange(width), (len(l), width))
            kappa.append(
                Kappa(j, np.arange(len(l)), inputs, rng.normal(size=(1, len(l), width)), rng.random((1, len(l))))
            )
        value = dual_bound(node, 3, np.eye(3)[:1], fixed(nu), tuple(kappa)).value[0]
        assert value <= truth + 1e-9


def test_shares_outside_the_unit_interval_are_refused() -> None:
    for share in (-0.1, 1.5, np.nan):
        with pytest.raises(BoundsError, match="share"):
            Kappa(1, np.array([0]), np.array([[0]]), np.zeros((1, 1, 1)), np.array([[share]]))


def test_idle_cuts_are_dropped_and_nothing_else_changes() -> None:
    rng = np.random.default_rng(0)
    small, d = problem(rng, widths=(4, 8, 6)), np.zeros(1)
    lean, full = NodeLp(small, replace(MANY, most=6)), NodeLp(small, MANY)
    dropped = False
    for i in range(12):
        lower, upper = node_of(rng, small, 0.2)
        row = np.array([i % 3])
        before = lean.n_cuts
        a, b = lean.solve(lower, upper, row, d), full.solve(lower, upper, row, d)
        dropped = dropped or lean.n_cuts < max(before, a.cuts)
        assert a.value == pytest.approx(b.value, abs=1e-5)
    assert dropped and lean.n_cuts < full.n_cuts


def test_a_cutoff_that_the_triangle_reaches_asks_for_no_cuts() -> None:
    rng = np.random.default_rng(0)
    small, row, d = problem(rng, widths=(4, 8, 6)), np.array([0]), np.zeros(1)
    optimum = NodeLp(small).solve(small.lower, small.upper, row, d).optimum
    low = NodeLp(small, MANY).solve(small.lower, small.upper, row, d, cutoff=optimum - 1e-3)
    high = NodeLp(small, MANY).solve(small.lower, small.upper, row, d, cutoff=optimum + 10.0)
    assert low.rounds == 0 and low.cuts == 0 and low.value == pytest.approx(optimum, abs=1e-6)
    assert high.rounds > 0


def test_no_time_means_no_answer_and_the_next_solve_has_one() -> None:
    rng = np.random.default_rng(1)
    small, row, d = problem(rng), np.array([0]), np.zeros(1)
    lp = NodeLp(small, MANY)
    assert lp.solve(small.lower, small.upper, row, d, time_limit_s=0.0).value == -np.inf
    assert np.isfinite(lp.solve(small.lower, small.upper, row, d).value)


def late(honest: Run, runs: Iterator[int], done: int) -> Run:
    """Runs that have no time left once `done` are done."""
    return lambda time_limit_s: honest(time_limit_s if next(runs) < done else 0.0)


def test_time_that_ends_between_rounds_leaves_the_bound_so_far() -> None:
    rng = np.random.default_rng(0)
    small, row, d = problem(rng, widths=(4, 8, 6)), np.array([0]), np.zeros(1)
    plain, full = (NodeLp(small, cuts).solve(small.lower, small.upper, row, d) for cuts in (None, MANY))
    assert full.rounds > 2 and full.value > plain.value + 1e-3
    for done in (1, 2, 3):
        lp = NodeLp(small, MANY)
        honest, runs = lp._state.lp.run, itertools.count()

        lp._state.lp.run = late(honest, runs, done)  # type: ignore[method-assign]
        found = lp.solve(small.lower, small.upper, row, d)
        assert plain.value - 1e-9 <= found.value <= full.value + 1e-9
        lp._state.lp.run = honest  # type: ignore[method-assign]
        assert lp.solve(small.lower, small.upper, row, d).value == pytest.approx(full.value, abs=1e-5)


def test_bounds_that_cross_are_an_empty_node() -> None:
    rng = np.random.default_rng(1)
    small = problem(rng)
    lower = [l.copy() for l in small.lower]
    lower[0][0] = small.upper[0][0] + 1.0
    result = NodeLp(small).solve(lower, small.upper, np.array([0]), np.zeros(1))
    assert result.infeasible and result.value == np.inf


def test_rows_of_the_input_alone_are_exact() -> None:
    rng = np.random.default_rng(1)
    small = problem(rng)
    flat = replace(small, layers=(affine({0: weights(rng, 2, 3)}, bias(rng, 2)),), lower=(), upper=(), slack=())
    rows, d = np.array([0, 1]), rng.normal(size=2)
    result = NodeLp(flat, MANY).solve([], [], rows, d)
    check(flat, result, least_slack(flat, [], [], rows, d), rows, d)
    assert result.value == pytest.approx(least_slack(flat, [], [], rows, d), abs=1e-6)


def test_l2_balls_are_declined() -> None:
    rng = np.random.default_rng(1)
    small = problem(rng)
    ball = mv.L2Ball([0.5] * 3, 0.5)
    assert not NodeLp.fits(ball) and NodeLp.fits(small.region)
    with pytest.raises(InputError, match="L2Ball"):
        NodeLp(replace(small, region=ball))

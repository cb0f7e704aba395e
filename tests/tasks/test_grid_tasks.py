"""Every task on the points of a grid, against all of them one by one."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

import milpverify as mv
from milpverify.errors import OptionError
from milpverify.network.exact import forward_exact
from tests.grids import grid_points, grid_regions, least_slack, network
from tests.proof.float32_cases import dense

KINDS = sorted(grid_regions(2, 0))
SEARCHES: dict[str, mv.BranchAndBound | mv.Portfolio | mv.MILP | mv.InputSplitting | mv.ReluSplitting] = {
    "portfolio": mv.Portfolio(),
    "portfolio without boxes": mv.Portfolio(tree=mv.BranchAndBound(inputs=None)),
    "boxes": mv.InputSplitting(),
    "boxes alone": mv.InputSplitting(clip=False, phases=None, attack=None, samples=0),
    "phases": mv.ReluSplitting(),
    "programs": mv.MILP(),
}
QUICK = mv.Minimiser(attack=None, search=mv.MILP())
DECIDES = {"portfolio", "boxes", "boxes alone"}  # whatever the gap between real inputs and grid points


@cache
def question(kind: str, seed: int) -> tuple[mv.Network, mv.Case, Fraction, float]:
    """A network, a case with d = 0, its least slack over the grid, and one over the real inputs between its points."""
    net = network(seed, ("chain", "skip")[seed % 2])
    region = grid_regions(net.n_inputs, seed)[kind]
    rows = np.random.default_rng(seed + 7).normal(size=(2 if seed % 3 == 0 else 1, net.n_outputs))
    case = mv.Case(region, mv.Polyhedron(rows, np.zeros(len(rows))))
    real = mv.Property((mv.Case(region.relaxed, case.unsafe),), net.n_inputs, net.n_outputs)
    return net, case, least_slack(net, case), mv.worst_margin(net, real, method=QUICK).upper


def shifted(net: mv.Network, case: mv.Case, d: float) -> mv.Property:
    unsafe = mv.Polyhedron(case.unsafe.C, np.full(len(case.unsafe.d), d))
    return mv.Property((mv.Case(case.region, unsafe),), net.n_inputs, net.n_outputs)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("linf clipped", "l2")])
def test_verdicts_are_those_of_all_grid_points(kind: str, search: str) -> None:
    for seed in (1, 6) if search in DECIDES else (1,):
        net, case, least, real = question(kind, seed)
        for d in (float(least) - 1e-3, (float(least) + real) / 2):
            if Fraction(d) < least:
                verdict = mv.verify(net, shifted(net, case, d), method=SEARCHES[search], time_limit_s=20)
                assert verdict.word == "unsat" or (verdict.word == "unknown" and search not in DECIDES)
        verdict = mv.verify(net, shifted(net, case, float(least) + 1e-9), method=SEARCHES[search], time_limit_s=20)
        assert isinstance(verdict, mv.Violated)
        point = case.region.exact_point(verdict.witness.x)
        assert tuple(point) in set(grid_points(case.region))
        assert case.unsafe.slack_exact(forward_exact(net, point)) <= Fraction(float(least) + 1e-9)


def test_some_of_those_questions_are_answered_otherwise_over_real_inputs() -> None:
    differ = 0
    for kind in KINDS:
        for seed in (1, 2, 6):
            _, _, least, real = question(kind, seed)
            differ += Fraction(real) < least - Fraction(1, 100)
    assert differ >= 5


@pytest.mark.parametrize("kind", KINDS)
def test_worst_margins_are_those_of_all_grid_points(kind: str) -> None:
    for seed in (1, 2, 6):
        net, case, least, _ = question(kind, seed)
        for search in (mv.Portfolio(), mv.InputSplitting()):
            found = mv.worst_margin(net, shifted(net, case, 0.0), method=mv.Minimiser(search=search), time_limit_s=20)
            assert Fraction(found.lower) <= least <= Fraction(found.upper)
            assert found.upper - found.lower <= 2e-6
            assert found.witness is not None
            assert case.region.contains(case.region.exact_point(found.witness.x))


def test_ranges_are_those_of_all_grid_points() -> None:
    for seed in range(3):
        net = network(seed)
        region = grid_regions(net.n_inputs, seed)["box"]
        outputs = np.array([[float(v) for v in forward_exact(net, p)] for p in grid_points(region)])
        for output, found in zip(outputs.T, mv.output_range(net, region), strict=True):
            assert found.minimum.lower <= output.min() + 1e-12 and found.minimum.upper >= output.min() - 1e-12
            assert found.maximum.lower <= output.max() + 1e-12 and found.maximum.upper >= output.max() - 1e-12
            assert found.minimum.upper - found.minimum.lower <= 1e-5


def test_a_dip_between_two_grid_points_is_no_violation() -> None:
    # y_0 - y_1 = |x - 1/2| - 1/4 is negative around 1/2, and positive at 0 and 1.
    net = dense(([[1.0], [-1.0]], [-0.5, 0.5]), ([[1.0, 1.0], [0.0, 0.0]], [-0.25, 0.0]))
    ball = mv.LinfBall(np.array([0.0]), 1.0, clip=(0, 1))
    assert isinstance(mv.verify(net, mv.robustness(net, ball, 0)), mv.Violated)
    for steps, word in ((1, "unsat"), (3, "sat"), (5, "sat"), (2, "sat")):
        prop = mv.robustness(net, ball.with_grid(mv.Grid(steps)), 0)
        for search in (mv.Portfolio(), mv.MILP(), mv.InputSplitting(), mv.Portfolio(mv.BranchAndBound(inputs=None))):
            assert mv.verify(net, prop, method=search).word == word
    # A tree over phases alone cannot tell, says so, and comes to an end.
    alone = mv.verify(net, mv.robustness(net, ball.with_grid(mv.Grid(1)), 0), method=mv.ReluSplitting())
    assert isinstance(alone, mv.Unknown) and "between the points of the grid" in alone.reason


def test_the_grid_has_ties_and_misclassified_points_as_real_inputs_have() -> None:
    net = dense(([[1.0]], [0.0]), ([[1.0], [0.0]], [0.0, 0.5]))  # y_0 = relu(x), y_1 = 1/2
    for steps, word in ((2, "sat"), (3, "unsat")):  # 1/2 ties; 2/3 and 1 do not
        box = mv.Box([0.5], [1.0]).with_grid(mv.Grid(steps))
        assert mv.verify(net, mv.robustness(net, box, 0)).word == word


@pytest.mark.parametrize("seed", range(6))
def test_the_minimum_epsilon_is_the_distance_of_the_nearest_adversarial_grid_point(seed: int) -> None:
    net, steps = network(seed), 4
    rng = np.random.default_rng(seed)
    x = np.rint(rng.normal(size=net.n_inputs) * steps) / steps
    label, most = int(np.argmax(net.forward(x))), 6
    far = mv.LinfBall(x, most / steps, grid=mv.Grid(steps))
    distances = [
        max(abs(p - Fraction(c)) for p, c in zip(point, x.tolist(), strict=True))
        for point in grid_points(far)
        if max(y := forward_exact(net, point)) != y[label] or y.count(y[label]) > 1
    ]
    found = mv.minimum_epsilon(net, x, label, eps_max=most / steps, grid=mv.Grid(steps))
    if not distances:
        assert (found.lower, found.upper) == (most / steps, math.inf)
        return
    assert Fraction(found.lower) <= min(distances) <= Fraction(found.upper)
    assert found.upper - found.lower <= 1e-12
    assert found.witness is not None and np.abs(found.witness.x - x).max() == pytest.approx(found.upper)


def test_the_minimum_epsilon_on_a_grid_is_counted_in_linf_from_a_grid_point() -> None:
    net = network(0)
    x = np.zeros(net.n_inputs)
    with pytest.raises(OptionError, match="L-inf"):
        mv.minimum_epsilon(net, x, 0, ball=mv.L1Ball, eps_max=1.0, grid=mv.Grid(4))
    with pytest.raises(OptionError, match=r"x\[0\] = 0.1 is no k/4"):
        mv.minimum_epsilon(net, x + 0.1, 0, eps_max=1.0, grid=mv.Grid(4))


def test_detection_asks_about_grid_points_only() -> None:
    net = dense(([[1.0], [-1.0]], [-0.5, 0.5]), ([[1.0, 1.0], [0.0, 0.0]], [-0.25, 0.0]))
    assert mv.possibly_adversarial(net, np.array([0.0]), 1.0, clip=(0, 1)).possible
    assert not mv.possibly_adversarial(net, np.array([0.0]), 1.0, clip=(0, 1), grid=mv.Grid(1)).possible


@pytest.mark.parametrize("attack", [mv.Pgd(), mv.Fgsm()], ids=["pgd", "fgsm"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "cut" not in kind])
def test_attacks_end_on_grid_points(kind: str, attack: mv.Pgd | mv.Fgsm) -> None:
    for seed in (1, 2, 6):
        net, case, least, _ = question(kind, seed)
        found = attack.attack(net, case, stop=-math.inf)
        assert case.region.contains(case.region.exact_point(found.x))
        assert found.slack >= float(least) - 1e-12
        if isinstance(attack, mv.Pgd):  # few points, and it draws thousands
            assert found.slack == pytest.approx(float(least), abs=1e-9)

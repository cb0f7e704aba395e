"""Laws of the tasks: verdicts, margins, radii, ranges and classes agree with brute force over activation patterns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.program.program import Program
from milpverify.program.solver import NO_LIMITS, Limits, Solution, Solver, Status
from tests.cases import NETWORKS, POLYHEDRAL, REGIONS, brute_force_minimum, brute_force_slack, seeds

FEW = settings(max_examples=6)


def random_property(rng: np.random.Generator, net: mv.Network, region: mv.Region) -> mv.Property:
    """Two cases of one and two rows, their right-hand sides near what the region reaches."""
    cases = []
    for m in (1, 2):
        C = rng.normal(size=(m, net.n_outputs))
        y = net.forward(region.sample(rng, 1)[0])
        cases.append(mv.Case(region, mv.Polyhedron(C, C @ y - 0.4 * rng.random(m)), f"rows {m}"))
    return mv.Property(tuple(cases), net.n_inputs, net.n_outputs)


@pytest.mark.parametrize("region_kind", POLYHEDRAL)
@pytest.mark.parametrize("kind", NETWORKS)
@FEW
@given(seed=seeds)
def test_verdicts_and_margins_agree_with_brute_force(kind: str, region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    prop = random_property(rng, net, region)
    truth = min(brute_force_slack(net, region, case.unsafe.C, case.unsafe.d) for case in prop.cases)
    for method in (mv.Verifier(), mv.Verifier(bounds=mv.Interval(), attack=None)):
        verdict = mv.verify(net, prop, method=method)
        if truth > 1e-4:
            assert isinstance(verdict, mv.Holds)
        elif truth < -1e-4:
            assert isinstance(verdict, mv.Violated)
            assert verdict.witness.replay.confirmed
    margin = mv.worst_margin(net, prop)
    assert margin.lower - 2e-6 <= truth <= margin.upper + 2e-6
    assert margin.is_exact(1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
@FEW
@given(seed=seeds)
def test_ranges_and_classes_agree_with_brute_force(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS["box"](rng, net.n_inputs)
    for i, found in enumerate(mv.output_range(net, region)):
        unit = np.eye(net.n_outputs)[i]
        for bracket, truth in (
            (found.minimum, brute_force_minimum(net, region, unit)),
            (found.maximum, -brute_force_minimum(net, region, -unit)),
        ):
            assert bracket.lower - 2e-6 <= truth <= bracket.upper + 2e-6
            assert bracket.is_exact(1e-5)
    for found_class in mv.reachable_classes(net, region):
        rows = np.delete(np.eye(net.n_outputs), found_class.label, axis=0)
        rows[:, found_class.label] -= 1.0
        truth = brute_force_slack(net, region, rows, np.zeros(len(rows)))
        assert found_class.slack.lower - 2e-6 <= truth <= found_class.slack.upper + 2e-6
        # Above 0, a solver's word needs the stated tolerance; the 1e-6 is the gap.
        if truth < -1e-5 or truth > found_class.tolerance + 1e-5:
            assert found_class.reachable is (truth < 0)
        if truth > 0:
            assert found_class.reachable is not True
        if truth < -1e-6:
            assert found_class.reachable is not False


@pytest.mark.parametrize("ball", (mv.LinfBall, mv.L1Ball))
@pytest.mark.parametrize("kind", NETWORKS)
@FEW
@given(seed=seeds)
def test_nothing_is_adversarial_inside_the_minimum_radius(kind: str, ball: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    x = rng.uniform(0, 1, net.n_inputs)
    label = int(np.argmax(net.forward(x)))
    radius = mv.minimum_epsilon(net, x, label, ball=ball, clip=(0, 1))
    others = [np.eye(net.n_outputs)[label] - np.eye(net.n_outputs)[t] for t in range(net.n_outputs) if t != label]

    def least(eps: float) -> float:
        return min(brute_force_minimum(net, ball(x, eps, clip=(0, 1)), row) for row in others)

    if radius.witness is None:
        assert least(radius.lower) > -1e-5
        return
    assert radius.is_exact(1e-5)
    assert least(radius.upper) <= 1e-6
    if radius.lower > 1e-4:
        assert least(radius.lower - 1e-4) > -1e-6


@pytest.mark.parametrize("kind", NETWORKS)
@FEW
@given(seed=seeds)
def test_l2_radii_lie_between_those_of_the_other_norms_and_nothing_sampled_is_nearer(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    x = rng.uniform(0, 1, net.n_inputs)
    label = int(np.argmax(net.forward(x)))
    method = mv.Radius(relative_gap=1e-3)
    linf, l2, l1 = (
        mv.minimum_epsilon(net, x, label, ball=ball, clip=(0, 1), method=method)
        for ball in (mv.LinfBall, mv.L2Ball, mv.L1Ball)
    )
    assert linf.lower <= l2.upper * (1 + 1e-9) and l2.lower <= l1.upper * (1 + 1e-9)
    root = np.sqrt(net.n_inputs) * (1 + 1e-9)
    assert l2.lower <= root * linf.upper and l1.lower <= root * l2.upper
    assert (linf.witness is None) == (l2.witness is None)
    if l2.witness is not None:
        assert l2.gap <= 1e-6 + 1.001e-3 * l2.upper
        assert np.linalg.norm(l2.witness.x - x) <= l2.upper
        assert np.argmax(net.forward(l2.witness.x)) != label or l2.witness.replay.slack_exact <= 0
    points = rng.normal(size=(2000, net.n_inputs))
    points *= rng.random((2000, 1)) * min(l2.lower, 10.0) / np.linalg.norm(points, axis=1, keepdims=True)
    y = net.forward(np.clip(x + points, 0, 1))
    assert (np.delete(y, label, axis=1).max(axis=1) < y[:, label] + 1e-9).all()


@dataclass(frozen=True)
class StopsOnce(Solver):
    """HiGHS, but its n-th mixed-integer program ends by the time limit with its bound at the optimum."""

    n: int
    solved: list[int] = field(default_factory=list)

    def solve(self, program: Program, limits: Limits = NO_LIMITS) -> Solution:
        solution = mv.Highs().solve(program, limits)
        if program.is_mip:
            self.solved.append(1)
            if len(self.solved) == self.n:
                return replace(solution, status=Status.TIME_LIMIT, x=None, objective=None)
        return solution


@pytest.mark.parametrize("n", (1, 2))
@pytest.mark.parametrize("seed", (8, 28, 48, 49))  # on the first three, another target is nearer
def test_a_radius_cut_short_claims_nothing_about_targets_not_looked_at(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["chain"](rng)
    x = rng.uniform(0, 1, net.n_inputs)
    label = int(np.argmax(net.forward(x)))
    whole = mv.minimum_epsilon(net, x, label, clip=(0, 1))
    search = mv.MILP(solver=StopsOnce(n))
    method = mv.Radius(search=search, attack=None, bounds=mv.Interval(), bisections=1)
    assert mv.minimum_epsilon(net, x, label, clip=(0, 1), method=method).lower <= whole.upper + 2e-6


@FEW
@given(seed=seeds)
def test_detection_has_no_false_negatives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["chain"](rng)
    clean = rng.uniform(0, 1, net.n_inputs)
    perturbed = np.clip(clean + rng.uniform(-0.3, 0.3, net.n_inputs), 0, 1)
    if np.argmax(net.forward(clean)) != np.argmax(net.forward(perturbed)):
        eps = float(np.abs(clean - perturbed).max()) * (1 + 1e-12)
        assert mv.possibly_adversarial(net, perturbed, eps, clip=(0, 1)).possible


@FEW
@given(seed=seeds)
def test_a_misclassified_point_is_never_robust(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["chain"](rng)
    x = rng.uniform(0, 1, net.n_inputs)
    wrong = int(np.argmin(net.forward(x)))
    assert mv.verify(net, mv.robustness(net, mv.LinfBall(x, 0.0), wrong)).word == "sat"
    assert mv.minimum_epsilon(net, x, wrong, clip=(0, 1)).upper == 0.0


def test_an_answer_prints_as_one_line() -> None:
    rng = np.random.default_rng(1)
    net = NETWORKS["chain"](rng)
    x = rng.uniform(0, 1, net.n_inputs)
    label, wrong = int(np.argmax(net.forward(x))), int(np.argmin(net.forward(x)))
    point = mv.LinfBall(x, 0.0)
    holds, violated = (mv.verify(net, mv.robustness(net, point, c)) for c in (label, wrong))
    unknown = mv.Unknown("the MILP\nended", timed_out=True, seconds=1.5)
    assert str(holds).startswith("Holds (unsat, bound-rounded): 2 cases in ")
    assert str(violated).startswith(f"Violated (sat, replayed): case {violated.witness.case!r} slack -")
    assert str(unknown) == "Unknown (timeout): the MILP ended (1.5 s)"
    for verdict in (holds, violated, unknown):
        assert "\n" not in str(verdict) and repr(verdict) != str(verdict)

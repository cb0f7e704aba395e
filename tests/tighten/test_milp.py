"""Laws of MILP tightening: signs and minima agree with brute force, and a solver is believed no further than it may."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.errors import BoundsError, OptionError, SolverError
from milpverify.program.program import Program
from milpverify.program.solver import NO_LIMITS, Limits, Solution, Solver, Status
from milpverify.spec.batch import BoxBatch
from milpverify.tighten import milp as module
from milpverify.tighten.milp import MILPTightening
from tests.cases import NETWORKS, POLYHEDRAL, REGIONS, brute_force_minimum, seeds
from tests.tighten.reference import least_zhat
from tests.tighten.test_lp import assert_contains, assert_inside, deep, mlp50_ball

FEW = settings(max_examples=6)
BOX = mv.Box([-1.0] * 3, [1.0] * 3)


@pytest.mark.parametrize("region_kind", REGIONS)
@pytest.mark.parametrize("kind", NETWORKS)
@FEW
@given(seed=seeds)
def test_milp_bounds_contain_samples_and_nest_inside_crown(kind: str, region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    bounds = mv.compute_bounds(net, region, MILPTightening())
    assert bounds.solver_trusted
    assert_contains(net, region, bounds, rng)
    assert_inside(bounds, mv.compute_bounds(net, region, mv.Crown()), 1e-7)


@pytest.mark.parametrize("region_kind", POLYHEDRAL)
@FEW
@given(seed=seeds)
def test_signs_are_those_of_brute_force(region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = deep(rng, (2, 3, 4, 2))
    region = REGIONS[region_kind](rng, 2)
    bounds = mv.compute_bounds(net, region, MILPTightening())
    for k, size in enumerate(net.sizes, start=1):
        for i in range(size):
            low = least_zhat(net, region, k, i, 1.0)
            high = -least_zhat(net, region, k, i, -1.0)
            assert bounds.lower[k - 1][i] <= low + 1e-7 and bounds.upper[k - 1][i] >= high - 1e-7
            if bounds.unstable(k)[i]:  # nothing that clears the tolerance is left open
                assert low < 1e-3 and high > -1e-3


@pytest.mark.parametrize("region_kind", POLYHEDRAL)
@FEW
@given(seed=seeds)
def test_rows_are_the_minima_of_brute_force_less_the_tolerance(region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["skip"](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    bounds = mv.compute_bounds(net, region, mv.Crown())
    rows = rng.normal(size=(2, net.n_outputs))
    found = mv.bound_rows(net, region, bounds, rows, MILPTightening())
    assert found.solver_trusted and found.nu == ()
    assert found.input_lam.shape == (2, net.n_inputs)
    for row, value in zip(rows, found.value, strict=True):
        truth = brute_force_minimum(net, region, row)
        assert truth - 1e-3 <= value <= truth + 1e-7


def test_what_the_milp_settles_is_settled_at_zero() -> None:
    net, ball = mlp50_ball(0.05)
    crown, bounds = mv.compute_bounds(net, ball, mv.Crown()), mv.compute_bounds(net, ball, MILPTightening())
    settled = crown.unstable(2) & ~bounds.unstable(2)
    assert settled.any()
    assert ((bounds.lower[1] == 0) | (bounds.upper[1] == 0))[settled].all()
    assert_contains(net, ball, bounds, np.random.default_rng(0))


def test_over_an_l2_ball_rows_reach_the_value_of_a_point() -> None:
    net = deep(np.random.default_rng(7), (2, 5, 4, 1))
    region = mv.L2Ball([0.3, -0.2], 0.7)
    bounds = mv.compute_bounds(net, region, mv.Crown())
    value = mv.bound_rows(net, region, bounds, [[1.0]], MILPTightening()).value[0]
    angle = np.linspace(0, 2 * np.pi, 400)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)[None] * np.linspace(0, 0.7, 60)[:, None, None]
    least = net.forward(np.asarray(region.center) + circle.reshape(-1, 2)).min()
    assert value <= least
    assert value == pytest.approx(least, abs=2e-3)


@dataclass(frozen=True)
class Liar(Solver):
    """A solver that calls every program infeasible."""

    def solve(self, program: Program, limits: Limits = NO_LIMITS) -> Solution:
        return Solution(Status.INFEASIBLE, None, math.inf, None, None, None, None, 0, 0.0)


@dataclass(frozen=True)
class Broken(Solver):
    """A solver that fails."""

    def solve(self, program: Program, limits: Limits = NO_LIMITS) -> Solution:
        raise SolverError("no licence")


@dataclass(frozen=True)
class Late(Solver):
    """A solver that runs out of time with a bound in hand."""

    bound: float

    def solve(self, program: Program, limits: Limits = NO_LIMITS) -> Solution:
        return Solution(Status.TIME_LIMIT, None, self.bound, None, None, None, None, 0, 0.0)


@cache
def one_open_neuron() -> mv.Network:
    """A network with a neuron of layer 2 that CROWN leaves unstable and that has one sign on the box."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        net = deep(rng, (3, 8, 8, 1))
        crown = mv.compute_bounds(net, BOX, mv.Crown())
        if (crown.unstable(2) & ~mv.compute_bounds(net, BOX, MILPTightening()).unstable(2)).any():
            return net
    raise AssertionError("no such network among 100")


@pytest.mark.parametrize(
    ("solver", "message"),
    [(Liar(), "finds no point on the activation pattern of a known input"), (Broken(), "programs failed")],
)
def test_a_solver_that_cannot_be_right_is_not_believed(solver: Solver, message: str) -> None:
    net = one_open_neuron()
    crown = mv.compute_bounds(net, BOX, mv.Crown())
    with pytest.warns(UserWarning, match=f"MILPTightening: layer 2: .*{message}"):
        bounds = mv.compute_bounds(net, BOX, MILPTightening(solver=solver))
    assert_inside(bounds, crown)
    assert_inside(crown, bounds)
    with pytest.warns(UserWarning, match=f"MILPTightening: the output rows: .*{message}"):
        value = mv.bound_rows(net, BOX, crown, [[1.0]], MILPTightening(solver=solver)).value
    assert value == mv.bound_rows(net, BOX, crown, [[1.0]], mv.Crown()).value


def test_programs_with_huge_sums_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    net = one_open_neuron()
    crown = mv.compute_bounds(net, BOX, mv.Crown())
    monkeypatch.setattr(module, "LARGEST_REACH", 1e-3)
    with pytest.warns(UserWarning, match="programs with sums beyond 0.001 are not believed"):
        bounds = mv.compute_bounds(net, BOX, MILPTightening())
    assert_inside(crown, bounds)


def test_a_bound_in_hand_counts_less_the_tolerance_and_at_most_zero() -> None:
    net = one_open_neuron()
    crown = mv.compute_bounds(net, BOX, mv.Crown())
    bounds = mv.compute_bounds(net, BOX, MILPTightening(solver=Late(-1e-4), tolerance=1e-3))
    moved = np.concatenate([(bounds.lower[1] - crown.lower[1]), (crown.upper[1] - bounds.upper[1])]) > 0
    values = np.concatenate([bounds.lower[1], -bounds.upper[1]])[moved]
    assert len(values) and (values <= -1e-4 - 1e-3).all() and (values >= -0.1).all()
    late = mv.compute_bounds(net, BOX, MILPTightening(solver=Late(5.0), tolerance=1e-3))
    assert (late.lower[1][late.lower[1] > crown.lower[1]] == 0).all()
    assert (late.upper[1][late.upper[1] < crown.upper[1]] == 0).all()


@pytest.mark.parametrize(
    "options", ({"time_limit_s": 0.0}, {"time_limit_s_per_neuron": 0.0, "time_limit_s_per_row": 0.0})
)
def test_without_time_nothing_changes(options: dict[str, float]) -> None:
    net = one_open_neuron()
    crown, bounds = mv.compute_bounds(net, BOX, mv.Crown()), mv.compute_bounds(net, BOX, MILPTightening(**options))
    assert_inside(bounds, crown)
    assert_inside(crown, bounds)
    value = mv.bound_rows(net, BOX, crown, [[1.0]], MILPTightening(**options))
    assert value.value == mv.bound_rows(net, BOX, crown, [[1.0]], mv.Crown()).value
    assert not value.solver_trusted


def test_batches_are_refused_by_name() -> None:
    with pytest.raises(BoundsError, match="MILPTightening: programs are about one region"):
        mv.compute_bounds(one_open_neuron(), BoxBatch(np.zeros((2, 3)), np.ones((2, 3))), MILPTightening())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, "tolerance must be positive and finite, got 0.0"),
        ({"gap": math.inf}, "gap must be positive and finite, got inf"),
        ({"time_limit_s_per_neuron": math.nan}, "time_limit_s_per_neuron must be at least 0, got nan"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        MILPTightening(**options)

"""Attacks: points stay in the region, slacks are true, and minima are found where they are known."""

from __future__ import annotations

import numpy as np
import pytest
from attack_cases import affine, case, convolution_network, linear_network, skip_network, slack_at

from milpverify.attack.descent import Best, steepest
from milpverify.attack.fgsm import Fgsm
from milpverify.attack.gradient import value_and_gradient
from milpverify.attack.local import best_of_groups, local_search
from milpverify.attack.method import Attack, Goal, Slack, centre
from milpverify.attack.pgd import Pgd
from milpverify.errors import OptionError, PropertyError
from milpverify.network.graph import Network
from milpverify.network.operators import Dense
from milpverify.spec.property import Case, Polyhedron
from milpverify.spec.regions import Box, L1Ball, L2Ball, LinfBall, Region

CENTRE = np.array([0.2, -0.1, 0.4])
REGIONS: dict[str, Region] = {
    "box": Box(np.array([-1.0, 0.0, 0.3]), np.array([0.5, 0.0, 2.0])),
    "linf": LinfBall(CENTRE, 0.3),
    "linf-clip": LinfBall(CENTRE, 0.5, clip=(-0.2, 0.6)),
    "l2": L2Ball(CENTRE, 0.5),
    "l2-clip": L2Ball(CENTRE, 0.6, clip=(-0.3, 0.7)),
    "l1": L1Ball(CENTRE, 0.7),
    "l1-clip": L1Ball(CENTRE, 0.9, clip=(-0.3, 0.7)),
}
ATTACKS: dict[str, Attack] = {"fgsm": Fgsm(), "pgd": Pgd(samples=256, rounds=2)}
every_region = pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS.keys())
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


@every_region
@every_attack
@pytest.mark.parametrize("seed", range(3))
def test_results_lie_in_the_region_and_tell_their_own_slack(region: Region, attack: Attack, seed: int) -> None:
    net = skip_network(seed)
    cases = [case(region, [[1, -1, 0]], [0.3]), case(region, [[0, 1, -1], [1, 0, 1]], [-0.5, 0.2])]
    for one, result in zip(cases, attack.attack_all(net, cases, stop=-np.inf), strict=True):
        np.testing.assert_allclose(region.project(result.x), result.x, rtol=0, atol=1e-9)
        assert result.slack == pytest.approx(slack_at(net, one, result.x), abs=1e-12)
        assert result.slack <= slack_at(net, one, centre(region)) + 1e-12
        assert result.found == (result.slack <= 0)


@every_region
@every_attack
def test_the_minimum_of_an_affine_function_is_reached(region: Region, attack: Attack) -> None:
    row = np.array([1.5, -2.0, 0.25])
    one = case(region, [[1.0]], [0.0])
    least = float(row @ region.minimiser(row[None])[0])
    result = attack.attack(linear_network(row[None], np.zeros(1)), one, stop=-np.inf)
    assert result.slack == pytest.approx(least, abs=1e-6 if isinstance(attack, Pgd) else 1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_pgd_meets_or_beats_a_fine_grid(seed: int) -> None:
    net = skip_network(seed, n=2, hidden=(12, 8))
    region = Box(np.array([-2.0, -1.0]), np.array([1.0, 3.0]))
    one = case(region, [[1, -1, 0], [1, 0, -1]], [0.0, 0.1])
    axes = np.meshgrid(np.linspace(-2, 1, 301), np.linspace(-1, 3, 301))
    grid = slack_at(net, one, np.stack([a.ravel() for a in axes], axis=1))
    assert Pgd(samples=1024).attack(net, one, stop=-np.inf).slack <= grid.min() + 1e-9


@pytest.mark.parametrize("ball", [LinfBall, L2Ball, L1Ball])
def test_pgd_is_at_least_as_good_as_fgsm_and_samples_in_high_dimension(ball: type[LinfBall]) -> None:
    net = skip_network(5, n=80, hidden=(40, 30))
    region = ball(np.full(80, 0.5), 1.0, clip=(0.0, 1.0))
    one = case(region, [[1, -1, 0]], [0.0])
    sampled = slack_at(net, one, region.sample(np.random.default_rng(1), 500)).min()
    pgd = Pgd().attack(net, one, stop=-np.inf).slack
    assert pgd <= Fgsm().attack(net, one).slack + 1e-12
    assert pgd < sampled


@pytest.mark.parametrize("seed", range(4))
def test_pgd_in_an_l1_ball_is_as_good_as_frank_wolfe(seed: int) -> None:
    net = skip_network(seed, n=200, hidden=(60, 40))
    one = case(L1Ball(np.full(200, 0.5), 15.0, clip=(0.0, 1.0)), [[1, -1, 0]], [0.0])
    x, least = np.full((1, 200), 0.5), np.inf
    for t in range(60):
        y, gradient = value_and_gradient(net, x, one.unsafe.C)
        least = min(least, float(y[0, 0] - y[0, 1]))
        x = x + 2 / (t + 2) * (one.region.minimiser(gradient) - x)
    assert Pgd(rounds=1).attack(net, one, stop=-np.inf).slack <= least + 0.02


def test_a_feature_that_is_dead_at_the_centre_is_found() -> None:
    # y = relu(sum x - 30) on [-1, 1]^60: the gradient is zero but near one corner, where no sample ever falls.
    hidden = affine([(0, Dense(np.ones((1, 60))))], np.array([-30.0]))
    net = Network((60,), (1,), (hidden,), affine([(1, Dense(np.eye(1)))], np.zeros(1)))
    one = case(Box(-np.ones(60), np.ones(60)), [[-1.0]], [-20.0])
    assert not Fgsm().attack(net, one).found
    assert Pgd().attack(net, one).found


def test_equal_seeds_give_equal_results_and_others_do_not() -> None:
    net, region = skip_network(8), REGIONS["l2-clip"]
    cases = [case(region, [[1, -1, 0]], [-0.2]), case(region, [[0, 1, -1]], [0.2])]
    first, again, other = (
        Pgd(steps=3, samples=64, seed=seed).attack_all(net, cases, stop=-np.inf) for seed in (7, 7, 8)
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.x, b.x)
    assert any((a.x != b.x).any() for a, b in zip(first, other, strict=True))


def test_cases_over_different_regions_keep_their_order_and_their_region() -> None:
    net = linear_network(np.eye(3), np.zeros(3))
    regions = [Box(np.full(3, low), np.full(3, low + 1)) for low in (0.0, 10.0)]
    cases = [case(regions[i % 2], [row], [-100.0]) for i, row in enumerate(np.eye(3))]
    results = Pgd(samples=64, rounds=1).attack_all(net, cases)
    for one, result in zip(cases, results, strict=True):
        assert one.region.contains(result.x)
        assert result.slack == pytest.approx(100 + one.region.lower[0])


def test_every_case_goes_on_until_each_is_met() -> None:
    net = linear_network(np.eye(2), np.zeros(2))
    region = Box(-np.ones(2), np.ones(2))
    # The second set is a corner that the first one's descent has no reason to visit.
    cases = [case(region, [[1, 0]], [0.5]), case(region, [[-1, 0], [0, -1]], [-0.99, -0.99])]
    results = Pgd().attack_all(net, cases, every_case=True)
    assert all(result.found for result in results)


def test_a_goal_met_at_the_centre_ends_the_search_there() -> None:
    net, one = skip_network(1), case(REGIONS["linf"], [[1, -1, 0]], [0.0])
    result = Pgd().attack(net, one, stop=np.inf)
    np.testing.assert_array_equal(result.x, CENTRE)


def test_no_time_gives_the_centre() -> None:
    net, one = convolution_network(2), case(LinfBall(np.zeros(25), 1.0), [[1, -1, 0]], [-1e3])
    for attack in ATTACKS.values():
        result = attack.attack(net, one, time_limit_s=0.0)
        np.testing.assert_array_equal(result.x, np.zeros(25))
        assert result.slack == pytest.approx(slack_at(net, one, np.zeros(25)))


def test_a_given_start_is_used() -> None:
    # y = relu(sum x - 174) on [-4, 4]^60 is flat at the centre, and only the start says where it is not.
    hidden = affine([(0, Dense(np.ones((1, 60))))], np.array([-174.0]))
    net = Network((60,), (1,), (hidden,), affine([(1, Dense(np.eye(1)))], np.zeros(1)))
    one = case(Box(np.full(60, -4.0), np.full(60, 4.0)), [[-1.0]], [-1.0])
    assert not Fgsm().attack(net, one).found
    assert Fgsm().attack(net, one, start=np.full(60, 3.0)).found


def test_a_case_without_rows_is_violated_everywhere() -> None:
    free = Case(REGIONS["linf"], Polyhedron(np.zeros((0, 3)), np.zeros(0)), "free")
    assert Pgd().attack(skip_network(0), free).found


@every_region
def test_the_steepest_direction_has_the_radius_and_rises_most(region: Region) -> None:
    rng = np.random.default_rng(0)
    gradient = rng.normal(size=(50, 3))
    direction = steepest(region, gradient)
    others = rng.normal(size=(2000, 3))
    if isinstance(region, L2Ball):
        length, others = np.linalg.norm(direction, axis=1), others / np.linalg.norm(others, axis=1, keepdims=True)
    elif isinstance(region, L1Ball):
        length, others = np.abs(direction).sum(axis=1), others / np.abs(others).sum(axis=1, keepdims=True)
    else:
        half = (region.upper - region.lower) / 2
        length = np.abs(direction[:, half > 0] / half[half > 0]).max(axis=1)
        others = np.clip(others, -1, 1) * half
    radius = float(region.eps) if isinstance(region, L1Ball | L2Ball) else 1.0
    np.testing.assert_allclose(length, radius)
    scale = radius if isinstance(region, L1Ball | L2Ball) else 1.0
    best = (gradient @ others.T * scale).max(axis=1)
    assert ((gradient * direction).sum(axis=1) >= best - 1e-9).all()


def test_the_steepest_direction_of_a_wide_l1_ball_shares_the_radius_among_the_largest_slopes() -> None:
    gradient = np.random.default_rng(0).normal(size=(4, 80))
    direction = steepest(L1Ball(np.zeros(80), 0.5), gradient)
    np.testing.assert_allclose(np.abs(direction).sum(axis=1), 0.5)
    for slopes, moved in zip(np.abs(gradient), direction != 0, strict=True):
        assert moved.sum() == 4 and slopes[moved].min() > slopes[~moved].max()


def test_what_does_not_fit_is_refused() -> None:
    net = skip_network(0)
    with pytest.raises(PropertyError, match="2 inputs and 3 outputs"):
        Pgd().attack(net, case(Box(np.zeros(2), np.ones(2)), [[1, 0, 0]], [0.0]))
    with pytest.raises(OptionError, match="time_limit_s"):
        Pgd().attack(net, case(REGIONS["box"], [[1, 0, 0]], [0.0]), time_limit_s=-1.0)
    with pytest.raises(OptionError, match="steps=0"):
        Pgd(steps=0)
    with pytest.raises(OptionError, match="step_size"):
        Pgd(step_size=float("nan"))


def test_local_search_reaches_the_bottom_of_a_crease_where_gradients_stall() -> None:
    # max(|x|, |y|) + |x - y| has creases along the axes' diagonals; its only minimum is 0 at the origin.
    signs = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    rows = [(s + t).tolist() for s in signs for t in np.array([[1.0, -1.0], [-1.0, 1.0]])]
    net = linear_network(np.eye(2), np.zeros(2))
    region = Box(np.array([-1.0, -0.5]), np.array([1.0, 2.0]))
    slack = Slack.of(net, [case(region, [[1, 0]], [0.0]), case(region, rows, [0.0] * len(rows))])
    points = np.array([[0.9, 0.9], [-0.8, -0.4]])
    values = slack.at_points(points)
    best = Best.of(2, points, values)
    goal = Goal(-np.inf, False, np.inf)
    local_search(slack, region, 1, points, values[:, 1], np.random.default_rng(0), best, goal)
    assert 0 <= best.value[1] < 0.02 < values[:, 1].min()
    assert region.contains(best.x[1])
    assert best.value[1] == pytest.approx(slack.at_points(best.x[1:])[0, 1])
    assert best.value[0] == values[:, 0].min()  # the other case is left alone


@pytest.mark.parametrize(("m", "groups"), [(12, 5), (5, 5), (9, 1), (3, 0)])
def test_the_best_of_groups_are_distinct_and_hold_the_best(m: int, groups: int) -> None:
    values = np.random.default_rng(m).normal(size=(m, 3))
    chosen = best_of_groups(values, groups)
    assert chosen.shape == (groups, 3)
    for column, picked in zip(values.T, chosen.T, strict=True):
        assert len(set(picked.tolist())) == groups
        if groups:
            assert int(column[: m - m % groups].argmin()) in picked

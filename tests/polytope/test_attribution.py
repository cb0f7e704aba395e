"""The gap of an LP falls apart into the shares of its neurons, and gains are what small programs say."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.bounds.method import Interval
from milpverify.errors import BoundsError, OptionError
from milpverify.network.graph import Network
from milpverify.polytope.attribution import attribute_gap
from milpverify.polytope.exact_neurons import ExactNeurons
from milpverify.polytope.linear_regions import linear_regions
from milpverify.spec.regions import Box, L1Ball, L2Ball, LinfBall, Region
from milpverify.tighten.lp import TriangleLP
from tests.cases import skip
from tests.polytope.planar_cases import network, random_net

CASES: dict[str, tuple[Network, Region]] = {
    "chain": (random_net(0, 2, 10, 10, 10, 2), LinfBall(np.zeros(2), 0.7)),
    "more inputs": (random_net(1, 6, 12, 12, 2), LinfBall(np.zeros(6), 0.5)),
    "l1 ball": (random_net(2, 3, 12, 12, 2), L1Ball(np.zeros(3), 1.0)),
    "skips": (skip(np.random.default_rng(5)), LinfBall(np.zeros(2), 2.0)),
}
ROW = np.array([1.0, -0.5])


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Network, Region]:
    return CASES[request.param]


def test_the_shares_of_all_neurons_are_the_gap(case: tuple[Network, Region]) -> None:
    net, region = case
    found = attribute_gap(net, region, ROW, candidates=0)
    assert region.contains(found.point)
    assert found.attained == pytest.approx(float(ROW @ net.forward(found.point)), abs=1e-12)
    shares = sum(neuron.share for neuron in found.neurons)
    assert shares + found.input_share == pytest.approx(found.gap, abs=1e-7)
    assert found.input_share == pytest.approx(0.0, abs=1e-6)
    assert found.gap > 1e-3, "a case without a gap shows nothing"
    assert all(neuron.gain is None for neuron in found.neurons)


def test_a_gain_is_what_a_program_with_that_neuron_exact_wins(case: tuple[Network, Region]) -> None:
    net, region = case
    bounds = compute_bounds(net, region)
    found = attribute_gap(net, region, ROW, hidden=bounds, candidates=None)
    lp = bound_rows(net, region, bounds, ROW, TriangleLP()).value[0]
    assert found.lower == pytest.approx(lp, abs=1e-8)
    for neuron in found.neurons[:6]:
        method = ExactNeurons(((neuron.layer, neuron.index),), tolerance=1e-9)
        value = bound_rows(net, region, bounds, ROW, method).value[0]
        assert neuron.gain == pytest.approx(value - lp, abs=1e-5)
    gains = [neuron.gain for neuron in found.neurons]
    assert None not in gains and gains == sorted(gains, reverse=True)  # type: ignore[type-var]


def test_the_more_neurons_are_exact_the_better_the_bound_up_to_the_truth() -> None:
    net, region = CASES["chain"]
    bounds = compute_bounds(net, region)
    found = attribute_gap(net, region, ROW, hidden=bounds, candidates=None)
    values = [
        bound_rows(net, region, bounds, ROW, ExactNeurons(found.top(k), tolerance=1e-8)).value[0]
        for k in (0, 1, 3, 6, len(found.neurons))
    ]  # fmt: skip
    assert values[0] == pytest.approx(found.lower, abs=1e-8)
    assert all(a <= b + 1e-6 for a, b in pairwise(values))
    exact = float((linear_regions(net, region).outputs @ ROW).min())
    assert values[-1] == pytest.approx(exact, abs=1e-5)
    assert values[1] - values[0] == pytest.approx(found.neurons[0].gain, abs=1e-5)


def test_arrays_hold_what_the_neurons_do_and_zero_where_stable(case: tuple[Network, Region]) -> None:
    net, region = case
    bounds = compute_bounds(net, region, Interval())
    found = attribute_gap(net, region, ROW, hidden=Interval(), candidates=3)
    for arrays, name in ((found.slacks(), "slack"), (found.shares(), "share"), (found.gains(), "gain")):
        assert tuple(map(len, arrays)) == net.sizes
        for k, array in enumerate(arrays, start=1):
            assert (array[~bounds.unstable(k)] == 0).all()
        for neuron in found.neurons:
            value = getattr(neuron, name)
            here = arrays[neuron.layer - 1][neuron.index]
            assert np.isnan(here) if value is None else here == value
    assert len(found.neurons) == sum(bounds.n_unstable)
    assert sum(neuron.gain is not None for neuron in found.neurons) == min(3, len(found.neurons))
    assert found.top(2) == tuple((neuron.layer, neuron.index) for neuron in found.neurons[:2])
    header, rows = found.table()
    assert len(header) == 5 and len(rows) == len(found.neurons) and "attained" in str(found)


def test_by_hand_the_looseness_of_a_concave_relu_is_all_its_own() -> None:
    # y = -2 relu(x) + relu(2 x) = 0 on [-1, 1]. In the LP the first is at most (x + 1) / 2, the second at least
    # max(0, 2 x): the minimum is -1, at x = 0. Exact, the first wins it all; the second is not loose there.
    net = network(([[1], [2]], [0, 0]), ([[-2, 1]], [0]))
    found = attribute_gap(net, Box(np.array([-1.0]), np.array([1.0])), np.ones(1), candidates=None)
    assert found.lower == pytest.approx(-1.0, abs=1e-9) and found.attained == pytest.approx(0.0, abs=1e-9)
    first, second = found.neurons
    assert (first.layer, first.index) == (1, 0)
    assert (first.gain, first.slack, first.share) == pytest.approx((1.0, 1.0, 1.0), abs=1e-7)
    assert (second.gain, second.slack, second.share) == pytest.approx((0.0, 0.0, 0.0), abs=1e-7)


def test_without_unstable_neurons_there_is_nothing_to_attribute() -> None:
    net, x = random_net(0, 3, 5, 5, 2), np.array([0.5, 0.25, -1.0])
    found = attribute_gap(net, Box(x, x), ROW)
    assert found.neurons == () and found.gap == pytest.approx(0.0, abs=1e-9)


def test_bad_questions_are_refused() -> None:
    net = random_net(0, 3, 5, 2)
    with pytest.raises(OptionError, match="L2 ball"):
        attribute_gap(net, L2Ball(np.zeros(3), 1.0), ROW)
    with pytest.raises(OptionError, match="candidates must be at least 0"):
        attribute_gap(net, LinfBall(np.zeros(3), 1.0), ROW, candidates=-1)
    with pytest.raises(BoundsError, match="expected finite rows"):
        attribute_gap(net, LinfBall(np.zeros(3), 1.0), np.ones(3))

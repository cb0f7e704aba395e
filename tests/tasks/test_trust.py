"""Where a solver's or float64's word must not be taken: numbers too small, too large, or at no float."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest

from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.bounds.method import Interval
from milpverify.network.exact import forward_exact
from milpverify.network.graph import Network
from milpverify.network.operators import Dense
from milpverify.proof.evidence import Grade, Holds, Unknown
from milpverify.search.milp import MILP
from milpverify.spec.property import Case, Polyhedron, Property, robustness
from milpverify.spec.regions import Box, L1Ball, LinfBall, Region
from milpverify.tasks.epsilon import minimum_epsilon
from milpverify.tasks.margin import Minimiser, margin_with_needed, worst_margin
from milpverify.tasks.radius import Radius
from milpverify.tasks.ranges import reachable_classes
from milpverify.tasks.verify import Verifier, verify
from tests.cases import NETWORKS, affine, brute_force_minimum, brute_force_slack


def dense_net(*layers: tuple[np.ndarray, np.ndarray]) -> Network:
    """A chain of (W, b); the last one is the output."""
    maps = tuple(affine({k: Dense(W)}, b) for k, (W, b) in enumerate(layers))
    return Network((layers[0][0].shape[1],), (len(layers[-1][1]),), maps[:-1], maps[-1])


def below(region: Box, net: Network, row: list[float], d: float) -> Property:
    """The claim that row . y > d."""
    return Property((Case(region, Polyhedron(np.array([row]), np.array([d]))),), net.n_inputs, net.n_outputs)


def test_many_coefficients_below_the_solvers_tolerance_still_count() -> None:
    # 300 inputs of 9e-8 each: HiGHS would call any point optimal; the least output is -1.35e-5, at x = 1.
    n = 300
    row = -9e-8 * np.concatenate([np.full(n, 2.0), np.full(n, -1.0)])[None]
    first = np.vstack([np.eye(n), np.eye(n)])
    for extra in (0.0, 1.0):  # alone, and next to one coefficient of 1
        last = np.hstack([row, [[extra]]])
        hidden = np.vstack([first, np.eye(n)[:1]])
        net = dense_net((hidden, np.full(2 * n + 1, -0.5)), (last, np.zeros(1)))
        region = Box(np.zeros(n), np.concatenate([[0.4], np.ones(n - 1)]))
        truth = float(forward_exact(net, region.upper.tolist())[0])
        prop = below(region, net, [1.0], -1e-5)
        assert truth < -1e-5
        assert not isinstance(verify(net, prop, method=Verifier(attack=None)), Holds)
        assert worst_margin(net, prop, method=Minimiser(attack=None)).lower <= truth + 1e-5 + 1e-9


def test_a_solver_is_not_believed_where_float64_is_coarser_than_its_tolerances() -> None:
    # Preactivations that cancel at the centre, on scales up to 2^60: the programs are infeasible for HiGHS.
    rng = np.random.default_rng(1)
    violated = 0
    for _ in range(60):
        n, h = rng.integers(1, 5), rng.integers(2, 6)
        W = rng.normal(size=(h, n)) * 2.0 ** rng.integers(0, 40, (h, 1))
        x = rng.normal(size=n) * 2.0 ** rng.integers(0, 20)
        layers = (W, -(W @ x)), (rng.normal(size=(h, h)), np.zeros(h)), (rng.normal(size=(2, h)), np.zeros(2))
        net = dense_net(*layers)
        width = float(rng.choice([0.0, 1e-12, 1e-3]))
        region = Box(x - width, x + width)
        outputs = [forward_exact(net, list(point)) for point in (x, region.lower, region.upper)]
        slack = float(min(y[0] - y[1] for y in outputs))
        prop = below(region, net, [1.0, -1.0], slack + 1e-9 * abs(slack))
        violated += slack != 0
        assert not isinstance(verify(net, prop, method=Verifier(attack=None), time_limit_s=5), Holds)
    assert violated > 20


def test_a_class_that_ties_at_no_float_is_not_called_out_of_reach() -> None:
    # y = (0, -|3 x - 1|): class 1 is reached at x = 1/3 only.
    net = dense_net((np.array([[3.0], [-3.0]]), np.array([-1.0, 1.0])), (np.array([[0.0, 0], [-1, -1]]), np.zeros(2)))
    first, second = reachable_classes(net, Box([0.0], [1.0]))
    assert first.reachable is True
    assert second.reachable is not False
    assert not isinstance(verify(net, below(Box([0.0], [1.0]), net, [1.0, -1.0], 0.0)), Holds)


def test_underflow_on_the_way_back_proves_nothing() -> None:
    # 1e36 eight times, then 1e-36 eight times: the multipliers underflow to zero, the activations do not.
    scales = [1e36] * 8 + [1e-36] * 8 + [-1.0]
    net = dense_net(*((np.array([[s]]), np.zeros(1)) for s in scales))
    region = Box([1.0], [1.0])
    rows = np.array([[1e-36]])
    exact = float(forward_exact(net, [1.0])[0]) * 1e-36
    assert exact < -1e-37
    assert bound_rows(net, region, compute_bounds(net, region), rows).value[0] <= exact


def test_the_program_gives_way_by_the_error_of_condensing() -> None:
    # Stable neurons with weights that cancel: the condensed coefficient is off by more than the solver's tolerance.
    rng = np.random.default_rng(0)
    for n, size in itertools.product((2, 5), (1e9, 1e12)):
        w = 1 + rng.random(n)
        s = size * rng.normal(size=n)
        s[-1] = -(s[:-1] @ w[:-1]) / w[-1]
        hidden = np.concatenate([w, [1.0, 1.0]])[:, None]
        offsets = np.concatenate([np.zeros(n), [-0.5, -0.5]])
        net = dense_net((hidden, offsets), (np.concatenate([s, [1.0, -1.0]])[None], np.zeros(1)))
        truth = float(min(forward_exact(net, [k / 16])[0] for k in range(17)))
        bracket = worst_margin(net, below(Box([0.0], [1.0]), net, [1.0], 0.0), method=Minimiser(attack=None))
        assert bracket.lower <= truth + 1e-6


@cache
def with_margin(margin: float) -> tuple[Network, LinfBall]:
    """Two classes: over the ball, y_0 - y_1 >= margin, attained; weights of 4096 on neurons and inputs of about 1."""
    rng = np.random.default_rng(26)
    net = NETWORKS["chain"](rng)
    ball = LinfBall(rng.uniform(0, 1, net.n_inputs), 0.6)
    least = brute_force_minimum(net, ball, np.eye(net.n_outputs)[0])
    [(source, op)] = net.output.blocks
    weight = 4096.0
    last = np.vstack([weight * op.dense()[:1], np.zeros((1, op.in_size))])
    bias = np.array([weight * (net.output.bias[0] - least) + margin, 0.0])
    return Network(net.input_shape, (2,), net.layers, affine({source: Dense(last)}, bias)), ball


@pytest.mark.parametrize(("margin", "proven"), [(5e-3, False), (1.0, True)])
def test_every_word_on_a_solvers_margin_needs_the_same_tolerance(margin: float, proven: bool) -> None:
    # The tolerance grows with the weights: 4096 times 1e-5 is above the smaller margin and below the larger one.
    net, ball = with_margin(margin)
    prop = robustness(net, ball, 0)
    # On this network the bounds are far from the margin, so that it is left to the solver.
    options = {"bounds": Interval(), "attack": None, "search": MILP()}
    slack = margin_with_needed(net, prop, method=Minimiser(**options))
    assert slack.bracket.lower_grade is Grade.SOLVER_TRUSTED
    assert slack.bracket.lower == pytest.approx(margin, abs=1e-4) and 0.04 < slack.needed < 0.5
    verdict = verify(net, prop, method=Verifier(**options))
    reachable = reachable_classes(net, ball, method=Minimiser(**options))[1].reachable
    radius = minimum_epsilon(net, ball.center, 0, eps_max=ball.eps, method=Radius(bisections=0, tree=None, **options))
    assert radius.upper == np.inf
    if proven:
        assert isinstance(verdict, Holds) and slack.reached is False and reachable is False
        assert radius.lower == ball.eps
    else:
        assert isinstance(verdict, Unknown) and slack.reached is None and reachable is None
        assert radius.lower < ball.eps


def stretched(net: Network, k: int, shift: float) -> Network:
    """The network with x -> 2^k (x - shift) before it, folded into its first weights and rounded biases."""
    parts = []
    for part in (*net.layers, net.output):
        bias, blocks = part.bias, {}
        for source, op in part.blocks:
            matrix = op.dense()
            if source == 0:
                matrix = matrix * 2.0**k
                bias = bias - matrix.sum(axis=1) * shift
            blocks[source] = Dense(matrix)
        parts.append(affine(blocks, bias))
    return Network(net.input_shape, net.output_shape, tuple(parts[:-1]), parts[-1])


@pytest.mark.parametrize("k", (8, 16, 20))  # the narrowest balls have a radius of 1e-6, under weights of up to 1e6
@pytest.mark.parametrize("ball", (LinfBall, L1Ball))
def test_radii_far_below_a_solvers_tolerance_are_exact_too(ball: type[LinfBall] | type[L1Ball], k: int) -> None:
    shift, unit, closed = 0.5, 2.0**-k, 0
    for seed in range(2, 20):
        rng = np.random.default_rng(seed)
        net = NETWORKS["chain"](rng)
        x = rng.uniform(0, 1, net.n_inputs)
        label = int(np.argmax(net.forward(x)))
        others = [np.eye(net.n_outputs)[label] - np.eye(net.n_outputs)[t] for t in range(net.n_outputs) if t != label]
        search = MILP(gap=1e-6 * unit)
        method = Radius(bounds=Interval(), attack=None, bisections=1, search=search)
        far = stretched(net, k, shift)
        radius = minimum_epsilon(far, shift + x * unit, label, ball=ball, eps_max=unit, method=method)
        least = radius.lower / unit - 1e-4
        if least > 0:
            assert min(brute_force_minimum(net, ball(x, least), row) for row in others) > -1e-6
        if radius.witness is not None:
            reached = ball(x, radius.upper / unit + 1e-6)
            assert min(brute_force_minimum(net, reached, row) for row in others) <= 1e-6
            closed += radius.is_exact(1e-4 * unit)
    assert closed >= 5


@pytest.mark.parametrize("k", (8, 16, 20))
@pytest.mark.parametrize("kind", ("box", "l1"))
def test_margins_and_verdicts_do_not_depend_on_the_unit_of_the_input(kind: str, k: int) -> None:
    shift, unit, options = 0.5, 2.0**-k, {"bounds": Interval(), "attack": None}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        net = NETWORKS["chain"](rng)
        x, eps = rng.uniform(0, 1, net.n_inputs), rng.uniform(0.2, 1.0)
        C = rng.normal(size=(2, net.n_outputs))

        def region(middle: np.ndarray, radius: float) -> Region:
            return Box(middle - radius, middle + radius) if kind == "box" else L1Ball(middle, radius)

        truth = brute_force_slack(net, region(x, eps), C, np.zeros(2))
        far, narrow = stretched(net, k, shift), region(shift + x * unit, eps * unit)
        prop = Property((Case(narrow, Polyhedron(C, np.zeros(2))),), net.n_inputs, net.n_outputs)
        margin = worst_margin(far, prop, method=Minimiser(**options))
        assert margin.lower - 1e-5 <= truth <= margin.upper + 1e-5
        assert margin.is_exact(1e-4)
        for d, word in ((truth - 1e-3, "unsat"), (truth + 1e-3, "sat")):
            prop = Property((Case(narrow, Polyhedron(C, np.full(2, d))),), net.n_inputs, net.n_outputs)
            assert verify(far, prop, method=Verifier(**options)).word == word


def test_neurons_in_units_of_their_own_give_the_same_answers() -> None:
    # relu(2^-a v) = 2^-a relu(v): the same function, its first neurons narrow and the weights after them large.
    for seed in range(6):
        rng = np.random.default_rng(seed)
        net = NETWORKS["chain"](rng)
        first, second = net.layers
        unit = 2.0 ** -rng.integers(0, 24, first.size).astype(float)
        below = affine({0: Dense(first.blocks[0][1].dense() * unit[:, None])}, first.bias * unit)
        above = affine({1: Dense(second.blocks[0][1].dense() / unit)}, second.bias)
        same = Network(net.input_shape, net.output_shape, (below, above), net.output)
        region = Box(rng.uniform(-1, 0, net.n_inputs), rng.uniform(0, 1, net.n_inputs))
        row = rng.normal(size=net.n_outputs)
        truth = brute_force_minimum(net, region, row)
        case = Case(region, Polyhedron(row[None], np.zeros(1)))
        method = Minimiser(bounds=Interval(), attack=None)
        margin = worst_margin(same, Property((case,), net.n_inputs, net.n_outputs), method=method)
        assert margin.lower - 2e-6 <= truth <= margin.upper + 2e-6
        assert margin.is_exact(1e-5)

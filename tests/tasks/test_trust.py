"""Where a solver's or float64's word must not be taken: numbers too small, too large, or at no float."""

from __future__ import annotations

import itertools

import numpy as np

from milpverify.bounds.method import bound_rows, compute_bounds
from milpverify.network.exact import forward_exact
from milpverify.network.graph import Network
from milpverify.network.operators import Dense
from milpverify.proof.evidence import Holds
from milpverify.spec.property import Case, Polyhedron, Property
from milpverify.spec.regions import Box
from milpverify.tasks.margin import Minimiser, worst_margin
from milpverify.tasks.ranges import reachable_classes
from milpverify.tasks.verify import Verifier, verify
from tests.cases import affine


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

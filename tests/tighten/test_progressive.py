"""Laws of chains: they nest, they count truly, and they stop where nothing is left to gain."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.bounds.dual import DualBound
from milpverify.bounds.method import BoundMethod
from milpverify.bounds.problem import DualProblem
from milpverify.errors import BoundsError, OptionError
from milpverify.tighten.lp import TriangleLP
from milpverify.tighten.milp import MILPTightening
from milpverify.tighten.progressive import Progressive, progressive_bounds
from milpverify.tighten.rows import better_rows
from tests.cases import NETWORKS, REGIONS, seeds
from tests.tighten.test_lp import assert_contains, assert_inside, deep

BOX = mv.Box([-1.0] * 3, [1.0] * 3)


@dataclass(frozen=True)
class Watched(BoundMethod):
    """CROWN that notes the layers it is asked about."""

    asked: list[int] = field(default_factory=list)
    name: ClassVar[str] = "watched"

    def refine(self, problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(k)
        return mv.Crown().refine(problem, k, l, u)

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        return mv.Crown().rows(problem, rows)


@pytest.mark.parametrize("region_kind", REGIONS)
@pytest.mark.parametrize("kind", NETWORKS)
@settings(max_examples=6)
@given(seed=seeds)
def test_a_chain_nests_inside_each_of_its_beginnings(kind: str, region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    short, long = Progressive(steps=(mv.Crown(), TriangleLP())), Progressive()
    bounds = [mv.compute_bounds(net, region, m) for m in (mv.Crown(), short, long)]
    assert_inside(bounds[1], bounds[0], 1e-7)
    assert_inside(bounds[2], bounds[0], 1e-7)
    assert_contains(net, region, bounds[2], rng)
    rows = rng.normal(size=(3, net.n_outputs))
    value = mv.bound_rows(net, region, bounds[2], rows, long).value
    for step in long.steps:
        assert (value >= mv.bound_rows(net, region, bounds[2], rows, step).value - 1e-9).all()


def test_reports_count_what_each_step_leaves_unstable() -> None:
    net = deep(np.random.default_rng(3), (3, 12, 12, 8, 2))
    chain = Progressive(steps=(mv.FastLin(), mv.Crown(), TriangleLP()))
    bounds, reports = progressive_bounds(net, BOX, chain)
    plain = mv.compute_bounds(net, BOX, chain)
    assert_inside(bounds, plain)
    assert_inside(plain, bounds)
    # By hand: every step once more, layer by layer.
    problem, left = DualProblem((*net.layers, net.output), BOX), np.zeros((4, 2), dtype=int)
    for k in range(1, len(net.layers) + 1):
        l, u = mv.Interval().layer(problem, k)
        left[0] += [l.size, ((l < 0) & (u > 0)).sum()]
        for row, step in zip(left[1:], chain.steps, strict=True):
            before = ((l < 0) & (u > 0)).sum()
            l, u = step.refine(problem, k, l, u)
            row += [before, ((l < 0) & (u > 0)).sum()]
        problem = problem.with_layer(l, u)
    assert [r.name for r in reports] == ["interval", "fastlin", "crown", "lp"]
    assert [(r.before, r.after) for r in reports] == [tuple(row) for row in left.tolist()]
    assert reports[-1].after == sum(bounds.n_unstable)
    assert reports[0].after > reports[-1].after > 0
    assert all(r.seconds > 0 for r in reports)


def test_a_layer_without_unstable_neurons_is_left_alone() -> None:
    net = deep(np.random.default_rng(3))
    point = mv.Box([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    watched = Watched()
    _, reports = progressive_bounds(net, point, Progressive(steps=(watched, TriangleLP())))
    assert watched.asked == []
    assert [(r.before, r.after, r.seconds) for r in reports[1:]] == [(0, 0, 0.0)] * 2
    progressive_bounds(net, BOX, Progressive(steps=(watched,)))
    assert watched.asked == [1, 2, 3]


def test_a_chain_trusts_a_solver_iff_a_step_does() -> None:
    net = deep(np.random.default_rng(3))
    for steps, trusted in (((mv.Crown(), TriangleLP()), False), ((mv.Crown(), MILPTightening()), True)):
        chain = Progressive(steps=steps)
        assert chain.solver_trusted is trusted
        bounds = mv.compute_bounds(net, BOX, chain)
        assert bounds.solver_trusted is trusted
        assert progressive_bounds(net, BOX, chain)[0].solver_trusted is trusted
        assert mv.bound_rows(net, BOX, bounds, np.eye(2), chain).solver_trusted is trusted


def test_an_empty_region_is_told_from_a_crossing() -> None:
    @dataclass(frozen=True)
    class Crossing(Watched):
        def refine(self, problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return u + 1.0, l

    with pytest.raises(BoundsError, match=r"l = .* > u = "):
        progressive_bounds(deep(np.random.default_rng(3)), BOX, Progressive(steps=(Crossing(),)))


def test_the_better_of_two_bounds_takes_its_proof_along() -> None:
    rng = np.random.default_rng(0)

    def bound(value: list[float], trusted: bool = False) -> DualBound:
        nu = () if trusted else (rng.normal(size=(len(value), 4)),)
        return DualBound(np.array(value), rng.normal(size=(len(value), 2)), nu, solver_trusted=trusted)

    a, b = bound([0.0, 5.0]), bound([1.0, 4.0])
    both = better_rows(a, b)
    assert both.value.tolist() == [1.0, 5.0]
    assert (both.nu[0] == np.stack([b.nu[0][0], a.nu[0][1]])).all()
    assert (both.input_lam == np.stack([b.input_lam[0], a.input_lam[1]])).all()
    one = better_rows(a, bound([7.0]), np.array([1]))
    assert one.value.tolist() == [0.0, 7.0]
    trusted = better_rows(a, bound([1.0, 4.0], trusted=True))
    assert trusted.solver_trusted and trusted.nu == () and trusted.value.tolist() == [1.0, 5.0]
    assert better_rows(a, bound([-1.0, 4.0], trusted=True)) is a


def test_a_chain_without_steps_is_refused() -> None:
    with pytest.raises(OptionError, match="Progressive: no steps came"):
        Progressive(steps=())

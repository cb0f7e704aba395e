"""Nodes with planes of their own: planes hold exactly, no claim is above the exact g, and ascents only raise bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from milpverify.bounds.compute import compute_bounds
from milpverify.bounds.node_parts import Multipliers, Planes
from milpverify.bounds.nodes import NodeProblem
from milpverify.bounds.own_planes import OwnPlanes
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.small import folded_rows, small_problem
from milpverify.network.graph import Network
from milpverify.network.operators import Dense
from milpverify.search.node_lp import CutRounds, NodeLp
from milpverify.search.planes import root_theta
from milpverify.spec.regions import Box
from tests.bounds.exact import Dyadic, below_minimum
from tests.bounds.test_nodes import FEW, NODES, Real, Watched, Wild, exact_g, inner_bounds, sound_start
from tests.bounds.test_soundness import SCALES
from tests.cases import NETWORKS, REGIONS, affine, seeds


def wild_theta(rng: np.random.Generator, problem: OwnPlanes, count: int) -> np.ndarray:
    """Shares and gammas inside [0, 1], at its ends, and outside."""
    shape = (count, problem.n_neurons + problem.n_gammas)
    return rng.choice([0.0, 0.3, 1.0, 2.0, -1.0], shape) * (
        1.0 + 0.3 * (rng.random(shape) < 0.5) * rng.normal(size=shape)
    )


def planes_of(problem: OwnPlanes, theta: np.ndarray) -> Planes:
    """The planes that a claim takes one node's theta for, one row each."""
    _, gammas = problem.parted(np.maximum(theta, 0.0)[None])
    neurons, slopes, right = [], [], []
    for j, (gamma, some, part) in enumerate(zip(gammas, problem.neurons, problem.wide_inputs, strict=True), start=1):
        P = np.zeros((len(some), problem.ends[-1] + 1))
        P[np.arange(len(some))[:, None], part.columns] = np.minimum(gamma[0], 1.0) * part.weights
        mine = problem.span(j).start + some
        neurons.append(mine)
        slopes.append(P[:, :-1])
        right.append(problem.planes_at(j, gamma).R[0] + problem.plane_allowance[mine])
    none = np.zeros(0)
    return Planes(np.concatenate(neurons), np.concatenate(slopes), np.concatenate(right), none, none)


def wild_problem(rng: np.random.Generator, scale: str, kind: str) -> tuple[Wild, OwnPlanes]:
    """A wild problem, its nodes and multipliers, and the same with planes of the nodes' own."""
    wild = Wild.of(rng, scale, kind)
    plain = replace(wild.problem, weights=tuple(map(np.asarray, wild.problem.weights)))
    own = OwnPlanes.over(plain)
    return wild, replace(own, weights=tuple(map(Watched.of, own.weights)))


def claims_above(wild: Wild, problem: OwnPlanes, theta: np.ndarray, raised: float = 0.0) -> tuple[int, int]:
    """How many claims, `raised` by that much of their size, are above the exact g of their multipliers; of how many."""
    at = Multipliers(wild.at.alpha, wild.at.beta, theta, wild.at.mu)
    pi: list[np.ndarray] = []
    original = OwnPlanes.plane_terms

    def listening(self: OwnPlanes, *args: Any) -> tuple[np.ndarray, ...]:
        terms = original(self, *args)
        pi.insert(0, terms[0])
        return terms

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OwnPlanes, "plane_terms", listening)
        value = problem.claim(wild.l, wild.u, at)
    nu = [weights.seen[-1] for weights in problem.weights[:-1]]
    assert not np.isnan(value).any()
    wrong, finite = 0, np.isfinite(value)
    for b in np.flatnonzero(finite):
        weight = Dyadic.of(at.mu[b])
        constant = weight @ (Dyadic.of(problem.bias[-1]) - Dyadic.of(problem.d))
        if problem.problem.slack:
            constant = constant - weight @ Dyadic.of(problem.problem.slack[-1])
        explicit = replace(problem, planes=planes_of(problem, theta[b]))
        used = [part[b, some] for part, some in zip(pi, problem.neurons, strict=True)]
        columns = weight @ Dyadic.of(np.asarray(problem.weights[-1]))
        g = exact_g(explicit, columns, constant, [v[b] for v in nu], used, wild.l[b], wild.u[b])
        claimed = Dyadic.of(value[b : b + 1] + raised * (1.0 + abs(value[b]))) * weight.total()
        wrong += not below_minimum(claimed - g.rest, g.lam, problem.problem.region).all()
    return wrong, int(finite.sum())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", REGIONS)
@FEW
@given(seed=seeds)
def test_no_claim_is_above_the_exact_g(kind: str, scale: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wild, problem = wild_problem(rng, scale, kind)
    wrong, finite = claims_above(wild, problem, wild_theta(rng, problem, NODES))
    assert wrong == 0
    if scale == "plain":
        assert finite >= wild.at.mu.any(axis=1).sum()


def test_the_exact_g_catches_a_claim_that_is_a_little_too_high() -> None:
    caught = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        wild, problem = wild_problem(rng, "plain", "box")
        caught += claims_above(wild, problem, wild_theta(rng, problem, NODES), raised=1e-6)[0] > 0
    assert caught >= 20


@pytest.mark.parametrize("scale", SCALES)
@given(seed=seeds)
def test_planes_hold_for_every_input_of_their_neuron(scale: str, seed: int) -> None:
    """max over the box of relu(w t + b + e) - P t, which is separable, is at most R; and R is not idle."""
    rng = np.random.default_rng(seed)
    _, problem = wild_problem(rng, scale, "box")
    planes = planes_of(problem, wild_theta(rng, problem, 1)[0])
    boxes = [problem.problem.source_box(source) for source in range(problem.n_hidden + 1)]
    low, high = (Dyadic.of(np.concatenate(side)) for side in zip(*boxes, strict=True))
    for P, R, neuron in zip(planes.P, planes.R, planes.neuron, strict=True):
        j = int(problem.layer_of(np.array([neuron]))[0])
        place, end = neuron - problem.span(j).start, problem.ends[j - 1]
        assert not P[end:].any()
        w = np.zeros(problem.ends[-1])
        w[:end] = problem.weights[j - 1][place]
        e = problem.problem.slack[j - 1][place] if problem.problem.slack else 0.0
        off, rest = (-Dyadic.of(P) * low).most(-Dyadic.of(P) * high)[None].total(), Dyadic.of(w) - Dyadic.of(P)
        on = (rest * low).most(rest * high)[None].total()
        on = on + Dyadic.of(np.array([problem.bias[j - 1][place], e]))[None].total()
        assert (off.most(on) <= Dyadic.of(np.array([R]))).all()
        if scale == "plain":
            size = 1.0 + np.abs(P).sum() * 10.0 + problem.problem.scale(j)[place]
            assert R <= max(off.floats().item(), on.floats().item(), 0.0) + 10.0 * e + 1e-9 * size


def started(rng: np.random.Generator, problem: OwnPlanes, count: int) -> Multipliers:
    """Multipliers as a search would keep them, at random."""
    theta = rng.random((count, problem.n_neurons + problem.n_gammas)).astype(problem.dtype)
    return replace(sound_start(rng, problem, count), theta=theta)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("region_kind", REGIONS)
@FEW
@given(seed=seeds)
def test_nodes_of_a_network_contain_their_points(kind: str, region_kind: str, seed: int) -> None:
    """No claim, before or after an ascent, is above the exact slack of a point of the node."""
    rng = np.random.default_rng(seed)
    real = Real.of(rng, kind, region_kind, str(rng.choice(["interval", "crown"])))
    points = real.points(rng)
    if not len(points):
        return
    _, zhat, slack = real.exact(points)
    l, u = real.nodes(rng, zhat)
    problem = OwnPlanes.over(real.problem)
    start = started(rng, problem, len(points))
    for at in (start, problem.ascend(l, u, start, 5, 0.25).multipliers):
        value = problem.claim(l, u, at)
        assert np.isfinite(value).all()
        for b in range(len(points)):
            assert (Dyadic.of(value[b]) <= Dyadic(slack.integers[b, at.mu[b] > 0].max(), slack.exponent)).all()


@pytest.mark.parametrize("region_kind", REGIONS)
@FEW
@given(seed=seeds)
def test_an_ascent_says_what_is_claimed_and_only_rises(region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real = Real.of(rng, str(rng.choice(list(NETWORKS))), region_kind)
    problem = OwnPlanes.over(real.problem)
    l, u = inner_bounds(rng, problem)
    start = started(rng, problem, NODES)
    start.theta[:, : problem.n_neurons] *= (l < 0) & (u > 0)  # what is fixed needs no plane
    kept = [part.copy() for part in start.parts]
    found, claimed = problem.ascend(l, u, start, 0, 0.25), problem.claim(l, u, start)
    assert np.allclose(found.value, claimed, rtol=0, atol=1e-4 * (1.0 + np.abs(claimed).max()))
    more = problem.ascend(l, u, start, 10, 0.25)
    assert (more.value >= found.value).all()
    assert all((a == b).all() for a, b in zip(kept, start.parts, strict=True))
    again = problem.claim(l, u, more.multipliers)
    assert np.allclose(more.value, again, rtol=0, atol=1e-4 * (1.0 + np.abs(again).max()))


@pytest.mark.parametrize("seed", range(6))
def test_nodes_that_ascend_in_several_groups_are_as_if_alone(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    problem = OwnPlanes.over(Real.of(rng, "chain", "box").problem)
    l, u = inner_bounds(rng, problem)
    start = started(rng, problem, NODES)
    whole = problem.ascend(l, u, start, 4, 0.25)
    monkeypatch.setattr("milpverify.bounds.own_planes.CACHED", 1)
    split = problem.ascend(l, u, start, 4, 0.25)
    assert np.allclose(whole.value, split.value, rtol=1e-4, atol=1e-4)
    assert whole.x.shape == split.x.shape and whole.lam.shape == split.lam.shape


@pytest.mark.parametrize("seed", range(6))
def test_one_layer_comes_near_the_lp_with_all_ideal_cuts_and_not_beyond(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, width = 6, 14
    first = affine({0: Dense(rng.normal(size=(width, n)))}, 0.3 * rng.normal(size=width))
    net = Network((n,), (1,), (first,), affine({1: Dense(-np.abs(rng.normal(size=(1, width))))}, np.zeros(1)))
    bounds = compute_bounds(net, box := Box(-np.ones(n), np.ones(n)))
    whole = DualProblem.of(net, box, bounds)
    problem = NodeProblem.of(small_problem(whole, 2, folded_rows(whole, 2, np.ones((1, 1)))), np.zeros(1))
    l, u = problem.root
    one, rows = np.ones((1, 1)), np.zeros(1, dtype=int)
    triangle, ideal = (
        NodeLp(problem.problem, cuts).solve([l], [u], rows, problem.d).optimum
        for cuts in (None, CutRounds(root=200, stall=0.0, violation=1e-6))
    )
    own = OwnPlanes.over(problem)
    theta = root_theta(own, one, 300)
    none = np.zeros((1, own.n_neurons))
    value = own.claim(l[None], u[None], Multipliers(none, none, theta, one))[0]
    assert triangle < ideal and value <= ideal + 1e-6 * (1.0 + abs(ideal))
    assert value >= triangle + 0.9 * (ideal - triangle)

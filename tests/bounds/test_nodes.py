"""Bounds of many nodes at once against exact arithmetic: no claim is above g, and g is never above the truth.

The nodes' weights, bounds and multipliers are wild on purpose; g is written here once more from its formula, with
planes, in integers times powers of two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import linprog

from milpverify.bounds.compute import compute_bounds
from milpverify.bounds.node_parts import Multipliers, Phases
from milpverify.bounds.nodes import NodeProblem
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.small import folded_rows, small_problem
from milpverify.network.graph import Network
from milpverify.search.planes import root_planes
from milpverify.spec.regions import Region
from tests.bounds.exact import ZERO, DualValue, Dyadic, ExactLayers, below_minimum
from tests.bounds.test_soundness import SCALES, magnitude, wild_bounds, wild_layers, wild_region
from tests.cases import BOUND_METHODS, NETWORKS, REGIONS, seeds

NODES = 4
FEW = settings(max_examples=12)


def planed(problem: NodeProblem, steps: int) -> NodeProblem:
    """The problem with the planes that an ascent of its first row ends with."""
    return root_planes(problem, np.eye(len(problem.d))[:1], steps)[0][0]


class Watched(np.ndarray):
    """Weights that remember what multiplied them from the left: the multipliers that a walk has used."""

    seen: list[np.ndarray]

    @classmethod
    def of(cls, values: np.ndarray) -> Watched:
        watched = np.array(values).view(cls)
        watched.seen = []
        return watched

    def __array_finalize__(self, other: Any) -> None:
        self.seen = getattr(other, "seen", [])

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if ufunc is np.matmul and isinstance(inputs[1], Watched):
            self.seen.append(np.array(inputs[0]))
        plain = [np.asarray(v) if isinstance(v, Watched) else v for v in inputs]
        return getattr(ufunc, method)(*plain, **options)


def watched(problem: NodeProblem) -> NodeProblem:
    """The problem with weights and planes that remember their multipliers."""
    planes = replace(problem.planes, P=Watched.of(problem.planes.P))
    return replace(problem, weights=tuple(map(Watched.of, problem.weights)), planes=planes)


@dataclass(frozen=True, eq=False)
class Wild:
    """A random problem with nodes and multipliers as bad as they come."""

    problem: NodeProblem
    l: np.ndarray
    u: np.ndarray
    at: Multipliers

    @classmethod
    def of(cls, rng: np.random.Generator, scale: str, kind: str) -> Wild:
        n = int(rng.integers(1, 5))
        region = wild_region(rng, scale, kind, n)
        layers = wild_layers(rng, scale, n, dense=True)
        problem = wild_bounds(rng, DualProblem(layers, region), ())
        if rng.random() < 0.5:
            slack = (
                problem.scale(j) * 10.0 ** rng.uniform(-9, 0) * rng.random(layer.size)
                for j, layer in enumerate(layers, start=1)
            )
            problem = replace(problem, slack=tuple(slack))
        k = len(layers)
        d = problem.scale(k) * rng.normal(size=layers[-1].size) * (rng.random(layers[-1].size) > 0.2)
        nodes = NodeProblem.of(problem, d)
        if rng.random() < 0.6:
            nodes = nodes.with_planes(*wild_planes(rng, scale, nodes))
        nodes = watched(nodes)
        l, u = inner_bounds(rng, nodes)
        return cls(nodes, l, u, wild_multipliers(rng, nodes))


def wild_planes(rng: np.random.Generator, scale: str, problem: NodeProblem) -> tuple[np.ndarray, np.ndarray]:
    """Slopes that have nothing to do with the neurons, or are near their weights."""
    neuron = rng.integers(0, problem.n_neurons, int(rng.integers(1, 7)))
    slopes = rng.normal(size=(len(neuron), problem.ends[-1]))
    slopes *= magnitude(rng, scale, slopes.shape) * (rng.random(slopes.shape) > 0.3) * rng.choice([1.0, 1e8])
    for row, j in enumerate(problem.layer_of(neuron)):
        end = problem.ends[j - 1]
        slopes[row, end:] = 0.0
        if rng.random() < 0.5:
            own = problem.weights[j - 1][neuron[row] - problem.span(j).start]
            slopes[row, :end] = own * rng.choice([0.0, 0.5, 1.0], end)
    return neuron, slopes


def inner_bounds(rng: np.random.Generator, problem: NodeProblem) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of nodes within the root's: as they are, split, or narrower."""
    low, high = (np.tile(side, (NODES, 1)) for side in problem.root)
    low, high = np.array(low), np.array(high)
    kind = rng.integers(0, 4, low.shape)
    free = (low < 0) & (high > 0)
    l, u = np.where(free & (kind == 1), 0.0, low), np.where(free & (kind == 2), 0.0, high)
    at = np.sort(rng.random((2, *low.shape)), axis=0)
    inner = [np.clip(low + share * (high - low), low, high) for share in at]
    return np.where(kind == 3, inner[0], l), np.where(kind == 3, np.maximum(*inner), u)


def wild_multipliers(rng: np.random.Generator, problem: NodeProblem) -> Multipliers:
    shape, m, c = (NODES, problem.n_neurons), len(problem.d), len(problem.planes)
    alpha = rng.choice([0.0, 1.0, 0.5, -1.0, 3.0], shape) + 0.3 * rng.normal(size=shape)
    beta = rng.normal(size=shape) * 10.0 ** rng.uniform(-12, 12, shape) * (rng.random(shape) < 0.5)
    theta = rng.choice([0.0, 0.3, 1.0, 2.0, -1.0], (NODES, c))
    mu = rng.random((NODES, m)) * (rng.random((NODES, m)) < 0.7) * 10.0 ** rng.uniform(-6, 6)
    mu[0] = 0.0 if rng.random() < 0.5 else np.eye(m)[rng.integers(m)]
    return Multipliers(alpha, beta, theta, mu)


def spied_walk(problem: NodeProblem) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """nu per layer and pi per layer (0 planes where it has none) of the last walk; clears what was seen."""
    nu = [weights.seen[-1] for weights in problem.weights[:-1]]
    pi = list(reversed(problem.planes.P.seen))
    some = [problem.planes_of(j) for j in range(1, problem.n_hidden + 1)]
    have = [part.start < part.stop for part in some]
    rest = iter(pi if pi else [np.zeros((len(nu[0]), part.stop - part.start)) for part in some])
    found = [next(rest) if own or not pi else np.zeros((len(nu[0]), 0)) for own in have]
    for seen in (*(weights.seen for weights in problem.weights), problem.planes.P.seen):
        seen.clear()
    return nu, found


def exact_g(
    problem: NodeProblem, columns: Dyadic, constant: Dyadic, nu: list[np.ndarray], pi: list[np.ndarray],
    l: np.ndarray, u: np.ndarray,
) -> DualValue:  # fmt: skip
    """g of one node: rows over the columns plus a constant, nu and pi per layer; slacks come off."""
    rest, lam = constant, columns
    e = [Dyadic.of(v) for v in problem.problem.slack] or [ZERO] * len(problem.problem.layers)
    for j in range(problem.n_hidden, 0, -1):
        span, end, some = problem.span(j), problem.ends[j - 1], problem.planes_of(j)
        if pi[j - 1].size:
            weight = Dyadic.of(pi[j - 1])
            assert (ZERO <= weight).all()
            lam = lam - weight @ Dyadic.of(np.asarray(problem.planes.P[some]))
            ones = np.zeros((some.stop - some.start, problem.ends[-1]))
            ones[np.arange(len(ones)), problem.n_inputs + problem.planes.neuron[some]] = 1.0
            lam = lam + weight @ Dyadic.of(ones)
            rest = rest - weight @ Dyadic.of(problem.planes.R[some])
        mine, own = lam[problem.n_inputs + span.start : problem.n_inputs + span.stop], Dyadic.of(nu[j - 1])
        low, high = Dyadic.of(l[span]), Dyadic.of(u[span])
        terms = (mine * low.relu() - own * low).least(mine * high.relu() - own * high)
        free = (l[span] < 0) & (u[span] > 0)
        integers = np.where(free, terms.least(ZERO).integers, terms.raised(terms.exponent))
        rest = rest + Dyadic(integers, terms.exponent).total() + own @ Dyadic.of(problem.bias[j - 1])
        rest = rest - (abs(own) * e[j - 1]).total()
        wide = np.zeros((len(nu[j - 1]), problem.ends[-1]))
        wide[:, :end] = problem.weights[j - 1]
        lam = lam + own @ Dyadic.of(wide)
    lam0 = lam[: problem.n_inputs]
    return DualValue(Dyadic(rest.integers.reshape(1), rest.exponent), Dyadic(lam0.integers[None], lam0.exponent))


def claims_above(wild: Wild, value: np.ndarray) -> list[int]:
    """The nodes whose claim is above what the exact g of the same multipliers gives."""
    problem, mu = wild.problem, wild.at.mu
    nu, pi = spied_walk(problem)
    slack = problem.problem.slack
    wrong = []
    for b in range(len(value)):
        weight = Dyadic.of(mu[b])
        constant = weight @ (Dyadic.of(problem.bias[-1]) - Dyadic.of(problem.d))
        if slack:
            constant = constant - weight @ Dyadic.of(slack[-1])
        columns = weight @ Dyadic.of(np.asarray(problem.weights[-1]))
        if value[b] == -np.inf:
            continue
        g = exact_g(problem, columns, constant, [v[b] for v in nu], [v[b] for v in pi], wild.l[b], wild.u[b])
        claimed = Dyadic.of(np.array([5e-324])) if value[b] == np.inf else Dyadic.of(value[b : b + 1]) * weight.total()
        assert value[b] < np.inf or not mu[b].any()
        if not below_minimum(claimed - g.rest, g.lam, problem.problem.region).all():
            wrong.append(b)
    return wrong


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", REGIONS)
@FEW
@given(seed=seeds)
def test_no_claim_is_above_the_exact_g(kind: str, scale: str, seed: int) -> None:
    wild = Wild.of(np.random.default_rng(seed), scale, kind)
    value = wild.problem.claim(wild.l, wild.u, wild.at)
    assert value.shape == (NODES,) and not np.isnan(value).any()
    assert claims_above(wild, value) == []
    if scale == "plain":
        assert np.isfinite(value[wild.at.mu.any(axis=1)]).all()


def test_the_exact_g_catches_a_claim_that_is_a_little_too_high() -> None:
    """The check itself: a relative 1e-6 more than is claimed does not pass."""
    caught = 0
    for seed in range(30):
        wild = Wild.of(np.random.default_rng(seed), "plain", "box")
        value = wild.problem.claim(wild.l, wild.u, wild.at)
        finite = np.isfinite(value)
        value[finite] += 1e-6 * (1.0 + np.abs(value[finite]))
        caught += len(claims_above(wild, value)) > 0
    assert caught >= 20


@pytest.mark.parametrize("scale", SCALES)
@FEW
@given(seed=seeds)
def test_no_refreshed_bound_is_beyond_the_exact_g(scale: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wild = Wild.of(rng, scale, "box")
    problem = wild.problem
    j = int(rng.integers(1, problem.n_hidden + 1))
    span = problem.span(j)
    node, neuron = rng.integers(0, NODES, 5), rng.integers(span.start, span.stop, 5)
    slack = problem.problem.slack
    walks = []
    original = NodeProblem._walk

    def listening(self: NodeProblem, *args: Any) -> np.ndarray:
        value = original(self, *args)
        walks.append((value, [w.seen[-1] if w.seen else None for w in self.weights[:-1]]))
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NodeProblem, "_walk", listening)
        low, high = problem.refreshed(wild.l, wild.u, node, neuron)
    assert not np.isnan(low).any() and not np.isnan(high).any()
    for sign, claimed, (_, seen) in zip((1.0, -1.0), (low, -high), walks, strict=True):
        for r in range(5):
            if claimed[r] == -np.inf:
                continue
            nu = [np.zeros(problem.ends[i] - problem.ends[i - 1]) for i in range(1, problem.n_hidden + 1)]
            for i in range(1, j):
                part = seen[i - 1]
                assert part is not None
                nu[i - 1] = part[r]
            place = neuron[r] - span.start
            row = np.zeros(problem.ends[-1])
            row[: problem.ends[j - 1]] = sign * problem.weights[j - 1][place]
            constant = Dyadic.of(sign * problem.bias[j - 1][place])
            if slack:
                constant = constant - Dyadic.of(slack[j - 1][place])
            pi = [np.zeros(0)] * problem.n_hidden
            # Layers from the neuron's own on take no part: nu = 0 and lambda = 0 leave no term there.
            g = exact_g(problem, Dyadic.of(row), constant, nu, pi, wild.l[node[r]], wild.u[node[r]])
            assert g.at_least(claimed[r : r + 1], problem.problem.region).all()


@pytest.mark.parametrize("scale", SCALES)
@given(seed=seeds)
def test_planes_hold_for_every_input_of_their_neuron(scale: str, seed: int) -> None:
    """max over the box of relu(w t + b + e) - P t, which is separable, is at most R; and R is not idle."""
    rng = np.random.default_rng(seed)
    wild = Wild.of(rng, scale, "box")
    problem = replace(wild.problem, weights=tuple(map(np.asarray, wild.problem.weights)))
    problem = problem.with_planes(*wild_planes(rng, scale, problem))
    boxes = [problem.problem.source_box(source) for source in range(problem.n_hidden + 1)]
    low, high = (Dyadic.of(np.concatenate(side)) for side in zip(*boxes, strict=True))
    for i, neuron in enumerate(problem.planes.neuron):
        j = int(problem.layer_of(np.array([neuron]))[0])
        place, end = neuron - problem.span(j).start, problem.ends[j - 1]
        P, w = Dyadic.of(problem.planes.P[i]), np.zeros(problem.ends[-1])
        assert not problem.planes.P[i, end:].any()
        w[:end] = problem.weights[j - 1][place]
        e = problem.problem.slack[j - 1][place] if problem.problem.slack else 0.0
        off = (-P * low).most(-P * high)[None].total()
        rest = Dyadic.of(w) - P
        ends = Dyadic.of(np.array([problem.bias[j - 1][place], e]))[None].total()
        on = (rest * low).most(rest * high)[None].total() + ends
        assert (off.most(on) <= Dyadic.of(problem.planes.R[i : i + 1])).all()
        if scale == "plain":
            size = 1.0 + np.abs(problem.planes.P[i]).sum() * 10.0 + problem.problem.scale(j)[place]
            assert problem.planes.R[i] <= max(off.floats().item(), on.floats().item(), 0.0) + 2.0 * e + 1e-9 * size


@dataclass(frozen=True, eq=False)
class Real:
    """A condensed random network with one row a case, and nodes around the patterns of points in the region."""

    net: Network
    region: Region
    C: np.ndarray
    problem: NodeProblem
    kept: np.ndarray  # the condensed neurons among those of the network, side by side

    @classmethod
    def of(cls, rng: np.random.Generator, kind: str, region_kind: str, method: str = "interval") -> Real:
        net = NETWORKS[kind](rng)
        region = REGIONS[region_kind](rng, net.n_inputs)
        bounds = compute_bounds(net, region, BOUND_METHODS[method])
        C = rng.normal(size=(3, net.n_outputs))
        whole = DualProblem.of(net, region, bounds)
        k = len(net.layers) + 1
        problem = NodeProblem.of(small_problem(whole, k, folded_rows(whole, k, C)), 0.3 * rng.normal(size=3))
        kept = np.concatenate([bounds.unstable(j) for j in range(1, k)])
        return cls(net, region, C, problem, np.flatnonzero(kept))

    def exact(self, points: np.ndarray) -> tuple[list[Fraction], Dyadic, Dyadic]:
        """Per point the rows' slacks (s, m), and pre-activations of the condensed neurons (s, N)."""
        *hidden, y = ExactLayers.of((*self.net.layers, self.net.output)).activations(points)
        exponent = max((part.exponent for part in hidden), default=0)
        zhat = Dyadic(np.concatenate([part.raised(exponent) for part in hidden], axis=1)[:, self.kept], exponent)
        return [], zhat, y @ Dyadic.of(self.C).T - Dyadic.of(self.problem.d)[None, :]

    def points(self, rng: np.random.Generator) -> np.ndarray:
        """Points of the region, its corners among them; those that rounding put outside are left out."""
        lam = rng.normal(size=(6, self.net.n_inputs))
        points = self.region.project(np.concatenate([self.region.sample(rng, 12), self.region.minimiser(lam)]))
        return np.asarray(points[[bool(self.region.contains(x)) for x in points]])

    def nodes(self, rng: np.random.Generator, zhat: Dyadic) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of one node a point, splits on some neurons to the point's own phase."""
        s = zhat.shape[0]
        l, u = (np.tile(side, (s, 1)) for side in self.problem.root)
        split = rng.random(l.shape) < rng.choice([0.3, 0.7, 1.0])
        off = zhat <= ZERO
        return np.where(split & ~off, np.maximum(l, 0.0), l), np.where(split & off, np.minimum(u, 0.0), u)


def sound_start(rng: np.random.Generator, problem: NodeProblem, count: int) -> Multipliers:
    """Multipliers as a search would keep them, at random."""
    shape = (count, problem.n_neurons)
    theta = problem.shared(rng.random((count, len(problem.planes))).astype(problem.dtype))
    mu = rng.random((count, len(problem.d))) * (rng.random((count, len(problem.d))) < 0.7) + 1e-3
    mu /= mu.sum(axis=1, keepdims=True)
    parts = rng.random(shape), rng.random(shape) * (rng.random(shape) < 0.5), theta, mu
    return Multipliers(*(part.astype(problem.dtype) for part in parts))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("region_kind", REGIONS)
@FEW
@given(seed=seeds)
def test_nodes_of_a_network_contain_their_points(kind: str, region_kind: str, seed: int) -> None:
    """Claims, refreshed bounds and planes at points of the region, all exact: the network's own neurons and rows."""
    rng = np.random.default_rng(seed)
    real = Real.of(rng, kind, region_kind, str(rng.choice(["interval", "crown"])))
    problem = real.problem
    if problem.n_neurons and rng.random() < 0.5:
        problem = planed(problem, 5)
    points = real.points(rng)
    if not len(points):
        return
    _, zhat, slack = real.exact(points)
    l, u = real.nodes(rng, zhat)
    start = sound_start(rng, problem, len(points))
    for at in (start, problem.ascend(l, u, start, 5, 0.25).multipliers):
        value = problem.claim(l, u, at)
        assert np.isfinite(value).all()
        inside = [
            ((Dyadic.of(low) <= zhat) & (zhat <= Dyadic.of(high))).all(axis=1) for low, high in zip(l, u, strict=True)
        ]
        for b, here in enumerate(inside):
            assert here[b]
            rows = at.mu[b] > 0
            least = Dyadic(slack.integers[here][:, rows].max(axis=1), slack.exponent)
            assert (Dyadic.of(value[b]) <= least).all()
    for i, neuron in enumerate(problem.planes.neuron):
        j = int(problem.layer_of(np.array([neuron]))[0])
        own = zhat.relu()
        exponent = max(own.exponent, Dyadic.of(points).exponent)
        t = Dyadic(np.concatenate([Dyadic.of(points).raised(exponent), own.raised(exponent)], axis=1), exponent)
        assert (own[:, neuron] <= t @ Dyadic.of(problem.planes.P[i]) + Dyadic.of(problem.planes.R[i])).all()
        assert not problem.planes.P[i, problem.ends[j - 1] :].any()
    for j in range(1, problem.n_hidden + 1):
        neurons = np.arange(problem.span(j).start, problem.span(j).stop)
        if not len(neurons):
            continue
        node, neuron = (part.reshape(-1) for part in np.meshgrid(np.arange(len(points)), neurons, indexing="ij"))
        low, high = problem.refreshed(l, u, node, neuron)
        for r in range(len(node)):
            values = zhat[inside[node[r]]][:, neuron[r]]
            assert (Dyadic.of(low[r]) <= values).all() and (values <= Dyadic.of(high[r])).all()


@pytest.mark.parametrize("region_kind", REGIONS)
@FEW
@given(seed=seeds)
def test_an_ascent_without_steps_says_what_is_claimed(region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real = Real.of(rng, str(rng.choice(list(NETWORKS))), region_kind)
    problem = real.problem
    if problem.n_neurons and rng.random() < 0.5:
        problem = planed(problem, 5)
    l, u = inner_bounds(rng, problem)
    start = sound_start(rng, problem, NODES)
    found, claimed = problem.ascend(l, u, start, 0, 0.25), problem.claim(l, u, start)
    assert np.allclose(found.value, claimed, rtol=0, atol=1e-4 * (1.0 + np.abs(claimed).max()))
    for kept, given_ in zip(found.multipliers.parts, start.parts, strict=True):
        assert kept.shape == given_.shape
    more = problem.ascend(l, u, start, 10, 0.25)
    assert (more.value >= found.value).all()


def as_float64(problem: NodeProblem) -> NodeProblem:
    """The problem with an ascent in float64."""
    guide = tuple(zip(problem.weights, problem.bias, strict=True))
    planes = (problem.planes.P, problem.planes.R, problem.planes.of_neuron)
    return replace(problem, guide=guide, plane_guide=planes)


@pytest.mark.parametrize("with_planes", [False, True])
@FEW
@given(seed=seeds)
def test_slopes_of_the_ascent_are_those_of_g(with_planes: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real = Real.of(rng, "chain", "box")
    if real.problem.n_neurons < 3:
        return
    problem = as_float64(planed(real.problem, 10) if with_planes else real.problem)
    l, u = inner_bounds(rng, problem)
    at = sound_start(rng, problem, NODES)
    at = replace(at, theta=0.0 * at.theta)  # elsewhere the ascent takes a short cut
    phases = Phases.of(l, u)
    at = replace(at, alpha=np.where(phases.free, at.alpha, phases.slope), beta=np.where(phases.free, 0.0, at.beta))
    value, lam, room, x = problem._guided(phases, at)
    zhat, gap, _ = problem._relaxed(phases, at.alpha, lam, x, False)
    slopes = {
        "alpha": np.where(phases.free, np.maximum(lam, 0) * zhat, 0.0),
        "beta": np.where(phases.free, 0.0, phases.offset - phases.sign * zhat),
        "theta": room * gap,
    }
    for name, slope in slopes.items():
        part = getattr(at, name)
        for i in range(part.shape[1]):
            sides = []
            for step in (-1e-7, 1e-7):
                moved = part.copy()
                moved[:, i] += step
                sides.append(problem._guided(phases, replace(at, **{name: moved}))[0])
            below, above = (value - sides[0]) / 1e-7, (sides[1] - value) / 1e-7
            smooth = np.abs(above - below) < 1e-5  # g has corners
            if name != "theta":
                smooth &= phases.free[:, i] == (name == "alpha")
            assert np.allclose(slope[smooth, i], above[smooth], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("region_kind", ["box", "linf clipped", "l1 clipped"])
@FEW
@given(seed=seeds)
def test_with_all_phases_fixed_an_ascent_nears_the_optimum_of_the_lp(region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real = Real.of(rng, "chain", region_kind)
    problem = real.problem
    x = real.region.sample(rng, 1)
    zhat = problem.pattern(x)
    if not problem.n_neurons or np.abs(zhat).min() < 1e-2:
        return
    l, u = (side[None].copy() for side in problem.root)
    l, u = np.where(zhat > 0, np.maximum(l, 0.0), l), np.where(zhat <= 0, np.minimum(u, 0.0), u)
    zeros = np.zeros((1, problem.n_neurons))
    start = Multipliers(zeros, zeros, np.zeros((1, 0)), np.array([[1.0, 0.0, 0.0]]))
    found = problem.ascend(l, u, start, 600, 0.1)
    claimed = problem.claim(l, u, found.multipliers)[0]
    optimum = pattern_optimum(real, zhat[0] > 0)
    first = problem.claim(l, u, start)[0]
    assert claimed <= optimum + 1e-7
    assert optimum - claimed <= max(0.03, 0.1 * (optimum - first))


def pattern_optimum(real: Real, on: np.ndarray) -> float:
    """The least slack of the first row over the inputs of one activation pattern of the condensed neurons."""
    problem, n = real.problem, real.problem.n_inputs
    maps, offsets, rows, right = [np.eye(n)], [np.zeros(n)], [], []
    for j in range(1, problem.n_hidden + 1):
        W, b = problem.weights[j - 1], problem.bias[j - 1]
        A, c = W @ np.concatenate(maps), W @ np.concatenate(offsets) + b
        mine = on[problem.span(j)]
        sign = np.where(mine, -1.0, 1.0)
        rows.append(sign[:, None] * A)
        right.append(-sign * c)
        maps.append(A * mine[:, None])
        offsets.append(c * mine)
    extra = real.region.linear_rows()
    dense = np.zeros((extra.n_rows, n + extra.n_aux))
    np.add.at(dense, (extra.rows, extra.cols), extra.vals)
    low, high = np.isfinite(extra.row_lower), np.isfinite(extra.row_upper)
    own = np.concatenate(rows)
    A_ub = np.concatenate([np.hstack([own, np.zeros((len(own), extra.n_aux))]), dense[high], -dense[low]])
    b_ub = np.concatenate([*right, extra.row_upper[high], -extra.row_lower[low]])
    cost = problem.weights[-1][0] @ np.concatenate(maps)
    constant = problem.weights[-1][0] @ np.concatenate(offsets) + problem.bias[-1][0] - problem.d[0]
    sides = np.stack([np.concatenate([real.region.lower, extra.aux_lower]),
                      np.concatenate([real.region.upper, extra.aux_upper])], axis=1)  # fmt: skip
    answer = linprog(np.concatenate([cost, np.zeros(extra.n_aux)]), A_ub=A_ub, b_ub=b_ub, bounds=sides)
    assert answer.status == 0
    return float(answer.fun + constant)

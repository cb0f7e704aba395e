"""Trees of single neurons: nearer to the truth than every relaxation, never past it, on one process or several."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.bounds.ascent import Ascent
from milpverify.bounds.nodes import NodeProblem
from milpverify.search.neuron_trees import NeuronTrees
from tests.bounds.convolutions import mlp
from tests.cases import NETWORKS, POLYHEDRAL, REGIONS, seeds
from tests.tighten.reference import least_zhat

FEW = settings(max_examples=4)
DEEP = (6, 12, 12, 12, 3)


def deep(seed: int, sizes: tuple[int, ...] = DEEP, radius: float = 0.4) -> tuple[mv.Network, mv.Region]:
    rng = np.random.default_rng(seed)
    return mlp(rng, sizes), mv.LinfBall(rng.normal(size=sizes[0]), radius)


def widths(bounds: mv.Bounds, k: int) -> np.ndarray:
    return np.asarray(bounds.upper[k - 1] - bounds.lower[k - 1])


@pytest.mark.parametrize("kind", NETWORKS)
@FEW
@given(seed=seeds)
def test_neurons_lie_within_their_bounds(kind: str, seed: int) -> None:
    """Brute force over all phases below, on every kind of region with flat sides."""
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS[str(rng.choice(POLYHEDRAL))](rng, net.n_inputs)
    bounds = mv.compute_bounds(net, region, NeuronTrees(nodes=int(rng.integers(0, 40))))
    for k in range(1, len(net.layers) + 1):
        for i in range(net.layers[k - 1].size):
            for sign, side in ((1.0, bounds.lower[k - 1][i]), (-1.0, -bounds.upper[k - 1][i])):
                assert side <= least_zhat(net, region, k, i, sign) + 1e-9


def test_a_planted_fault_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes whose bounds are a little too good push some neuron out of its bounds."""
    real = NodeProblem.claim
    monkeypatch.setattr(NodeProblem, "claim", lambda *given_: real(*given_) + 0.05)
    outside = 0
    for seed in range(3):
        net, region = deep(seed, (3, 4, 4, 2), 1.0)
        bounds = mv.compute_bounds(net, region, NeuronTrees())
        found = [least_zhat(net, region, 2, i, 1.0) for i in range(4)]
        outside += int((np.array(found) < bounds.lower[1]).sum())
    assert outside


@FEW
@given(seed=seeds)
def test_more_nodes_never_loosen_a_layer(seed: int) -> None:
    """The second layer stands on the same first one whatever the nodes, so that its bounds can be compared."""
    net, region = deep(seed)
    before, after = (mv.compute_bounds(net, region, NeuronTrees(nodes=n)) for n in (0, 400))
    assert (after.lower[1] >= before.lower[1]).all() and (after.upper[1] <= before.upper[1]).all()


def test_trees_settle_what_multipliers_leave_open() -> None:
    left = {"kappa": 0, "trees": 0}
    for seed in range(4):
        net, region = deep(seed)
        left["kappa"] += sum(mv.compute_bounds(net, region, mv.KappaCrown(layer_kappa_steps=30)).n_unstable[1:])
        left["trees"] += sum(mv.compute_bounds(net, region, NeuronTrees()).n_unstable[1:])
    assert left["trees"] < 0.9 * left["kappa"]


def test_workers_change_nothing() -> None:
    net, region = deep(3, (8, 40, 70, 3), 0.5)
    alone = mv.compute_bounds(net, region, NeuronTrees(nodes=8))
    assert alone.n_unstable[1] > 0
    shared = mv.compute_bounds(net, region, NeuronTrees(nodes=8, workers=2))
    for ours, theirs in zip((*alone.lower, *alone.upper), (*shared.lower, *shared.upper), strict=True):
        assert np.array_equal(ours, theirs)


def test_when_time_is_up_bounds_are_those_without_trees() -> None:
    net, region = deep(1)
    late = mv.compute_bounds(net, region, NeuronTrees(ascent=Ascent(ends=time.monotonic() - 1.0)))
    full = mv.compute_bounds(net, region, NeuronTrees())
    assert widths(late, 2).sum() > widths(full, 2).sum()
    assert (late.lower[1] <= full.lower[1] + 1e-9).all() and (full.upper[1] <= late.upper[1] + 1e-9).all()


@FEW
@given(seed=seeds)
def test_known_bounds_are_kept_where_they_are_better(seed: int) -> None:
    net, region = deep(seed)
    known = mv.compute_bounds(net, region, mv.KappaCrown())
    found = mv.compute_bounds(net, region, mv.Interval(), known=known)
    for ours, theirs in zip((*found.lower, *found.upper), (*known.lower, *known.upper), strict=True):
        assert np.array_equal(ours, theirs)
    assert not found.solver_trusted
    assert mv.compute_bounds(net, region, known=replace(known, solver_trusted=True)).solver_trusted


def test_known_bounds_of_another_network_are_refused() -> None:
    net, region = deep(0)
    other, _ = deep(0, (6, 5, 3))
    with pytest.raises(mv.BoundsError, match="do not fit a network of"):
        mv.compute_bounds(net, region, known=mv.compute_bounds(other, region))


@pytest.mark.parametrize("option", [{"nodes": -1}, {"workers": 0}])
def test_options_that_make_no_sense_are_refused(option: dict[str, int]) -> None:
    with pytest.raises(mv.OptionError, match="NeuronTrees"):
        NeuronTrees(**option)  # type: ignore[arg-type]

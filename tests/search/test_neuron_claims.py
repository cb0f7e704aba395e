"""Claims about hidden neurons: the checker gets from them what was seen here, and never what is false."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.semantics import REAL, Float32
from milpverify.network.graph import Network
from milpverify.proof.certificate import Certificate, Context, Group, Layer, LeafTree
from milpverify.proof.exact import CheckResult, check_exact
from milpverify.search.neuron_claims import NeuronProver
from milpverify.spec.box import Box
from tests.bounds.convolutions import mlp
from tests.cases import NETWORKS, REGIONS, seeds
from tests.proof.float32_cases import in_float32
from tests.search.proof_cases import around, as_property
from tests.tighten.reference import least_zhat

FEW = settings(max_examples=3)
BITS = 40


def bounded(net: Network, box: Box, layers: tuple[Layer, ...] | None, semantics: str = "real") -> CheckResult:
    """What the checker makes of some layers, and of a claim that is false: nothing is proved."""
    case = mv.Case(box, mv.Polyhedron(np.zeros((1, net.n_outputs)), np.ones(1)))
    group = Group((0,), (Context((LeafTree(),), layers),))
    return check_exact(Certificate(BITS, (group,), semantics=semantics), net, as_property(net, case), trace=True)


def sides(result: CheckResult, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of layer k, from 0."""
    assert result.trace, result.reason
    trace = result.trace[0]
    lower, upper = (np.array([v / 2.0**BITS for v in side[k]]) for side in (trace.lower, trace.upper))
    return lower, upper


def unstable(result: CheckResult) -> int:
    both = (sides(result, k) for k in range(len(result.trace[0].lower)))
    return sum(int(((l < 0) & (u > 0)).sum()) for l, u in both)


def deep(seed: int, radius: float = 0.4) -> tuple[Network, Box]:
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=6)
    return mlp(rng, (6, 12, 12, 12, 3)), Box(centre - radius, centre + radius)


@pytest.mark.parametrize("kind", NETWORKS)
@FEW
@given(seed=seeds)
def test_neurons_lie_within_what_is_claimed(kind: str, seed: int) -> None:
    """Brute force over all phases below."""
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    box = around(REGIONS[str(rng.choice(["box", "linf clipped"]))](rng, net.n_inputs))
    layers = NeuronProver(steps=int(rng.integers(30)), nodes=int(rng.integers(40))).layers(net, box)
    result = bounded(net, box, layers)
    for k in range(len(net.layers)):
        lower, upper = sides(result, k)
        for i in range(net.layers[k].size):
            assert lower[i] <= least_zhat(net, box, k + 1, i, 1.0) + 1e-8
            assert -upper[i] <= least_zhat(net, box, k + 1, i, -1.0) + 1e-8


@pytest.mark.parametrize("semantics", ["real", "float32"])
@settings(max_examples=2)
@given(seed=seeds)
def test_the_checker_finds_stable_what_is_said_to_be_so_and_bounds_are_narrower(semantics: str, seed: int) -> None:
    """On the whole, in the second layer: one by one, what is lost is that active neurons below are columns."""
    net, box = deep(seed)
    net = in_float32(net)
    layers = NeuronProver(nodes=10).layers(net, box, Float32() if semantics == "float32" else REAL)
    assert any(layer.claims for layer in layers[1:]) and not layers[0].claims
    plain, claimed = (bounded(net, box, told, semantics) for told in (None, layers))
    (l, u), (low, high) = sides(plain, 1), sides(claimed, 1)
    on = (l < 0) & (u > 0)
    assert (high - low)[on].sum() < (u - l)[on].sum()
    for k, layer in enumerate(layers):
        low, high = sides(claimed, k)
        assert layer.unstable is not None
        assert not ((low < 0) & (high > 0) & (layer.unstable == 0)).any()


def test_slopes_settle_neurons_and_trees_more() -> None:
    left = {"crown": 0, "slopes": 0, "trees": 0}
    for seed in range(4):
        net, box = deep(seed)
        left["crown"] += unstable(bounded(net, box, None))
        left["slopes"] += unstable(bounded(net, box, NeuronProver(nodes=0).layers(net, box)))
        left["trees"] += unstable(bounded(net, box, NeuronProver().layers(net, box)))
    assert left["trees"] < 0.9 * left["slopes"] < 0.9 * left["crown"]


def test_without_trees_every_claim_has_one_leaf_and_a_settled_neuron_one_claim() -> None:
    net, box = deep(1)
    slopes, trees = (NeuronProver(nodes=nodes).layers(net, box) for nodes in (0, 100))
    assert all(claims.split is None for layer in slopes for claims in layer.claims)
    assert any(claims.split is not None for layer in trees for claims in layer.claims)
    for layer in trees:
        rows = np.concatenate([np.zeros(0, dtype=int), *(claims.row for claims in layer.claims)])
        assert len(np.unique(rows)) == len(rows) and layer.unstable is not None
        settled = np.flatnonzero(layer.unstable == 0)  # inactive
        assert (np.bincount(rows % len(layer.unstable), minlength=len(layer.unstable))[settled] <= 1).all()


def test_active_neurons_are_columns_whose_bounds_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker's bounds stay within a hair of those that were seen here, which stand on active neurons' too."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    real = DualProblem.with_layer

    def watched(problem: DualProblem, l: np.ndarray, u: np.ndarray) -> DualProblem:
        seen.append((l, u))
        return real(problem, l, u)

    monkeypatch.setattr(DualProblem, "with_layer", watched)
    for seed in range(3):
        net, box = deep(seed)
        seen.clear()
        layers = NeuronProver(nodes=20).layers(net, box)
        result = bounded(net, box, layers)
        for k, (l, u) in enumerate(seen):
            (low, high), listed = sides(result, k), layers[k].unstable
            assert (low >= l - 1e-9)[u > 0].all() and (high <= u + 1e-9)[u > 0].all()
            assert (high <= 0)[u <= 0].all()
            assert listed is not None and (listed == (u > 0)).all()


def test_when_time_is_up_the_rest_is_left_to_the_rule() -> None:
    net, box = deep(2)
    none = NeuronProver().layers(net, box, left_s=lambda: 0.0)
    assert all(layer.unstable is None and not layer.claims for layer in none)
    seen: list[int] = []
    layers = NeuronProver().layers(net, box, REAL, lambda: 0.0 if 3 in seen else 9.0, lambda k, _: seen.append(k))
    assert seen == [2, 3]
    assert layers[1].claims and layers[1].unstable is not None
    assert not layers[2].claims and layers[2].unstable is None
    assert bounded(net, box, layers).trace


def test_a_planted_fault_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a search believes too much, the checker finds neurons that are not stable."""
    from milpverify.bounds.nodes import NodeProblem

    real = NodeProblem.claim
    monkeypatch.setattr(NodeProblem, "claim", lambda *given_: real(*given_) + 0.3)
    refused = 0
    for seed in range(4):
        net, box = deep(seed)
        result = bounded(net, box, NeuronProver(nodes=0).layers(net, box))
        refused += "not listed as unstable and not stable" in result.reason
    assert refused


def test_claims_survive_their_file() -> None:
    from milpverify.proof.certificate import from_bytes

    net, box = deep(3)
    layers = NeuronProver(nodes=20).layers(net, box)
    certificate = Certificate(BITS, (Group((0,), (Context((LeafTree(),), layers),)),))
    again = from_bytes(certificate.to_bytes()).groups[0].contexts[0].layers
    assert again is not None
    first, second = (bounded(net, box, told).trace[0] for told in (layers, again))
    assert (first.lower, first.claims) == (second.lower, second.claims)

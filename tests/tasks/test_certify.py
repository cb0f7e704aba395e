"""Proofs: found for what is true, by phases and by boxes, accepted by the exact checker; never for what is false."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import milpverify as mv
from milpverify.network.graph import Affine
from milpverify.network.operators import Dense
from milpverify.search.phase_proof import preorder
from tests.cases import NETWORKS, REGIONS, brute_force_slack
from tests.laws.test_tasks import random_property

BOXES = mv.Prover(few_inputs=100, few_neurons=0)
ROOM = 0.02  # of the outputs' size: what box trees of a few thousand leaves can close


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("by", ["phases", "boxes"])
@pytest.mark.parametrize("kind", sorted(NETWORKS))
def test_what_is_below_the_exact_least_slack_is_proved_and_what_is_above_is_not(kind: str, by: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS[kind](rng)
    region = REGIONS["box"](rng, net.n_inputs)
    prop = random_property(rng, net, region)
    least = min(brute_force_slack(net, case.region, case.unsafe.C, case.unsafe.d) for case in prop.cases)
    prover = BOXES if by == "boxes" else mv.Prover(few_inputs=0)
    below = Fraction(least - (ROOM if by == "boxes" else 1e-6) * max(1.0, abs(least)))
    found = mv.certify(net, prop, threshold=below, prover=prover, time_limit_s=60)
    assert found.proof is not None, found.reason
    certificate = found.proof.certificate
    assert mv.check_exact(certificate, net, prop, below).accepted
    above = Fraction(least + 1e-9 * max(1.0, abs(least)))
    assert not mv.check_exact(certificate, net, prop, above).accepted
    raised = replace(certificate, threshold=above)
    assert not mv.check_exact(raised, net, prop, above).accepted
    less = replace(prover, most_boxes=200, phases=mv.PhaseProver(node_limit=200))
    assert mv.certify(net, prop, threshold=above, prover=less, time_limit_s=20).proof is None


@pytest.mark.parametrize("ball", [mv.LinfBall, mv.L1Ball, mv.L2Ball])
def test_balls_count_as_their_boxes(ball: type[mv.L2Ball]) -> None:
    rng = np.random.default_rng(7)
    net = NETWORKS["chain"](rng)
    centre = rng.uniform(-1, 1, net.n_inputs)
    label = int(net.forward(centre).argmax())
    eps = 0.5 * mv.minimum_epsilon(net, centre, label, clip=(-3, 3)).lower
    prop = mv.robustness(net, ball(centre, eps), label)
    found = mv.certify(net, prop, time_limit_s=60)
    assert found.proof is not None and mv.check_exact(found.proof.certificate, net, prop).accepted


def test_verify_follows_a_verdict_up_with_a_proof() -> None:
    """y_0 - y_1 = 2 x - 1 over balls around 1: positive within 1/2."""
    first = Affine(((0, Dense(np.ones((1, 1)))),), ((None, np.zeros(1)),), 1, "first")
    last = Affine(((1, Dense(np.array([[1.0], [-1.0]]))),), ((None, np.array([0.0, 1.0])),), 2, "last")
    net = mv.Network((1,), (2,), (first,), last)
    holds = mv.verify(net, mv.robustness(net, mv.LinfBall(np.ones(1), 0.4375), 0), prove=True)
    assert isinstance(holds, mv.Holds) and holds.grade is mv.Grade.PROOF_CHECKED and holds.proof is not None
    violated = mv.verify(net, mv.robustness(net, mv.LinfBall(np.ones(1), 0.5625), 0), prove=True)
    assert isinstance(violated, mv.Violated)


def test_without_time_or_nodes_there_is_a_reason_and_no_proof() -> None:
    rng = np.random.default_rng(0)
    net = NETWORKS["chain"](rng)
    region = REGIONS["box"](rng, net.n_inputs)
    prop = random_property(rng, net, region)
    least = min(brute_force_slack(net, case.region, case.unsafe.C, case.unsafe.d) for case in prop.cases)
    above = Fraction(least + 1.0)
    for prover in (mv.Prover(few_inputs=0, phases=mv.PhaseProver(node_limit=1)), replace(BOXES, most_boxes=1)):
        found = mv.certify(net, prop, threshold=above, prover=prover)
        assert found.proof is None and found.reason
    with pytest.raises(mv.OptionError):
        mv.certify(net, prop, time_limit_s=0)


def test_every_tree_is_found_again_from_its_leaves() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        phases = [np.zeros(8, dtype=np.int8)]
        for _ in range(int(rng.integers(0, 30))):
            leaf = phases[place] if (phases[place := int(rng.integers(len(phases)))] == 0).any() else None
            if leaf is None:
                continue
            neuron = int(rng.choice(np.flatnonzero(leaf == 0)))
            both = [leaf.copy(), leaf.copy()]
            both[0][neuron], both[1][neuron] = 1, -1
            phases[place : place + 1] = both
        given = np.array(phases)[rng.permutation(len(phases))]
        split, order = preorder(given.copy())
        assert sorted(order.tolist()) == list(range(len(given)))
        paths: list[list[tuple[int, int]]] = [[]]
        for what in split.tolist():
            path = paths.pop()
            if what >= 0:
                paths += [[*path, (what, -1)], [*path, (what, 1)]]
                continue
            leaf = given[order[0]]
            order = order[1:]
            # Its own splits may come in another order, and all of them must be there.
            assert {(n, int(leaf[n])) for n in np.flatnonzero(leaf)} == set(path)
        assert not len(order) and not paths

"""`certify`: what is true with a margin is proved, and nothing that is false ever is."""

from __future__ import annotations

import csv
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from milpverify.errors import OptionError, PropertyError
from milpverify.proof.certificate import from_bytes
from milpverify.proof.evidence import Grade, Holds, Violated
from milpverify.proof.exact import check_exact
from milpverify.search.box_proof import BoxProver, BoxTree
from milpverify.search.leaf_trees import LeafTrees
from milpverify.search.neuron_claims import NeuronProver
from milpverify.search.phase_proof import PhaseProver
from milpverify.tasks.certify import Certified, Prover, certify
from milpverify.tasks.progress import Progress
from tests.cases import REGIONS, brute_force_slack, seeds
from tests.paths import need
from tests.search.proof_cases import KINDS, above, as_property, least_slack, random_case

BOXES = BoxProver(LeafTrees(neurons=0), most=500)
PROVERS = {
    "default": Prover(),
    "phases": Prover(few_inputs=-1, neurons=()),
    "claims": Prover(few_inputs=-1, first_neurons=-1),
    "boxes": Prover(few_neurons=-1, boxes=replace(BOXES, trees=LeafTrees())),
    "boxes where no phase is split": Prover(PhaseProver(node_limit=1, plane_steps=0), BOXES),
}
SUITES = {
    "acasxu": 46,
    "reach_prob_density": 16,
    "linearizenn": 4,
    "rl_benchmarks": 56,
    "safenlp": 6,
    "tllverifybench": 33,
}


def false_by_a_hair(least: float) -> float:
    """More than brute force is off by, and hardly more."""
    return least + 1e-8 * (1.0 + abs(least))


def assert_proved(found: Certified, net: mv.Network, prop: mv.Property, threshold: float = 0.0) -> None:
    assert found.proof is not None, found.reason
    again = from_bytes(found.proof.certificate.to_bytes())
    result = check_exact(again, net, prop, Fraction(threshold))
    assert result.accepted, result.reason
    counts = (result.n_cases, result.n_contexts, result.n_leaves)
    assert counts == (found.proof.n_cases, found.proof.n_contexts, found.proof.n_leaves)


@pytest.mark.parametrize("prover", PROVERS)
@pytest.mark.parametrize("kind", ["chain", "skip", "no hidden layer", "all stable"])
@settings(max_examples=3)
@given(seed=seeds)
def test_thresholds_around_the_least_slack(kind: str, prover: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = KINDS[kind](rng)
    region = REGIONS[str(rng.choice(["box", "linf clipped"]))](rng, net.n_inputs)
    case = random_case(rng, net, region, int(rng.integers(1, 4)))
    least = least_slack(net, case)
    margin = 0.05 if prover == "boxes where no phase is split" else 1e-6 * (1.0 + abs(least))
    prop = as_property(net, case)
    found = certify(net, prop, threshold=least - margin, prover=PROVERS[prover])
    assert_proved(found, net, prop, least - margin)
    few = replace(PROVERS[prover], boxes=replace(PROVERS[prover].boxes, most=40))
    found = certify(net, prop, threshold=false_by_a_hair(least), prover=few)
    assert found.proof is None
    assert found.reason


@settings(max_examples=3)
@given(seed=seeds)
def test_convolutions_are_proved_by_phases(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = KINDS["convolution"](rng)
    case = random_case(rng, net, REGIONS["linf clipped"](rng, net.n_inputs), 2)
    least, prop = least_slack(net, case), as_property(net, case)
    assert_proved(certify(net, prop, threshold=least - 1e-6), net, prop, least - 1e-6)
    few = Prover(few_inputs=-1)
    assert certify(net, prop, threshold=false_by_a_hair(least), prover=few).proof is None


@pytest.mark.parametrize("margin", [1e-4, 1e-8, 1e-12])
def test_small_margins_take_more_bits(margin: float) -> None:
    rng = np.random.default_rng(5)
    net = KINDS["chain"](rng)
    case = random_case(rng, net, REGIONS["linf clipped"](rng, net.n_inputs), 2)
    least, prop = least_slack(net, case), as_property(net, case)
    found = certify(net, prop, threshold=least - margin)
    assert_proved(found, net, prop, least - margin)
    assert found.proof is not None
    assert (found.proof.certificate.bits > 40) == (margin < 1e-10)


@pytest.mark.parametrize("prover", PROVERS)
@settings(max_examples=2)
@given(seed=seeds)
def test_several_cases_in_several_regions(prover: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = KINDS["chain"](rng)
    regions = [REGIONS["linf clipped"](rng, net.n_inputs) for _ in range(2)]
    cases = [random_case(rng, net, region, m, f"case {m}") for region in regions for m in (1, 2)]
    cases = [cases[i] for i in (0, 2, 1, 3)]  # so that groups are not runs of cases
    true = [above(case, least_slack(net, case) - 0.05) for case in cases]
    boxes = {id(case.region): box.region for case, box in zip(cases, true, strict=True)}
    prop = as_property(net, *(mv.Case(boxes[id(c.region)], t.unsafe, t.name) for c, t in zip(cases, true, strict=True)))
    found = certify(net, prop, prover=PROVERS[prover])
    assert_proved(found, net, prop)
    assert found.proof is not None
    assert found.proof.n_cases == 4
    wrong = above(cases[2], false_by_a_hair(least_slack(net, cases[2])))
    few = replace(PROVERS[prover], boxes=replace(PROVERS[prover].boxes, most=40))
    assert certify(net, as_property(net, *true[:2], wrong, true[3]), prover=few).proof is None


@pytest.mark.parametrize("kind", [kind for kind in REGIONS if kind not in ("box", "linf clipped")])
def test_balls_count_as_the_box_around_them(kind: str) -> None:
    rng = np.random.default_rng(1)
    net = KINDS["chain"](rng)
    case = random_case(rng, net, REGIONS[kind](rng, net.n_inputs), 2)
    least, prop = least_slack(net, case), as_property(net, case)
    assert_proved(certify(net, prop, threshold=least - 1e-6), net, prop, least - 1e-6)
    assert certify(net, prop, threshold=false_by_a_hair(least), prover=PROVERS["phases"]).proof is None


def open_property(margin: float = 1e-3) -> tuple[mv.Network, mv.Property]:
    """A true property that bounds alone do not prove."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        net = KINDS["chain"](rng)
        case = random_case(rng, net, REGIONS["linf clipped"](rng, net.n_inputs), 1, "hard")
        case = above(case, brute_force_slack(net, case.region, case.unsafe.C, case.unsafe.d) - margin)
        prop = as_property(net, case)
        found = certify(net, prop)
        if found.proof is not None and found.proof.n_leaves > 2:
            return net, prop
    raise AssertionError("no such network")


@pytest.mark.parametrize("prover", PROVERS)
def test_time_limits_end_it(prover: str) -> None:
    net, prop = open_property()
    found = certify(net, prop, time_limit_s=1e-6, prover=PROVERS[prover])
    assert found.proof is None
    assert "time ran out" in found.reason


@pytest.mark.parametrize("prover", PROVERS)
def test_an_interrupt_ends_it(prover: str) -> None:
    net, prop = open_property()

    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    found = certify(net, prop, prover=PROVERS[prover], on_progress=stop)
    assert found.proof is None
    assert found.reason == "interrupted"


def test_progress_is_told() -> None:
    net, prop = open_property()
    for prover, stage in (("phases", "tree"), ("boxes", "boxes")):
        told: list[Progress] = []
        assert certify(net, prop, prover=PROVERS[prover], on_progress=told.append).proof is not None
        assert {"checker", stage} <= {progress.stage for progress in told}


def test_refused_boxes_are_split_further(monkeypatch: pytest.MonkeyPatch) -> None:
    net, prop = open_property()
    honest, lies = BoxTree._close, [2]

    def liar(self: BoxTree, some: np.ndarray, boxes: object, values: np.ndarray) -> np.ndarray:
        """Twice, close by a row's bounds what they do not close."""
        lies[0] -= 1
        return honest(self, some, boxes, values if lies[0] < 0 else np.abs(values) + 1.0)  # type: ignore[arg-type]

    monkeypatch.setattr(BoxTree, "_close", liar)
    assert_proved(certify(net, prop, prover=PROVERS["boxes"]), net, prop)
    assert lies[0] < 0


def test_an_unsafe_set_of_everything_has_no_proof() -> None:
    net = KINDS["chain"](np.random.default_rng(0))
    region = mv.Box(np.zeros(net.n_inputs), np.ones(net.n_inputs))
    everything = mv.Case(region, mv.Polyhedron(np.zeros((0, net.n_outputs)), np.zeros(0)), "all")
    found = certify(net, as_property(net, everything))
    assert found.proof is None
    assert found.reason == "all: every output is unsafe"


def test_bad_questions_are_refused() -> None:
    net, prop = open_property()
    with pytest.raises(OptionError, match="time limit"):
        certify(net, prop, time_limit_s=0)
    other = KINDS["skip"](np.random.default_rng(0))
    with pytest.raises(PropertyError):
        certify(other, prop)


def test_verify_hands_on_a_proof() -> None:
    net, prop = open_property()
    verdict = mv.verify(net, prop, prove=True)
    assert isinstance(verdict, Holds)
    assert verdict.grade is Grade.PROOF_CHECKED
    assert verdict.proof is not None
    assert check_exact(verdict.proof.certificate, net, prop).accepted
    plain = mv.verify(net, prop)
    assert isinstance(plain, Holds)
    assert plain.proof is None
    hopeless = Prover(PhaseProver(node_limit=1, plane_steps=0), few_inputs=-1)
    unproved = mv.verify(net, prop, prove=hopeless)
    assert isinstance(unproved, Holds)
    assert unproved.proof is None
    assert unproved.grade is not Grade.PROOF_CHECKED
    assert unproved.unproved == "hard: no tree over phases closes it within its limits"
    violated = mv.verify(net, as_property(net, above(prop.cases[0], 0.1)), prove=True)
    assert isinstance(violated, Violated)


@pytest.mark.parametrize("suite", SUITES)
def test_an_instance_of_every_suite(suite: str) -> None:
    rows = list(csv.DictReader(need(suite, "instances.csv").read_text().splitlines()))
    row = rows[SUITES[suite]]
    assert row["verdict"] == "unsat"
    net = mv.from_onnx(need(suite, row["onnx"]))
    prop = mv.read_vnnlib(need(suite, row["vnnlib"]))
    assert_proved(certify(net, prop), net, prop)


def test_what_no_tree_over_the_whole_network_closes_is_proved_by_claims() -> None:
    net = mv.from_onnx(need("mnist_fc", "onnx", "mnist-net_256x4.onnx"))
    prop = mv.read_vnnlib(need("mnist_fc", "vnnlib", "prop_8_0.03.vnnlib"), net)
    found = certify(net, prop, prover=Prover(neurons=(NeuronProver(),), first_neurons=-1))
    assert_proved(found, net, prop)
    assert found.proof is not None
    (group,) = found.proof.certificate.groups
    layers = group.contexts[0].layers or ()
    assert [bool(layer.claims) for layer in layers] == [False, True, True, True]
    listed = [int(layer.unstable.sum()) for layer in layers if layer.unstable is not None]
    assert sum(listed) < 0.8 * sum(mv.compute_bounds(net, prop.cases[0].region).n_unstable)

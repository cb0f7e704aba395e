"""Proofs about float32: no execution leaves the bounds, both checkers agree, what is not covered is refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import milpverify as mv
from milpverify.errors import OptionError, ProofError
from milpverify.network.graph import Network
from milpverify.proof import checker
from milpverify.proof.certificate import Certificate, Context, Group, Layer, LeafTree, from_bytes
from milpverify.proof.exact import CheckResult, check_exact
from milpverify.proof.float32 import float32_at_most, float32_obstacle
from milpverify.spec.property import Case, Polyhedron, Property
from milpverify.tasks.certify import certify
from tests.cases import chain, convolution, seeds
from tests.network.onnx_cases import CASES, build, node
from tests.paths import need
from tests.proof import literal
from tests.proof.certificate_cases import question, random_certificate
from tests.proof.float32_cases import dense, executions, in_float32, onnx_bytes, points, rounded

FEW = settings(max_examples=5)
LIMIT = 1 << 28


def trace_alone(certificate: Certificate, net: Network, prop: Property, folder: Path) -> tuple[list[Any], str]:
    """What the stand-alone checker computes, reading files, and why it rejects; empty where it accepts."""
    prop.save(folder / "prop.json")
    cases = checker.read_property(memoryview((folder / "prop.json").read_bytes()))[2]
    maps = checker.read_onnx(memoryview(onnx_bytes(net)), net.n_inputs)[1]
    trace: list[Any] = []
    try:
        checker.check(checker.Proof(certificate.to_bytes(), LIMIT), maps, cases, trace)
    except checker.Stop as stop:
        return trace, str(stop.args[1])
    return trace, ""


def flat(result: CheckResult) -> list[Any]:
    """A trace as the stand-alone checker gives it."""
    found: list[Any] = []
    for context in result.trace:
        for lower, upper, claims in zip(context.lower, context.upper, context.claims, strict=True):
            found += [*claims, (lower, upper)]
        found += context.values
    return found


@pytest.mark.parametrize("bits", [16, 40, 64, 300])
@pytest.mark.parametrize("make", [chain, convolution])
@FEW
@given(seed=seeds)
def test_every_integer_is_that_of_the_page_in_both_checkers(
    make: Any, bits: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng, net, prop = question(make.__name__, "box" if seed % 2 else "linf clipped", seed)
    net = in_float32(net)
    assert float32_obstacle(net) == ""
    certificate = random_certificate(rng, net, prop, bits, Fraction(int(rng.integers(-5, 6)), 7), "float32")
    assert from_bytes(certificate.to_bytes()).semantics == "float32"
    want = literal.check(certificate, net, prop)
    by_words = check_exact(certificate, net, prop, certificate.threshold, trace=True)
    by_python = check_exact(certificate, net, prop, certificate.threshold, trace=True, machine=False)
    assert [(c.lower, c.upper, c.values, c.claims) for c in by_words.trace] == want
    assert [(c.lower, c.upper, c.values, c.claims) for c in by_python.trace] == want
    alone, refused = trace_alone(certificate, net, prop, tmp_path_factory.mktemp("files"))
    assert alone == flat(by_words)
    assert by_words.accepted == (not refused)


def bounded(net: Network, box: mv.Box, bits: int, semantics: str, rule: str = "crown") -> tuple[Any, list[int]]:
    """The layers' bounds over a box, and V of every output and of its negative."""
    rows = np.concatenate([np.eye(net.n_outputs), -np.eye(net.n_outputs)])
    cases = tuple(Case(box, Polyhedron(row[None], np.zeros(1))) for row in rows)
    context = Context((LeafTree(),) * len(cases), tuple(Layer(rule) for _ in net.layers))
    certificate = Certificate(bits, (Group(tuple(range(len(cases))), (context,)),), semantics=semantics)
    result = check_exact(certificate, net, Property(cases, net.n_inputs, net.n_outputs), trace=True)
    return result.trace[0], [int(leaves[0] or 0) for leaves in result.trace[0].values]


def outside(net: Network, box: mv.Box, bits: int, semantics: str, rng: np.random.Generator, rule: str = "crown") -> int:
    """How many values of executions lie outside of the checker's bounds."""
    trace, V = bounded(net, box, bits, semantics, rule)
    count, m = 0, net.n_outputs
    for x in points(rng, box.lower, box.upper, 3):
        for execution in executions(rng):
            hidden, y = execution.values(net, x)
            for lower, upper, zhat in zip(trace.lower, trace.upper, hidden, strict=True):
                exact = [Fraction(v) * 2**bits for v in zhat.tolist()]
                count += sum(not l <= v <= u for l, v, u in zip(lower, exact, upper, strict=True))
            exact = [Fraction(v) * 2 ** (2 * bits) for v in y.tolist()]
            count += sum(not V[i] <= v <= -V[m + i] for i, v in enumerate(exact))
    return count


def wide(rng: np.random.Generator) -> Network:
    """A chain that sums many products of very different sizes."""
    sizes = [12, 9, 7, 2]
    maps = []
    for n, m in itertools.pairwise(sizes):
        W = rounded(rng.normal(size=(m, n)) * 2.0 ** rng.integers(-12, 13, (m, n)))
        maps.append((W, rounded(rng.normal(size=m) * 2.0 ** rng.integers(-20, 20, m))))
    return dense(*maps)


@pytest.mark.parametrize("rule", ["crown", "interval"])
@pytest.mark.parametrize("make", [chain, convolution, wide])
@FEW
@given(seed=seeds)
def test_no_execution_leaves_the_bounds(make: Any, rule: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = in_float32(make(rng))
    middle = rounded(rng.normal(size=net.n_inputs))
    radius = rng.choice([0.0, 1e-6, 0.1])
    box = mv.Box(rounded(middle - radius), rounded(middle + radius))
    assert outside(net, box, int(rng.choice([24, 60, 120])), "float32", rng, rule) == 0


def test_real_bounds_are_left_by_executions() -> None:
    left = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        net, x = wide(rng), rounded(rng.normal(size=12))
        left += outside(net, mv.Box(x, x), 120, "real", rng)
    assert left > 100


TINY = 2.0**-126


@pytest.mark.parametrize(
    ("w", "x", "b"),
    [
        (2.0**-63 * 0.9990234375, 2.0**-63, 0.0),  # products are flushed
        (TINY * 0.9990234375, 1024.0, 0.0),  # weights are
        (1024.0, TINY * 0.9990234375, 0.0),  # inputs are
        (0.0, 0.0, TINY * 0.9990234375),  # the bias is
        (2.0**-63 * 0.9990234375, 2.0**-63, -TINY * 40),
    ],
)
@pytest.mark.parametrize("n", [1, 64])
def test_flushed_numbers_stay_within_the_bounds(w: float, x: float, b: float, n: int) -> None:
    rng = np.random.default_rng(0)
    net = dense((np.full((2, n), w), np.full(2, b)), (np.ones((1, 2)), [0.0]))
    box = mv.Box(np.full(n, x), np.full(n, x))
    assert outside(net, box, 400, "float32", rng) == 0
    assert outside(net, box, 400, "real", rng) > 0


def test_flushed_partial_sums_stay_within_the_bounds() -> None:
    rng = np.random.default_rng(0)
    signs = np.array([1.0, -1.0] * 100)  # differences of normal numbers are subnormal
    x = rounded(TINY * (1 + rng.random(200)))
    net = dense((np.stack([signs, -signs]), [0.0, 0.0]), (np.ones((1, 2)), [0.0]))
    assert outside(net, mv.Box(x, x), 400, "float32", rng) == 0
    assert outside(net, mv.Box(x, x), 400, "real", rng) > 0


def cancelling(power: int) -> tuple[Network, Property]:
    """y = relu(x + 2^power) - 2^power > 1/4 for x in [1/2, 1]; float32 loses x from 2^25 on (Zombori et al. 2021)."""
    big = 2.0**power
    net = dense(([[1.0]], [big]), ([[1.0]], [-big]))
    case = Case(mv.Box([0.5], [1.0]), Polyhedron(np.ones((1, 1)), np.array([0.25])))
    return net, Property((case,), 1, 1)


@pytest.mark.parametrize("power", [25, 30, 40])
def test_what_float32_breaks_is_proved_over_the_real_numbers_only(power: int, tmp_path: Path) -> None:
    net, prop = cancelling(power)
    _, y = executions(np.random.default_rng(0))[0].values(net, np.array([0.75]))
    assert y[0] == 0.0
    real = certify(net, prop).proof
    assert real is not None and real.certificate.semantics == "real"
    assert certify(net, prop, semantics="float32", time_limit_s=5).proof is None
    both = certify(net, prop, semantics="both", time_limit_s=10).proof
    assert both is not None and both.certificate.semantics == "real"
    changed = replace(real.certificate, semantics="float32")
    assert not check_exact(changed, net, prop).accepted
    assert trace_alone(changed, net, prop, tmp_path)[1]
    assert trace_alone(real.certificate, net, prop, tmp_path)[1] == ""


def test_what_float32_keeps_is_proved_for_it(tmp_path: Path) -> None:
    net, prop = cancelling(10)
    proof = certify(net, prop, semantics="both").proof
    assert proof is not None and proof.certificate.semantics == "float32"
    assert check_exact(proof.certificate, net, prop).accepted
    assert trace_alone(proof.certificate, net, prop, tmp_path)[1] == ""


@FEW
@given(seed=seeds)
def test_a_proof_by_bounds_alone_is_one_over_the_real_numbers_too(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = in_float32(chain(rng))
    x = rng.normal(size=net.n_inputs)
    row = rng.normal(size=(1, 3))
    lowest = mv.bound_rows(net, mv.Box(x - 0.1, x + 0.1), mv.compute_bounds(net, mv.Box(x - 0.1, x + 0.1)), row)
    case = Case(mv.Box(x - 0.1, x + 0.1), Polyhedron(row, lowest.value - 0.01))
    prop = Property((case,), net.n_inputs, 3)
    proof = certify(net, prop, semantics="float32").proof
    assert proof is not None
    assert check_exact(replace(proof.certificate, semantics="real"), net, prop).accepted


def test_a_proof_with_multipliers_needs_its_own_list_of_unstable_neurons(tmp_path: Path) -> None:
    # zhat_2 = x + 2^-40 >= 2^-40 is stable over the real numbers; in float32 it is not known to be.
    net = dense(([[1.0], [1.0]], [2.0**-40, -0.5]), ([[1.0, 1.0]], [1.0]))
    case = Case(mv.Box([0.0], [1.0]), Polyhedron(np.ones((1, 1)), np.zeros(1)))
    prop = Property((case,), 1, 1)
    tree = LeafTree(alpha=np.ones((1, 2)))
    listed = (Layer("crown", np.ones(2, dtype=np.uint8)),)
    for layers, real in ((None, False), (listed, True)):
        certificate = Certificate(60, (Group((0,), (Context((tree,), layers),)),), semantics="float32")
        assert check_exact(certificate, net, prop).accepted
        changed = replace(certificate, semantics="real")
        assert check_exact(changed, net, prop).accepted == real
        assert (trace_alone(changed, net, prop, tmp_path)[1] == "") == real


@pytest.mark.parametrize(("w", "fits"), [(1e38, False), (2.0**127, False), (2.0**124, True)])
def test_what_may_overflow_is_rejected(w: float, fits: bool, tmp_path: Path) -> None:
    w = float(np.float32(w))
    net = dense(([[w, w]], [0.0]), ([[1.0]], [1.0]))  # y >= 1
    case = Case(mv.Box([-1.0, -1.0], [1.0, 1.0]), Polyhedron(np.ones((1, 1)), np.zeros(1)))
    prop = Property((case,), 2, 1)
    listed = (Layer("interval", np.ones(1, dtype=np.uint8)),)
    tree = LeafTree(split=np.array([0, -1, -1], dtype=np.int32), beta=np.zeros((2, 1)))
    group = Group((0,), (Context((tree,), listed),))
    certificate = Certificate(40, (group,), semantics="float32")
    real = replace(certificate, semantics="real")
    result, (_, alone) = check_exact(certificate, net, prop), trace_alone(certificate, net, prop, tmp_path)
    assert ("overflow" not in result.reason) == ("overflow" not in alone) == fits
    assert result.accepted == (not alone)
    assert "overflow" not in check_exact(real, net, prop).reason


@given(p=st.integers(-(10**60), 10**60), r=st.integers(1, 10**60), shift=st.integers(-90, 60))
def test_numbers_are_rounded_down_to_float32(p: int, r: int, shift: int) -> None:
    q = Fraction(p, r) * Fraction(2) ** shift
    for value in (q, Fraction(float(np.float32(np.clip(float(q), -3e38, 3e38))))):
        if abs(value) < 3 * 10**38:
            assert float32_at_most(value) == checker.float32_at_most(value) == literal.single(value) <= value


@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False), part=st.integers(1, 2**30))
def test_float32_numbers_are_known_from_others(value: float, part: int) -> None:
    assert checker.is_float32(value) and checker.is_float32(Fraction(value))
    other = value + value * part * 2.0**-54
    assert checker.is_float32(other) == (float(np.float32(other)) == other)
    assert not checker.is_float32(2.0**128) and not checker.is_float32(2.0**-150)


def test_the_box_holds_the_numbers_that_its_points_round_to() -> None:
    exact = Fraction(1, 10)  # no float32 lies in the region itself
    region = mv.Box([0.1], [0.1], exact=((exact,), (exact,)))
    net = dense(([[1.0]], [0.0]), ([[1.0]], [0.0]))
    ends = [float(np.float32(0.1)), float(np.nextafter(np.float32(0.1), np.float32(0)))]
    for semantics, held in (("real", False), ("float32", True)):
        trace, _ = bounded(net, region, 60, semantics)
        assert all(trace.lower[0][0] <= x * 2**60 <= trace.upper[0][0] for x in ends) == held


# What is covered


def same_answer(content: bytes, n: int, net: Network) -> bool:
    """Whether a network is one that the section covers; both readers must say the same."""
    maps = checker.read_onnx(memoryview(content), n)[1]
    alone = all(k > 0 for *_, k in maps) and all(
        checker.is_float32(w) for W, b, _ in maps for w in (*b, *(w for row in W[0] for w in row.values()))
    )
    assert alone == (float32_obstacle(net) == "")
    return alone


W, V, B, C = (np.random.default_rng(k).normal(size=s).astype(np.float32) for k, s in enumerate(((3, 3), (3, 3), 3, 3)))
FILES: dict[str, tuple[list[Any], bool]] = {
    "matmul add": ([node("MatMul", "x w", "a"), node("Add", "a b")], True),
    "add the bias first": ([node("MatMul", "x w", "a"), node("Add", "b a")], True),
    "gemm": ([node("Gemm", "x w b")], True),
    "gemm of a factor": ([node("Gemm", "x w b", alpha=2.0)], False),
    "gemm of a half bias": ([node("Gemm", "x w b", beta=0.5)], False),
    "two biases": ([node("Gemm", "x w b", "a"), node("Add", "a c")], False),
    "a bias and zeros": ([node("Gemm", "x w b", "a"), node("Add", "a zeros")], True),
    "biases that cancel": ([node("Gemm", "x w b", "a"), node("Sub", "a b")], False),
    "zeros subtracted first": ([node("Sub", "x zeros", "a"), node("Gemm", "a w b")], True),
    "a mean subtracted first": ([node("Sub", "x c", "a"), node("Gemm", "a w b")], False),
    "a mean subtracted and added": ([node("Sub", "x c", "s"), node("Add", "s c", "a"), node("Gemm", "a w b")], False),
    "subtracted from a bias": ([node("MatMul", "x w", "a"), node("Sub", "b a")], False),
    "two matrices": ([node("MatMul", "x w", "a"), node("Gemm", "a v b")], False),
    "flattened, reshaped": ([node("Flatten", "x", "f"), node("Identity", "f", "a"), node("Gemm", "a w b")], True),
    "relu of the input": ([node("Relu", "x", "r"), node("Gemm", "r w b")], False),
    "relu at the end": ([node("Gemm", "x w b", "a"), node("Relu", "a")], False),
    "two layers": ([node("Gemm", "x w b", "a"), node("Relu", "a", "r"), node("Gemm", "r v c")], True),
    "relu twice": (
        [node("Gemm", "x w b", "a"), node("Relu", "a", "r"), node("Relu", "r", "s"), node("Gemm", "s v c")],
        True,
    ),
    "a constant between layers": (
        [node("Gemm", "x w b", "a"), node("Relu", "a", "r"), node("Add", "r c", "s"), node("Gemm", "s v")],
        False,
    ),
    "weights of float64": ([node("Gemm", "x double b")], False),
}


@pytest.mark.parametrize("name", FILES)
def test_only_operators_with_one_bias_are_read_as_executed(name: str, tmp_path: Path) -> None:
    nodes, covered = FILES[name]
    arrays = {"w": W, "v": V, "b": B, "c": C, "zeros": np.zeros(3, dtype=np.float32), "double": np.full((3, 3), 0.1)}
    used = {array for entry in nodes for array in entry.input} & set(arrays)
    model = build(nodes, {key: arrays[key] for key in sorted(used)}, (1, 3))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    assert same_answer(path.read_bytes(), 3, mv.from_onnx(path)) == covered


def test_both_readers_cover_the_same_operators(tmp_path: Path) -> None:
    path, answers = tmp_path / "net.onnx", []
    for case in CASES:
        path.write_bytes(case.model().SerializeToString())
        n = int(np.prod(case.shape))
        try:
            checker.read_onnx(memoryview(path.read_bytes()), n)
        except (checker.Stop, ValueError):  # read by the package alone, or not at all
            continue
        answers.append(same_answer(path.read_bytes(), n, mv.from_onnx(path)))
    assert len(answers) > 30 and True in answers and False in answers


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("acasxu/onnx/ACASXU_run2a_1_1_batch_2000.onnx", True),
        ("mnist_fc/onnx/mnist-net_256x2.onnx", True),
        ("rl_benchmarks/onnx/cartpole.onnx", True),
        ("safenlp/onnx/medical/perturbations_0.onnx", True),
        ("tllverifybench/onnx/tllBench_n=2_N=M=8_m=1_instance_0_0.onnx", False),
    ],
)
def test_published_networks_are_covered(name: str, covered: bool) -> None:
    path = need(*name.split("/"))
    net = mv.from_onnx(path)
    assert same_answer(path.read_bytes(), net.n_inputs, net) == covered


def test_a_published_network_runs_within_its_bounds() -> None:
    net = mv.from_onnx(need("mnist_fc", "onnx", "mnist-net_256x2.onnx"))
    rng, single = np.random.default_rng(0), net.as_float32()
    x = rounded(rng.random(net.n_inputs))
    trace, V = bounded(net, mv.Box(x, x), 60, "float32")
    order = rng.permutation(net.n_inputs)  # of the first layer's sums
    first = net.layers[0].blocks[0][1].dense().astype(np.float32)
    again = np.add.accumulate(first[:, order] * x.astype(np.float32)[order], axis=1, dtype=np.float32)[:, -1]
    hidden, y = single.activations(x.astype(np.float32))
    runs = [*hidden, again + net.layers[0].bias.astype(np.float32)]
    assert not np.array_equal(runs[0], runs[-1])
    for zhat, k in zip(runs, [*range(len(hidden)), 0], strict=True):
        exact = [Fraction(v) * 2**60 for v in zhat.tolist()]
        assert all(l <= v <= u for l, v, u in zip(trace.lower[k], exact, trace.upper[k], strict=True))
    assert all(V[i] <= Fraction(v) * 2**120 <= -V[net.n_outputs + i] for i, v in enumerate(y.tolist()))


ELSEWHERE: dict[str, list[Any]] = {
    "scaled": [node("Mul", "x b", "a"), node("Gemm", "a w c")],
    "divided": [node("MatMul", "x w", "a"), node("Div", "a b")],
    "negated": [node("MatMul", "x w", "a"), node("Neg", "a")],
    "a maximum that is taken back": [
        node("Gemm", "x w b", "a"), node("Max", "a c", "m"), node("Sub", "m c", "s"), node("Gemm", "s v c"),
    ],
    "skipped over": [node("Gemm", "x w b", "a"), node("Add", "a x")],
    "a mean": [node("MatMul", "x w", "a"), helper.make_node("ReduceMean", ["a"], ["y"], axes=[1])],
}  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_operators_that_only_the_package_reads_are_not_covered(name: str, tmp_path: Path) -> None:
    nodes = ELSEWHERE[name]
    arrays = {"w": W, "v": V, "b": B, "c": C}
    used = {array for entry in nodes for array in entry.input} & set(arrays)
    path = tmp_path / "net.onnx"
    path.write_bytes(build(nodes, {key: arrays[key] for key in sorted(used)}, (1, 3)).SerializeToString())
    assert float32_obstacle(mv.from_onnx(path)) != ""


def test_torch_modules_are_covered_where_they_are_plain() -> None:
    n = torch.nn
    plain = n.Sequential(n.Conv2d(1, 2, 2), n.ReLU(), n.Flatten(), n.Linear(8, 3)).eval()
    assert float32_obstacle(mv.from_torch(plain, (1, 3, 3))) == ""
    for middle in (n.LeakyReLU(), n.BatchNorm2d(2), n.AvgPool2d(2, 1), n.MaxPool2d(2, 1), n.ReLU6()):
        size = 2 if isinstance(middle, (n.AvgPool2d, n.MaxPool2d)) else 8
        net = mv.from_torch(n.Sequential(n.Conv2d(1, 2, 2), middle, n.Flatten(), n.Linear(size, 3)).eval(), (1, 3, 3))
        assert float32_obstacle(net) != ""


def test_what_is_not_covered_is_rejected_and_not_searched_for(tmp_path: Path) -> None:
    net = replace(cancelling(3)[0], rewritten=("operator Gemm (node 'a')",))
    prop = cancelling(3)[1]
    found = certify(net, prop, semantics="float32")
    assert found.proof is None and "operator Gemm (node 'a')" in found.reason
    real = certify(net, prop, semantics="both").proof
    assert real is not None and real.certificate.semantics == "real"
    refused = check_exact(replace(real.certificate, semantics="float32"), net, prop)
    assert not refused.accepted and "float32" in refused.reason


def test_a_verdict_carries_the_stronger_proof_that_is_found() -> None:
    for power, semantics in ((3, "float32"), (30, "real")):
        verdict = mv.verify(*cancelling(power), prove=True, time_limit_s=20)
        assert isinstance(verdict, mv.Holds) and verdict.proof is not None
        assert verdict.proof.certificate.semantics == semantics == verdict.to_dict()["proof"]["semantics"]
    verdict = mv.verify(*cancelling(30), prove=True, prove_semantics="float32", time_limit_s=20)
    assert isinstance(verdict, mv.Holds) and verdict.proof is None and verdict.unproved


def test_other_semantics_are_refused() -> None:
    net, prop = cancelling(3)
    with pytest.raises(OptionError, match="semantics"):
        certify(net, prop, semantics="float16")
    with pytest.raises(ProofError, match="semantics"):
        Certificate(40, (Group((0,), (Context((LeafTree(),)),)),), semantics="both")

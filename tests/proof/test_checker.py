"""The stand-alone checker: what it accepts is true, what is malformed is refused, and its readers read what ours do."""

from __future__ import annotations

import ast
import gzip
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import milpverify as mv
from milpverify.errors import MilpverifyError
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense, Product
from milpverify.proof import checker
from milpverify.proof.checker import Proof, Stop, check
from tests.bounds.exact import bias as exact_bias
from tests.cases import brute_force_slack, seeds
from tests.network.onnx_cases import CASES, OnnxCase
from tests.paths import need
from tests.proof.proof_files import LIMIT, ProofFile, Prover, Question, onnx_bytes, packed, random_question

BITS = (16, 24, 40, 64, 200)


def least_slack(question: Question) -> Fraction:
    """The least of the cases' least slacks, to about 1e-9."""
    lower, upper = (np.array([float(q) for q in side]) for side in (question.lower, question.upper))
    box = mv.Box(lower, upper)
    return Fraction(
        min(brute_force_slack(question.net, box, C, np.array([float(q) for q in d])) for C, d in question.rows)
    )


def accepted(content: bytes, question: Question) -> bool:
    """Whether a file proves its claim about a question."""
    try:
        check(Proof(content, LIMIT), question.network, question.cases)
    except (Stop, KeyError, ValueError):  # the command line makes the last two an answer too
        return False
    return True


@cache
def proved(seed: int, n_cases: int = 1) -> tuple[Question, Fraction, ProofFile]:
    """A question, its least slack, and a proof of a little less."""
    for attempt in itertools.count(seed):
        rng = np.random.default_rng(attempt)
        question = random_question(rng, n_cases=n_cases)
        least = least_slack(question)
        claim = Fraction(round(least * 1000) - 100, 1000)
        rule = "crown" if rng.random() < 0.7 else "interval"
        file = Prover(question, claim, rng, int(rng.choice(BITS)), rule).proof()
        if file is not None:
            return question, least, file
    raise AssertionError


# What is accepted is true


@pytest.mark.parametrize("seed", range(12))
def test_a_true_claim_can_be_proved_and_a_false_one_cannot(seed: int) -> None:
    question, least, file = proved(10 * seed)
    assert accepted(file.content(), question)
    file = ProofFile(file.bits, str(least + Fraction(1, 10**6)), file.groups, file.arrays)
    assert not accepted(file.content(), question)


@given(seed=seeds)
def test_proofs_of_false_claims_are_never_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    question = random_question(rng, widths=(3, 2))
    claim = least_slack(question) + Fraction(1, 10**6)
    assert Prover(question, claim, rng, int(rng.choice(BITS)), most=40).proof() is None


def changed(file: ProofFile, rng: np.random.Generator) -> bytes:
    """A proof with some bits of an array, a number of the header, or a tree changed."""
    copy = ProofFile(file.bits, file.threshold, json.loads(json.dumps(file.groups)), [a.copy() for a in file.arrays])
    for _ in range(int(rng.integers(1, 4))):
        what = rng.integers(4)
        array = copy.arrays[int(rng.integers(len(copy.arrays)))]
        if what == 0 and array.size:
            place = int(rng.integers(array.nbytes))
            array.view(np.uint8).reshape(-1)[place] ^= np.uint8(1 << rng.integers(8))
        elif what == 1 and array.size:
            array.reshape(-1)[int(rng.integers(array.size))] = rng.integers(-2, 4)
        elif what == 2:
            copy.bits = int(rng.integers(10, 60))
        else:
            places = list(_numbers(copy.groups))
            part, key = places[int(rng.integers(len(places)))]
            part[key] = int(rng.integers(-1, len(copy.arrays) + 1))
    return copy.content()


def _numbers(part: Any) -> Any:
    """Where the integers of a header are."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if isinstance(value, int):
            yield part, key
        elif not isinstance(value, str):
            yield from _numbers(value)


@given(seed=seeds)
def test_changed_proofs_of_false_claims_are_never_accepted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    question, least, file = proved(10 * (seed % 12))
    false = ProofFile(file.bits, str(least + Fraction(1, 10**6)), file.groups, file.arrays)
    for _ in range(20):
        assert not accepted(changed(false, rng), question)


@pytest.mark.parametrize("seed", range(3))
def test_every_case_needs_its_proof(seed: int) -> None:
    question, _, file = proved(10 * seed, 2)
    assert accepted(file.content(), question)
    for groups in ([], file.groups[:1], file.groups[1:], [*file.groups, file.groups[0]]):
        assert not accepted(ProofFile(file.bits, file.threshold, groups, file.arrays).content(), question)


# Bounds hold


def forward(maps: list[checker.Affine], x: list[Fraction]) -> list[list[Fraction]]:
    """zhat of every layer and y, exactly."""
    values = []
    for k, (matrices, bias, _) in enumerate(maps):
        x = [max(v, Fraction(0)) for v in x] if k else x
        for W in matrices:
            x = [sum((Fraction(w) * x[j] for j, w in row.items()), Fraction(0)) for row in W]
        x = [v + Fraction(b) for v, b in zip(x, bias, strict=True)]
        values.append(x)
    return values


def slacks_of(C: np.ndarray, d: list[Fraction], y: list[Fraction]) -> list[Fraction]:
    """C y - d."""
    return [
        sum((Fraction(c) * v for c, v in zip(row, y, strict=True)), -q) for row, q in zip(C.tolist(), d, strict=True)
    ]


def points(question: Question, rng: np.random.Generator, count: int) -> list[list[Fraction]]:
    """Points of the box: rationals, the corners among them."""
    sides = list(zip(question.lower, question.upper, strict=True))
    corners = [list(corner) for corner in itertools.product(*sides)]
    return corners + [
        [l + Fraction(int(rng.integers(0, 1001)), 1000) * (u - l) for l, u in sides] for _ in range(count)
    ]


@given(seed=seeds, rule=st.sampled_from(["interval", "crown"]))
def test_layer_bounds_contain_what_the_network_does(seed: int, rule: str) -> None:
    rng = np.random.default_rng(seed)
    question = random_question(rng, widths=(4, 4, 3))
    maps, trace, F = question.network, list[Any](), int(rng.choice(BITS))
    file = ProofFile(F)
    tree = {"mu": file.array(np.ones((1, len(question.rows[0][1]))), "f8")}
    file.groups.append({"cases": [0], "contexts": [{"layers": [{"rule": rule}] * 3, "trees": [tree]}]})
    try:
        check(Proof(file.content(), LIMIT), maps, question.cases, trace)
    except Stop:
        pass
    (C, d), (V,) = question.rows[0], trace[3]
    for x in points(question, rng, 60):
        *hidden, y = forward(maps, x)
        for zhat, (lower, upper) in zip(hidden, trace[:3], strict=True):
            for v, l, u in zip(zhat, lower, upper, strict=True):
                assert l <= v * 2**F <= u
        assert V <= sum(slacks_of(C, d, y)) * 4**F


@given(seed=seeds)
def test_the_value_of_a_leaf_is_below_the_samples_on_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    question = random_question(rng, widths=(4, 3))
    maps, F, trace = question.network, int(rng.choice(BITS)), list[Any]()
    n = unstable(question, F)
    split = random_tree(rng, n, 3)
    file = ProofFile(F)
    prover = Prover(question, Fraction(0), rng, F)
    context = prover.multipliers(file, split, n, len(question.rows[0][1]))
    file.groups.append({"cases": [0], "contexts": [context]})
    try:
        check(Proof(file.content(), LIMIT), maps, question.cases, trace)
    except Stop:
        pass
    C, d = question.rows[0]
    mu = [[Fraction(v) for v in row] for row in file.arrays[context["trees"][0]["mu"]].tolist()]
    bounds = [list(zip(*sides, strict=True)) for sides in trace[:2]]
    listed = [(k, i) for k, layer in enumerate(bounds) for i, (l, u) in enumerate(layer) if l < 0 < u]
    assert len(listed) == n
    leaves = [list(path) for _, path in checker.paths(split, max(n, 1))]
    assert len(leaves) == len(trace[2])
    for x in points(question, rng, 60):
        *hidden, y = forward(maps, x)
        slacks = slacks_of(C, d, y)
        on_some = False
        for path, V, weights in zip(leaves, trace[2], mu, strict=True):
            signs = [(hidden[listed[split[place]][0]][listed[split[place]][1]], second) for place, second in path]
            if all(v <= 0 if second else v >= 0 for v, second in signs):
                on_some = True
                # mu is rounded down to a multiple of 2^-F, which moves the sum by less than |slack| 2^-F a row.
                value = sum(Fraction(int(w * 2**F), 2**F) * s for w, s in zip(weights, slacks, strict=True))
                assert V is not None and V <= value * 4**F
        assert on_some


def unstable(question: Question, F: int) -> int:
    """How many neurons the rule crown leaves unstable."""
    trace: list[Any] = []
    file = ProofFile(F)
    tree = {"mu": file.array(np.ones((1, len(question.rows[0][1]))), "f8")}
    file.groups.append({"cases": [0], "contexts": [{"trees": [tree]}]})
    try:
        check(Proof(file.content(), LIMIT), question.network, question.cases, trace)
    except Stop:
        pass
    return sum(l < 0 < u for lower, upper in trace[:-1] for l, u in zip(lower, upper, strict=True))


def random_tree(rng: np.random.Generator, n: int, depth: int) -> list[int]:
    """A tree in preorder over n neurons."""
    if not n or not depth or rng.random() < 0.3:
        return [-1]
    return [int(rng.integers(n)), *random_tree(rng, n, depth - 1), *random_tree(rng, n, depth - 1)]


# The arithmetic, to the last bit


def chain_of_ones(*weights: float) -> Network:
    """One input, one neuron a layer, one output; biases of 0.05."""
    maps = [Affine(((k, Dense(np.array([[w]]))),), ((None, np.array([0.05])),), 1) for k, w in enumerate(weights)]
    return Network((1, 1), (1, 1), tuple(maps[:-1]), maps[-1])


def test_the_integers_are_those_of_the_page() -> None:
    """docs/proofs.md, section 2, written out for x -> zhat_1 -> zhat_2 -> y and one row 0.9 y - 1/7 > 1/11."""
    F, one, half = 16, 1 << 16, 1 << 15
    question = Question(
        chain_of_ones(30.3, -7.7, 1.1), [Fraction(-1, 3)], [Fraction(4, 11)], [(np.array([[0.9]]), [Fraction(1, 7)])]
    )
    file, trace = ProofFile(F, "1/11"), list[Any]()
    alpha, beta, mu = 0.4, -0.3, 0.7
    tree = {
        "split": file.array([0, -1, 0, -1, -1], "i4"),
        "alpha": file.array([[alpha, alpha]] * 3, "f8"),
        "beta": file.array([[beta, 0.2]] * 3, "f8"),
        "mu": file.array([[mu]] * 3, "f8"),
    }
    layers = [{"rule": "interval", "unstable": file.array([1], "u1")}] * 2
    file.groups.append({"cases": [0], "contexts": [{"layers": layers, "trees": [tree]}]})
    with pytest.raises(Stop, match="closed"):
        check(Proof(file.content(), LIMIT), question.network, question.cases, trace)

    def near(q: Any) -> int:
        return int((Fraction(q) * one + Fraction(1, 2)) // 1)

    def dn(q: Any) -> int:
        return int(Fraction(q) * one // 1)

    def up(n: int) -> int:
        return -(-n >> F)

    def ceil_half(n: int) -> int:
        return -(-n // (2 * one))

    x_lo, x_hi = dn(Fraction(-1, 3)), -dn(Fraction(-4, 11))
    x_size = x_hi
    e1, b1, s1 = near(30.3), near(0.05), ceil_half(x_size + x_size) + 1
    lo1, hi1 = (e1 * x_lo >> F) + b1 - s1, up(e1 * x_hi) + b1 + s1
    assert trace[0] == ([lo1], [hi1]) and lo1 < 0 < hi1
    z1 = hi1
    e2, b2, s2 = near(-7.7), near(0.05), ceil_half(z1 + x_size + z1) + 1
    lo2, hi2 = (e2 * hi1 >> F) + b2 - s2, 0 + b2 + s2
    assert trace[1] == ([lo2], [hi2]) and lo2 < 0 < hi2
    z2 = hi2
    ey, by, sy = near(1.1), near(0.05), ceil_half(z2 + x_size + z1 + z2) + 1
    y = max(abs(by - sy), abs(up(ey * hi2) + by + sy))
    c = near(0.9)
    er, br = (c * ey + half) >> F, near(-Fraction(1, 7) - Fraction(1, 11)) + ((c * by + half) >> F)
    sr = up(c * sy) + ceil_half(y + x_size + z1 + z2) + 1
    m = dn(mu)
    row = (m * er + half) >> F
    start = (((m * br + half) >> F) - (up(m * sr) + ceil_half(x_size + z1 + z2) + 1)) << F
    assert row > 0
    nu2 = dn(alpha) * row >> F
    V2 = start + min(-nu2 * lo2, 0, (row - nu2) * hi2) + nu2 * b2 - nu2 * s2 - (x_size + z1 + 1 >> 1)
    lam_x, lam_1 = 0, (nu2 * e2 + half) >> F
    below = x_size + 1 >> 1
    expected = []
    nu = lam_1 - dn(beta)  # active
    V = V2 + min((lam_1 - nu) * 0, (lam_1 - nu) * hi1) + nu * b1 - abs(nu) * s1 - below
    end = lam_x + ((nu * e1 + half) >> F)
    expected.append(V + min(end * x_lo, end * x_hi))
    nu = lam_1 - dn(beta)  # inactive, then active: zhat is zero
    V = V2 + 0 + nu * b1 - abs(nu) * s1 - below
    end = (nu * e1 + half) >> F
    expected.append(V + min(end * x_lo, end * x_hi))
    nu = dn(beta)  # inactive
    V = V2 + min(-nu * lo1, 0) + nu * b1 - abs(nu) * s1 - below
    end = (nu * e1 + half) >> F
    expected.append(V + min(end * x_lo, end * x_hi))
    assert trace[2] == expected


def test_a_plane_lowers_the_sum_by_its_top() -> None:
    """One neuron whose lambda is negative: pi, R, and what the plane adds to the input's lambda."""
    F, one, half = 16, 1 << 16, 1 << 15
    question = Question(
        chain_of_ones(0.3, -1.0), [Fraction(-1, 2)], [Fraction(1)], [(np.array([[1.0]]), [Fraction(-9)])]
    )
    file, trace = ProofFile(F), list[Any]()
    tree = {"theta": file.array([[0.6, 0.5]], "f8"), "planes": 0}
    planes = [{"neuron": file.array([0, 0], "i4"), "P": file.array([[0.2, 3.0], [0.1, 3.0]], "f8")}]
    layers = [{"rule": "interval"}]
    file.groups.append({"cases": [0], "contexts": [{"layers": layers, "planes": planes, "trees": [tree]}]})
    check(Proof(file.content(), LIMIT), question.network, question.cases, trace)
    (((lo,), (hi,)), (V,)) = trace
    x_lo, x_hi, e, b = -half, one, 19661, 3277  # 0.3 and 0.05
    s = 2  # ceil((A + A) / 2 / 2^F) + 1 with A = 1
    assert (lo, hi) == ((e * x_lo >> F) + b - s, -(-e * x_hi >> F) + b + s)
    sy = -(-(hi + one + hi) // (2 * one)) + 1
    y = max(abs(-hi + b - sy), abs(b + sy))
    sr = sy + -(-(y + one + hi) // (2 * one)) + 1
    total = 9 * one + b - (sr + -(-(one + hi) // (2 * one)) + 1) << F
    lam, acc = -one, 0
    for theta, P in ((39321, 13107), (one // 2, 6554)):  # 0.6 and 0.2; 0.5 and 0.1
        R = max(-(P * x_lo >> F), -(-(e - P) * x_hi >> F) + b + s)
        pi = theta * -lam >> F
        lam, total, acc = lam + pi, total - pi * R, acc - pi * P
    nu = (hi << F) // (hi - lo) * lam >> F
    total += min(-nu * lo, 0, (lam - nu) * hi) + nu * b - abs(nu) * s - (one + 1 >> 1)
    end = (acc + nu * e + half) >> F
    assert V == total + min(end * x_lo, end * x_hi)


@pytest.mark.parametrize("value", [0, 1])
def test_a_leaf_of_value_zero_is_open(value: int, simple: Question, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker.Context, "walk", lambda *_: value)
    file, _ = one_context(simple)
    file.groups[0]["contexts"][0]["layers"] = [{"rule": "interval"}] * 2
    assert accepted(file.content(), simple) == (value > 0)


# What is malformed is refused


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Question, ProofFile]:
    """A folder with a network, a property and a proof, the question and the proof."""
    folder = tmp_path_factory.mktemp("tiny")
    question, _, file = proved(3, 2)
    (folder / "net.onnx").write_bytes(onnx_bytes(question.net))
    (folder / "prop.json").write_bytes(question.document())
    (folder / "a.proof").write_bytes(file.content())
    return folder, question, file


def answer(capsys: pytest.CaptureFixture[str], folder: Path, content: bytes, *options: str) -> tuple[int, str]:
    """The exit status and the line of the command line for a proof's bytes."""
    (folder / "b.proof").write_bytes(content)
    names = [str(folder / name) for name in ("b.proof", "net.onnx", "prop.json")]
    return said(capsys, [*names, f"--threshold=-{10**9}", *options])


def said(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, str]:
    """The exit status and the one line of the command line."""
    status = checker.main(arguments)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(("accepted", "rejected", "unreadable", "cannot check")[status])
    return status, line


def put(value: Any, *keys: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a header: a value at a place."""

    def change(header: dict[str, Any]) -> None:
        part: Any = header
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value

    return change


def drop(*keys: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a header: a key left out."""

    def change(header: dict[str, Any]) -> None:
        part: Any = header
        for key in keys[:-1]:
            part = part[key]
        del part[keys[-1]]

    return change


CONTEXT = ("groups", 0, "contexts", 0)
HEADERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "other format": put("x", "format"),
    "other version": put(2, "version"),
    "true for a version": put(True, "version"),
    "a float for a version": put(1.0, "version"),
    "other semantics": put("float64", "semantics"),
    "few bits": put(15, "bits"),
    "many bits": put(4097, "bits"),
    "bits as a float": put(40.0, "bits"),
    "an unknown key": put(1, "more"),
    "an unknown key of a context": put(1, *CONTEXT, "more"),
    "an unknown key of a tree": put(0, *CONTEXT, "trees", 0, "gamma"),
    "no bits": drop("bits"),
    "no trees": drop(*CONTEXT, "trees"),
    "too few trees": put([], *CONTEXT, "trees"),
    "a tree for nothing": lambda header: header["groups"][0]["contexts"][0]["trees"].append({}),
    "no context": put([], "groups", 0, "contexts"),
    "no groups": put([], "groups"),
    "a group without cases": lambda header: header["groups"].append({"cases": [], "contexts": []}),
    "a case that is not there": put([2], "groups", 0, "cases"),
    "a negative case": put([-1], "groups", 0, "cases"),
    "a case as true": put([True], "groups", 0, "cases"),
    "a case proved twice": put([0, 0], "groups", 0, "cases"),
    "a case of another group": put([1], "groups", 0, "cases"),
    "a tree without places": put(0, "groups", 0, "split"),
    "a negative array": put(-1, *CONTEXT, "trees", 0, "mu"),
    "an array that is not there": put(10**30, *CONTEXT, "trees", 0, "mu"),
    "true for an array": put(True, *CONTEXT, "trees", 0, "mu"),
    "theta alone": put(0, *CONTEXT, "trees", 0, "theta"),
    "planes that are not there": put(7, *CONTEXT, "trees", 0, "planes"),
    "another rule": put([{"rule": "lp"}, {"rule": "crown"}], *CONTEXT, "layers"),
    "too few layers": put([{"rule": "crown"}], *CONTEXT, "layers"),
    "a threshold in decimals": put("0.5x", "threshold"),
    "a threshold over zero": put("1/0", "threshold"),
    "a threshold as a number": put(0, "threshold"),
    "a long threshold": put("1" * 5000, "threshold"),
    "an array of another type": put("f2", "arrays", 0, "dtype"),
    "a negative shape": put([-1, -1], "arrays", 0, "shape"),
    "a huge shape": put([10**40], "arrays", 0, "shape"),
    "a shape of one axis less": lambda header: header["arrays"][-1].update(shape=[0]),
    "files of no text": put({"network": 1}, "files"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_malformed_headers_are_rejected(
    name: str, tiny: tuple[Path, Question, ProofFile], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, file = tiny
    data = b"".join(array.tobytes() for array in file.arrays)
    assert answer(capsys, folder, packed(json.dumps(file.header()).encode(), data))[0] == 0
    header = json.loads(json.dumps(file.header()))
    HEADERS[name](header)
    assert answer(capsys, folder, packed(json.dumps(header).encode(), data))[0] == 1


def test_malformed_bytes_are_rejected(
    tiny: tuple[Path, Question, ProofFile], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, file = tiny
    whole, header = file.content(), json.dumps(file.header())
    data = b"".join(array.tobytes() for array in file.arrays)
    twice = header[:-1] + ', "bits": 40}'
    infinite = header.replace('"bits": ', '"bits": Infinity, "old": ')
    deep = "[" * 100_000 + "]" * 100_000
    packs = [packed(text.encode(), data) for text in (twice, infinite, deep, header + "x", "\ufeff" + header, "[]", "")]
    longer, shorter = packed(header.encode(), data + b"0"), packed(header.encode(), data[:-1])
    bomb = b"MVPROOF1" + zlib_of(bytes(1 << 25))
    for content in (*packs, longer, shorter, bomb, whole + b"0", whole[:-1], whole[1:], b"", b"MVPROOF1", whole[:40]):
        assert answer(capsys, folder, content, f"--limit={1 << 24}")[0] == 1


def zlib_of(content: bytes) -> bytes:
    """A zlib stream."""
    return packed(b"", content)[8:]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_arrays_must_be_finite(value: float, tiny: tuple[Path, Question, ProofFile]) -> None:
    _, question, file = tiny
    arrays = [array.copy() for array in file.arrays]
    next(array for array in arrays if array.dtype.kind == "f").reshape(-1)[0] = value
    assert not accepted(ProofFile(file.bits, file.threshold, file.groups, arrays).content(), question)


TREES = {
    "no list": [],
    "one leaf too many": [-1, -1],
    "one leaf too few": [0, -1],
    "no leaf": [0],
    "a second tree": [0, -1, -1, 0, -1, -1],
    "no such neuron": [10**6, -1, -1],
    "a negative neuron": [-2, -1, -1],
}


@pytest.mark.parametrize("name", TREES)
def test_trees_that_are_none_are_rejected(name: str) -> None:
    with pytest.raises(Stop):
        list(checker.paths(TREES[name], 3))


def test_a_deep_tree_is_walked_without_recursion() -> None:
    depth = 20_000
    assert sum(1 for _ in checker.paths([0] * depth + [-1] * (depth + 1), 1)) == depth + 1


def one_context(question: Question, threshold: str = "0") -> tuple[ProofFile, dict[str, Any]]:
    """A file with one context and nothing listed, and its tree."""
    file, trees = ProofFile(40, threshold), [dict[str, Any]() for _ in question.rows]
    file.groups.append({"cases": list(range(len(trees))), "contexts": [{"trees": trees}]})
    return file, trees[0]


@pytest.fixture(scope="module")
def simple() -> Question:
    """One case of one row that one context proves, with an unstable neuron at least."""
    for seed in itertools.count():
        question = random_question(np.random.default_rng(seed))
        file, _ = one_context(question)
        if len(question.rows[0][1]) == 1 and unstable(question, 40) > 1 and accepted(file.content(), question):
            return question
    raise AssertionError


def test_arrays_of_a_tree_must_have_their_types_and_ranges(simple: Question) -> None:
    n = unstable(simple, 40)
    good = {
        "alpha": (np.ones((1, n)), "u1", True),
        "beta": (np.zeros((1, n)), "f4", True),
        "mu": (np.ones((1, 1)), "f8", True),
        "alpha of integers": (np.ones((1, n)), "i4", False),
        "alpha of a flat shape": (np.ones(n), "f8", False),
        "alpha above one": (np.full((1, n), 1.5), "f8", False),
        "alpha below zero": (np.full((1, n), -1e-30), "f8", False),
        "beta of one column more": (np.zeros((1, n + 1)), "f8", False),
        "mu below zero": (np.full((1, 1), -1.0), "f8", False),
        "mu of zero": (np.zeros((1, 1)), "f8", False),
        "mu of two leaves": (np.ones((2, 1)), "f8", False),
        "split of long integers": (np.array([-1]), "i8", False),
        "split of floats": (np.array([-1.0]), "f8", False),
    }
    for name, (values, dtype, fine) in good.items():
        file, tree = one_context(simple)
        tree[name.split()[0]] = file.array(values, dtype)
        assert accepted(file.content(), simple) == fine, name


def test_a_neuron_that_may_change_its_sign_must_be_listed(simple: Question) -> None:
    sizes = simple.net.sizes
    for listed, fine in ((0, False), (1, True)):
        file, _ = one_context(simple)
        layers = [{"rule": "crown", "unstable": file.array(np.full(size, listed), "u1")} for size in sizes]
        file.groups[0]["contexts"][0]["layers"] = layers
        assert accepted(file.content(), simple) == fine


def test_input_splits_must_lie_in_the_box(simple: Question) -> None:
    low, high = float(simple.lower[0]), float(simple.upper[0])
    for i, t, leaf, fine in (
        (0, (low + high) / 2, 0.0, True),
        (0, low - 1e-6, 0.0, False),
        (0, high + 1e-6, 0.0, False),
        (2, (low + high) / 2, 0.0, False),
        (0, (low + high) / 2, 1.0, False),
    ):
        file, _ = one_context(simple)
        group = file.groups[0]
        group["contexts"] *= 2
        group.update(split=file.array([i, -1, -1], "i4"), at=file.array([t, leaf, 0.0], "f8"))
        assert accepted(file.content(), simple) == fine


def test_cases_of_different_boxes_do_not_share_a_group(simple: Question) -> None:
    lower, upper, C, d = simple.cases[0]
    other = [lower[0] - 1, lower[1]], upper, C, d
    file, _ = one_context(simple)
    file.groups[0].update(cases=[0, 1], contexts=[{"trees": [{}, {}]}])
    proof = Proof(file.content(), LIMIT)
    check(proof, simple.network, [simple.cases[0]] * 2)
    with pytest.raises(Stop, match="boxes"):
        check(proof, simple.network, [simple.cases[0], other])


def test_a_smaller_threshold_does_not_do(
    tiny: tuple[Path, Question, ProofFile], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, file = tiny
    names = [str(folder / name) for name in ("a.proof", "net.onnx", "prop.json")]
    claimed = Fraction(file.threshold)
    for threshold, status in ((claimed, 0), (claimed - 1, 0), (claimed + Fraction(1, 10**9), 1)):
        assert said(capsys, [*names, f"--threshold={threshold}"])[0] == status


# Readers


def same_network(maps: list[checker.Affine], net: Network) -> None:
    """Assert that the checker reads the canonical form of the package."""
    assert len(maps) == len(net.layers) + 1
    for (matrices, bias, _), affine in zip(maps, (*net.layers, net.output), strict=True):
        ((_, op),) = affine.blocks
        factors = op.factors[::-1] if isinstance(op, Product) else (op,)
        assert len(matrices) == len(factors)
        for W, factor in zip(matrices, factors, strict=True):
            dense = factor.dense()
            assert len(W) == len(dense)
            for row, expected in zip(W, dense.tolist(), strict=True):
                assert row == {j: w for j, w in enumerate(expected) if w}
        assert bias == exact_bias(affine).fractions()


READ = """conv plain|conv without bias|conv stride|conv uneven padding|conv dilation|conv groups|conv depthwise|
conv everything|conv kernel_shape given|conv pixel|matmul right|matmul right, vector input|
matmul left, vector input|gemm|gemm without c|
gemm transB|gemm alpha beta|gemm beta zero|add constant|add to scalar|sub constant|sub from constant|relu|relu twice|
flatten|flatten axis 2|flatten axis -1|flatten axis 0|reshape|dropout|dropout, attribute|identity|
constant node"""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operators_are_read_as_the_package_reads_them_or_not_at_all(case: OnnxCase, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(case.model().SerializeToString())
    try:
        maps = checker.read_onnx(memoryview(path.read_bytes()), int(np.prod(case.shape)))[1]
    except (Stop, ValueError) as stop:
        assert isinstance(stop, ValueError) or stop.args[0] in (2, 3)
        assert case.name not in READ.replace("\n", "").split("|")
        return
    assert case.name in READ.replace("\n", "").split("|")
    same_network(maps, mv.from_onnx(path))


NETWORKS = (
    "acasxu/onnx/ACASXU_run2a_1_1_batch_2000.onnx",
    "mnist_fc/onnx/mnist-net_256x2.onnx",
    "rl_benchmarks/onnx/cartpole.onnx",
    "rl_benchmarks/onnx/dubinsrejoin.onnx",
    "reach_prob_density/onnx/robot.onnx",
    "safenlp/onnx/medical/perturbations_0.onnx",
    "tllverifybench/onnx/tllBench_n=2_N=M=8_m=1_instance_0_0.onnx",
    "tllverifybench/onnx/tllBench_n=2_N=M=24_m=1_instance_2_0.onnx.gz",
    "test/test_nano.onnx",
    "test/test_small.onnx",
)


@pytest.mark.parametrize("name", NETWORKS)
def test_published_networks_are_read_as_the_package_reads_them(name: str) -> None:
    path = need(*name.split("/"))
    net = mv.from_onnx(path)
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    n_outputs, maps = checker.read_onnx(memoryview(content), net.n_inputs)
    assert n_outputs == net.n_outputs
    same_network(maps, net)


def test_what_is_no_chain_is_named() -> None:
    path = need("linearizenn", "onnx", "AllInOne_10_10.onnx")
    with pytest.raises(Stop, match=r"Slice \(node '/Slice'\)") as caught:
        checker.read_onnx(memoryview(path.read_bytes()), 4)
    assert caught.value.args[0] == 3


def same_cases(cases: list[checker.Case], prop: mv.Property) -> None:
    """Assert that the checker reads the cases of the package."""
    assert len(cases) == len(prop.cases)
    for (lower, upper, C, d), case in zip(cases, prop.cases, strict=True):
        assert tuple(lower) == tuple(case.region.exact_lower) and tuple(upper) == tuple(case.region.exact_upper)
        assert tuple(d) == case.unsafe.d_exact
        assert [{j: w for j, w in row.items() if w} for row in C] == [
            {j: w for j, w in enumerate(row) if w} for row in case.unsafe.C.tolist()
        ]


PROPERTIES = (
    "acasxu/vnnlib/prop_6.vnnlib",
    "acasxu/vnnlib/prop_2.vnnlib",
    "mnist_fc/vnnlib/prop_0_0.03.vnnlib",
    "rl_benchmarks/vnnlib",
    "safenlp/vnnlib/medical",
    "collins_rul_cnn/vnnlib",
    "tllverifybench/vnnlib",
    "reach_prob_density/vnnlib",
)


@pytest.mark.parametrize("name", PROPERTIES)
def test_published_properties_are_read_as_the_package_reads_them(name: str) -> None:
    path = need(*name.split("/"))
    files = sorted(p for p in path.rglob("*") if p.is_file())[:4] if path.is_dir() else [path]
    for file in files:
        content = file.read_bytes()
        content = gzip.decompress(content) if file.suffix == ".gz" else content
        n, m, cases = checker.read_property(memoryview(content))
        prop = mv.read_vnnlib(file)
        assert (n, m) == (prop.n_inputs, prop.n_outputs)
        same_cases(cases, prop)


ATOMS = [
    "(<= X_0 {})",
    "(>= X_0 {})",
    "(<= {} X_1)",
    "(>= {} X_1)",
    "(<= X_0 X_1)",
    "(>= X_0 X_1)",
    "(<= Y_0 {})",
    "(>= Y_1 {})",
    "(<= Y_0 Y_1)",
    "(>= Y_0 Y_1)",
    "(<= Y_1 Y_1)",
]
constants = st.sampled_from(["0", "1", "-1.5", "+.25", "2.", "1e-1", "-3E+0", "0.1"])
atoms = st.builds(str.format, st.sampled_from(ATOMS), constants)
formulas = st.recursive(
    atoms,
    lambda parts: st.builds(
        lambda word, some: f"({word} {' '.join(some)})",
        st.sampled_from(["and", "or"]),
        st.lists(parts, min_size=1, max_size=3),
    ),
    max_leaves=8,
)


@given(asserted=st.lists(formulas, min_size=1, max_size=3), bounded=st.booleans())
def test_formulas_are_read_as_the_package_reads_them(
    asserted: list[str], bounded: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("vnnlib") / "p.vnnlib"
    text = "".join(f"(declare-const {v} Real) ; a comment\n" for v in ("X_0", "X_1", "Y_0", "Y_1"))
    if bounded:
        asserted = [f"(and (<= X_{i} 2) (>= X_{i} -2.5))" for i in range(2)] + asserted
    path.write_text(text + "".join(f"(assert {f})\n" for f in asserted))
    try:
        prop = mv.read_vnnlib(path)
    except MilpverifyError:
        with pytest.raises((Stop, ValueError)):
            checker.read_property(memoryview(path.read_bytes()))
        return
    same_cases(checker.read_property(memoryview(path.read_bytes()))[2], prop)


REGIONS = {
    "box": mv.Box([0.1, -2.0], [0.3, 5.0]),
    "box of decimals": mv.Box.of_fractions([Fraction(1, 10), Fraction(-1, 3)], [Fraction(1, 5), Fraction(0)]),
    "ball": mv.LinfBall([0.1, 0.7], 0.3),
    "clipped ball": mv.LinfBall([0.1, 0.7], 0.45, clip=(0, 1)),
    "half clipped ball": mv.LinfBall([0.1, 0.7], 0.45, clip=([0.0, -np.inf], [np.inf, 1.0])),
    "box with a cut": mv.Box([0.0, 0.0], [1.0, 1.0]).with_cuts([[1.0, 1.0]], [1.5]),
}


@pytest.mark.parametrize("name", REGIONS)
def test_saved_properties_are_read_as_the_package_reads_them(name: str, tmp_path: Path) -> None:
    from milpverify.spec.property import Polyhedron

    unsafe = Polyhedron(np.array([[1.0, -1.0], [0.0, 0.5]]), np.zeros(2), (Fraction(1, 3), Fraction(-2)))
    prop = mv.Property((mv.Case(REGIONS[name], unsafe), mv.Case(REGIONS["box"], unsafe, "b")), 2, 2, "p", 1)
    path = tmp_path / "p.json"
    prop.save(path)
    assert checker.read_property(memoryview(path.read_bytes()))[:2] == (2, 2)
    same_cases(checker.read_property(memoryview(path.read_bytes()))[2], mv.load_property(path))


def test_other_balls_are_refused(tmp_path: Path) -> None:
    from milpverify.spec.property import Polyhedron

    unsafe = Polyhedron(np.array([[1.0]]), np.zeros(1))
    mv.Property((mv.Case(mv.L1Ball([0.1], 0.3), unsafe),), 1, 1).save(tmp_path / "p.json")
    with pytest.raises(Stop, match="L1Ball") as caught:
        checker.read_property(memoryview((tmp_path / "p.json").read_bytes()))
    assert caught.value.args[0] == 3


# The command line


@given(seed=seeds)
def test_damaged_files_get_one_line(
    seed: int, tiny: tuple[Path, Question, ProofFile], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, _, file = tiny
    rng = np.random.default_rng(seed)
    names = ["a.proof", "net.onnx", "prop.json"]
    target = tmp_path_factory.mktemp("damaged")
    for _ in range(8):
        contents = [(folder / name).read_bytes() for name in names]
        which = int(rng.integers(4))
        if which == 3:
            contents[0] = changed(file, rng)
        else:
            contents[which] = damaged(contents[which], rng)
        for name, content in zip(names, contents, strict=True):
            (target / name).write_bytes(content)
        done = checker.main([*(str(target / name) for name in names), f"--threshold={file.threshold}", "--limit=99999"])
        assert done in (0, 1, 2, 3)
        assert which in (1, 2) or done < 2


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes with some changed, left out or doubled."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        i, k = (int(v) for v in rng.integers(len(data), size=2))
        kind = rng.integers(3)
        if kind == 0:
            data[i] = int(rng.integers(256))
        elif kind == 1:
            del data[i : i + k % 9]
        else:
            data[i:i] = data[k : k + 9]
    return bytes(data)


def test_unreadable_files_are_named(
    tiny: tuple[Path, Question, ProofFile], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, question, _ = tiny
    good = [str(folder / name) for name in ("a.proof", "net.onnx", "prop.json")]
    for i in range(3):
        missing = [str(tmp_path / "nothing") if k == i else name for k, name in enumerate(good)]
        status, line = said(capsys, missing)
        assert status == 2 and "nothing" in line
    squeezed = tmp_path / "net.onnx.gz"
    squeezed.write_bytes(gzip.compress(onnx_bytes(question.net)))
    assert said(capsys, [good[0], str(squeezed), good[2], f"--threshold=-{10**9}"])[0] == 0
    assert said(capsys, [good[0], str(squeezed), good[2], "--limit=100"])[0] == 2
    with pytest.raises(SystemExit) as stopped:
        checker.main(good[:2])
    assert stopped.value.code == 2


def test_a_copied_checker_runs_alone(tiny: tuple[Path, Question, ProofFile], tmp_path: Path) -> None:
    folder, _, file = tiny
    shutil.copy(checker.__file__, tmp_path / "copied.py")
    names = [str(folder / name) for name in ("a.proof", "net.onnx", "prop.json")]
    command = [sys.executable, "-I", str(tmp_path / "copied.py"), *names, f"--threshold={file.threshold}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("accepted") and not done.stderr


def test_the_checker_imports_the_standard_library_only() -> None:
    tree = ast.parse(Path(checker.__file__).read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported <= set(sys.stdlib_module_names) | {"__future__"}

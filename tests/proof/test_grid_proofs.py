"""Proofs about the points of a grid: three checkers, brute force, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import milpverify as mv
from milpverify.network.exact import forward_exact
from milpverify.proof import checker
from milpverify.proof.certificate import Certificate, Context, Group, LeafTree, from_bytes
from milpverify.proof.exact import GridCut, check_exact, input_boxes
from milpverify.search.box_proof import BoxProver
from milpverify.search.leaf_trees import LeafTrees
from tests.cases import bias, chain, weights
from tests.grids import STEPS, grid_points, least_slack
from tests.proof import literal
from tests.proof.float32_cases import dense, executions, in_float32, onnx_bytes

LIMIT = 1 << 24
GRID = mv.Grid(STEPS)
SPLITS = mv.Prover(boxes=BoxProver(trees=LeafTrees(neurons=0)))  # no trees over phases in boxes: more boxes


def question(seed: int) -> tuple[mv.Network, mv.Property]:
    """A chain of float32 numbers and the claim y_1 < y_0 over a box of real numbers."""
    rng = np.random.default_rng(seed)
    net = in_float32(chain(rng))
    net = replace(net, input_shape=(1, net.n_inputs), output_shape=(1, net.n_outputs))
    lower = np.round(rng.normal(size=net.n_inputs) * 8) / 8 - 0.75
    box = mv.Box(lower, lower + np.round(rng.uniform(0.8, 1.9, net.n_inputs) * 8) / 8)
    row = np.zeros((1, net.n_outputs))
    row[0, :2] = 1.0, -1.0
    case = mv.Case(box, mv.Polyhedron(row, np.zeros(1)), "y_0 <= y_1")
    return net, mv.Property((case,), net.n_inputs, net.n_outputs)


def between(net: mv.Network, real: mv.Property) -> tuple[Fraction, Fraction]:
    """A threshold just below the least slack of the grid points, and that slack."""
    least = least_slack(net, real.on_grid(GRID).cases[0])
    return least - Fraction(1, 1000), least


def files(tmp_path: Path, net: mv.Network, real: mv.Property, certificate: Certificate) -> list[str]:
    """Proof, network and property as the stand-alone checker reads them."""
    paths = [tmp_path / name for name in ("a.proof", "a.onnx", "a.vnnlib")]
    certificate.write(paths[0])
    paths[1].write_bytes(onnx_bytes(net))
    real.save(paths[2])
    return [str(path) for path in paths]


@pytest.mark.parametrize("prover", [mv.Prover(), SPLITS], ids=["any", "splits"])
@pytest.mark.parametrize("semantics", ["real", "float32"])
@pytest.mark.parametrize("seed", [1, 4, 7])
def test_what_is_proved_of_a_grid_is_true_and_three_checkers_get_the_same_integers(
    seed: int, semantics: str, prover: mv.Prover, tmp_path: Path
) -> None:
    net, real = question(seed)
    threshold, least = between(net, real)
    prop = real.on_grid(GRID)
    found = mv.certify(net, prop, threshold=threshold, semantics=semantics, prover=prover, time_limit_s=30)
    assert found.proof is not None, found.reason
    certificate = from_bytes(found.proof.certificate.to_bytes())
    assert certificate.grid == STEPS
    assert mv.certify(net, prop, threshold=least, semantics=semantics, time_limit_s=10).proof is None
    result = check_exact(certificate, net, prop, threshold, trace=True)
    assert result.accepted, result.reason

    paths = files(tmp_path, net, real, certificate)
    assert checker.main([*paths, f"--threshold={threshold}", f"--grid={STEPS}"]) == 0
    n, _, cases = checker.read_property(checker.load(paths[2], LIMIT))
    _, network = checker.read_onnx(checker.load(paths[1], LIMIT), n)
    trace: list[object] = []
    checker.check(checker.Proof(Path(paths[0]).read_bytes(), LIMIT), network, cases, trace, STEPS)
    same = []
    for context in result.trace:
        same += [*zip(context.lower, context.upper, strict=True), *context.values]
    assert [tuple(part) if isinstance(part, tuple) else part for part in trace] == same
    literally = literal.check(certificate, net, real)  # of the box as it was, not as the package has rounded it
    assert literally == [(c.lower, c.upper, c.values, c.claims) for c in result.trace]


def test_some_of_these_claims_are_false_of_real_inputs() -> None:
    count = 0
    for seed in range(5):
        net, real = question(seed)
        threshold, _ = between(net, real)
        count += mv.worst_margin(net, real).upper < threshold
    assert count >= 2


def test_a_proof_is_refused_for_other_inputs_than_it_was_made_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, real = question(0)
    threshold, _ = between(net, real)
    on_grid = mv.certify(net, real.on_grid(GRID), threshold=threshold).proof
    everywhere = mv.certify(net, real, threshold=Fraction(mv.worst_margin(net, real).lower) - 1).proof
    assert on_grid is not None and everywhere is not None
    paths = files(tmp_path, net, real, on_grid.certificate)
    for options in ([], ["--grid=255"]):
        assert checker.main([*paths, f"--threshold={threshold}", *options]) == 1
        assert f"--grid {STEPS}" in capsys.readouterr().out
    for steps in ("0", "-3", "65536", "99999999999"):
        assert checker.main([*paths, f"--grid={steps}"]) == 2
    result = check_exact(on_grid.certificate, net, real, threshold)
    assert not result.accepted and f"--grid {STEPS}" in result.reason
    everywhere.certificate.write(paths[0])
    asked = f"--threshold={everywhere.certificate.threshold}"
    assert checker.main([*paths, asked]) == 0
    assert checker.main([*paths, asked, f"--grid={STEPS}"]) == 1
    assert not check_exact(everywhere.certificate, net, real.on_grid(GRID), everywhere.certificate.threshold).accepted


def test_a_grid_written_into_a_proof_of_real_inputs_does_not_make_it_one_of_a_grid() -> None:
    net, real = question(1)
    threshold = Fraction(mv.worst_margin(net, real).lower) - Fraction(1, 10)
    proof = mv.certify(net, real, threshold=threshold).proof
    assert proof is not None
    assert not check_exact(replace(proof.certificate, grid=STEPS), net, real, threshold).accepted
    assert not check_exact(replace(proof.certificate, grid=-STEPS), net, real, threshold).accepted


@pytest.mark.parametrize("float32", [False, True])
@pytest.mark.parametrize("bits", [17, 40, 200])
@pytest.mark.parametrize("steps", [1, 3, 255, 65535])
def test_the_sides_of_a_split_hold_every_grid_point_of_the_box(steps: int, bits: int, float32: bool) -> None:
    rng = np.random.default_rng(steps + bits)
    low = int(rng.integers(-3 * steps, 2 * steps))
    indices = range(low, low + 7)
    region = mv.Box.of_fractions([Fraction(low, steps)], [Fraction(low + 6, steps)]).with_grid(mv.Grid(steps))
    sides = literal.Literal(bits, float32, steps).box(region)
    cut = GridCut(steps, bits, float32)
    contexts = (Context((LeafTree(),)),) * 2
    for at in (*(k / steps for k in indices[1:-1]), *((k + 0.5) / steps for k in indices[:-1])):
        group = Group((0,), contexts, np.array([0, -1, -1], dtype=np.int32), np.array([at, 0.0, 0.0]))
        boxes = input_boxes(group, *sides, bits, "", cut)
        for k in indices:
            value = Fraction(k, steps)
            near = {value} if not float32 else {literal.single(value), -literal.single(-value)}
            for x in near:
                assert any(Fraction(l[0], 2**bits) <= x <= Fraction(u[0], 2**bits) for l, u in boxes), (at, k)


def test_a_split_beside_all_grid_points_is_refused_by_both_checkers(tmp_path: Path) -> None:
    net = dense(([[1.0]], [0.0]), ([[1.0], [-1.0]], [3.0, 0.0]))
    case = mv.Case(mv.Box([0.0], [1.25]), mv.Polyhedron([[1.0, -1.0]], [0.0]))
    real = mv.Property((case,), 1, 2)
    proof = mv.certify(net, real.on_grid(mv.Grid(1))).proof
    assert proof is not None
    group = proof.certificate.groups[0]
    for at, accepted in ((0.5, True), (0.0, True), (1.0, True), (-0.25, False), (1.25, False)):
        split = replace(
            group, contexts=group.contexts * 2, split=np.array([0, -1, -1], dtype=np.int32),
            at=np.array([at, 0.0, 0.0]),
        )  # fmt: skip
        certificate = replace(proof.certificate, groups=(split,))
        assert check_exact(certificate, net, real.on_grid(mv.Grid(1))).accepted is accepted
        assert checker.main([*files(tmp_path, net, real, certificate), "--grid=1"]) == 1 - accepted


def test_a_box_without_a_grid_point_is_an_error(tmp_path: Path) -> None:
    net, real = question(0)
    proof = mv.certify(net, real.on_grid(GRID), threshold=between(net, real)[0]).proof
    assert proof is not None
    region = real.cases[0].region
    hollow = mv.Box([0.4, *region.lower[1:]], [0.6, *region.upper[1:]])
    empty = replace(real, cases=(replace(real.cases[0], region=hollow),))
    paths = files(tmp_path, net, real, proof.certificate)
    empty.save(tmp_path / "empty.json")
    assert checker.main([paths[0], paths[1], str(tmp_path / "empty.json"), f"--grid={STEPS}"]) == 2


def test_a_float32_proof_covers_every_execution_at_either_rounding_of_grid_points() -> None:
    rng = np.random.default_rng(5)
    net = in_float32(dense((weights(rng, 4, 2).matrix, bias(rng, 4)), (weights(rng, 2, 4).matrix, bias(rng, 2))))
    box = mv.Box(np.array([0.1, -0.3]), np.array([0.9, 0.5])).with_grid(GRID)
    prop = mv.Property((mv.Case(box, mv.Polyhedron([[1.0, -1.0]], [0.0])),), 2, 2)
    threshold = least_slack(net, prop.cases[0]) - Fraction(1, 1000)
    assert mv.certify(net, prop, threshold=threshold, semantics="float32").proof is not None
    for point in grid_points(box):
        assert prop.cases[0].unsafe.slack_exact(forward_exact(net, point)) > threshold
        for up in np.ndindex(2, 2):
            x = np.array(
                [float(-literal.single(-q) if u else literal.single(q)) for q, u in zip(point, up, strict=True)]
            )
            for execution in executions(rng):
                y = execution.values(net, x)[1].tolist()
                assert Fraction(y[0]) - Fraction(y[1]) > threshold


def test_moved_splits_never_prove_what_is_false_and_both_checkers_agree_about_them(tmp_path: Path) -> None:
    rng, tried, refused = np.random.default_rng(0), 0, 0
    for seed in range(8):
        net, real = question(seed)
        threshold, least = between(net, real)
        prop = real.on_grid(GRID)
        proof = mv.certify(net, prop, threshold=threshold, prover=SPLITS).proof
        assert proof is not None
        group = proof.certificate.groups[0]
        if group.split is None or group.at is None:
            continue
        paths = files(tmp_path, net, real, proof.certificate)
        n, _, cases = checker.read_property(checker.load(paths[2], LIMIT))
        _, network = checker.read_onnx(checker.load(paths[1], LIMIT), n)
        for _ in range(12):
            moves = rng.choice([-1, -0.5, 0.5, 1], len(group.at)) * (rng.random(len(group.at)) < 0.3) / STEPS
            at = np.where(group.split >= 0, group.at + moves, 0.0)
            moved = replace(proof.certificate, groups=(replace(group, at=at),))
            answers = []
            for claim in (moved, replace(moved, threshold=least)):
                accepted = check_exact(claim, net, prop, claim.threshold).accepted
                try:
                    checker.check(checker.Proof(claim.to_bytes(), LIMIT), network, cases, steps=STEPS)
                except checker.Stop:
                    assert not accepted
                else:
                    assert accepted
                answers.append(accepted)
            assert not answers[1]
            tried, refused = tried + 1, refused + (not answers[0])
    assert 0 < refused < tried

"""Replay: exact arithmetic decides, floats are only reported, and nothing outside the region is a witness."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_cases import brute_forward, case, chain, wild_network

from milpverify.errors import NetworkError
from milpverify.network.exact import forward_exact
from milpverify.proof.replay import competition_text, confirm, into_region, replay
from milpverify.spec.property import Case, Polyhedron
from milpverify.spec.regions import Box, L1Ball, L2Ball, LinfBall

IDENTITY = chain(([[1.0]], [0.0]))
UNIT = Box(np.zeros(1), np.ones(1))
BIG = 2.0**54


@settings(deadline=None, derandomize=True, max_examples=60)
@given(seed=st.integers(0, 10**6), x=st.lists(st.fractions(-3, 3), min_size=2, max_size=2))
def test_forward_exact_equals_an_evaluation_in_fractions(seed: int, x: list[Fraction]) -> None:
    net = wild_network(seed)
    assert list(forward_exact(net, x)) == brute_forward(net, x)


@settings(deadline=None, derandomize=True, max_examples=120)
@given(
    seed=st.integers(0, 10**6),
    x=st.lists(st.floats(-1.25, 1.25), min_size=2, max_size=2),
    shift=st.sampled_from([Fraction(0), Fraction(1, 2**70), -Fraction(1, 2**70)]),
)
def test_confirmed_means_inside_and_violating_whatever_floats_say(seed: int, x: list[float], shift: Fraction) -> None:
    # The threshold lies within 2^-70 of the output, far below what float64 resolves.
    net, row = wild_network(seed), np.array([1.0, -1.0])
    y = brute_forward(net, x)
    threshold = y[0] - y[1] + shift
    one = Case(Box(-np.ones(2), np.ones(2)), Polyhedron(row[None], np.array([float(threshold)]), (threshold,)), "near")
    report = replay(net, one, x)
    assert report.slack_exact == -shift
    assert report.in_region == all(-1 <= Fraction(v) <= 1 for v in x)
    assert report.confirmed == (report.in_region and shift >= 0)
    assert (confirm(net, one, x) is not None) <= (shift >= 0 or not report.in_region)


def test_a_lost_addend_fools_floats_and_not_the_replay() -> None:
    # y = relu(x + 2^54) - 2^54 is x, but float64 and float32 both say 0.
    net = chain(([[1.0]], [BIG]), ([[1.0]], [-BIG]))
    claims_violation = replay(net, case(UNIT, [[1.0]], [0.25]), [0.5])
    assert claims_violation.violates_float64 and claims_violation.violates_float32
    assert claims_violation.slack_exact == Fraction(1, 4)
    assert not claims_violation.confirmed
    assert confirm(net, case(UNIT, [[1.0]], [0.25]), [0.5]) is None
    misses_violation = replay(net, case(UNIT, [[-1.0]], [-0.25]), [0.5])
    assert not misses_violation.violates_float64 and not misses_violation.violates_float32
    assert misses_violation.confirmed and misses_violation.slack_exact == Fraction(-1, 4)


def test_a_tie_is_a_violation_and_a_hair_above_is_not() -> None:
    assert replay(IDENTITY, case(UNIT, [[1.0]], [0.5]), [0.5]).confirmed
    above = replay(IDENTITY, case(UNIT, [[1.0]], [0.5]), [np.nextafter(0.5, 1.0)])
    assert not above.confirmed and not above.violates_float64


def test_every_row_must_be_met() -> None:
    net = chain((np.eye(2).tolist(), [0.0, 0.0]))
    one = case(Box(np.zeros(2), np.ones(2)), [[1, 0], [0, 1]], [0.5, 0.5])
    assert replay(net, one, [0.5, 0.4]).confirmed
    assert not replay(net, one, [0.4, 0.6]).confirmed


def test_a_point_one_ulp_outside_is_no_witness_until_it_is_moved_inside() -> None:
    outside = np.nextafter(1.0, 2.0)
    one = case(UNIT, [[-1.0]], [-1.0])
    assert not replay(IDENTITY, one, [outside]).in_region
    assert not replay(IDENTITY, one, [outside]).confirmed
    moved = confirm(IDENTITY, one, [outside])
    assert moved is not None and moved.x.tolist() == [1.0] and moved.y.tolist() == [1.0]


def test_a_coordinate_fixed_to_a_decimal_is_replayed_as_the_decimal() -> None:
    tenth = Fraction(1, 10)
    region = Box.of_fractions((tenth, Fraction(0)), (tenth, Fraction(1)))
    net = chain(([[1.0, 0.0]], [0.0]))
    # float(1/10) exceeds 1/10, so only the decimal itself meets y <= 1/10.
    one = Case(region, Polyhedron(np.array([[1.0]]), np.array([0.1]), (tenth,)), "decimal")
    report = replay(net, one, [0.1, 0.5])
    assert report.in_region and report.slack_exact == 0 and report.fixed == (0,)
    assert any("no floats" in note for note in report.notes)
    found = confirm(net, one, [0.7, 0.5])
    assert found is not None and found.x.tolist() == [0.1, 0.5]
    assert not replay(net, one, [np.nextafter(0.1, 1.0), 0.5]).in_region
    assert "(X_0 0.1)" in competition_text(found)


def test_a_decimal_bound_is_not_stretched_to_its_nearest_float() -> None:
    # float(1/10) > 1/10 is outside [0, 1/10] but inside [1/10, 1].
    tenth = Fraction(1, 10)
    below, above = Box.of_fractions((Fraction(0),), (tenth,)), Box.of_fractions((tenth,), (Fraction(1),))
    assert not replay(IDENTITY, case(below, [[1.0]], [1.0]), [0.1]).in_region
    assert replay(IDENTITY, case(above, [[1.0]], [1.0]), [0.1]).in_region
    assert confirm(IDENTITY, case(below, [[1.0]], [1.0]), [0.1]).x[0] == np.nextafter(0.1, 0.0)  # type: ignore[union-attr]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    ball=st.sampled_from([LinfBall, L1Ball, L2Ball]),
    clip=st.sampled_from([None, (0.0, 1.0)]),
    dtype=st.sampled_from([np.float64, np.float32]),
)
def test_points_moved_into_a_ball_are_exactly_inside(
    seed: int, ball: type[LinfBall], clip: tuple[float, float] | None, dtype: type[np.floating]
) -> None:
    rng = np.random.default_rng(seed)
    centre, eps = rng.random(6), float(rng.choice([0.01, 0.1, 0.5]))
    region = ball(centre, eps, clip=clip)
    x = centre + 3 * eps * rng.normal(size=6)
    inside = into_region(region, x, dtype)
    assert inside is not None and inside.dtype == dtype
    gaps = [abs(Fraction(float(a)) - Fraction(float(b))) for a, b in zip(inside, centre, strict=True)]
    size = {LinfBall: max(gaps), L1Ball: sum(gaps), L2Ball: sum(g * g for g in gaps)}[ball]
    assert size <= (Fraction(eps) ** 2 if ball is L2Ball else Fraction(eps))
    if clip is not None:
        assert (inside >= 0).all() and (inside <= 1).all()
    assert np.abs(inside - region.project(x)).max() <= 1e-4 * eps + 1e-6


@pytest.mark.parametrize(("low", "high", "x"), [(0.0, 0.3, 0.3), (0.7, 1.0, 0.7)])
def test_the_float32_replay_runs_at_the_nearest_point_inside_the_region(low: float, high: float, x: float) -> None:
    # The float32 nearest to 0.3 lies above 0.3, the one nearest to 0.7 below 0.7.
    region = Box(np.array([low]), np.array([high]))
    assert not low <= float(np.float32(x)) <= high
    report = replay(IDENTITY, case(region, [[-1.0]], [0.0]), [x])
    assert -report.slack_float32 == float(np.nextafter(np.float32(x), np.float32((low + high) / 2)))
    assert report.notes == ()


def test_the_only_float32_point_of_a_region_is_found() -> None:
    only = float(np.nextafter(np.float32(0.7), np.float32(1.0)))
    inside = into_region(Box(np.array([0.7]), np.array([only])), np.array([0.7]), np.float32)
    assert inside is not None and inside.tolist() == [only]


def test_a_region_without_float32_points_is_reported() -> None:
    region = Box(np.array([0.3]), np.array([np.nextafter(0.3, 1.0)]))
    report = replay(IDENTITY, case(region, [[1.0]], [1.0]), [0.3])
    assert report.confirmed
    assert any("float32" in note for note in report.notes)


def test_the_confirmed_point_is_the_one_reported() -> None:
    net = wild_network(11)
    region = L2Ball(np.array([0.3, -0.2]), 0.4)
    one = case(region, [[1.0, 0.0]], [1e40])
    found = confirm(net, one, [5.0, 5.0])
    assert found is not None and found.case == "case"
    assert region.contains(found.x)
    np.testing.assert_array_equal(found.y, net.forward(found.x))
    again = replay(net, one, found.x)
    assert again.slack_exact == found.replay.slack_exact


def test_an_output_that_overflows_is_no_violation_in_floats() -> None:
    net = chain(([[1e308], [1e308]], [0.0, 0.0]), ([[1e308, -1e308]], [0.0]))
    report = replay(net, case(UNIT, [[1.0]], [0.0]), [1.0])
    assert report.confirmed and report.slack_exact == 0  # inf - inf in float64, zero in truth
    assert not report.violates_float64 and not report.violates_float32
    assert report.to_dict()["slack_float64"] is None


def test_a_case_without_rows_is_violated_by_any_point() -> None:
    free = Case(UNIT, Polyhedron(np.zeros((0, 1)), np.zeros(0)), "free")
    assert replay(IDENTITY, free, [0.5]).confirmed
    assert not replay(IDENTITY, free, [1.5]).confirmed


def test_an_input_that_does_not_fit_is_refused() -> None:
    for x in ([0.5, 0.5], [float("nan")]):
        with pytest.raises(NetworkError, match="input"):
            replay(IDENTITY, case(UNIT, [[1.0]], [0.0]), x)


def test_competition_text_reads_back_to_the_same_floats() -> None:
    net = chain(([[1.0, 2.0], [0.0, 1.0]], [0.1, 0.0]))
    one = case(Box(np.zeros(2), np.ones(2)), [[1.0, 0.0]], [10.0])
    found = confirm(net, one, [1 / 3, 2 / 3])
    assert found is not None
    text = competition_text(found)
    assert text.startswith("((X_0 ") and text.endswith("))") and text.count("(") == text.count(")") == 5
    values = dict(line.strip("()").split() for line in text.splitlines())
    assert [float(values[f"X_{i}"]) for i in range(2)] == found.x.tolist()
    assert [float(values[f"Y_{i}"]) for i in range(2)] == found.y.tolist()


@pytest.mark.parametrize("suffix", [".onnx", ".onnx.gz"])
def test_onnxruntime_replays_the_file(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("onnxruntime")
    path = _write_onnx(tmp_path / f"net{suffix}", weight=3.0)
    report = replay(chain(([[3.0]], [0.0])), case(UNIT, [[1.0]], [1.0]), [0.25], onnx_path=path)
    assert report.violates_onnxruntime is True and report.slack_onnxruntime == -0.25
    other = replay(chain(([[3.0]], [0.0])), case(UNIT, [[1.0]], [0.5]), [0.25], onnx_path=path)
    assert other.violates_onnxruntime is False


def test_a_file_that_cannot_run_leaves_a_note_and_no_answer(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    report = replay(IDENTITY, case(UNIT, [[1.0]], [1.0]), [0.25], onnx_path=broken)
    assert report.violates_onnxruntime is None and report.confirmed
    assert any("onnxruntime" in note for note in report.notes)


def _write_onnx(path: Path, weight: float) -> Path:
    onnx = pytest.importorskip("onnx")
    import gzip

    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", kind, [1])],
        [helper.make_tensor_value_info("y", kind, [1])],
        [helper.make_tensor("w", kind, [1, 1], [weight])],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path

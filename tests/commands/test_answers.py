"""The command line's answers: on a network that can be worked out by hand (tests/tiny.py), and on published data."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import pytest

from milpverify.cli import main
from tests.paths import mnist, need
from tests.tiny import write_input, write_network, write_property


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """NET --input FILE with x = 1."""
    return [write_network(tmp_path / "tiny.onnx"), "--input", write_input(tmp_path / "x.npy", 1.0)]


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    """Run a command with --json: the whole of standard output is one object."""
    assert main([*arguments, "--json"]) == status
    out, err = capsys.readouterr()
    assert err == ""
    answer: dict[str, Any] = json.loads(out)
    assert answer["exit_status"] == status and answer["command"] == arguments[0]
    return answer


@pytest.mark.parametrize(("eps", "word"), [("0.25", "unsat"), ("0.4999", "unsat"), ("0.5001", "sat"), ("3", "sat")])
@pytest.mark.parametrize("norm", ["linf", "l1", "l2"])
def test_verify_holds_exactly_below_the_distance_to_the_tie(
    capsys: pytest.CaptureFixture[str], tiny: list[str], eps: str, word: str, norm: str
) -> None:
    result = ask(capsys, "verify", *tiny, "--label", "0", "--eps", eps, "--norm", norm)["result"]
    assert result["word"] == word
    if word == "sat":
        assert abs(result["witness"]["x"][0] - 1) <= float(eps) and result["witness"]["x"][0] <= 0.5
        assert result["witness"]["replay"]["confirmed"] is True


def test_a_ball_that_just_touches_the_tie_is_violated(capsys: pytest.CaptureFixture[str], tiny: list[str]) -> None:
    result = ask(capsys, "verify", *tiny, "--label", "0", "--eps", "0.5")["result"]
    assert result["word"] == "sat" and result["witness"]["x"] == [0.5]
    assert result["witness"]["replay"]["slack_exact"] == "0"


@pytest.mark.parametrize(("eps", "margin"), [("0.25", 0.5), ("0.5", 0.0), ("0.75", -0.5), ("4", -1.0)])
def test_the_margin_is_the_hand_derived_one(
    capsys: pytest.CaptureFixture[str], tiny: list[str], eps: str, margin: float
) -> None:
    result = ask(capsys, "margin", *tiny, "--label", "0", "--eps", eps)["result"]
    assert result["lower"] <= margin + 1e-9 and result["upper"] >= margin - 1e-9
    assert result["gap"] <= 1e-5


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_the_minimum_epsilon_is_the_hand_derived_one(
    capsys: pytest.CaptureFixture[str], tiny: list[str], norm: str
) -> None:
    result = ask(capsys, "epsilon", *tiny, "--label", "0", "--eps-max", "2", "--norm", norm)["result"]
    assert result["lower"] <= 0.5 <= result["upper"] + 1e-9
    assert result["gap"] <= 1e-5


def test_no_adversarial_example_within_eps_max_is_an_answer(
    capsys: pytest.CaptureFixture[str], tiny: list[str]
) -> None:
    result = ask(capsys, "epsilon", *tiny, "--label", "0", "--eps-max", "0.25")["result"]
    assert (result["lower"], result["upper"], result["witness"]) == (0.25, None, None)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_no_adversarial_example_in_the_whole_clip_is_an_answer(
    capsys: pytest.CaptureFixture[str], tiny: list[str], norm: str
) -> None:
    # The tie at 1/2 lies outside of the clip, whose farthest corner from 1 is 2.
    question = ["epsilon", *tiny, "--label", "0", "--clip", "0.75", "2", "--norm", norm]
    result = ask(capsys, *question)["result"]
    assert result["lower"] >= 1 and result["upper"] is None
    assert main(question) == 0
    assert "no input within the clip is classified otherwise" in capsys.readouterr().out


def test_eps_may_be_a_quotient(capsys: pytest.CaptureFixture[str], tiny: list[str]) -> None:
    for eps, word in (("127/255", "unsat"), ("128/255", "sat")):
        answer = ask(capsys, "verify", *tiny, "--label", "0", "--eps", eps)
        assert answer["result"]["word"] == word and answer["question"]["eps"] == int(eps[:3]) / 255


def test_a_margin_below_the_tolerance_of_large_neurons_is_open(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from milpverify.cli import parse
    from milpverify.commands.measure import _conclude
    from milpverify.commands.question import ask as read_question
    from milpverify.formulation.property_program import stack_rows
    from milpverify.proof.evidence import Bracket, Grade
    from milpverify.report.screen import PlainScreen
    from milpverify.search.milp import MILP, case_program
    from milpverify.tasks.margin import LeastSlack
    from milpverify.tasks.prepare import prepare

    # x in [-2, 4] makes zhat as large as 4e6.
    net = write_network(tmp_path / "large.onnx", weight=1e6)
    args = parse(["margin", net, "--input", write_input(tmp_path / "x.npy", 1.0), "--eps", "3"])
    question, search = read_question(args, args.files), MILP()
    prepared = prepare(question.net, question.one_property().cases)
    stacked = stack_rows(question.net, prepared.bounds, prepared.cases)
    needed = search.needed(case_program(stacked, prepared.region, 0, search.encoding), prepared.bounds)
    for lower, grade, told in (
        (30.0, Grade.SOLVER_TRUSTED, "open: a MILP solver cannot tell a margin below 40 from 0"),
        (41.0, Grade.SOLVER_TRUSTED, "robust"),
        (30.0, Grade.BOUND_ROUNDED, "robust"),
    ):
        bracket = Bracket(lower, 50.0, grade, Grade.REPLAYED)
        _conclude(PlainScreen(sys.stdout), question, LeastSlack(bracket, needed))
        assert capsys.readouterr().out.startswith(told)


def test_raw_bytes_are_remarked_on_unless_the_clip_shows_their_units() -> None:
    from milpverify.commands.inputs import Point

    x = np.arange(64.0)
    for values, clip, remarked in ((x, None, True), (x, (0, 255), False), (x / 63, None, False), (x - 1, None, False)):
        point = Point(values, 0, 0, True, True, clip)
        assert (point.remarks != ()) is remarked


def test_output_ranges_that_ran_out_of_time_say_so(
    capsys: pytest.CaptureFixture[str], tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import milpverify.tasks.ranges as ranges
    from milpverify.proof.evidence import Bracket, Grade

    late = Bracket(0.0, 1.0, Grade.BOUND_ROUNDED, Grade.REPLAYED, "y", timed_out=True)
    monkeypatch.setattr(ranges, "output_range", lambda *_a, **_k: (ranges.OutputRange("y0", late, late),))
    assert main(["range", *tiny, "--eps", "0.25"]) == 1
    assert "time ran out with 2 of 2 brackets open" in capsys.readouterr().out


def test_output_ranges_and_reachable_classes_are_the_hand_derived_ones(
    capsys: pytest.CaptureFixture[str], tiny: list[str]
) -> None:
    first, second = ask(capsys, "range", *tiny, "--eps", "0.25")["result"]["ranges"]
    for bracket, value in ((first["minimum"], 0.75), (first["maximum"], 1.25), (second["maximum"], 0.25)):
        assert bracket["lower"] - 1e-9 <= value <= bracket["upper"] + 1e-9 and bracket["gap"] <= 1e-5
    for eps, reached in (("0.25", [True, False]), ("0.75", [True, True])):
        classes = ask(capsys, "range", *tiny, "--eps", eps, "--classes")["result"]["classes"]
        assert [entry["reachable"] for entry in classes] == reached


def test_detect_counts_everything_as_possible_that_another_label_can_reach(
    capsys: pytest.CaptureFixture[str], tiny: list[str]
) -> None:
    for eps, possible in (("0.25", False), ("0.75", True)):
        result = ask(capsys, "detect", *tiny, "--eps", eps)["result"]
        assert (result["label"], result["possible"], result["certain"]) == (0, possible, possible)


def test_no_bound_exceeds_the_exact_margin(capsys: pytest.CaptureFixture[str], tiny: list[str]) -> None:
    names = "interval,fastlin,wong-kolter,crown"
    for eps, margin in (("0.25", 0.5), ("2", -1.0)):
        methods = ask(capsys, "bounds", *tiny, "--label", "0", "--eps", eps, "--methods", names)["result"]["methods"]
        assert [entry["method"] for entry in methods] == names.split(",")
        for entry in methods:
            assert entry["least"] <= margin and entry["proved"] == (entry["least"] > 0)
            assert entry["unstable"] == [int(eps == "2")]


@pytest.mark.parametrize("method", ["interval", "fastlin", "wong-kolter", "crown"])
@pytest.mark.parametrize("options", [[], ["--no-attack"], ["--solver", "cbc"]])
def test_every_way_to_search_gives_the_same_verdicts(
    capsys: pytest.CaptureFixture[str], tiny: list[str], method: str, options: list[str]
) -> None:
    for eps, word in (("0.25", "unsat"), ("2", "sat")):
        question = [*tiny, "--label", "0", "--eps", eps, "--bounds", method, *options]
        assert ask(capsys, "verify", *question)["result"]["word"] == word


@pytest.mark.parametrize(("space", "eps"), [("pixel", "0.0625"), ("input", "0.25")])
def test_both_spaces_of_eps_ask_the_same_question(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: list[str], space: str, eps: str
) -> None:
    # The pixel 0.75 is (0.75 - 0.5) / 0.25 = 1 to the network; 0.0625 pixels are 0.25 of its input.
    pixel = write_input(tmp_path / "pixel.npy", 0.75)
    scale = ["--mean", "0.5", "--std", "0.25", "--eps-space", space, "--eps", eps, "--clip", "0", "1"]
    answer = ask(capsys, "margin", tiny[0], "--input", pixel, "--label", "0", *scale)
    assert answer["result"]["lower"] == pytest.approx(0.5, abs=1e-6)
    assert answer["result"]["witness"]["x"][0] == pytest.approx(0.6875 if space == "pixel" else 0.75, abs=1e-6)


def test_a_misclassified_input_is_reported_and_is_its_own_counterexample(
    capsys: pytest.CaptureFixture[str], tiny: list[str]
) -> None:
    answer = ask(capsys, "verify", *tiny, "--label", "1", "--eps", "0.25")
    assert answer["question"]["misclassified"] is True and answer["question"]["predicted"] == 0
    assert answer["result"]["word"] == "sat" and answer["result"]["witness"]["x"] == [1.0]
    assert ask(capsys, "epsilon", *tiny, "--label", "1", "--eps-max", "1")["result"]["upper"] == 0.0
    assert main(["verify", *tiny, "--label", "1", "--eps", "0.25"]) == 0
    assert "misclassified: predicted 0, label 1" in capsys.readouterr().out


def test_a_tie_at_the_input_itself_is_not_robust(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: list[str]
) -> None:
    tie = write_input(tmp_path / "tie.npy", 0.5)
    assert ask(capsys, "verify", tiny[0], "--input", tie, "--label", "0", "--eps", "0")["result"]["word"] == "sat"


def test_the_predicted_label_stands_in_and_says_so(capsys: pytest.CaptureFixture[str], tiny: list[str]) -> None:
    assert main(["verify", *tiny, "--eps", "0.25"]) == 0
    out = capsys.readouterr().out
    assert "no --label given: using the predicted class 0" in out and "Holds (unsat)" in out


def test_property_files_of_both_kinds_and_the_ball_agree(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: list[str]
) -> None:
    import milpverify as mv

    net = mv.from_onnx(tiny[0])
    for eps, word in ((0.25, "unsat"), (0.75, "sat")):
        saved = tmp_path / f"{word}.json"
        mv.robustness(net, mv.LinfBall(np.array([1.0]), eps), 0).save(saved)
        written = write_property(tmp_path / f"{word}.vnnlib", str(1 - eps), str(1 + eps))
        for path in (str(saved), written):
            assert ask(capsys, "verify", tiny[0], path)["result"]["word"] == word
            margin = ask(capsys, "margin", tiny[0], path)["result"]
            assert margin["lower"] - 1e-9 <= 1 - 2 * eps <= margin["upper"] + 1e-9


def test_files_may_stand_anywhere_among_the_options(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: list[str]
) -> None:
    prop = write_property(tmp_path / "p.vnnlib", "0.75", "1.25")
    for order in (["--timeout", "60", tiny[0], prop], [tiny[0], "--timeout", "60", prop]):
        assert ask(capsys, "verify", *order)["result"]["word"] == "unsat"


def test_exported_programs_have_the_margin_as_their_optimum(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: list[str]
) -> None:
    for name in ("model.lp", "model.mps", "model.lp.gz"):
        path = tmp_path / name
        written = ask(capsys, "export", *tiny, str(path), "--label", "0", "--eps", "2")["result"]["programs"]
        assert [entry["path"] for entry in written] == [str(path)] and written[0]["integers"] == 1
    for name, optimum in (("model.lp", -1.0), ("model.mps", -1.0)):
        assert solve(tmp_path / name) == pytest.approx(optimum, abs=1e-6)
    relaxed = tmp_path / "relaxed.lp"
    ask(capsys, "export", *tiny, str(relaxed), "--label", "0", "--eps", "2", "--relax")
    # x in [-1, 3]: at x = -1 the triangle's least z is 0 as well, so that the relaxation is tight here.
    assert solve(relaxed) == pytest.approx(-1.0, abs=1e-6)
    assert "binar" not in relaxed.read_text().lower()


def solve(path: Path) -> float:
    """The optimum of a program in a file, by HiGHS's own reader."""
    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    assert model.readModel(str(path)) == highspy.HighsStatus.kOk
    model.run()
    assert model.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return float(model.getInfo().objective_function_value)


def test_a_property_with_two_regions_is_exported_as_two_programs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: list[str]
) -> None:
    text = write_property(tmp_path / "two.vnnlib", "0", "2")
    body = Path(text).read_text().splitlines()[:3]
    body.append("(assert (or (and (>= X_0 0.75) (<= X_0 1)) (and (>= X_0 2) (<= X_0 3))))")
    body.append("(assert (<= Y_0 Y_1))")
    Path(text).write_text("\n".join(body) + "\n")
    ask(capsys, "export", tiny[0], text, str(tmp_path / "m.lp"))
    assert sorted(p.name for p in tmp_path.glob("m*")) == ["m_1.lp", "m_2.lp"]
    assert {round(solve(tmp_path / f"m_{i}.lp"), 6) for i in (1, 2)} == {0.5, 3.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "image", "eps", "margin"),
    [("mlp24.onnx", 1, "0.05", 0.912468), ("mlp50.onnx", 2, "0.02", 2.40242), ("mlp50.onnx", 0, "0.05", 2.92885)],
)
def test_published_margins_are_reproduced(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, net: str, image: int, eps: str, margin: float
) -> None:
    np.save(tmp_path / "image.npy", mnist()[0][: image + 1].reshape(-1, 28, 28))
    at = ["--input", str(tmp_path / "image.npy")] + (["--index", str(image)] if image else [])
    answer = ask(capsys, "margin", str(need("mlp", net)), *at, "--eps", eps, "--clip", "0", "1")
    assert answer["result"]["lower"] == pytest.approx(margin, abs=1e-4)
    assert answer["result"]["upper"] == pytest.approx(margin, abs=1e-4)

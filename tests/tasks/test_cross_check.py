"""Verdicts on a solver's word, and what a second solver makes of them: lies are refused, honest answers confirmed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

import milpverify as mv
from milpverify.bounds.method import BoundMethod
from milpverify.cli import main
from milpverify.errors import OptionError, SolverError
from milpverify.network.graph import Network
from milpverify.network.operators import Dense
from milpverify.program.program import Program
from milpverify.program.solver import NO_LIMITS, Limits, Solution, Solver, Status
from milpverify.proof.evidence import Grade, Holds, Unknown
from milpverify.search.question import Answer, CaseAnswer, Question, Steps
from milpverify.tasks.cross_check import NOTHING
from tests.cases import NETWORKS, REGIONS, affine, brute_force_slack, seeds
from tests.search.checkpoint_cases import network
from tests.search.checkpoint_cases import prop as robust
from tests.tiny import write_input, write_network

FEW = settings(max_examples=3)
BARE: dict[str, Any] = {"bounds": mv.Interval(), "attack": None}  # what leaves most to the programs
MARGIN = 0.02


def is_whole(program: Program) -> bool:
    """Whether it is the program of a case, and not that of one activation pattern."""
    free = program.column_lower < program.column_upper
    return bool((program.integer & free).any())


@dataclass(frozen=True)
class Told(Solver):
    """HiGHS, but what it says of whole programs is changed; it keeps them."""

    change: Callable[[Program, Limits, Solution], Solution] = lambda program, limits, solution: solution
    asked: list[Program] = field(default_factory=list)

    def solve(self, program: Program, limits: Limits = NO_LIMITS) -> Solution:
        if not is_whole(program):
            return mv.Highs().solve(program, limits)
        self.asked.append(program)
        return self.change(program, limits, mv.Highs().solve(program))


@dataclass(frozen=True)
class Other(Solver):
    """Somebody else's name for a solver."""

    solver: Solver

    def solve(self, program: Program, limits: Limits = NO_LIMITS) -> Solution:
        return self.solver.solve(program, limits)


def cut_off(program: Program, limits: Limits, solution: Solution) -> Solution:
    """There is nothing below the cut-off."""
    assert limits.cutoff is not None
    return replace(solution, status=Status.CUTOFF, x=None, objective=None, dual_bound=limits.cutoff)


def high(program: Program, limits: Limits, solution: Solution) -> Solution:
    """The least slack is 1."""
    return replace(solution, status=Status.OPTIMAL, x=None, objective=1.0, dual_bound=1.0)


def low(program: Program, limits: Limits, solution: Solution) -> Solution:
    """The least slack is -1, without a point to show for it."""
    return replace(solution, x=None, objective=-1.0, dual_bound=-1.0)


def too_low(program: Program, limits: Limits, solution: Solution) -> Solution:
    """The least slack is above 0, by less than a solver can tell."""
    assert limits.cutoff is not None
    return replace(solution, x=None, objective=0.9 * limits.cutoff, dual_bound=0.9 * limits.cutoff)


def empty(program: Program, limits: Limits, solution: Solution) -> Solution:
    """There is no point at all."""
    return replace(solution, status=Status.INFEASIBLE, x=None, objective=None, dual_bound=math.inf)


def late(program: Program, limits: Limits, solution: Solution) -> Solution:
    return replace(solution, status=Status.TIME_LIMIT, x=None, objective=None, dual_bound=-math.inf)


def lost(program: Program, limits: Limits, solution: Solution) -> Solution:
    return replace(solution, status=Status.UNKNOWN, x=None, objective=None, dual_bound=-math.inf)


def broken(program: Program, limits: Limits, solution: Solution) -> Solution:
    raise SolverError("Told: it fell over. Pick it up.")


Asked = tuple[Network, Callable[[float], mv.Property]]


@pytest.fixture(scope="module")
def asked() -> Asked:
    """A network and its property of two targets with that least margin, which bounds alone leave open."""
    net = network(seed=5, n=5, hidden=10)
    least = mv.worst_margin(net, robust(net, eps=0.6))
    assert least.gap < 1e-5
    return net, lambda margin: robust(net, eps=0.6, lowered=margin - least.lower)


def by_programs(solver: Solver | None = None) -> mv.Verifier:
    return mv.Verifier(search=mv.MILP(solver=solver or mv.Highs()), **BARE)


@pytest.mark.parametrize(
    ("first", "second"), [(mv.Highs(), "CBC"), (mv.PulpHighs(), "CBC"), (mv.Cbc(), "HiGHS"), (Told(), "CBC")]
)
def test_honest_solvers_confirm_each_other(asked: Asked, first: Solver, second: str) -> None:
    net, prop = asked
    verdict = mv.verify(net, prop(MARGIN), method=by_programs(first), cross_check=True)
    assert isinstance(verdict, Holds) and verdict.grade is Grade.SOLVER_TRUSTED
    assert [case.how for case in verdict.cases] == ["milp", "milp"]
    assert verdict.cross_checked and verdict.cross_check == f"confirmed by {second}: 2 cases"
    told = json.loads(json.dumps(verdict.to_dict()))
    assert told["cross_checked"] is True and told["cross_check"] == verdict.cross_check
    assert [case["cross_check"] for case in told["cases"]] == [f"confirmed by {second}"] * 2


def test_who_does_not_ask_is_told_nothing(asked: Asked) -> None:
    net, prop = asked
    verdict = mv.verify(net, prop(MARGIN), method=by_programs())
    assert isinstance(verdict, Holds) and not verdict.cross_checked and not verdict.cross_check
    assert "cross" not in json.dumps(verdict.to_dict())


@pytest.mark.parametrize("region_kind", ["box", "l1 clipped", "l2 clipped"])
@FEW
@given(seed=seeds)
def test_cross_checked_verdicts_agree_with_brute_force(region_kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["chain"](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    C = rng.normal(size=(rng.integers(1, 3), net.n_outputs))
    round_ = region_kind.startswith("l2")
    hull = mv.Box(region.lower, region.upper) if round_ else region
    truth = brute_force_slack(net, hull, C, np.zeros(len(C)))  # of a ball, at most its least slack
    for margin in (-1e-2, 1e-3):
        case = mv.Case(region, mv.Polyhedron(C, np.full(len(C), truth - margin)))
        prop = mv.Property((case,), net.n_inputs, net.n_outputs)
        for first in (mv.Highs(), mv.Cbc()):
            verdict = mv.verify(net, prop, method=by_programs(first), cross_check=True)
            if margin > 0 and not round_:
                assert isinstance(verdict, Holds)
                assert verdict.cross_checked is (verdict.grade is Grade.SOLVER_TRUSTED)
            elif not round_:
                assert verdict.word == "sat"
            else:
                assert margin < 0 or verdict.word != "sat"
            assert not isinstance(verdict, Unknown) or verdict.disagreement is None


@pytest.mark.parametrize("lie", [cut_off, high])
def test_a_first_solver_that_lies_is_refused(asked: Asked, lie: Callable[..., Solution]) -> None:
    net, prop = asked
    method = by_programs(Told(lie))
    fooled = mv.verify(net, prop(-MARGIN), method=method)
    assert isinstance(fooled, Holds) and fooled.grade is Grade.SOLVER_TRUSTED  # what the quorum is for
    verdict = mv.verify(net, prop(-MARGIN), method=method, cross_check=True)
    assert isinstance(verdict, Unknown) and verdict.word == "unknown"
    refused = verdict.disagreement
    assert refused is not None and refused.witness is not None and refused.witness.replay.confirmed
    assert (refused.first.solver, refused.second.solver) == ("Told", "CBC")
    assert refused.first.lower > 0 >= refused.second.lower
    assert all(said in verdict.reason for said in (refused.case, refused.first.says, refused.second.says))
    for opinion in (refused.first, refused.second):
        assert mv.Highs().solve(opinion.program).objective == pytest.approx(-MARGIN, abs=1e-4)
    [report] = [case for case in verdict.cases if case.name == refused.case]
    assert (report.status, report.lower) == ("unknown", None)
    told = json.loads(json.dumps(verdict.to_dict()))["disagreement"]
    assert told["witness"]["replay"]["confirmed"] and told["second"]["says"] == refused.second.says


def test_a_solver_that_calls_a_slack_infeasible_is_not_believed_even_alone(asked: Asked) -> None:
    net, prop = asked
    verdict = mv.verify(net, prop(-MARGIN), method=by_programs(Told(empty)))
    assert isinstance(verdict, Unknown) and "infeasible" in verdict.reason


@pytest.mark.parametrize("lie", [low, too_low])
def test_a_second_solver_whose_bound_does_not_clear_the_tolerance_is_a_disagreement(
    asked: Asked, lie: Callable[..., Solution]
) -> None:
    net, prop = asked
    verdict = mv.verify(net, prop(MARGIN), method=by_programs(), cross_check=Told(lie))
    assert isinstance(verdict, Unknown) and verdict.disagreement is not None
    refused = verdict.disagreement
    assert refused.witness is None and "HiGHS and Told disagree" in verdict.reason
    assert refused.second.lower < refused.first.lower


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (late, "Told ran out of time"),
        (empty, "Told gave no answer"),
        (lost, "Told gave no answer"),
        (broken, "Told failed (Told: it fell over"),
    ],
)
def test_a_second_solver_without_an_answer_leaves_the_verdict_as_it_was_and_says_so(
    asked: Asked, lie: Callable[..., Solution], why: str
) -> None:
    net, prop = asked
    verdict = mv.verify(net, prop(MARGIN), method=by_programs(), cross_check=Told(lie))
    assert isinstance(verdict, Holds) and verdict.grade is Grade.SOLVER_TRUSTED and not verdict.cross_checked
    assert verdict.cross_check.startswith("not finished: Told confirmed 0 of 2 cases") and why in verdict.cross_check
    assert all(case.cross_check.startswith("not confirmed") for case in verdict.cases)


def test_one_case_that_is_not_confirmed_is_one_too_many(asked: Asked) -> None:
    net, prop = asked
    told: list[Program] = []
    second = Told(lambda *given: given[-1] if len(told) < 2 else late(*given), told)
    verdict = mv.verify(net, prop(MARGIN), method=by_programs(), cross_check=second)
    assert isinstance(verdict, Holds) and not verdict.cross_checked
    assert "confirmed 1 of 2 cases" in verdict.cross_check
    assert [case.cross_check for case in verdict.cases] == ["confirmed by Told", "not confirmed: Told ran out of time"]


def test_a_point_below_zero_counts_even_if_time_ran_out(asked: Asked) -> None:
    net, prop = asked
    second = Told(lambda program, limits, solution: replace(solution, status=Status.TIME_LIMIT, dual_bound=-math.inf))
    verdict = mv.verify(net, prop(-MARGIN), method=by_programs(Told(high)), cross_check=Other(second))
    assert (
        isinstance(verdict, Unknown) and verdict.disagreement is not None and verdict.disagreement.witness is not None
    )


def test_the_second_solver_is_asked_what_the_first_was(asked: Asked) -> None:
    net, prop = asked
    first, second = Told(), Told()
    mv.verify(net, prop(MARGIN), method=by_programs(first), cross_check=Other(second))
    assert len(first.asked) == len(second.asked) == 2
    programs = sorted(first.asked, key=lambda p: p.cost.tolist() + p.row_value.tolist())
    again = sorted(second.asked, key=lambda p: p.cost.tolist() + p.row_value.tolist())
    for one, other in zip(programs, again, strict=True):
        for name in ("cost", "column_lower", "column_upper", "row_value", "row_index", "row_lower", "row_upper"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def round_question(margin: float) -> tuple[Network, mv.Property]:
    """A property over an L2 ball whose least slack is the margin, while that over the ball's box is far below 0."""
    net = network(seed=2, n=3, hidden=5)
    ball = mv.L2Ball(np.full(3, 0.5), 1.0)

    def above(d: float, region: mv.Region = ball) -> mv.Property:
        case = mv.Case(region, mv.Polyhedron(np.array([[1.0, -1.0, 0.0]]), np.array([d])), "ball")
        return mv.Property((case,), 3, 3)

    least, boxed = mv.worst_margin(net, above(0.0)), mv.worst_margin(net, above(0.0, mv.Box(ball.lower, ball.upper)))
    assert least.gap < 1e-4 and boxed.upper < least.lower - 0.5
    return net, above(least.lower - margin)


def test_the_program_of_a_disagreement_about_a_ball_holds_its_tangents() -> None:
    net, prop = round_question(-MARGIN)
    verdict = mv.verify(net, prop, method=by_programs(Told(high)), cross_check=True)
    assert isinstance(verdict, Unknown) and verdict.disagreement is not None
    opinions = verdict.disagreement.first, verdict.disagreement.second
    boxed, cut = (mv.Highs().solve(opinion.program).dual_bound for opinion in opinions)
    assert boxed < -0.5 < cut <= -MARGIN + 1e-4


def test_tangents_that_do_not_settle_are_no_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    net, prop = round_question(MARGIN)
    verdict = mv.verify(net, prop, method=by_programs(), cross_check=True)
    assert isinstance(verdict, Holds) and verdict.cross_checked
    monkeypatch.setattr("milpverify.search.milp.TANGENT_ROUNDS", 1)
    verdict = mv.verify(net, prop, method=by_programs(Told(high)), cross_check=True)
    assert isinstance(verdict, Holds) and not verdict.cross_checked
    assert "tangent cuts did not settle" in verdict.cross_check


def test_nobody_confirms_himself(asked: Asked) -> None:
    net, prop = asked
    with pytest.raises(OptionError, match="cannot confirm itself"):
        mv.verify(net, prop(MARGIN), method=by_programs(), cross_check=mv.PulpHighs())
    hidden = mv.MILPTightening(solver=mv.Cbc())
    with pytest.raises(OptionError, match="asked already"):
        mv.verify(net, prop(MARGIN), method=mv.Verifier(bounds=hidden), cross_check=mv.Cbc())


def test_what_rests_on_bounds_or_our_own_tree_needs_no_second_solver(asked: Asked) -> None:
    net, prop = asked
    second = Told()
    for method, margin in ((mv.Verifier(), 5.0), (mv.Verifier(search=mv.BranchAndBound(), **BARE), MARGIN)):
        verdict = mv.verify(net, prop(margin), method=method, cross_check=second)
        assert isinstance(verdict, Holds) and verdict.grade is Grade.BOUND_ROUNDED
        assert verdict.cross_check == NOTHING and not verdict.cross_checked
    violated = mv.verify(net, prop(-MARGIN), cross_check=second)
    assert violated.word == "sat" and not second.asked


class Halved(mv.Interval):
    """Bounds that claim half of each unstable neuron's interval to be out of reach, on a solver's word."""

    solver_trusted = True

    def layer(self, problem, k):  # type: ignore[no-untyped-def]
        l, u = super().layer(problem, k)
        return l, np.where(l < 0, np.minimum(u, 0.0), u)


def test_hidden_bounds_on_a_solvers_word_do_not_reach_the_second_solver() -> None:
    net, prop = inverted()
    method = mv.Verifier(bounds=Halved(), attack=None, search=None)
    assert isinstance(mv.verify(net, prop, method=method), Holds)
    verdict = mv.verify(net, prop, method=method, cross_check=True)
    assert isinstance(verdict, Unknown) and verdict.disagreement is not None
    assert "hidden neurons" in verdict.reason and verdict.disagreement.witness is not None


def inverted() -> tuple[Network, mv.Property]:
    """y = 1 - 2 relu(x) for x in [-1, 1] is as small as -1; with x <= 0 it were 1."""
    net = Network((1,), (1,), (affine({0: Dense(np.ones((1, 1)))}, np.zeros(1)),),
                  affine({1: Dense(np.full((1, 1), -2.0))}, np.ones(1)))  # fmt: skip
    case = mv.Case(mv.Box([-1.0], [1.0]), mv.Polyhedron(np.ones((1, 1)), np.zeros(1)))
    return net, mv.Property((case,), 1, 1)


def test_true_hidden_bounds_of_a_solver_are_confirmed_over_others(asked: Asked) -> None:
    net, prop = asked
    hidden: BoundMethod = mv.Progressive((mv.Crown(), mv.MILPTightening()))
    verdict = mv.verify(net, prop(MARGIN), method=replace(by_programs(), bounds=hidden), cross_check=True)
    assert isinstance(verdict, Holds) and verdict.grade is Grade.SOLVER_TRUSTED and verdict.cross_checked


class Scripted(mv.BranchAndBound):
    """A tree that closes the first case and leaves the second to a program."""

    def stepwise(self, question: Question) -> Steps:
        yield
        return Answer((CaseAnswer(0.4, True), CaseAnswer(-0.1, reason="stuck")))


def test_of_a_portfolio_only_the_programs_answers_are_asked_again(asked: Asked) -> None:
    net, prop = asked
    second = Told()
    method = mv.Verifier(search=mv.Portfolio(Scripted()), **BARE)
    verdict = mv.verify(net, prop(MARGIN), method=method, cross_check=second)
    assert isinstance(verdict, Holds) and verdict.cross_checked and len(second.asked) == 1
    assert [(case.how, case.cross_check) for case in verdict.cases] == [("tree", ""), ("milp", "confirmed by Told")]


def test_an_answer_from_a_checkpoint_is_confirmed_too(asked: Asked, tmp_path: Path) -> None:
    net, prop = asked
    path = tmp_path / "answers.npz"
    assert mv.verify(net, prop(MARGIN), method=by_programs(), checkpoint=path).word == "unsat"
    verdict = mv.verify(net, prop(MARGIN), method=by_programs(), checkpoint=path, cross_check=True)
    assert isinstance(verdict, Holds) and verdict.cross_checked


def test_ctrl_c_and_the_end_of_time_leave_the_verdict_unconfirmed(asked: Asked) -> None:
    net, prop = asked

    def press(progress: mv.Progress) -> None:
        if progress.stage == "cross-check":
            raise KeyboardInterrupt

    verdict = mv.verify(net, prop(MARGIN), method=by_programs(), cross_check=True, on_progress=press)
    assert isinstance(verdict, Holds) and not verdict.cross_checked and "interrupted" in verdict.cross_check


def test_a_proof_needs_no_second_solver_but_may_have_both(asked: Asked) -> None:
    net, prop = asked
    verdict = mv.verify(net, prop(0.2), method=by_programs(), cross_check=True, prove=True, time_limit_s=60)
    assert isinstance(verdict, Holds) and verdict.cross_checked and verdict.grade is Grade.PROOF_CHECKED


def tiny(tmp_path: Path, eps: str) -> list[str]:
    """y_0 - y_1 = 2 relu(x) - 1 around x = 1, left to a program."""
    net, x = write_network(tmp_path / "tiny.onnx"), write_input(tmp_path / "x.npy", 1.0)
    question = ["--input", x, "--label", "0", "--eps", eps, "--bounds", "interval", "--no-attack"]
    return ["verify", net, *question, "--search", "milp", "--cross-check"]


def lies(monkeypatch: pytest.MonkeyPatch, lie: Callable[..., Solution]) -> None:
    monkeypatch.setattr("milpverify.commands.options.solver", lambda *_: Told(lie))


def optimum(path: Path) -> float:
    """Of a program in a file, by HiGHS's own reader."""
    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    assert model.readModel(str(path)) == highspy.HighsStatus.kOk
    model.run()
    return float(model.getInfo().objective_function_value)


@pytest.mark.parametrize("beside", [True, False])
def test_the_command_writes_both_programs_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], beside: bool
) -> None:
    here, results = tmp_path / "here", tmp_path / "results"
    here.mkdir(), results.mkdir()
    monkeypatch.chdir(here)
    lies(monkeypatch, high)
    result = ["--result", str(results / "out.txt")] if beside else []
    assert main([*tiny(tmp_path, "2"), *result, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)["result"]
    assert answer["word"] == "unknown"
    folder = results if beside else here
    files = sorted(path.name for path in folder.glob("disagreement*"))
    assert files == ["disagreement-target-1.cbc.mps", "disagreement-target-1.told.lp"]
    assert sorted(Path(path).name for path in answer["disagreement"]["files"]) == files
    assert all(path in answer["reason"] for path in answer["disagreement"]["files"])
    for path in answer["disagreement"]["files"]:
        assert optimum(folder / Path(path).name) == pytest.approx(-1.0, abs=1e-6)
    if beside:
        assert (results / "out.txt").read_text() == "unknown\n" and not list(here.iterdir())
    assert main([*tiny(tmp_path, "2"), *result]) == 1
    out = capsys.readouterr().out
    assert "Told and CBC disagree about target 1" in out and files[0] in out and "witness of target 1" in out


def test_programs_that_cannot_be_written_do_not_cost_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Program, path: Path) -> None:
        raise OptionError("Program.write: the disk is full. Make room.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Program, "write", full)
    lies(monkeypatch, high)
    assert main([*tiny(tmp_path, "2"), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)["result"]
    assert "could not be written (Program.write: the disk is full" in answer["reason"]
    assert answer["disagreement"]["files"] == []


@pytest.mark.parametrize(("solver", "second"), [("highs", "CBC"), ("pulp-highs", "CBC"), ("cbc", "HiGHS")])
def test_the_command_says_what_the_second_solver_confirmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: Asked, solver: str, second: str
) -> None:
    assert main([*tiny(tmp_path, "0.25"), "--solver", solver]) == 0
    assert f"cross-check: {NOTHING}" in capsys.readouterr().out
    net, prop = asked
    prop(MARGIN).save(tmp_path / "prop.json")
    files = [write_chain(net, tmp_path / "net.onnx"), str(tmp_path / "prop.json")]
    options = ["--bounds", "interval", "--no-attack", "--search", "milp", "--solver", solver, "--cross-check"]
    assert main(["verify", *files, *options]) == 0
    assert f"cross-check: confirmed by {second}: 2 cases" in capsys.readouterr().out


def test_a_cross_check_that_did_not_finish_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: Asked
) -> None:
    monkeypatch.setattr("milpverify.program.quorum.second_to", lambda *_: Told(late))
    net, prop = asked
    prop(MARGIN).save(tmp_path / "prop.json")
    files = [write_chain(net, tmp_path / "net.onnx"), str(tmp_path / "prop.json")]
    options = ["--bounds", "interval", "--no-attack", "--search", "milp"]
    assert main(["verify", *files, *options, "--json"]) == 0
    capsys.readouterr()
    assert main(["verify", *files, *options, "--cross-check", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)["result"]
    assert (result["word"], result["grade"], result["cross_checked"]) == ("unsat", "solver-trusted", False)
    assert "Told ran out of time" in result["cross_check"]


def write_chain(net: Network, path: Path) -> str:
    """Write a chain of dense layers, its numbers rounded to float32."""
    constants, nodes, source = [], [], "x"
    for k, layer in enumerate((*net.layers, net.output)):
        W, b = layer.blocks[0][1].dense().T, np.asarray(layer.bias)
        constants += [numpy_helper.from_array(v.astype(np.float32), f"{n}{k}") for n, v in (("W", W), ("b", b))]
        nodes.append(helper.make_node("Gemm", [source, f"W{k}", f"b{k}"], [f"zhat{k}"]))
        source = f"z{k}"
        if k < len(net.layers):
            nodes.append(helper.make_node("Relu", [f"zhat{k}"], [source]))
    sizes = (("x", net.n_inputs), (f"zhat{len(net.layers)}", net.n_outputs))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n]) for name, n in sizes]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return str(path)

"""Ctrl-C, time limits and checkpoints on the command line: nothing that was known is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import milpverify as mv
from milpverify.cli import main, parse
from milpverify.commands.options import search_options
from milpverify.search.interrupt import Interrupt
from tests.search.checkpoint_cases import MINIMISER, network, prop
from tests.tiny import write_input, write_network

COMMANDS = {
    "verify": ["prop.json"],
    "margin": ["prop.json"],
    "epsilon": ["--input", "x.npy", "--eps-max", "1"],
    "range": ["prop.json"],
}


@pytest.fixture
def hard(tmp_path: Path) -> Callable[[str], list[str]]:
    """Questions about a network of 2 x 40 random neurons that take every command much longer than a test may."""
    net = network(hidden=40)
    constants, nodes, source = [], [], "x"
    for k, layer in enumerate((*net.layers, net.output)):
        W, b = layer.blocks[0][1].dense().T, np.asarray(layer.bias)
        constants += [numpy_helper.from_array(v.astype(np.float32), f"{n}{k}") for n, v in (("W", W), ("b", b))]
        nodes.append(helper.make_node("Gemm", [source, f"W{k}", f"b{k}"], [f"zhat{k}"]))
        source = f"z{k}"
        if k < len(net.layers):
            nodes.append(helper.make_node("Relu", [f"zhat{k}"], [source]))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, m]) for n, m in (("x", 20), ("zhat2", 3))]
    graph = helper.make_graph(nodes, "hard", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "n.onnx")
    prop(net, lowered=0.75).save(tmp_path / "prop.json")
    np.save(tmp_path / "x.npy", np.full(20, 0.5))

    def question(command: str) -> list[str]:
        files = [str(tmp_path / word) if "." in word else word for word in COMMANDS[command]]
        return [command, str(tmp_path / "n.onnx"), *files, "--json"]

    return question


def interrupted(arguments: list[str], ready: Callable[[], bool]) -> tuple[int, str, str]:
    """Exit status and output of a command that gets Ctrl-C once its task has begun and something is ready."""
    command = [sys.executable, "-m", "milpverify", *arguments, "--progress"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        while not ready():
            assert process.poll() is None, told
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    return process.returncode, out, told + err


def nodes_in(path: Path) -> int:
    """Nodes bounded by the trees of a checkpoint."""
    with np.load(path) as archive:
        return sum(int(archive[key]) for key in archive.files if key.endswith("/count"))


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_gives_what_is_known(hard: Callable[[str], list[str]], command: str) -> None:
    status, out, err = interrupted(hard(command), lambda: True)
    assert status == 130 and "Traceback" not in err
    answer = json.loads(out)
    assert answer["exit_status"] == 130
    result = answer["result"]
    if command == "verify":
        assert result["word"] == "unknown" and result["interrupted"] and not result["timed_out"]
    elif command == "range":
        ends = [end for r in result["ranges"] for end in (r["minimum"], r["maximum"])]
        assert any(end["interrupted"] for end in ends) and not any(end["timed_out"] for end in ends)
    else:
        assert result["interrupted"] and not result["timed_out"]


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_saves_the_tree_and_the_next_call_goes_on(hard: Callable[[str], list[str]], tmp_path: Path) -> None:
    path = tmp_path / "tree.npz"
    asked = [*hard("margin"), "--search", "branch-and-bound", "--checkpoint", str(path), "--checkpoint-every", "0.05"]
    status, out, _ = interrupted(asked, lambda: path.exists() and nodes_in(path) > 1500)  # beyond the first try
    first, saved = json.loads(out)["result"], nodes_in(path)
    assert status == 130 and saved > 1500
    assert first["interrupted"] and first["lower"] is not None and first["upper"] is not None
    command = [sys.executable, "-m", "milpverify", *asked, "--timeout", "4"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    second = json.loads(done.stdout)["result"]
    assert second["timed_out"] and first["lower"] <= second["lower"] and second["upper"] <= first["upper"]
    assert nodes_in(path) > saved


@pytest.mark.usefixtures("interruptible")
def test_the_second_ctrl_c_is_raised() -> None:
    interrupt = Interrupt()
    with interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.pending
        with interrupt.released(), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_released_work_ends_at_once_and_only_that() -> None:
    interrupt, reached = Interrupt(), []
    with interrupt:
        with interrupt.released():
            signal.raise_signal(signal.SIGINT)
            reached.append("not here")
        reached.append("here")
        assert interrupt.pending
    assert reached == ["here"]


def test_an_interrupt_outside_of_a_task_changes_nothing() -> None:
    before, interrupt = signal.getsignal(signal.SIGINT), Interrupt()
    with interrupt.released():
        assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt), interrupt.released():
        raise KeyboardInterrupt


def press_after(stage: str) -> Callable[[mv.Progress], None]:
    """A listener that presses Ctrl-C when it hears of a stage."""

    def heard(progress: mv.Progress) -> None:
        if progress.stage == stage:
            raise KeyboardInterrupt

    return heard


@pytest.mark.parametrize("stage", ["bounds", "attack", "tree"])
def test_a_listener_may_interrupt_every_task_at_every_stage(stage: str) -> None:
    net = network(hidden=40)
    p, listener = prop(net), press_after(stage)
    case = prop(net, lowered=1.0).cases
    verdict = mv.verify(net, mv.Property(case, net.n_inputs, net.n_outputs), on_progress=listener)
    assert isinstance(verdict, mv.Unknown | mv.Holds)
    if isinstance(verdict, mv.Unknown):
        assert verdict.interrupted and "interrupted" in verdict.reason and verdict.word == "unknown"
    bracket = mv.worst_margin(net, p, on_progress=listener)
    assert bracket.interrupted and not bracket.timed_out and bracket.lower <= bracket.upper


def test_a_time_limit_before_the_first_bound_is_a_bracket() -> None:
    net, limit = network(), 1e-9
    p, region, x = prop(net), prop(net).cases[0].region, np.full(20, 0.5)
    label, truth = int(net.forward(x).argmax()), mv.worst_margin(net, p, method=MINIMISER)
    for search in (mv.Portfolio(), mv.BranchAndBound(), mv.MILP(), mv.InputSplitting(), mv.ReluSplitting()):
        verdict = mv.verify(net, p, time_limit_s=limit, method=mv.Verifier(attack=None, search=search))
        assert isinstance(verdict, mv.Unknown) and verdict.timed_out and not verdict.interrupted
        minimiser = mv.Minimiser(attack=None, search=search)
        bracket = mv.worst_margin(net, p, time_limit_s=limit, method=minimiser)
        assert bracket.timed_out and bracket.lower <= truth.upper and truth.lower <= bracket.upper
        for r in mv.output_range(net, region, time_limit_s=limit, method=minimiser):
            assert r.minimum.timed_out and r.maximum.timed_out and r.minimum.lower <= r.maximum.upper
        classes = mv.reachable_classes(net, region, time_limit_s=limit, method=minimiser)
        assert {c.reachable for c in classes} <= {True, False, None}
    radius = mv.minimum_epsilon(net, x, label, eps_max=1.0, time_limit_s=limit)
    assert radius.timed_out and radius.lower >= 0.0
    detection = mv.possibly_adversarial(net, x, 0.3, time_limit_s=limit)
    assert detection.possible


def test_the_default_search_is_the_librarys_with_the_options_of_the_programs(tmp_path: Path) -> None:
    files = ["margin", "net.onnx", "--gap", "0.5", "--threads", "2", "--seed", "3"]
    chosen = {name: search_options(parse([*files, "--search", name])) for name in ("branch-and-bound", "milp")}
    both = search_options(parse(files))
    milp = mv.MILP(solver=mv.Highs(threads=2, seed=3), gap=0.5)
    assert both == mv.Portfolio(tree=chosen["branch-and-bound"], milp=milp) and chosen["milp"] == milp
    assert search_options(parse(["verify", "net.onnx"])) == mv.Portfolio()


@pytest.mark.parametrize("search", ["portfolio", "branch-and-bound", "milp"])
def test_every_search_gives_the_hand_derived_margin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], search: str
) -> None:
    asked = [write_network(tmp_path / "tiny.onnx"), "--input", write_input(tmp_path / "x.npy", 1.0), "--label", "0"]
    assert main(["margin", *asked, "--eps", "0.75", "--search", search, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert result["lower"] <= -0.5 + 1e-9 and result["upper"] >= -0.5 - 1e-9 and result["gap"] <= 1e-5
    assert main(["verify", *asked, "--eps", "0.25", "--search", search]) == 0
    capsys.readouterr()
    assert main(["margin", *asked, "--eps", "0.75", "--relative-gap", "1.5"]) == 2
    assert "relative_gap" in capsys.readouterr().err


def test_a_foreign_checkpoint_is_bad_input_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.npz"
    path.write_text("mine")
    asked = [write_network(tmp_path / "tiny.onnx"), "--input", write_input(tmp_path / "x.npy", 1.0), "--eps", "0.25"]
    for command in ("verify", "margin"):
        assert main([command, *asked, "--checkpoint", str(path)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and str(path) in err and "Name another file" in err
        assert path.read_text() == "mine"

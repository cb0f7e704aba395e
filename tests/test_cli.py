"""The command line as a process: what it imports, writes, prints on a terminal, and how it ends."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from milpverify import cli
from milpverify.cli import main
from milpverify.errors import SolverError
from milpverify.report.screen import PlainScreen, TerminalScreen
from milpverify.report.words import show_verdict
from tests.paths import need
from tests.tiny import write_input, write_network, write_property

COMMANDS = ("demo", "verify", "detect", "margin", "epsilon", "range", "bounds", "polytope", "explore", "export")
HEAVY = ("torch", "matplotlib", "pulp", "scipy", "onnxruntime", "rich")
DIGITS = Path(cli.__file__).parent / "data"


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """NET --input FILE --label 0, where the margin at eps is 1 - 2 eps."""
    return [write_network(tmp_path / "tiny.onnx"), "--input", write_input(tmp_path / "x.npy", 1.0), "--label", "0"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m milpverify` in a process of its own."""
    return subprocess.run([sys.executable, "-m", "milpverify", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("eps", ["0.25", "0.75"])
def test_an_easy_verify_imports_nothing_it_does_not_need(tmp_path: Path, tiny: list[str], eps: str) -> None:
    result = tmp_path / "result.txt"
    arguments = ["verify", *tiny, "--eps", eps, "--result", str(result)]
    code = (
        f"import sys; from milpverify.cli import main; status = main({arguments!r});"
        f"print(status, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert result.read_text().splitlines()[0] == ("unsat" if eps == "0.25" else "sat")


def test_help_loads_no_numpy() -> None:
    code = "import sys; from milpverify.cli import build_parser; build_parser(); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"milpverify {command}" in out and "examples:" in out and "--json" in out


def test_the_module_runs_and_names_its_version() -> None:
    done = run("--version")
    assert done.returncode == 0 and re.fullmatch(r"milpverify \d+\.\d+\.\d+\n", done.stdout)


def test_a_counterexample_in_a_result_file_stands_up_in_onnxruntime(tmp_path: Path) -> None:
    import onnxruntime

    net, prop = need("test", "test_sat.onnx"), need("test", "test_prop.vnnlib")
    path = tmp_path / "result.txt"
    assert main(["verify", str(net), str(prop), "--result", str(path)]) == 0
    word, witness = path.read_text().split("\n", 1)
    assert word == "sat" and witness.startswith("((X_0 ") and witness.endswith("))\n")
    values = {name: float(text) for name, text in re.findall(r"\(([XY]_\d+) (\S+?)\)", witness)}
    x = np.array([values[f"X_{i}"] for i in range(5)])
    bounds = re.findall(r"\((<=|>=) (X_\d) (-?[\d.]+)\)", prop.read_text())
    assert len(bounds) == 10
    for sense, name, limit in bounds:
        assert values[name] <= float(limit) + 1e-15 if sense == "<=" else values[name] >= float(limit) - 1e-15
    session = onnxruntime.InferenceSession(net, providers=["CPUExecutionProvider"])
    shape = [n if isinstance(n, int) else 1 for n in session.get_inputs()[0].shape]
    feed = {session.get_inputs()[0].name: x.astype(np.float32).reshape(shape)}
    y = session.run(None, feed)[0].reshape(-1)
    assert y == pytest.approx([values[f"Y_{i}"] for i in range(5)], abs=1e-6)
    assert y.argmin() == 0  # ACAS Xu property 3: clear-of-conflict must not be minimal


def test_unsat_writes_its_word_and_nothing_else(tmp_path: Path) -> None:
    net, prop = need("test", "test_unsat.onnx"), need("test", "test_prop.vnnlib")
    path = tmp_path / "result.txt"
    assert main(["verify", str(net), str(prop), "--result", str(path)]) == 0
    assert path.read_text() == "unsat\n"
    assert list(tmp_path.iterdir()) == [path]


def hard_question() -> list[str]:
    """A question about the digits network that a MILP solver works on for minutes."""
    return [str(DIGITS / "digits.onnx"), "--input", str(DIGITS / "digits.npz"), "--key", "images", "--index", "3"]


def test_a_time_limit_is_unknown_and_says_timeout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.txt"
    question = [
        "verify",
        *hard_question(),
        "--eps",
        "0.2038",
        "--clip",
        "0",
        "1",
        "--no-attack",
        "--bounds",
        "interval",
    ]
    assert main([*question, "--timeout", "0.001", "--result", str(path)]) == 1
    assert path.read_text() == "timeout\n"
    assert "Unknown (timeout)" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["verify", "margin"])
def test_a_failing_solver_gives_no_answer(
    tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    def refuse(*args: object, **options: object) -> object:
        raise SolverError("Highs: run failed.")

    monkeypatch.setattr("milpverify.program.highs.Highs.solve", refuse)
    # At eps 2 bounds cannot prove it, since it is false; without attack and tree the solver must be asked.
    path = tmp_path / "result.txt"
    extra = ["--result", str(path)] if command == "verify" else []
    assert main([command, *tiny, "--eps", "2", "--no-attack", "--search", "milp", *extra]) == 1
    out, err = capsys.readouterr()
    if command == "verify":
        assert "Unknown (unknown)" in out and "Highs: run failed." in out and path.read_text() == "unknown\n"
    else:
        assert "open: the bracket holds 0" in out and err == ""


def test_an_earlier_result_never_outlives_a_failed_run(tmp_path: Path, tiny: list[str]) -> None:
    path = tmp_path / "result.txt"
    path.write_text("sat\n((X_0 0.0))\n")
    assert main(["verify", *tiny, "--eps", "-1", "--result", str(path)]) == 2
    assert not path.exists()


def test_a_bug_is_one_line_and_debug_shows_it(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object, **options: object) -> object:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("milpverify.tasks.verify.verify", fail)
    assert main(["verify", *tiny, "--eps", "0.25"]) == 3
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "ZeroDivisionError: two lines" in err and "--debug" in err
    with pytest.raises(ZeroDivisionError):
        main(["verify", *tiny, "--eps", "0.25", "--debug"])


def test_progress_lines_go_to_standard_error_and_leave_json_alone(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["margin", *tiny, "--eps", "0.75", "--json", "--progress"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["command"] == "margin"
    assert err.startswith("margin: ") and " bounds " in err
    assert main(["margin", *tiny, "--eps", "0.75", "--no-progress"]) == 0
    assert capsys.readouterr().err == ""


def test_onnxruntime_replays_a_witness_only_when_asked(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    told = {}
    for options in ((), ("--replay-onnxruntime",), ("--check-import",)):
        assert main(["verify", *tiny, "--eps", "0.75", "--json", *options]) == 0
        told[options] = json.loads(capsys.readouterr().out)["result"]["witness"]["replay"]["violates_onnxruntime"]
    assert told == {(): None, ("--replay-onnxruntime",): True, ("--check-import",): True}


def test_the_terminal_shows_the_words_of_the_plain_screen(tmp_path: Path) -> None:
    from rich.console import Console

    import milpverify as mv

    net = mv.from_onnx(write_network(tmp_path / "tiny.onnx"))
    region = mv.LinfBall(np.array([1.0]), 0.75)
    unsafe = mv.robustness(net, region, 0).cases[0].unsafe
    # A name in brackets is a name, not markup.
    cases = tuple(mv.Case(region, unsafe, name) for name in ("[bold]first", "[/] second"))
    verdict = mv.verify(net, mv.Property(cases, 1, 2))
    plain, coloured = io.StringIO(), io.StringIO()
    show_verdict(PlainScreen(plain), verdict)
    console = Console(file=coloured, force_terminal=True, width=120, highlight=False)
    show_verdict(TerminalScreen(console), verdict)
    assert "\x1b[" in coloured.getvalue() and "\x1b" not in plain.getvalue()
    bare = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", coloured.getvalue())
    for word in ("Violated (sat)", "[bold]first", "[/] second", "replayed in exact arithmetic", "slack at least"):
        assert word in plain.getvalue() and word in bare


def test_the_live_line_shows_where_the_task_is_and_vanishes() -> None:
    from rich.console import Console

    from milpverify.tasks.progress import Progress

    out = io.StringIO()
    screen = TerminalScreen(Console(file=out, force_terminal=True, width=120))
    with screen.watching("verify") as listener:
        listener(Progress("milp", "target 3", 1.0, -2.0, 0.5, unstable=7, left=2))
        time.sleep(0.4)  # the line is redrawn eight times a second
    shown = out.getvalue()
    assert all(part in shown for part in ("verify", "milp", "target 3", "[-2, 0.5]", "7 unstable", "2 left"))
    assert shown.rstrip().endswith("\x1b[2K")  # the line is erased at the end


def test_bounds_and_verdicts_of_a_property_file_are_shown_plainly(
    tmp_path: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    prop = write_property(tmp_path / "p.vnnlib", "0.75", "1.25")
    assert main(["bounds", tiny[0], prop]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["method", "least", "bound", "proved", "unstable", "per", "layer", "s"]
    assert [line.split()[0] for line in lines[2:5]] == ["interval", "fastlin", "crown"]
    assert main(["range", tiny[0], prop]) == 0
    assert re.search(r"^y0 +0\.75 +1\.25 ", capsys.readouterr().out, re.MULTILINE)

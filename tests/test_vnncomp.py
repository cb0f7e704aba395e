"""The competition's command lines: every verdict on a network worked out by hand (tests/tiny.py), and their files."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import milpverify as mv
from benchmarks.counterexample import judge
from milpverify.tasks.competition import counterexample
from milpverify.vnncomp import answer, main
from tests.paths import ROOT, need
from tests.tiny import write_network, write_property

pytest.importorskip("onnxruntime")

SCRIPTS = ROOT / "benchmarks" / "vnncomp_scripts"
ENTRY = re.compile(r"\(([XY])_(\d+) ([^\s()]+)\)")


def run(*arguments: object, module: bool = True) -> subprocess.CompletedProcess[str]:
    """A process of its own, as the competition starts it."""
    start = [sys.executable, "-m", "milpverify.vnncomp"] if module else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MILPVERIFY_PYTHON": sys.executable}
    command = [*start, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def parsed(text: str) -> tuple[np.ndarray, np.ndarray]:
    """X and Y of a counterexample, the whole of which is read: in order, nothing between the entries."""
    assert text[:1] == "(" and text.rstrip()[-1:] == ")"
    inner = text.strip()[1:-1]
    assert ENTRY.sub("", inner).strip() == ""
    found: dict[str, list[float]] = {"X": [], "Y": []}
    for letter, index, value in ENTRY.findall(inner):
        assert int(index) == len(found[letter])
        found[letter].append(float(value))
    return np.array(found["X"]), np.array(found["Y"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the network, and one for the result."""
    write_network(tmp_path / "tiny.onnx")
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [("0.75", "1.25", "unsat"), ("0.25", "1.25", "sat"), ("0.1", "0.1", "sat"), ("0.5", "1", "unknown")],
)
def test_the_result_file_holds_the_word_and_the_status_is_zero(folder: Path, low: str, high: str, word: str) -> None:
    """From 0.5 up there is only a tie: a violation in exact arithmetic, but no strict one."""
    prop, result = write_property(folder / "p.vnnlib", low, high), folder / "out" / "r.txt"
    done = run("run", "v1", "tiny", folder / "tiny.onnx", prop, result, 60)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.lower().count("\n") == 1
    lines = result.read_text().splitlines()
    assert lines[0] == word and bool(lines[1:]) == (word == "sat")
    assert os.listdir(result.parent) == ["r.txt"]
    if word == "sat":
        x, y = parsed("\n".join(lines[1:]))
        assert (len(x), len(y)) == (1, 2) and y[0] < y[1]
        x32 = float(np.float32(x[0]))
        assert y.tolist() == [x32, float(1 - np.float32(x32))]
        assert float(low) <= x[0] <= float(high)
        assert low == high or Fraction(low) <= Fraction(x32) <= Fraction(high)


@pytest.mark.parametrize(("low", "high"), [("0.1", "0.3"), ("-0.3", "0.1"), ("0.3", "0.30000001"), ("0.2", "0.2")])
def test_x_lies_in_the_box_as_written_and_in_float32(folder: Path, low: str, high: str) -> None:
    """Not every one of these bounds has its nearest float32 inside; a fixed decimal has none at all."""
    _, text = answer(str(folder / "tiny.onnx"), write_property(folder / "p.vnnlib", low, high))
    word, _, rest = text.partition("\n")
    floats = [np.float32(low), np.nextafter(np.float32(low), np.float32(1))]
    if low != high and not any(Fraction(low) <= Fraction(float(f)) <= Fraction(high) for f in floats):
        assert word == "unknown"
        return
    assert word == "sat"
    x, _ = parsed(rest)
    assert float(low) <= x[0] <= float(high)
    if low == high:
        assert x[0] == float(low)
    else:
        assert x[0] == np.float32(x[0]) and Fraction(low) <= Fraction(x[0]) <= Fraction(high)


def test_a_witness_that_float32_cannot_tell_from_a_tie_is_moved_deeper(folder: Path) -> None:
    net = mv.from_onnx(folder / "tiny.onnx")
    prop = mv.read_vnnlib(write_property(folder / "p.vnnlib", "0.375", "1"), net)
    witness = mv.confirm(net, prop.cases[0], np.array([0.5 - 1e-12]))
    assert witness is not None and -1e-11 < witness.replay.slack_exact < 0
    assert np.float32(witness.x[0]) == 0.5
    found = counterexample(net, prop, witness, folder / "tiny.onnx", time_limit_s=20)
    assert found is not None and 0.375 <= found.x[0] < 0.5
    assert found.slack == found.y[0] - found.y[1] < 0


def test_no_counterexample_is_made_of_a_violation_smaller_than_float32(folder: Path) -> None:
    """The float32 points of the box are 0.5 and above, where the slack is at least 0."""
    prop = write_property(folder / "p.vnnlib", "0.499999999999", "1")
    message, text = answer(str(folder / "tiny.onnx"), prop)
    assert text == "unknown\n" and "exact arithmetic finds a violation" in message


@pytest.mark.parametrize(("low", "high", "word"), [("0.75", "1.25", "unsat"), ("0.25", "0.4", "sat")])
def test_gzipped_files_are_read(folder: Path, low: str, high: str, word: str) -> None:
    write_property(folder / "p.vnnlib", low, high)
    for name in ("tiny.onnx", "p.vnnlib"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    _, text = answer(str(folder / "tiny.onnx.gz"), str(folder / "p.vnnlib.gz"))
    assert text.split()[0] == word


def test_both_grades_of_a_proof_are_unsat(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prop = write_property(folder / "p.vnnlib", "0.75", "1.25")
    for grade in (mv.Grade.BOUND_ROUNDED, mv.Grade.SOLVER_TRUSTED):
        monkeypatch.setattr("milpverify.tasks.verify.verify", lambda *_, grade=grade, **__: mv.Holds(grade=grade))
        message, text = answer(str(folder / "tiny.onnx"), prop)
        assert text == "unsat\n" and grade.value in message


def test_a_solver_that_fails_gives_unknown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise mv.SolverError("refused")

    monkeypatch.setattr("milpverify.tasks.verify.verify", fail)
    prop = write_property(folder / "p.vnnlib", "0.75", "1.25")
    assert answer(str(folder / "tiny.onnx"), prop) == ("unknown: refused", "unknown\n")


@pytest.mark.parametrize("limit", [0.01, 0.05])
def test_a_limit_that_ends_before_the_first_bound_gives_timeout(folder: Path, limit: float) -> None:
    prop, result = write_property(folder / "p.vnnlib", "0.25", "1.25"), folder / "out" / "r.txt"
    done = run("run", "v1", "tiny", folder / "tiny.onnx", prop, result, limit)
    assert done.returncode == 0 and result.read_text() == "timeout\n"


def test_an_earlier_result_does_not_survive_a_run_that_fails(folder: Path) -> None:
    result = folder / "out" / "r.txt"
    result.write_text("unsat\n")
    done = run("run", "v1", "tiny", folder / "absent.onnx", write_property(folder / "p", "0", "1"), result, 60)
    assert done.returncode == 2 and not os.listdir(result.parent)


def test_a_file_that_is_no_result_is_not_overwritten(folder: Path) -> None:
    result = folder / "out" / "thesis.txt"
    result.write_text("years of work")
    prop = write_property(folder / "p.vnnlib", "0.75", "1.25")
    done = run("run", "v1", "tiny", folder / "tiny.onnx", prop, result, 60)
    assert done.returncode == 2 and result.read_text() == "years of work"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("solve", "v1"),
        ("install",),
        ("install", "v2"),
        ("prepare", "v1", "tiny", "NET"),
        ("prepare", "v1", "tiny", "NET", "absent.vnnlib"),
        ("prepare", "v1", "tiny", "absent.onnx", "PROP"),
        ("run", "v1", "tiny", "NET", "PROP", "OUT"),
        ("run", "v2", "tiny", "NET", "PROP", "OUT", "60"),
        ("run", "v1", "tiny", "NET", "PROP", "OUT", "soon"),
        ("run", "v1", "tiny", "NET", "PROP", "OUT", "-1"),
        ("run", "v1", "tiny", "NET", "PROP", "OUT", "nan"),
        ("run", "v1", "tiny", "NET", "PROP", "nowhere/r.txt", "60"),
        ("run", "v1", "tiny", "NET", "absent.vnnlib", "OUT", "60"),
    ],
)
def test_bad_arguments_are_one_line_a_status_and_no_file(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    prop = write_property(folder / "p.vnnlib", "0.75", "1.25")
    names = {"NET": str(folder / "tiny.onnx"), "PROP": prop, "OUT": str(folder / "out" / "r.txt")}
    assert main([names.get(a, a) for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "error: " in err
    assert not os.listdir(folder / "out")


@pytest.mark.parametrize("which", ["network", "property"])
def test_what_cannot_be_read_is_an_error_in_the_file_too(folder: Path, which: str) -> None:
    net, prop = str(folder / "tiny.onnx"), write_property(folder / "p.vnnlib", "0.75", "1.25")
    if which == "network":
        net = write_network(folder / "sigmoid.onnx", op="Sigmoid")
    else:
        Path(prop).write_text("(assert (<= X_0 ")
    result = folder / "out" / "r.txt"
    done = run("run", "v1", "tiny", net, prop, result, 60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert result.read_text() == "error\n"
    assert main(["prepare", "v1", "tiny", net, prop]) == 2


def test_the_three_scripts_do_their_part(folder: Path) -> None:
    prop, result = write_property(folder / "p.vnnlib", "0.25", "1.25"), folder / "out" / "r.txt"
    instance = ("v1", "tiny", folder / "tiny.onnx", prop)
    for script, arguments in (("prepare_instance.sh", instance), ("run_instance.sh", (*instance, result, 60))):
        done = run(SCRIPTS / script, *arguments, module=False)
        assert done.returncode == 0, done.stderr
    assert result.read_text().startswith("sat\n(")
    assert run(SCRIPTS / "install_tool.sh", "v0", module=False).returncode == 2


GUARDED = """
import os, subprocess, sys, time
from milpverify.commands.guarded import guarded

def sleep():
    subprocess.Popen(["sleep", "60"])
    open(sys.argv[2], "w").write(str(os.getpgid(0)))
    time.sleep(60)

def die():
    os.kill(os.getpid(), 9)


def fail():
    raise RuntimeError("two\\nlines")

def speak():
    return "said", "sat\\n" + "x" * 300000

outcome = guarded(globals()[sys.argv[1]], time.monotonic() + 3)
print(outcome if outcome is None else (outcome.status, outcome.message, len(outcome.text)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("work", "says"),
    [
        ("die", "(3, 'the search was killed"),
        ("fail", "(3, 'a bug of milpverify (RuntimeError: two lines).', 6)"),
        ("speak", "(0, 'said', 300004)"),
        ("sleep", "None"),
    ],
)
def test_whatever_a_child_does_its_parent_has_an_outcome(tmp_path: Path, work: str, says: str) -> None:
    group = tmp_path / "group"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, work, str(group)],
        capture_output=True, text=True, env=environment, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.startswith(says), done.stderr
    if work == "sleep":
        assert not alive(group.read_text())


def alive(group: str) -> list[str]:
    """States of the processes of a group that still run, what they started included."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True)
    states = [line.split() for line in listed.stdout.splitlines()]
    return [state for pgid, state in states if pgid == group and not state.startswith("Z")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_that_is_told_to_stop_takes_its_children_along(tmp_path: Path) -> None:
    group, environment = tmp_path / "group", {**os.environ, "PYTHONPATH": str(ROOT)}
    script = GUARDED.replace("+ 3)", "+ 60)")
    with subprocess.Popen([sys.executable, "-c", script, "sleep", str(group)], env=environment) as process:
        while not (group.exists() and group.read_text()) and process.poll() is None:
            time.sleep(0.01)
        assert alive(group.read_text())
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert not alive(group.read_text())


def test_a_published_sat_instance_is_replayed(tmp_path: Path) -> None:
    net = need("acasxu", "onnx", "ACASXU_run2a_2_2_batch_2000.onnx")
    prop = need("acasxu", "vnnlib", "prop_2.vnnlib")
    result = tmp_path / "r.txt"
    assert run("run", "v1", "acasxu", net, prop, result, 60).returncode == 0
    word, _, rest = result.read_text().partition("\n")
    assert word == "sat"
    x, y = parsed(rest)
    network = mv.from_onnx(net)
    assert np.abs(network.forward(x) - y).max() <= 1e-4 * np.abs(y).max()
    assert (y[0] > y[1:]).all()  # property 2: the score of clear-of-conflict is never the largest


@pytest.mark.parametrize(
    ("low", "high", "x", "y", "mark"),
    [
        ("0.1", "0.3", float(np.float32(0.25)), (0.25, 0.75), "strict"),
        ("0.1", "0.1", 0.1, (0.1, 0.9), "strict"),  # the decimal fixes it, so its nearest float32 will do
        ("0.1", "0.3", 0.3, (0.3, 0.7), "loose"),  # its float32 is above 0.3
        ("0.25", "1", 0.5, (0.5, 0.5), "loose"),  # a tie
        ("0.25", "1", 0.75, (0.75, 0.25), "X lies outside"),
        ("0.25", "1", 0.1, (0.1, 0.9), "X lies outside"),
        ("0.25", "1", 0.375, (0.25, 0.75), "Y is not"),
    ],
)
def test_the_benchmarks_judge_tells_counterexamples_apart(
    folder: Path, low: str, high: str, x: float, y: tuple[float, float], mark: str
) -> None:
    prop = Path(write_property(folder / "p.vnnlib", low, high))
    text = f"((X_0 {x!r})\n(Y_0 {y[0]!r})\n(Y_1 {y[1]!r}))"
    assert judge(folder / "tiny.onnx", prop, text).startswith(mark)
    assert judge(folder / "tiny.onnx", prop, text[:-4]).startswith("cannot be judged")

"""`bounds` on the command line: the numbers of `bound_ladder`, the fields of docs/json.md, a picture, its errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milpverify.bounds.method import BoundMethod
from milpverify.cli import main
from milpverify.commands.options import BOUND_METHODS, BOUND_NAMES, bound_method
from milpverify.errors import BoundsError
from milpverify.network.from_onnx import from_onnx
from milpverify.proof.evidence import Bracket, Grade
from milpverify.report.ladder_plot import draw_ladder
from milpverify.spec.property import robustness
from milpverify.spec.regions import LinfBall
from milpverify.tasks.ladder import bound_ladder
from milpverify.tasks.rungs import Ladder, Rung
from tests.paths import ROOT, mnist, need
from tests.tiny import write_input, write_network, write_property

ALL = ",".join(BOUND_METHODS)


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """NET --input FILE --label 0 --eps 2, where the exact margin is -1."""
    net, x = write_network(tmp_path / "tiny.onnx"), write_input(tmp_path / "x.npy", 1.0)
    return [net, "--input", x, "--label", "0", "--eps", "2"]


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    """The `result` of `bounds ... --json`."""
    assert main(["bounds", *arguments, "--json"]) == status
    out, err = capsys.readouterr()
    assert err == ""
    result: dict[str, Any] = json.loads(out)["result"]
    return result


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and data[-8:-4] == b"IEND"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


@pytest.mark.parametrize("name", BOUND_METHODS)
def test_every_name_is_a_bound_method_that_bounds_the_tiny_network(
    capsys: pytest.CaptureFixture[str], tiny: list[str], name: str
) -> None:
    assert isinstance(bound_method(name), BoundMethod)
    [entry] = ask(capsys, *tiny, "--methods", name)["methods"]
    assert entry["method"] == name and entry["least"] <= -1.0 + 1e-6 and entry["proved"] == 0


def test_no_two_names_mean_the_same_method() -> None:
    methods = [bound_method(name) for name in BOUND_METHODS]
    assert all(a != b for i, a in enumerate(methods) for b in methods[:i])


def test_the_numbers_are_those_of_the_python_function(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    image = mnist()[0][1].reshape(28, 28)
    np.save(tmp_path / "image.npy", image)
    names = ("interval", "wong-kolter", "crown", "alpha", "lp")
    path = str(need("mlp", "mlp24.onnx"))
    at = ["--input", str(tmp_path / "image.npy"), "--label", "2", "--eps", "0.05", "--clip", "0", "1"]
    net = from_onnx(path)
    prop = robustness(net, LinfBall(image.ravel(), 0.05, clip=(0, 1)), 2)
    for options, same in (([], False), (["--same-bounds", "crown"], bound_method("crown"))):
        told = ask(capsys, path, *at, "--methods", ",".join(names), *options)
        ladder = bound_ladder(net, prop, {name: bound_method(name) for name in names}, same_bounds=same)
        for entry, rung in zip(told["methods"], ladder.rungs, strict=True):
            assert entry["method"] == rung.method and entry["hidden"] == rung.hidden
            assert [part["lower"] for part in entry["lower"]] == list(rung.lower)
            assert entry["unstable"] == list(rung.unstable)
        assert told["exact"] is told["percent_of"] is None


def test_with_milp_gaps_are_measured_to_the_exact_margin(capsys: pytest.CaptureFixture[str], tiny: list[str]) -> None:
    # x in [-1, 3]: z = relu(x) is at least 0 and the triangle knows it, so that only looser methods leave a gap.
    result = ask(capsys, *tiny, "--methods", "interval,wong-kolter,lp,milp")
    [exact] = result["exact"]
    assert exact["case"] == "target 1" and exact["lower"] <= -1.0 <= exact["upper"] <= -1.0 + 1e-6
    assert exact["upper_grade"] == "replayed"
    for entry in result["methods"]:
        assert entry["gap"] == exact["upper"] - entry["least"] == entry["lower"][0]["gap"]
    # Fast-Lin's plane z >= 3/4 x is -3/4 at x = -1: 2 z - 1 = -2.5 there, 1.5 below the exact margin.
    assert result["methods"][1]["gap"] == pytest.approx(1.5, abs=1e-6)


def test_the_object_has_the_documented_fields_and_no_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: list[str]
) -> None:
    text = (ROOT / "docs" / "json.md").read_text()
    section = text[text.index("### `result` of `bounds`") :]
    whole, methods = (part for part in section.split("\n\n") if part.startswith("| field"))
    last = section[section.index("Each of `exact`") :]
    last = last[: last.index("`exit_status`")]
    exact = {*re.findall(r"`(\w+)`", last)} - {"exact"}
    columns = [set(re.findall(r"^\| `(\w+)`", part, re.MULTILINE)) for part in (whole, methods)]
    result = ask(capsys, *tiny, "--methods", "crown,milp", "--plot", str(tmp_path / "p.png"))
    assert set(result) == columns[0] and result["plot"] == str(tmp_path / "p.png")
    for entry in result["methods"]:
        assert set(entry) == columns[1]
        assert all(set(part) == {"case", "lower", "gap"} for part in entry["lower"])
    assert all(set(entry) == exact for entry in result["exact"])


def test_the_screen_shows_the_table_of_the_ladder(capsys: pytest.CaptureFixture[str], tiny: list[str]) -> None:
    assert main(["bounds", *tiny, "--methods", "wong-kolter,interval,milp"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert (
        lines[1] == "method least bound gap proved unstable per layer s".split()
    )  # interval has no gap to compare with
    assert [line[0] for line in lines[2:5]] == ["wong-kolter", "interval", "milp"]
    assert lines[2][1:3] == ["-2.5", "1.5"]
    assert any(line[:4] == ["exact", "least", "slack:", "-1"] for line in lines)


def test_a_margin_that_is_still_open_is_exit_status_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = ROOT / "milpverify" / "data"
    hard = [str(data / "digits.onnx"), "--input", str(data / "digits.npz"), "--key", "images", "--index", "3"]
    question = [*hard, "--eps", "0.2", "--clip", "0", "1", "--methods", "interval,milp", "--same-bounds", "interval"]
    plot = tmp_path / "open.png"
    result = ask(capsys, *question, "--timeout", "0.01", "--plot", str(plot), status=1)
    assert any(entry["timed_out"] for entry in result["exact"]) and size(plot)[0] > 800


@pytest.mark.parametrize("methods", ["crown", "interval,fastlin,wong-kolter,crown,lp,milp"])
def test_the_picture_is_a_png_that_grows_with_the_methods(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: list[str], methods: str
) -> None:
    path = tmp_path / "gaps.png"
    path.write_bytes(b"an older picture")
    assert main(["bounds", *tiny, "--methods", methods, "--plot", str(path)]) == 0
    width, height = size(path)
    assert 1000 <= width <= 1600 and height == pytest.approx(150 * (1.7 + 0.42 * len(methods.split(","))), abs=2)
    assert f"drawn in {path}" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"gaps.png", "tiny.onnx", "x.npy"}


@pytest.mark.parametrize("margin", [0.0, 1e-9, -1e-9, 0.7, 1e8])
@pytest.mark.parametrize("bound", [-np.inf, -1e12, -1.0, 0.0])
def test_every_ladder_can_be_drawn(tmp_path: Path, margin: float, bound: float) -> None:
    cases = tuple(f"target {i}" for i in range(9))
    exact = tuple(Bracket(margin + i, margin + i, Grade.BOUND_ROUNDED, Grade.REPLAYED) for i in range(9))
    lower = tuple(min(bound, margin) + i for i in range(9))
    rungs = (Rung("crown", lower, (3,), "crown", 0.0, 0.0), Rung("interval", (-np.inf,) * 9, (3,), "interval", 0, 0))
    for known in (exact, ()):
        draw_ladder(tmp_path / "p.png", Ladder(cases, rungs, known), "a network, a region")
        assert size(tmp_path / "p.png")[0] > 1000


def test_help_teaches_every_method_and_how_to_read_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bounds", "--help"])
    out = capsys.readouterr().out
    for name, line in BOUND_METHODS.items():
        assert re.search(rf"^  {re.escape(name)} +{re.escape(line)}$", out, re.MULTILINE)
    for heading in ("least bound", "proved", "unstable per layer", "gap", "% of crown", "--same-bounds", "--plot"):
        assert heading in out


def test_cheap_methods_import_neither_solver_nor_torch_nor_matplotlib(tiny: list[str]) -> None:
    heavy = ("torch", "highspy", "matplotlib", "scipy", "pulp", "rich")
    arguments = ["bounds", *tiny, "--methods", "interval,fastlin,wong-kolter,crown,alpha"]
    code = (
        f"import sys; from milpverify.cli import main; status = main({arguments!r});"
        f"print(status, [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_progress_names_the_method_at_work(capsys: pytest.CaptureFixture[str], tiny: list[str]) -> None:
    assert main(["bounds", *tiny, "--methods", "crown", "--json", "--progress"]) == 0
    assert re.match(r"bounds: +\d+\.\d s  hidden neurons  crown\n", capsys.readouterr().err)


@pytest.mark.parametrize("name", BOUND_NAMES)
def test_every_rounded_method_serves_other_commands(
    capsys: pytest.CaptureFixture[str], tiny: list[str], name: str
) -> None:
    assert not bound_method(name).solver_trusted
    for eps, word in (("0.25", "unsat"), ("2", "sat")):
        assert main(["verify", *tiny[:-1], eps, "--bounds", name, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["result"]["word"] == word


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--methods crown,guess", "unknown method 'guess'"),
        ("--methods crown,crown", "named twice"),
        ("--methods crown,", "unknown method ''"),
        ("--same-bounds guess", "guess"),
        ("--plot gaps.pdf", ".png"),
        ("--plot none/gaps.png", "no folder"),
        ("--plot folder.png", "folder"),
        ("--timeout 0", "time limit"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    net, prop = write_network(tmp_path / "t.onnx"), write_property(tmp_path / "p.vnnlib", "0.75", "1.25")
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert main(["bounds", net, prop, *options.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and told in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_property_that_cannot_be_tabled_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net, path = write_network(tmp_path / "t.onnx"), tmp_path / "p.vnnlib"
    head = "(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
    for body, told in (
        ("(assert (>= X_0 0))\n(assert (<= X_0 1))\n", "no output constraint"),
        (
            "(assert (or (and (>= X_0 0) (<= X_0 1)) (and (>= X_0 2) (<= X_0 3))))\n(assert (<= Y_0 Y_1))\n",
            "several input regions",
        ),
    ):
        path.write_text(head + body)
        assert main(["bounds", net, str(path)]) == 2
        assert told in capsys.readouterr().err


def test_a_region_that_a_method_cannot_bound_is_bad_input_and_draws_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import milpverify.bounds.backward as backward

    def refuse(*_: object) -> None:
        raise BoundsError("Crown: bounds no such region. Take another method.")

    monkeypatch.setattr(backward.Crown, "rows", refuse)
    path = tmp_path / "gaps.png"
    path.write_bytes(b"an older picture")
    assert main(["bounds", *tiny, "--methods", "interval,crown", "--plot", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == "milpverify: error: bounds: Crown: bounds no such region. Take another method.\n"
    assert path.read_bytes() == b"an older picture" and len(list(tmp_path.iterdir())) == 3

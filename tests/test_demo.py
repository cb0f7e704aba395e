"""The demo: its table, its files, its picture; and that what it says about the digits is so."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from milpverify import demo
from milpverify.cli import main
from milpverify.proof.evidence import Holds, Violated
from milpverify.report.screen import PlainScreen, TerminalScreen

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[demo.Outcome, str, Path]:
    """The demo on its first two images: one robust at eps, one not; with what it printed and its folder."""
    folder, out = tmp_path_factory.mktemp("demo"), io.StringIO()
    return demo.run(PlainScreen(out), folder, 60.0, images=2), out.getvalue(), folder


def test_one_row_for_each_image_and_the_files_it_names(outcome: tuple[demo.Outcome, str, Path]) -> None:
    found, text, folder = outcome
    rows = [line.split() for line in text.splitlines() if line.strip()[:2] in ("0 ", "1 ")]
    rows = [row for row in rows if len(row) == len(demo.COLUMNS)]
    assert [(row[0], row[1], row[2]) for row in rows] == [("0", "0", "Holds"), ("1", "1", "Violated")]
    assert sorted(p.name for p in folder.iterdir()) == ["digits.npz", "digits.onnx", "nearest.npy", "nearest.png"]
    assert found.picture == folder / "nearest.png" and str(found.picture) in text
    assert found.picture.read_bytes()[:8] == PNG


def test_verdict_margin_and_radius_tell_one_story(outcome: tuple[demo.Outcome, str, Path]) -> None:
    for answer in outcome[0].answers:
        holds = isinstance(answer.verdict, Holds)
        assert holds or isinstance(answer.verdict, Violated)
        assert (answer.margin.lower > 0) == holds and (answer.margin.upper > 0) == holds
        assert (answer.radius.lower > demo.EPS) == holds and (answer.radius.upper > demo.EPS) == holds
        assert answer.margin.is_exact(1e-4) and answer.radius.is_exact(1e-4)


def test_the_nearest_adversarial_example_is_one_in_onnxruntime(outcome: tuple[demo.Outcome, str, Path]) -> None:
    import onnxruntime

    found, _, folder = outcome
    nearest = found.nearest
    assert nearest is not None and nearest.image == 1
    with np.load(folder / "digits.npz") as arrays:
        original = arrays["images"][nearest.image].astype(np.float64)
    adversarial = np.load(folder / "nearest.npy")
    assert np.abs(adversarial - original).max() == pytest.approx(nearest.radius.upper, abs=1e-12)
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    session = onnxruntime.InferenceSession(folder / "digits.onnx", providers=["CPUExecutionProvider"])
    scores = session.run(None, {"image": adversarial.astype(np.float32)[None, None]})[0][0]
    # The nearest one lies on the border: level with another class, up to float32.
    assert scores[nearest.other] >= scores[nearest.label] - 1e-4


@pytest.mark.slow
def test_the_suggested_commands_run_as_they_stand(
    outcome: tuple[demo.Outcome, str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line.strip() for line in outcome[1].splitlines() if line.startswith("  milpverify ")]
    assert len(lines) == 5
    for line in lines[:-1]:
        assert main(shlex.split(line)[1:]) == 0, line
    capsys.readouterr()


@pytest.mark.slow
def test_the_whole_demo_answers_ten_images_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json", "--out", str(tmp_path / "new" / "folder")]) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert err == "" and answer["command"] == "demo"
    assert [entry["label"] for entry in answer["images"]] == list(range(10))
    for entry in answer["images"]:
        assert entry["verdict"]["verdict"] in ("holds", "violated")
        assert entry["margin"]["gap"] <= 1e-4 and entry["minimum_epsilon"]["gap"] <= 1e-4
    assert Path(answer["picture"]).read_bytes()[:8] == PNG


def test_the_table_grows_on_a_terminal(tmp_path: Path) -> None:
    from rich.console import Console

    out = io.StringIO()
    screen = TerminalScreen(Console(file=out, force_terminal=True, width=120))
    demo.run(screen, tmp_path, 60.0, images=1)
    assert "worst margin" in out.getvalue() and "image 0" in out.getvalue() and "Holds" in out.getvalue()

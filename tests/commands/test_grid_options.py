"""--grid and --8bit: every command that has a region knows them, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from milpverify.cli import main
from milpverify.spec.property import load_property
from tests.tiny import write_input, write_network, write_property


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[str, str]:
    """The network y_0 = relu(x), y_1 = 1 - relu(x), and a box that 1/2 is in, where both tie."""
    return write_network(tmp_path / "a.onnx"), write_property(tmp_path / "a.vnnlib", "0.49", "1.0")


@pytest.mark.parametrize("options", [["--grid", "255"], ["--8bit"], ["--grid", "7"]])
def test_verify_asks_about_the_grid_only(
    tiny: tuple[str, str], tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    # 125/255 = 0.490..., so the property is violated there; 4/7 is the least k/7.
    assert main(["verify", *tiny, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["verdict"] == "violated"
    assert main(["verify", *tiny, "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["question"]["grid"] == (7 if "7" in options else 255)
    assert found["result"]["verdict"] == ("holds" if "7" in options else "violated")


def test_margin_range_and_epsilon_are_those_of_8_bit_images(
    tiny: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = ["--input", write_input(tmp_path / "x.npy", 1.0), "--label", "0", "--clip", "0", "1", "--json", "--8bit"]
    assert main(["margin", tiny[0], *about, "--eps", "100.5/255"]) == 0
    margin = json.loads(capsys.readouterr().out)["result"]
    assert margin["lower"] == pytest.approx(2 * 155 / 255 - 1) and margin["upper"] == pytest.approx(2 * 155 / 255 - 1)
    assert main(["epsilon", tiny[0], *about]) == 0
    radius = json.loads(capsys.readouterr().out)["result"]
    assert radius["lower"] == pytest.approx(128 / 255) and radius["upper"] == pytest.approx(128 / 255)
    assert main(["range", *tiny, "--grid", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["ranges"][0]["minimum"]["upper"] == pytest.approx(4 / 7)


def test_a_proof_for_8_bit_images_is_checked_as_that_and_refused_as_more(
    tiny: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = str(tmp_path / "a.proof")
    assert main(["prove", *tiny, "--grid", "7", "--out", proof]) == 0
    for more in ([], ["--standalone"]):
        assert main(["check", proof, *tiny, "--grid", "7", *more]) == 0
        assert main(["check", proof, *tiny, *more]) == 1
        assert "--grid 7" in capsys.readouterr().out
    assert main(["check", proof, *tiny, "--grid", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["grid"] == 7


def test_the_property_beside_a_proof_keeps_the_grid(tiny: tuple[str, str], tmp_path: Path) -> None:
    proof, x = str(tmp_path / "a.proof"), write_input(tmp_path / "x.npy", 1.0)
    assert main(["verify", tiny[0], "--input", x, "--label", "0", "--eps", "0.45", "--8bit", "--proof", proof]) == 0
    saved = load_property(Path(proof + ".json"))
    assert saved.cases[0].region.grid is not None and saved.cases[0].region.grid.steps == 255
    assert main(["check", proof, tiny[0], proof + ".json"]) == 0
    assert main(["check", proof, tiny[0], proof + ".json", "--8bit", "--standalone"]) == 0
    assert main(["check", proof, tiny[0], proof + ".json", "--grid", "5", "--standalone"]) == 2
    assert main(["check", proof, tiny[0], proof + ".json", "--standalone"]) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--grid", "0"], "from 1 to 65535"),
        (["--grid", "2.5"], "from 1 to 65535"),
        (["--grid", "70000"], "from 1 to 65535"),
        (["--grid", "255", "--8bit"], "not allowed with"),
    ],
)
def test_a_grid_that_is_none_is_one_line(
    tiny: tuple[str, str], options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", *tiny, *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_region_without_a_grid_point_is_one_line(
    tiny: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = write_input(tmp_path / "x.npy", 0.55)
    assert main(["verify", tiny[0], "--input", x, "--eps", "0.01", "--grid", "10"]) == 2
    assert "no k/10 lies between" in capsys.readouterr().err
    assert main(["verify", *tiny, "--grid", "1"]) == 0
    assert main(["epsilon", tiny[0], "--input", x, "--eps-max", "1", "--grid", "10"]) == 2
    assert "is no k/10" in capsys.readouterr().err


def test_a_grid_is_one_of_raw_pixels(tiny: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = ["--input", write_input(tmp_path / "x.npy", 1.0), "--eps", "0.2", "--mean", "0", "--std", "0.5", "--8bit"]
    assert main(["verify", tiny[0], *about, "--eps-space", "input"]) == 2
    assert "--eps-space pixel" in capsys.readouterr().err
    assert main(["verify", tiny[0], *about, "--eps-space", "pixel"]) == 0


def test_a_saved_witness_is_the_nearest_float_of_a_grid_point(
    tiny: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", *tiny, "--8bit", "--json"]) == 0
    witness = json.loads(capsys.readouterr().out)["result"]["witness"]
    k = np.rint(np.array(witness["x"]) * 255)
    assert np.array_equal(k / 255, witness["x"]) and 125 <= k[0] <= 127

"""`polytope` on the command line: the numbers of the library, pictures that are whole or absent, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import milpverify as mv
from milpverify.cli import main
from tests.paths import ROOT

DIGITS = str(ROOT / "milpverify" / "data" / "digits.onnx")


@pytest.fixture
def digit(tmp_path: Path) -> list[str]:
    """NET --input FILE, an image of a 3."""
    with np.load(ROOT / "milpverify" / "data" / "digits.npz") as digits:
        np.save(tmp_path / "x.npy", digits["images"][3])
    return [DIGITS, "--input", str(tmp_path / "x.npy"), "--clip", "0", "1"]


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["polytope", *arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    result: dict[str, Any] = json.loads(out)["result"]
    return result


def test_two_inputs_give_the_exact_set_of_linear_regions(capsys, digit):
    told = ask(capsys, *digit, "--eps", "0.6", "--inputs", "27,28", "--outputs", "3,8", "--methods", "crown,interval")
    net = mv.from_onnx(DIGITS)
    x = np.load(digit[2]).reshape(-1).astype(float)
    free = np.isin(np.arange(64), [27, 28])
    box = mv.Box(np.where(free, np.maximum(x - 0.6, 0), x), np.where(free, np.minimum(x + 0.6, 1), x))
    regions = mv.linear_regions(net, box)
    image = regions.image(np.eye(10)[[3, 8]])
    assert told["regions"] == len(regions) > 3 and told["exact_area"] == pytest.approx(image.area, rel=1e-9)
    assert np.allclose(told["hull"], image.hull)
    assert [row["method"] for row in told["relaxations"]] == ["crown", "interval"]
    assert all(row["ratio"] >= 1.0 and row["largest_gap"] >= row["mean_gap"] >= 0.0 for row in told["relaxations"])


def test_more_inputs_give_the_hull_that_the_exact_ranges_bound(capsys, digit):
    told = ask(capsys, *digit, "--eps", "0.05", "--outputs", "3,8", "--methods", "crown")
    assert told["regions"] is None and told["relaxations"][0]["ratio"] >= 1.0
    low, high = np.min(told["hull"], axis=0), np.max(told["hull"], axis=0)
    net, x = mv.from_onnx(DIGITS), np.load(digit[2])
    ranges = mv.output_range(net, mv.LinfBall(x.reshape(1, 1, 8, 8), 0.05, clip=(0, 1)))
    for place, output in enumerate((3, 8)):
        exact = ranges[output]
        assert low[place] == pytest.approx(exact.minimum.lower, abs=1e-4)
        assert high[place] == pytest.approx(exact.maximum.upper, abs=1e-4)


def test_making_neurons_exact_shrinks_the_outline_of_the_lp(capsys, digit, tmp_path):
    gaps = tmp_path / "gaps.svg"
    told = ask(capsys, *digit, "--eps", "0.15", "--outputs", "3,8", "--methods", "lp",
               "--make-exact", "3", "--gaps", str(gaps))  # fmt: skip
    lp, some = told["relaxations"]
    assert [lp["method"], some["method"]] == ["lp", "exact neurons"]
    assert 1.0 <= some["ratio"] < lp["ratio"] - 0.01
    assert told["gap"]["lower"] <= told["gap"]["attained"] and len(told["gap"]["neurons"]) >= 3
    assert gaps.read_text().rstrip().endswith("</svg>") and told["plots"] == [None, str(gaps)]


@pytest.mark.parametrize("dark", [(), ("--dark",)])
def test_the_picture_and_the_table_are_shown(capsys, digit, tmp_path, dark):
    picture = tmp_path / "p.png"
    assert main(["polytope", *digit, "--eps", "0.6", "--inputs", "27,28", "--plot", str(picture), *dark]) == 0
    out = capsys.readouterr().out
    assert "regions: area" in out and "fastlin" in out and f"drawn in {picture}" in out
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "options, complaint",
    [
        (("--eps", "0.1", "--outputs", "3,3"), "two different outputs"),
        (("--eps", "0.1", "--outputs", "3,10"), "two different outputs of 0 to 9"),
        (("--eps", "0.1", "--outputs", "1"), "two different outputs"),
        (("--eps", "0.1", "--inputs", "64,65"), "inputs 0 to 63"),
        (("--eps", "0.1", "--methods", "milp"), "unknown method"),
        (("--eps", "0.1", "--plot", "p.jpeg"), "must end in"),
        (("--eps", "0.1", "--gaps", "nowhere/p.svg"), "no folder"),
        (("--eps", "0.1", "--norm", "l2", "--inputs", "1,2"), "no box"),
        (("--eps", "0.1", "--norm", "l2", "--make-exact", "2"), "l2"),
        ((), "needs --eps"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(capsys, digit, tmp_path, monkeypatch, options, complaint):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["polytope", *digit, *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and complaint.lower() in err.lower()
    assert sorted(tmp_path.iterdir()) == before

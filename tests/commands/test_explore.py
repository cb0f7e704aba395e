"""`explore` on the command line: the page of `explore_page`, the fields of docs/json.md, no half-written file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milpverify.cli import main
from milpverify.network.from_onnx import from_onnx
from milpverify.polytope.linear_regions import linear_regions
from milpverify.polytope.random_network import random_network
from milpverify.spec.regions import Box, LinfBall
from tests.paths import ROOT
from tests.tiny import write_input, write_network

DIGITS = ROOT / "milpverify" / "data"
RANDOM = ("--random", "2-12-3", "--seed", "5")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What `explore ... --json` prints."""
    assert main(["explore", *arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    answer: dict[str, Any] = json.loads(out)
    return answer


def data_of(path: Path) -> dict[str, Any]:
    """What the page holds."""
    found = re.search('<script id="data" type="application/json">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_object_has_the_documented_fields_and_the_numbers_of_the_page(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    result = ask(capsys, *RANDOM, "--eps", "0.25,1/2", "--out", "page.html")["result"]
    text = (ROOT / "docs" / "json.md").read_text()
    text = text[text.index("- `explore`") : text.index("- `export`")]
    documented = set(re.findall(r"`(\w+)`", text)) - {"explore", "exact", "null"}
    assert set(result) == {"page", "size_bytes", "eps"}
    fields = {*result, *(name for scene in result["eps"] for name in scene)}
    rows = [row for scene in result["eps"] for row in scene["table"]]
    assert documented == {*fields, *(name for row in rows for name in row)} - {"method"}
    page = folder / "page.html"
    assert result["page"] == "page.html" and result["size_bytes"] == page.stat().st_size
    data = data_of(page)
    assert [scene["table"] for scene in result["eps"]] == [scene["table"] for scene in data["scenes"]]
    net = random_network((2, 12, 3), 5)
    for scene, eps in zip(result["eps"], (0.25, 0.5), strict=True):
        regions = linear_regions(net, LinfBall([0.0, 0.0], eps))
        assert (scene["eps"], scene["regions"], scene["shown"]) == (eps, len(regions), len(regions))
        assert scene["table"][0]["area"] == regions.image().area


def test_a_single_eps_is_reached_in_steps(capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--methods", "fastlin", "--neurons", "0")
    asked = ask(capsys, *RANDOM, "--eps", "1", *few)
    assert [scene["eps"] for scene in asked["result"]["eps"]] == [i / 10 for i in range(1, 11)]
    asked = ask(capsys, *RANDOM, "--eps", "1", "--steps", "2", *few)
    assert [scene["eps"] for scene in asked["result"]["eps"]] == [0.5, 1.0]
    assert [row["method"] for row in asked["result"]["eps"][0]["table"]] == ["exact", "fastlin"]


def test_two_pixels_of_an_image_vary_within_the_clip(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    files = (str(DIGITS / "digits.onnx"), "--input", str(DIGITS / "digits.npz"), "--key", "images", "--index", "3")
    plane = ("--inputs", "27,28", "--outputs", "3,8", "--clip", "0", "1", "--methods", "crown")
    result = ask(capsys, *files, *plane, "--eps", "0.9", "--steps", "1", "--out", "p.html")["result"]
    net = from_onnx(DIGITS / "digits.onnx")
    x = net.flat(np.load(DIGITS / "digits.npz")["images"][3]).astype(np.float64)
    low, high = x.copy(), x.copy()
    low[[27, 28]], high[[27, 28]] = 0.0, 1.0
    assert (np.abs(x[[27, 28]] - 0.5) < 0.4).all()  # the ball reaches both ends of the clip
    regions = linear_regions(net, Box(low, high))
    assert result["eps"][0]["regions"] == len(regions)
    rows = np.eye(10)[[3, 8]]
    assert result["eps"][0]["table"][0]["area"] == pytest.approx(regions.image(rows).area, rel=1e-12)
    assert data_of(folder / "p.html")["centre"] == x[[27, 28]].tolist()


def test_the_screen_tells_regions_and_where_the_page_is(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["explore", *RANDOM, "--eps", "0.5", "--steps", "1", "--title", "A <b>"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "random 2-12-3, seed 5: 2 inputs, 12 ReLUs, 3 outputs"
    assert lines[1].split()[:3] == ["eps", "regions", "shown"] and lines[2].split()[0] == "0.5"
    assert lines[-1].startswith("wrote explore.html (") and "<title>A &lt;b&gt;</title>" in (
        folder / "explore.html"
    ).read_text("utf-8")


BAD = {
    "no eps": (*RANDOM,),
    "eps of zero": (*RANDOM, "--eps", "0"),
    "negative eps": (*RANDOM, "--eps", "0.1,-0.1"),
    "eps of words": (*RANDOM, "--eps", "small"),
    "steps of a list": (*RANDOM, "--eps", "0.1,0.2", "--steps", "3"),
    "no network": ("--eps", "0.1"),
    "no input": ("good.onnx", "--eps", "0.1"),
    "both networks": ("good.onnx", *RANDOM, "--eps", "0.1"),
    "input of a random network": (*RANDOM, "--eps", "0.1", "--input", "x.npy"),
    "index of a random network": (*RANDOM, "--eps", "0.1", "--index", "0"),
    "one input": ("good.onnx", "--input", "x.npy", "--eps", "0.1"),
    "three inputs": ("--random", "3-4-2", "--eps", "0.1"),
    "sizes": ("--random", "2-x-2", "--eps", "0.1"),
    "inputs": (*RANDOM, "--eps", "0.1", "--inputs", "0,2"),
    "outputs": (*RANDOM, "--eps", "0.1", "--outputs", "1"),
    "unknown method": (*RANDOM, "--eps", "0.1", "--methods", "best"),
    "method twice": (*RANDOM, "--eps", "0.1", "--methods", "lp,lp"),
    "norm": (*RANDOM, "--eps", "0.1", "--norm", "l1"),
    "clip without x": (*RANDOM, "--eps", "0.1", "--clip", "1", "2"),
    "neurons": (*RANDOM, "--eps", "0.1", "--neurons", "-1"),
    "missing folder": (*RANDOM, "--eps", "0.1", "--out", "none/page.html"),
    "folder as page": (*RANDOM, "--eps", "0.1", "--out", "."),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_the_earlier_page(
    capsys: pytest.CaptureFixture[str], folder: Path, name: str
) -> None:
    write_network(folder / "good.onnx")
    write_input(folder / "x.npy", 1.0)
    (folder / "explore.html").write_text("an earlier page")
    before = sorted(folder.iterdir())
    assert main(["explore", *BAD[name]]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"milpverify: error: [^\n]+\n", err)
    assert sorted(folder.iterdir()) == before and (folder / "explore.html").read_text() == "an earlier page"


def test_other_commands_do_not_load_the_page() -> None:
    code = "import sys, milpverify.cli as c; c.build_parser(); print([m for m in sys.modules if 'polytope.' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"

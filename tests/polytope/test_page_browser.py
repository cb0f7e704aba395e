"""The page in a browser: it draws, the slider and the switches act, pointing at a region says what the network does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from milpverify.bounds.backward import Crown, FastLin
from milpverify.polytope.page import Page, PageOptions, explore_page
from milpverify.polytope.page_scene import Relaxation
from milpverify.polytope.plot_style import DARK, LIGHT
from milpverify.polytope.random_network import random_network
from milpverify.tighten.lp import TriangleLP
from tests.polytope.chromium import chromium, print_page, screenshot, visit

EPS = (0.1, 0.2, 0.4)
NET = random_network((2, 16, 16, 2), 27)  # both classes have a part of the inputs
RELAXATIONS = (Relaxation("lp", TriangleLP(), Crown()), Relaxation("crown", Crown()), Relaxation("fastlin", FastLin()))
OPTIONS = PageOptions(relaxations=RELAXATIONS, title="A <page> & its test")
# Of everything that a reader can see: text, outlines, marks and pixels.
LOOK = """
const look = () => {
  const canvases = [...document.querySelectorAll("canvas")].map((canvas) => canvas.toDataURL());
  const paths = (selector) => [...document.querySelectorAll(selector)].map((path) => path.getAttribute("d"));
  return {
    eps: document.getElementById("eps-value").textContent, canvases,
    input: paths("#input-plane .mark"), output: paths("#output-plane .mark"), folds: paths(".fold"),
    outlines: [...document.querySelectorAll(".outline")].map((path) => path.dataset.method),
    off: [...document.querySelectorAll("tbody tr.off")].map((row) => row.dataset.method),
    table: [...document.querySelectorAll("tbody tr")].map((row) => [...row.children].map((cell) => cell.textContent)),
    readout: document.getElementById("readout").textContent, address: location.hash,
    width: [document.documentElement.scrollWidth, innerWidth],
  };
};
const slide = async (to) => {
  const dial = document.getElementById("eps");
  dial.value = to;
  dial.dispatchEvent(new Event("input", { bubbles: true }));
  await pause();
};
const point = async (side, x, y, kind = "pointermove") => {
  const plane = planes[side], box = plane.stage.getBoundingClientRect();
  const where = { clientX: box.left + plane.px(x), clientY: box.top + plane.py(y), pointerType: "mouse" };
  plane.stage.dispatchEvent(new PointerEvent(kind, where));
  await pause();
};
const press = async (side, key) => {
  planes[side].stage.focus();
  planes[side].stage.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  await pause();
};
await pause();
"""


@pytest.fixture(scope="module")
def page() -> Page:
    """A small page, once."""
    chromium()
    return explore_page(NET, [0.25, -0.5], EPS, OPTIONS)


@pytest.fixture(scope="module")
def file(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page as a file."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page.html, encoding="utf-8")
    return path


def number(text: str) -> float:
    """A number as the page writes it."""
    return float(text.replace("−", "-"))


def clean(report: dict[str, Any]) -> dict[str, Any]:
    """The report of a visit in which nothing went wrong and nothing was loaded."""
    assert report["wrong"] == [] and report["resources"] == []
    return report


def test_the_slider_changes_the_planes_and_the_table_and_back(page: Page, file: Path) -> None:
    script = "report.last = look(); await slide(0); report.first = look(); await slide(2); report.again = look();"
    report = clean(visit(file, LOOK + script))
    first, last, again = report["first"], report["last"], report["again"]
    assert (first["eps"], last["eps"]) == ("0.1", "0.4") and again == last | {"address": again["address"]}
    assert all(a != b for a, b in zip(first["canvases"], last["canvases"], strict=True))
    for shown, scene in ((first, page.scenes[0]), (last, page.scenes[2])):
        for cells, row in zip(shown["table"], scene.numbers, strict=True):
            assert number(cells[1]) == pytest.approx(row.area, rel=1e-3)
            assert number(cells[4]) == pytest.approx(row.largest_gap, rel=1e-2)


def test_a_switch_takes_a_relaxation_away_and_brings_it_back(file: Path) -> None:
    script = """
    const box = document.querySelector("#methods input[value=crown]");
    report.on = look(); box.click(); await pause(); report.off = look();
    box.click(); await pause(); report.back = look();
    document.querySelector("#methods input[value=exact]").click(); await pause(); report.bare = look();
    """
    report = clean(visit(file, LOOK + script))
    assert sorted(report["on"]["outlines"]) == ["crown", "exact", "fastlin", "lp"] and report["on"]["off"] == []
    assert sorted(report["off"]["outlines"]) == ["exact", "fastlin", "lp"] and report["off"]["off"] == ["crown"]
    assert "off=crown" in report["off"]["address"]
    assert report["back"]["outlines"] == report["on"]["outlines"]
    assert report["bare"]["canvases"][1] != report["on"]["canvases"][1]
    assert report["bare"]["canvases"][0] == report["on"]["canvases"][0]


def test_pointing_at_a_region_marks_it_in_both_planes_and_tells_its_outputs(page: Page, file: Path) -> None:
    regions = page.scenes[-1].regions
    middling = int(np.argsort(regions.areas)[len(regions) // 2])
    x = regions.polygon(middling).mean(axis=0)
    y = NET.forward(x)
    script = f"""
    report.nothing = look(); await point("input", {x[0]}, {x[1]}); report.there = look();
    await point("input", 0, 0, "pointerleave"); report.gone = look();
    await point("output", {y[0]}, {y[1]}); report.image = look();
    """
    report = clean(visit(file, LOOK + script))
    nothing, there, image = report["nothing"], report["there"], report["image"]
    assert nothing["input"] == nothing["output"] == report["gone"]["input"] == []
    assert len(there["input"]) == len(there["output"]) == len(image["input"]) == 1
    told = there["readout"].replace("−", "-")
    assert f"area{regions.areas[middling]:.4g} " in told and "overlap" not in told
    assert f"y₀, y₁{y[0]:.4g}, {y[1]:.4g}" in told
    assert f"{sum(regions.pattern(k)[middling].sum() for k in (1, 2))} of 32 ReLUs active" in told
    # No other region has this output: it is the same one, and the same input.
    assert "overlap" not in image["readout"]
    assert image["readout"].split("map")[1] == there["readout"].split("map")[1]
    assert f"x₀, x₁{x[0]:.4g}, {x[1]:.4g}" in image["readout"].replace("−", "-")


def test_every_pixel_of_the_inputs_has_the_colour_of_its_class(page: Page, file: Path) -> None:
    rng = np.random.default_rng(0)
    points = page.scenes[-1].regions.input_slice.sample(rng, 400)
    script = f"""
    await slide(2);
    document.getElementById("colour").value = "class";
    document.getElementById("colour").dispatchEvent(new Event("change"));
    await pause();
    const plane = planes.input, {{ width, height }} = plane.canvas;
    const all = plane.canvas.getContext("2d").getImageData(0, 0, width, height).data;
    report.pixels = {points.tolist()}.map(([x, y]) => {{
      const at = 4 * (Math.floor(plane.py(y)) * width + Math.floor(plane.px(x)));
      return [...all.slice(at, at + 3)];
    }});
    """
    pixels = clean(visit(file, LOOK + script))["pixels"]
    fills = [[int(LIGHT.classes[label][at : at + 2], 16) for at in (1, 3, 5)] for label in (0, 1)]
    seen = np.array([fills.index(pixel) if pixel in fills else -1 for pixel in pixels])
    y = NET.forward(points)
    assert 0.1 < y.argmax(axis=1).mean() < 0.9  # both classes are there
    assert (seen >= 0).mean() > 0.8  # the others lie on an edge
    sure = (seen >= 0) & (np.abs(y[:, 0] - y[:, 1]) > 0.02)
    assert sure.mean() > 0.7 and (seen == y.argmax(axis=1))[sure].all()


def test_the_keyboard_reaches_regions_and_lets_go(file: Path) -> None:
    script = """
    await press("input", "ArrowRight"); report.there = look(); await press("input", "Enter"); report.kept = look();
    await point("input", 9, 9, "pointermove"); report.away = look();
    await press("input", "Escape"); report.gone = look();
    await press("input", "+"); report.near = look(); await press("input", "0"); report.far = look();
    """
    report = clean(visit(file, LOOK + script))
    assert len(report["there"]["input"]) == len(report["kept"]["input"]) == len(report["away"]["input"]) == 1
    assert "kept" in report["away"]["readout"] and report["gone"]["input"] == []
    assert report["near"]["canvases"][0] != report["far"]["canvases"][0] == report["gone"]["canvases"][0]


def test_the_address_sets_the_state(file: Path) -> None:
    script = "report.there = look();"
    there = clean(visit(file, LOOK + script, fragment="#eps=0.2&off=crown,nothing&colour=active&fit=0"))["there"]
    assert there["eps"] == "0.2" and there["off"] == ["crown"]
    assert there["address"] == "#eps=0.2&off=crown,nothing&colour=active&fit=0"
    assert there["width"][0] <= there["width"][1] == 1280


def test_the_paper_is_dark_where_the_reader_asks_for_it(file: Path, tmp_path: Path) -> None:
    for dark in (False, True):
        path = tmp_path / f"{dark}.png"
        screenshot(file, path, dark=dark)
        pixels = np.asarray(Image.open(path).convert("RGB"))
        paper = [int(DARK.paper[at : at + 2], 16) for at in (1, 3, 5)] if dark else [255, 255, 255]
        assert pixels.shape == (800, 1280, 3) and (pixels[0, 0] == paper).all()
        assert (pixels == paper).all(axis=2).mean() > 0.4  # not only the corner
        assert (np.abs(pixels.astype(int) - paper).max(axis=2) > 60).mean() > 0.05  # and something is on it


def test_a_neuron_pointed_at_shows_where_it_folds(page: Page, file: Path) -> None:
    script = """
    report.folds = [];
    for (const row of document.querySelectorAll(".gap")) {
      row.dispatchEvent(new PointerEvent("pointerenter"));
      await pause();
      const { entry, at } = state.neuron, lines = at < 0 ? [] : fold(scene(), at).input;
      report.folds.push({ neuron: entry.neuron, lines, drawn: look().folds, told: look().readout });
      row.dispatchEvent(new PointerEvent("pointerleave"));
    }
    await pause();
    report.gone = look().folds;
    """
    report = clean(visit(file, LOOK + script, fragment="#eps=0.4"))
    shown, regions = 0, page.scenes[-1].regions
    inside = regions.input_slice.sample(np.random.default_rng(0), 4000)
    for found in report["folds"]:
        layer, index = found["neuron"]
        on = (NET.activations(inside)[0][layer - 1][:, index] > 0).mean()
        ends = np.reshape(found["lines"], (-1, 2))
        assert NET.activations(ends)[0][layer - 1][:, index] == pytest.approx(np.zeros(len(ends)), abs=1e-5)
        assert (len(ends) > 0) == (0 < on < 1)
        if len(ends):
            shown += 1
            assert len(found["drawn"]) == 2 and all(text.startswith("M") for text in found["drawn"])
            told = float(found["told"].split("onin ")[1].split("\u202f%")[0])
            assert told == pytest.approx(100 * on, abs=4)
        else:
            assert "never switches" in found["told"]
    assert shown >= 3 and report["gone"] == []


def test_nothing_is_wider_than_a_phones_window(file: Path) -> None:
    there = clean(visit(file, LOOK + "report.there = look();", size="500,900"))["there"]
    assert there["width"][0] <= there["width"][1] == 500  # the narrowest that a headless Chromium opens


def test_paper_gets_every_region_as_a_drawing_in_the_colours_of_paper(page: Page, file: Path) -> None:
    script = """
    const drawn = () => ["input", "output"].map((side) => planes[side].layers.regions.children.length);
    report.before = drawn();
    window.dispatchEvent(new Event("beforeprint"));
    report.paper = drawn();
    report.fills = new Set([...planes.input.layers.regions.children].map((path) => path.style.fill)).size;
    window.dispatchEvent(new Event("afterprint"));
    report.after = drawn();
    """
    report = clean(visit(file, LOOK + script, fragment="#eps=0.4&colour=class", dark=True))
    scene = page.data["scenes"][-1]
    shared = [part[0] for part in scene["parts"]]
    fills = len(scene["faces"]) - len({*shared}) + len(shared)
    assert report["paper"] == [fills + 1, fills + 1]  # and one path of all edges
    assert report["fills"] == 3  # two classes, and the edges' none
    assert report["before"] == report["after"] == [0, 0]


def test_the_page_prints_on_two_sheets_at_most(file: Path, tmp_path: Path) -> None:
    print_page(file, tmp_path / "page.pdf")
    printed = (tmp_path / "page.pdf").read_bytes()
    assert printed[:4] == b"%PDF" and 1 <= printed.count(b"/Type /Page\n") <= 2

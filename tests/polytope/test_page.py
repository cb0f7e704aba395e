"""The page's data are those of the objects they come from, and the page is one file that asks for nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from milpverify.bounds.backward import Crown, FastLin
from milpverify.bounds.norms import NormBounds
from milpverify.errors import InputError, NetworkError, OptionError, RegionError
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import Dense
from milpverify.polytope.attribution import attribute_gap
from milpverify.polytope.comparison import compare_outlines
from milpverify.polytope.convex import polygon_area
from milpverify.polytope.linear_regions import linear_regions
from milpverify.polytope.outline import outline
from milpverify.polytope.page import RELAXATIONS, Page, PageOptions, explore_page
from milpverify.polytope.page_faces import joined, rounded, significant
from milpverify.polytope.page_scene import Relaxation
from milpverify.polytope.page_text import page_text
from milpverify.polytope.plot_style import LIGHT, PENS
from milpverify.polytope.random_network import random_network
from milpverify.spec.regions import Box, LinfBall
from milpverify.tasks.progress import Progress
from milpverify.tighten.lp import TriangleLP

NET, X, EPS = random_network((2, 16, 16, 3), 53), np.array([0.2, -0.1]), (0.4, 1.5)
FEW = (Relaxation("lp", TriangleLP(), Crown()), Relaxation("fastlin", FastLin()))


@pytest.fixture(scope="module")
def page() -> Page:
    """A page whose regions meet all three classes."""
    return explore_page(NET, X, EPS, PageOptions(relaxations=FEW, neurons=4, title="</script><b>& more"))


def written(page: Page) -> dict[str, Any]:
    """The data as a browser reads them from the file."""
    found = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page.html, re.DOTALL)
    assert len(found) == 1
    data: dict[str, Any] = json.loads(found[0])
    return data


def polygons(scene: dict[str, Any], face: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """A face in the plane of inputs and in that of outputs."""
    corners = np.reshape(scene["vertices"], (-1, 4))[np.array(face[3:], dtype=int)]
    return corners[:, :2], corners[:, 2:]


def test_the_file_holds_the_data_and_plain_text_stays_text(page: Page) -> None:
    assert written(page) == page.data
    assert "<title>&lt;/script&gt;&lt;b&gt;&amp; more</title>" in page.html and "<b>& more" not in page.html
    assert not re.search("@[A-Z]+@", page.html)  # every mark of the template was filled in


def test_no_text_of_the_data_ends_the_element_that_holds_it() -> None:
    data = {"methods": [], "classes": ["</script><script>alert(1)</script>", "<!--"]}
    text = page_text("@DATA@", "@SCRIPT@", data)
    found = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert [json.loads(part) for part in found] == [data] and "alert" in found[0]
    assert text.count("<title>@DATA@</title>") == 1 and ">@SCRIPT@<" in text


def test_the_file_asks_for_nothing(page: Page) -> None:
    assert "default-src 'none'" in page.html
    for asking in ("http:", "https:", 'src="', "url(", "@import", "fetch(", "XMLHttpRequest", "import(", "<iframe"):
        assert asking not in page.html
    assert re.findall(r'href="([^"]*)"', page.html) == ["data:,"]


def test_the_table_has_the_numbers_of_the_outlines(page: Page) -> None:
    for eps, data in zip(EPS, written(page)["scenes"], strict=True):
        ball = LinfBall(X, eps)
        image = linear_regions(NET, ball).image()
        found = [outline(NET, ball, drawn.method, hidden=drawn.hidden) for drawn in FEW]
        exact, *rows = data["table"]
        assert exact["method"] == "exact" and exact["ratio"] == 1.0
        assert exact["area"] == image.area and np.array(exact["range"]).T == pytest.approx(
            np.stack([image.points.min(axis=0), image.points.max(axis=0)]), abs=0
        )
        for row, one, compared in zip(rows, found, compare_outlines(found, image).rows, strict=True):
            names = ("area", "ratio", "largest_gap", "mean_gap")
            assert row["method"] == one.name
            assert [row[name] for name in names] == [getattr(compared, name) for name in names]
            assert np.array(row["range"]).tolist() == [list(ends) for ends in zip(*_extremes(one.outer), strict=True)]
            [ring] = data["outlines"][row["method"]]
            assert np.reshape(ring, (-1, 2))[:-1] == pytest.approx(one.outer, abs=1e-6 * np.ptp(one.outer))


def _extremes(points: np.ndarray) -> tuple[list[float], list[float]]:
    return points.min(axis=0).tolist(), points.max(axis=0).tolist()


def test_faces_tile_the_inputs_and_carry_the_networks_own_values(page: Page) -> None:
    data, rng = written(page), np.random.default_rng(0)
    for eps, scene in zip(EPS, data["scenes"], strict=True):
        assert scene["regions"] == len(scene["faces"]) and scene["shown_share"] == pytest.approx(1.0, abs=1e-12)
        assert scene["area"] == pytest.approx(4 * eps * eps, rel=1e-12)
        areas = [polygon_area(polygons(scene, face)[0]) for face in scene["faces"]]
        assert sum(areas) == pytest.approx(scene["area"], rel=1e-4)
        for face, area in zip(scene["faces"], areas, strict=True):
            assert face[2] == pytest.approx(area, abs=1e-5 * scene["area"])
            inputs, images = polygons(scene, face)
            assert images == pytest.approx(NET.forward(inputs)[:, :2], abs=1e-4)
            within = rng.dirichlet(np.ones(len(inputs))) @ inputs
            A = np.reshape(data["pieces"][int(face[0])]["map"], (2, 3))
            assert A[:, :2] @ within + A[:, 2] == pytest.approx(NET.forward(within)[:2], abs=1e-4)


def test_patterns_are_those_of_the_regions(page: Page) -> None:
    data = written(page)
    neurons, regions = data["neurons"], page.scenes[-1].regions
    full = np.concatenate([regions.pattern(1), regions.pattern(2)], axis=1)
    order = np.argsort(-regions.areas, kind="stable")
    assert data["relus"] == full.shape[1] == 32
    for face, region in zip(data["scenes"][-1]["faces"], order, strict=True):
        piece = data["pieces"][face[0]]
        assert piece["active"] == full[region].sum()
        assert _bits(piece["bits"], len(neurons)) == [bool(full[region][16 * (k - 1) + i]) for k, i in neurons]
    hidden, _ = NET.activations(X)
    assert _bits(data["home"], len(neurons)) == [bool(hidden[k - 1][i] > 0) for k, i in neurons]
    fixed = np.setdiff1d(np.arange(32), [16 * (k - 1) + i for k, i in neurons])
    assert (full[:, fixed] == full[:1, fixed]).all() and 0 < len(fixed) < 32


def _bits(text: str, count: int) -> list[bool]:
    return [bool(int(text[i // 4], 16) >> (3 - i % 4) & 1) for i in range(count)]


def test_classes_are_the_largest_outputs_and_parts_tile_the_faces_that_share_some(page: Page) -> None:
    scene, seen = written(page)["scenes"][-1], set()
    parts: dict[int, list[tuple[int, np.ndarray]]] = {}
    for face, label, *flat in scene["parts"]:
        corners = np.reshape(flat, (-1, 4))
        parts.setdefault(face, []).append((label, corners[:, :2]))
        assert corners[:, 2:] == pytest.approx(NET.forward(corners[:, :2])[:, :2], abs=1e-4)
    for i, face in enumerate(scene["faces"]):
        inputs, _ = polygons(scene, face)
        pieces = [(face[1], inputs)] if face[1] >= 0 else parts.pop(i)
        assert sum(polygon_area(part) for _, part in pieces) == pytest.approx(polygon_area(inputs), abs=1e-5)
        for label, part in pieces:
            if polygon_area(part) > 1e-4:
                assert NET.forward(part.mean(axis=0)).argmax() == label
                seen.add(label)
    assert not parts and seen == {0, 1, 2}


def test_the_boundary_is_that_of_the_image(page: Page) -> None:
    for scene, drawn in zip(page.scenes, page.data["scenes"], strict=True):
        segments = [np.stack([line[:-1], line[1:]], axis=1) for line in _lines(drawn["outlines"]["exact"])]
        found = np.concatenate(segments)
        assert len(found) == len(scene.image.boundary)
        far = np.abs(found.reshape(-1, 1, 4) - scene.image.boundary.reshape(1, -1, 4)).max(axis=2)
        assert (far.min(axis=0) < 1e-5).all() and (far.min(axis=1) < 1e-5).all()


def _lines(rings: list[list[float]]) -> list[np.ndarray]:
    return [np.reshape(ring, (-1, 2)) for ring in rings]


def test_segments_are_joined_where_one_goes_on_from_another() -> None:
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    ring = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)
    alone = np.array([[[5.0, 5.0], [6.0, 5.0]]])
    lines = joined(np.concatenate([ring[[1]], alone, ring[[0, 2]]]))
    assert [len(line) for line in lines] == [4, 2]
    assert (lines[0][0] == lines[0][-1]).all() and {*map(tuple, lines[0].tolist())} == {*map(tuple, corners.tolist())}


def test_gaps_are_those_of_the_attribution(page: Page) -> None:
    data = written(page)["scenes"][-1]["gaps"]
    first, second = np.argsort(NET.forward(X))[[-1, -2]]
    row = np.eye(3)[first] - np.eye(3)[second]
    found = attribute_gap(NET, LinfBall(X, EPS[-1]), row, hidden=Crown(), candidates=4)
    ranked = [neuron for neuron in found.neurons if neuron.gain is not None]
    assert [entry["neuron"] for entry in data["neurons"]] == [[n.layer, n.index] for n in ranked]
    assert [entry["gap"] for entry in data["neurons"]] == [n.gain for n in ranked] and len(ranked) >= 4
    values = NET.forward(LinfBall(X, EPS[-1]).sample(np.random.default_rng(0), 1000)) @ row
    assert found.lower == data["lower"] <= data["least"] <= values.min()


def test_no_more_regions_are_drawn_than_allowed_and_the_page_says_so() -> None:
    options = PageOptions(relaxations=FEW[1:], max_regions=5)
    page, whole = explore_page(NET, X, (1.5,), options), explore_page(NET, X, (1.5,), replace(options, max_regions=999))
    [some], [every] = page.data["scenes"], whole.data["scenes"]
    assert some["regions"] == every["regions"] == len(every["faces"]) > len(some["faces"]) == 5
    assert [face[2] for face in some["faces"]] == sorted((face[2] for face in every["faces"]), reverse=True)[:5]
    assert some["shown_share"] == pytest.approx(sum(face[2] for face in some["faces"]) / 9.0, rel=1e-5)
    assert page.to_dict()["eps"][0]["shown"] == 5
    # A region takes its vertices, corners, map and pattern: 200 to 300 bytes each, whatever the network.
    assert len(page.html) < len(whole.html) < len(page.html) + 400 * (every["regions"] - 5)


def test_inputs_that_do_not_vary_stay_at_x_and_the_order_of_names_does_not_matter() -> None:
    net, x = random_network((4, 12, 3), 1), np.array([0.1, 0.2, 0.3, 0.4])
    options = PageOptions(relaxations=FEW, inputs=(3, 1), outputs=(2, 0), neurons=0, clip=(0, 1))
    page = explore_page(net, x, (0.3,), options)
    [scene] = page.data["scenes"]
    assert page.data["inputs"] == ["x₁", "x₃"] and page.data["outputs"] == ["y₂", "y₀"] and scene["gaps"] is None
    assert page.data["centre"] == [0.2, 0.4]
    assert np.reshape(scene["polygon"], (-1, 2)).min(axis=0).tolist() == pytest.approx([0.0, 0.1])
    for face in scene["faces"]:
        inputs, images = polygons(scene, face)
        full = np.tile(x, (len(inputs), 1))
        full[:, [1, 3]] = inputs
        assert images == pytest.approx(net.forward(full)[:, [2, 0]], abs=1e-4)
    box = Box(np.array([0.1, 0.0, 0.3, 0.1]), np.array([0.1, 0.5, 0.3, 0.7]))
    found = outline(net, box, FastLin(), rows=np.eye(3)[[2, 0]])
    assert scene["table"][2]["area"] == pytest.approx(found.area, rel=1e-9)


def test_a_network_that_is_constant_has_no_ratios() -> None:
    flat = Affine(((0, Dense(np.zeros((3, 2)))),), ((None, np.ones(3)),), 3)
    net = Network((2,), (2,), (flat,), Affine(((1, Dense(np.ones((2, 3)))),), ((None, np.zeros(2)),), 2))
    page = explore_page(net, [0.0, 0.0], (1.0,), PageOptions(relaxations=FEW))
    assert [row["ratio"] for row in written(page)["scenes"][0]["table"]] == [None, None, None]
    assert page.data["off"] == []


def test_the_page_opens_where_the_relaxations_can_be_seen() -> None:
    page = explore_page(NET, X, (0.05, 20.0), PageOptions(neurons=0))
    ratios = [[row.ratio or 0.0 for row in scene.numbers[1:]] for scene in page.scenes]
    assert min(ratios[1]) > 10 > min(ratios[0])
    assert page.data["start"] == 0
    assert page.data["off"] == [drawn.name for drawn, ratio in zip(RELAXATIONS, ratios[0], strict=True) if ratio > 30]


def test_every_relaxation_has_the_pen_of_the_figures(page: Page) -> None:
    for drawn in RELAXATIONS:
        assert drawn.name in PENS
    for name in ("exact", "lp", "fastlin"):
        assert f"--m-{name}: {PENS[name].light};" in page.html and f"--m-{name}: {PENS[name].dark};" in page.html
    assert [line["label"] for line in page.data["methods"]] == [
        LIGHT.label(name) for name in ("exact", "lp", "fastlin")
    ]


def test_the_page_says_whose_hidden_bounds_a_relaxation_stands_on(page: Page) -> None:
    assert page.data["table_note"].endswith("by itself; triangle LP takes those of CROWN.")
    alone = explore_page(NET, X, (0.1,), PageOptions(relaxations=FEW[1:]))
    assert alone.data["table_note"].endswith("Each method bounds the hidden neurons by itself.")


def test_radii_are_sorted_and_named_apart() -> None:
    page = explore_page(NET, X, (0.2, 0.1, 0.1, 0.1 + 1e-9), PageOptions(relaxations=FEW[1:]))
    assert [scene.eps for scene in page.scenes] == [0.1, 0.1 + 1e-9, 0.2]
    assert len({*page.data["labels"]}) == 3 and page.data["labels"][2] == "0.2"


def test_progress_is_told_before_each_radius() -> None:
    told: list[Progress] = []
    explore_page(NET, X, (0.1, 0.2), PageOptions(relaxations=()), on_progress=told.append)
    assert [(report.what, report.left) for report in told] == [("eps 0.1", 1), ("eps 0.2", 0)]


@pytest.mark.parametrize("points", [[[0.0, 0.0], [1.0, 1e-9]], [[1e9, 0.0], [1e9 + 1, 5.0]], [[2.0, 3.0], [2.0, 3.0]]])
def test_rounding_keeps_a_millionth_of_each_axis(points: list[list[float]]) -> None:
    values = np.array(points)
    extent = np.where(np.ptp(values, axis=0) > 0, np.ptp(values, axis=0), np.abs(values).max(axis=0))
    assert (np.abs(rounded(values, values) - values) <= 1e-6 * extent).all()


def test_significant_digits() -> None:
    assert [significant(value) for value in (0.0, 123456789.0, -1.23456789e-9)] == [0.0, 123457000.0, -1.23457e-9]


BAD: dict[str, tuple[Network, Any, Any, PageOptions, type[InputError], str]] = {
    "eps of zero": (NET, X, (0.0, 0.1), PageOptions(), RegionError, "positive and finite, got 0"),
    "no eps": (NET, X, (), PageOptions(), RegionError, "none came"),
    "NaN": (NET, X, (float("nan"),), PageOptions(), RegionError, "got nan"),
    "eps whose area is no float": (NET, [0.0, 0.0], (1e-200,), PageOptions(), RegionError, "area of 0"),
    "clip that leaves a line": (NET, [0.0, 0.0], (1.0,), PageOptions(clip=([0, 0], [0, 1])), RegionError, "area of 0"),
    "long input": (NET, [0.0] * 3, (0.1,), PageOptions(), NetworkError, "reads 2 values"),
    "four inputs": (random_network((4, 3, 2)), [0.0] * 4, (0.1,), PageOptions(), OptionError, "--inputs A,B"),
    "one input": (random_network((1, 3, 2)), [0.0], (0.1,), PageOptions(), OptionError, "needs two inputs"),
    "one output": (random_network((2, 3, 1)), X, (0.1,), PageOptions(), OptionError, "needs two outputs"),
    "input twice": (NET, X, (0.1,), PageOptions(inputs=(1, 1)), OptionError, "two different ones from 0 to 1"),
    "output beyond": (NET, X, (0.1,), PageOptions(outputs=(0, 3)), OptionError, "two different ones from 0 to 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_line(name: str) -> None:
    net, x, eps, options, error, words = BAD[name]
    with pytest.raises(error, match=re.escape(words)) as caught:
        explore_page(net, x, eps, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_regions": 0}, "max_regions"),
        ({"neurons": -1}, "neurons"),
        ({"relaxations": (*FEW, FEW[0])}, "different short words"),
        ({"relaxations": (Relaxation("exact", Crown()),)}, "different short words"),
        ({"relaxations": (Relaxation("a{}b", NormBounds()),)}, "different short words"),
    ],
)
def test_options_out_of_range_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        PageOptions(**change)


@pytest.mark.parametrize("sizes", [(2,), (2, 0, 2), (-1, 2)])
def test_a_random_network_needs_sizes(sizes: tuple[int, ...]) -> None:
    with pytest.raises(NetworkError, match="at least two positive ones"):
        random_network(sizes)


def test_a_random_network_is_the_same_every_time_and_scaled_by_its_inputs() -> None:
    assert random_network((2, 5, 3), 7).fingerprint == random_network((2, 5, 3), 7).fingerprint
    assert random_network((2, 5, 3), 7).fingerprint != random_network((2, 5, 3), 8).fingerprint
    wide = random_network((400, 400), 0)
    spread = wide.forward(np.eye(400)) - wide.output.bias
    assert np.std(spread) == pytest.approx(1 / 20, rel=0.02) and np.std(wide.output.bias) == pytest.approx(1, rel=0.1)

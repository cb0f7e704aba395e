"""Pictures of the input plane hold what the maps hold."""

import re

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.patches import PathPatch

import milpverify as mv
from milpverify.errors import OptionError
from milpverify.polytope import plot_regions as module
from milpverify.polytope.plot_regions import Samples, Wording, plot_regions
from milpverify.polytope.plot_style import DARK, LIGHT, save_figure
from tests.polytope.region_cases import area_within, lively_net

BOX = mv.Box(-np.ones(2), np.ones(2))


@pytest.fixture(scope="module")
def regions():
    return mv.linear_regions(lively_net(1, (2, 20, 20, 3)), BOX)


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return Samples(rng.uniform(-0.9, 0.9, (7, 2)), rng.integers(0, 3, 7), 0.05, np.array([[0.1, 0.2]]))


def loops(path):
    """The closed loops of a path, without their repeated ends."""
    ends = np.flatnonzero(path.codes == path.CLOSEPOLY)
    starts = np.append(0, ends[:-1] + 1)
    return [path.vertices[a:b] for a, b in zip(starts, ends, strict=True)]


def test_the_fills_have_the_areas_of_the_classes(regions):
    axes = plot_regions(regions).axes[0]
    drawn = [sum(map(area_within, loops(patch.get_path()))) for patch in axes.patches if isinstance(patch, PathPatch)]
    areas = mv.decision_map(regions).areas
    first, *others = areas[areas > 0].tolist()
    # The first class lies under all others.
    assert np.allclose(drawn, [first + sum(others), *others], rtol=1e-9) and abs(drawn[0] - 4.0) <= 1e-9


def test_the_caption_tells_regions_and_shares(regions):
    text = plot_regions(regions, wording=Wording(classes=("stop", "go", "wait"))).get_supxlabel().replace("\n", " ")
    assert text.startswith(f"{len(regions):,} linear regions.")
    shares = [float(number) for number in re.findall(r"([\d.]+)\s%", text)]
    areas = mv.decision_map(regions).areas
    assert np.allclose(shares, 25.0 * areas[areas > 0], atol=0.005)
    assert abs(sum(shares) - 100.0) <= 0.02 and ("go" in text) == (areas[1] > 0)


def test_every_inner_edge_is_drawn_once(regions):
    axes = plot_regions(regions).axes[0]
    lines = next(c for c in axes.collections if isinstance(c, PathCollection) and c.get_zorder() == 2.0)
    ends = np.concatenate([path.vertices for path in lines.get_paths()]).reshape(-1, 2, 2)
    corners = len(regions.corner)
    outer = sum(path_side(regions))
    assert len(ends) == (corners - outer) / 2
    assert len(np.unique(np.sort(ends.view("c16")[..., 0], axis=1), axis=0)) == len(ends)


def path_side(regions):
    """For each corner whether the edge to the next one lies on the rim of the box."""
    for i in range(len(regions)):
        p = regions.polygon(i)
        q = np.roll(p, -1, axis=0)
        yield from ((np.abs(p) == 1.0) & (p == q)).any(axis=1).tolist()


def test_every_ball_is_a_square_of_its_size_around_its_point(regions, samples):
    axes = plot_regions(regions, samples).axes[0]
    boxes = [np.asarray(b) for c in axes.collections if isinstance(c, LineCollection) for b in c.get_segments()]
    assert len(boxes) == 7
    middles = np.array([(b.min(axis=0) + b.max(axis=0)) / 2 for b in boxes])
    assert all(np.allclose(np.ptp(b, axis=0), 0.1) for b in boxes)
    assert np.allclose(np.sort(middles, axis=0), np.sort(samples.points, axis=0))


def test_many_edges_become_an_image_and_the_caption_says_so(regions, monkeypatch):
    assert "image" not in plot_regions(regions).get_supxlabel()
    monkeypatch.setattr(module, "VECTOR_EDGES", 10)
    figure = plot_regions(regions)
    assert "are drawn as an image" in figure.get_supxlabel().replace("\n", " ")
    assert any(c.get_rasterized() for c in figure.axes[0].collections)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_the_same_picture_twice_is_the_same_file(regions, samples, theme, tmp_path):
    for name in ("a.svg", "b.svg"):
        save_figure(plot_regions(regions, samples, theme=theme), tmp_path / name)
    first = (tmp_path / "a.svg").read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes() and first.rstrip().endswith(b"</svg>")


def test_samples_that_do_not_fit_are_refused():
    with pytest.raises(OptionError, match="expected"):
        Samples(np.zeros((3, 2)), np.zeros(2))
    with pytest.raises(OptionError, match="expected"):
        Samples(np.zeros((3, 3)), np.zeros(3))
    with pytest.raises(OptionError, match="eps"):
        Samples(np.zeros((3, 2)), np.zeros(3), eps=-1.0)

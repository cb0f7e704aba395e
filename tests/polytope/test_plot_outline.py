"""What is drawn is what was computed: every line an outline's polygon, every number in the caption its area."""

import re

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

import milpverify as mv
from milpverify.errors import OptionError
from milpverify.polytope.plot_outline import Panel, caption_of, plot_panels, plot_polytope, polytope_panel
from milpverify.polytope.plot_style import DARK, save_figure
from tests.polytope.planar_cases import random_net

METHODS = (mv.TriangleLP(), mv.Crown(), mv.FastLin())


@pytest.fixture(scope="module")
def panel():
    net = random_net(3, 2, 12, 12, 2)
    return polytope_panel(net, mv.LinfBall(np.zeros(2), 0.4), METHODS)


def test_every_line_is_the_outline_of_its_method(panel):
    axes = plot_panels([[panel]]).subfigs[0].axes[0]
    drawn = [np.asarray(line.get_xydata())[:-1] for line in axes.lines]
    wanted = [panel.image.hull, *(found.outer for found in panel.shown)]
    assert len(drawn) == len(wanted) == 1 + len(METHODS)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, wanted, strict=True))


def test_the_filling_is_the_union_of_the_regions_images(panel):
    (filling,) = [c for c in plot_panels([[panel]]).subfigs[0].axes[0].collections if isinstance(c, PolyCollection)]
    drawn = [path.vertices[:-1] for path in filling.get_paths()]
    assert len(drawn) == len(panel.image)
    assert all(np.array_equal(a, panel.image.polygon(r)) for r, a in enumerate(drawn))


def test_nothing_drawn_lies_outside_the_axes(panel):
    axes = plot_panels([[panel]]).subfigs[0].axes[0]
    points = np.concatenate([np.asarray(line.get_xydata()) for line in axes.lines])
    low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
    assert (points >= low).all() and (points <= high).all()


def test_the_caption_says_every_area_and_how_many_times_the_exact_one_it_is(panel):
    caption = caption_of(panel)
    assert f"{len(panel.image)} linear regions, area {panel.image.area:.4g}" in caption
    times = [float(t) for t in re.findall(r"\(([\d.e+-]+) times\)", caption)]
    ratios = sorted(found.area / panel.image.area for found in panel.outlines)
    assert sorted(times) == pytest.approx(ratios, rel=1e-3) and min(ratios) >= 1.0


def test_an_outline_that_dwarfs_the_others_is_named_and_not_drawn(panel):
    huge = mv.Outline("interval", np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]), np.full(4, 1e4))
    wide = Panel((*panel.outlines, huge), panel.image)
    assert huge not in wide.shown and len(wide.shown) == len(panel.outlines)
    assert caption_of(wide).endswith("beyond the picture.") and "beyond" not in caption_of(panel)


def test_an_input_set_of_more_dimensions_has_the_hull_of_its_outputs():
    net = random_net(5, 3, 6, 3)
    rows = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, -1.0]])
    found = polytope_panel(net, mv.LinfBall(np.zeros(3), 0.3), (mv.Crown(),), rows=rows)
    assert found.image is None and {o.name for o in found.outlines} == {"exact", "crown"}
    assert found.axes == ("y₁", "functional 2 of the outputs")
    exact = next(o for o in found.outlines if o.name == "exact")
    x = np.random.default_rng(0).uniform(-0.3, 0.3, (4000, 3))
    inside = (net.forward(x) @ rows.T) @ exact.directions.T <= exact.offsets + 1e-9
    assert inside.all() and exact.area >= found.exact.area > 0.99 * exact.area


def test_a_set_that_is_a_point_is_a_dot():
    net = random_net(3, 2, 4, 2)
    figure = plot_polytope(net, mv.Box(np.zeros(2), np.zeros(2)), METHODS)
    lines = figure.subfigs[0].axes[0].lines
    assert any(len(line.get_xydata()) == 1 and line.get_marker() == "o" for line in lines)


def test_panels_stand_in_rows_of_one_length(panel):
    grid = plot_panels([[panel, panel], [panel, panel]], DARK, "title", "caption").subfigs[0].axes
    assert len(grid) == 4
    for wrong in ([], [[]], [[panel], [panel, panel]]):
        with pytest.raises(OptionError, match="plot_panels"):
            plot_panels(wrong)


def test_the_same_panels_give_the_same_file(panel, tmp_path):
    for name in ("a.svg", "b.svg"):
        save_figure(plot_panels([[panel]], title="t", caption=caption_of(panel)), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()

"""Figures are written whole or not at all, the same twice, and every method is told from every other."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from milpverify.errors import OptionError
from milpverify.polytope.plot_neuron import plot_relu
from milpverify.polytope.plot_style import DARK, LIGHT, PENS, check_figure, save_figure


def luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance."""
    parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], parts))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_every_line_and_text_stands_out_from_the_paper(theme):
    """A contrast of 3 for lines and 4.5 for text is what WCAG 2.1 asks of graphics and of words."""
    paper = luminance(theme.paper)

    def contrast(colour):
        low, high = sorted((paper, luminance(colour)))
        return (high + 0.05) / (low + 0.05)

    assert contrast(theme.ink) >= 4.5 and contrast(theme.faint) >= 4.5
    assert all(contrast(theme.colour(method)) >= 2.9 for method in PENS)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_no_two_methods_share_a_colour_or_a_dash(theme):
    lines = {method: theme.line(method) for method in (*PENS, "a method of the user's own")}
    for a, b in itertools.combinations(lines, 2):
        assert lines[a]["color"] != lines[b]["color"]
        if {a, b} != {"exact", "lp"}:  # both solid: the innermost two, black and green
            assert lines[a]["linestyle"] != lines[b]["linestyle"]


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_the_same_figure_gives_the_same_bytes(tmp_path, suffix):
    for name in ("a", "b"):
        save_figure(plot_relu(-1.0, 2.0), tmp_path / f"{name}.{suffix}")
    a, b = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("a", "b"))
    assert a == b and len(a) > 1000


def test_a_figure_that_cannot_be_written_leaves_nothing(tmp_path):
    figure = plot_relu(-1.0, 2.0)
    with pytest.raises(OptionError, match="must end in"):
        save_figure(figure, tmp_path / "a.jpeg")
    with pytest.raises(OptionError, match="no folder"):
        check_figure(tmp_path / "none" / "a.svg")
    (tmp_path / "b.svg").mkdir()
    with pytest.raises(OptionError, match="cannot write"):
        save_figure(figure, tmp_path / "b.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["b.svg"]


def test_the_triangle_drawn_is_the_hull_of_the_graph():
    l, u = -0.7, 1.9
    axes = plot_relu(l, u).axes[0]
    (corners,) = (patch.get_xy() for patch in axes.patches)
    assert {tuple(v) for v in corners.tolist()} == {(l, 0.0), (0.0, 0.0), (u, u)}
    line = next(line for line in axes.lines if line.get_label().startswith("z ≤"))
    assert np.allclose(np.asarray(line.get_xydata()), [[l, 0.0], [u, u]])


@pytest.mark.parametrize("l, u", [(0.0, 1.0), (0.3, 0.3), (-2.0, 0.0), (-2.0, -1.0)])
def test_a_stable_neuron_has_no_triangle(l, u):
    figure = plot_relu(l, u)
    assert not figure.axes[0].patches and "stable" in figure.get_supxlabel()


@pytest.mark.parametrize("l, u, alphas", [(1.0, 0.0, ()), (0.0, np.inf, ()), (np.nan, 1.0, ()), (-1.0, 1.0, (1.5,))])
def test_bounds_and_slopes_that_are_none_are_refused(l, u, alphas):
    with pytest.raises(OptionError, match="plot_relu"):
        plot_relu(l, u, alphas)

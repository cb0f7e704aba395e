"""The adversarial polytope against its relaxations: the picture by which they are understood.

The exact set is filled, its convex hull and every relaxation are lines around it. One panel is one network and region;
panels stand side by side, as in figure 4 of Wong & Kolter 2018 (rows: eps, columns: random networks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from milpverify.bounds.backward import Crown, FastLin
from milpverify.bounds.method import BoundMethod, Interval
from milpverify.errors import OptionError
from milpverify.network.graph import Network
from milpverify.polytope.comparison import PlanarSet, Polygon
from milpverify.polytope.image import Image
from milpverify.polytope.linear_regions import linear_regions
from milpverify.polytope.outline import EXACT, Outline, outline
from milpverify.polytope.plot_style import LIGHT, Theme, rank_of, wrapped
from milpverify.polytope.refinement import Refinement
from milpverify.search.branch_and_bound import BranchAndBound
from milpverify.spec.regions import Region
from milpverify.tighten.lp import TriangleLP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_INCHES = 3.1
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
DWARFS = 8.0  # times the size of what is within it: such an outline is left to the caption
FEW = 3000  # polygons up to which the exact set is drawn as vectors; beyond, its filling becomes pixels


@dataclass(frozen=True, eq=False)
class Panel:
    """One network on one region.

    Attributes:
        outlines: Relaxations, or the exact hull of an input set of more dimensions.
        image: The exact set, where the input set has two dimensions.
        title: Above the panel.
        axes: What the two functionals are.
    """

    outlines: tuple[Outline, ...]
    image: Image | None = None
    title: str = ""
    axes: tuple[str, str] = ("y₀", "y₁")

    @cached_property
    def shown(self) -> list[Outline]:
        """What is drawn, innermost first: no outline that dwarfs those within it, of which nothing would be seen."""
        points = [] if self.image is None else [self.image.points]
        shown: list[Outline] = []
        for found in sorted(self.outlines, key=lambda found: rank_of(found.name)):
            size = np.ptp(np.concatenate(points), axis=0) if points else np.zeros(2)
            if (size > 0).all() and (np.ptp(found.outer, axis=0) > DWARFS * size).any():
                continue
            points.append(found.outer)
            shown.append(found)
        return shown

    @property
    def hull(self) -> np.ndarray:
        """The exact set's convex hull, counter-clockwise, shape (k, 2); of its outline the side that is attained."""
        if self.image is not None:
            return self.image.hull
        inner = [found.inner for found in self.outlines if found.name == EXACT and found.inner is not None]
        return inner[0] if inner else np.zeros((0, 2))

    @property
    def exact(self) -> PlanarSet | None:
        """What outlines are measured against: the exact set, else what is attained of its convex hull, if anything is.

        The hull is attained to the tolerance of its outline, so that no relaxation seems to be smaller than it is.
        """
        return self.image if self.image is not None else Polygon(self.hull) if len(self.hull) else None


def plot_polytope(
    net: Network,
    region: Region,
    relaxations: Sequence[BoundMethod] = (TriangleLP(), Crown(), FastLin(), Interval()),
    *,
    rows: np.ndarray | None = None,
    refinement: Refinement | None = None,
    theme: Theme = LIGHT,
    title: str = "",
) -> Figure:
    """Draw what a region is mapped to in a plane of outputs, and what relaxations allow.

    Where at most two inputs vary the exact set is drawn itself, else its convex hull by branch and bound.

    Args:
        net: The network.
        region: The inputs.
        relaxations: Each bounds the hidden neurons and the outputs by itself.
        rows: The plane: two functionals of the outputs, shape (2, n_outputs); the first two outputs when None.
        refinement: Of the outlines.
        theme: `LIGHT` or `DARK`.
        title: Above the figure.

    Raises:
        OptionError, RegionError, BoundsError: As `outline` and `linear_regions`.

    Source:
        Wong & Kolter 2018, figure 4.
    """
    panel = polytope_panel(net, region, relaxations, rows=rows, refinement=refinement)
    return plot_panels([[panel]], theme, title, caption_of(panel))


def polytope_panel(
    net: Network,
    region: Region,
    relaxations: Sequence[BoundMethod],
    *,
    rows: np.ndarray | None = None,
    refinement: Refinement | None = None,
    time_limit_s: float | None = None,
    title: str = "",
) -> Panel:
    """What `plot_polytope` draws; time_limit_s is that of the hull's searches, whose outer side is drawn."""
    image = None
    exact: list[Outline] = []
    if int((region.upper > region.lower).sum()) <= 2:
        image = linear_regions(net, region).image(rows)
    else:
        exact.append(
            outline(net, region, BranchAndBound(), rows=rows, refinement=refinement, time_limit_s=time_limit_s)
        )
    found = [outline(net, region, method, rows=rows, refinement=refinement) for method in relaxations]
    return Panel((*exact, *found), image, title, _axis_names(net, rows))


def caption_of(panel: Panel) -> str:
    """Areas, and how many times as large the relaxations' are."""
    exact = 0.0 if panel.exact is None else panel.exact.area
    told = []
    if panel.image is not None:
        told.append(f"exact set: {len(panel.image):,} linear regions, area {panel.image.area:.4g}")
    for found in sorted(panel.outlines, key=lambda found: rank_of(found.name)):
        times = f" ({found.area / exact:.4g} times)" if exact and found.name != EXACT else ""
        beyond = "" if found in panel.shown else ", beyond the picture"
        name = "exact hull" if found.name == EXACT else LIGHT.label(found.name)
        area = exact if found.name == EXACT else found.area
        told.append(f"{name} {area:.4g}{times}{beyond}")
    return "; ".join(told) + "."


def _axis_names(net: Network, rows: np.ndarray | None) -> tuple[str, str]:
    """The outputs' names where the rows are single outputs."""
    names = []
    for i, row in enumerate(np.eye(2, net.n_outputs) if rows is None else np.asarray(rows, dtype=np.float64)):
        place = np.flatnonzero(row)
        one = len(place) == 1 and row[place[0]] == 1.0
        names.append(f"y{str(place[0]).translate(SUBSCRIPTS)}" if one else f"functional {i + 1} of the outputs")
    return names[0], names[1]


def plot_panels(
    panels: Sequence[Sequence[Panel]], theme: Theme = LIGHT, title: str = "", caption: str = "", share: bool = False
) -> Figure:
    """Draw panels in rows, under one legend.

    Args:
        panels: Rows of panels, all of one length.
        theme: `LIGHT` or `DARK`.
        title, caption: Above and below all.
        share: Whether the panels of a row have the same axes.

    Raises:
        OptionError: If there is no panel, or the rows differ in length.
    """
    if not panels or not panels[0] or len({len(row) for row in panels}) > 1:
        raise OptionError(
            f"plot_panels: rows of {[len(row) for row in panels]} panels; give at least one, and rows of one length."
        )
    rows, columns = len(panels), len(panels[0])
    width, key = max(PANEL_INCHES * columns, 5.4), panel_key(panels, theme)
    per_line = max(3, int(width / 1.5))
    lines = wrapped(caption, width) if caption else []
    body, foot = max(PANEL_INCHES * 0.9 * rows + 0.3, 3.8), 0.12 + 0.21 * -(-len(key) // per_line) + 0.14 * len(lines)
    figure = theme.figure(width, body + foot)
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(body, foot))[:, 0]
    for part in (top, bottom):
        part.set_facecolor(theme.paper)
    shared = "row" if share else "none"
    grid = top.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)
    for row, axes_row in zip(panels, grid, strict=True):
        for panel, axes in zip(row, axes_row, strict=True):
            draw_panel(axes, panel, theme)
    if title:
        top.suptitle(title, fontsize=11, color=theme.ink)
    bottom.legend(
        handles=key, loc="upper center", ncols=per_line, fontsize=8, frameon=False, labelcolor=theme.ink,
        borderaxespad=0.0,
    )  # fmt: skip
    bottom.text(0.5, 0.06 / foot, "\n".join(lines), ha="center", va="bottom", fontsize=8, color=theme.faint)
    return figure


def draw_panel(axes: Axes, panel: Panel, theme: Theme) -> None:
    """Draw one panel on axes of one's own."""
    theme.dress(axes, frame=True)
    if panel.image is not None:
        _fill(axes, panel.image, theme)
        _ring(axes, panel.image.hull, theme, EXACT)
    for found in panel.shown:
        _ring(axes, found.outer, theme, found.name)
    axes.set_title(panel.title, fontsize=9, color=theme.ink)
    axes.set_xlabel(panel.axes[0], fontsize=8)
    axes.set_ylabel(panel.axes[1], fontsize=8)
    axes.margins(0.06)
    axes.autoscale_view()
    axes.locator_params(nbins=5)


def _ring(axes: Axes, polygon: np.ndarray, theme: Theme, method: str) -> None:
    """A closed line around a polygon; a dot where it is a point."""
    line = theme.line(method)
    if len(polygon) == 1:
        axes.plot(*polygon.T, "o", color=line["color"], markersize=4, zorder=line["zorder"])
        return
    closed = np.concatenate([polygon, polygon[:1]])
    axes.plot(*closed.T, solid_joinstyle="round", **line)


def _fill(axes: Axes, image: Image, theme: Theme) -> None:
    """The exact set: the union of the regions' images. Its polygons' edges close the hairlines between neighbours."""
    from matplotlib.collections import PolyCollection

    polygons = [image.polygon(region) for region in range(len(image))]
    many = len(polygons) > FEW
    axes.add_collection(
        PolyCollection(
            polygons, facecolors=theme.set_face, edgecolors=theme.set_face, linewidths=0.35, rasterized=many, zorder=1
        )
    )
    axes.update_datalim(image.points)


def panel_key(panels: Sequence[Sequence[Panel]], theme: Theme) -> list[object]:
    """What fillings and lines mean, of those that occur, innermost first."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    every = [panel for row in panels for panel in row]
    methods = {found.name for panel in every for found in panel.shown}
    entries: list[object] = []
    if any(panel.image is not None for panel in every):
        entries.append(Patch(color=theme.set_face, label="exact set"))
        methods.add(EXACT)
    for method in sorted(methods, key=rank_of):
        label = theme.label(method)
        if method == EXACT:
            label = "its hull" if any(panel.image is not None for panel in every) else "exact hull"
        line = theme.line(method)
        line.pop("zorder")
        entries.append(Line2D([], [], label=label, **line))
    return entries

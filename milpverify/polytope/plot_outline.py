"""The adversarial polytope against its relaxations: the picture by which they are understood.

The exact set is filled, its convex hull and every relaxation are lines around it. One panel is one network and region;
panels stand side by side, as in figure 4 of Wong & Kolter 2018 (rows: eps, columns: random networks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from milpverify.errors import OptionError
from milpverify.polytope.image import Image
from milpverify.polytope.outline import Outline
from milpverify.polytope.plot_style import LIGHT, OTHER, PENS, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_INCHES = 3.1
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

    @property
    def methods(self) -> list[str]:
        """What is drawn, innermost first."""
        names = {outline.name for outline in self.outlines} | ({"exact"} if self.image is not None else set())
        return sorted(names, key=lambda name: PENS.get(name, OTHER).rank)


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
    width = max(PANEL_INCHES * columns, 4.6)
    figure = theme.figure(width, PANEL_INCHES * 0.9 * rows + 0.9)
    grid = figure.subplots(
        rows, columns, squeeze=False, sharex="row" if share else "none", sharey="row" if share else "none"
    )
    for row, axes_row in zip(panels, grid, strict=True):
        for panel, axes in zip(row, axes_row, strict=True):
            _draw(axes, panel, theme)
    if title:
        figure.suptitle(title, fontsize=11, color=theme.ink)
    figure.legend(
        handles=_key(panels, theme), loc="outside lower center", ncols=4, fontsize=8, frameon=False,
        labelcolor=theme.ink,
    )  # fmt: skip
    if caption:
        theme.caption(figure, caption)
    return figure


def _draw(axes: Axes, panel: Panel, theme: Theme) -> None:
    theme.dress(axes, frame=True)
    if panel.image is not None:
        _fill(axes, panel.image, theme)
        _ring(axes, panel.image.hull, theme, "exact")
    for outline in panel.outlines:
        _ring(axes, outline.outer, theme, outline.name)
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


def _key(panels: Sequence[Sequence[Panel]], theme: Theme) -> list[object]:
    """What fillings and lines mean, of those that occur, innermost first."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    methods: list[str] = []
    for row in panels:
        for panel in row:
            methods += [method for method in panel.methods if method not in methods]
    methods.sort(key=lambda name: PENS.get(name, OTHER).rank)
    entries: list[object] = []
    if any(panel.image is not None for row in panels for panel in row):
        entries.append(Patch(color=theme.set_face, label="exact set"))
    for method in methods:
        label = "its convex hull" if method == "exact" and entries else theme.label(method)
        line = theme.line(method)
        line.pop("zorder")
        entries.append(Line2D([], [], label=label, **line))
    return entries

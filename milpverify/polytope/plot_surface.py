"""The margin of a class over a plane through the inputs: exact contours, and balls cut by the plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from milpverify.errors import OptionError
from milpverify.polytope.convex import AXES, half_planes
from milpverify.polytope.decision import MarginMap, margin_map
from milpverify.polytope.input_slice import InputSlice
from milpverify.polytope.linear_regions import LinearRegions
from milpverify.polytope.mesh_edges import boundaries, outline
from milpverify.polytope.plot_regions import Wording, draw_edges, draw_segments, fill, frame, label_axes, one_scale
from milpverify.polytope.plot_style import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BANDS = 20  # about so many contour levels
PALEST = 0.15  # share of the full colour next to margin 0: the two signs differ at once
ENDS = {"light": 0.44, "dark": 0.26}  # how far from its middle the colour map is read: full colours on either paper
ZERO_WIDTH = 2.4  # in points: twice that of the balls, which may be as black


@dataclass(frozen=True, eq=False)
class BallOutline:
    """The l-infinity ball around a point of the slice, to be drawn where the slice cuts it.

    Attributes:
        name: For the legend: the method that certified it, and how large it is.
        radius: In units of the input.
        method: Whose colour and dash it gets, a key of `PENS`.
        center: (s, t).

    Raises:
        OptionError: If the radius is negative or not finite.
    """

    name: str
    radius: float
    method: str = "exact"
    center: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0.0 <= self.radius < np.inf:
            raise OptionError(f"BallOutline: the radius must be finite and at least 0, got {self.radius}.")


@dataclass(frozen=True)
class Mark:
    """A named point of the slice.

    Attributes:
        name: Written beside it.
        at: (s, t).
        marker: matplotlib's.
        left: Whether its name stands on its left, where there is more room.
    """

    name: str
    at: tuple[float, float]
    marker: str = "o"
    left: bool = False


def plot_margin(
    regions: LinearRegions | MarginMap,
    label: int | None = None,
    *,
    balls: Sequence[BallOutline] = (),
    marks: Sequence[Mark] = (),
    wording: Wording | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw the margin y_label - max_other y_other over a slice, with its exact zero set.

    Exact: each contour is the zero set of affine functions on exact linear regions. Balls are cut by the slice exactly.

    Args:
        regions: The linear regions of a slice, or what `margin_map` returned.
        label: The class; not needed for a `MarginMap`.
        balls: l-infinity balls around points of the slice.
        marks: Points to name.
        wording: Title and axes.
        theme: `LIGHT` or `DARK`.

    Raises:
        OptionError: If the label is missing or does not fit, or the slice has no area.
    """
    if isinstance(regions, MarginMap):
        found = regions
    elif label is None:
        raise OptionError("plot_margin: label is missing. Give the class whose margin is to be drawn.")
    else:
        found = margin_map(regions, label, contour_levels(margin_map(regions, label).range))
    figure = one_scale(theme.figure(6.9, 5.6))
    axes = figure.subplots()
    theme.dress(axes, frame=True)
    colours = _draw_bands(axes, found, theme)
    draw_edges(axes, found.regions, theme)
    handles = _draw_zero(axes, found, theme)
    handles += [_draw_ball(axes, found.regions.input_slice, ball, theme) for ball in balls]
    for mark in marks:
        _draw_mark(axes, mark, theme)
    label_axes(axes, wording or Wording(), theme)
    frame(axes, found.regions)
    _colour_bar(figure, axes, found, colours, theme)
    if handles:
        figure.legend(
            handles=handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False, labelcolor=theme.ink
        )
    theme.caption(figure, told(found))
    return figure


def contour_levels(limits: tuple[float, float], about: int = BANDS) -> tuple[float, ...]:
    """Round numbers within limits, 0 among them where it lies within."""
    from matplotlib.ticker import MaxNLocator

    low, high = limits
    ticks = MaxNLocator(about, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if high > low else np.zeros(1)
    inside = {float(level) for level in ticks if low < level < high}
    return tuple(sorted(inside | ({0.0} if low < 0.0 < high else set())))


def ball_on_slice(where: InputSlice, center: tuple[float, float], radius: float) -> np.ndarray:
    """Where the slice's plane cuts the l-infinity ball around one of its points: a polygon (s, t), shape (k, 2).

    |s u_i + t v_i| <= radius for every input i, with (s, t) from the centre. Floating.

    Raises:
        OptionError: If the slice's directions do not span a plane, in which the cut is unbounded.
    """
    rows = where.directions.T[np.abs(where.directions).max(axis=0) > 0]
    rows = np.unique(np.concatenate([rows, -rows]), axis=0) if len(rows) else rows
    if np.linalg.matrix_rank(rows) < 2:
        raise OptionError("ball_on_slice: the slice's two directions are parallel or zero. Give a plane.")
    # A box that surely holds the cut: by least squares, (s, t) = pinv(U) (s u + t v).
    reach = float(np.abs(np.linalg.pinv(rows)).sum(axis=1).max()) * radius
    directions = np.concatenate([AXES, rows])
    polygon = half_planes(directions, np.append(np.full(len(AXES), reach), np.full(len(rows), radius)))
    return polygon + np.asarray(center)


def told(found: MarginMap) -> str:
    """The numbers of a margin map, in words."""
    low, high = found.range
    text = f"{len(found.regions):,} linear regions; exact margin from {low:.4g} to {high:.4g}".replace(
        "-", "\N{MINUS SIGN}"
    )
    if 0.0 in found.levels:
        text += (
            f", positive on {100.0 * found.area_above(0.0) / found.regions.area:.2f}\N{NO-BREAK SPACE}% of the slice"
        )
    return text + "."


def _draw_bands(axes: Axes, found: MarginMap, theme: Theme) -> list[tuple[float, ...]]:
    """Fill what lies above each level over what lies above the one before: no paper between two colours."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    n = len(found.levels)
    below = sum(level <= 0.0 for level in found.levels)  # bands 0..below-1 have margins of at most 0
    if found.range[0] >= 0.0:
        below = 0
    elif found.range[1] <= 0.0:
        below = n + 1
    half = max(below, n + 1 - below)
    ramp, reach = colormaps[theme.diverging], ENDS.get(theme.name, ENDS["light"])
    paper, full = np.array(to_rgb(theme.paper)), {side: np.array(ramp(0.5 + side * reach))[:3] for side in (-1, 1)}
    colours = []
    for band in range(n + 1):
        step = band - below if band >= below else below - 1 - band
        share = PALEST + (1.0 - PALEST) * step / max(half - 1, 1)
        colours.append(tuple((paper + share * (full[1 if band >= below else -1] - paper)).tolist()))
        fill(axes, outline(found.mesh, found.band >= band), colours[-1], zorder=1.0)
    return colours


def _draw_zero(axes: Axes, found: MarginMap, theme: Theme) -> list[object]:
    """The decision boundary of the class, where it crosses the slice."""
    from matplotlib.lines import Line2D

    if 0.0 not in found.levels:
        return []
    positive = found.band > found.levels.index(0.0)
    segments = boundaries(found.mesh, positive.astype(int))
    draw_segments(axes, segments, zorder=4.0, edgecolors=theme.ink, linewidths=ZERO_WIDTH, capstyle="round")
    return [Line2D([], [], color=theme.ink, linewidth=ZERO_WIDTH, label="margin 0: the decision boundary")]


def _draw_ball(axes: Axes, where: InputSlice, ball: BallOutline, theme: Theme) -> object:
    from matplotlib.patheffects import Normal, Stroke

    polygon = ball_on_slice(where, ball.center, ball.radius)
    style = theme.line(ball.method) | {"zorder": 5.0}
    halo = [Stroke(linewidth=style["linewidth"] + 1.2, foreground=theme.paper, alpha=0.5), Normal()]
    (line,) = axes.plot(*np.append(polygon, polygon[:1], 0).T, label=ball.name, path_effects=halo, **style)
    return line


def _draw_mark(axes: Axes, mark: Mark, theme: Theme) -> None:
    from matplotlib.patheffects import Normal, Stroke

    axes.plot(*mark.at, mark.marker, color=theme.ink, markeredgecolor=theme.paper, markersize=6, zorder=7.0)
    axes.annotate(
        mark.name, mark.at, xytext=(-6 if mark.left else 6, 6), textcoords="offset points", fontsize=8,
        ha="right" if mark.left else "left", color=theme.ink, zorder=7.0,
        path_effects=[Stroke(linewidth=2.5, foreground=theme.paper), Normal()],
    )  # fmt: skip


def _colour_bar(figure: Figure, axes: Axes, found: MarginMap, colours: list[tuple[float, ...]], theme: Theme) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    low, high = found.range
    limits = [low, *found.levels, high]
    if not all(a < b for a, b in pairwise(limits)):
        return  # a constant margin, or levels beyond the range, which a map of one's own may have
    norm = BoundaryNorm(limits, len(colours))
    bar = figure.colorbar(
        ScalarMappable(norm, ListedColormap(colours)), ax=axes, spacing="proportional", ticks=list(found.levels)
    )
    bar.ax.tick_params(colors=theme.faint, labelsize=7.5, length=2.5, width=0.6)
    bar.outline.set_edgecolor(theme.faint)
    bar.outline.set_linewidth(0.6)
    bar.set_label(f"margin of class {found.label}, in units of the outputs", color=theme.ink, fontsize=8.5)

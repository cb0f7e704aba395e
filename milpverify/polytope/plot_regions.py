"""The input plane: linear regions, decision regions with exact boundaries, data points and the balls around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from milpverify.errors import OptionError
from milpverify.polytope.decision import DecisionMap, decision_map, regions_mesh
from milpverify.polytope.linear_regions import LinearRegions
from milpverify.polytope.mesh_edges import edges, outline
from milpverify.polytope.plot_style import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")  # a class is told by shape as well as by hue
VECTOR_EDGES = 50_000  # more edges between linear regions than these become an image, then the smaller file
EDGES_A_PATH = 400  # a path of tens of thousands is beyond what renderers hold at once
NEARLY_SQUARE = 4.0  # sides of an input set whose ratio is below it are drawn to one scale


@dataclass(frozen=True, eq=False)
class Samples:
    """Data points to be drawn into a plane.

    Attributes:
        points: (s, t), shape (n, 2).
        labels: Their classes, shape (n,).
        eps: Half the side of the box drawn around each; None for none.
        witnesses: Adversarial examples (s, t), shape (w, 2): each is marked by a cross.

    Raises:
        OptionError: If shapes do not fit, or eps is negative.
    """

    points: np.ndarray
    labels: np.ndarray
    eps: float | None = None
    witnesses: np.ndarray | None = None

    def __post_init__(self) -> None:
        shapes = [
            np.shape(self.points),
            np.shape(self.labels),
            (0, 2) if self.witnesses is None else np.shape(self.witnesses),
        ]
        if len(shapes[0]) != 2 or shapes[0][1] != 2 or shapes[1] != shapes[0][:1] or shapes[2][1:] != (2,):
            raise OptionError(
                f"Samples: points {shapes[0]}, labels {shapes[1]} and witnesses {shapes[2]} came, expected (n, 2), "
                "(n,) and (w, 2)."
            )
        if self.eps is not None and not 0 <= self.eps < np.inf:
            raise OptionError(f"Samples: eps must be finite and at least 0, got {self.eps}.")


@dataclass(frozen=True)
class Wording:
    """The words of a picture.

    Attributes:
        title: Above it.
        s, t: What the axes are, with units.
        classes: Names of the classes; "class 0", "class 1", ... when empty.
    """

    title: str = ""
    s: str = ""
    t: str = ""
    classes: tuple[str, ...] = ()

    def name(self, label: int) -> str:
        """The name of a class."""
        return self.classes[label] if label < len(self.classes) else f"class {label}"


def plot_regions(
    regions: LinearRegions | DecisionMap,
    samples: Samples | None = None,
    *,
    wording: Wording | None = None,
    lines: bool = True,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw the input plane of a network: which class wins where, and the linear regions.

    Exact: the boundary between classes is the zero set of affine functions on exact linear regions, not a contour
    of samples. It, the fills and up to 50,000 edges between linear regions are vector graphics; more edges
    become an image within them.

    Args:
        regions: What `linear_regions` or `decision_map` returned.
        samples: Data points, their balls and adversarial examples.
        wording: Title, axes and class names.
        lines: Whether to draw the edges between linear regions.
        theme: `LIGHT` or `DARK`.

    Returns:
        The figure, its areas and counts in the caption; `save_figure` writes it.

    Raises:
        OptionError: If the network has one output only, or the input set has no area.

    Source:
        Wong & Kolter 2018, figure 5 (decision regions, points and their balls).
    """
    decided = regions if isinstance(regions, DecisionMap) else decision_map(regions)
    wording = wording or Wording()
    figure = one_scale(theme.figure(6.9, 5.4))
    axes = figure.subplots()
    drawn = draw_decision(axes, decided, samples, lines=lines, theme=theme)
    label_axes(axes, wording, theme)
    figure.legend(
        handles=key(decided, wording, samples, theme), loc="outside right upper", fontsize=8, frameon=False,
        labelcolor=theme.ink,
    )  # fmt: skip
    theme.caption(figure, " ".join([told(decided, wording), drawn]).strip())
    return figure


def draw_decision(
    axes: Axes, decided: DecisionMap, samples: Samples | None = None, *, lines: bool = True, theme: Theme = LIGHT
) -> str:
    """Draw decision regions, edges and points on axes of one's own; returns what the caption must add."""
    theme.dress(axes, frame=True)
    for label in range(decided.n_classes):
        # The first winner lies under all others: no paper shows through between two fills.
        chosen = decided.label >= 0 if label == decided.label.min() else decided.label == label
        fill(axes, outline(decided.mesh, chosen), theme.classes[label % len(theme.classes)], zorder=1.0)
    drawn = draw_edges(axes, decided.regions, theme) if lines else ""
    draw_segments(axes, decided.boundary, edgecolors=theme.ink, linewidths=1.0, capstyle="round", zorder=3.0)
    if samples is not None:
        _draw_samples(axes, samples, theme)
    frame(axes, decided.regions)
    return drawn


def draw_edges(axes: Axes, regions: LinearRegions, theme: Theme) -> str:
    """Draw the edges between linear regions, hairlines; returns what the caption must add."""
    ends, faces = edges(regions_mesh(regions))
    inner = regions.vertices[ends[faces[:, 1] >= 0]]
    width = float(np.clip(4.0 / np.sqrt(len(inner) + 1.0), 0.12, 0.5))
    many = len(inner) > VECTOR_EDGES
    draw_segments(axes, inner, edgecolors=theme.faint, linewidths=width, zorder=2.0, rasterized=many)
    return f"The {len(inner):,} edges between them are drawn as an image." if many else ""


def fill(axes: Axes, loops: list[np.ndarray], colour: Any, zorder: float) -> None:
    """Fill the inside of loops, as one path."""
    from matplotlib.patches import PathPatch

    if loops:
        axes.add_patch(PathPatch(loops_path(loops), facecolor=colour, linewidth=0, zorder=zorder))


def loops_path(loops: list[np.ndarray]) -> Path:
    """Closed loops as one path."""
    from matplotlib.path import Path

    codes = [np.full(len(loop) + 1, Path.LINETO, dtype=Path.code_type) for loop in loops]
    for code in codes:
        code[0], code[-1] = Path.MOVETO, Path.CLOSEPOLY
    return Path(np.concatenate([np.append(loop, loop[:1], 0) for loop in loops]), np.concatenate(codes))


def one_scale(figure: Figure) -> Figure:
    """A figure whose axes may have one scale each for both directions: these leave no holes, and touch nothing."""
    figure.set_layout_engine("compressed", h_pad=0.08, w_pad=0.06)
    return figure


def label_axes(axes: Axes, wording: Wording, theme: Theme) -> None:
    """Title and axes."""
    axes.set_title(wording.title, fontsize=10, color=theme.ink)
    axes.set_xlabel(wording.s, fontsize=8.5)
    axes.set_ylabel(wording.t, fontsize=8.5)


def frame(axes: Axes, regions: LinearRegions) -> None:
    """The limits of the input set; one scale for both axes where that leaves a picture."""
    low, high = regions.input_slice.polygon.min(axis=0), regions.input_slice.polygon.max(axis=0)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    sides = high - low
    axes.set_aspect("equal" if sides.max() <= NEARLY_SQUARE * sides.min() else "auto")


def key(decided: DecisionMap, wording: Wording, samples: Samples | None, theme: Theme) -> list[Any]:
    """Entries of a legend: the classes that win somewhere, the points, the balls, the adversarial examples."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Any] = [
        Patch(
            facecolor=theme.classes[k % len(theme.classes)], edgecolor=theme.faint, linewidth=0.4, label=wording.name(k)
        )
        for k in range(decided.n_classes)
        if decided.areas[k] > 0
    ]
    if samples is None:
        return entries
    for k in sorted({int(label) for label in samples.labels}):
        entries.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker=MARKERS[k % len(MARKERS)],
                color=theme.inks[k % len(theme.inks)],
                markersize=4,
                label=f"point of {wording.name(k)}",
            )
        )
    if samples.eps:
        entries.append(Patch(facecolor="none", edgecolor=theme.ink, linewidth=0.8, label=f"ball, ε = {samples.eps:g}"))
    if samples.witnesses is not None and len(samples.witnesses):
        entries.append(
            Line2D([], [], linestyle="none", marker="x", color=theme.ink, markersize=6, label="adversarial example")
        )
    return entries


def told(decided: DecisionMap, wording: Wording) -> str:
    """The numbers of a decision map, in words."""
    total = decided.regions.area
    shares = "; ".join(
        f"{wording.name(k)}: {100.0 * area / total:.2f} %".replace(" ", "\N{NO-BREAK SPACE}")
        for k, area in enumerate(decided.areas.tolist())
        if area > 0
    )
    return f"{len(decided.regions):,} linear regions. Shares of the area, exact: {shares}."


def _draw_samples(axes: Axes, samples: Samples, theme: Theme) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import Normal, Stroke

    halo = [Stroke(linewidth=2.6, foreground=theme.paper), Normal()]
    square = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])
    for k in sorted({int(label) for label in samples.labels}):
        colour, points = theme.inks[k % len(theme.inks)], np.asarray(samples.points)[np.asarray(samples.labels) == k]
        if samples.eps:
            boxes = points[:, None, :] + samples.eps * square
            axes.add_collection(LineCollection(boxes, colors=colour, linewidths=0.9, zorder=4.0))
        axes.plot(
            *points.T, linestyle="none", marker=MARKERS[k % len(MARKERS)], markersize=3.6, color=colour,
            markeredgecolor=theme.paper, markeredgewidth=0.4, zorder=5.0,
        )  # fmt: skip
    if samples.witnesses is not None and len(samples.witnesses):
        axes.plot(
            *np.asarray(samples.witnesses).T, linestyle="none", marker="x", markersize=6, color=theme.ink,
            markeredgewidth=1.4, path_effects=halo, zorder=6.0,
        )  # fmt: skip


def draw_segments(axes: Axes, segments: np.ndarray, zorder: float, **style: Any) -> None:
    """Segments (e, 2, 2) as a few paths of many pieces: far smaller files than one path each."""
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path

    paths = []
    for first in range(0, len(segments), EDGES_A_PATH):
        some = segments[first : first + EDGES_A_PATH]
        paths.append(Path(some.reshape(-1, 2), np.tile([Path.MOVETO, Path.LINETO], len(some))))
        paths[-1].should_simplify = False
    # Without its limits, which matplotlib finds point by point: `frame` sets them.
    axes.add_collection(PathCollection(paths, facecolors="none", zorder=zorder, **style), autolim=False)

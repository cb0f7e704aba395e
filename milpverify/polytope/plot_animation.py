"""The exact polytope and its relaxations as the input set grows: an animation, one frame per eps."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from milpverify.bounds.backward import Crown, FastLin
from milpverify.bounds.method import BoundMethod, Interval
from milpverify.errors import OptionError
from milpverify.network.graph import Network
from milpverify.polytope.outline import EXACT
from milpverify.polytope.plot_outline import Panel, caption_of, draw_panel, panel_key, polytope_panel
from milpverify.polytope.plot_style import LIGHT, Theme, check_figure, rank_of, wrapped, write_whole
from milpverify.spec.regions import Ball
from milpverify.tighten.lp import TriangleLP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 8.0, 4.4  # inches
LEFT, RIGHT = (0.075, 0.255, 0.445, 0.62), (0.625, 0.255, 0.35, 0.62)  # where the axes lie: the same in every frame
WIDER = 6.0  # relaxations that reach this many times as far as the exact set leave the picture
COLOURS = 256  # what a GIF's palette holds
ROOM = 0.06  # around what is shown, in its size


@dataclass(frozen=True)
class Animation:
    """How frames become an animation.

    Attributes:
        frames_per_s: Speed.
        hold_s: How long the last frame stays before the first one comes again.
        dpi: Pixels an inch; a frame is 8 by 4.4 inches.
        theme: `LIGHT` or `DARK`.

    Raises:
        OptionError: If a number is not positive.
    """

    frames_per_s: float = 4.0
    hold_s: float = 2.0
    dpi: int = 120
    theme: Theme = LIGHT

    def __post_init__(self) -> None:
        if not (self.frames_per_s > 0 and self.hold_s > 0 and self.dpi > 0):
            raise OptionError(
                f"Animation: frames_per_s, hold_s and dpi must be positive, got {self.frames_per_s}, {self.hold_s} and "
                f"{self.dpi}."
            )


def animate_polytope(
    net: Network,
    ball: Ball,
    eps: Sequence[float],
    path: str | Path,
    relaxations: Sequence[BoundMethod] = (TriangleLP(), Crown(), FastLin(), Interval()),
    *,
    animation: Animation | None = None,
    on_frame: Callable[[int, Panel], None] | None = None,
) -> tuple[Panel, ...]:
    """Write a GIF of the set of outputs and its relaxations, and of their areas, as a ball grows.

    Left: the exact set and the outlines, on axes that stay as they are. Relaxations more than six times as wide as the
    exact set at the end leave the picture. Right: their areas over the exact set's.

    Args:
        net: The network; the first two outputs are drawn.
        ball: The ball that grows; its own radius does not count.
        eps: Radii, positive and rising, one frame each.
        path: A .gif file, written whole or not at all.
        relaxations: As for `plot_polytope`.
        animation: `Animation()` when None.
        on_frame: Called with its number and its panel as soon as a frame is computed.

    Returns:
        What the frames show, one panel each.

    Raises:
        OptionError: If the suffix is another, the file cannot be written or the radii do not rise.
        RegionError, BoundsError: As `plot_polytope`.
    """
    path, look = Path(path), animation or Animation()
    check_figure(path, (".gif",))
    if not len(eps) or not all(a < b for a, b in pairwise([0.0, *eps])) or not np.isfinite(eps).all():
        raise OptionError(f"animate_polytope: eps must be positive, finite and rise, got {list(eps)}.")
    panels = []
    for i, radius in enumerate(eps):
        panels.append(polytope_panel(net, ball.scaled_to(float(radius)), relaxations, title=f"ε = {radius:.4g}"))
        if on_frame is not None:
            on_frame(i, panels[-1])
    write_whole(path.resolve(), _gif([frame_of(panels, eps, i, look.theme) for i in range(len(panels))], look))
    return tuple(panels)


def frame_of(panels: Sequence[Panel], eps: Sequence[float], i: int, theme: Theme) -> Figure:
    """One frame: both axes as they are in all others, and what is known of this radius."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor=theme.paper)
    axes = figure.add_axes(LEFT)
    draw_panel(axes, panels[i], theme)
    low, high = _limits(panels[-1])
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    _areas(figure.add_axes(RIGHT), panels, eps, i, theme)
    key = _key(panels, theme)
    figure.legend(
        handles=key, loc="upper center", ncols=len(key), fontsize=8, frameon=False, labelcolor=theme.ink,
        bbox_to_anchor=(0.5, 1.0),
    )  # fmt: skip
    text = "\n".join(wrapped(caption_of(panels[i]), WIDTH))
    figure.text(0.5, 0.125, text, ha="center", va="top", fontsize=8, color=theme.faint)
    return figure


def _limits(last: Panel) -> tuple[np.ndarray, np.ndarray]:
    """What the axes hold: the last frame's exact set, and the relaxations that are not far wider."""
    core = last.hull if len(last.hull) else np.concatenate([found.outer for found in last.outlines])
    low, high = core.min(axis=0), core.max(axis=0)
    reach, middle = WIDER * (high - low) / 2, (low + high) / 2
    for found in last.outlines:
        some = found.outer.min(axis=0), found.outer.max(axis=0)
        if (some[0] >= middle - reach).all() and (some[1] <= middle + reach).all():
            low, high = np.minimum(low, some[0]), np.maximum(high, some[1])
    room = np.where(high > low, ROOM * (high - low), 1.0)
    return low - room, high + room


def _areas(axes: Axes, panels: Sequence[Panel], eps: Sequence[float], i: int, theme: Theme) -> None:
    """How many times as large as the exact set each relaxation is: up to this frame, the rest faint."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    theme.dress(axes, grid=True)
    for name in _relaxations(panels):
        ratio = [_ratio(panel, name) for panel in panels]
        line = theme.line(name)
        axes.plot(eps, ratio, **(line | {"alpha": 0.25}))
        axes.plot(eps[: i + 1], ratio[: i + 1], **line)
        axes.plot(eps[i], ratio[i], "o", color=line["color"], markersize=4, zorder=20 - rank_of(name))
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("ε", fontsize=8.5)
    axes.set_title("area, in that of the exact set", fontsize=9, color=theme.ink)


def _relaxations(panels: Sequence[Panel]) -> list[str]:
    """Their names, innermost first."""
    return sorted({found.name for found in panels[-1].outlines} - {EXACT}, key=rank_of)


def _key(panels: Sequence[Panel], theme: Theme) -> list[Any]:
    """What `plot_panels` has, and the relaxations that only the areas show."""
    from matplotlib.lines import Line2D

    entries = panel_key([panels], theme)
    for name in _relaxations(panels):
        line = theme.line(name)
        line.pop("zorder")
        if all(found.name != name for panel in panels for found in panel.shown):
            entries.append(Line2D([], [], label=theme.label(name), **line))
    return entries


def _ratio(panel: Panel, name: str) -> float:
    """NaN, which is not drawn, where the exact set has no area."""
    (area,) = (found.area for found in panel.outlines if found.name == name)
    exact = 0.0 if panel.exact is None else panel.exact.area
    return area / exact if exact else float("nan")


def _gif(figures: Sequence[Figure], look: Animation) -> bytes:
    """Frames on one palette, the last one's: it has every line, and nothing flickers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image as Picture

    pictures = []
    for figure in figures:
        canvas = FigureCanvasAgg(figure)
        figure.dpi = look.dpi
        canvas.draw()
        pictures.append(np.asarray(canvas.buffer_rgba())[..., :3].astype(np.int64))
    codes = [picture @ (1 << np.array([16, 8, 0])) for picture in pictures]
    # The commonest colours, as they are: Pillow's own palettes and look-ups would tint the paper.
    colours, count = np.unique(codes[-1], return_counts=True)
    palette = _parts(colours[np.argsort(-count, kind="stable")[:COLOURS]])
    frames = []
    for code in codes:
        frames.append(Picture.fromarray(_nearest(code, palette)))
        frames[-1].putpalette(palette.astype(np.uint8).tobytes())
    pause = round(1000.0 / look.frames_per_s)
    image = io.BytesIO()
    frames[0].save(
        image, format="GIF", save_all=True, append_images=frames[1:], loop=0, optimize=False,
        duration=[*([pause] * (len(frames) - 1)), round(1000.0 * look.hold_s)],
    )  # fmt: skip
    return image.getvalue()


def _parts(codes: np.ndarray) -> np.ndarray:
    """Red, green and blue of colours as one number each, shape (n, 3)."""
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1)


def _nearest(codes: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """For each pixel the place of the nearest colour in a palette."""
    colours, place = np.unique(codes, return_inverse=True)
    parts, best = _parts(colours), np.empty(len(colours), dtype=np.uint8)
    for first in range(0, len(colours), COLOURS):
        some = slice(first, first + COLOURS)
        best[some] = ((parts[some, None] - palette) ** 2).sum(axis=-1).argmin(axis=1)
    return best[place.reshape(codes.shape)]

"""The ReLU relaxation of one neuron: its graph over [l, u], the triangle, and the lower line of a slope alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from milpverify.errors import OptionError
from milpverify.polytope.plot_style import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOM = 0.35  # left and right of [l, u], in its width


def plot_relu(
    l: float, u: float, alphas: tuple[float, ...] = (0.0, 0.5, 1.0), theme: Theme = LIGHT, title: str = ""
) -> Figure:
    r"""Draw z = relu(zhat) over l <= zhat <= u with its convex hull, the triangle relaxation

        z >= 0,    z >= zhat,    z <= u (zhat - l) / (u - l),

    and lines z = alpha zhat, each a lower bound for any alpha in [0, 1]: alpha u/(u-l) is Fast-Lin's choice, 0 or 1
    CROWN's. A stable neuron (l >= 0 or u <= 0) is linear, and its relaxation is the segment itself.

    Args:
        l, u: Bounds of the pre-activation.
        alphas: Slopes of the lower lines to draw.
        theme: `LIGHT` or `DARK`.
        title: Above the figure.

    Raises:
        OptionError: If l > u, a bound is not finite, or a slope is outside [0, 1].

    Source:
        Ehlers 2017 (triangle); Wong & Kolter 2018, figure 2; Xu et al. 2021 (alpha).
    """
    if not (np.isfinite([l, u]).all() and l <= u):
        raise OptionError(f"plot_relu: l <= u must be finite numbers, got [{l}, {u}].")
    if any(not 0.0 <= alpha <= 1.0 for alpha in alphas):
        raise OptionError(f"plot_relu: a slope must lie in [0, 1], got {tuple(alphas)}.")
    figure = theme.figure(6.6, 3.5)
    axes = figure.subplots()
    theme.dress(axes)
    if l < 0.0 < u:
        _triangle(axes, l, u, tuple(alphas), theme)
        lost = -l * u / (u - l)
        text = (
            f"l = {l:.4g}, u = {u:.4g}: unstable. The triangle's area is {-l * u / 2:.4g}; it is loosest at ẑ = 0, "
            f"by u |l| / (u - l) = {lost:.4g}."
        )
    else:
        kind = "active: z = ẑ" if l >= 0.0 else "inactive: z = 0"
        text = f"l = {l:.4g}, u = {u:.4g}: stable, {kind}. No relaxation is needed."
    _graph(axes, l, u, theme)
    axes.set_title(title or "ReLU over [l, u] and its relaxation", fontsize=10, color=theme.ink)
    figure.legend(fontsize=8, frameon=False, labelcolor=theme.ink, loc="outside right upper")
    theme.caption(figure, text)
    return figure


def _graph(axes: Axes, l: float, u: float, theme: Theme) -> None:
    """relu, drawn beyond [l, u] faintly."""
    room = ROOM * ((u - l) or 1.0)
    wide = np.array([min(l - room, -room), 0.0, max(u + room, room)])
    axes.plot(wide, np.maximum(wide, 0.0), color=theme.faint, linewidth=0.9, zorder=19)
    part = np.unique(np.clip([l, 0.0, u], l, u))
    axes.plot(part, np.maximum(part, 0.0), label="z = relu(ẑ)", solid_capstyle="round", **theme.line("exact"))
    axes.plot([l, u], np.maximum([l, u], 0.0), "o", color=theme.colour("exact"), markersize=3.5, zorder=21)
    for at, name in ((l, "l"), (u, "u")):
        axes.axvline(at, color=theme.faint, linewidth=0.6, linestyle=(0, (2, 2)), zorder=0)
        axes.annotate(
            name, (at, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -10), textcoords="offset points",
            fontsize=9, color=theme.ink, style="italic",
        )  # fmt: skip
    axes.axhline(0.0, color=theme.grid, linewidth=0.6, zorder=0)
    axes.axvline(0.0, color=theme.grid, linewidth=0.6, zorder=0)
    axes.set_xlim(wide[0], wide[-1])
    axes.set_xlabel("pre-activation ẑ", fontsize=8.5)
    axes.set_ylabel("z", fontsize=8.5)


def _triangle(axes: Axes, l: float, u: float, alphas: tuple[float, ...], theme: Theme) -> None:
    axes.fill([l, 0.0, u], [0.0, 0.0, u], color=theme.set_face, alpha=0.55, linewidth=0, label="triangle", zorder=1)
    axes.plot([l, u], [0.0, u], label=f"z ≤ {u / (u - l):.3g} (ẑ − l)", **theme.line("lp"))
    ends = np.array([l, u])
    for i, alpha in enumerate(alphas):
        name = theme.line("alpha")
        name["linewidth"] = 0.9 + 0.35 * i
        axes.plot(ends, alpha * ends, label=f"z ≥ α ẑ, α = {alpha:.3g}", **name)

"""Which neurons make the triangle relaxation loose: a map over the layers, and the worst of them by name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from milpverify.errors import OptionError
from milpverify.polytope.attribution import Attribution
from milpverify.polytope.plot_style import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDEST = 100  # cells of a row; larger layers wrap


def plot_gaps(attribution: Attribution, most: int = 12, theme: Theme = LIGHT, title: str = "") -> Figure:
    """Draw the share that every neuron has in the gap between the LP's bound and what its input attains.

    Left: one block of cells a hidden layer, in the order of its neurons, row by row; those without a share, as
    all stable ones, stay blank.
    Right: the neurons with the largest shares, and by how much the LP rises where one of them alone is exact.

    Args:
        attribution: Of one row of outputs.
        most: Neurons in the ranking.
        theme: `LIGHT` or `DARK`.
        title: Above the figure.

    Raises:
        OptionError: If the network has no hidden layer, or `most` is not positive.
    """
    if not attribution.sizes or most < 1:
        raise OptionError(
            f"plot_gaps: {len(attribution.sizes)} hidden layers and a ranking of {most}; give one of each at least."
        )
    blocks = [_block(share) for share in attribution.shares()]
    figure = theme.figure(9.0, max(2.6, min(7.0, 0.9 + 0.34 * sum(len(block) ** 0.8 for block in blocks))))
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.5, 1.0))[0]
    for part in (left, right):
        part.set_facecolor(theme.paper)
    grid = left.subplots(len(blocks), 1, squeeze=False, height_ratios=[max(len(block), 1.0) for block in blocks])[:, 0]
    reach = max((float(block[np.isfinite(block)].max(initial=0.0)) for block in blocks), default=0.0) or 1.0
    for layer, (axes, block) in enumerate(zip(grid, blocks, strict=True), start=1):
        _dress(axes, theme, f"layer {layer}\n{attribution.sizes[layer - 1]} ReLUs")
        shown = axes.pcolormesh(
            np.ma.masked_equal(np.ma.masked_invalid(block), 0.0),
            cmap=theme.ramp,
            vmin=0.0,
            vmax=reach,
            edgecolors=theme.paper,
            linewidth=0.4,
        )
        axes.invert_yaxis()
    bar = left.colorbar(shown, ax=list(grid), shrink=0.8, pad=0.02)
    bar.set_label("share of the gap", fontsize=8, color=theme.ink)
    bar.ax.tick_params(colors=theme.faint, labelsize=7)
    bar.outline.set_visible(False)
    _ranking(right.subplots(), attribution, most, theme)
    if title:
        figure.suptitle(title, fontsize=11, color=theme.ink)
    gap, unstable = attribution.gap, len(attribution.neurons)
    top = sum(neuron.share for neuron in sorted(attribution.neurons, key=lambda n: -n.share)[:most])
    part = f"the {min(most, unstable)} largest shares are {top / gap:.0%} of it" if gap > 0 else "there is none"
    theme.caption(
        figure,
        f"LP bound {attribution.lower:.6g}, attained at its input {attribution.attained:.6g}: a gap of {gap:.4g} among "
        f"{unstable} unstable ReLUs; {part}.",
    )
    return figure


def _block(share: np.ndarray) -> np.ndarray:
    """A layer's neurons in rows of at most WIDEST, all but the last full; NaN fills up."""
    n = share.size
    height = max(1, math.ceil(n / WIDEST))
    width = max(1, math.ceil(n / height))
    block = np.full(height * width, np.nan)
    block[:n] = share.ravel()
    return block.reshape(height, width)


def _dress(axes: Axes, theme: Theme, name: str) -> None:
    theme.dress(axes)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(theme.grid)
    axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _ranking(axes: Axes, attribution: Attribution, most: int, theme: Theme) -> None:
    theme.dress(axes)
    first = attribution.neurons[:most]
    place = np.arange(len(first))
    gains = [neuron.gain if neuron.gain is not None else math.nan for neuron in first]
    axes.barh(
        place - 0.19, [n.share for n in first], height=0.36, color=theme.colour("crown"), label="share of the gap"
    )
    axes.barh(place + 0.19, gains, height=0.36, color=theme.colour("lp"), label="gain if exact")
    axes.set_yticks(place, [f"{n.layer}.{n.index}" for n in first])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("layer.neuron", fontsize=8)
    axes.set_xlabel("in units of the row", fontsize=8)
    axes.legend(fontsize=7.5, frameon=False, labelcolor=theme.ink, loc="lower right")

"""A picture of a table of errors: for each method the images that are wrong for certain, open, and proven robust."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from milpverify.polytope.plot_style import LIGHT, Theme
from milpverify.training.error_table import ATTACKS, RobustEvaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"fgsm": "FGSM", "pgd": "PGD", "dual": "dual (Wong & Kolter)", "alpha": "alpha-CROWN"}


def plot_errors(table: RobustEvaluation, theme: Theme = LIGHT) -> Figure:
    """Draw one bar a method: full up to "at least", hatched up to "at most", empty beyond. Shares of the images in %.

    What an attack does not find is not hatched: it proves nothing, and says nothing.

    Args:
        table: Of `robust_evaluation`.
        theme: `LIGHT` or `DARK`.
    """
    rows = table.errors
    figure = theme.figure(7.0, 1.1 + 0.34 * len(rows))
    axes = figure.subplots()
    theme.dress(axes)
    at = np.arange(len(rows))
    lower = np.array([100 * e.lower for e in rows])
    upper = np.array([100 * (e.lower if e.name in ATTACKS else e.upper) for e in rows])
    axes.barh(at, lower, 0.62, color=theme.inks[1], label="error for certain")
    axes.barh(
        at, upper - lower, 0.62, left=lower, facecolor=theme.classes[1], edgecolor=theme.inks[1], hatch="////",
        linewidth=0.6, label="open",
    )  # fmt: skip
    for y, e, low, high in zip(range(len(rows)), rows, lower, upper, strict=True):
        told = f"{low:.1f} %" if high == low else f"{low:.1f} to {high:.1f} %"
        told = f"at least {low:.1f} %" if e.name in ATTACKS else told
        axes.text(
            1.02, y, told, va="center", fontsize=8, color=theme.ink, transform=axes.get_yaxis_transform()
        )  # fmt: skip
    axes.set_yticks(at, [NAMES.get(e.name, e.name) for e in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the images, %", fontsize=8)
    legend = axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8, frameon=False, labelcolor=theme.ink
    )
    legend.set_zorder(1)
    theme.caption(figure, table.sentence)
    return figure

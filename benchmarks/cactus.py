"""Cactus plots: how many instances of a suite are decided within how many seconds each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Okabe & Ito 2008: told apart with every kind of colour vision; markers tell twice.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^vDPX*<>"


@dataclass(frozen=True)
class Curve:
    """Seconds of a suite's decided instances, in any order.

    Attributes:
        ours: Measured here.
        published: Of alpha-beta-CROWN, as published; empty where nothing is.
    """

    ours: Sequence[float]
    published: Sequence[float] = ()


def plot(curves: Mapping[str, Curve], path: Path) -> None:
    """Write the plot of all suites; the format is the suffix's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    for i, (suite, curve) in enumerate(sorted(curves.items())):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        style = {"color": colour, "marker": marker, "markevery": 0.15, "markersize": 5}
        axes.plot(range(1, len(curve.ours) + 1), sorted(curve.ours), label=suite, **style)
        if curve.published:
            style |= {"linestyle": "--", "markerfacecolor": "none", "linewidth": 1}
            axes.plot(range(1, len(curve.published) + 1), sorted(curve.published), **style)
    axes.plot([], [], "k--", linewidth=1, label="alpha-beta-CROWN, published\n(other machines, start-up included)")
    axes.set(yscale="log", xlabel="instances decided", ylabel="seconds each, whole process")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize="small")
    figure.savefig(path)
    pyplot.close(figure)

"""The ladder of bounds as a picture: one bar per method, and a line at the exact value."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milpverify.errors import OptionError
from milpverify.report.files import check_writable
from milpverify.tasks.rungs import Ladder
from milpverify.whole_files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_INCHES, DPI = 8.0, 150
HEIGHT_INCHES, HEIGHT_PER_METHOD = 1.7, 0.42
PROVED, OPEN_, EXACT, DOTS = "#2166ac", "#d9a05b", "#111111", "#555555"  # blue and orange: told apart by all readers
DWARFS = 6.0  # numbers this many times the margin would squeeze its bounds together on a linear axis
DECADES = 1e4  # a margin of next to nothing must not fill the picture with decades


def check_plot(path: Path) -> None:
    """Refuse a file that cannot become a picture, before any work is done for it.

    Raises:
        OptionError: If the suffix is not .png, the place cannot be written, or matplotlib is missing.
    """
    from importlib.util import find_spec

    if path.suffix.lower() != ".png":
        raise OptionError(f"--plot: {path.name} must end in .png. Rename it.")
    check_writable(path, "--plot")
    if find_spec("matplotlib") is None:
        raise OptionError("--plot needs matplotlib, which is not installed: pip install matplotlib.")


def draw_ladder(path: Path, ladder: Ladder, title: str) -> None:
    """Write the picture: complete, or not at all.

    A bar reaches from 0 to a method's least bound, blue where it proves every case; small dots are the single cases;
    the line is the exact least slack, with a band while its bracket is open. Where some numbers dwarf the margin, the
    axis is linear around 0 and logarithmic beyond.

    Args:
        path: A .png file.
        ladder: What to draw.
        title: The network and the region.

    Raises:
        OptionError: If the file cannot be written.
    """
    # The object interface: no global figure, no window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = HEIGHT_INCHES + HEIGHT_PER_METHOD * len(ladder.rungs)
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, layout="constrained", facecolor="white")
    axes = figure.subplots()
    _axis(axes, ladder)
    _bars(axes, ladder)
    _exact(axes, ladder)
    axes.set_title(title, fontsize=11)
    several = len(ladder.cases) > 1
    axes.set_xlabel("lower bound of the least margin" + (", dots: of each case" if several else ""), fontsize=9)
    figure.legend(handles=_key(ladder), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image, metadata={"Software": "milpverify"})
    _write(path, image.getvalue())


def _axis(axes: Axes, ladder: Ladder) -> None:
    """Limits and scale: symmetric-logarithmic where some bound dwarfs the rest."""
    shown = [v for rung in ladder.rungs for v in rung.lower if math.isfinite(v)]
    shown += [v for v in ladder.least or () if math.isfinite(v)]
    low, high = min([*shown, 0.0]), max([*shown, 0.0])
    reach = max(-low, high) or 1.0
    small = max(_scale(ladder), reach / DECADES)
    if reach > DWARFS * small:
        threshold = 10.0 ** math.ceil(math.log10(small))
        axes.set_xscale("symlog", linthresh=threshold, linscale=1.5)
        axes.annotate(
            f"logarithmic beyond \N{PLUS-MINUS SIGN}{threshold:g}", (0.0, 0.0), xycoords="axes fraction", xytext=(2, 3),
            textcoords="offset points", fontsize=7, color="#777777",
        )  # fmt: skip
        axes.set_xlim(2.0 * low if low < -small else -small / 2, 2.0 * high if high > small else 1.5 * small)
    else:
        room = 0.08 * (high - low) or 1.0
        axes.set_xlim(low - room, high + room)
    axes.set_ylim(len(ladder.rungs) - 0.4, -0.6)  # the first method on top
    axes.set_yticks(range(len(ladder.rungs)), [rung.method for rung in ladder.rungs])
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0.0, color="#888888", linewidth=1.0)


def _bars(axes: Axes, ladder: Ladder) -> None:
    for i, rung in enumerate(ladder.rungs):
        if math.isfinite(rung.least):
            axes.barh(i, rung.least, height=0.56, color=PROVED if rung.proved == len(ladder.cases) else OPEN_)
        if len(ladder.cases) > 1:
            shown = [value for value in rung.lower if math.isfinite(value)]
            axes.plot(shown, [i] * len(shown), ".", color=DOTS, markersize=3.5, alpha=0.8)
        text = f"{rung.least:.4g}" if math.isfinite(rung.least) else "no bound"
        axes.annotate(
            text, (1.0, i), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=8.5,
        )  # fmt: skip


def _exact(axes: Axes, ladder: Ladder) -> None:
    if ladder.least is None:
        return
    lower, upper = ladder.least
    if math.isfinite(upper):
        axes.axvline(upper, color=EXACT, linewidth=1.6)
    if not ladder.closed and math.isfinite(upper) and math.isfinite(lower):
        axes.axvspan(lower, upper, color=EXACT, alpha=0.12, linewidth=0, zorder=0)


def _key(ladder: Ladder) -> list[Any]:
    """What the colours and the line mean, of those that occur."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    proofs = {rung.proved == len(ladder.cases) for rung in ladder.rungs if math.isfinite(rung.least)}
    entries: list[Any] = []
    if True in proofs:
        entries.append(Patch(color=PROVED, label="proves every case"))
    if False in proofs:
        entries.append(Patch(color=OPEN_, label="proves not every case"))
    if ladder.least is not None and math.isfinite(ladder.least[1]):
        name = f"exact least margin: {ladder.least[1]:.6g}" if ladder.closed else f"attained: {ladder.least[1]:.6g}"
        entries.append(Line2D([], [], color=EXACT, linewidth=1.6, label=name))
        if not ladder.closed and math.isfinite(ladder.least[0]):
            entries.append(Patch(color=EXACT, alpha=0.12, label="where the exact value may lie"))
    return entries


def _scale(ladder: Ladder) -> float:
    """The size of what is compared: the exact margin, else the median of the least bounds."""
    if ladder.least is not None and math.isfinite(ladder.least[1]):
        return abs(ladder.least[1])
    sizes = sorted(abs(rung.least) for rung in ladder.rungs if math.isfinite(rung.least))
    return sizes[len(sizes) // 2] if sizes else 1.0


def _write(path: Path, data: bytes) -> None:
    path = path.resolve()  # through a link, to the file that it names
    try:
        with written_whole(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise OptionError(f"--plot: cannot write {path} ({error.strerror}). Choose another place.") from error

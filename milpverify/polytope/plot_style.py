"""What all figures share: one colour and one dash per method, light and dark paper, and files written whole.

The hues are Paul Tol's "bright" scheme, which readers with any colour blindness tell apart; each method has its own
dash pattern as well, so that a figure survives a black-and-white printer.

Source: Tol 2021, "Colour Schemes", SRON/EPS/TN/09-002, figure 1.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from milpverify.errors import OptionError
from milpverify.whole_files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".pdf", ".png")
PNG_DPI = 200
FILLING_DPI = 400  # of what is drawn as pixels in a vector file: fillings of very many polygons
WRAP = 145  # characters of a caption's line, in a figure ten inches wide
SOLID: Any = "solid"


@dataclass(frozen=True)
class Pen:
    """How one method is drawn.

    Attributes:
        label: Its name in legends.
        light, dark: Its colour on either paper.
        dash: matplotlib's line style.
        width: In points.
        rank: Looser methods have a higher one, and are drawn below.
    """

    label: str
    light: str
    dark: str
    dash: Any = SOLID
    width: float = 1.4
    rank: int = 0


PENS: Mapping[str, Pen] = MappingProxyType(
    {
        "exact": Pen("exact", "#111111", "#f5f5f5", SOLID, 1.6, 0),
        "trees": Pen("neuron trees", "#7a5195", "#b79bd0", (0, (9, 1.5)), 1.4, 1),
        "exact neurons": Pen("LP, some ReLUs exact", "#c04f00", "#ffa04d", (0, (6, 2, 1, 2, 1, 2)), 1.4, 1),
        "lp": Pen("triangle LP", "#228833", "#5fc46f", SOLID, 1.4, 2),
        "kappa": Pen("κ-CROWN", "#0b7a99", "#4fc3e0", (0, (4, 1, 1, 1, 1, 1)), 1.4, 3),
        "alpha": Pen("α-CROWN", "#aa3377", "#dd77b0", (0, (5, 1.5)), 1.4, 4),
        "crown": Pen("CROWN", "#4477aa", "#79a9dc", (0, (7, 1.5, 1.5, 1.5)), 1.4, 5),
        "fastlin": Pen("Fast-Lin", "#dd5566", "#ff8d9b", (0, (3, 1.5)), 1.4, 6),
        "zonotope": Pen("zonotope", "#8c5a3c", "#c79a7b", (0, (2, 1, 6, 1)), 1.4, 7),
        "interval": Pen("interval", "#a67c00", "#e3c25a", (0, (1, 1.2)), 1.6, 8),
        "norms": Pen("naive layer-wise", "#808080", "#a8a8a8", (0, (1, 2.5)), 1.4, 9),
    }
)
OTHER = Pen("", "#994455", "#ee99aa", (0, (8, 1, 2, 1)), 1.4, 10)  # a method of the user's own


def rank_of(method: str) -> int:
    """Where a method stands from the exact set outwards."""
    return PENS.get(method, OTHER).rank


@dataclass(frozen=True)
class Theme:
    """Colours of everything that is no method.

    Attributes:
        name: "light" or "dark".
        paper, ink, faint, grid: Background, text, secondary text, grid lines.
        set_face: What fills the exact set.
        classes: Fills of decision regions, one a class, in turn.
        inks: The same hues for points and boxes upon these fills.
        ramp: Name of matplotlib's colour map for magnitudes.
        diverging: The same for values around 0.
    """

    name: str = "light"
    paper: str = "#ffffff"
    ink: str = "#1a1a1a"
    faint: str = "#666666"
    grid: str = "#e4e4e4"
    set_face: str = "#b9c7d6"
    classes: tuple[str, ...] = ("#a6c8e4", "#f6c9a8", "#b7ddb0", "#e3b7d3", "#e9e0a0", "#b3e0e6", "#d5cfc7", "#c9c3ea")
    inks: tuple[str, ...] = ("#174f85", "#a34700", "#236b22", "#86266c", "#655d00", "#006470", "#4f473f", "#43389a")
    ramp: str = "viridis"
    diverging: str = "PuOr"

    def colour(self, method: str) -> str:
        """A method's colour on this paper."""
        pen = PENS.get(method, OTHER)
        return pen.dark if self.name == "dark" else pen.light

    def line(self, method: str) -> dict[str, Any]:
        """Arguments of a line that stands for a method."""
        pen = PENS.get(method, OTHER)
        return {
            "color": self.colour(method),
            "linestyle": pen.dash,
            "linewidth": pen.width,
            "zorder": 20 - pen.rank,
        }

    def label(self, method: str) -> str:
        """A method's name in legends."""
        return PENS.get(method, OTHER).label or method

    def figure(self, width: float, height: float) -> Figure:
        """An empty figure of so many inches. The object interface: no global figure, no window system."""
        from matplotlib.figure import Figure

        return Figure(figsize=(width, height), layout="constrained", facecolor=self.paper)

    def dress(self, axes: Axes, *, grid: bool = False, frame: bool = False) -> None:
        """Give axes this theme's colours, and no more lines than they need."""
        axes.set_facecolor(self.paper)
        axes.tick_params(colors=self.faint, labelsize=7.5, length=2.5, width=0.6)
        for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
            label.set_color(self.ink)
        for side, spine in axes.spines.items():
            spine.set_color(self.faint)
            spine.set_linewidth(0.6)
            spine.set_visible(frame or side in ("left", "bottom"))
        if grid:
            axes.grid(color=self.grid, linewidth=0.6)
            axes.set_axisbelow(True)

    def caption(self, figure: Figure, text: str) -> None:
        """Numbers and units below a figure."""
        figure.supxlabel("\n".join(wrapped(text, figure.get_figwidth())), fontsize=8, color=self.faint)


def wrapped(text: str, width: float) -> list[str]:
    """The lines of a caption in a figure of so many inches."""
    import textwrap

    most = max(40, int(WRAP * width / 10.0))
    return [line for part in text.split("\n") for line in textwrap.wrap(part, most) or [""]]


LIGHT = Theme()
DARK = Theme(
    "dark",
    paper="#14171c",
    ink="#eceff3",
    faint="#a2a9b3",
    grid="#2c323b",
    set_face="#3d5166",
    classes=("#27506f", "#7a4a26", "#2f5f38", "#6a3557", "#66602a", "#286069", "#56524c", "#4b4576"),
    inks=("#9fd0ff", "#ffb98a", "#a5e6a0", "#f3a9dc", "#efe48a", "#8fe6f2", "#ded6cc", "#c9c0ff"),
)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure: complete, or not at all, and the same bytes for the same figure.

    Args:
        figure: As the functions of this room return it.
        path: A .svg or .pdf (vector graphics) or .png file.

    Raises:
        OptionError: If the suffix is another, or the file cannot be written.
    """
    path = Path(path)
    check_figure(path)
    path = path.resolve()  # through a link, to the file that it names
    image = io.BytesIO()
    import matplotlib

    kind = path.suffix[1:].lower()
    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with matplotlib.rc_context({"svg.hashsalt": "milpverify", "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure.savefig(
            image,
            format=kind,
            dpi=PNG_DPI if kind == "png" else FILLING_DPI,
            metadata=metadata,
            facecolor=figure.get_facecolor(),
        )
    write_whole(path, image.getvalue())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears complete or not at all.

    Raises:
        OptionError: If it cannot be written.
    """
    try:
        with written_whole(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise OptionError(f"figure: cannot write {path} ({error.strerror}). Choose another place.") from error


def check_figure(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Refuse a file that no figure can be written to, before any work is done for it.

    Raises:
        OptionError: If the suffix is unknown or the folder is missing.
    """
    if path.suffix.lower() not in suffixes:
        raise OptionError(f"figure: {path.name} must end in {', '.join(suffixes)}. Rename it.")
    if not path.resolve().parent.is_dir():
        raise OptionError(
            f"figure: there is no folder {path.resolve().parent} to write {path.name} to. Create it first."
        )

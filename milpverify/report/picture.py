"""A picture of an adversarial example: original, adversarial, difference."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np

from milpverify.errors import OptionError

WIDTH_INCHES, HEIGHT_INCHES, DPI = 8.8, 3.8, 160
CAPTION_WIDTH = 112
LIGHTER = 1.5  # the ends of the colour map are near black; the change itself should not be


def draw_adversarial(
    path: Path, original: np.ndarray, adversarial: np.ndarray, titles: tuple[str, str, str], caption: str
) -> None:
    """Write a picture with three panels and a caption.

    Grey levels for both images on one scale; the difference in purple and orange (PuOr), which colour-blind readers
    tell apart, on a scale of its own that is symmetric around no change.

    Args:
        path: A .png file.
        original, adversarial: Grey levels, shape (height, width), 0 black to 1 white.
        titles: Above the panels.
        caption: Below them.

    Raises:
        OptionError: If the file cannot be written.
    """
    # The object interface: no global figure, no window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    difference = np.asarray(adversarial, dtype=np.float64) - original
    reach = float(np.abs(difference).max()) or 1.0
    for axis, image, title in zip(axes, (original, adversarial), titles, strict=False):
        shown = axis.imshow(image, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        axis.set_title(title, fontsize=11)
    figure.colorbar(shown, ax=list(axes[:2]), shrink=0.72, pad=0.02, label="grey level", ticks=[0, 0.5, 1])
    shown = axes[2].imshow(
        difference, cmap="PuOr", vmin=-LIGHTER * reach, vmax=LIGHTER * reach, interpolation="nearest"
    )
    axes[2].set_title(titles[2], fontsize=11)
    bar = figure.colorbar(shown, ax=axes[2], shrink=0.72, pad=0.04, label="change of the grey level")
    bar.set_ticks([-reach, 0.0, reach], labels=[f"−{reach:.4f}", "0", f"+{reach:.4f}"])
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.supxlabel("\n".join(textwrap.wrap(caption, CAPTION_WIDTH)), fontsize=9, color="#333333")
    try:
        canvas.print_png(str(path), metadata={"Software": "milpverify"}, pil_kwargs=None)
    except OSError as error:
        raise OptionError(f"demo: cannot write {path} ({error.strerror}). Choose another folder.") from error

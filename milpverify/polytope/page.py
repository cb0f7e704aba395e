"""The interactive page: one HTML file with a slider over eps, a switch per relaxation, and the numbers.

Everything is worked out here, for every eps of a list; the page holds it as JSON and draws it with its own few hundred
lines of JavaScript (`milpverify/data/explore`), no library: what is hovered is a polygon out of thousands, which
general plotting libraries draw slowly or pick by the nearest point, and the smallest of them weighs a megabyte.

The JSON object (`Page.data`):

    labels, scenes      one per eps, rising; see below
    methods             name, label, dash and width of each line: the exact set, then the relaxations
    start, off, colour  scene shown first; what is switched off then, and what colours the regions
    inputs, outputs     names of the two axes of either plane
    centre, image       the clean input and its outputs, in the planes
    classes, palette    names of the classes; number of fills, used in turn
    relus               number of neurons
    neurons             [layer, number] of those that are not the same in all pieces
    pieces              map (a, b, c of both outputs: a s + b t + c), number of active ReLUs, bits over `neurons`, hex
    home                bits of the clean input
    scenes[i]           regions, shown_share, area: how many there are, share of the area that is shown, area of all
                        polygon: of the inputs, flat
                        vertices: s, t, first output, second output of each, flat
                        faces: [piece, class or -1, area, vertices ...]; parts: [face, class, s, t, y, y', s, ...]
                        outlines: by method, a list of flat lines; table: `Numbers`
                        gaps: heading, text and the ranked neurons, or null

Coordinates that are only drawn are rounded to 10^-6 of the plane's extent, areas of faces to 6 significant digits, and
maps to 8; numbers of the table and of the attribution are those of the objects they come from.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from milpverify.bounds.backward import Crown, FastLin
from milpverify.bounds.method import Interval
from milpverify.bounds.norms import NormBounds
from milpverify.bounds.slopes import AlphaCrown
from milpverify.errors import OptionError, RegionError
from milpverify.network.graph import Network
from milpverify.polytope.page_faces import PageFaces, Pieces, compact, joined, rounded
from milpverify.polytope.page_scene import Relaxation, Scene, SceneMaker
from milpverify.polytope.page_text import page_text
from milpverify.polytope.plot_style import LIGHT, OTHER, PENS, SOLID
from milpverify.spec.regions import Box, LinfBall
from milpverify.tasks.progress import OnProgress, Progress
from milpverify.tighten.lp import TriangleLP

RELAXATIONS = (
    Relaxation("lp", TriangleLP(), AlphaCrown()),
    Relaxation("alpha", AlphaCrown()),
    Relaxation("crown", Crown()),
    Relaxation("fastlin", FastLin()),
    Relaxation("interval", Interval()),
    Relaxation("norms", NormBounds()),
)
# The page opens at the largest eps at which the best relaxation has at most so many times the exact area; relaxations
# that have more than so many times it there are switched off, for they would hide the others.
OPENING, FAR_OUT = 10.0, 30.0


@dataclass(frozen=True)
class PageOptions:
    """What a page shows, and how much of it.

    Attributes:
        vary: The two inputs that vary, from 0; the others stay at x. None for a network that reads two.
        outputs: The two outputs that span the plane, from 0.
        clip: Range of valid inputs, as of `LinfBall`.
        relaxations: In the order of the table.
        max_regions: Linear regions that are drawn for each eps, the largest ones; the page says how many there are.
        neurons: How many neurons are ranked by what they add to the gap; 0 for none.
        title: Heading of the page.

    Raises:
        OptionError: If a number is out of its range, or two relaxations have one name.
    """

    vary: tuple[int, int] | None = None
    outputs: tuple[int, int] = (0, 1)
    clip: Any = None
    relaxations: tuple[Relaxation, ...] = RELAXATIONS
    max_regions: int = 3000
    neurons: int = 12
    title: str = "Exact set and relaxations"

    def __post_init__(self) -> None:
        names = [drawn.name for drawn in self.relaxations]
        if len({*names, "exact"}) != len(names) + 1 or not all(re.fullmatch("[a-z][a-z0-9-]*", name) for name in names):
            raise OptionError(f"PageOptions: relaxations need different short words as names, got {names}.")
        if self.max_regions < 1 or self.neurons < 0:
            raise OptionError(
                f"PageOptions: max_regions must be at least 1 and neurons at least 0, got {self.max_regions} and "
                f"{self.neurons}."
            )


@dataclass(frozen=True, eq=False)
class Page:
    """A page that needs nothing but a browser.

    Attributes:
        html: The file's text; it asks for nothing from any network.
        data: What it draws (see the module's text).
        scenes: What that was made from.
    """

    html: str
    data: dict[str, Any] = field(repr=False)
    scenes: tuple[Scene, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Regions, shown ones and the table of every eps, and the size of the page, JSON-ready."""
        per_eps = [
            {"eps": scene.eps, "regions": data["regions"], "shown": len(data["faces"]), "table": data["table"]}
            for scene, data in zip(self.scenes, self.data["scenes"], strict=True)
        ]
        return {"size_bytes": len(self.html.encode()), "eps": per_eps}


def explore_page(
    net: Network,
    x: Any,
    eps: Sequence[float],
    options: PageOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> Page:
    """The page about all inputs with |x'_i - x_i| <= eps in two coordinates i.

    Args:
        net: The network; two of its outputs span the plane that is drawn.
        x: The clean input.
        eps: The radii, each worked out by itself.
        options: `PageOptions()` when None.
        on_progress: Told before each piece of work.

    Returns:
        The page; `Path(...).write_text(page.html, encoding="utf-8")` makes it a file.

    Raises:
        RegionError: If the region has no area, or a radius is none.
        OptionError: If the chosen inputs or outputs do not exist, or there are too many linear regions.
        NetworkError: If x does not fit the network.
    """
    options = PageOptions() if options is None else options
    began, x, radii = time.perf_counter(), net.flat(x), _radii(eps)
    vary = _pair("inputs", options.vary, net.n_inputs)
    outputs = _pair("outputs", options.outputs, net.n_outputs)
    boxes = [_box(x, radius, vary, options.clip) for radius in radii]
    maker = SceneMaker(
        net, np.eye(net.n_outputs)[list(outputs)], options.relaxations, _margin_row(net, x), options.neurons
    )
    scenes = []
    for i, (radius, box) in enumerate(zip(radii, boxes, strict=True)):
        if on_progress is not None:
            on_progress(Progress("scene", f"eps {radius:g}", time.perf_counter() - began, left=len(radii) - i - 1))
        scenes.append(maker.make(radius, box))
    data = _data(net, x, tuple(scenes), options, (vary, outputs))
    subtitle = f"{_architecture(net)}, {_around(x, vary)}"
    return Page(page_text(options.title, subtitle, data), data, tuple(scenes))


def _radii(eps: Sequence[float]) -> list[float]:
    radii = sorted({float(radius) for radius in np.atleast_1d(np.asarray(eps, dtype=np.float64))})
    if not radii or not all(0 < radius < np.inf for radius in radii):
        raise RegionError(f"explore_page: eps must be positive finite numbers, at least one, got {list(eps)}.")
    return radii


def _pair(what: str, chosen: tuple[int, int] | None, size: int) -> tuple[int, int]:
    """Two different indices below `size`.

    Raises:
        OptionError: If they are not, or two must be chosen from more and were not.
    """
    if size < 2:
        raise OptionError(f"explore_page: the network has {size} of {what}, a plane needs two. Take another network.")
    if chosen is None and size > 2:
        raise OptionError(
            f"explore_page: the network reads {size} {what}, a page shows two. Choose them with vary (--vary I,J); the "
            "others stay at x."
        )
    pair = (0, 1) if chosen is None else tuple(chosen)
    if len(pair) != 2 or pair[0] == pair[1] or not all(0 <= i < size for i in pair):
        raise OptionError(f"explore_page: {what} {list(pair)} came, expected two different ones from 0 to {size - 1}.")
    return int(pair[0]), int(pair[1])


def _box(x: np.ndarray, radius: float, vary: tuple[int, int], clip: Any) -> Box:
    ball, lower, upper = LinfBall(x, radius, clip=clip), x.copy(), x.copy()
    lower[list(vary)], upper[list(vary)] = ball.lower[list(vary)], ball.upper[list(vary)]
    if not (upper > lower)[list(vary)].all():
        raise RegionError(f"explore_page: at eps {radius:g} the clip leaves no area around x. Choose other inputs.")
    return Box(lower, upper)


def _margin_row(net: Network, x: np.ndarray) -> np.ndarray:
    """The class of x minus the runner-up."""
    second, first = np.argsort(net.forward(x), kind="stable")[-2:]
    return np.asarray(np.eye(net.n_outputs)[first] - np.eye(net.n_outputs)[second])


def _data(
    net: Network, x: np.ndarray, scenes: tuple[Scene, ...], options: PageOptions, planes: tuple[tuple[int, int], ...]
) -> dict[str, Any]:
    vary, outputs = planes
    pieces, drawn = Pieces(), []
    for scene in reversed(scenes):  # the widest has almost every piece, and is the one to round
        drawn.append(_scene_data(scene, PageFaces.largest(scene.regions, options.max_regions, outputs), pieces))
    drawn.reverse()
    hidden, y = net.activations(x)
    home = np.concatenate([np.zeros(0, dtype=bool), *(zhat > 0 for zhat in hidden)])
    several = any({face[1] for face in scene["faces"]} != {drawn[0]["faces"][0][1]} for scene in drawn)
    start = max((i for i, scene in enumerate(scenes) if _best_ratio(scene) <= OPENING), default=0)
    return {
        "labels": [f"{scene.eps:.6g}" for scene in scenes],
        "methods": [_line(name) for name in ("exact", *(drawn.name for drawn in options.relaxations))],
        "start": start,
        "off": [row.method for row in scenes[start].numbers if row.ratio is not None and row.ratio > FAR_OUT],
        "colour": "class" if several else "active",
        "inputs": [_indexed("x", i) for i in vary],
        "outputs": [_indexed("y", i) for i in outputs],
        "centre": x[list(vary)].tolist(),
        "image": y[list(outputs)].tolist(),
        "classes": [str(label) for label in range(net.n_outputs)],
        "palette": len(LIGHT.classes),
        "relus": net.n_neurons,
        **pieces.to_dict(net, home),
        "table_note": TABLE_NOTE,
        "honesty": HONESTY,
        "scenes": drawn,
    }


def _best_ratio(scene: Scene) -> float:
    return min((row.ratio for row in scene.numbers[1:] if row.ratio is not None), default=1.0)


def _scene_data(scene: Scene, faces: PageFaces, pieces: Pieces) -> dict[str, Any]:
    polygon = scene.regions.input_slice.polygon
    exact = scene.image.boundary if len(scene.image.boundary) else scene.image.segments
    exact = rounded(exact.reshape(-1, 2), exact.reshape(-1, 2)).reshape(-1, 2, 2)
    rings = {"exact": joined(exact), **{name: [_closed(found.outer)] for name, found in scene.outlines.items()}}
    return {
        **faces.to_dict(pieces),
        "polygon": compact(polygon),
        "outlines": {
            name: [compact(rounded(ring, np.concatenate(some))) for ring in some] for name, some in rings.items()
        },
        "table": [row.to_dict() for row in scene.numbers],
        "gaps": _gaps(scene),
    }


def _told(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _indexed(symbol: str, index: int) -> str:
    return symbol + str(index).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _closed(ring: np.ndarray) -> np.ndarray:
    return np.concatenate([ring, ring[:1]])


def _gaps(scene: Scene) -> dict[str, Any] | None:
    found = scene.attribution
    if found is None:
        return None
    first, second = int(scene.row.argmax()), int(scene.row.argmin())
    difference = f"{_indexed('y', first)} − {_indexed('y', second)}"
    ranked = [neuron for neuron in found.neurons if neuron.gain is not None]
    return {
        "heading": "What makes the LP loose",
        "text": f"Least {difference}: {_told(scene.least)}; the LP proves {_told(found.lower)}. Bars: its gain when "
        "this ReLU alone is exact. Point at one to see where it folds.",
        "least": scene.least,
        "lower": found.lower,
        "neurons": [
            {
                "neuron": [neuron.layer, neuron.index],
                "gap": neuron.gain,
                "slack": neuron.slack,
                "share": neuron.share,
            }
            for neuron in ranked
        ],
    }


TABLE_NOTE = (
    "Area: of the set in this plane. Gap: how much farther than the exact set the outline reaches, over even "
    "directions. Seconds: all directions, hidden bounds included."
)
HONESTY = (
    "Linear regions are exact up to rounding in float64. Each outline is the polygon of what the method proves in the "
    "directions it was asked for. Drawn coordinates are rounded to a millionth of the plane. Made by milpverify; this "
    "file loads nothing."
)


def _line(name: str) -> dict[str, Any]:
    pen = PENS.get(name, OTHER)
    dash = [] if pen.dash == SOLID else [round(pen.width * part, 3) for part in pen.dash[1]]
    return {"name": name, "label": LIGHT.label(name), "dash": dash, "width": pen.width}


def _architecture(net: Network) -> str:
    sizes = "-".join(str(size) for size in (net.n_inputs, *net.sizes, net.n_outputs))
    return f"{sizes} ({net.n_neurons} ReLUs)"


def _around(x: np.ndarray, vary: tuple[int, int]) -> str:
    point = ", ".join(f"{value:.4g}" for value in x[list(vary)])
    rest = f"; {len(x) - 2} further inputs fixed" if len(x) > 2 else ""
    names = ", ".join(_indexed("x", i) for i in vary)
    return f"all ({names}) within ε of ({point}) in each coordinate{rest}"

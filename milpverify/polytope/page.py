"""The interactive page: one HTML file with a slider over eps, a switch per relaxation, and the numbers.

Everything is worked out here, for every eps of a list; the page holds it as JSON (`page_data`) and draws it with a few
hundred lines of JavaScript of its own (`milpverify/data/explore`). What is pointed at is one polygon of thousands:
plotting libraries draw these slowly or pick by the nearest point; PERFORMANCE.md compares.
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
from milpverify.polytope.page_data import Planes, indexed, page_data
from milpverify.polytope.page_scene import Relaxation, Scene, SceneMaker
from milpverify.polytope.page_text import page_text
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
SMALLEST = 1e-200  # an area whose quotients are still floats, and one over the largest


@dataclass(frozen=True)
class PageOptions:
    """What a page shows, and how much of it.

    Attributes:
        inputs: The two inputs that vary, from 0, in any order; the others stay at x. None for a network that reads two.
        outputs: The two outputs that span the plane, from 0.
        clip: Range of valid inputs, as of `LinfBall`.
        relaxations: In the order of the table.
        max_regions: Linear regions that are drawn for each eps, the largest ones; the page says how many there are.
        neurons: How many neurons are ranked by what they add to the gap; 0 for none.
        title: Heading of the page.

    Raises:
        OptionError: If a number is out of its range, or two relaxations have one name.
    """

    inputs: tuple[int, int] | None = None
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
        data: What it draws: see `page_data`.
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
    first, second = sorted(_pair("inputs", options.inputs, net.n_inputs))  # the order that linear regions have them in
    vary = first, second
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
    data = page_data(net, x, tuple(scenes), Planes(vary, outputs), options.max_regions)
    subtitle = f"{_architecture(net)}, {_around(x, vary)}"
    return Page(page_text(options.title, subtitle, data), data, tuple(scenes))


def _radii(eps: Sequence[float]) -> list[float]:
    radii = sorted({float(radius) for radius in np.atleast_1d(np.asarray(eps, dtype=np.float64))})
    wrong = [radius for radius in radii if not 0 < radius < np.inf]
    if wrong or not radii:
        told = f"got {wrong[0]:g}" if wrong else "none came"
        raise RegionError(f"explore_page: every eps must be positive and finite, {told}. Give radii in input units.")
    return radii


def _pair(what: str, chosen: tuple[int, int] | None, size: int) -> tuple[int, int]:
    """Two different indices below `size`.

    Raises:
        OptionError: If they are not, or two must be chosen from more and were not.
    """
    if size < 2:
        raise OptionError(f"explore_page: a plane needs two {what}, the network has {size}. Take another network.")
    if chosen is None and size > 2:
        raise OptionError(
            f"explore_page: the network reads {size} {what}, a page shows two. Name them (--inputs A,B); the others "
            "stay at x."
        )
    pair = (0, 1) if chosen is None else tuple(chosen)
    if len(pair) != 2 or pair[0] == pair[1] or not all(0 <= i < size for i in pair):
        raise OptionError(f"explore_page: {what} {list(pair)} came, expected two different ones from 0 to {size - 1}.")
    return int(pair[0]), int(pair[1])


def _box(x: np.ndarray, radius: float, vary: tuple[int, int], clip: Any) -> Box:
    ball, lower, upper = LinfBall(x, radius, clip=clip), x.copy(), x.copy()
    lower[list(vary)], upper[list(vary)] = ball.lower[list(vary)], ball.upper[list(vary)]
    area = float(np.prod((upper - lower)[list(vary)]))
    if not SMALLEST <= area <= 1 / SMALLEST:
        raise RegionError(
            f"explore_page: at eps {radius:g} the two inputs that vary span an area of {area:g} within the clip. "
            "Choose another eps, or other inputs."
        )
    return Box(lower, upper)


def _margin_row(net: Network, x: np.ndarray) -> np.ndarray:
    """The class of x minus the runner-up."""
    second, first = np.argsort(net.forward(x), kind="stable")[-2:]
    return np.asarray(np.eye(net.n_outputs)[first] - np.eye(net.n_outputs)[second])


def _architecture(net: Network) -> str:
    sizes = "-".join(str(size) for size in (net.n_inputs, *net.sizes, net.n_outputs))
    return f"{sizes} ({net.n_neurons} ReLUs)"


def _around(x: np.ndarray, vary: tuple[int, int]) -> str:
    point = ", ".join(f"{value:.4g}" for value in x[list(vary)])
    rest = f"; {len(x) - 2} further inputs fixed" if len(x) > 2 else ""
    names = ", ".join(indexed("x", i) for i in vary)
    return f"all ({names}) within ε of ({point}) in each coordinate{rest}"

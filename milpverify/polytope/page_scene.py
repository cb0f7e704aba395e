"""One radius of a page: the exact set, the outline of every relaxation, their numbers, and what loosens the LP."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from milpverify.bounds.method import BoundMethod
from milpverify.network.graph import Network
from milpverify.polytope.attribution import Attribution, attribute_gap
from milpverify.polytope.comparison import compare_outlines
from milpverify.polytope.image import Image
from milpverify.polytope.linear_regions import LinearRegions, linear_regions
from milpverify.polytope.outline import Outline, outline
from milpverify.spec.regions import Box
from milpverify.tighten.lp import TriangleLP


@dataclass(frozen=True)
class Relaxation:
    """A relaxation that a page draws.

    Attributes:
        name: A key of `plot_style.PENS`, which has its label, colour and dash, or a short word of its own.
        method: What bounds each direction.
        hidden: What bounds the hidden neurons; the method itself when None.
    """

    name: str
    method: BoundMethod
    hidden: BoundMethod | None = None


@dataclass(frozen=True)
class Numbers:
    """A row of the page's table.

    Attributes:
        method: Name of a relaxation, or "exact".
        area: Of the set in the plane of outputs.
        ratio: That area over the exact set's; None where the exact set has none.
        mean_gap, largest_gap: As of `compare_outlines`.
        range: (least, largest) of both outputs.
        seconds: Wall time.
    """

    method: str
    area: float
    ratio: float | None
    mean_gap: float
    largest_gap: float
    range: tuple[tuple[float, float], tuple[float, float]]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return {**vars(self), "range": [list(ends) for ends in self.range]}


@dataclass(frozen=True, eq=False)
class Scene:
    """What is known about the inputs within one radius.

    Attributes:
        eps: The radius.
        regions: The exact linear regions.
        image: What they are mapped to in the plane.
        relaxations: What was outlined.
        outlines: By name of the relaxation.
        numbers: The table, the exact set first.
        row: The row of outputs whose gap is attributed, shape (n_outputs,).
        attribution: The triangle LP's gap for it; None where no LP is drawn, or it was not asked.
    """

    eps: float
    regions: LinearRegions
    image: Image
    relaxations: tuple[Relaxation, ...]
    outlines: dict[str, Outline]
    numbers: tuple[Numbers, ...]
    row: np.ndarray
    attribution: Attribution | None

    @property
    def least(self) -> float:
        """The exact minimum of `row`: attained at a vertex of a linear region. Floating."""
        return float((self.regions.outputs @ self.row).min())


@dataclass(frozen=True, eq=False)
class SceneMaker:
    """What all scenes of a page share.

    Attributes:
        net: The network.
        rows: The plane: two rows of the outputs, shape (2, n_outputs).
        relaxations: In the order of the table.
        row: See `Scene`.
        neurons: For how many neurons the gain from making them exact is worked out; 0 for none, and no attribution.
    """

    net: Network
    rows: np.ndarray
    relaxations: tuple[Relaxation, ...]
    row: np.ndarray
    neurons: int

    def make(self, eps: float, region: Box) -> Scene:
        """Work out one scene."""
        began = time.perf_counter()
        regions = linear_regions(self.net, region)
        image = regions.image(self.rows)
        seconds = time.perf_counter() - began
        outlines = {
            drawn.name: outline(self.net, region, drawn.method, rows=self.rows, hidden=drawn.hidden)
            for drawn in self.relaxations
        }
        numbers = _numbers(outlines, image, seconds)
        return Scene(eps, regions, image, self.relaxations, outlines, numbers, self.row, self._attribution(region))

    def _attribution(self, region: Box) -> Attribution | None:
        for drawn in self.relaxations:
            if isinstance(drawn.method, TriangleLP) and self.neurons:
                hidden = drawn.method if drawn.hidden is None else drawn.hidden
                return attribute_gap(self.net, region, self.row, hidden=hidden, candidates=self.neurons)
        return None


def _numbers(outlines: dict[str, Outline], image: Image, seconds: float) -> tuple[Numbers, ...]:
    """The table: the exact set, then the outlines beside it."""
    area, rows = image.area, compare_outlines(tuple(outlines.values()), image).rows
    exact = Numbers("exact", area, 1.0 if area > 0 else None, 0.0, 0.0, _range(image.points), seconds)
    return exact, *(
        Numbers(
            name,
            row.area,
            row.ratio if area > 0 else None,
            row.mean_gap,
            row.largest_gap,
            _range(found.outer),
            row.seconds,
        )
        for (name, found), row in zip(outlines.items(), rows, strict=True)
    )


def _range(points: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    low, high = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return (low[0], high[0]), (low[1], high[1])

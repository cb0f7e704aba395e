"""Outlines side by side: areas, how far they reach beyond the exact set, and a chain in which each lies in the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from milpverify.bounds.backward import Crown, FastLin
from milpverify.bounds.compute import compute_bounds
from milpverify.bounds.method import BoundMethod, Interval
from milpverify.errors import OptionError
from milpverify.network.graph import Bounds, Network
from milpverify.polytope.convex import polygon_area, support
from milpverify.polytope.outline import Outline, below, exact_method, outline
from milpverify.polytope.refinement import Refinement
from milpverify.search.question import Search
from milpverify.spec.regions import Region
from milpverify.tasks.margin import Minimiser
from milpverify.tasks.rungs import aligned
from milpverify.tighten.lp import TriangleLP

HEADINGS = ("method", "area", "ratio", "largest gap", "mean gap", "s")


class PlanarSet(Protocol):
    """What outlines are measured against: an `Image`, or an outline."""

    @property
    def area(self) -> float: ...

    def support(self, directions: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Polygon:
    """A convex polygon as a set that outlines are measured against.

    Attributes:
        corners: Counter-clockwise, shape (k, 2).
    """

    corners: np.ndarray

    @property
    def area(self) -> float:
        """Its area."""
        return polygon_area(self.corners)

    def support(self, directions: np.ndarray) -> np.ndarray:
        """max d . p over it for directions (m, 2), shape (m,). Floating."""
        return support(self.corners, directions)


@dataclass(frozen=True)
class OutlineRow:
    """One outline next to the exact set.

    Attributes:
        method: Its title.
        area: Of its outer polygon.
        ratio: That over the exact set's area; infinite where that is 0.
        largest_gap, mean_gap: Of h(d) less the exact set's, over the directions compared.
        seconds: Wall time of the outline.
    """

    method: str
    area: float
    ratio: float
    largest_gap: float
    mean_gap: float
    seconds: float


@dataclass(frozen=True)
class OutlineTable:
    """Outlines next to the exact set, as a table."""

    rows: tuple[OutlineRow, ...]

    def table(self) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        """Headings and one row per outline, as text."""
        rows = [
            (r.method, *(f"{v:.6g}" for v in (r.area, r.ratio, r.largest_gap, r.mean_gap)), f"{r.seconds:.3f}")
            for r in self.rows
        ]
        return HEADINGS, tuple(rows)

    def __str__(self) -> str:
        return "\n".join(aligned(*self.table()))


def compare_outlines(outlines: Sequence[Outline], exact: PlanarSet, directions: int = 360) -> OutlineTable:
    """Areas and support gaps of outlines. Floating.

    Args:
        outlines: All in one plane.
        exact: The exact set: `LinearRegions.image()`, whose area is that of the union, or the outline of its hull.
        directions: Evenly spread directions in which support functions are compared.

    Raises:
        OptionError: If there is no direction.
    """
    if directions < 1:
        raise OptionError(f"compare_outlines: directions must be at least 1, got {directions}.")
    angles = np.arange(directions) * (2 * np.pi / directions)
    d = np.column_stack([np.cos(angles), np.sin(angles)])
    truth, rows = exact.support(d), []
    for one in outlines:
        gaps = one.support(d) - truth
        ratio = one.area / exact.area if exact.area > 0 else float("inf")
        rows.append(OutlineRow(one.title, one.area, ratio, float(gaps.max()), float(gaps.mean()), one.seconds))
    return OutlineTable(tuple(rows))


def nested_outlines(
    net: Network,
    region: Region,
    methods: Sequence[BoundMethod | Minimiser | Search] | None = None,
    *,
    rows: np.ndarray | None = None,
    layer: int | None = None,
    hidden: Bounds | None = None,
    refinement: Refinement | None = None,
    time_limit_s: float | None = None,
) -> tuple[Outline, ...]:
    """Outlines of several methods, from the loosest on, each within the one before.

    By theorem, over the same hidden bounds the LP's outline lies in that of any choice of multipliers, CROWN's and
    Fast-Lin's among them, and the exact set in all. CROWN and Fast-Lin are not comparable, nor is an outline with
    tighter hidden bounds always the smaller one. So each method starts from the hidden bounds of the one before and
    only tightens them, and each outline is met with the one before: what both prove is proven. Its `seconds` count its
    own work alone.

    Args:
        net, region, rows, layer, refinement: As of `outline`.
        methods: When None: `Interval`, `FastLin`, `Crown`, `TriangleLP`. Minimisers stand on the hidden bounds so far.
        hidden: Bounds that all methods share instead: what differs then is the relaxation of the outputs alone.
        time_limit_s: Of each exact outline.

    Raises:
        OptionError: If there is no method, or as `outline`.
    """
    chosen = (Interval(), FastLin(), Crown(), TriangleLP()) if methods is None else tuple(methods)
    if not chosen:
        raise OptionError("nested_outlines: no method came. Give at least one, such as Interval().")
    part, known, found = net if layer is None else below(net, layer), hidden, list[Outline]()
    for method in chosen:
        if not isinstance(method, BoundMethod):
            exact_method(method)
        elif hidden is None:
            known = compute_bounds(part, region, method, known=known)
        one = outline(
            part, region, method, rows=rows, hidden=known, refinement=refinement, time_limit_s=time_limit_s
        )  # fmt: skip
        found.append(one.within(found[-1]) if found else one)
    return tuple(found)

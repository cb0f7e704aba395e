r"""Outlines of relaxations in a plane of outputs, by their support functions.

For a direction d in the plane and the two functionals P (2, n_outputs) that span it, a method proves

    h(d) >= max over the region of d . P y,

so that every output lies in the polygon { p : d_i . p <= h(d_i) }: the outer polygon, whatever the method. Where the
method also gives points that its own set attains (a linear program's optimum, a witness), their hull is the inner
polygon, and directions are added where the two are farthest apart, until they meet to a tolerance.

What is drawn for methods without points: interval bounds and Fast-Lin's are sums of terms that are convex in d, so that
h is the support function of a convex set, and the polygon tends to that set. CROWN and alpha-CROWN choose other slopes
for other directions; h need not be convex, and the polygon is the intersection of the half-planes asked for.

Source: Wong & Kolter 2018, figures 2 and 4 (outer bounds of adversarial polytopes); Rockafellar 1970, section 13
(support functions); Lotov, Bushenkov & Kamenev 2004 (refining both polygons where they differ most).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from milpverify.bounds.method import BoundMethod
from milpverify.network.graph import Bounds, Network
from milpverify.polytope.convex import convex_hull, half_planes, polygon_area, support
from milpverify.search.question import Search
from milpverify.spec.regions import Region
from milpverify.tasks.margin import Minimiser


@dataclass(frozen=True, eq=False)
class Outline:
    """A set of outputs in a plane, between two convex polygons.

    Attributes:
        name: Of the method.
        directions: Unit vectors by rising angle, shape (m, 2); the four axes are among them.
        offsets: h of each direction, shape (m,): rounded, or on a solver's word where `solver_trusted`.
        points: Points of the method's set in the order of the directions, each farthest in its own, shape (m, 2);
            None for methods without points. Floating.
        seconds: Wall time, hidden bounds included.
        solver_trusted: Whether offsets rest on a solver's word within its tolerances.
    """

    name: str
    directions: np.ndarray
    offsets: np.ndarray
    points: np.ndarray | None = None
    seconds: float = 0.0
    solver_trusted: bool = False

    @cached_property
    def outer(self) -> np.ndarray:
        """The polygon of the half-planes, counter-clockwise, shape (k, 2). Floating."""
        return half_planes(self.directions, self.offsets)

    @cached_property
    def inner(self) -> np.ndarray | None:
        """The hull of the points, counter-clockwise, shape (k, 2); None where there are none."""
        return None if self.points is None else convex_hull(self.points)

    @property
    def area(self) -> float:
        """Area of the outer polygon."""
        return polygon_area(self.outer)

    @property
    def gap(self) -> float | None:
        """How far the outer polygon reaches beyond the inner one at most; None without points."""
        raise NotImplementedError

    def support(self, directions: np.ndarray) -> np.ndarray:
        """max d . p over the outer polygon for directions (m, 2), shape (m,). Floating."""
        return support(self.outer, directions)

    def within(self, other: Outline) -> Outline:
        """This outline met with another one's: both sets of half-planes."""
        raise NotImplementedError


def outline(
    net: Network,
    region: Region,
    method: BoundMethod | Minimiser | Search,
    *,
    rows: np.ndarray | None = None,
    layer: int | None = None,
    hidden: BoundMethod | Bounds | None = None,
    refinement: Refinement | None = None,
) -> Outline:
    """The outline of one method's set of outputs, or of the exact set's convex hull.

    Args:
        net: The network, of any input dimension.
        region: The inputs.
        method: A bound method bounds each direction as a row of outputs; `TriangleLP` and `ExactNeurons` give points
            as well. A minimiser or search (`MILP()`, `BranchAndBound()`) gives the exact convex hull.
        rows: The plane: two functionals of the outputs, shape (2, n_outputs); the first two outputs when None.
        layer: Pre-activations of that hidden layer (from 1) instead of the outputs; rows are then functionals of them.
        hidden: What bounds the hidden neurons, once for all directions: a method, or bounds that exist; the method
            itself when None (`Crown()` for exact ones).
        refinement: `Refinement()` when None.

    Raises:
        OptionError: If an option makes no sense.
        RegionError, BoundsError: As `compute_bounds`.
    """
    raise NotImplementedError


@dataclass(frozen=True)
class Refinement:
    """Which directions are asked for.

    Attributes:
        first: Directions to begin with, evenly spread; a multiple of 4.
        most: Directions at most.
        tolerance: Directions are added until the outer polygon reaches beyond the inner one (without points: until
            one more half-plane cuts off) no more than this share of the outline's diameter.
    """

    first: int = 16
    most: int = 256
    tolerance: float = 1e-3

r"""Outlines of relaxations in a plane of outputs, by their support functions.

For a direction d in the plane and the two functionals P (2, n_outputs) that span it, a method proves

    h(d) >= max over the region of d . P y,

so that every output lies in the polygon { p : d_i . p <= h(d_i) }: the outer polygon, whatever the method. Where the
method also gives points that its own set attains (a linear program's optimum, a witness), their hull is the inner
polygon, and directions are added where the two are farthest apart, until they meet to a tolerance.

What is drawn for methods without points: the h of intervals and of pure Fast-Lin are sums of terms that are convex in
d, so that h is the support function of a convex set, and the polygon tends to that set; `FastLin()` as it stands is met
with intervals, and its polygon tends to what both sets share. CROWN and alpha-CROWN choose other slopes for other
directions; h need not be convex, and the polygon is the intersection of the half-planes asked for.

Source: Wong & Kolter 2018, figures 2 and 4 (outer bounds of adversarial polytopes); Rockafellar 1970, section 13
(support functions); Lotov, Bushenkov & Kamenev 2004 (refining both polygons where they differ most).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from milpverify.bounds.backward import Crown
from milpverify.bounds.compute import compute_bounds
from milpverify.bounds.method import BoundMethod
from milpverify.errors import BoundsError, OptionError, RegionError
from milpverify.network.graph import Bounds, Network
from milpverify.polytope.convex import convex_hull, half_planes, plane_rows, polygon_area, support
from milpverify.polytope.refinement import Refinement, refined, segment_distance
from milpverify.polytope.support import Plane, support_of
from milpverify.search.question import Search
from milpverify.spec.regions import Region
from milpverify.tasks.margin import Minimiser
from milpverify.tasks.progress import Clock

EXACT = "exact"  # what the outline of a minimiser is called


@dataclass(frozen=True, eq=False)
class Outline:
    """A set of outputs in a plane, between two convex polygons.

    Attributes:
        name: Of the method.
        directions: Unit vectors by rising angle, shape (m, 2); the four axes are among them.
        offsets: h of each direction, shape (m,): rounded, or on a solver's word where `solver_trusted`.
        points: Points of the method's set in the order of the directions, each farthest in its own, shape (m, 2); NaN
            where a solver had none; None for methods without points. Floating.
        seconds: Wall time, hidden bounds included.
        solver_trusted: Whether offsets rest on a solver's word within its tolerances.
        hidden: The method of the hidden bounds.
    """

    name: str
    directions: np.ndarray
    offsets: np.ndarray
    points: np.ndarray | None = None
    seconds: float = 0.0
    solver_trusted: bool = False
    hidden: str = ""

    @property
    def title(self) -> str:
        """The name, with the hidden bounds' where those are another method's: "lp over crown"."""
        own = self.hidden in ("", self.name) or self.name == EXACT
        return self.name if own else f"{self.name} over {self.hidden}"

    @cached_property
    def outer(self) -> np.ndarray:
        """The polygon of the half-planes, counter-clockwise, shape (k, 2). Floating."""
        return half_planes(self.directions, self.offsets)

    @cached_property
    def inner(self) -> np.ndarray | None:
        """The hull of the points, counter-clockwise, shape (k, 2); None where there are none."""
        found = None if self.points is None else self.points[np.isfinite(self.points).all(axis=1)]
        return None if found is None or not len(found) else convex_hull(found)

    @property
    def area(self) -> float:
        """Area of the outer polygon."""
        return polygon_area(self.outer)

    @property
    def gap(self) -> float | None:
        """How far the outer polygon reaches beyond the inner one at most; None without points. Floating."""
        if self.inner is None:
            return None
        a, b = self.inner[None], np.roll(self.inner, -1, axis=0)[None]
        corners = self.outer[:, None]
        side, to = b - a, corners - a
        within = ((side[..., 0] * to[..., 1] - side[..., 1] * to[..., 0]) >= 0).all(axis=1) & (len(self.inner) > 2)
        return float(np.where(within, 0.0, segment_distance(corners, a, b).min(axis=1)).max())

    def support(self, directions: np.ndarray) -> np.ndarray:
        """max d . p over the outer polygon for directions (m, 2), shape (m,). Floating."""
        return support(self.outer, directions)

    def within(self, other: Outline) -> Outline:
        """This outline met with another one's: both sets of half-planes, under this name, without points.

        What both prove holds: the polygon lies in both polygons, whatever the methods are.
        """
        directions = np.concatenate([self.directions, other.directions])
        offsets = np.concatenate([self.offsets, other.offsets])
        order = np.argsort(np.arctan2(directions[:, 1], directions[:, 0]) % (2 * np.pi), kind="stable")
        trusted = self.solver_trusted or other.solver_trusted
        return replace(
            self, directions=directions[order], offsets=offsets[order], points=None, solver_trusted=trusted
        )  # fmt: skip


def outline(
    net: Network,
    region: Region,
    method: BoundMethod | Minimiser | Search,
    *,
    rows: np.ndarray | None = None,
    layer: int | None = None,
    hidden: BoundMethod | Bounds | None = None,
    refinement: Refinement | None = None,
    time_limit_s: float | None = None,
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
        time_limit_s: Wall time of an exact outline's searches; what they do not reach stays a bracket, and its polygons
            stay apart. Other methods are not interrupted.

    Raises:
        OptionError: If an option makes no sense.
        RegionError, BoundsError: As `compute_bounds`.
    """
    clock = Clock("outline", time_limit_s)
    chosen = method if isinstance(method, BoundMethod) else exact_method(method)
    began, how = time.monotonic(), refinement or Refinement()
    part = net if layer is None else below(net, layer)
    plane = plane_rows("outline", rows, part.n_outputs)
    bounds = _hidden_bounds(part, region, chosen, hidden)
    function = support_of(Plane(part, region, bounds, plane), chosen, clock)
    asked = refined(function, how)
    name = chosen.name if isinstance(chosen, BoundMethod) else EXACT
    trusted = asked.answer.solver_trusted or bounds.solver_trusted
    return Outline(
        name, asked.directions, asked.answer.offsets, asked.answer.points, time.monotonic() - began, trusted,
        bounds.source,
    )  # fmt: skip


def exact_method(method: object) -> Minimiser:
    """A minimiser; a search alone stands for one.

    Raises:
        OptionError: If it is neither.
    """
    if not isinstance(method, Minimiser | Search):
        raise OptionError(f"outline: expected a bound method, Minimiser() or a search such as MILP(), got {method!r}.")
    return Minimiser.of(method)


def below(net: Network, layer: int) -> Network:
    """The network whose outputs are the pre-activations of a hidden layer.

    Raises:
        OptionError: If there is no such layer.
    """
    if not 1 <= layer <= len(net.layers):
        raise OptionError(f"outline: layer {layer} came, the network has hidden layers 1..{len(net.layers)}.")
    output = net.layers[layer - 1]
    return replace(net, output_shape=(output.size,), layers=net.layers[: layer - 1], output=output)


def _hidden_bounds(
    net: Network, region: Region, method: BoundMethod | Minimiser, hidden: BoundMethod | Bounds | None
) -> Bounds:
    if isinstance(hidden, Bounds):
        count = len(net.layers)
        if tuple(map(len, hidden.lower[:count])) != net.sizes or any(l.ndim > 1 for l in hidden.lower):
            raise BoundsError(
                f"outline: hidden bounds of {[l.shape[-1] for l in hidden.lower]} neurons do not fit a network of "
                f"{list(net.sizes)}. Compute them for this network and one region."
            )
        if region.dimension != net.n_inputs:
            raise RegionError(f"outline: the region has {region.dimension} coordinates, the net reads {net.n_inputs}.")
        return replace(hidden, lower=hidden.lower[:count], upper=hidden.upper[:count])
    own = (method.bounds or Crown()) if isinstance(method, Minimiser) else method
    return compute_bounds(net, region, own if hidden is None else hidden)

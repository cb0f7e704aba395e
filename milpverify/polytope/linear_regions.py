r"""The exact linear regions of a network on a two-dimensional input set, and what they are mapped to.

Layer by layer, a mesh of the input set is cut along the zeros of every pre-activation (`polytope.mesh`), which is
linear on each face once the layers below have cut. What is left is one face per activation pattern. The outputs at the
vertices then say everything: each face is mapped onto the polygon of its vertices' outputs.

Source: Hanin & Rolnick 2019, section 3 (exact regions of a plane); Balestriero & LeCun 2023 (SplineCam).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from milpverify.bounds.backward import Crown
from milpverify.bounds.compute import compute_bounds
from milpverify.errors import OptionError
from milpverify.network.condense import condense
from milpverify.network.graph import Affine, Network, relu
from milpverify.polytope.convex import plane_rows
from milpverify.polytope.image import Image
from milpverify.polytope.input_slice import InputSlice, on_slice
from milpverify.polytope.mesh import Cut, Mesh, cut
from milpverify.spec.regions import Box, Region

SNAP = 2.0**-42  # of the sizes of all terms of a pre-activation: below it a vertex lies on the neuron's line
VALUES_AT_ONCE = 2**20  # of the widest layer


@dataclass(frozen=True, eq=False)
class LinearRegions:
    """A two-dimensional input set, parted by activation pattern.

    Floating. Vertices are shared: neighbours hold the same floats, and the areas add up to the set's within 1e-12 of
    its bounding box's. A pre-activation within 2^-42 of the sizes of its terms counts as zero at a vertex, so that a
    region thinner than that is merged into its neighbour. Where lines all but coincide, within some 1e-12 of the set,
    slivers can be left whose pattern occurs a second time; they cover no area to speak of, and there are still no gaps.
    A neuron that is zero on a whole region is off there.

    Attributes:
        input_slice: The input set; s and t are the two free inputs themselves where it was given as a region.
        vertices: (s, t), shape (V, 2).
        outputs: y at the vertices, shape (V, n_outputs).
        start: Where each region's corners begin in `corner`, shape (R + 1,).
        corner: Vertices of the regions one after the other, counter-clockwise; two for a segment, one for a point.
        areas: Of the regions, in units of s t, shape (R,).
        kept: Per hidden layer the neurons that are listed in `active`.
        active: Per hidden layer whether those are on, shape (R, len(kept)).
        always: Per hidden layer which neurons are on everywhere, shape (n_k,); those neither kept nor here are off.
        small: The network as a function of q, with the kept neurons only; (s, t) = center + half q.
        center, half: Shape (2,).
    """

    input_slice: InputSlice
    vertices: np.ndarray
    outputs: np.ndarray
    start: np.ndarray
    corner: np.ndarray
    areas: np.ndarray
    kept: tuple[np.ndarray, ...]
    active: tuple[np.ndarray, ...]
    always: tuple[np.ndarray, ...]
    small: Network = field(repr=False)
    center: np.ndarray
    half: np.ndarray

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def area(self) -> float:
        """Area of the whole input set, in units of s t."""
        return self.input_slice.area

    def polygon(self, region: int) -> np.ndarray:
        """Corners (s, t) of a region, shape (k, 2)."""
        return np.asarray(self.vertices[self.corner[self.start[region] : self.start[region + 1]]])

    def pattern(self, layer: int) -> np.ndarray:
        """Whether each neuron of a hidden layer (from 1) is on in each region, shape (R, n_k)."""
        full = np.broadcast_to(self.always[layer - 1], (len(self), len(self.always[layer - 1]))).copy()
        full[:, self.kept[layer - 1]] = self.active[layer - 1]
        return full

    @cached_property
    def maps(self) -> tuple[np.ndarray, np.ndarray]:
        """The affine map of every region: y = A (s, t) + c. Floating.

        Returns:
            A, shape (R, n_outputs, 2), and c, shape (R, n_outputs).
        """
        step = max(VALUES_AT_ONCE // (3 * max(2, *self.small.sizes, self.small.n_outputs)), 1)
        parts = [self._maps(first, min(step, len(self) - first)) for first in range(0, len(self), step)]
        A = np.concatenate([part[:, :2].transpose(0, 2, 1) for part in parts]) / self.half
        return A, np.concatenate([part[:, 2] for part in parts]) - A @ self.center

    def _maps(self, first: int, count: int) -> np.ndarray:
        """The outputs of some regions as functions of (q, 1), shape (count, 3, n_outputs)."""
        values = [np.broadcast_to(np.eye(3, 2), (count, 3, 2))]

        def mapped(affine: Affine) -> np.ndarray:
            total = np.zeros((count, 3, affine.size))
            for source, op in affine.blocks:
                total += op.apply(values[source])
            total[:, 2] += affine.bias
            return total

        for layer, active in zip(self.small.layers, self.active, strict=True):
            values.append(mapped(layer) * active[first : first + count, None, :])
        return mapped(self.small.output)

    def image(self, rows: np.ndarray | None = None) -> Image:
        """What the input set is mapped to in a plane of outputs: the adversarial polytope.

        Args:
            rows: Two functionals of the outputs, shape (2, n_outputs); the first two outputs when None.

        Raises:
            OptionError: If the rows do not fit, or the network has one output only.
        """
        rows = plane_rows("LinearRegions.image", rows, self.outputs.shape[1])
        return Image(self.outputs @ rows.T, self.start, self.corner)

    @property
    def output_range(self) -> tuple[np.ndarray, np.ndarray]:
        """The exact least and largest value of every output, up to its rounding: each (n_outputs,)."""
        return self.outputs.min(axis=0), self.outputs.max(axis=0)

    def locate(self, points: np.ndarray) -> np.ndarray:
        """The region with the pattern of each point (s, t), (m, 2) -> (m,); -1 for none, as next to a border."""
        return _located(self, np.atleast_2d(np.asarray(points, dtype=np.float64)))


def linear_regions(
    net: Network, region: Region | InputSlice, *, max_regions: int = 1_000_000, condensing: bool | None = None
) -> LinearRegions:
    """Part a two-dimensional input set into the regions on which the network is affine.

    Args:
        net: The network.
        region: A region with at most two inputs that vary, or a polygon in a plane through the inputs.
        max_regions: The largest number of regions that is worked out.
        condensing: Whether neurons that CROWN finds stable on the set are folded away first; when None, where that
            leaves fewer weights.

    Raises:
        RegionError: If more than two inputs vary, the region is no polygon, or it does not fit the network.
        OptionError: If there are more regions than allowed.
    """
    where = region if isinstance(region, InputSlice) else InputSlice.of_region(region)
    if max_regions < 1:
        raise OptionError(f"linear_regions: max_regions must be at least 1, got {max_regions}.")
    low, high = where.polygon.min(axis=0), where.polygon.max(axis=0)
    center, half = low / 2 + high / 2, np.where(high > low, (high - low) / 2, 1.0)
    whole = on_slice(net, where, center, half)
    local = (where.polygon - center) / half
    small, kept, always = _condensed(whole, local, condensing)
    mesh, active = _parted(small, Mesh.of(local), max_regions)
    counts = mesh.counts()
    # The set's own vertices stay the floats they were given as.
    vertices = center + half * mesh.points
    vertices[: len(local)] = where.polygon
    return LinearRegions(
        where, vertices, _forward(small, mesh.points), np.concatenate([[0], np.cumsum(counts)]),
        mesh.corners[np.arange(mesh.corners.shape[1]) < counts[:, None]], mesh.areas() * float(half[0] * half[1]),
        kept, active, always, small, center, half,
    )  # fmt: skip


def _condensed(
    whole: Network, local: np.ndarray, condensing: bool | None
) -> tuple[Network, tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """The network with its stable neurons folded away where that pays, the neurons kept, and those always on."""
    every = tuple(np.arange(size) for size in whole.sizes)
    never = tuple(np.zeros(size, dtype=bool) for size in whole.sizes)
    if condensing is False or not whole.layers:
        return whole, every, never
    bounds = compute_bounds(whole, Box(local.min(axis=0), local.max(axis=0)), Crown())
    weights = sum(op.work for affine in (*whole.layers, whole.output) for _, op in affine.blocks)
    if condensing is None and bounds.condensed_entries(2 + whole.n_outputs) >= weights:
        return whole, every, never
    condensed = condense(whole, bounds)
    return condensed.net, condensed.kept, tuple(bounds.active(k) for k in range(1, len(every) + 1))


def _parted(net: Network, mesh: Mesh, max_regions: int) -> tuple[Mesh, tuple[np.ndarray, ...]]:
    """The mesh cut by every layer, and the phases of each layer's neurons on its faces."""
    active: list[np.ndarray] = []
    for k in range(1, len(net.layers) + 1):
        on, crossing, values, tolerance = _signs(net, mesh.points, k)
        done: Cut = cut(mesh, values, tolerance, partial(_check_count, max_regions, k, len(net.layers)))
        phases = np.broadcast_to(on, (done.mesh.n_faces, len(on))).copy()
        phases[:, crossing] = done.positive
        mesh, active = done.mesh, [*(below[done.origin] for below in active), phases]
    return mesh, tuple(active)


def _check_count(most: int, layer: int, layers: int, count: int) -> None:
    if count > most:
        raise OptionError(
            f"linear_regions: {count} regions already in layer {layer} of {layers}, max_regions={most}. Give a smaller "
            "eps (or polygon), or a larger max_regions."
        )


def _signs(net: Network, points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which neurons of layer k are positive somewhere, which of them not everywhere, and zhat_k and tolerance of these.

    One that is nowhere negative is among these: there are faces on which it is zero, and others.
    """
    zhat, tolerance = _preactivations(net, points, k)
    above = zhat > tolerance
    on = np.asarray(above.any(axis=0))
    crossing = np.flatnonzero(on & ~above.all(axis=0))
    return on, crossing, zhat[:, crossing], tolerance[crossing]


def _preactivations(net: Network, points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """zhat_k at points, shape (V, n_k), and how near to zero counts as zero, (n_k,).

    From the points anew, so that errors of interpolation do not add up over the layers.
    """
    affine, largest = net.layers[k - 1], [np.zeros(n) for n in (net.n_inputs, *net.sizes[: k - 1])]
    zhat, first = np.empty((len(points), affine.size)), 0
    for some in _chunks(net, points):
        values = [some]
        for layer in net.layers[: k - 1]:
            values.append(relu(layer.apply(values)))
        for size, value in zip(largest, values, strict=True):
            np.maximum(size, np.abs(value).max(axis=0), out=size)
        zhat[first : first + len(some)] = affine.apply(values)
        first += len(some)
    total = np.abs(affine.bias)
    for source, op in affine.blocks:
        total = total + op.absolute.apply(largest[source])
    return zhat, SNAP * total


def _forward(net: Network, points: np.ndarray) -> np.ndarray:
    return np.concatenate([net.forward(some) for some in _chunks(net, points)])


def _chunks(net: Network, points: np.ndarray) -> list[np.ndarray]:
    step = max(VALUES_AT_ONCE // max(2, *net.sizes, net.n_outputs), 1)
    return [points[first : first + step] for first in range(0, len(points), step)]


def _located(regions: LinearRegions, points: np.ndarray) -> np.ndarray:
    if points.shape[1] != 2:
        raise OptionError(f"LinearRegions.locate: points of shape {points.shape} came, expected (m, 2).")
    local, corners = ((part - regions.center) / regions.half for part in (points, regions.vertices))
    small = regions.small
    hidden = [
        zhat > _preactivations(small, corners, k)[1]  # as the regions were parted
        for k, zhat in enumerate(small.activations(local)[0], start=1)
    ]  # fmt: skip
    both = [np.concatenate(pair) for pair in zip(regions.active, hidden, strict=True)]
    bits = np.packbits(np.concatenate([np.ones((len(regions) + len(points), 1), dtype=bool), *both], axis=1), axis=1)
    _, first, place = np.unique(bits, axis=0, return_index=True, return_inverse=True)
    found = first[np.reshape(place, -1)[len(regions) :]]
    return np.where(found < len(regions), found, -1)

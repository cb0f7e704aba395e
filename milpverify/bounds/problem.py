"""A network over a region with bounds for its first layers: what the dual function g is evaluated on.

Arrays of bounds have shape (*batch, n_k): no batch axes for one region, (B,) for many regions or many nodes of a
search, and one more for receptive fields that are bounded side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from milpverify.bounds.semantics import REAL, Semantics
from milpverify.network.arrays import array_namespace, device, to_host
from milpverify.network.graph import UNIT, Affine, AffineMap, Bounds, Network
from milpverify.network.operators import Array, LinearOperator, Product, Sum

LEAST_NORMAL = 2.0**-1022  # a product that underflows, gradually or to zero, is off by less


class InputSet(Protocol):
    """What the dual function needs of a region, or of a batch of regions."""

    @property
    def lower(self) -> np.ndarray:
        """The bounding box, rounded outward, shape (*batch, n)."""

    @property
    def upper(self) -> np.ndarray: ...

    @property
    def dimension(self) -> int: ...

    @property
    def is_box(self) -> bool: ...

    def minimum(self, lam: Array) -> Array:
        """Lower bounds of min lam.x, rounded: (m, n) -> (m,), or with batch axes in front."""

    def minimiser(self, lam: Array) -> Array: ...


@dataclass(frozen=True, eq=False)
class AffinePart:
    """Some rows of a layer, or of each of many groups: bias and bias_error of shape (size,) or (groups, size)."""

    blocks: tuple[tuple[int, LinearOperator], ...]
    bias: np.ndarray
    bias_error: np.ndarray
    size: int
    name: str = ""


@dataclass(frozen=True, eq=False)
class LayerPhases:
    """What a walk needs of one bounded layer, in the namespace it runs in.

    The listed neurons are those that are unstable somewhere in the batch; elsewhere in it some may be stable. Or all.

    Attributes:
        active: 1.0 where stable active, shape (*batch, n).
        unstable: Indices of the listed neurons, shape (p,).
        every: Whether all neurons of the layer are listed.
        l, u: Bounds of the listed neurons, shape (*batch, 1, p).
        slope: u / (u - l) where unstable; 1 where active, 0 where inactive.
        lower: CROWN's lower slope: 1 where `slope` exceeds 1/2, else 0.
        mixed: Whether some listed neuron is stable somewhere.
    """

    active: Array
    unstable: Array
    every: bool
    l: Array
    u: Array
    slope: Array
    lower: Array
    mixed: bool


@dataclass(frozen=True, eq=False)
class DualProblem:
    """A network over a region with bounds for its first layers.

    Attributes:
        layers: The affine maps, the output last; operators in the namespace (numpy or torch, any device) of `like`.
        region: The input region, or a batch of them.
        lower, upper: numpy float64 bounds of the layers proven so far, in order, shape (*batch, n_k).
        like: Any array of that namespace, on that device.
        semantics: Whose arithmetic the bounds are about.
        slack: Further slack per layer, |zhat_k - (W z + b)| <= slack_k: what condensing has rounded. Empty for none.
        box_scales: Allow for neurons whose terms of g range over their inputs' box instead of [l, u] (`kappa`).
        more_roundings: Additional rounded operations, for the same reason.
        list_all: Whether rules are asked for the multipliers of stable neurons too: those that a split made stable.
    """

    layers: tuple[AffineMap, ...]
    region: InputSet
    lower: tuple[np.ndarray, ...] = ()
    upper: tuple[np.ndarray, ...] = ()
    like: Array = field(default_factory=lambda: np.zeros(0))
    semantics: Semantics = REAL
    slack: tuple[np.ndarray, ...] = ()
    box_scales: bool = False
    more_roundings: int = 0
    list_all: bool = False

    @classmethod
    def of(cls, net: Network, region: InputSet, bounds: Bounds, semantics: Semantics = REAL) -> DualProblem:
        """The problem in numpy, with bounds for every hidden layer."""
        return cls((*net.layers, net.output), region, bounds.lower, bounds.upper, semantics=semantics)

    def with_layer(self, lower: np.ndarray, upper: np.ndarray) -> DualProblem:
        """The problem with one more layer bounded."""
        problem = replace(self, lower=(*self.lower, lower), upper=(*self.upper, upper))
        # What was derived for the layers below still holds; a copy, for other bounds of the next layer may follow.
        problem.__dict__["cache"] = dict(self.cache)
        return problem

    @property
    def n_inputs(self) -> int:
        """Number of input coordinates."""
        return self.region.dimension

    @property
    def n_hidden(self) -> int:
        """Number of hidden layers, bounded or not."""
        return len(self.layers) - 1

    @property
    def batch(self) -> tuple[int, ...]:
        """The batch axes of the region."""
        return tuple(self.region.lower.shape[:-1])

    @property
    def is_batch(self) -> bool:
        """Whether there is more than one region, or more than one set of bounds."""
        return bool(self.batch) or any(l.ndim > 1 for l in self.lower)

    def convert(self, x: np.ndarray) -> Array:
        """A numpy array in the problem's namespace, on its device."""
        return array_namespace(self.like).asarray(x, device=device(self.like))

    def affine(self, k: int) -> AffineMap:
        """Layer k from 1; the one after the last hidden layer is the output."""
        return self.layers[k - 1]

    @cached_property
    def cache(self) -> dict[tuple[object, ...], Any]:
        """What was derived for the layers bounded so far; handed to the problems that bound more."""
        return {}

    def phases(self, j: int) -> LayerPhases:
        """Phases and bounds of layer j."""
        key = ("phases", j)
        if key not in self.cache:
            self.cache[key] = self._phases(j)
        phases: LayerPhases = self.cache[key]
        return phases

    def _phases(self, j: int) -> LayerPhases:
        l, u = self.lower[j - 1], self.upper[j - 1]
        free = (l < 0) & (u > 0)
        listed = free.any(axis=tuple(range(free.ndim - 1))) | self.list_all
        index = np.flatnonzero(listed)
        active = self.convert((l >= 0).astype(np.float64))
        every = len(index) == free.shape[-1]
        if not every:
            l, u, free = l[..., index], u[..., index], free[..., index]
        mixed = not bool(free.all())
        slope = np.where(free, u / np.where(free, u - l, 1.0), l >= 0) if mixed else u / (u - l)
        lower = (slope > 0.5).astype(np.float64)
        l, u, slope, lower = (self.convert(part[..., None, :]) for part in (l, u, slope, lower))
        return LayerPhases(active, self.convert(index), every, l, u, slope, lower, mixed)

    def values_scale(self, source: int) -> np.ndarray:
        """A: entry-wise bound on |x| (source 0) or on z_source, shape (*batch, n)."""
        if source == 0:
            return np.maximum(np.abs(self.region.lower), np.abs(self.region.upper))
        size = np.maximum(self.upper[source - 1], 0.0)
        return np.maximum(size, self.scale(source)) if self.box_scales else size

    def scale(self, k: int) -> np.ndarray:
        """|W_k| A + |b_k|: how large the terms of a pre-activation can be, shape (*batch, n_k)."""
        key = ("scale", k)
        if key not in self.cache:
            layer = self.affine(k)
            total = np.abs(layer.bias)
            for source, op in layer.blocks:
                size = self.convert(self.values_scale(source))
                gain = op.underflow_gain(size)
                total = total + to_host(op.absolute.apply(size) + LEAST_NORMAL * gain)
            self.cache[key] = total
        return np.asarray(self.cache[key])

    def underflow(self, k: int) -> float:
        """What underflow can add to g of rows over layer k, apart from the region's part.

        An entry of lambda_j off by a little is off in g by that times the bound on z_j: huge activations below tiny
        weights make it count.
        """
        key = ("underflow", k)
        if key not in self.cache:
            affine = self.affine(k)
            units = 8.0 * (affine.size + 1) + (self.underflow(k - 1) / LEAST_NORMAL if k > 1 else self.n_inputs)
            for source, op in affine.blocks:
                size = self.values_scale(source)
                largest = size.max(axis=tuple(range(size.ndim - 1)), initial=0.0)
                units += 2.0 * op.underflow_reach(self.convert(largest))
            self.cache[key] = units * LEAST_NORMAL
        return float(self.cache[key])

    @cached_property
    def roundings(self) -> int:
        """N + P of the kernel's formula, generously."""
        values = sum(layer.size for layer in self.layers) + self.n_inputs
        paths = sum(op.roundings + 2 for layer in self.layers for _, op in layer.blocks)
        return values + 16 + paths + self.more_roundings

    def error(self, k: int) -> np.ndarray:
        """How far zhat_k may be from W z + b, shape (..., n_k): the semantics' slack and the given one."""
        key = ("error", k)
        if key not in self.cache:
            total = self.slack[k - 1] if self.slack else np.zeros(self.affine(k).size)
            if self.semantics != REAL:
                sizes = {source: self.convert(self.values_scale(source)) for source, _ in self.affine(k).blocks}
                affine = self.affine(k)
                assert isinstance(affine, Affine)  # parts of a network carry its semantics as `slack`
                total = total + self.semantics.error(affine, sizes)
            self.cache[key] = total
        return np.asarray(self.cache[key])

    def multiplied_out(self, k: int) -> np.ndarray:
        """How far float64 entries of layer k's lazy sums and products can move zhat_k, shape (*batch, n_k).

        Zero where every operator has its entries stored.
        """
        affine = self.affine(k)
        if not any(isinstance(op, Product | Sum) for _, op in affine.blocks):
            return np.zeros(affine.size)
        return 2.0 * self.roundings * UNIT * self.scale(k) + self.underflow(k)

    def allowance(self, k: int) -> np.ndarray:
        """What one unit of |nu_k| costs in g: the rounding allowance and the slack of zhat_k, shape (*batch, n_k)."""
        key = ("allowance", k, k <= len(self.lower))
        if key not in self.cache:
            total = self.scale(k)
            if k <= len(self.lower):
                total = total + np.maximum(np.abs(self.lower[k - 1]), np.abs(self.upper[k - 1]))
            self.cache[key] = (
                2.0 * self.roundings * UNIT * total + 2.0 * self.affine(k).bias_error + self.error(k) * (1 + 2.0**-40)
            )
        return np.asarray(self.cache[key])

    def source_box(self, source: int) -> tuple[np.ndarray, np.ndarray]:
        """The box of a source: the input region's, or relu of a layer's bounds; shape (*batch, n)."""
        if source == 0:
            return self.region.lower, self.region.upper
        return np.maximum(self.lower[source - 1], 0.0), np.maximum(self.upper[source - 1], 0.0)

    def restrict(self, index: np.ndarray) -> DualProblem:
        """The problem for some members of the first batch axis."""
        region: Any = self.region
        lower, upper, slack = (
            tuple(values if values.ndim == 1 else values[index] for values in part)
            for part in (self.lower, self.upper, self.slack)
        )
        return replace(self, region=region[index] if self.batch else region, lower=lower, upper=upper, slack=slack)


def open_neurons(l: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Indices of the neurons that are unstable somewhere in the batch; l and u of shape (*batch, n)."""
    return np.flatnonzero(((l < 0) & (u > 0)).any(axis=tuple(range(l.ndim - 1))))

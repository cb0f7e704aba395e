"""The walk: lower bounds of rows over columns, by replacing the columns layer by layer down to the inputs.

docs/proofs.md, section 2, has every step to the last bit; V is in units of 2^-2F, all else in units of 2^-F.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from milpverify.proof.fixed_point import Integers, MatrixProduct
from milpverify.proof.forms import Columns, Forms

CHUNK_ENTRIES = 1 << 21  # of the rows that are walked together


@dataclass(frozen=True, eq=False)
class HiddenLayer:
    """The unstable neurons of a layer, over a batch of boxes.

    Attributes:
        start: The first of their columns.
        forms: Expressions of their zhat over the columns before, zero where the layer only fills up.
        lower, upper: Bounds of their zhat, (batch, U).
        slope: floor(hi 2^F / (hi - lo)) where lo < 0 < hi, else 0.
        steep: 2^F where hi > -lo, else 0.
        size_below: The sum of the sizes of all columns before, (batch,), Python integers.
    """

    start: int
    forms: Forms
    lower: np.ndarray
    upper: np.ndarray
    slope: np.ndarray
    steep: np.ndarray
    size_below: np.ndarray

    def at(self, part: slice) -> HiddenLayer:
        """Those of some boxes."""
        forms = Forms(self.forms.E[part], self.forms.beta[part], self.forms.eps[part])
        sides = (side[part] for side in (self.lower, self.upper, self.slope, self.steep, self.size_below))
        return HiddenLayer(self.start, forms, *sides)

    @property
    def place(self) -> slice:
        """Its columns."""
        return slice(self.start, self.start + self.lower.shape[1])


def hidden_layer(
    integers: Integers, forms: Forms, lower: np.ndarray, upper: np.ndarray, columns: Columns
) -> HiddenLayer:
    """A layer whose unstable neurons have these expressions and bounds; `columns` are those before."""
    crossing = (lower < 0) & (upper > 0)
    span = np.where(crossing, upper.astype(object) - lower.astype(object), 1)
    slope = integers.narrow(np.where(crossing, upper.astype(object) * (1 << integers.bits), 0) // span)
    steep = integers.narrow((upper > -lower).astype(np.int64)) * (1 << integers.bits)
    return HiddenLayer(columns.count, forms, lower, upper, slope, steep, columns.size_sum)


@dataclass(frozen=True, eq=False)
class LayerPlanes:
    """Planes of a layer's neurons in a batch of one box, no neuron twice.

    Attributes:
        neuron: Places in the layer, (planes,).
        P: (planes, columns before).
        R: (planes,).
        number: Which column of theta they use.
    """

    neuron: np.ndarray
    P: np.ndarray
    R: np.ndarray
    number: np.ndarray


@dataclass(frozen=True, eq=False)
class Choices:
    """What a proof chooses at leaves, (batch, leaves, unstable columns) each; None for what is left out.

    Attributes:
        alpha, beta: Integers.
        active, inactive: Which neurons the splits above a leaf fix.
        planes: For each layer the planes, in the order in which they are taken.
        theta: (leaves, planes), integers.
    """

    alpha: np.ndarray | None = None
    beta: np.ndarray | None = None
    active: np.ndarray | None = None
    inactive: np.ndarray | None = None
    planes: tuple[tuple[LayerPlanes, ...], ...] = ()
    theta: np.ndarray | None = None

    def rows(self, part: slice) -> Choices:
        """Those of some leaves."""
        alpha, beta, active, inactive = (
            None if v is None else v[:, part] for v in (self.alpha, self.beta, self.active, self.inactive)
        )
        return Choices(alpha, beta, active, inactive, self.planes, None if self.theta is None else self.theta[part])


def walk(
    integers: Integers, rows: Forms, layers: Sequence[HiddenLayer], columns: Columns, choices: Choices | None = None
) -> np.ndarray:
    """Lower bounds V of rows over the columns of `layers`, (batch, m), Python integers in units of 2^-2F."""
    batch, m, width = rows.E.shape
    step = max(1, CHUNK_ENTRIES // max(batch * width, 1))
    found = []
    for start in range(0, m, step):
        part = slice(start, start + step)
        some = Forms(rows.E[:, part], rows.beta[:, part], rows.eps[:, part])
        found.append(_Walk(integers, some).down(layers, columns, choices and choices.rows(part)))
    return np.concatenate(found, axis=1) if found else np.zeros((batch, 0), dtype=object)


class _Walk:
    """Rows on their way down, and what has been gathered of their bounds."""

    def __init__(self, integers: Integers, rows: Forms) -> None:
        self.integers = integers
        self.row = rows.E
        self.V = (rows.beta.astype(object) - rows.eps.astype(object)) * (1 << integers.bits)

    def down(self, layers: Sequence[HiddenLayer], columns: Columns, choices: Choices | None) -> np.ndarray:
        n = layers[0].start if layers else columns.count
        for j in range(len(layers) - 1, -1, -1):
            self._replace(layers[j], None if choices is None else _of_layer(choices, j, layers[j], n))
        sides = np.concatenate([np.maximum(self.row, 0), np.minimum(self.row, 0)], axis=-1)
        self._add(sides, np.concatenate([columns.lower[:, :n], columns.upper[:, :n]], axis=1))
        return self.V

    def _add(self, left: np.ndarray, right: np.ndarray) -> None:
        """V += left @ right; (batch, m, n) and (batch, n)."""
        self.V = self.V + self.integers.exact(self.integers.product(left, right[..., None]))[..., 0]

    def _replace(self, layer: HiddenLayer, choices: Choices | None) -> None:
        """Replace a layer's columns by those below."""
        integers, below = self.integers, self.row[..., : layer.start]
        lam = self.row[..., layer.place]
        products: list[MatrixProduct] = []
        if lam.shape[-1]:
            if choices is not None and choices.theta is not None:
                for planes in choices.planes[0]:
                    lam = self._through_planes(planes, choices.theta[:, planes.number], lam, products)
            nu = self._close(layer, choices or Choices(), lam)
            products.append(integers.product(nu, layer.forms.E))
        self.row = integers.round(products, below)
        self.V = self.V - ((layer.size_below + 1) >> 1)[:, None]

    def _through_planes(
        self, planes: LayerPlanes, theta: np.ndarray, lam: np.ndarray, products: list[MatrixProduct]
    ) -> np.ndarray:
        """lambda after planes of different neurons; their other terms are added."""
        integers = self.integers
        pi = integers.scaled(theta[None], np.maximum(-lam[..., planes.neuron], 0))
        lam = lam.copy()
        lam[..., planes.neuron] = integers.narrow(lam[..., planes.neuron] + pi)
        self._add(-pi, planes.R[None])
        products.append(integers.product(-pi, planes.P[None]))
        return lam

    def _close(self, layer: HiddenLayer, choices: Choices, lam: np.ndarray) -> np.ndarray:
        """nu; the neurons' own terms are added to V."""
        integers = self.integers
        lo, hi = layer.lower[:, None, :], layer.upper[:, None, :]
        if choices.active is not None and choices.inactive is not None:
            lo = np.where(choices.active, np.maximum(lo, 0), lo)
            hi = np.where(choices.inactive, np.minimum(hi, 0), hi)
        alpha = layer.steep[:, None, :] if choices.alpha is None else choices.alpha
        beta = integers.zeros((1, 1, 1)) if choices.beta is None else choices.beta
        crossing, active, down = (lo < 0) & (hi > 0), lo >= 0, lam < 0
        nu = integers.scaled(np.where(down, layer.slope[:, None, :], alpha), lam)
        nu = np.where(crossing, nu, np.where(active, integers.narrow(lam - beta), beta))
        # Which end has the least term: none where 0 <= nu <= lambda, both are candidates where lambda <= nu <= 0.
        falling = crossing & down
        at_high = falling & integers.above(lam, nu, layer.lower[:, None, :], layer.upper[:, None, :])
        high = np.where(at_high, integers.narrow(lam - nu), 0)
        low = np.where(falling & ~at_high, -nu, 0)
        if choices.beta is not None:
            # beta v where active, -beta v where inactive: the least is at the low end where the factor is positive.
            factor = np.where(crossing, 0, np.where(active, beta, -beta))
            low, high = low + np.maximum(factor, 0), high + np.minimum(factor, 0)
            low, high = low * (lo != 0), high * (hi != 0)
        ends = np.concatenate([nu, -np.abs(nu), high, low], axis=-1)
        self._add(ends, np.concatenate([layer.forms.beta, layer.forms.eps, layer.upper, layer.lower], axis=1))
        return nu


def _of_layer(choices: Choices, j: int, layer: HiddenLayer, n: int) -> Choices:
    """The choices of one layer; n columns are inputs."""
    place = slice(layer.place.start - n, layer.place.stop - n)
    alpha, beta, active, inactive = (
        None if v is None else v[..., place] for v in (choices.alpha, choices.beta, choices.active, choices.inactive)
    )
    return replace(choices, alpha=alpha, beta=beta, active=active, inactive=inactive, planes=choices.planes[j : j + 1])

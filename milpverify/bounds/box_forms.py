r"""Many boxes at once: bounds of the hidden neurons and affine functions below the property's rows.

One forward pass of zonotopes (`zonotope_forms`) bounds all neurons, each layer from bounds that are met with those the
boxes have inherited; then the rows alone are walked backward with CROWN's slopes. Both give affine functions

    row(x)  >=  constant + slope . e        for all x = centre + radius e of the box,

where e = (x - centre) / radius exactly, in [-1, 1]^n, and slope is 0 where the radius is. What the functions lose to
rounding has been taken off the constants.

Where the error comes from. A neuron's new symbol has the entry h in its own value, and some entry G in a row: |G| is
what its relaxation costs that row. The interval it was relaxed over comes from the inputs' generators, so halving the
input that feeds most of the width of the costliest neurons gains most: with E the mean |G| over the open rows,

    share_i = sum over the open neurons of E |G_i| / (reach + rho).

Source: Singh et al. 2018 (DeepZ); Zhang et al. 2018 (CROWN); Henriksen & Lomuscio 2021, "DEEPSPLIT" (splitting by
indirect effects, there for neurons).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from milpverify.bounds.backward import crown_rule
from milpverify.bounds.dual import dual_forms
from milpverify.bounds.generators import Generators
from milpverify.bounds.method import DEFAULT_BUDGET_BYTES
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.zonotope_forms import (
    Form,
    Values,
    activated,
    form_range,
    input_box,
    input_values,
    noisy_radius,
    propagated,
    turned,
)
from milpverify.network.graph import Network
from milpverify.spec.batch import BoxBatch
from milpverify.spec.rounding import UNDERFLOW, UNIT, allowance

Layers = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class LowerForms:
    """Affine functions below rows: row(x) >= constant + slope . (x - centre) / radius over each box. Rounded.

    Attributes:
        slope: Shape (b, m, n), finite.
        constant: Shape (b, m); -infinity where nothing is known.
    """

    slope: np.ndarray
    constant: np.ndarray

    @property
    def value(self) -> np.ndarray:
        """Lower bounds of the rows over the boxes, shape (b, m). Rounded."""
        reach = np.abs(self.slope).sum(axis=-1)
        with np.errstate(invalid="ignore"):
            low = self.constant - reach - allowance(self.slope.shape[-1]) * (np.abs(self.constant) + reach)
        return np.where(np.isfinite(low), low, -np.inf)

    def less(self, d: np.ndarray) -> LowerForms:
        """Below row - d, shape (m,)."""
        constant = self.constant - d
        return LowerForms(self.slope, constant - 2.0 * UNIT * (np.abs(constant) + np.abs(d)))


@dataclass(frozen=True, eq=False)
class BoxBounds:
    """What was learnt of b boxes.

    Attributes:
        lower, upper: Of the hidden neurons, one (b, n_k) per layer.
        centre, radius: Of the boxes, shape (b, n); the radius is rounded up.
        forms: Below each row: by zonotopes, and by CROWN where it was asked.
        share: What halving an input promises, shape (b, n). Floating.
    """

    lower: Layers
    upper: Layers
    centre: np.ndarray
    radius: np.ndarray
    forms: tuple[LowerForms, ...]
    share: np.ndarray

    def less(self, d: np.ndarray) -> BoxBounds:
        """The same with numbers taken off the rows, shape (m,)."""
        return replace(self, forms=tuple(form.less(d) for form in self.forms))


@dataclass(frozen=True, eq=False)
class _Opened:
    """The symbols that one layer's relaxations made.

    Attributes:
        owner: Their boxes, shape (t,).
        inputs: |G_i| / (reach + rho) of their neurons, shape (t, n).
    """

    owner: np.ndarray
    inputs: np.ndarray


def bound_boxes(
    net: Network, boxes: BoxBatch, known: tuple[Layers, Layers], rows: np.ndarray, weights: np.ndarray, crown: bool
) -> BoxBounds:
    """Bound the hidden neurons and the rows over each of b boxes. Rounded.

    Args:
        net: The network, numpy operators.
        boxes: With one leading axis.
        known: Proven l and u of the hidden neurons, (b, n_k) a layer; they are met with what is found.
        rows: Shape (m, n_outputs).
        weights: How much each row counts in `share`, shape (b, m).
        crown: Whether the rows are walked backward too.
    """
    problem, chunk = DualProblem((*net.layers, net.output), boxes), slice(0, len(boxes))
    centre, radius = input_box(problem, chunk)
    values, opened = [input_values(problem, chunk)], []
    with np.errstate(over="ignore", invalid="ignore"):
        for k, (l, u) in enumerate(zip(*known, strict=True), start=1):
            problem, form = _bounded_layer(problem, k, values, l, u)
            opened.append(_opened(problem, k, form, radius))
            awake = form.columns[(problem.upper[k - 1][:, form.columns] > 0).any(axis=0)]
            values.append(activated(problem, k, form, awake, chunk))
        k = len(problem.layers)
        everything = np.arange(net.n_outputs)
        output = propagated(problem, k, chunk, everything, _sources(problem, k, values), DEFAULT_BUDGET_BYTES)
        found = turned(problem, output, rows)
        forms = [_of_zonotope(problem, found, radius)]
        if crown:
            forms.append(_of_walk(*dual_forms(problem, k, rows, crown_rule), centre, radius))
    share = _share(found, opened, weights, radius)
    return BoxBounds(problem.lower, problem.upper, centre, radius, tuple(forms), share)


def _sources(problem: DualProblem, k: int, values: Sequence[Values]) -> list[Values]:
    return [values[source] for source, _ in problem.affine(k).blocks]


def _bounded_layer(
    problem: DualProblem, k: int, values: Sequence[Values], l: np.ndarray, u: np.ndarray
) -> tuple[DualProblem, Form]:
    """The problem with layer k bounded, and the form of its neurons that are not dead in all boxes."""
    live = np.flatnonzero((u > 0).any(axis=0))
    form = propagated(problem, k, slice(0, len(l)), live, _sources(problem, k, values), DEFAULT_BUDGET_BYTES)
    low, high = form_range(problem, form)
    l, u = l.copy(), u.copy()
    l[:, live], u[:, live] = np.maximum(l[:, live], low), np.minimum(u[:, live], high)
    if (l > u).any():  # a solver's word on the bounds, within its tolerances
        l, u = np.minimum(l, u), np.maximum(l, u)
    return problem.with_layer(l, u), form


def _input_rows(generators: Generators, radius: np.ndarray) -> np.ndarray:
    """Where the input symbols of the boxes stand, shape (b, n); -1 where a coordinate has no width."""
    place = np.full(radius.shape, -1)
    count = dict(generators.symbols).get(0, 0)
    if count:
        place[radius > 0] = np.arange(count)
    return place


def _opened(problem: DualProblem, k: int, form: Form, radius: np.ndarray) -> _Opened:
    """Whose width the inputs feed, of the neurons about to be relaxed, in the order of their symbols."""
    l, u = problem.lower[k - 1][:, form.columns], problem.upper[k - 1][:, form.columns]
    owner, place = np.nonzero((l < 0) & (u > 0))
    at = _input_rows(form.generators, radius)[owner]
    if not form.generators.matrix.shape[0]:
        return _Opened(owner, np.zeros(at.shape))
    inputs = np.where(at >= 0, np.abs(form.generators.matrix[at, place[:, None]]), 0.0)
    wide = form.reach[owner, place] + form.noise[owner, place]
    return _Opened(owner, inputs / np.maximum(wide, 1e-300)[:, None])


def _share(rows: Form, opened: Sequence[_Opened], weights: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """What halving each input promises, shape (b, n)."""
    share, sizes, matrix = np.zeros(radius.shape), dict(rows.generators.symbols), rows.generators.matrix
    start = sizes.get(0, 0)
    for k, layer in enumerate(opened, start=1):
        if k not in sizes:  # the output does not feel it
            continue
        mine = np.abs(matrix[start : start + sizes[k]])
        start += sizes[k]
        cost = (mine * weights[layer.owner]).sum(axis=-1)[:, None] * layer.inputs
        share += np.stack([np.bincount(layer.owner, part, len(radius)) for part in cost.T], axis=1)
    return share


def _of_zonotope(problem: DualProblem, form: Form, radius: np.ndarray) -> LowerForms:
    """The inputs' symbols are the slope; all others are at their worst."""
    generators, b = form.generators, len(radius)
    at = _input_rows(generators, radius)
    slope = np.zeros((b, form.centre.shape[-1], radius.shape[-1]))
    box, coordinate = np.nonzero(at >= 0)
    slope[box, :, coordinate] = generators.matrix[at[box, coordinate]]
    first = len(box)
    others = Generators(generators.matrix[first:], generators.owner[first:], ())
    constant = form.centre - noisy_radius(problem, others.reach(b) + form.noise, form.centre)
    return _finite(slope, constant)


def _of_walk(lam: np.ndarray, constant: np.ndarray, centre: np.ndarray, radius: np.ndarray) -> LowerForms:
    """lam.x + constant in the boxes' coordinates: lam.centre + (lam radius).e, and what that rounds."""
    lam = np.broadcast_to(lam, (len(centre), *lam.shape[-2:]))
    slope = lam * radius[:, None, :]
    middle = lam @ centre[:, :, None]
    size = np.abs(lam) @ (np.abs(centre) + radius)[:, :, None]
    lost = allowance(centre.shape[-1]) * (size[..., 0] + np.abs(constant)) + UNDERFLOW
    return _finite(slope, constant + middle[..., 0] - lost)


def _finite(slope: np.ndarray, constant: np.ndarray) -> LowerForms:
    if np.isfinite(slope.sum() + constant.sum()):
        return LowerForms(slope, constant)
    sure = np.isfinite(constant) & np.isfinite(slope).all(axis=-1)
    return LowerForms(np.where(sure[..., None], slope, 0.0), np.where(sure, constant, -np.inf))

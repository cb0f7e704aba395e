r"""Input-wise multipliers: a neuron's scalar nu replaced by one multiplier for each of its inputs.

For a neuron with pre-activation p = w.t + b over inputs t in [L, U], coefficient lambda and any vector kappa,

    min_t ( lambda relu(p) - kappa.t ) = min( min_box(-kappa.t), lambda b + min_box((lambda w - kappa).t) )

where lambda <= 0, since then lambda relu(p) = min(0, lambda p); for lambda > 0 both are lower bounds and the larger one
counts. kappa.t goes on to the inputs' lambda. With kappa = nu w it is the scalar bound over the inputs' box; the best
kappa is exact for one neuron over its inputs' box, which no scalar is.

A share s of lambda may be served so, and the rest by a scalar nu: both terms are then added, nu's with the weight
1 - s, which is how the triangle and the ideal inequalities act together.

Rounding. On top of what `bounds.dual` allows: |lambda| times (|w| A + |b|) per neuron, and |kappa|.A per input.

Source: Anderson et al. 2020 (the ideal formulation); De Palma et al. 2021 (its dual); Tjandraatmadja et al. 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from milpverify.bounds.problem import DualProblem, LayerPhases
from milpverify.errors import BoundsError
from milpverify.network.arrays import array_namespace, device, to_host
from milpverify.network.graph import UNIT
from milpverify.network.operators import Array


@dataclass(frozen=True, eq=False)
class Kappa:
    """Multipliers for the inputs of some unstable neurons of one layer.

    Attributes:
        layer: The layer j of the neurons, from 1.
        neurons: Which of its unstable neurons, as positions in their list, shape (q,).
        inputs: What they read, as columns of [x, z_1, ..., z_{j-1}], shape (q, r); -1 fills up. Every column with a
            non-zero weight must be listed, once.
        values: kappa, shape (m, q, r); ignored where `inputs` is -1.
        used: The share of each neuron's lambda that it serves in each row, in [0, 1], shape (m, q); booleans for all or
            nothing, None for all. Taken to the nearest multiple of 2^-24, so that 1 - share is exact.

    Raises:
        BoundsError: If the shapes do not fit, a neuron is named twice, or a share is none.
    """

    layer: int
    neurons: np.ndarray
    inputs: np.ndarray
    values: np.ndarray
    used: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.inputs.ndim != 2 or len(self.inputs) != len(self.neurons):
            raise BoundsError(
                f"Kappa: layer {self.layer} has inputs of shape {self.inputs.shape} for {len(self.neurons)} neurons; "
                "give one row a neuron."
            )
        if len(np.unique(self.neurons)) < len(self.neurons) or (self.neurons < 0).any():
            raise BoundsError(f"Kappa: layer {self.layer} names a neuron twice or by a negative number.")
        if self.values.ndim != 3 or self.values.shape[1:] != self.inputs.shape:
            raise BoundsError(
                f"Kappa: layer {self.layer} has values of shape {self.values.shape}, expected (m, "
                f"{', '.join(map(str, self.inputs.shape))})."
            )
        if self.used is not None and self.used.shape != self.values.shape[:2]:
            raise BoundsError(
                f"Kappa: layer {self.layer} has `used` of shape {self.used.shape}, expected {self.values.shape[:2]}."
            )
        if self.used is not None and not ((self.used >= 0) & (self.used <= 1)).all():
            raise BoundsError(f"Kappa: layer {self.layer} has a share outside [0, 1] in `used`.")

    @property
    def share(self) -> np.ndarray:
        """The share that kappa serves, shape (m, q)."""
        if self.used is None:
            return np.ones(self.values.shape[:2])
        return np.asarray(np.rint(self.used.astype(np.float64) * 2.0**24) * 2.0**-24)

    @property
    def listed(self) -> np.ndarray:
        """kappa, 0 where it is not used or fills up, shape (m, q, r)."""
        return np.where((self.inputs >= 0) & (self.share > 0)[..., None], self.values, 0.0)

    def others(self, n_unstable: int) -> np.ndarray:
        """The share of the unstable neurons that their scalar nu keeps, shape (m, n_unstable)."""
        mask = np.ones((len(self.values), n_unstable))
        mask[:, self.neurons] = 1.0 - self.share
        return mask


@dataclass(frozen=True, eq=False)
class KappaTerms:
    """What a walk adds for one `Kappa`, in the problem's namespace: the neurons' terms and their allowance, (m,)."""

    value: Array
    slack: Array


def widened(problem: DualProblem, kappa: Sequence[Kappa]) -> DualProblem:
    """The problem with the rounding allowances that kappa needs.

    Raises:
        BoundsError: If the problem is a batch.
    """
    if problem.is_batch:
        raise BoundsError("dual_bound: kappa serves one region and one set of bounds. Evaluate the batch one by one.")
    more = sum(part.inputs.size + len(part.neurons) for part in kappa)
    return replace(problem, box_scales=True, more_roundings=problem.more_roundings + more)


def kappa_terms(problem: DualProblem, part: Kappa, lam: Array) -> KappaTerms:
    """The terms of the neurons that `part` serves, from lambda_j of shape (m, n_j). Rounded once `slack` is taken off.

    Raises:
        BoundsError: If a neuron reads a column that `inputs` does not list.
    """
    xp, to = array_namespace(lam), problem.convert
    j, affine = part.layer, problem.affine(part.layer)
    phases: LayerPhases = problem.phases(j)
    index = to_host(phases.unstable)[part.neurons]
    low, high, size = (np.concatenate(parts) for parts in zip(*_boxes(problem, j), strict=True))
    weights, listed = _weights(problem, part, index)
    column = np.where(listed, part.inputs, 0)
    L, U, A, w = (to(np.where(listed, v, 0.0)) for v in (low[column], high[column], size[column], weights))
    values = to(part.listed)
    mine = xp.take(lam, to(index), axis=-1) * to(part.share)  # (m, q)
    rest = mine[..., None] * w - values
    off = xp.sum(xp.minimum(-values * L, -values * U), axis=-1)
    on = mine * to(affine.bias[index]) + xp.sum(xp.minimum(rest * L, rest * U), axis=-1)
    value = xp.where(mine <= 0, xp.minimum(off, on), xp.maximum(off, on))
    per_unit = 2.0 * problem.roundings * UNIT
    slack = xp.abs(mine) @ to(problem.allowance(j)[index] + problem.underflow(j)) + per_unit * xp.sum(
        xp.abs(values) * A, axis=(-2, -1)
    )
    return KappaTerms(xp.sum(value, axis=-1), slack)


def scatter_kappa(problem: DualProblem, part: Kappa, lam: list[Any]) -> None:
    """Add kappa to lambda of the inputs, in place; None stands for zero."""
    xp = array_namespace(problem.like)
    flat = problem.convert(part.listed.reshape((len(part.values), -1)))
    start = 0
    for source, size in enumerate(_sizes(problem, part.layer)):
        table = occurrences(part.inputs - start, size)
        start += size
        if not table.size:
            continue
        zero = xp.zeros((flat.shape[0], 1), dtype=flat.dtype, device=device(flat))
        padded = xp.concat([flat, zero], axis=-1)
        picked = xp.take(padded, problem.convert(np.where(table < 0, flat.shape[1], table).reshape(-1)), axis=-1)
        more = xp.sum(picked.reshape((flat.shape[0], *table.shape)), axis=-1)
        lam[source] = more if lam[source] is None else lam[source] + more


def occurrences(inputs: np.ndarray, size: int) -> np.ndarray:
    """Per column 0..size-1 the flat positions where `inputs` names it, shape (size, most), filled up with -1."""
    flat = inputs.reshape(-1)
    where = np.flatnonzero((flat >= 0) & (flat < size))
    if not len(where):
        return np.zeros((size, 0), dtype=np.int64)
    order = where[np.argsort(flat[where], kind="stable")]
    column = flat[order]
    rank = np.arange(len(order)) - np.searchsorted(column, column)
    table = np.full((size, int(rank.max()) + 1), -1, dtype=np.int64)
    table[column, rank] = order
    return table


def _sizes(problem: DualProblem, j: int) -> list[int]:
    return [problem.n_inputs, *(problem.affine(i).size for i in range(1, j))]


def _boxes(problem: DualProblem, j: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per source below layer j its box and the bound on its absolute values."""
    return [(*problem.source_box(source), problem.values_scale(source)) for source in range(j)]


def _weights(problem: DualProblem, part: Kappa, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weights of the listed inputs and which entries of the list count, both (q, r)."""
    sizes = _sizes(problem, part.layer)
    dense = np.zeros((len(index), sum(sizes)))
    for source, op in problem.affine(part.layer).blocks:
        start = sum(sizes[:source])
        dense[:, start : start + sizes[source]] = to_host(op.rows_like(index, problem.like))
    listed = (part.inputs >= 0) & (part.inputs < dense.shape[1])
    weights = np.where(listed, np.take_along_axis(dense, np.where(listed, part.inputs, 0), axis=1), 0.0)
    left = np.pad(dense, ((0, 0), (0, 1)))  # the last column is what an entry that does not count clears
    np.put_along_axis(left, np.where(listed, part.inputs, dense.shape[1]), 0.0, axis=1)
    ordered = np.sort(part.inputs, axis=1)
    if left.any() or ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise BoundsError(
            f"Kappa: a neuron of layer {part.layer} reads an input that is not listed, or one is listed twice."
        )
    return weights, listed

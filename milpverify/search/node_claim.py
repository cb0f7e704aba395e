r"""From an LP's duals to a bound that g proves.

A neuron's rows in the LP bound lambda z - nu zhat - kappa.t from below, with nu the dual of its affine row and kappa
the duals of its cuts times their slopes. g takes the same functional q = nu w + kappa in either of two forms: as kappa
alone (exact for one neuron over its inputs' box), or a share s of lambda for kappa and the rest for nu (the triangle's
bounds of zhat count too). Both have the same q, so the layers below do not notice: each neuron takes the better one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from milpverify.bounds.dual import dual_bound, fixed
from milpverify.bounds.kappa import Kappa
from milpverify.bounds.problem import DualProblem
from milpverify.formulation.ideal_cuts import Box, Neurons
from milpverify.network.graph import UNIT

LEAST_SHARE = 2.0**-20  # of lambda, for kappa or for nu: what is less could not be divided by


@dataclass(frozen=True, eq=False)
class CutDuals:
    """What the cuts of one layer add to a dual solution.

    Attributes:
        neurons: Whose, ascending, shape (q,).
        weight: The sum of their duals, each at most 0, shape (q,).
        kappa: Duals times slopes, on the neurons' inputs, shape (q, r).
    """

    neurons: np.ndarray
    weight: np.ndarray
    kappa: np.ndarray


@dataclass(frozen=True, eq=False)
class Duals:
    """A dual solution of a node's LP, or a Farkas ray of it. Floating.

    Attributes:
        mu: On all output rows, at least 0; zero for a ray.
        nu: Per layer, of the affine rows.
        cuts: Per layer, or None.
    """

    mu: np.ndarray
    nu: tuple[np.ndarray, ...]
    cuts: tuple[CutDuals | None, ...]


@dataclass(frozen=True, eq=False)
class Claim:
    """A bound with what proves it.

    Attributes:
        value: Lower bound of max_i (y_i - d_i) over the node; for mu = 0 anything above 0 proves it empty. Rounded.
        mu: Normalised to a sum of about 1, or zero.
        nu, kappa: What `dual_bound(..., fixed(nu), kappa)` was given; nu has shape (1, n_j).
        lam: lambda per layer, shape (n_j,): what a unit of each neuron's z costs. Floating.
    """

    value: float
    mu: np.ndarray
    nu: tuple[np.ndarray, ...]
    kappa: tuple[Kappa, ...] = ()
    lam: tuple[np.ndarray, ...] = ()


def claim(node: DualProblem, neurons: Sequence[Neurons], W: Sequence[np.ndarray], duals: Duals, d: np.ndarray) -> Claim:
    """The bound that g gives a dual solution. Rounded, whatever the multipliers are.

    Args:
        node: The condensed problem with the node's bounds and `list_all`.
        neurons: Per layer.
        W: Per layer, and last of the outputs, over [x, z_1, ...].
        duals: Where multipliers come from.
        d: Of all output rows, shape (n_rows,).
    """
    mu = _normalised(duals.mu)
    lam = mu @ W[-1]
    nu: list[np.ndarray] = []
    lams: list[np.ndarray] = []
    kappa: list[Kappa] = []
    for j in range(len(neurons), 0, -1):
        start = W[j - 1].shape[1]
        mine, cuts = lam[start : start + len(duals.nu[j - 1])], duals.cuts[j - 1]
        lams.append(mine)
        lam = lam[:start] + duals.nu[j - 1] @ W[j - 1]
        scalar = duals.nu[j - 1].copy()
        if cuts is not None and len(cuts.neurons):
            some = neurons[j - 1][cuts.neurons]
            put = some.columns >= 0
            np.add.at(lam, some.columns[put], cuts.kappa[put])
            scalar[cuts.neurons], part = _shared(node, j, some, mine[cuts.neurons], scalar[cuts.neurons], cuts)
            kappa.append(part)
        nu.append(scalar[None, :])
    found = evaluate(node, mu, tuple(reversed(nu)), tuple(kappa), d)
    return replace(found, lam=tuple(reversed(lams)))


def evaluate(
    node: DualProblem, mu: np.ndarray, nu: Sequence[np.ndarray], kappa: tuple[Kappa, ...], d: np.ndarray
) -> Claim:
    """The bound of given multipliers. Rounded."""
    nu = tuple(np.nan_to_num(part, posinf=0.0, neginf=0.0) for part in nu)
    g = float(dual_bound(node, len(node.layers), mu[None, :], fixed(nu), kappa).value[0])
    return Claim(_least_slack(g, mu, d), mu, nu, kappa)


def _normalised(mu: np.ndarray) -> np.ndarray:
    mu = np.where(np.isfinite(mu), np.maximum(mu, 0.0), 0.0)
    total = mu.sum()
    return mu / total if total > 0 else mu


def _least_slack(g: float, mu: np.ndarray, d: np.ndarray) -> float:
    """max_i (y_i - d_i) >= (g - mu.d) / sum mu. Rounded down."""
    used = mu > 0
    if not used.any() or not math.isfinite(g):
        return g
    terms = mu[used] * d[used]
    size = float(np.abs(terms).sum())
    # fsum rounds once; the products err by half an ulp each, or underflow.
    value = math.fsum([g, *(-terms)])
    value -= 4.0 * UNIT * (size + abs(value)) + 2.0**-1000
    total = math.fsum(mu[used])
    value = value / total
    return float(np.nextafter(value - 8.0 * UNIT * abs(value), -np.inf))


def _shared(
    node: DualProblem, j: int, some: Neurons, lam: np.ndarray, nu: np.ndarray, cuts: CutDuals
) -> tuple[np.ndarray, Kappa]:
    """nu of the neurons with cuts, shape (q,), and their kappa: per neuron the better form."""
    low, high = (np.concatenate(parts) for parts in zip(*(node.source_box(s) for s in range(j)), strict=True))
    box = Box(low, high)
    l, u = node.lower[j - 1][cuts.neurons], node.upper[j - 1][cuts.neurons]
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = np.where(lam < 0, cuts.weight / np.where(lam < 0, lam, 1.0), LEAST_SHARE)
    share = np.rint(np.clip(wanted, LEAST_SHARE, 1.0 - LEAST_SHARE) * 2.0**24) * 2.0**-24
    # For lambda >= 0 no upper side counts: what of nu is beyond [0, lambda] goes into kappa.
    kept = np.where(lam < 0, nu, np.clip(nu, 0.0, np.maximum(lam, 0.0)))
    part_kappa, part_nu = cuts.kappa + (nu - kept)[:, None] * some.weights, kept / (1.0 - share)
    full_kappa = cuts.kappa + nu[:, None] * some.weights
    parted = _box_term(some, box, share * lam, part_kappa) + kept * some.bias
    parted = parted + (1.0 - share) * np.minimum(
        np.minimum(lam * np.maximum(u, 0.0) - part_nu * u, lam * np.maximum(l, 0.0) - part_nu * l), 0.0
    )
    full = _box_term(some, box, lam, full_kappa) >= parted
    values = np.where(full[:, None], full_kappa, part_kappa)
    used = np.where(full, 1.0, share)
    return part_nu, Kappa(j, cuts.neurons, some.columns, values[None], used[None])


def _box_term(some: Neurons, box: Box, lam: np.ndarray, kappa: np.ndarray) -> np.ndarray:
    """min over the box of lambda relu(w.t + b) - kappa.t, or what g takes for it. Floating."""
    low, high = some.read(box.lower), some.read(box.upper)
    rest = lam[:, None] * some.weights - kappa
    off = np.minimum(-kappa * low, -kappa * high).sum(axis=1)
    on = lam * some.bias + np.minimum(rest * low, rest * high).sum(axis=1)
    return np.asarray(np.where(lam <= 0, np.minimum(off, on), np.maximum(off, on)))


def at_node(problem: DualProblem, lower: Sequence[np.ndarray], upper: Sequence[np.ndarray]) -> DualProblem:
    """The condensed problem with a node's bounds, where stable neurons keep their multipliers."""
    return replace(problem, lower=tuple(lower), upper=tuple(upper), list_all=True)

r"""The dual function g, rounded outward: the one kernel that turns multipliers nu into bounds.

For rows C over layer k (nu_k = C), any real nu_j, and lambda_j = sum_{k>j} W_kj^T nu_k:

    g(nu) = sum_k nu_k.b_k + min_{x in X} lambda_0.x
          + sum_j min over v in {l_j, u_j, and 0 if l_j < 0 < u_j} of ( lambda_j relu(v) - nu_j v )  <=  C zhat_k

The same multipliers bound C zhat_k from above: the same sum with every min replaced by max.

Rounding. The computed lambda_j differs from the exact one by at most gamma_N |W|^T |nu|, the j-th term is
|relu(u_j)|-Lipschitz in lambda_j, and every product that is summed is at most |nu_k| times an entry of

    s_k = |W_k| A + |b_k| + max(|l_k|, |u_k|),      A the bound on |x| and on z_j,

so all of it together, in any summation order and with or without fused multiply-add, is at most
2 (N + P) 2^-53 sum_k |nu_k|.s_k, with N roundings on the longest path and P summed terms. s does not depend on nu, so
the allowance costs one dot product a layer. Underflow is absolute and has an allowance of its own. Where zhat_k is only
known to be within e_k of W z + b (float32 execution, condensed weights), g loses |nu_k|.e_k in addition.

Input-wise multipliers. A neuron's nu_j may be replaced by a vector kappa over its own inputs t in [L, U]: its terms
become min(min_box(-kappa.t), lambda_j b_j + min_box((lambda_j w_j - kappa).t)), and kappa takes the place of nu_j w_j
(`bounds.kappa`). There the j-th term is only (|w_j| A + |b_j|)-Lipschitz, and A grows accordingly.

Source: Wong & Kolter 2018, theorem 1 and algorithm 1; Dvijotham et al. 2018, eq. 6; Anderson et al. 2020; Higham 2002,
section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from milpverify.bounds.kappa import Kappa, kappa_terms, scatter_kappa, widened
from milpverify.bounds.problem import DualProblem, LayerPhases
from milpverify.network.arrays import array_namespace, device, to_host
from milpverify.network.operators import Array

# (layer, lambda, phases) -> nu on the listed neurons of the layer, a new array of lambda's shape (*batch, m, p).
Rule = Callable[[int, Array, LayerPhases], Array]


@dataclass(frozen=True)
class Neurons:
    """The rows +e_1, ..., +e_n of a layer of n neurons, and -e_1, ..., -e_n below them if `both`."""

    both: bool = True


@dataclass(frozen=True, eq=False)
class DualBound:
    """Lower bounds of rows over a region, with what proves them; all numpy float64.

    Attributes:
        value: Shape (*batch, m); never above the exact minimum of the row (rounded).
        input_lam: lambda_0, shape (*batch, m, n_inputs); its minimiser over the region is a good attack start.
        nu: Per hidden layer below the target, nu on its unstable neurons, shape (*batch, m, p_j).
        kappa: Input-wise multipliers that take the place of nu on some neurons. Their columns are those of the problem
            that was evaluated: the condensed one, for methods that search for them.
        solver_trusted: Whether `value` rests on a solver's word instead of nu.
    """

    value: np.ndarray
    input_lam: np.ndarray
    nu: tuple[np.ndarray, ...] = ()
    kappa: tuple[Kappa, ...] = ()
    solver_trusted: bool = False


@dataclass(frozen=True, eq=False)
class Walk:
    """Where a walk from the target down to the input ends; in the problem's namespace.

    Attributes:
        low: g without the region's part, nothing rounded outward yet, shape (*batch, m).
        high: The same with max for min, where that was asked for.
        slack: The allowance for rounding that `low` and `high` do not hold yet.
        input_lam: lambda_0, shape (*batch, m, n_inputs).
        nu: Per layer, on its listed neurons.
    """

    low: Array
    high: Array
    slack: Array
    input_lam: Array
    nu: list[Array]


def dual_bound(
    problem: DualProblem, k: int, rows: np.ndarray | Neurons, rule: Rule, kappa: tuple[Kappa, ...] = ()
) -> DualBound:
    """Lower-bound rows . zhat_k over the region by g, with nu chosen on the way down. Rounded.

    Stable neurons take nu = lambda (active) or 0 (inactive), where their terms in g vanish; unstable ones take what
    `rule` says, and any answer of it is valid.

    Args:
        problem: Must bound the layers 1..k-1.
        k: The layer, from 1; one more than the number of hidden layers is the output.
        rows: Shape (m, n_k), or (*batch, m, n_k); or all neurons of the layer.
        rule: nu on the unstable neurons from lambda and the phases there; `fixed(nu)` gives stored multipliers.
        kappa: Input-wise multipliers that replace nu on some neurons, at most one object a layer.

    Returns:
        Values in units of zhat_k, with lambda_0 and nu.

    Raises:
        BoundsError: If kappa does not fit the neurons' inputs, or the problem is a batch and kappa is given.
    """
    if kappa:
        problem = widened(problem, kappa)
    end = walk(problem, k, rows, rule, kappa)
    value = _outward(problem, end.low, end.slack, end.input_lam)
    return DualBound(value, to_host(end.input_lam), tuple(to_host(part) for part in end.nu), kappa)


def dual_range(problem: DualProblem, k: int, rows: np.ndarray | Neurons, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of rows . zhat_k from one walk: the same nu serves both sides. Rounded.

    What `dual_bound` gives for rows and for -rows wherever the rule is odd in lambda, as Fast-Lin's is; valid always.

    Args:
        problem, k, rows, rule: As in `dual_bound`.

    Returns:
        Two arrays of shape (*batch, m).
    """
    end = walk(problem, k, rows, rule, (), both=True)
    low = _outward(problem, end.low, end.slack, end.input_lam)
    return low, -_outward(problem, -end.high, end.slack, -end.input_lam)


def dual_forms(problem: DualProblem, k: int, rows: np.ndarray, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """Affine functions of the input below rows . zhat_k >= lam.x + constant, for every x of the region. Rounded.

    They are g before its minimum over the region is taken; g's allowance covers what the computed lambda_0 is off by
    for any x of the region.

    Args:
        problem, k, rows, rule: As in `dual_bound`.

    Returns:
        lam, shape (*batch, m, n_inputs), and constant, shape (*batch, m); -infinity where something has overflown.
    """
    end = walk(problem, k, rows, rule, ())
    constant = to_host(end.low - end.slack * (1.0 + 1e-9))
    return to_host(end.input_lam), np.where(np.isfinite(constant), np.nextafter(constant, -np.inf), -np.inf)


def fixed(nu: Sequence[np.ndarray]) -> Rule:
    """The rule that answers with stored multipliers: nu[j - 1] for layer j."""

    def rule(j: int, lam: Array, phases: LayerPhases) -> Array:
        return array_namespace(lam).asarray(nu[j - 1], dtype=lam.dtype, device=device(lam))

    return rule


def best_of(one: DualBound, other: DualBound) -> DualBound:
    """Row by row the larger bound, with its multipliers."""
    better = other.value > one.value
    nu = tuple(np.where(better[..., None], b, a) for a, b in zip(one.nu, other.nu, strict=True))
    lam = np.where(better[..., None], other.input_lam, one.input_lam)
    kappa = (*(_only(part, ~better) for part in one.kappa), *(_only(part, better) for part in other.kappa))
    return DualBound(np.where(better, other.value, one.value), lam, nu, kappa)


def _only(part: Kappa, rows: np.ndarray) -> Kappa:
    return replace(part, used=part.share * rows[:, None])


def minimum(problem: DualProblem, lam: Array) -> Array:
    """Lower bounds of min lam.x over the problem's region(s); lam of shape (*batch, m, n). Rounded."""
    region = problem.region
    if lam.ndim == 2 or problem.batch:
        return region.minimum(lam)
    return region.minimum(lam.reshape((-1, lam.shape[-1]))).reshape(lam.shape[:-1])  # nodes over one region


def dot(rows: Array, weights: Array) -> Array:
    """rows (*batch, m, n) . weights (*batch or none, n) -> (*batch, m)."""
    return rows @ weights if weights.ndim == 1 else (rows @ weights[..., None])[..., 0]


def _outward(problem: DualProblem, value: Array, slack: Array, input_lam: Array) -> np.ndarray:
    total = to_host(value + minimum(problem, input_lam) - slack * (1.0 + 1e-9))
    return np.where(np.isfinite(total), np.nextafter(total, -np.inf), -np.inf)


def walk(
    problem: DualProblem, k: int, rows: np.ndarray | Neurons, rule: Rule, kappa: Sequence[Kappa], *, both: bool = False
) -> Walk:
    """g from the rows down to the input, before the region's part and the rounding outward. Floating.

    Nothing is assigned in place where every neuron of each layer is listed, so that torch can differentiate it.

    Args:
        problem, k, rows, rule, kappa: As in `dual_bound`.
        both: Whether `high` is wanted.
    """
    low, slack, lam = _start(problem, k, rows)
    xp, high = array_namespace(low), low
    kept: list[Array] = []
    wide = {part.layer: part for part in kappa}
    for j in range(k - 1, 0, -1):
        affine, phases, part = problem.affine(j), problem.phases(j), wide.get(j)
        if lam[j] is None:  # nothing above reads this layer
            kept.append(xp.zeros((*low.shape, phases.unstable.shape[0]), dtype=low.dtype, device=device(low)))
            continue
        others = None if part is None else problem.convert(part.others(phases.unstable.shape[0]))
        nu, chosen, at_u, at_l = _choose(phases, j, lam[j], rule, others)
        kept.append(chosen)
        bias = dot(nu, problem.convert(affine.bias))
        if both:
            high = high + bias + _total(xp.clip(xp.maximum(at_u, at_l), min=0.0), others)
        low = low + bias + _total(xp.clip(xp.minimum(at_u, at_l), max=0.0), others)
        if part is not None:
            terms = kappa_terms(problem, part, lam[j])
            low, slack = low + terms.value, slack + terms.slack
            scatter_kappa(problem, part, lam)
        lam[j] = None
        slack = slack + dot(xp.abs(nu), problem.convert(problem.allowance(j)))
        for source, op in affine.blocks:
            more = op.transpose_apply(nu)
            lam[source] = more if lam[source] is None else lam[source] + more
    if lam[0] is None:
        lam[0] = xp.zeros((*low.shape, problem.n_inputs), dtype=low.dtype, device=device(low))
    kept.reverse()
    return Walk(low, high, slack, lam[0], kept)


def _start(problem: DualProblem, k: int, rows: np.ndarray | Neurons) -> tuple[Array, Array, list[Any]]:
    """The rows' own share: bias and allowance (*batch, m), and lambda of the sources."""
    affine, lam = problem.affine(k), [None] * k
    bias, allowance = problem.convert(affine.bias), problem.convert(problem.allowance(k))
    xp, sources = array_namespace(bias), dict(affine.blocks)
    if isinstance(rows, Neurons):
        parts = {s: op.rows_like(np.arange(affine.size), problem.like) for s, op in sources.items()}
        if rows.both:
            bias, allowance = xp.concat([bias, -bias], axis=-1), xp.concat([allowance, allowance], axis=-1)
            parts = {s: xp.concat([part, -part], axis=-2) for s, part in parts.items()}
    else:
        nu = problem.convert(np.asarray(rows, dtype=np.float64))
        parts = {s: op.transpose_apply(nu) for s, op in sources.items()}
        bias, allowance = dot(nu, bias), dot(xp.abs(nu), allowance)
    batch = xp.zeros((*batch_shape(problem), 1), dtype=bias.dtype, device=device(bias))
    for source, part in parts.items():
        lam[source] = part
    return bias + batch, allowance + batch + problem.underflow(k), lam


def batch_shape(problem: DualProblem) -> tuple[int, ...]:
    """Batch axes of the bounds or of the region, whichever has them."""
    return max((problem.batch, *(l.shape[:-1] for l in problem.lower)), key=len)


def _choose(
    phases: LayerPhases, j: int, lam: Array, rule: Rule, others: Array | None
) -> tuple[Array, Array, Array, Array]:
    """nu_j (*batch, m, n_j), and on the listed neurons nu and lambda relu(v) - nu v at v = u and at v = l.

    Neurons that kappa serves get the share `others` of nu.
    """
    xp = array_namespace(lam)
    part = lam if phases.every else xp.take(lam, phases.unstable, axis=-1)
    chosen = rule(j, part, phases)
    if phases.mixed:  # true for any nu, wherever a neuron is stable for a member of the batch
        at_u = part * xp.clip(phases.u, min=0.0) - chosen * phases.u
        at_l = part * xp.clip(phases.l, min=0.0) - chosen * phases.l
    else:
        at_u, at_l = (part - chosen) * phases.u, chosen * -phases.l
    if others is not None:
        chosen = chosen * others
    if phases.every:
        return chosen, chosen, at_u, at_l
    nu = lam * phases.active[..., None, :]
    nu[..., phases.unstable] = chosen  # nu is a fresh product: nobody else holds it
    return nu, chosen, at_u, at_l


def _total(terms: Array, others: Array | None) -> Array:
    """The sum over the last axis, of the shares that are not served by kappa."""
    return array_namespace(terms).sum(terms if others is None else terms * others, axis=-1)

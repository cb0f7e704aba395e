r"""The dual function g, rounded outward: the one kernel that turns multipliers nu into bounds.

For rows C over layer k (nu_k = C), any real nu_j, and lambda_j = sum_{k>j} W_kj^T nu_k:

    g(nu) = sum_k nu_k.b_k + min_{x in X} lambda_0.x
          + sum_j min over v in {l_j, u_j, and 0 if l_j < 0 < u_j} of ( lambda_j relu(v) - nu_j v )  <=  C zhat_k

Rounding. The computed lambda_j differs from the exact one by at most gamma_N |W|^T |nu|, the j-th term is
|relu(u_j)|-Lipschitz in lambda_j, and every product that is summed is at most |nu_k| times an entry of

    s_k = |W_k| A + |b_k| + max(|l_k|, |u_k|),      A the bound on |x| and on z_j,

so all of it together, in any summation order and with or without fused multiply-add, is at most
2 (N + P) 2^-53 sum_k |nu_k|.s_k, with N roundings on the longest path and P summed terms. s does not depend on nu, so
the allowance costs one dot product a layer. Underflow is absolute and has an allowance of its own.

Source: Wong & Kolter 2018, theorem 1 and algorithm 1; Dvijotham et al. 2018, eq. 6; Higham 2002, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from milpverify.network.arrays import array_namespace, device, to_host
from milpverify.network.graph import UNIT, Affine, Bounds, Network
from milpverify.network.operators import Array
from milpverify.spec.regions import Region

LEAST_NORMAL = 2.0**-1022  # a product that underflows, gradually or to zero, is off by less

# (lambda, l, u) on the unstable neurons of one layer -> nu there; shapes (m, n), (n,), (n,).
Rule = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True, eq=False)
class DualBound:
    """Lower bounds of rows over a region, with what proves them; all numpy float64.

    Attributes:
        value: Shape (m,); never above the exact minimum of the row (rounded).
        input_lam: lambda_0, shape (m, n_inputs); its minimiser over the region is a good attack start.
        nu: Per hidden layer below the target, nu on its unstable neurons, shape (m, n_unstable_j).
    """

    value: np.ndarray
    input_lam: np.ndarray
    nu: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class _Layer:
    """What the walk needs of one bounded layer, in the namespace it runs in."""

    active: Array  # (n,) 1.0 where stable active
    unstable: Array  # indices
    l: Array  # on the unstable neurons
    u: Array


@dataclass(frozen=True, eq=False)
class DualProblem:
    """A network over a region with bounds for its first layers: what g is evaluated on.

    Attributes:
        net: Operators in the namespace (numpy or torch, any device) the evaluation runs in.
        region: The input region.
        lower, upper: numpy float64 bounds of the layers proven so far, in order.
        like: Any array of that namespace, on that device.
    """

    net: Network
    region: Region
    lower: tuple[np.ndarray, ...] = ()
    upper: tuple[np.ndarray, ...] = ()
    like: Array = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, net: Network, region: Region, bounds: Bounds) -> DualProblem:
        """The problem in numpy, with bounds for every hidden layer."""
        return cls(net, region, bounds.lower, bounds.upper)

    def with_layer(self, lower: np.ndarray, upper: np.ndarray) -> DualProblem:
        """The problem with one more layer bounded."""
        problem = DualProblem(self.net, self.region, (*self.lower, lower), (*self.upper, upper), self.like)
        problem.__dict__["_cache"] = self._cache  # what was derived for the layers below still holds
        return problem

    def convert(self, x: np.ndarray) -> Array:
        """A numpy array in the problem's namespace, on its device."""
        return array_namespace(self.like).asarray(x, device=device(self.like))

    def affine(self, k: int) -> Affine:
        """Layer k from 1; the one after the last hidden layer is the output."""
        return (*self.net.layers, self.net.output)[k - 1]

    @cached_property
    def _cache(self) -> dict[tuple[str, int], Any]:
        return {}

    def layer(self, j: int) -> _Layer:
        """Phases and bounds of layer j."""
        key = ("layer", j)
        if key not in self._cache:
            l, u = self.lower[j - 1], self.upper[j - 1]
            open_ = np.flatnonzero((l < 0) & (u > 0))
            parts = ((l >= 0).astype(np.float64), open_, l[open_], u[open_])
            self._cache[key] = _Layer(*(self.convert(part) for part in parts))
        return self._cache[key]

    def values_scale(self, source: int) -> np.ndarray:
        """A: entry-wise bound on |x| (source 0) or on z_source."""
        if source == 0:
            return np.maximum(np.abs(self.region.lower), np.abs(self.region.upper))
        return np.maximum(self.upper[source - 1], 0.0)

    def scale(self, k: int) -> np.ndarray:
        """|W_k| A + |b_k|: how large the terms of a pre-activation can be, shape (n_k,)."""
        key = ("scale", k)
        if key not in self._cache:
            layer = self.affine(k)
            total = np.abs(layer.bias)
            for source, op in layer.blocks:
                size = self.convert(self.values_scale(source))
                gain = op.underflow_gain(size)
                total = total + to_host(op.magnitude().apply(size) + LEAST_NORMAL * gain)
            self._cache[key] = total
        return self._cache[key]

    def underflow(self, k: int) -> float:
        """What underflow can add to g of rows over layer k, apart from the region's part.

        An entry of lambda_j off by a little is off in g by that times the bound on z_j: huge activations below tiny
        weights make it count.
        """
        key = ("underflow", k)
        if key not in self._cache:
            affine = self.affine(k)
            units = 8.0 * (affine.size + 1) + (self.underflow(k - 1) / LEAST_NORMAL if k > 1 else self.net.n_inputs)
            for source, op in affine.blocks:
                units += 2.0 * op.underflow_reach(self.convert(self.values_scale(source)))
            self._cache[key] = units * LEAST_NORMAL
        return float(self._cache[key])

    @cached_property
    def roundings(self) -> int:
        """N + P of the module's formula, generously."""
        blocks = [op for part in (*self.net.layers, self.net.output) for _, op in part.blocks]
        values = sum(self.net.sizes) + self.net.n_inputs + self.net.n_outputs
        return values + 16 + sum(op.roundings + 2 for op in blocks)

    def allowance(self, k: int) -> np.ndarray:
        """What one unit of |nu_k| adds to the rounding allowance, shape (n_k,)."""
        total = self.scale(k)
        if k <= len(self.lower):
            total = total + np.maximum(np.abs(self.lower[k - 1]), np.abs(self.upper[k - 1]))
        return 2.0 * self.roundings * UNIT * total + 2.0 * self.affine(k).bias_error


def dual_bound(problem: DualProblem, k: int, rows: np.ndarray, rule: Rule) -> DualBound:
    """Lower-bound rows . zhat_k over the region by g, with nu chosen on the way down. Rounded.

    Stable neurons take nu = lambda (active) or 0 (inactive), where their terms in g vanish; unstable ones take what
    `rule` says, and any answer of it is valid.

    Args:
        problem: Must bound the layers 1..k-1.
        k: The layer, from 1; one more than the number of hidden layers is the output.
        rows: Shape (m, n_k).
        rule: nu on the unstable neurons from lambda, l and u there.

    Returns:
        Values in units of zhat_k, with lambda_0 and nu.
    """
    lam: list[Any] = [None] * k
    nu = problem.convert(np.asarray(rows, dtype=np.float64))
    xp = array_namespace(nu)
    value, slack = 0.0 * nu[:, 0], 0.0 * nu[:, 0] + problem.underflow(k)
    kept: list[np.ndarray] = []
    for j in range(k, 0, -1):
        if j < k:
            if lam[j] is None:  # nothing above reads this layer
                kept.append(np.zeros((len(rows), len(problem.layer(j).unstable))))
                continue
            nu, chosen, terms = _choose(problem.layer(j), lam[j], rule)
            kept.append(to_host(chosen))
            value, lam[j] = value + terms, None
        affine = problem.affine(j)
        value = value + nu @ problem.convert(affine.bias)
        slack = slack + xp.abs(nu) @ problem.convert(problem.allowance(j))
        for source, op in affine.blocks:
            part = op.transpose_apply(nu)
            lam[source] = part if lam[source] is None else lam[source] + part
    if lam[0] is None:
        lam[0] = xp.zeros((len(rows), problem.net.n_inputs), dtype=nu.dtype, device=device(nu))
    value = to_host(value + problem.region.minimum(lam[0]) - slack * (1.0 + 1e-9))
    value = np.where(np.isfinite(value), np.nextafter(value, -np.inf), -np.inf)
    return DualBound(value, to_host(lam[0]), tuple(reversed(kept)))


def _choose(layer: _Layer, lam: Array, rule: Rule) -> tuple[Array, Array, Array]:
    """nu_j (m, n_j), its part on the unstable neurons, and the neurons' terms of g (m,)."""
    xp = array_namespace(lam)
    nu = lam * layer.active
    part = xp.take(lam, layer.unstable, axis=-1)
    chosen = rule(part, layer.l, layer.u)
    at_u, at_l = (part - chosen) * layer.u, -chosen * layer.l
    terms = xp.sum(xp.clip(xp.minimum(at_u, at_l), max=0.0), axis=-1)
    nu[:, layer.unstable] = chosen  # nu is a fresh product: nobody else holds it
    return nu, chosen, terms

r"""Linear cuts in lower bounds: multipliers for A x <= b, found in float64 and evaluated rigorously.

Over the points of a set X0 (a box, or a ball in its clip) with A x <= b, for any mu >= 0:

    min lam.x  >=  g(mu) = min over X0 of (lam + A^T mu).x  -  mu.b.

g is concave, and its maximum is the exact minimum wherever some point of X0 is inside every cut (Lagrangian duality).
Any mu >= 0 is valid, so only the last evaluation needs care. One cut's mu is found by intersecting two tangents of g,
one on either side of its maximum: a point x of X0 gives the tangent (lam + A^T mu).x - mu.b. Several cuts take turns.

Source: Rockafellar 1970, theorem 28.2 (strong duality); Kelley 1960 (tangents); Bertsekas 1999, section 6.3 (ascent).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from milpverify.network.arrays import array_namespace
from milpverify.spec.cuts import Cuts
from milpverify.spec.rounding import UNDERFLOW, allowance
from milpverify.spec.support import like

if TYPE_CHECKING:
    from milpverify.network.operators import Array

ROUNDS = 48  # evaluations of one cut's search at most; on boxes and L1 balls five to fifteen are usual, on L2 twenty
HALVING = 5  # every fifth one halves the bracket: tangents alone can creep
SWEEPS = 3  # turns of every cut where there are several


class _Tangent(NamedTuple):
    """Lines p + mu q above g along one multiplier, both of shape (m,)."""

    p: Array
    q: Array


@dataclass(frozen=True, eq=False)
class CutDual:
    """The dual function g of cuts over a set without cuts.

    Attributes:
        cuts: At least one.
        reach: An upper bound of |x_j| over the set, shape (n,).
        minimum: (m, n) -> (m,), lower bounds of min lam.x over the set. Rounded.
        minimiser: (m, n) -> (m, n), points that nearly attain it. Floating.
    """

    cuts: Cuts
    reach: np.ndarray
    minimum: Callable[[Array], Array]
    minimiser: Callable[[Array], Array]

    def bound(self, lam: Array) -> Array:
        """Lower bounds of min lam.x over the set and its cuts, shape (m,). Rounded; at least those without the cuts.

        The float64 coefficients w = fl(lam + A^T mu), the multipliers mu being what they are, miss the exact ones by
        at most gamma_(k+1) (|lam| + |A|^T mu) in each of the n coordinates, k cuts; over the set that changes the
        minimum by at most gamma_(k+1) S1, S1 = (|lam| + |A|^T mu).reach. `minimum(w)` errs on the safe side. The sum
        fl(mu.b) misses mu.b by gamma_k S2, S2 = mu.|b|, and the two subtractions lose two roundings of
        |minimum(w)| + S2 each. With S = S1 + S2 + |minimum(w)| all this is below (k + 8) u S, u = 2^-53, and
        `allowance(k + 2)` is twice (k + 10) u: enough while the float64 sum S is at least half of the exact one.
        A product that underflows costs up to 2^-1022 in a coefficient, so times the reach: hence UNDERFLOW times
        1 + sum reach. Rows in which anything overflows keep the bound without cuts, or -infinity.

        Args:
            lam: float64, shape (m, n).
        """
        xp = array_namespace(lam)
        with np.errstate(all="ignore"):
            best = self.minimum(lam)
            best = xp.where(xp.isnan(best), xp.full_like(best, -xp.inf), best)
            mu = xp.clip(self._multipliers(lam), 0.0, None)  # nothing else is proved of them
            A, b, reach = (like(v, lam) for v in (self.cuts.A, self.cuts.b, self.reach))
            w = lam + mu @ A
            least = self.minimum(w)
            size = (xp.abs(lam) + mu @ xp.abs(A)) @ reach + mu @ xp.abs(b) + xp.abs(least)
            slack = allowance(self.cuts.n_rows + 2) * size + UNDERFLOW * (1.0 + xp.sum(reach))
            value = (least - mu @ b) - slack
            sound = xp.isfinite(value) & xp.isfinite(size) & xp.all(xp.isfinite(w), axis=-1)
            return xp.where(sound & (value > best), value, best)

    def point(self, lam: Array) -> Array:
        """The set's minimisers of lam + A^T mu for the best mu found, shape (m, n). Floating; cuts may not hold.

        Args:
            lam: float64, shape (m, n).
        """
        xp = array_namespace(lam)
        with np.errstate(all="ignore"):
            w = lam + self._multipliers(lam) @ like(self.cuts.A, lam)
            return self.minimiser(xp.where(xp.all(xp.isfinite(w), axis=-1, keepdims=True), w, lam))

    @cached_property
    def _price(self) -> np.ndarray:
        """What the rounding of `bound` costs per unit of each multiplier, shape (k,).

        Charged in the search, it keeps multipliers from growing where g hardly does.
        """
        A, b = np.abs(self.cuts.A), np.abs(self.cuts.b)
        return np.maximum(allowance(len(self.reach) + len(b)) * (A @ self.reach + b), UNDERFLOW)

    @cached_property
    def _deepest(self) -> np.ndarray:
        """The set's points farthest behind each cut, shape (k, n). Floating."""
        return np.asarray(self.minimiser(self.cuts.A))

    def _multipliers(self, lam: Array) -> Array:
        """Good multipliers mu >= 0, shape (m, k). Floating, in turns: exact for one cut, an ascent for several."""
        xp, k = array_namespace(lam), self.cuts.n_rows
        A = like(self.cuts.A, lam)
        columns = [xp.zeros_like(lam[:, 0]) for _ in range(k)]
        for _ in range(SWEEPS if k > 1 else 1):
            for i in range(k):
                now, columns[i] = columns[i], xp.zeros_like(lam[:, 0])
                columns[i] = self._search(lam + xp.stack(columns, axis=-1) @ A, i, now)
        return xp.stack(columns, axis=-1)

    def _search(self, w: Array, i: int, now: Array) -> Array:
        """The mu >= 0 with the largest min (w + mu a).x - mu (b + price) over the set, a = A[i], shape (m,).

        A bracket's lower end has a tangent that rises (q > 0), its upper end one that does not. The first upper tangent
        is that of the point deepest behind the cut, where a tangent's height at 0 bounds how far the maximum can be.

        Args:
            w: Coefficients with the other cuts' multipliers in, shape (m, n).
            i: The cut.
            now: Its multiplier so far, shape (m,); nothing worse is returned.
        """
        xp = array_namespace(w)
        zero, one, a, deepest = (
            xp.zeros_like(now),
            xp.ones_like(now),
            like(self.cuts.A[i], w),
            like(self._deepest[i], w),
        )
        right, price = float(self.cuts.b[i] + self._price[i]), float(self._price[i])

        def tangent(mu: Array) -> _Tangent:
            x = self.minimiser(w + mu[:, None] * a)
            return _Tangent(xp.sum(w * x, axis=-1), x @ a - right)

        low, mu_low = tangent(zero), zero
        best, value = zero, low.p
        if bool(xp.any(now > 0)):
            p, q = tangent(now)
            best, value = xp.where(p + now * q > value, now, best), xp.maximum(p + now * q, value)
        # A cut that no point meets by more than rounding has no such point: its multiplier ends where the price says.
        high = _Tangent(w @ deepest, zero + min(float(self._deepest[i] @ self.cuts.A[i]) - right, -price))
        mu_high = (high.p - low.p) / -high.q
        settled = allowance(len(self.reach)) * (xp.abs(w) @ like(self.reach, w))
        going = (low.q > 0) & (mu_high > 0)
        for k in range(ROUNDS):
            fall = low.q - high.q
            mu = (high.p - low.p) / xp.where(fall > 0, fall, one)
            going = going & (low.p + mu * low.q - value > settled)
            if not bool(xp.any(going)):
                break
            if k % HALVING == HALVING - 1:  # on a logarithmic scale, as the upper end can be far too far
                mu = xp.sqrt(xp.maximum(mu_low, 2.0**-30 * mu_high) * mu_high)
            mu = xp.minimum(xp.maximum(mu, mu_low), mu_high)
            new = tangent(mu)
            height, rises = new.p + mu * new.q, new.q > 0
            better = going & (height > value)  # rows that have ended may have no bracket, and a mu below 0
            best, value = xp.where(better, mu, best), xp.where(better, height, value)
            mu_low, mu_high = xp.where(rises, mu, mu_low), xp.where(rises, mu_high, mu)
            low = _Tangent(xp.where(rises, new.p, low.p), xp.where(rises, new.q, low.q))
            high = _Tangent(xp.where(rises, high.p, new.p), xp.where(rises, high.q, new.q))
        return best

"""Piecewise-linear operators rewritten as affine maps and ReLUs, exactly.

    leaky relu   slope x + (1 - slope) relu(x)          clip     lo + relu(x - lo) - relu(x - hi)
    abs          2 relu(x) - x                          max      a + relu(b - a)

Readers of files hand their operators to a `Lowering` in order, and end with `finish`. What float64 cannot hold exactly
(the root inside a batch-norm, a division by three) is rounded once and noted in `Network.approximations`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from milpverify.errors import NetworkError, UnsupportedError
from milpverify.network.expression import Expr, add, constant, linear, reshape, scale, select, shift, subtract
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import LinearOperator, Product, Scaling, Selection, Sum, identity
from milpverify.network.rounding import rounded_quotient, rounded_root, rounded_sum

FLOAT32_MAX = float(np.finfo(np.float32).max)


class Lowering:
    """The network read so far: its ReLU layers and what was rounded.

    Args:
        input_shape: Shape of one input, batch axis included.

    Attributes:
        input: The input as an expression.
    """

    def __init__(self, input_shape: Sequence[int]) -> None:
        self.input_shape = tuple(int(n) for n in input_shape)
        if min(self.input_shape, default=1) < 1:
            raise NetworkError(f"an input of shape {self.input_shape} holds no values. Give a shape of positive sizes.")
        n = int(np.prod(self.input_shape))
        self.input = Expr(self.input_shape, {0: identity(n)})
        self._layers: list[Affine] = []
        self._notes: dict[str, None] = {}
        self._rewritten: dict[str, None] = {}

    def note(self, sentence: str) -> None:
        """Record what float64 could not hold exactly; shown with every verdict."""
        self._notes[sentence] = None

    def rewrite(self, place: str) -> None:
        """Record an operator that is executed otherwise than the network's form says."""
        self._rewritten[place] = None

    def relu(self, x: Expr, name: str = "") -> Expr:
        """max(x, 0): one more layer, unless x consists of ReLUs already or does not depend on the input."""
        if not x.blocks and all(op is None for op, _ in x.bias_terms) and len(x.bias_terms) <= 1:
            return Expr(x.shape, {}, tuple((None, np.maximum(vector, 0.0)) for _, vector in x.bias_terms))
        if not x.bias_terms and all(source > 0 and isinstance(op, Selection) for source, op in x.blocks.items()):
            return x
        self._layers.append(self._affine(x, self._unique(name)))
        return Expr(x.shape, {len(self._layers): identity(x.size)})

    def leaky_relu(self, x: Expr, slope: np.ndarray, name: str = "") -> Expr:
        """slope x + (1 - slope) relu(x), the slope broadcast to x (leaky ReLU, PReLU)."""
        slope = np.broadcast_to(np.asarray(slope, dtype=np.float64), x.shape)
        rest, exact = rounded_sum(np.ones_like(slope), -slope)
        z = self.relu(x, name)
        above = scale(z, rest) if exact else subtract(z, scale(z, slope))
        return add(scale(x, slope), above)

    def absolute(self, x: Expr, name: str = "") -> Expr:
        """|x| = 2 relu(x) - x."""
        return subtract(scale(self.relu(x, name), np.array(2.0)), x)

    def clip(self, x: Expr, lo: float | None, hi: float | None, name: str = "") -> Expr:
        """min(max(x, lo), hi); a bound that is absent, infinite or the largest float32 does nothing.

        With both bounds, the ReLUs of lo and hi stand in one layer.
        """
        low = lo is not None and lo > -FLOAT32_MAX
        high = hi is not None and hi < FLOAT32_MAX
        interval = -np.inf if lo is None else lo, np.inf if hi is None else hi
        if not (interval[0] <= interval[1] and interval[0] < FLOAT32_MAX and interval[1] > -FLOAT32_MAX):
            raise UnsupportedError(f"a clip to [{lo}, {hi}], which holds no interval. Give bounds with lo <= hi.")
        if low and high:
            below, above = np.full(x.size, float(lo or 0.0)), np.full(x.size, float(hi or 0.0))
            twice = select(x, np.concatenate([np.arange(x.size)] * 2))
            z = self.relu(shift(twice, -np.concatenate([below, above])), name)
            index = x.index
            return shift(subtract(select(z, index), select(z, index + x.size)), np.array(lo))
        if low:
            return self.maximum(x, constant(np.array(lo)), name)
        return self.minimum(x, constant(np.array(hi)), name) if high else x

    def maximum(self, a: Expr, b: Expr, name: str = "") -> Expr:
        """max(a, b) = b + relu(a - b), broadcast."""
        return add(b, self.relu(subtract(a, b), name))

    def minimum(self, a: Expr, b: Expr, name: str = "") -> Expr:
        """min(a, b) = a - relu(a - b), broadcast."""
        return subtract(a, self.relu(subtract(a, b), name))

    def maximum_over(self, x: Expr, slots: np.ndarray, name: str = "") -> Expr:
        """The largest of each row of entries, by a tree of pairwise maxima.

        Pairs that several rows share get one neuron.

        Args:
            slots: Positions in x, shape (m, k); -1 stands for no entry.

        Returns:
            Expression of shape (m,).
        """
        slots = np.take_along_axis(slots, np.argsort(slots < 0, axis=1, kind="stable"), axis=1)
        if slots.shape[1] == 0 or (slots[:, 0] < 0).any():
            raise UnsupportedError(
                "a maximum over no values. Reduce the padding, so that every window meets its input."
            )
        x = reshape(x, (x.size,))
        while slots.shape[1] > 1:
            if slots.shape[1] % 2:
                slots = np.concatenate([slots, np.full((len(slots), 1), -1)], axis=1)
            first, second = slots[:, 0::2].reshape(-1), slots[:, 1::2].reshape(-1)
            keys, place = np.unique(first * (x.size + 1) + second + 1, return_inverse=True)
            left, right = keys // (x.size + 1), keys % (x.size + 1) - 1
            present = first >= 0
            x = self._pairwise(x, left, right, name)
            slots = np.where(present, place.reshape(-1), -1).reshape(len(slots), -1)
        return select(x, slots[:, 0])

    def _pairwise(self, x: Expr, left: np.ndarray, right: np.ndarray, name: str) -> Expr:
        """max(x[left], x[right]) = x[left] + relu(x[right] - x[left]), and x[left] where right is -1."""
        both = np.flatnonzero(right >= 0)
        minus = Product((Scaling(np.full(both.size, -1.0)), Selection(left[both], x.size)))
        difference = linear(x, Sum((Selection(right[both], x.size), minus)), (both.size,))
        place = np.full(len(left), -1)
        place[both] = np.arange(both.size)
        return add(select(x, left), select(self.relu(difference, name), place))

    def divide(self, x: Expr, divisor: np.ndarray, name: str = "") -> Expr:
        """x / divisor, broadcast. Rounded: the reciprocals are, unless the divisors are powers of two."""
        divisor = np.asarray(divisor, dtype=np.float64)
        if (divisor == 0).any():
            raise NetworkError("a division by zero. Remove the zero from the divisor.")
        reciprocal, exact = rounded_quotient(np.ones_like(divisor), divisor)
        if not np.isfinite(reciprocal).all():
            raise NetworkError("a division by a number whose reciprocal float64 cannot hold. Scale the divisor.")
        if not exact:
            self.note(f"{name}: the reciprocals of a division were rounded to float64 (relative error up to 2^-53).")
        return scale(x, reciprocal)

    def batch_norm(
        self,
        x: Expr,
        gamma: np.ndarray,
        beta: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        epsilon: float,
        name: str = "",
    ) -> Expr:
        """gamma (x - mean) / sqrt(variance + epsilon) + beta per channel (axis 1). Rounded: the factors are."""
        channels = x.shape[1]
        if any(v.shape != (channels,) for v in (gamma, beta, mean, variance)):
            raise NetworkError(
                f"a batch-norm of {channels} channels with statistics of other lengths. Check its shapes."
            )
        along = (-1, *[1] * (len(x.shape) - 2))
        total, exact_sum = rounded_sum(variance, np.full_like(variance, epsilon))
        if not (total > 0).all():
            raise NetworkError("a batch-norm whose variance + epsilon is not positive. Check the running variance.")
        root, exact_root = rounded_root(total)
        factor, exact_quotient = rounded_quotient(gamma, root)
        if not (exact_sum and exact_root and exact_quotient):
            self.note(
                f"{name}: the factors gamma / sqrt(variance + epsilon) were rounded to float64 "
                "(relative error up to 2^-51)."
            )
        centred = shift(x, -mean.reshape(along))
        return shift(scale(centred, factor.reshape(along)), beta.reshape(along))

    def finish(self, output: Expr) -> Network:
        """The network whose output is this expression."""
        if not output.blocks:
            raise NetworkError("the output does not depend on the input. Check which output the model returns.")
        affine = self._affine(output, "output")
        notes, rewritten = tuple(self._notes), tuple(self._rewritten)
        return Network(self.input_shape, output.shape, tuple(self._layers), affine, notes, rewritten)

    def _affine(self, x: Expr, name: str) -> Affine:
        blocks: list[tuple[int, LinearOperator]] = sorted(x.blocks.items(), key=lambda block: block[0])
        return Affine(tuple(blocks), x.bias_terms, x.size, name)

    def _unique(self, name: str) -> str:
        """A name no other layer has; names of rows and columns are built from it."""
        wanted = name or f"relu_{len(self._layers) + 1}"
        taken = {layer.name for layer in self._layers}
        return wanted if wanted not in taken else f"{wanted}.{len(self._layers) + 1}"

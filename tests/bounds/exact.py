"""The dual function g, networks and regions in exact arithmetic, written from the formula and apart from the kernel.

Floats are integers times powers of two, and so is everything that g is made of: no fraction is ever reduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from milpverify.bounds.kappa import Kappa
from milpverify.bounds.problem import DualProblem
from milpverify.network.convolution import Conv2d
from milpverify.network.graph import Affine
from milpverify.network.operators import Array, ArrayMap, Dense, LinearOperator, Product, Scaling, Selection, Sum
from milpverify.spec.regions import Box, BoxBatch, L1Ball, L2Ball, LinfBall, Region


@dataclass(frozen=True, eq=False)
class Dyadic:
    """An array of numbers integers * 2**-exponent; the integers are Python's."""

    integers: np.ndarray
    exponent: int

    @classmethod
    def of(cls, values: np.ndarray | float) -> Dyadic:
        """Finite floats, exactly."""
        values = np.asarray(values, dtype=np.float64)
        ratios = [float(v).as_integer_ratio() for v in values.reshape(-1)]
        exponent = max((d.bit_length() - 1 for _, d in ratios), default=0)
        integers = np.empty(len(ratios), dtype=object)
        integers[:] = [n << (exponent - d.bit_length() + 1) for n, d in ratios]
        return cls(integers.reshape(values.shape), exponent)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.integers.shape

    def raised(self, exponent: int) -> np.ndarray:
        """The integers for a larger exponent."""
        return self.integers * (1 << (exponent - self.exponent))

    def _with(self, other: Dyadic) -> tuple[np.ndarray, np.ndarray, int]:
        exponent = max(self.exponent, other.exponent)
        return self.raised(exponent), other.raised(exponent), exponent

    def __add__(self, other: Dyadic) -> Dyadic:
        a, b, exponent = self._with(other)
        return Dyadic(np.asarray(a + b, dtype=object), exponent)

    def __neg__(self) -> Dyadic:
        return Dyadic(-self.integers, self.exponent)

    def __sub__(self, other: Dyadic) -> Dyadic:
        return self + -other

    def __mul__(self, other: Dyadic) -> Dyadic:
        return Dyadic(np.asarray(self.integers * other.integers, dtype=object), self.exponent + other.exponent)

    def __matmul__(self, other: Dyadic) -> Dyadic:
        product = np.dot(self.integers, other.integers) if self.shape[-1] else self._nothing(other)
        return Dyadic(np.asarray(product, dtype=object), self.exponent + other.exponent)

    def _nothing(self, other: Dyadic) -> np.ndarray:
        return _zeros((*self.shape[:-1], *other.shape[1:]))

    def __getitem__(self, index: object) -> Dyadic:
        return Dyadic(np.asarray(self.integers[index], dtype=object), self.exponent)

    @property
    def T(self) -> Dyadic:
        return Dyadic(self.integers.T, self.exponent)

    def __abs__(self) -> Dyadic:
        return Dyadic(np.asarray(np.abs(self.integers), dtype=object), self.exponent)

    def least(self, other: Dyadic) -> Dyadic:
        """The smaller one, entry by entry."""
        a, b, exponent = self._with(other)
        return Dyadic(np.asarray(np.minimum(a, b), dtype=object), exponent)

    def most(self, other: Dyadic) -> Dyadic:
        """The larger one, entry by entry."""
        return -((-self).least(-other))

    def total(self) -> Dyadic:
        """The sum over the last axis."""
        if not self.shape[-1]:
            return Dyadic(_zeros(self.shape[:-1]), 0)
        return Dyadic(np.asarray(self.integers.sum(axis=-1), dtype=object), self.exponent)

    def relu(self) -> Dyadic:
        return self.most(ZERO)

    def __le__(self, other: Dyadic) -> np.ndarray:
        a, b, _ = self._with(other)
        return np.asarray(a <= b, dtype=bool)

    def floats(self) -> np.ndarray:
        """Rounded to float64; for magnitudes only."""
        unit = 1 << self.exponent
        return np.array([float(Fraction(int(v), unit)) for v in self.integers.reshape(-1)]).reshape(self.shape)

    def fractions(self) -> list[Fraction]:
        """The numbers of a vector."""
        return [Fraction(int(v), 1 << self.exponent) for v in self.integers.reshape(-1)]


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    zeros = np.empty(shape, dtype=object)
    zeros[...] = 0
    return zeros


ZERO = Dyadic(np.asarray(0, dtype=object), 0)


def matrix(op: LinearOperator) -> Dyadic:
    """The whole matrix of an operator, (out_size, in_size), multiplied out exactly."""
    if isinstance(op, Spy):
        return matrix(op.inner)
    if isinstance(op, Dense):
        return Dyadic.of(op.matrix)
    if isinstance(op, Scaling):
        return Dyadic.of(np.diag(op.diagonal))
    if isinstance(op, Selection):
        ones = np.zeros((op.out_size, op.in_size))
        for i, column in enumerate(op.index):
            if column >= 0:
                ones[i, column] = 1.0
        return Dyadic.of(ones)
    if isinstance(op, Conv2d):
        return Dyadic.of(convolution_matrix(op))
    if isinstance(op, Sum):
        whole = matrix(op.terms[0])
        for term in op.terms[1:]:
            whole = whole + matrix(term)
        return whole
    assert isinstance(op, Product)
    whole = matrix(op.factors[0])
    for factor in op.factors[1:]:
        whole = whole @ matrix(factor)
    return whole


def convolution_matrix(op: Conv2d) -> np.ndarray:
    """The definition, pixel by pixel: every entry is one of the kernel's or zero."""
    channels, height, width = op.in_shape
    out, high, wide = op.out_shape
    fan_in, rows, columns = op.kernel.shape[1:]
    whole = np.zeros((out, high, wide, channels, height, width))
    for f, y, x, c, i, j in np.ndindex(out, high, wide, fan_in, rows, columns):
        down = y * op.stride[0] + i * op.dilation[0] - op.padding[0]
        across = x * op.stride[1] + j * op.dilation[1] - op.padding[1]
        if 0 <= down < height and 0 <= across < width:
            whole[f, y, x, f // (out // op.groups) * fan_in + c, down, across] = op.kernel[f, c, i, j]
    return whole.reshape(op.out_size, op.in_size)


def bias(affine: Affine) -> Dyadic:
    """The exact bias, (size,)."""
    total = Dyadic(_zeros((affine.size,)), 0)
    for op, vector in affine.bias_terms:
        total = total + (Dyadic.of(vector) if op is None else matrix(op) @ Dyadic.of(vector))
    return total


@dataclass(frozen=True, eq=False)
class ExactLayers:
    """The layers of a problem multiplied out: per layer the blocks by source, and the bias."""

    blocks: tuple[dict[int, Dyadic], ...]
    biases: tuple[Dyadic, ...]

    @classmethod
    def of(cls, layers: Sequence[Affine]) -> ExactLayers:
        blocks = tuple({source: matrix(op) for source, op in layer.blocks} for layer in layers)
        return cls(blocks, tuple(bias(layer) for layer in layers))

    def activations(self, x: np.ndarray) -> list[Dyadic]:
        """zhat_1, ..., y at float64 points x, (s, n) each."""
        values, hidden = [Dyadic.of(x)], []
        for blocks, b in zip(self.blocks, self.biases, strict=True):
            zhat = b[None, :] + Dyadic(_zeros((len(x), 1)), 0)
            for source, weights in blocks.items():
                zhat = zhat + values[source] @ weights.T
            hidden.append(zhat)
            values.append(zhat.relu())
        return hidden


@dataclass(frozen=True, eq=False)
class Spy(LinearOperator):
    """An operator that remembers what its transpose was last applied to: the nu that a walk has used."""

    inner: LinearOperator
    seen: list[np.ndarray]

    @property
    def in_size(self) -> int:
        return self.inner.in_size

    @property
    def out_size(self) -> int:
        return self.inner.out_size

    def apply(self, x: Array) -> Array:
        return self.inner.apply(x)

    def transpose_apply(self, y: Array) -> Array:
        self.seen[:] = [np.array(y)]
        return self.inner.transpose_apply(y)

    def transpose_part(self, y: Array, live: np.ndarray) -> Array:
        self.seen[:] = [np.array(y)]
        return self.inner.transpose_part(y, live)

    def magnitude(self) -> LinearOperator:
        return self.inner.magnitude()

    def map_arrays(self, convert: ArrayMap) -> LinearOperator:
        return Spy(self.inner.map_arrays(convert), self.seen)

    def scaled_integer(self) -> tuple[LinearOperator, int]:
        return self.inner.scaled_integer()

    def description(self) -> tuple[object, ...]:
        return self.inner.description()

    def underflow_reach(self, sizes: Array) -> float:
        return self.inner.underflow_reach(sizes)

    def underflow_gain(self, like: Array) -> Array:
        return self.inner.underflow_gain(like)

    @property
    def roundings(self) -> int:
        return self.inner.roundings

    @property
    def work(self) -> int:
        return self.inner.work


def spied(problem: DualProblem) -> DualProblem:
    """The problem with operators that remember nu."""
    layers = tuple(
        replace(layer, blocks=tuple((source, Spy(op, [])) for source, op in layer.blocks)) for layer in problem.layers
    )
    return replace(problem, layers=layers)


def used_nu(problem: DualProblem, k: int, rows: np.ndarray) -> list[np.ndarray]:
    """The nu of layers 1..k that the last walk over a spied problem has used; zero where it passed none."""
    lead = np.broadcast_shapes(rows.shape[:-1], (*_batch(problem), rows.shape[-2]))
    nu = []
    for layer in problem.layers[: k - 1]:
        seen = [op.seen[0] for _, op in layer.blocks if isinstance(op, Spy) and op.seen]
        nu.append(np.broadcast_to(seen[0] if seen else np.zeros(layer.size), (*lead, layer.size)))
    return [*nu, np.broadcast_to(rows, (*lead, rows.shape[-1]))]


def _batch(problem: DualProblem) -> tuple[int, ...]:
    shapes = [problem.region.lower.shape[:-1], *(l.shape[:-1] for l in problem.lower)]
    return max(shapes, key=len)


def lifted(
    layers: ExactLayers, k: int, rows: np.ndarray, lower: Sequence[np.ndarray], upper: Sequence[np.ndarray],
    unstable: Sequence[np.ndarray],
) -> list[Dyadic]:  # fmt: skip
    """nu of layers 1..k: the rows, the given nu on unstable neurons, lambda itself on active ones, 0 on the others.

    Args:
        unstable: Per layer, shape (m, number of unstable neurons).
    """
    nu: list[Dyadic] = [Dyadic.of(rows)]
    for j in range(k - 1, 0, -1):
        lam = _lam(layers, j, k, nu)
        free = (lower[j - 1] < 0) & (upper[j - 1] > 0)
        given = np.zeros((len(rows), len(free)))
        given[:, free] = unstable[j - 1]
        kept = Dyadic.of((lower[j - 1] >= 0).astype(np.float64))
        nu.insert(0, Dyadic.of(given) + lam * kept[None, :])
    return nu


def _lam(layers: ExactLayers, j: int, k: int, nu: Sequence[Dyadic]) -> Dyadic:
    """lambda_j from the nu of the layers above it; nu ends with that of layer k."""
    size = next((blocks[j].shape[1] for blocks in layers.blocks[:k] if j in blocks), 0)
    lam = Dyadic(_zeros((nu[-1].shape[0], size or (layers.biases[j - 1].shape[0] if j else 0))), 0)
    for i in range(j + 1, k + 1):
        if j in layers.blocks[i - 1]:
            lam = lam + nu[i - 1 - k] @ layers.blocks[i - 1][j]
    return lam


@dataclass(frozen=True, eq=False)
class DualValue:
    """g without the region's part, (m,), and lambda_0, (m, n): the formula, exactly."""

    rest: Dyadic
    lam: Dyadic

    def at_least(self, value: np.ndarray, region: Region) -> np.ndarray:
        """Whether value <= g, per row; -infinity is."""
        finite = np.isfinite(value)
        assert not np.isnan(value).any() and not (value == np.inf).any()
        claimed = Dyadic.of(np.where(finite, value, 0.0)) - self.rest
        return ~finite | below_minimum(claimed, self.lam, region)

    def exactly(self, region: Region) -> Dyadic:
        """g over a region whose minimum is dyadic: boxes and L1 balls."""
        return self.rest + minimum(self.lam, region)


def dual_value(
    layers: ExactLayers, k: int, nu: Sequence[Dyadic], lower: Sequence[np.ndarray], upper: Sequence[np.ndarray],
    n_inputs: int, slack: Sequence[Dyadic] = (), kappa: Sequence[Kappa] = (), region: Region | None = None,
) -> DualValue:  # fmt: skip
    """g of rows over layer k, one region and one set of bounds.

    sum_k nu_k.b_k + sum_j min over v of (lambda_j relu(v) - nu_j v) - sum_k |nu_k|.e_k, with the terms of kappa's
    neurons in place of theirs.

    Args:
        nu: Of layers 1..k, (m, n_j); zero on the neurons that kappa serves.
        lower, upper: Bounds of layers 1..k-1.
        slack: e of layers 1..k.
        kappa: Its neurons are positions among the unstable ones.
        region: Needed with kappa only.
    """
    served = {part.layer: part for part in kappa}
    rest = Dyadic(_zeros((nu[-1].shape[0],)), 0)
    extra: dict[int, Dyadic] = {}
    for j in range(k, 0, -1):
        rest = rest + nu[j - 1] @ layers.biases[j - 1]
        if slack:
            rest = rest - abs(nu[j - 1]) @ slack[j - 1]
        if j == k:
            continue
        lam = _lam(layers, j, k, nu)
        if j in extra:
            lam = lam + extra[j]
        l, u = Dyadic.of(lower[j - 1]), Dyadic.of(upper[j - 1])
        corners = [lam * v.relu()[None, :] - nu[j - 1] * v[None, :] for v in (l, u)]
        terms = corners[0].least(corners[1])
        free = (lower[j - 1] < 0) & (upper[j - 1] > 0)
        terms = Dyadic(
            np.where(free[None, :], terms.least(ZERO).integers, terms.raised(terms.exponent)), terms.exponent
        )
        if j in served:
            index = np.flatnonzero(free)[served[j].neurons]
            terms.integers[:, index] = 0
            assert region is not None
            e = slack[j - 1][index] if slack else ZERO
            rest = rest + _kappa_terms(layers, served[j], lam, index, lower, upper, region, e, extra)
        rest = rest + terms.total()
    lam = _lam(layers, 0, k, nu) if any(0 in blocks for blocks in layers.blocks[:k]) else None
    lam = Dyadic(_zeros((nu[-1].shape[0], n_inputs)), 0) if lam is None else lam
    return DualValue(rest, lam + extra[0] if 0 in extra else lam)


def _kappa_terms(
    layers: ExactLayers, part: Kappa, lam: Dyadic, index: np.ndarray, lower: Sequence[np.ndarray],
    upper: Sequence[np.ndarray], region: Region, e: Dyadic, extra: dict[int, Dyadic],
) -> Dyadic:  # fmt: skip
    """The neurons' terms, and kappa added to `extra`, lambda of what they read."""
    j, m = part.layer, lam.shape[0]
    lows = [region.lower, *(np.maximum(l, 0.0) for l in lower[: j - 1])]
    highs = [region.upper, *(np.maximum(u, 0.0) for u in upper[: j - 1])]
    place = [(source, i) for source, low in enumerate(lows) for i in range(len(low))]
    for source, low in enumerate(lows):
        extra.setdefault(source, Dyadic(_zeros((m, len(low))), 0))
    values = Dyadic.of(np.broadcast_to(part.values, (m, *part.inputs.shape)))
    total = Dyadic(_zeros((m,)), 0)
    for q, neuron in enumerate(index):
        mine = lam[:, neuron]
        off, on = Dyadic(_zeros((m,)), 0), mine * layers.biases[j - 1][neuron]
        for r, column in enumerate(part.inputs[q]):
            if column < 0:
                continue
            source, i = place[column]
            L, U = Dyadic.of(lows[source][i]), Dyadic.of(highs[source][i])
            kappa = values[:, q, r]
            block = layers.blocks[j - 1].get(source)
            gain = -kappa if block is None else mine * block[neuron, i] - kappa
            off, on = off + (-kappa * L).least(-kappa * U), on + (gain * L).least(gain * U)
            one = np.zeros(len(lows[source]))
            one[i] = 1.0
            extra[source] = extra[source] + kappa[:, None] * Dyadic.of(one)[None, :]
        positive = ~(mine <= ZERO)
        high, low = off.most(on), off.least(on)
        better = Dyadic(np.where(positive, high.integers, low.integers), high.exponent)
        total = total + better - abs(mine) * (e[q] if e.shape else e)
    return total


def minimum(lam: Dyadic, region: Region) -> Dyadic:
    """min lam.x over a box or an L1 ball, clipped or not, exactly; lam (m, n) -> (m,)."""
    if isinstance(region, L1Ball):
        return (Dyadic.of(region.center)[None, :] * lam).total() + _l1(lam, region)
    low, high = _sides(region)
    return (lam * low[None, :]).least(lam * high[None, :]).total()


def _sides(region: Region) -> tuple[Dyadic, Dyadic]:
    if isinstance(region, LinfBall):
        center, eps = Dyadic.of(region.center), Dyadic.of(region.eps)
        low, high = center - eps, center + eps
        if region.clip is not None:
            low, high = low.most(Dyadic.of(region.clip[0])), high.least(Dyadic.of(region.clip[1]))
        return low, high
    assert isinstance(region, Box)
    return Dyadic.of(region.lower), Dyadic.of(region.upper)


def _l1(lam: Dyadic, region: L1Ball) -> Dyadic:
    """min lam.s over |s|_1 <= eps within the clip: the budget goes where the clip forces it, then to large |lam|."""
    center, eps = Dyadic.of(region.center).fractions(), Fraction(region.eps)
    n = len(center)
    clip = region.clip or (np.full(n, -np.inf), np.full(n, np.inf))
    room = [(Fraction(a) - c if a > -np.inf else -eps, Fraction(b) - c if b < np.inf else eps)
            for a, b, c in zip(*(side.tolist() for side in clip), center, strict=True)]  # fmt: skip
    rows = []
    for row in lam.integers:
        step = [min(max(Fraction(0), a), b) for a, b in room]
        budget = eps - sum(map(abs, step))
        for i in sorted(range(n), key=lambda i: -abs(row[i])):
            goal = room[i][0] if row[i] > 0 else room[i][1]
            move = goal - step[i]
            if not row[i] or abs(goal) <= abs(step[i]):
                step[i] = goal if row[i] else step[i]  # towards the centre: the clip forced it, so it cannot
                continue
            move = max(min(move, budget), -budget)
            step[i], budget = step[i] + move, budget - abs(move)
        rows.append(sum((int(v) * s for v, s in zip(row, step, strict=True)), Fraction(0)))
    exponent = max((f.denominator.bit_length() - 1 for f in rows), default=0)
    integers = _zeros((len(rows),))
    integers[:] = [int(f * (1 << exponent)) for f in rows]
    return Dyadic(integers, exponent + lam.exponent)


def below_minimum(value: Dyadic, lam: Dyadic, region: Region) -> np.ndarray:
    """Whether value <= min lam.x over the region, per row.

    Exact for boxes and for L1 and L2 balls; over a clipped L2 ball, or with cuts, the least lam.x of points that lie
    in the region stands for the minimum, which can only be lower.
    """
    if region.cuts.n_rows or (isinstance(region, L2Ball) and region.clip is not None):
        points = region.project(region.minimiser(lam.floats()))
        inside = np.array([region.contains(x) for x in points])
        return ~inside | (value <= (Dyadic.of(points) * lam).total())
    if isinstance(region, L2Ball):
        gap = value - (Dyadic.of(region.center)[None, :] * lam).total()  # <= -eps |lam|?
        eps = Dyadic.of(region.eps)
        return (gap <= ZERO) & (eps * eps * (lam * lam).total() <= gap * gap)
    return value <= minimum(lam, region)


def member(region: Region | BoxBatch, index: int) -> Region:
    """One region of a batch, or the region itself."""
    if not isinstance(region, BoxBatch):
        return region
    one = region[index]
    assert isinstance(one, Box)
    return one

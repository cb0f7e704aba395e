"""The least slack of a small ReLU network over a box, in exact rationals: the truth for verdicts and proofs.

Nothing of the package is used. For every activation pattern that some input of the box has, a linear program in
rationals minimises t subject to C y(x) - d <= t; the multipliers of its optimum, or of its contradiction where no input
has the pattern, are the multipliers that a proof's leaf needs (docs/proofs.md).

Source:
    Edmonds 1967, on pivots that keep integers; Bland 1977, on rules that end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

Form = tuple[list[Fraction], Fraction]  # coefficients a and constant b of a.x + b
Block = tuple[int, list[list[Fraction]]]  # source (0 the input, k the k-th hidden layer) and matrix
Layer = tuple[list[Block], list[Fraction]]  # blocks and bias


@dataclass(frozen=True)
class Optimum:
    """How a linear program ended.

    Attributes:
        value: Least t; None where no x satisfies the constraints.
        x: A point that attains it.
        multipliers: Of the constraints, none negative: sum of multiplier times a row's left side minus its right side,
            plus t, is at least the value all over the box (of a contradiction: is above 0).
    """

    value: Fraction | None
    x: list[Fraction]
    multipliers: list[Fraction]


def least_t(rows: Sequence[Form], signs: Sequence[Form], lower: list[Fraction], upper: list[Fraction]) -> Optimum:
    """Minimise t subject to row(x) <= t for all rows, sign(x) <= 0 for all signs, lower <= x <= upper.

    The multipliers are those of the rows, then of the signs. Without rows it is only asked whether such an x exists,
    and the value is 0.
    """
    n = len(lower)
    # Below every t there is, so that t >= bottom never binds and the rows' multipliers add up to 1.
    bottom = min((_least(row, lower, upper) for row in rows), default=Fraction(0)) - 1
    # x = lower + v and t = bottom + v_n with all v >= 0: costs are not negative, so the dual simplex starts at once.
    table = []
    for number, (a, b) in enumerate([*rows, *signs]):
        is_row = number < len(rows)
        right = -b - sum((c * l for c, l in zip(a, lower, strict=True)), Fraction(0)) + bottom * is_row
        table.append([*a, Fraction(-int(is_row)), right])
    table += [
        [*(Fraction(int(i == k)) for k in range(n)), Fraction(0), upper[i] - lower[i]]
        for i in range(n)
    ]  # fmt: skip
    table.append([Fraction(0)] * n + [Fraction(1), Fraction(0)])
    simplex = _Simplex(table)
    feasible = simplex.solve()
    multipliers = simplex.multipliers()[: len(rows) + len(signs)]
    if not feasible:
        return Optimum(None, [], multipliers)
    v = simplex.point()
    x = [l + step for l, step in zip(lower, v, strict=False)]
    return Optimum(bottom + v[n] if rows else Fraction(0), x, multipliers)


def _least(form: Form, lower: Sequence[Fraction], upper: Sequence[Fraction]) -> Fraction:
    a, b = form
    return b + sum((c * (l if c > 0 else u) for c, l, u in zip(a, lower, upper, strict=True)), Fraction(0))


class _Simplex:
    """Dual simplex on integers with a common denominator: v_basic = right - A v_other, all v >= 0, costs >= 0.

    Args:
        table: The rows A | right, and last the costs | 0.
    """

    def __init__(self, table: list[list[Fraction]]) -> None:
        self.scale = [lcm(*(q.denominator for q in row)) for row in table]
        self.M = [[int(q * s) for q in row] for row, s in zip(table, self.scale, strict=True)]
        self.D, self.row = 1, -1
        self.n, self.m = len(table[0]) - 1, len(table) - 1
        self.other = list(range(self.n))  # variables of the columns, slacks counting from n
        self.basic = list(range(self.n, self.n + self.m))

    def solve(self) -> bool:
        """Whether there is an optimum; if not, `row` holds the contradiction."""
        while True:
            open_ = [(self.basic[i], i) for i in range(self.m) if self.M[i][-1] < 0]
            if not open_:
                return True
            self.row = min(open_)[1]
            entering = self._entering(self.M[self.row], self.M[-1])
            if entering is None:
                return False
            self._pivot(self.row, entering)
            self.row = -1

    def _entering(self, row: list[int], costs: list[int]) -> int | None:
        """The column of least cost / -entry, the first variable among equals."""
        best: int | None = None
        for j in range(self.n):
            if row[j] < 0:
                ahead = 1 if best is None else costs[best] * row[j] - costs[j] * row[best]  # > 0 where j is better
                if best is None or ahead < 0 or (ahead == 0 and self.other[j] < self.other[best]):
                    best = j
        return best

    def _pivot(self, r: int, s: int) -> None:
        M, D, pivot_row = self.M, self.D, self.M[r]
        p = pivot_row[s]
        for i, row in enumerate(M):
            if i != r:
                f = row[s]
                new = [(v * p - f * w) // D for v, w in zip(row, pivot_row, strict=True)] if f else [
                    v * p // D for v in row
                ]  # fmt: skip
                new[s] = -f
                M[i] = new
        pivot_row[s] = D
        self.D = p
        if p < 0:
            self.D, self.M = -p, [[-v for v in row] for row in M]
        self.basic[r], self.other[s] = self.other[s], self.basic[r]

    def point(self) -> list[Fraction]:
        """The variables that are no slacks."""
        v = [Fraction(0)] * self.n
        for i, variable in enumerate(self.basic):
            if variable < self.n:
                v[variable] = Fraction(self.M[i][-1], self.D)
        return v

    def multipliers(self) -> list[Fraction]:
        """Of the rows as they were given, at the optimum or in the contradiction."""
        found, line = [Fraction(0)] * self.m, self.M[self.row]
        for j, variable in enumerate(self.other):
            if variable >= self.n:
                found[variable - self.n] = Fraction(line[j], self.D)
        if self.row >= 0 and self.basic[self.row] >= self.n:
            found[self.basic[self.row] - self.n] += 1
        # Rows were made integers: a multiplier of the scaled row acts on the row by its scale.
        return [q * s for q, s in zip(found, self.scale, strict=False)]


@dataclass(frozen=True)
class Leaf:
    """One activation pattern of the neurons that are split.

    Attributes:
        value: The least slack over the inputs that have it; None where no input has it.
        x: Such an input.
        mu: Multipliers of the case's rows; zeros where no input has it.
        beta: Multipliers of the splits, one for each neuron that is split in the whole tree.
    """

    value: Fraction | None
    x: list[Fraction]
    mu: list[Fraction]
    beta: list[Fraction]


class PatternTree:
    """All activation patterns of a network over a box, with the least slack of each.

    A neuron is split into zhat >= 0 (first) and zhat <= 0, layer by layer; a pattern that no input has is split no
    further.

    Args:
        layers: Hidden layers, then the output.
        lower, upper: The box.
        C, d: The slack is max_i (C_i y - d_i).
        phases: For each hidden layer and neuron +1 or -1 where zhat is known to be >= 0 or <= 0, and 0 where it is to
            be split; what intervals say when None.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        lower: list[Fraction],
        upper: list[Fraction],
        C: Sequence[Sequence[Fraction]],
        d: Sequence[Fraction],
        phases: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self._layers, self._lower, self._upper, self._C, self._d = layers, lower, upper, C, d
        self.phases = [list(p) for p in phases] if phases is not None else interval_phases(layers, lower, upper)
        self.split: list[int] = []  # preorder: -1 at leaves, else the number of a neuron among those that are split
        self.leaves: list[Leaf] = []
        self._n_split = sum(p == 0 for layer in self.phases for p in layer)
        n = len(lower)
        inputs: list[Form] = [([Fraction(int(i == k)) for k in range(n)], Fraction(0)) for i in range(n)]
        self._grow([inputs], [], [], lower)

    @property
    def least(self) -> Leaf:
        """The leaf of the least slack."""
        return min((leaf for leaf in self.leaves if leaf.value is not None), key=lambda leaf: leaf.value or Fraction(0))

    def _grow(self, values: list[list[Form]], signs: list[Form], used: list[int], x: list[Fraction]) -> None:
        """The patterns below: `values` of finished layers, `signs` <= 0 of the neurons `used`, which x satisfies."""
        k = len(values) - 1
        if k == len(self._layers) - 1:
            self._finish(values, signs, used)
            return
        zhat = _affine(self._layers[k], values)
        self._split(values, zhat, [], signs, used, x)

    def _split(
        self,
        values: list[list[Form]],
        zhat: list[Form],
        z: list[Form],
        signs: list[Form],
        used: list[int],
        x: list[Fraction],
    ) -> None:
        """The neurons of one layer, one after the other; z are the values of those that have been decided."""
        k, zero = len(values) - 1, ([Fraction(0)] * len(self._lower), Fraction(0))
        while len(z) < len(zhat) and self.phases[k][len(z)]:
            z = [*z, zhat[len(z)] if self.phases[k][len(z)] > 0 else zero]
        if len(z) == len(zhat):
            self._grow([*values, z], signs, used, x)
            return
        j = len(z)
        number = sum(p == 0 for layer in self.phases[:k] for p in layer) + sum(p == 0 for p in self.phases[k][:j])
        self.split.append(number)
        a, b = zhat[j]
        for form, value in ((([-c for c in a], -b), zhat[j]), (zhat[j], zero)):
            more, numbers, point = [*signs, form], [*used, number], x
            if _at(form, x) > 0:
                found = least_t([], more, self._lower, self._upper)
                if found.value is None:
                    self._leaf(None, [], [Fraction(0)] * len(self._d), found.multipliers, numbers)
                    continue
                point = found.x
            self._split(values, zhat, [*z, value], more, numbers, point)

    def _finish(self, values: list[list[Form]], signs: list[Form], used: list[int]) -> None:
        y = _affine(self._layers[-1], values)
        rows = [_combined(row, y, -d) for row, d in zip(self._C, self._d, strict=True)]
        found = least_t(rows, signs, self._lower, self._upper)
        assert found.value is not None  # every pattern here has a point
        self._leaf(found.value, found.x, found.multipliers[: len(rows)], found.multipliers[len(rows) :], used)

    def _leaf(
        self, value: Fraction | None, x: list[Fraction], mu: list[Fraction], own: list[Fraction], used: list[int]
    ) -> None:
        beta = [Fraction(0)] * self._n_split
        for number, q in zip(used, own, strict=True):
            beta[number] = q
        self.split.append(-1)
        self.leaves.append(Leaf(value, x, mu, beta))


def least_slack(
    layers: Sequence[Layer],
    lower: list[Fraction],
    upper: list[Fraction],
    C: Sequence[Sequence[Fraction]],
    d: Sequence[Fraction],
) -> tuple[Fraction, list[Fraction]]:
    """min over the box of max_i (C_i y - d_i), exact, and an input that attains it."""
    leaf = PatternTree(layers, lower, upper, C, d).least
    assert leaf.value is not None
    return leaf.value, leaf.x


def forward(layers: Sequence[Layer], x: Sequence[Fraction]) -> list[Fraction]:
    """y at x, exact."""
    values = [[([], q) for q in x]]
    for layer in layers[:-1]:
        values.append([([], max(b, Fraction(0))) for _, b in _affine(layer, values)])
    return [b for _, b in _affine(layers[-1], values)]


def interval_phases(layers: Sequence[Layer], lower: list[Fraction], upper: list[Fraction]) -> list[list[int]]:
    """For each hidden neuron +1 or -1 where interval arithmetic fixes its sign, else 0."""
    bounds, phases = [list(zip(lower, upper, strict=True))], []
    for blocks, bias in layers[:-1]:
        found = []
        for i, b in enumerate(bias):
            ends = [(w * l, w * u) for s, W in blocks for w, (l, u) in zip(W[i], bounds[s], strict=True)]
            found.append((b + sum(map(min, ends)), b + sum(map(max, ends))))
        phases.append([1 if low >= 0 else -1 if high <= 0 else 0 for low, high in found])
        bounds.append([(max(low, Fraction(0)), max(high, Fraction(0))) for low, high in found])
    return phases


def _affine(layer: Layer, values: Sequence[Sequence[Form]]) -> list[Form]:
    blocks, bias = layer
    found = []
    for i, b in enumerate(bias):
        form: Form = ([Fraction(0)] * len(values[0][0][0]), b)
        for source, W in blocks:
            form = _combined(W[i], values[source], Fraction(0), form)
        found.append(form)
    return found


def _combined(row: Sequence[Fraction], forms: Sequence[Form], shift: Fraction, start: Form | None = None) -> Form:
    """sum row_j forms_j + shift + start."""
    a, b = start or ([Fraction(0)] * len(forms[0][0]), Fraction(0))
    a, b = list(a), b + shift
    for w, (c, e) in zip(row, forms, strict=True):
        if w:
            a = [p + w * q for p, q in zip(a, c, strict=True)]
            b += w * e
    return a, b


def _at(form: Form, x: Sequence[Fraction]) -> Fraction:
    a, b = form
    return b + sum((c * v for c, v in zip(a, x, strict=True)), Fraction(0))

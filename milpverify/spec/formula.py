"""Formulas over inputs and outputs, and their disjunctive normal form as cases of a property.

A clause of the normal form is a box (every X_i between constants), orders X_a <= X_b, and output rows
y_p - y_q <= d. Clauses of the same inputs share one region object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import NamedTuple

import numpy as np

from milpverify.spec.box import Box
from milpverify.spec.property import Case, Polyhedron
from milpverify.spec.region import Region

MAX_CLAUSES = 100_000


class InputBound(NamedTuple):
    """X_variable >= value, or <= value where `upper`; `token` is where it stands in the file."""

    variable: int
    upper: bool
    value: Fraction
    token: int


class InputOrder(NamedTuple):
    """X_small <= X_large."""

    small: int
    large: int


class OutputRow(NamedTuple):
    """y_plus - y_minus <= d; None leaves a term out."""

    plus: int | None
    minus: int | None
    d: Fraction


class And(NamedTuple):
    """All of the parts hold; without parts, true."""

    parts: tuple[Formula, ...]


class Or(NamedTuple):
    """At least one of the parts holds."""

    parts: tuple[Formula, ...]


Atom = InputBound | InputOrder | OutputRow
Formula = Atom | And | Or

Clause = tuple[Atom, ...]

Limit = tuple[Fraction, int]  # a bound and the token it comes from


# These three carry what the reader turns into a message with file and line; a user never meets them.


class TooManyClausesError(Exception):
    """The normal form would have more than MAX_CLAUSES clauses; carries their number."""


class EmptyError(Exception):
    """No input satisfies any clause; carries the variable and the two tokens that contradict each other."""


class UnboundedError(Exception):
    """An input has no lower or upper bound; carries its index and which."""


@dataclass
class _Limits:
    """Bounds of the inputs while they are gathered; at most `upper[i]`, at least `lower[i]`."""

    lower: dict[int, Limit]
    upper: dict[int, Limit]

    def add(self, variable: int, upper: bool, limit: Limit) -> bool:
        """Tighten one bound; whether that changed anything."""
        side = self.upper if upper else self.lower
        known = side.get(variable)
        if known is not None and (known[0] <= limit[0] if upper else known[0] >= limit[0]):
            return False
        side[variable] = limit
        return True

    def close(self, orders: Sequence[InputOrder]) -> None:
        """Carry bounds along X_small <= X_large until nothing changes: then lower <= upper decides emptiness exactly.

        With lower bounds closed, x = lower satisfies every order, so the set is empty iff some lower > upper. In a
        chain of n orders every round settles at least one more bound, hence n rounds at most.
        """
        changed = True
        while changed:
            changed = False
            for small, large in orders:
                if small in self.lower:
                    changed |= self.add(large, False, self.lower[small])
                if large in self.upper:
                    changed |= self.add(small, True, self.upper[large])

    def conflict(self) -> tuple[int, int, int] | None:
        """A variable with lower > upper and the tokens of both bounds."""
        for i, (low, where) in self.lower.items():
            high = self.upper.get(i)
            if high is not None and low > high[0]:
                return i, where, high[1]
        return None


def cases_of(formula: Iterable[Formula], n_inputs: int, n_outputs: int) -> tuple[Case, ...]:
    """The cases of a conjunction of formulas, in the order of the file; contradictory input boxes are dropped.

    Args:
        formula: Conjoined parts.
        n_inputs, n_outputs: Numbers of variables.

    Raises:
        TooManyClausesError: If there would be more than MAX_CLAUSES.
        EmptyError: If every clause's inputs contradict each other.
        UnboundedError: If a clause leaves an input unbounded.
    """
    common: list[Atom] = []
    choices: list[Or] = []
    for part in _conjuncts(And(tuple(formula))):
        if isinstance(part, Or):
            choices.append(part)
        else:
            common.append(part)
    number = _count(And(tuple(choices)))
    if number > MAX_CLAUSES:
        raise TooManyClausesError(number)
    regions = _Regions(common, n_inputs)
    common_rows = [atom for atom in common if isinstance(atom, OutputRow)]
    found: list[tuple[Region, Polyhedron]] = []
    first_conflict: tuple[int, int, int] | None = None
    for clause in _clauses(And(tuple(choices))):
        region = regions.of(clause)
        if isinstance(region, Region):
            rows = dict.fromkeys((*common_rows, *(atom for atom in clause if isinstance(atom, OutputRow))))
            found.append((region, _polyhedron(tuple(rows), n_outputs)))
        else:
            first_conflict = first_conflict or region
    if not found:
        raise EmptyError(first_conflict)
    names = [f"disjunct {i + 1}" for i in range(len(found))] if len(found) > 1 else [""]
    return tuple(Case(region, unsafe, name) for (region, unsafe), name in zip(found, names, strict=True))


class _Regions:
    """Boxes of clauses, made once per set of bounds that go beyond the common ones."""

    def __init__(self, common: list[Atom], n_inputs: int) -> None:
        self.n = n_inputs
        self.common = _Limits({}, {})
        for atom in common:
            if isinstance(atom, InputBound):
                self.common.add(atom.variable, atom.upper, (atom.value, atom.token))
        self.orders = tuple(dict.fromkeys(atom for atom in common if isinstance(atom, InputOrder)))
        self.known: dict[object, Region | tuple[int, int, int]] = {}

    def of(self, clause: Clause) -> Region | tuple[int, int, int]:
        """The region of common and clause atoms, or the conflict that makes it empty."""
        limits, changed = self.common, {}
        for atom in clause:
            if isinstance(atom, InputBound):
                if limits is self.common:
                    limits = _Limits(dict(self.common.lower), dict(self.common.upper))
                if limits.add(atom.variable, atom.upper, (atom.value, atom.token)):
                    changed[atom.variable, atom.upper] = atom.value
        extra = tuple(a for a in clause if isinstance(a, InputOrder) and a not in self.orders)
        orders = tuple(dict.fromkeys((*self.orders, *extra)))
        key = frozenset(changed.items()), frozenset(orders)
        if key not in self.known:
            self.known[key] = self._make(limits, orders)
        return self.known[key]

    def _make(self, limits: _Limits, orders: tuple[InputOrder, ...]) -> Region | tuple[int, int, int]:
        if orders:
            limits = _Limits(dict(limits.lower), dict(limits.upper))
            limits.close(orders)
        conflict = limits.conflict()
        if conflict is not None:
            return conflict
        for i in range(self.n):
            if i not in limits.lower or i not in limits.upper:
                raise UnboundedError((i, "lower" if i not in limits.lower else "upper"))
        box = Box.of_fractions(
            [limits.lower[i][0] for i in range(self.n)], [limits.upper[i][0] for i in range(self.n)]
        )
        if not orders:
            return box
        rows = np.zeros((len(orders), self.n))
        rows[np.arange(len(orders)), [order.small for order in orders]] = 1.0
        rows[np.arange(len(orders)), [order.large for order in orders]] = -1.0
        return box.with_cuts(rows, np.zeros(len(orders)))


def _conjuncts(formula: Formula) -> Iterator[Atom | Or]:
    """The parts of nested conjunctions; a disjunction of one part is that part."""
    if isinstance(formula, And) or (isinstance(formula, Or) and len(formula.parts) == 1):
        for part in formula.parts:
            yield from _conjuncts(part)
    else:
        yield formula


def _count(formula: Formula) -> int:
    """Number of clauses of the normal form."""
    if isinstance(formula, Or):
        return sum(_count(part) for part in formula.parts)
    number = 1
    if isinstance(formula, And):
        for part in formula.parts:
            number *= _count(part)
    return number


def _clauses(formula: Formula) -> Iterator[Clause]:
    """The clauses of the normal form, in the order of the text."""
    if isinstance(formula, Or):
        for part in formula.parts:
            yield from _clauses(part)
    elif isinstance(formula, And):
        for choice in product(*(list(_clauses(part)) for part in formula.parts)):
            yield tuple(atom for clause in choice for atom in clause)
    else:
        yield (formula,)


def _polyhedron(rows: tuple[OutputRow, ...], n_outputs: int) -> Polyhedron:
    C = np.zeros((len(rows), n_outputs))
    for i, row in enumerate(rows):
        if row.plus is not None:
            C[i, row.plus] = 1.0
        if row.minus is not None:
            C[i, row.minus] = -1.0
    return Polyhedron(C, np.zeros(len(rows)), tuple(row.d for row in rows))

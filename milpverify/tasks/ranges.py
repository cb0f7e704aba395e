"""What a region reaches: the exact range of every output, and every label that some input gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from milpverify.errors import PropertyError
from milpverify.network.graph import Network
from milpverify.proof.evidence import Bracket
from milpverify.spec.property import Case, Polyhedron
from milpverify.spec.regions import Region
from milpverify.tasks.margin import LeastSlack, Minimiser, is_reached, least_slack, nothing_known
from milpverify.tasks.prepare import Prepared, prepare
from milpverify.tasks.progress import Clock, OnProgress


@dataclass(frozen=True, eq=False)
class OutputRange:
    """The range of one output (or row) over a region.

    Attributes:
        name: "y3", or "row 2" where rows were given.
        minimum, maximum: Brackets of both ends, each with the witness that attains it.
    """

    name: str
    minimum: Bracket
    maximum: Bracket

    def to_dict(self) -> dict[str, Any]:
        """`name`, `minimum` and `maximum` (see `Bracket.to_dict`)."""
        return {"name": self.name, "minimum": self.minimum.to_dict(), "maximum": self.maximum.to_dict()}


@dataclass(frozen=True, eq=False)
class ReachableClass:
    """Whether some input of a region gets a label (ties count).

    Attributes:
        label: The class.
        slack: Bracket of min over the region of max_i (y_i - y_label): reached iff <= 0. Its witness is the input
            nearest to (or deepest in) the class.
        tolerance: A solver's lower bound proves "out of reach" only from here up, in units of y; see
            `MILP.needed`.
    """

    label: int
    slack: Bracket
    tolerance: float = 0.0

    @property
    def reachable(self) -> bool | None:
        """True with a witness, False if proven out of reach, None if open."""
        return is_reached(self.slack, self.tolerance)

    def to_dict(self) -> dict[str, Any]:
        """`label`, `reachable` (true, false or null) and `slack` (see `Bracket.to_dict`)."""
        return {"label": self.label, "reachable": self.reachable, "slack": self.slack.to_dict()}


def output_range(
    net: Network,
    region: Region,
    rows: np.ndarray | None = None,
    *,
    time_limit_s: float | None = None,
    method: Minimiser | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[OutputRange, ...]:
    """The exact minimum and maximum over a region of every output, or of rows . y.

    Args:
        net: The network.
        region: The inputs.
        rows: Shape (m, n_outputs); the identity when None.
        time_limit_s: Wall time for all of them together, shared evenly.
        method: `Minimiser()` when None.
        on_progress: Called as the work goes on.

    Returns:
        One range per row, in units of y.

    Raises:
        PropertyError: If the rows do not have n_outputs columns.
        RegionError: If the region does not fit the network.
    """
    clock = Clock("output_range", time_limit_s, on_progress)
    chosen = np.eye(net.n_outputs) if rows is None else np.atleast_2d(np.asarray(rows, dtype=np.float64))
    if chosen.shape[1] != net.n_outputs:
        raise PropertyError(
            f"output_range: rows have {chosen.shape[1]} columns, the network has {net.n_outputs} outputs."
        )
    names = [f"y{i}" if rows is None else f"row {i}" for i in range(len(chosen))]
    cases = [
        Case(region, Polyhedron(sign * row[None, :], np.zeros(1)), f"{word} {name}")
        for row, name in zip(chosen, names, strict=True)
        for sign, word in ((1.0, "min"), (-1.0, "max"))
    ]
    with clock.interrupt:
        found = [slack.bracket for slack in _each(net, cases, clock, method)]
    return tuple(OutputRange(name, found[2 * i], _negated(found[2 * i + 1])) for i, name in enumerate(names))


def reachable_classes(
    net: Network,
    region: Region,
    *,
    time_limit_s: float | None = None,
    method: Minimiser | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[ReachableClass, ...]:
    """Every label with its exact worst margin: which classes some input of the region gets, ties included.

    Args:
        net: A classifier: the label is the largest output.
        region, time_limit_s, method, on_progress: As in `output_range`.

    Returns:
        One entry per output.

    Raises:
        PropertyError: If the network has a single output.
        RegionError: If the region does not fit the network.
    """
    clock = Clock("reachable_classes", time_limit_s, on_progress)
    if net.n_outputs < 2:
        raise PropertyError("reachable_classes: a network with one output has no classes. Use output_range.")
    cases = []
    for label in range(net.n_outputs):
        rows = np.delete(np.eye(net.n_outputs), label, axis=0)
        rows[:, label] = -1.0
        cases.append(Case(region, Polyhedron(rows, np.zeros(len(rows))), f"class {label}"))
    with clock.interrupt:
        found = _each(net, cases, clock, method)
    return tuple(ReachableClass(label, slack.bracket, slack.needed) for label, slack in enumerate(found))


def _each(net: Network, cases: Sequence[Case], clock: Clock, method: Minimiser | None) -> list[LeastSlack]:
    """The least slack of every case by itself, on one set of bounds."""
    method = method or Minimiser()
    clock.tell("bounds", cases[0].name)
    shared: Prepared | None = None
    with clock.interrupt.released():
        shared = prepare(net, cases, method.bounds)
    if shared is None:  # interrupted
        return [LeastSlack(nothing_known(net, clock)) for _ in cases]
    found = []
    for i, case in enumerate(cases):
        one = Prepared(net, (case,), shared.bounds, shared.lower[i : i + 1], shared.starts)
        left = None if clock.left == float("inf") else max(clock.left / (len(cases) - i), 1e-3)
        clock.tell("search", case.name, left=len(cases) - i)
        part = clock.part(left, partial(replace, left=len(cases) - i))
        found.append(least_slack([one], part, method))
    return found


def _negated(bracket: Bracket) -> Bracket:
    """The bracket of a maximum from that of the negated minimum."""
    return Bracket(
        -bracket.upper, -bracket.lower, bracket.upper_grade, bracket.lower_grade, bracket.unit, bracket.witness,
        bracket.timed_out, bracket.seconds, bracket.approximations, bracket.interrupted,
    )  # fmt: skip

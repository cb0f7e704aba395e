"""Rungs of a ladder: what bound methods proved about one region, side by side, and the table that says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from milpverify.errors import BoundsError
from milpverify.proof.evidence import Bracket

# A solver's numbers hold within a tolerance of 1e-5, times the largest bound of a neuron where that exceeds 1.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Rung:
    """What one method proved.

    Attributes:
        method: Its name.
        lower: Per case a lower bound of its least slack, in units of y.
        unstable: Neurons of each hidden layer that its hidden bounds leave unstable.
        hidden: The method whose hidden bounds it stands on: its own name, or that of another one.
        seconds_hidden: What those took, paid anew or inherited.
        seconds_rows: What the cases took on top.
        solver_trusted: Whether `lower` rests on a solver's word, within its tolerances; else it is rounded outward.
        needed: Per case what `lower` must reach to prove it, besides being > 0: a solver calls a tie positive within
            its tolerances. Empty for no more than that.

    Raises:
        BoundsError: If there is no case, a bound is NaN, or `needed` is about other cases.
    """

    method: str
    lower: tuple[float, ...]
    unstable: tuple[int, ...]
    hidden: str
    seconds_hidden: float
    seconds_rows: float
    solver_trusted: bool = False
    needed: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.lower or any(math.isnan(value) for value in self.lower):
            raise BoundsError(f"Rung {self.method}: expected one bound per case and no NaN, got {self.lower}.")
        if len(self.needed or self.lower) != len(self.lower):
            raise BoundsError(f"Rung {self.method}: {len(self.needed)} thresholds for {len(self.lower)} cases.")

    @property
    def least(self) -> float:
        """The least of `lower`: a lower bound of the worst margin."""
        return min(self.lower)

    @property
    def proved(self) -> int:
        """How many cases it proves."""
        needed = self.needed or (0.0,) * len(self.lower)
        return sum(value > 0 and value >= least for value, least in zip(self.lower, needed, strict=True))

    @property
    def seconds(self) -> float:
        """Hidden bounds and cases together."""
        return self.seconds_hidden + self.seconds_rows


@dataclass(frozen=True, eq=False)
class Ladder:
    """Bound methods side by side on one region; `str()` is the table.

    Attributes:
        cases: Names of the property's cases.
        rungs: One per method, in the order asked.
        exact: Per case a bracket of its least slack, whose upper side an input attains in exact arithmetic. Empty where
            no exact method was asked. Gaps are measured to that upper side: never too small.

    Raises:
        BoundsError: If the numbers of cases disagree.
    """

    cases: tuple[str, ...]
    rungs: tuple[Rung, ...]
    exact: tuple[Bracket, ...] = ()

    def __post_init__(self) -> None:
        counts = {len(self.cases), *(len(rung.lower) for rung in self.rungs), len(self.exact or self.cases)}
        if len(counts) > 1:
            raise BoundsError(f"Ladder: rungs about {sorted(counts)} cases. Every rung bounds every case.")

    @property
    def least(self) -> tuple[float, float] | None:
        """The least slack of all cases as [lower, upper]; None without an exact method."""
        if not self.exact:
            return None
        return min(bracket.lower for bracket in self.exact), min(bracket.upper for bracket in self.exact)

    @property
    def closed(self) -> bool:
        """Whether no case that could be the worst has its exact value still open."""
        if self.least is None:
            return True
        lower, upper = self.least
        return upper - lower <= TOLERANCE * max(1.0, abs(upper))

    @property
    def reference(self) -> Rung | None:
        """Whose gap counts as 100 percent: crown's, else interval's; None where neither is there or has a gap."""
        found = {rung.method: rung for rung in self.rungs}
        for name in ("crown", "interval"):
            if name in found:
                gap = self.gap(found[name])
                return found[name] if gap is not None and gap > TOLERANCE else None
        return None

    def gap(self, rung: Rung) -> float | None:
        """The exact least slack minus the rung's; None where one of them is not known."""
        return None if self.least is None else _difference(self.least[1], rung.least)

    def percent(self, rung: Rung) -> float | None:
        """The rung's gap in percent of that of `reference`."""
        gap, whole = self.gap(rung), None if self.reference is None else self.gap(self.reference)
        return None if gap is None or not whole else 100.0 * gap / whole

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; numbers that are not known are null."""
        exact = None
        if self.exact:
            kept = ("lower", "upper", "lower_grade", "upper_grade", "timed_out", "seconds")
            found = [bracket.to_dict() for bracket in self.exact]
            exact = [{"case": n, **{key: b[key] for key in kept}} for n, b in zip(self.cases, found, strict=True)]
        return {
            "methods": [self._rung_dict(rung) for rung in self.rungs],
            "exact": exact,
            "percent_of": None if self.reference is None else self.reference.method,
        }

    def _rung_dict(self, rung: Rung) -> dict[str, Any]:
        uppers = [b.upper for b in self.exact] or [math.inf] * len(self.cases)
        return {
            "method": rung.method,
            "least": _finite(rung.least),
            "proved": rung.proved,
            "gap": self.gap(rung),
            "percent": self.percent(rung),
            "lower": [
                {"case": n, "lower": _finite(value), "gap": _difference(upper, value)}
                for n, value, upper in zip(self.cases, rung.lower, uppers, strict=True)
            ],
            "unstable": list(rung.unstable),
            "hidden": rung.hidden,
            "solver_trusted": rung.solver_trusted,
            "seconds": rung.seconds,
            "seconds_hidden": rung.seconds_hidden,
            "seconds_rows": rung.seconds_rows,
        }

    def table(self) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        """Headings and one row per method, as text: all columns but the first are numbers."""
        gaps = (
            () if not self.exact else ("gap",) if self.reference is None else ("gap", f"% of {self.reference.method}")
        )
        rows = []
        for rung in self.rungs:
            told = (_text(self.gap(rung), ".4g"), _text(self.percent(rung), ".1f"))[: len(gaps)]
            unstable = "+".join(map(str, rung.unstable)) or "0"
            proved = f"{rung.proved} of {len(self.cases)}"
            rows.append((rung.method, _text(rung.least), *told, proved, unstable, f"{rung.seconds:.3f}"))
        return ("method", "least bound", *gaps, "proved", "unstable per layer", "s"), tuple(rows)

    def case_table(self) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        """Headings and one row per case with every method's bound, as text."""
        rows = []
        for i, name in enumerate(self.cases):
            exact = [_interval(self.exact[i].lower, self.exact[i].upper)] if self.exact else []
            rows.append((name, *(_text(rung.lower[i]) for rung in self.rungs), *exact))
        return ("case", *(rung.method for rung in self.rungs), *(["exact"] if self.exact else [])), tuple(rows)

    def notes(self) -> tuple[str, ...]:
        """Sentences that belong below the table."""
        said = []
        if self.least is not None:
            late = sum(bracket.timed_out for bracket in self.exact)
            told = f" (time ran out on {late} of {len(self.cases)} cases)" if late else ""
            said.append(f"exact least slack: {_interval(*self.least)}{told}")
            if not self.closed:
                said.append("it is not closed: every gap is at most the one shown")
        borrowed: dict[str, list[str]] = {}
        for rung in self.rungs:
            if rung.hidden != rung.method:
                borrowed.setdefault(rung.hidden, []).append(rung.method)
        said += [f"hidden bounds of {source} under {', '.join(names)}" for source, names in borrowed.items()]
        trusted = [rung.method for rung in self.rungs if rung.solver_trusted]
        if trusted:
            said.append(f"on a solver's word, within its tolerances: {', '.join(trusted)}")
        return tuple(said)

    def __str__(self) -> str:
        return "\n".join([*aligned(*self.table()), *self.notes()])


def aligned(header: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> list[str]:
    """The lines of a table whose columns but the first are numbers, and so end at the same place."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for first, *rest in (header, *rows):
        numbers = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *numbers]))
    return lines


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _difference(upper: float, lower: float) -> float | None:
    return _finite(upper - lower) if math.isfinite(upper) else None


def _text(value: float | None, form: str = ".6g") -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def _interval(lower: float, upper: float) -> str:
    low, high = f"{lower:.6g}", f"{upper:.6g}"
    return low if low == high else f"[{low}, {high}]"

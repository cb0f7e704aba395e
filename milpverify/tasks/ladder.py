"""The ladder of bounds: what every method proves about one region, what it costs, and how far it is from the truth."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from milpverify.bounds.backward import Crown, FastLin
from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.bounds.dual import DualBound
from milpverify.bounds.method import BoundMethod, Interval
from milpverify.errors import OptionError, PropertyError, SolverError
from milpverify.network.graph import Bounds, Network
from milpverify.proof.evidence import Bracket, Grade
from milpverify.search.question import trusted_allowance
from milpverify.spec.property import Case, Property
from milpverify.spec.regions import Region
from milpverify.tasks.prepare import Prepared, check_fit
from milpverify.tasks.progress import Clock, OnProgress
from milpverify.tasks.rungs import Ladder, Rung

if TYPE_CHECKING:  # the search brings a solver along, which most ladders never call
    from milpverify.tasks.margin import LeastSlack, Minimiser
    from milpverify.tighten.milp import MILPTightening

__all__ = ["Ladder", "Rung", "bound_ladder"]


def bound_ladder(
    net: Network,
    prop: Property,
    methods: Sequence[BoundMethod] | Mapping[str, BoundMethod] | None = None,
    *,
    same_bounds: bool | BoundMethod = False,
    tighten_hidden: bool = False,
    time_limit_s: float | None = None,
    device: str | None = None,
    on_progress: OnProgress | None = None,
) -> Ladder:
    """Bound the least slack max_i (C_i y - d_i) of every case of a property by several methods.

    A method bounds the hidden neurons, then every row C_i y; a case is as safe as its safest row. Rounded, or on a
    solver's word where `Rung.solver_trusted` says so.

    `MILPTightening` is different: to bound every hidden neuron by programs of its own takes minutes where the answer
    takes seconds. Its rung therefore stands on the hidden bounds of the earlier rung that leaves the fewest neurons
    unstable (`Crown` if it comes first), whose seconds it inherits, and solves one program per case for its least
    slack, with the method's solver, encoding, tolerance and gap; its own time limits are for neurons. The answers are
    brackets, `Ladder.exact`, against which all gaps are measured.

    Args:
        net: The network.
        prop: Its cases, all over one region, each with output constraints.
        methods: In the order of the table, perhaps with names of their own. When None: `Interval`, `FastLin`, `Crown`,
            `AlphaCrown`, `TriangleLP` and `MILPTightening`.
        same_bounds: Whether every method bounds the rows over the same hidden bounds, which compares relaxations and
            nothing else: True takes those of the first method, a method those of that one.
        tighten_hidden: Let `MILPTightening` bound the hidden neurons too.
        time_limit_s: Wall time at which the search for exact values stops, with the brackets reached. Bound methods are
            not interrupted.
        device: A torch device for the methods that can use one; numpy when None. Solvers always run on the host.
        on_progress: Called as the work goes on.

    Returns:
        One rung per method.

    Raises:
        PropertyError: If the property does not fit the network, has several regions, or a case without constraints.
        OptionError: If there is no method, two have the same name, or the device or time limit makes no sense.
        BoundsError: If a method cannot bound this region, or the region proves to be empty.
        SolverError: If a solver's bound exceeds what an input of the region attains by more than its tolerance.

    Source:
        Salman et al. 2019 (the convex barrier: same hidden bounds, one relaxation after the other); Tjeng, Xiao &
        Tedrake 2019, section 5 (tightening progressively; the exact margin).
    """
    task = _Task.of(net, prop, Clock("bound_ladder", time_limit_s, on_progress), device, tighten_hidden)
    named = _named(methods)
    shared = None if same_bounds is False else _shared(task, named, same_bounds)
    rungs: list[Rung] = []
    known: list[_Hidden] = []
    brackets: tuple[Bracket, ...] = ()
    for name, method in named.items():
        hidden = shared or task.hidden(name, method, known)
        known.append(hidden)
        if is_exact(method):
            rung, brackets = task.minimise(name, method, hidden, rungs)
        else:
            rung = task.bound(name, method, hidden)
        rungs.append(rung)
    ladder = Ladder(tuple(case.name for case in task.cases), tuple(rungs), brackets)
    _check_against_inputs(ladder, trusted_allowance(task.region, [hidden.bounds for hidden in known]))
    return ladder


def is_exact(method: BoundMethod) -> TypeGuard[MILPTightening]:
    """Whether a method solves for the exact value, given time."""
    tighten = sys.modules.get("milpverify.tighten.milp")  # it brings a solver along; not loaded, nobody has made one
    return tighten is not None and isinstance(method, tighten.MILPTightening)


@dataclass(frozen=True, eq=False)
class _Hidden:
    """Bounds of the hidden neurons, whose they are, and what they took."""

    name: str
    bounds: Bounds
    seconds: float


@dataclass(frozen=True, eq=False)
class _Task:
    """The question in the form that every rung needs: all rows of all cases, stacked."""

    net: Network
    region: Region
    cases: tuple[Case, ...]
    clock: Clock
    device: str | None
    tighten_hidden: bool

    @classmethod
    def of(cls, net: Network, prop: Property, clock: Clock, device: str | None, tighten_hidden: bool) -> _Task:
        check_fit("bound_ladder", net, prop)
        groups = prop.groups()
        if len(groups) > 1:
            raise PropertyError(
                f"bound_ladder: the property has {len(groups)} input regions. Ask about one at a time: "
                "[Property(cases, prop.n_inputs, prop.n_outputs) for cases in prop.groups()]."
            )
        for case in groups[0]:
            if not len(case.unsafe.d):
                raise PropertyError(
                    f"bound_ladder: case {case.name!r} of the property has no output constraint, so there is nothing "
                    "to bound. Leave it out."
                )
        return cls(net, groups[0][0].region, tuple(groups[0]), clock, device, tighten_hidden)

    def hidden(self, name: str, method: BoundMethod, known: Sequence[_Hidden] = ()) -> _Hidden:
        """The hidden bounds of a method; an exact one takes the best that are known."""
        if is_exact(method) and not self.tighten_hidden:
            if known:
                return min(reversed(known), key=lambda hidden: sum(hidden.bounds.n_unstable))
            name, method = Crown.name, Crown()
        self.clock.tell("hidden neurons", name)
        began = time.monotonic()
        bounds = compute_bounds(self.net, self.region, method, device=self._place(method))
        return _Hidden(name, bounds, time.monotonic() - began)

    def bound(self, name: str, method: BoundMethod, hidden: _Hidden) -> Rung:
        """The rung of a bound method."""
        self.clock.tell("rows", name, unstable=sum(hidden.bounds.n_unstable))
        began = time.monotonic()
        lower, found = self._lower(method, hidden)
        seconds = time.monotonic() - began
        trusted = found.solver_trusted or method.solver_trusted or hidden.bounds.solver_trusted
        needed = (trusted_allowance(self.region, [hidden.bounds]),) * len(lower) if trusted else ()
        return Rung(name, tuple(lower), hidden.bounds.n_unstable, hidden.name, hidden.seconds, seconds, trusted, needed)

    def minimise(
        self, name: str, method: MILPTightening, hidden: _Hidden, below: Sequence[Rung]
    ) -> tuple[Rung, tuple[Bracket, ...]]:
        """The rung of an exact method: every case's least slack by a program of its own, and their brackets.

        Args:
            name, method, hidden: As in `bound`.
            below: Earlier rungs; what they prove without a solver's word is not looked for again.
        """
        from milpverify.search.milp import MILP
        from milpverify.tasks.margin import Minimiser

        began = time.monotonic()
        search = MILP(method.encoding, method.solver, method.tolerance, method.gap)
        values, found = self._lower(Crown(), hidden)
        lower = np.max([values, *(rung.lower for rung in below if not rung.solver_trusted)], axis=0)
        starts = np.asarray(self.region.minimiser(found.input_lam))
        answers: dict[int, LeastSlack] = {}
        for i in np.argsort(lower, kind="stable").tolist():  # the worst case first: it is the least slack
            a, b = self._ends[i]
            one = Prepared(self.net, (self.cases[i],), hidden.bounds, lower[i : i + 1], starts[a:b])
            answers[i] = self._least(one, Minimiser(search=search), len(self.cases) - len(answers) - 1)
        brackets = tuple(answers[i].bracket for i in range(len(self.cases)))
        needed = tuple(answers[i].needed for i in range(len(self.cases)))
        trusted = any(bracket.lower_grade is Grade.SOLVER_TRUSTED for bracket in brackets)
        rung = Rung(
            name, tuple(bracket.lower for bracket in brackets), hidden.bounds.n_unstable, hidden.name, hidden.seconds,
            time.monotonic() - began, trusted, needed,
        )  # fmt: skip
        return rung, brackets

    def _least(self, prepared: Prepared, method: Minimiser, left: int) -> LeastSlack:
        """The least slack of one case, in half the time that is left; the last of them takes all of it."""
        from milpverify.tasks.margin import least_slack

        clock = self.clock
        limit = None if math.isinf(clock.left) else max(clock.left / (2 if left else 1), 1e-3)
        part = Clock("", limit, lambda p: clock.tell(p.stage, p.what, p.lower, p.upper, p.unstable, left))
        answer = least_slack([prepared], part, method)
        if not prepared.bounds.solver_trusted or answer.bracket.lower_grade is None:
            return answer
        hidden = trusted_allowance(self.region, [prepared.bounds])
        bracket = replace(answer.bracket, lower_grade=Grade.SOLVER_TRUSTED)
        return replace(answer, bracket=bracket, needed=max(answer.needed, hidden))

    @property
    def _ends(self) -> list[tuple[int, int]]:
        """Where the rows of each case begin and end."""
        return list(pairwise(np.cumsum([0, *(len(case.unsafe.d) for case in self.cases)]).tolist()))

    def _lower(self, method: BoundMethod, hidden: _Hidden) -> tuple[list[float], DualBound]:
        """Per case a lower bound of its least slack, and the rows' bounds behind it."""
        rows = np.concatenate([case.unsafe.C for case in self.cases])
        right = np.concatenate([case.unsafe.d for case in self.cases])
        found = bound_rows(self.net, self.region, hidden.bounds, rows, method, device=self._place(method))
        value = np.nextafter(found.value - right, -np.inf)
        return [float(value[a:b].max()) for a, b in self._ends], found

    def _place(self, method: BoundMethod) -> str | None:
        return None if method.solver_trusted else self.device


def _named(methods: Sequence[BoundMethod] | Mapping[str, BoundMethod] | None) -> dict[str, BoundMethod]:
    if methods is None:
        from milpverify.bounds.slopes import AlphaCrown
        from milpverify.tighten.lp import TriangleLP
        from milpverify.tighten.milp import MILPTightening

        methods = (Interval(), FastLin(), Crown(), AlphaCrown(), TriangleLP(), MILPTightening())
    if not isinstance(methods, Mapping | Sequence) or not methods:
        raise OptionError(f"bound_ladder: give at least one method, e.g. [Interval(), Crown()], got {methods!r}.")
    values = methods.values() if isinstance(methods, Mapping) else methods
    if not all(isinstance(method, BoundMethod) for method in values):
        raise OptionError(f"bound_ladder: expected bound methods such as [Interval(), Crown()], got {methods!r}.")
    if isinstance(methods, Mapping):
        return dict(methods)
    names = [method.name for method in methods]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionError(
            f"bound_ladder: two methods are called {twice!r}. Give them names: {{'{twice}, first': ..., ...}}."
        )
    return dict(zip(names, methods, strict=True))


def _shared(task: _Task, named: Mapping[str, BoundMethod], same_bounds: bool | BoundMethod) -> _Hidden:
    """The hidden bounds that all rungs stand on: those of the first method, or of the one given."""
    if same_bounds is True:
        return task.hidden(*next(iter(named.items())))
    if not isinstance(same_bounds, BoundMethod):
        raise OptionError(
            f"bound_ladder: same_bounds is a bound method such as Crown(), or a bool; got {same_bounds!r}."
        )
    if is_exact(same_bounds) and not task.tighten_hidden:
        raise OptionError(
            f"bound_ladder: {same_bounds.name} bounds no hidden neurons unless asked to. Add tighten_hidden=True "
            "(--milp-hidden), or name another method for the hidden bounds."
        )
    name = next((name for name, method in named.items() if method == same_bounds), same_bounds.name)
    return task.hidden(name, same_bounds)


def _check_against_inputs(ladder: Ladder, tolerance: float) -> None:
    """Every lower bound against what an input attains in exact arithmetic.

    Raises:
        SolverError: If a bound exceeds it by more than a solver's tolerance.
    """
    for rung in ladder.rungs:
        for name, value, bracket in zip(ladder.cases, rung.lower, ladder.exact, strict=bool(ladder.exact)):
            told = f"{rung.method} bounds {name} by {value!r}, but an input attains {bracket.upper!r} exactly"
            if not rung.solver_trusted:  # rounded outward: nothing excuses it
                assert value <= bracket.upper, told
            elif value > bracket.upper + tolerance:
                raise SolverError(f"bound_ladder: {told}: its solver's word is wrong here. Use a rounded method.")

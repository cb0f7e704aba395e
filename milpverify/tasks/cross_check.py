"""A second solver, asked about every case whose answer would rest on the first one's word alone.

It gets the program of the case with the encoding and the tolerance of the first one, over hidden bounds that rest on no
solver, and the time that is left. What it says is believed as far as the first one is (`search.milp.decide`): the case
is confirmed where its own lower bound clears `MILP.needed`. Where it ends with a lower bound that does not, or with a
point that exact replay confirms, the two disagree, and the case is not claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from milpverify.bounds.compute import compute_bounds
from milpverify.bounds.method import BoundMethod
from milpverify.errors import InputError, SolverError
from milpverify.network.graph import Bounds, Network
from milpverify.program.quorum import engine
from milpverify.program.solver import MipProgress, Solver
from milpverify.proof.disagreement import Disagreement, Opinion
from milpverify.proof.evidence import How, Witness
from milpverify.proof.replay import confirm
from milpverify.search.branch_and_bound import BranchAndBound
from milpverify.search.milp import MILP, MilpAnswer, case_program, decide
from milpverify.search.portfolio import Portfolio
from milpverify.search.question import Search
from milpverify.spec.property import Case
from milpverify.tasks.progress import Clock
from milpverify.tighten.progressive import Progressive

if TYPE_CHECKING:
    from milpverify.formulation.encode import Encoded

NOTHING = "nothing rested on a solver"
Found: TypeAlias = "str | Disagreement"  # why a claim is not confirmed, empty where it is


@dataclass(frozen=True, eq=False)
class Claim:
    """A case that holds on a solver's word.

    Attributes:
        case: The case.
        first: The solver; of the hidden bounds where `how` is not "milp".
        how: What closed it.
        lower: The lower bound of its least slack, in units of y.
        bounds: Of the hidden neurons over its region, resting on no solver; None where there are none yet.
    """

    case: Case
    first: Solver
    how: How
    lower: float
    bounds: Bounds | None


@dataclass(frozen=True, eq=False)
class Checked:
    """What the second solver made of some claims.

    Attributes:
        solver: In words, such as "CBC".
        failures: Why it did not confirm a claim, one for each of them; empty where it did.
        disagreement: The first one; the claims after it were not looked at.
    """

    solver: str
    failures: tuple[str, ...]
    disagreement: Disagreement | None = None

    @property
    def confirmed(self) -> bool:
        """Whether there was something to confirm, and all of it was."""
        return bool(self.failures) and not any(self.failures)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say about each claim."""
        return tuple(f"not confirmed: {why}" if why else f"confirmed by {self.solver}" for why in self.failures)

    def summary(self, claims: Sequence[Claim]) -> str:
        """One line about all of them."""
        n, failed = len(claims), [(c.case.name, why) for c, why in zip(claims, self.failures, strict=True) if why]
        if not n:
            return NOTHING
        if not failed:
            return f"confirmed by {self.solver}: {n} case{'s' if n > 1 else ''}"
        name, why = failed[0]
        about = f"{name}: " if name else ""
        return f"not finished: {self.solver} confirmed {n - len(failed)} of {n} cases; {about}{why}"


def programs_of(search: Search | None) -> MILP:
    """The options of the programs of a search."""
    if isinstance(search, Portfolio):
        return search.milp
    return search if isinstance(search, MILP) else MILP()


def asked(search: Search | None, bounds: BoundMethod | None) -> list[Solver]:
    """The solvers on whose word an answer may rest: that of the programs, and those of hidden bounds."""
    tree = search.tree if isinstance(search, Portfolio) else search
    methods = [bounds, tree.closer if isinstance(tree, BranchAndBound) else None]
    steps = [step for method in methods for step in (method.steps if isinstance(method, Progressive) else [method])]
    trusted = [getattr(step, "solver", None) for step in steps if step is not None and step.solver_trusted]
    return [programs_of(search).solver, *(solver for solver in trusted if isinstance(solver, Solver))]


def cross_check(net: Network, claims: Sequence[Claim], milp: MILP, second: Solver, clock: Clock) -> Checked:
    """Ask a second solver about claims, one after the other, until it disagrees or time is out.

    Args:
        net: The network.
        claims: Of the first solver.
        milp: Its options; its solver is the first one.
        second: Whose turn it is.
        clock: Ends the work, and is told where it stands.
    """
    failures: list[str] = []
    rigorous: dict[int, Bounds] = {}
    with clock.interrupt:
        for claim in claims:
            clock.tell("cross-check", claim.case.name, left=len(claims) - len(failures) - 1)
            found: Found = "time ran out before its turn"
            if not clock.out:
                with clock.interrupt.released():
                    found = _asked_again(net, claim, milp, second, clock, rigorous)
            if isinstance(found, Disagreement):
                return Checked(engine(second), tuple(failures), found)
            failures.append("interrupted" if found and clock.interrupt.pending else found)
    return Checked(engine(second), tuple(failures))


def _asked_again(
    net: Network, claim: Claim, milp: MILP, second: Solver, clock: Clock, rigorous: dict[int, Bounds]
) -> Found:
    """What the second solver makes of one claim; hidden bounds that had to be made anew are kept in `rigorous`."""
    from milpverify.formulation.property_program import stack_rows

    region = claim.case.region
    bounds = claim.bounds or rigorous.get(id(region))
    if bounds is None:
        bounds = rigorous[id(region)] = compute_bounds(net, region)
    search = replace(milp, solver=second)

    def listen(progress: MipProgress) -> bool:
        unstable = sum(bounds.n_unstable)
        clock.tell("cross-check", claim.case.name, progress.dual_bound, progress.primal_bound, unstable)
        return clock.interrupt.pending

    def replay(x: np.ndarray) -> Witness | None:
        return confirm(net, claim.case, x)

    try:
        encoded = case_program(stack_rows(net, bounds, (claim.case,)), region, 0, milp.encoding)
        answer = decide(encoded, region, replay, search, bounds=bounds, time_limit_s=clock.left, on_mip=listen)
    except (SolverError, InputError) as error:
        return f"{engine(second)} failed ({error})"
    if answer.holds:
        return ""
    if answer.witness is None and answer.timed_out:
        return f"{engine(second)} ran out of time"
    if answer.witness is None and not answer.finished:
        return f"{engine(second)} gave no answer ({answer.reason})"
    return _disagreement(claim, encoded, answer, second, search.needed(encoded, bounds))


def _disagreement(claim: Claim, encoded: Encoded, answer: MilpAnswer, second: Solver, needed: float) -> Disagreement:
    """Both answers in words, with what both were asked."""
    one, other, witness = engine(claim.first), engine(second), answer.witness
    through = "" if claim.how == "milp" else " through its bounds of the hidden neurons"
    says = f"{one} bounds the slack from below by {claim.lower:.6g}{through}"
    claimed = Opinion(one, says, claim.lower, encoded.program)
    says = f"{other} by {answer.lower:.6g}, where {needed:.6g} is needed"
    if witness is not None:
        says = f"{other} has an input with slack {witness.replay.slack_upper:.6g}, which exact replay confirms"
    program = encoded.program if answer.program is None else answer.program
    return Disagreement(claim.case.name, claimed, Opinion(other, says, answer.lower, program), witness)

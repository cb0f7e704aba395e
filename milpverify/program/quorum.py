"""Which solver can give a second opinion on another: HiGHS and CBC share no code, HiGHS through PuLP is HiGHS."""

from __future__ import annotations

from collections.abc import Sequence

from milpverify.errors import OptionError, SolverError
from milpverify.program.highs import Highs
from milpverify.program.program import ProgramBuilder
from milpverify.program.pulp_backend import Cbc, PulpHighs
from milpverify.program.solver import Solver


def engine(solver: Solver) -> str:
    """The code that solves in the end, in words: solvers of one engine have their bugs in common."""
    if isinstance(solver, Highs | PulpHighs):
        return "HiGHS"
    return "CBC" if isinstance(solver, Cbc) else type(solver).__name__


def second_to(asked: Sequence[Solver], wanted: Solver | None = None) -> Solver:
    """A solver of another engine than those asked already, ready to solve.

    Args:
        asked: At least one.
        wanted: Which one; None for CBC where HiGHS was asked, else HiGHS, with the threads of the first one asked.

    Raises:
        OptionError: If it is of an engine that was asked, or not installed.
    """
    threads = getattr(asked[0], "threads", 1)
    engines = {engine(solver) for solver in asked}
    found = wanted
    if found is None:
        found = Highs(threads=threads) if "CBC" in engines else Cbc(threads=threads)
    if engine(found) in engines:
        raise OptionError(
            f"cross_check: {engine(found)} is asked already, and cannot confirm itself. Pass another solver."
        )
    check_ready(found)
    return found


def check_ready(solver: Solver) -> None:
    """Let a solver solve a program of one column, so that one that is not installed is known before it is needed.

    Raises:
        OptionError: If it is not installed, or refuses its options.
    """
    builder = ProgramBuilder()
    builder.set_cost(builder.add_columns(["x"], 0.0, 1.0), 1.0)
    try:
        solver.solve(builder.build("ready"))
    except SolverError:  # it is there: whatever ails it is said where it matters
        return

"""Whose second opinion counts: solvers of another engine, known to be there before they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from milpverify.errors import OptionError
from milpverify.program.highs import Highs
from milpverify.program.program import Program
from milpverify.program.pulp_backend import Cbc, PulpHighs
from milpverify.program.quorum import engine, second_to
from milpverify.program.solver import NO_LIMITS, Limits, Solution, Solver


@dataclass(frozen=True)
class Own(Solver):
    """Somebody else's solver, which counts its calls."""

    asked: list[Program]

    def solve(self, program: Program, limits: Limits = NO_LIMITS) -> Solution:
        self.asked.append(program)
        return Highs().solve(program, limits)


def test_highs_is_one_engine_whoever_calls_it() -> None:
    names = [engine(solver) for solver in (Highs(), PulpHighs(), Cbc(), Own([]))]
    assert names == ["HiGHS", "HiGHS", "CBC", "Own"]


@pytest.mark.parametrize(
    ("asked", "second"),
    [
        ([Highs(threads=2)], Cbc(threads=2)),
        ([PulpHighs()], Cbc()),
        ([Cbc(threads=2)], Highs(threads=2)),
        ([Own([])], Cbc()),
        ([Own([]), Cbc()], Highs()),
    ],
)
def test_the_second_solver_is_of_another_engine(asked: list[Solver], second: Solver) -> None:
    assert second_to(asked) == second


@pytest.mark.parametrize(
    ("asked", "wanted"), [([Highs()], Highs(seed=7)), ([Highs()], PulpHighs()), ([Highs(), Cbc()], None)]
)
def test_nobody_confirms_himself(asked: list[Solver], wanted: Solver | None) -> None:
    with pytest.raises(OptionError, match=r"HiGHS is asked already.* Pass another solver"):
        second_to(asked, wanted)


def test_a_solver_that_is_not_there_is_known_at_once_and_one_that_fails_is_not_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no cbc binary"):
        second_to([Highs()], Cbc(path="/nowhere/cbc"))
    broken = tmp_path / "cbc"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    assert second_to([Highs()], Cbc(path=str(broken))) == Cbc(path=str(broken))
    asked: list[Program] = []
    assert second_to([Highs()], Own(asked)) == Own(asked) and len(asked) == 1

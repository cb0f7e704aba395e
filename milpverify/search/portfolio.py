"""The tree and the mixed-integer program in turns: each closes cases that the other finds hard."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np

from milpverify.attack.method import Attack
from milpverify.attack.pgd import Pgd
from milpverify.errors import OptionError
from milpverify.search.branch_and_bound import BranchAndBound
from milpverify.search.milp import MILP
from milpverify.search.question import Answer, CaseAnswer, Question, Search, answers_arrays, saved_answers

GROWTH = 2.0  # of a turn from one to the next
GRID_TURN_S = 2.0  # of the tree over phases before the first program, on a grid
LOOK_S = 5.0  # for violations between the points of a grid, at most
SHARE = 0.25  # of the time that the tree has had in its turn


@dataclass(frozen=True)
class Portfolio(Search):
    """Branch and bound first; where it takes long, a MILP solver has turns of its own: short ones, and each longer
    than the last.

    None where the tree relies on input boxes: those close what is far too large for a program.

    What the tree closes is proved by bounds; what only the solver closes is on its word.

    Attributes:
        tree: Branch and bound.
        milp: The programs.
        first_turn_s: Seconds of the tree before the first program.
        most_unstable: Programs with more binaries than this get no turn, only the last word.
        attack: On a grid, looks for violations between its points, which only programs and boxes can tell from its own.
    """

    tree: BranchAndBound = field(default_factory=BranchAndBound)
    milp: MILP = field(default_factory=MILP)
    first_turn_s: float = 30.0
    most_unstable: int = 300
    attack: Attack = field(default_factory=lambda: Pgd(steps=20, restarts=4, rounds=1))

    def __post_init__(self) -> None:
        if not self.first_turn_s > 0 or self.most_unstable < 0:
            raise OptionError("Portfolio: first_turn_s must be positive, and most_unstable not negative.")

    def run(self, question: Question) -> Answer:
        told, turn, share = _told_before(question), self.first_turn_s, SHARE
        question.record.keep("told", lambda: _told_arrays(told))
        if question.region.grid is not None and not self.tree.boxes_share(question):
            turn, share = min(turn, GRID_TURN_S), 1.0  # where real inputs are worse than grid points, only programs end
            self._between_points(question, told)
        steps, boxes = self.tree.stepwise(question), self.tree.boxes_share(question) > 1.0
        while True:
            ends = time.monotonic() + turn
            while time.monotonic() < ends:
                try:
                    next(steps)
                except StopIteration as end:
                    tree: Answer = end.value
                    self._last_word(question, tree, told)
                    return _merged(question, tree, told)
            if not boxes and sum(question.bounds.n_unstable) <= self.most_unstable:
                self._programs(question, told, share * turn)
            turn *= GROWTH

    def _between_points(self, question: Question, told: dict[int, CaseAnswer]) -> None:
        """The MILP first, and without an end, for cases that are violated between the points of a grid.

        Phases see real inputs only: their tree could never close such a case.
        """
        if question.gap is not None or question.answered:
            return
        lost = np.zeros(len(question.cases), dtype=bool)
        cases = [replace(case, region=question.region.relaxed) for case in question.cases]
        with question.interrupt.released():
            open_ = question.open
            found = self.attack.attack_all(
                question.net, [cases[i] for i in open_], start=question.starts, stop=-np.inf,
                time_limit_s=min(LOOK_S, SHARE * question.left_s),
            )  # fmt: skip
            lost[open_] = [result.found for result in found]
        if lost.any():
            self._programs(question, told, min(question.left_s, 1e9), leave=~lost)

    def _programs(
        self, question: Question, told: dict[int, CaseAnswer], turn: float, leave: np.ndarray | None = None
    ) -> None:
        """The MILP's turn: cases it answers are settled; it leaves some alone."""
        if question.answered:
            return
        part = _limited(question, turn)
        if leave is not None:
            part.settled |= leave
        answer = self.milp.run(part)
        question.best, question.best_x, question.best_case = part.best, part.best_x, part.best_case
        for i in question.open:
            case = answer.cases[i]
            if case.holds or (case.solver_trusted and question.closed(np.array([case.lower]))[0]):
                told[int(i)], question.settled[i] = case, True

    def _last_word(self, question: Question, tree: Answer, told: dict[int, CaseAnswer]) -> None:
        """Cases whose last nodes the tree could not prove are asked of the solver, and no others."""
        question.lower = np.maximum(question.lower, [case.lower for case in tree.cases])
        stuck = [case for i, case in enumerate(tree.cases) if case.reason and not case.timed_out and i not in told]
        if stuck and question.left_s > 0 and not question.decided:
            self._programs(question, told, min(question.left_s, 1e9))


def _told_before(question: Question) -> dict[int, CaseAnswer]:
    """What the solver told an earlier call: those cases are settled, and the saved tree has dropped them."""
    found = question.record.take("told")
    told = dict(zip(found["case"].tolist(), saved_answers(found), strict=True)) if found else {}
    question.settled[list(told)] = True
    return told


def _told_arrays(told: dict[int, CaseAnswer]) -> dict[str, np.ndarray]:
    return {"case": np.array(list(told), dtype=int), **answers_arrays(list(told.values()))}


def _limited(question: Question, seconds: float) -> Question:
    part = replace(question, ends=min(question.ends, time.monotonic() + seconds))
    part.settled = question.settled.copy()
    return part


def _merged(question: Question, tree: Answer, told: dict[int, CaseAnswer]) -> Answer:
    cases = (told.get(i, case) for i, case in enumerate(tree.cases))
    return Answer(tuple(cases), tree.nodes)

"""What a search is asked and what it answers: the face that trees, programs and portfolios share.

Slack is max_i (C_i y - d_i), in units of y: a case is violated where it is <= 0. A search proves lower bounds of the
least slack of each case over one region, and offers points, whose exact slack is an upper bound.
"""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from milpverify.network.graph import Bounds, Network
from milpverify.proof.evidence import How
from milpverify.search.interrupt import Interrupt
from milpverify.search.record import Record
from milpverify.spec.property import Case
from milpverify.spec.regions import Region

# (case, point) -> its exact slack rounded up, after moving it into the region; infinite where no float was found there.
Replay = Callable[[int, np.ndarray], float]

TOLERANCE = 1e-5  # of solvers, for numbers of size 1


@dataclass(frozen=True)
class TreeProgress:
    """Where a search stands.

    Attributes:
        nodes: Bounded so far.
        open: Waiting to be bounded or split.
        lower, upper: Bracket of the least slack, in units of y.
        how: "tree", "milp", or the search's own word.
    """

    nodes: int
    open: int
    lower: float
    upper: float
    how: str = "tree"


@dataclass(eq=False)
class Question:
    """The least slack of some cases over one region to a gap, or only whether it is <= 0.

    Attributes:
        net: The network.
        region: Of all cases.
        cases: Each with at least one row.
        bounds: Of the hidden neurons over the region.
        lower: Per case a proven lower bound of its least slack, shape (n_cases,).
        replay: Judges a point for a case.
        gap: None to decide: search until some slack is <= 0 or every lower bound is > 0. Otherwise the least slack of
            all cases together is bracketed to this difference, in units of y.
        relative_gap: The same as a share of the best slack's size; the wider of both counts.
        spare: Taken off every bound: what a solver's word on `bounds` may cost; 0 where they are rigorous.
        starts: Inputs where slacks may be small, shape (m, n_inputs).
        best: The least exact slack of a point met so far, and `best_x`, `best_case` where.
        ends: When to stop, on `time.monotonic`'s clock.
        tell: Told where the search stands, now and then.
        settled: Cases that another search at work on the same question has answered, shape (n_cases,): leave them.
        interrupt: Ctrl-C, which ends the search as the end of its time does.
        record: What the search would need to go on, and what an earlier call left.

    A search may tighten `bounds` and raise `lower` as it goes; points may be offered from several threads.
    """

    net: Network
    region: Region
    cases: tuple[Case, ...]
    bounds: Bounds
    lower: np.ndarray
    replay: Replay
    gap: float | None = None
    relative_gap: float = 0.0
    spare: float = 0.0
    starts: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    best: float = math.inf
    best_x: np.ndarray | None = None
    best_case: int = -1
    ends: float = math.inf
    tell: Callable[[TreeProgress], None] | None = None
    settled: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    interrupt: Interrupt = field(default_factory=Interrupt)
    record: Record = field(default_factory=Record)

    def __post_init__(self) -> None:
        self.settled = np.zeros(len(self.cases), dtype=bool)
        self._lock = threading.Lock()

    @property
    def left_s(self) -> float:
        """Seconds until the end, at least 0."""
        return 0.0 if self.interrupt.pending else max(0.0, self.ends - time.monotonic())

    @property
    def decided(self) -> bool:
        """Whether a point has answered the question."""
        return self.gap is None and self.best <= 0

    @property
    def cutoff(self) -> float:
        """What a lower bound must exceed (decide) or reach (minimise) before it needs no more work."""
        if self.gap is None:
            return 0.0
        return self.best if math.isinf(self.best) else self.best - max(self.gap, self.relative_gap * abs(self.best))

    def closed(self, lower: np.ndarray) -> np.ndarray:
        """Which lower bounds need no more work."""
        return lower > 0.0 if self.gap is None else lower >= self.cutoff

    def offer(self, case: int, x: np.ndarray) -> float:
        """Replay a point exactly; the best one is kept."""
        slack = self.replay(case, x)
        with self._lock:
            if slack < self.best:
                self.best, self.best_x, self.best_case = slack, np.array(x), case
        return slack

    @property
    def open(self) -> np.ndarray:
        """Cases that still need work, lowest bound first."""
        order = np.argsort(self.lower, kind="stable")
        return order[~self.closed(self.lower)[order] & ~self.settled[order]]

    @property
    def answered(self) -> bool:
        """Whether nothing is left to do."""
        return self.decided or not len(self.open)


@dataclass(frozen=True, eq=False)
class CaseAnswer:
    """What a search says about one case.

    Attributes:
        lower: Lower bound of its least slack, or of what of it lies below the best slack less the gap.
        holds: Whether that proves the case (of `decide`): rigorous and > 0, or a solver's and clear of its tolerance.
        solver_trusted: Whether `lower` rests on a solver's word.
        timed_out: Whether time ran out before an answer.
        reason: Why there is no answer, where there is none.
        needed: The least `lower` that proves the case positive where it is a solver's word.
        how: What closed it, for reports.
    """

    lower: float
    holds: bool = False
    solver_trusted: bool = False
    timed_out: bool = False
    reason: str = ""
    needed: float = 0.0
    how: How = "tree"


@dataclass(frozen=True, eq=False)
class Answer:
    """One answer a case, and how many nodes it took."""

    cases: tuple[CaseAnswer, ...]
    nodes: int = 0


def best_answer(answers: Sequence[Answer]) -> Answer:
    """Case by case the best of several answers to one question: one without a reason, then the largest bound."""
    cases = zip(*(answer.cases for answer in answers), strict=True)
    best = tuple(max(each, key=lambda case: (not case.reason, case.lower)) for each in cases)
    return Answer(best, sum(answer.nodes for answer in answers))


def trusted_allowance(region: Region, bounds: Sequence[Bounds]) -> float:
    """What a solver's word on hidden bounds may cost a bound that builds on them, in units of y.

    Its tolerances are absolute, in a program whose numbers are as large as an input or a neuron: `MILP` asks its
    own answers for the same.
    """
    sides = [region.lower, region.upper, *(side for some in bounds for side in (*some.lower, *some.upper))]
    return TOLERANCE * float(max(1.0, *(np.abs(side).max(initial=0.0) for side in sides)))


def answers_arrays(cases: Sequence[CaseAnswer]) -> dict[str, np.ndarray]:
    """Closed answers as `saved_answers` takes them."""
    return {
        "lower": np.array([case.lower for case in cases], dtype=np.float64),
        "holds": np.array([case.holds for case in cases], dtype=bool),
        "solver_trusted": np.array([case.solver_trusted for case in cases], dtype=bool),
        "needed": np.array([case.needed for case in cases], dtype=np.float64),
        "how": np.array([case.how for case in cases], dtype=str),
    }


def saved_answers(arrays: Mapping[str, np.ndarray]) -> tuple[CaseAnswer, ...]:
    """Answers from the arrays of `answers_arrays`; others are ignored."""
    columns = (arrays[name].tolist() for name in ("lower", "holds", "solver_trusted", "needed", "how"))
    return tuple(
        CaseAnswer(lower, holds, trusted, needed=needed, how=how)
        for lower, holds, trusted, needed, how in zip(*columns, strict=True)
    )


Steps: TypeAlias = Generator[None, None, Answer]


def driven(steps: Steps) -> Answer:
    """The answer at the end of the steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            answer: Answer = end.value
            return answer


class Search(ABC):
    """A way to answer a question."""

    @abstractmethod
    def run(self, question: Question) -> Answer:
        """Search until the question is answered, or time is out; points go to `question.offer`."""

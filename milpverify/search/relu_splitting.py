"""Branch and bound over ReLU phases: which bounds its nodes is found out by a race."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from milpverify.errors import OptionError
from milpverify.search.bounding import Ascending, Programs
from milpverify.search.question import Answer, CaseAnswer, Question, Search, Steps, TreeProgress, best_answer, driven
from milpverify.search.record import State, bounds_arrays, put_under, saved_bounds, taken_from
from milpverify.search.relu_tree import LIMIT, ReluTree

TELL_S = 0.2
TOO_LARGE = "too many unstable neurons for a tree over their phases: their dense weights would take {:.3g} GB"
AHEAD = 4.0  # times as much time for the tree that is ahead
CLEARLY = 0.95  # of the other's missing rest: a tree with less than that is ahead


@dataclass(frozen=True)
class ReluSplitting(Search):
    """Branch and bound over ReLU phases.

    Attributes:
        ascents: Bounds many nodes at once by dual ascent; None for programs alone.
        programs: Bounds nodes by LPs with cuts; None for ascents alone, without LPs for nodes that have no free neuron.
        race: With both, grow one tree by each, and give most of the time to the one that is ahead. False grows the tree
            of the ascents alone, with LPs for its last nodes.
        root_steps: Of the ascent at the root.
        plane_steps: Of the ascent at the root that finds upper planes of single neurons. Where neurons see few inputs
            every node goes on from there with planes of its own, elsewhere all nodes share them; 0 for none.
        refresh: Later neurons of a node that are bounded again after a split, those that matter most to its bound; 0
            leaves the parent's bounds.
        budget_bytes: Open nodes are searched lowest bound first, and deepest first once they take more memory. A
            condensed network that does not fit is refused.
        node_limit: Give up after so many nodes; None for no limit.
        time_limit_s: Give up after so many seconds of its own.

    Raises:
        OptionError: If one is out of range, or there is neither way of bounding.
    """

    ascents: Ascending | None = field(default_factory=Ascending)
    programs: Programs | None = field(default_factory=Programs)
    race: bool = True
    root_steps: int = 60
    plane_steps: int = 200
    refresh: int = 32
    budget_bytes: int = 2 * 2**30
    node_limit: int | None = None
    time_limit_s: float = np.inf

    def __post_init__(self) -> None:
        if min(self.root_steps, self.plane_steps, self.refresh) < 0 or self.budget_bytes < 1:
            raise OptionError(
                f"ReluSplitting: root_steps={self.root_steps}, plane_steps={self.plane_steps} and refresh="
                f"{self.refresh} must not be negative, budget_bytes={self.budget_bytes} must be positive."
            )
        if self.ascents is None and self.programs is None:
            raise OptionError("ReluSplitting: give ascents, programs, or both; there is nothing to bound nodes with.")

    def run(self, question: Question) -> Answer:
        return driven(self.stepwise(question))

    def stepwise(self, question: Question) -> Steps:
        """The search, some nodes at a time."""
        began, needed = time.monotonic(), _dense_bytes(question)
        if needed > self.budget_bytes:
            return _declined(question, TOO_LARGE.format(needed / 1e9))
        found = question.record.take("race")
        if found:
            question.bounds = saved_bounds(found)  # those that the saved trees were made on
        states = [taken_from(f"tree{i}", found) for i in range(len(self._ways()))]
        race = Race([self._tree(question, *pair) for pair in zip(self._ways(), states, strict=True)], question)
        left_s = self.time_limit_s - (time.monotonic() - began)  # a root with planes takes its time
        yield from race.run(np.inf if self.node_limit is None else self.node_limit, left_s)
        return race.answer()

    def out_of_time(self, answer: Answer) -> bool:
        """Whether it was `time_limit_s` that ended the search with this answer."""
        full = self.node_limit is not None and answer.nodes >= self.node_limit
        return not full and any(case.reason == LIMIT for case in answer.cases)

    def _ways(self) -> list[tuple[Ascending | None, Programs | None]]:
        """What each tree is bounded by."""
        if self.ascents is None or self.programs is None or not self.race:
            return [(self.ascents, self.programs)]
        return [(self.ascents, self.programs), (None, self.programs)]

    def _tree(self, question: Question, way: tuple[Ascending | None, Programs | None], found: State) -> ReluTree:
        return ReluTree(
            question, *way, plane_steps=self.plane_steps, root_steps=self.root_steps, refresh=self.refresh,
            budget_bytes=self.budget_bytes, found=found,
        )  # fmt: skip


class Race:
    """Trees on one question in turns. What one closes the others drop."""

    def __init__(self, trees: list[ReluTree], question: Question) -> None:
        self._trees, self._question, self._bounds = trees, question, question.bounds
        self._told = time.monotonic()
        question.record.keep("race", self.state)

    def state(self) -> dict[str, np.ndarray]:
        """The trees that have begun, and the bounds that all were made on."""
        state = bounds_arrays(self._bounds)
        for i, tree in enumerate(self._trees):
            if tree.begun:
                state.update(put_under(f"tree{i}", tree.state()))
        return state

    def run(self, most_nodes: float, most_s: float) -> Iterator[None]:
        """Grow the trees until one has answered, or all together have grown so many nodes or so long."""
        running = [(tree, tree.grow()) for tree in self._trees]
        spent, weight = [0.0] * len(running), [1.0] * len(running)
        while sum(tree.count for tree in self._trees) < most_nodes and sum(spent) < most_s:
            turn = int(np.argmin([s / w for s, w in zip(spent, weight, strict=True)]))
            began = time.monotonic()
            try:
                next(running[turn][1])
            except StopIteration:
                return
            spent[turn] += time.monotonic() - began
            if len(running) > 1:
                weight = self._weights()
            self._tell()
            self._question.record.tick()
            yield

    def _weights(self) -> list[float]:
        """More time for the tree with the least missing."""
        q = self._question
        lowers = [tree.lower() for tree in self._trees]
        for lower in lowers:
            np.maximum(q.lower, lower, out=q.lower, where=q.closed(lower))
        cutoff = q.cutoff if np.isfinite(q.cutoff) else max(float(lower.min()) for lower in lowers)
        missing = [float(np.maximum(cutoff - lower, 0.0).max()) for lower in lowers]
        least = min(missing)
        return [AHEAD if m <= least and least < CLEARLY * max(missing) else 1.0 for m in missing]

    def _tell(self) -> None:
        tell, now = self._question.tell, time.monotonic()
        if tell is not None and now - self._told > TELL_S:
            self._told = now
            lower = max(float(tree.lower().min()) for tree in self._trees)
            nodes, open_ = sum(tree.count for tree in self._trees), min(tree.n_open for tree in self._trees)
            tell(TreeProgress(nodes, open_, lower, self._question.best))

    def answer(self) -> Answer:
        """Per case the best that a tree has proven."""
        return best_answer([tree.answer() for tree in self._trees])


def _dense_bytes(question: Question) -> int:
    """What the condensed network's weights take, in both precisions."""
    return 12 * question.bounds.condensed_entries(question.net.n_inputs)


def _declined(question: Question, reason: str) -> Answer:
    """What is known of every case without a search."""
    closed = question.closed(question.lower)
    holds = closed if question.gap is None else np.zeros_like(closed)
    return Answer(tuple(
        CaseAnswer(float(lower), bool(h), question.bounds.solver_trusted, reason="" if c else reason)
        for lower, h, c in zip(question.lower, holds, closed, strict=True)
    ))  # fmt: skip

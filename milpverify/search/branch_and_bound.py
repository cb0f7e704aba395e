"""Branch and bound that chooses what to split, and how hard to look before it does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np

from milpverify.attack.method import Attack, AttackResult
from milpverify.attack.pgd import Pgd
from milpverify.bounds.compute import compute_bounds
from milpverify.bounds.method import DEFAULT_BUDGET_BYTES, BoundMethod
from milpverify.bounds.slopes import KappaCrown
from milpverify.bounds.zonotope_forms import ARRAYS
from milpverify.errors import OptionError
from milpverify.search.input_tree import InputSplitting
from milpverify.search.question import (
    Answer,
    Question,
    Search,
    Steps,
    best_answer,
    driven,
    trusted_allowance,
)
from milpverify.search.relu_splitting import ReluSplitting

INPUTS_SHARE = 4.0  # as much time for boxes as for phases where few inputs are free
HEAD_START_S = 0.5  # of the boxes
LARGEST_CLOSER = 5e6  # inputs of unstable neurons: what tighter bounds by input-wise multipliers may be asked for


@dataclass(frozen=True)
class BranchAndBound(Search):
    """Our own trees, proved by bounds rounded outward: over ReLU phases, and over input boxes where few are free.

    The tree over phases begins with what costs least: a few nodes on the bounds as they are. What stays open is
    attacked in earnest, bounded more tightly, and searched with planes of single neurons.

    Attributes:
        inputs: The tree over input boxes; None to split phases only.
        few_inputs: Free inputs of a box up to which splitting it gets most of the time.
        most_inputs: Free inputs up to which it gets any; both trees then take turns.
        few_neurons: Unstable neurons up to which only phases are split: then few phases are all there are.
        phases: The tree over ReLU phases.
        first_nodes: Nodes of the first try.
        attack: What looks for a point after the first try; None to leave that to the tree's own minimisers.
        closer: Tighter bounds of the hidden neurons after the first try; None to skip them.
    """

    inputs: InputSplitting | None = field(default_factory=InputSplitting)
    few_inputs: int = 6
    most_inputs: int = 20
    few_neurons: int = 30
    phases: ReluSplitting = field(default_factory=ReluSplitting)
    first_nodes: int = 1000
    attack: Attack | None = field(default_factory=lambda: Pgd(rounds=2))
    closer: BoundMethod | None = field(default_factory=KappaCrown)

    def __post_init__(self) -> None:
        if self.first_nodes < 0 or self.few_inputs < 0:
            raise OptionError(
                f"BranchAndBound: first_nodes={self.first_nodes} and few_inputs={self.few_inputs} must not be negative."
            )

    def run(self, question: Question) -> Answer:
        return driven(self.stepwise(question))

    def stepwise(self, question: Question) -> Steps:
        """The search, a few nodes at a time."""
        by_phases = self._by_phases(question)
        region = question.region
        free = int((region.upper > region.lower).sum())
        few = sum(question.bounds.n_unstable) <= self.few_neurons
        if self.inputs is None or not region.is_box or free > self.most_inputs or few or _too_wide(question, free):
            answer = yield from by_phases
            return answer
        share = INPUTS_SHARE if free <= self.few_inputs else 1.0
        answer = yield from in_turns([self.inputs.stepwise(question), by_phases], [share, 1.0], [0.0, HEAD_START_S])
        return answer

    def _by_phases(self, question: Question) -> Steps:
        saved = question.record.take("tree")
        nodes, stage = int(saved.get("nodes", 0)), dict(saved)
        question.record.keep("tree", lambda: stage)
        if self.first_nodes and "nodes" not in saved:
            first = yield from self._first_try().stepwise(question)
            question.lower, nodes = np.array([case.lower for case in first.cases]), first.nodes
            if question.answered or question.left_s <= 0:
                return first
        if "nodes" not in saved:
            self._attack(question)
            if not question.answered:
                self._look_closer(question)
            yield
        question.record.keep("race", dict)  # the first try is over: its tree is of no more use
        stage["nodes"] = np.array(nodes)
        last = yield from self.phases.stepwise(question)
        return replace(last, nodes=nodes + last.nodes)

    def _first_try(self) -> ReluSplitting:
        ascents = self.phases.ascents
        programs = self.phases.programs if ascents is None else None
        return replace(self.phases, programs=programs, plane_steps=0, node_limit=self.first_nodes)

    def _attack(self, question: Question) -> None:
        if self.attack is None:
            return
        chosen = question.open if question.gap is None else question.open[:2]
        stop = 0.0 if question.gap is None else -np.inf
        cases = [question.cases[i] for i in chosen]
        limit = None if np.isinf(question.left_s) else question.left_s / 4
        results: tuple[AttackResult, ...] = ()
        with question.interrupt.released():
            results = self.attack.attack_all(question.net, cases, start=question.starts, stop=stop, time_limit_s=limit)
        if not results:  # interrupted
            return
        for i, result in sorted(zip(chosen, results, strict=True), key=lambda pair: float(pair[1].slack)):
            if result.slack <= 0 if question.gap is None else result.slack < question.best:
                question.offer(int(i), result.x)
            if question.decided:
                return

    def _look_closer(self, question: Question) -> None:
        entries = question.bounds.condensed_entries(question.net.n_inputs)
        if self.closer is None or not 0 < entries <= LARGEST_CLOSER or question.left_s <= 0:
            return
        tighter = question.bounds
        with question.interrupt.released():
            tighter = compute_bounds(question.net, question.region, self.closer)
        question.bounds = question.bounds.intersect(tighter)
        if tighter.solver_trusted:
            question.spare = max(question.spare, trusted_allowance(question.region, [question.bounds]))


def _too_wide(question: Question, free: int) -> bool:
    """Whether the zonotope of a single box would not fit its memory."""
    generators = free + sum(question.bounds.n_unstable)
    return ARRAYS * 8 * generators * max(question.net.sizes, default=1) > DEFAULT_BUDGET_BYTES


def in_turns(searches: list[Steps], shares: list[float], spent: list[float]) -> Steps:
    """Several searches on one question, until one has answered it; else the best of what they proved.

    Args:
        searches: All on the same question.
        shares: Of the time.
        spent: Seconds that each is taken to have used before it begins.
    """
    answers: list[Answer] = []
    running, spent = list(range(len(searches))), list(spent)
    while running:
        turn = min(running, key=lambda i: spent[i] / shares[i])
        began = time.monotonic()
        try:
            next(searches[turn])
        except StopIteration as end:
            answers.append(end.value)
            running.remove(turn)
            if not any(case.reason for case in end.value.cases):
                break
            continue
        spent[turn] += time.monotonic() - began
        yield
    return best_answer(answers)

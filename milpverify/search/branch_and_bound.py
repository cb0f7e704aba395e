"""Branch and bound that chooses what to split, and how hard to look before it does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from milpverify.attack.method import Attack, AttackResult
from milpverify.attack.pgd import Pgd
from milpverify.bounds.ascent import Ascent
from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.bounds.method import DEFAULT_BUDGET_BYTES, BoundMethod
from milpverify.bounds.slopes import AlphaCrown, KappaCrown
from milpverify.bounds.zonotope_forms import ARRAYS
from milpverify.errors import OptionError
from milpverify.network.graph import Bounds
from milpverify.network.operators import Dense
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

if TYPE_CHECKING:
    from milpverify.search.relu_splitting import ReluSplitting

INPUTS_SHARE = 4.0  # as much time for boxes as for phases where few inputs are free
HEAD_START_S = 0.5  # of the boxes
LARGEST_BESIDE = 3e5  # inputs of unstable neurons: with more, phases wait until boxes have ended without an answer
FIRST_STEPS = 15  # of the ascent at the root in the first try: its nodes climb on from there
LARGEST_TRY = 64e6  # nodes of the first try times inputs of unstable neurons: about a second
LARGEST_ROWS = 2e7  # inputs of unstable neurons: what an ascent on one row may be asked for
LARGEST_CLOSER = 1e7  # inputs of unstable neurons: what tighter bounds by input-wise multipliers may be asked for
LARGEST_TREES = 2e6  # inputs of unstable neurons: what a tree for each of them may be asked for
MORE = 4.0  # times as much patience in each round
TREES_S, TREES_SHARE = 120.0, 0.8  # of the neurons' trees at most: in the first round, and of the time that is left
DEEP = 3  # hidden layer from which on trees of neurons pay most
WORTH = 0.95  # of the neurons' widths: what must be left at most for another round


@dataclass(frozen=True)
class BranchAndBound(Search):
    """Our own trees, proved by bounds rounded outward: over ReLU phases, and over input boxes where few are free.

    The tree over phases begins with what costs least: a few nodes on the bounds as they are. What stays open is
    attacked in earnest, bounded more tightly, and searched with planes of single neurons. When that takes long, every
    hidden neuron gets a tree of its own, and the search begins anew on what that has settled; both are given more time
    and nodes in each round, for as long as it pays.

    Attributes:
        inputs: The tree over input boxes; None to split phases only.
        few_inputs: Free inputs of a box up to which splitting it gets most of the time.
        most_inputs: Free inputs up to which it gets any; both trees then take turns.
        few_neurons: Unstable neurons up to which only phases are split: then few phases are all there are.
        phases: The tree over ReLU phases; `ReluSplitting()` when None.
        first_nodes: Nodes of the first try.
        attack: What looks for a point after the first try; None to leave that to the tree's own minimisers.
        rows: Bounds the open cases' rows whenever the hidden bounds are tighter; None to skip that.
        closer: Tighter bounds of the hidden neurons after the first try; None to skip them.
        neuron_nodes: Nodes of each neuron's tree after the first round; 0 to go on with that round instead.
        patience_s: Seconds of the first round.
        workers: Processes that grow the neurons' trees; see `NeuronTrees`.

    Raises:
        OptionError: If one is negative.
    """

    inputs: InputSplitting | None = field(default_factory=InputSplitting)
    few_inputs: int = 6
    most_inputs: int = 20
    few_neurons: int = 30
    phases: ReluSplitting | None = None
    first_nodes: int = 1000
    attack: Attack | None = field(default_factory=lambda: Pgd(rounds=2))
    rows: BoundMethod | None = field(default_factory=lambda: AlphaCrown(kappa_steps=100))
    closer: BoundMethod | None = field(default_factory=KappaCrown)
    neuron_nodes: int = 400
    patience_s: float = 10.0
    workers: int = 1

    def __post_init__(self) -> None:
        if min(self.first_nodes, self.few_inputs, self.neuron_nodes) < 0 or not self.patience_s >= 0:
            raise OptionError(
                f"BranchAndBound: first_nodes={self.first_nodes}, few_inputs={self.few_inputs}, neuron_nodes="
                f"{self.neuron_nodes} and patience_s={self.patience_s} must not be negative."
            )

    def run(self, question: Question) -> Answer:
        return driven(self.stepwise(question))

    def stepwise(self, question: Question) -> Steps:
        """The search, a few nodes at a time."""
        by_phases, share = self._by_phases(question), self.boxes_share(question)
        if self.inputs is None or not share:
            answer = yield from by_phases
            return answer
        head_start = HEAD_START_S
        if share > 1.0 and question.bounds.condensed_entries(question.net.n_inputs) > LARGEST_BESIDE:
            head_start = np.inf  # each step over phases would take longer than most searches over boxes
        answer = yield from in_turns([self.inputs.stepwise(question), by_phases], [share, 1.0], [0.0, head_start])
        return answer

    def boxes_share(self, question: Question) -> float:
        """How much time the tree over input boxes gets, next to that over phases; 0 for none."""
        region = question.region
        free = int((region.upper > region.lower).sum())
        few = sum(question.bounds.n_unstable) <= self.few_neurons or not region.is_box
        if region.grid is not None:  # phases can never tell its points from those between them
            few = False
        if self.inputs is None or free > self.most_inputs or few or _too_wide(question, free):
            return 0.0
        return INPUTS_SHARE if free <= self.few_inputs else 1.0

    def _by_phases(self, question: Question) -> Steps:
        saved = question.record.take("tree")
        nodes, stage = int(saved.get("nodes", 0)), dict(saved)
        question.record.keep("tree", lambda: stage)
        if self.first_nodes and "nodes" not in saved:
            first = yield from self._first_try(question).stepwise(question)
            question.lower, nodes = np.array([case.lower for case in first.cases]), first.nodes
            if question.answered or question.left_s <= 0:
                return first
        if "nodes" not in saved:
            self._attack(question)
            if not question.answered:
                self._bound_rows(question)
            if not question.answered and not self._trees_first(question):
                self._look_closer(question)
            yield
        question.record.keep("race", dict)  # the first try is over: its tree is of no more use
        stage["nodes"] = np.array(nodes)
        answer = yield from self._in_rounds(question, stage, int(saved.get("round", 0)))
        return answer

    def _in_rounds(self, question: Question, stage: dict[str, np.ndarray], number: int) -> Steps:
        """The tree over phases, and begun anew, each time with more patience, on bounds by trees of every neuron."""
        pays = self._may_grow_trees(question)
        if not number and not question.answered and self._trees_first(question):
            pays = self._grow_trees(question, number)
        while True:
            phases = replace(self._phases(), time_limit_s=self.patience_s * MORE**number if pays else np.inf)
            last = yield from phases.stepwise(question)
            answer = replace(last, nodes=int(stage["nodes"]) + last.nodes)
            question.lower = np.maximum(question.lower, np.array([case.lower for case in answer.cases]))
            if not pays or question.answered or not phases.out_of_time(last):
                return answer
            pays = self._grow_trees(question, number)
            number += 1
            stage["nodes"], stage["round"] = np.array(answer.nodes), np.array(number)
            yield

    def _phases(self) -> ReluSplitting:
        from milpverify.search.relu_splitting import ReluSplitting  # much, and boxes alone often do

        return ReluSplitting() if self.phases is None else self.phases

    def _first_try(self, question: Question) -> ReluSplitting:
        """A tree of ascents with LPs for its last nodes only."""
        phases = self._phases()
        steps = min(phases.root_steps, FIRST_STEPS)
        most = int(LARGEST_TRY // max(question.bounds.condensed_entries(question.net.n_inputs), 1))
        limit = min(self.first_nodes, most)
        return replace(phases, race=False, root_steps=steps, plane_steps=0, node_limit=limit)

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

    def _bound_rows(self, question: Question) -> None:
        """The open cases by the closer method on the hidden bounds as they are, one at a time for their memory.

        Worst first, and no more once one stays open: then tighter hidden bounds are needed anyway.
        """
        entries = question.bounds.condensed_entries(question.net.n_inputs)
        if self.rows is None or question.gap is not None or not 0 < entries <= LARGEST_ROWS:
            return
        for i in question.open:
            unsafe = question.cases[i].unsafe
            with question.interrupt.released():
                found = bound_rows(question.net, question.region, question.bounds, unsafe.C, self.rows)
                lower = np.nextafter(found.value - unsafe.d, -np.inf).max() - question.spare
                question.lower[i] = max(question.lower[i], np.nextafter(lower, -np.inf))
            if question.left_s <= 0 or not question.closed(question.lower)[i]:
                return

    def _look_closer(self, question: Question) -> None:
        entries = question.bounds.condensed_entries(question.net.n_inputs)
        if self.closer is not None and 0 < entries <= LARGEST_CLOSER and question.left_s > 0:
            _tighten(question, self.closer)
            self._bound_rows(question)

    def _may_grow_trees(self, question: Question) -> bool:
        entries = question.bounds.condensed_entries(question.net.n_inputs)
        # In convolutions there are many neurons, and each tree's dense rows are mostly zeros.
        dense = all(isinstance(op, Dense) for layer in question.net.layers[1:] for _, op in layer.blocks)
        return self.neuron_nodes > 0 and dense and 0 < entries <= LARGEST_TREES and not self.boxes_share(question)

    def _trees_first(self, question: Question) -> bool:
        """Whether to decide with unstable neurons in the third hidden layer or above: there trees pay at once."""
        deep = sum(question.bounds.n_unstable[DEEP - 1 :]) > 0
        return deep and question.gap is None and self._may_grow_trees(question)

    def _grow_trees(self, question: Question, number: int) -> bool:
        """Whether trees of single neurons have made a difference that is worth another round."""
        from milpverify.search.neuron_trees import NeuronTrees

        before, limit = question.bounds, min(TREES_S * MORE**number, TREES_SHARE * question.left_s)
        nodes = round(self.neuron_nodes * MORE**number)
        ascent = Ascent(ends=time.monotonic() + limit)
        _tighten(question, NeuronTrees(nodes=nodes, workers=self.workers, ascent=ascent))
        self._bound_rows(question)
        return _left(before, question.bounds) < WORTH


def _tighten(question: Question, method: BoundMethod) -> None:
    """Meet the bounds with those of a method."""
    tighter = question.bounds
    with question.interrupt.released():
        tighter = compute_bounds(question.net, question.region, method, known=question.bounds)
    question.bounds = question.bounds.intersect(tighter)
    if method.solver_trusted:
        question.spare = max(question.spare, trusted_allowance(question.region, [question.bounds]))


def _left(before: Bounds, after: Bounds) -> float:
    """The share of the unstable neurons' widths that is left; nothing of a neuron that is stable now."""
    shares = [np.zeros(0)]
    for k in range(1, len(before.lower) + 1):
        width = [bounds.upper[k - 1] - bounds.lower[k - 1] for bounds in (before, after)]
        was, is_ = before.unstable(k), after.unstable(k)
        shares.append(np.where(is_, width[1], 0.0)[was] / width[0][was])
    each = np.concatenate(shares)
    return float(each.mean()) if len(each) else 1.0


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

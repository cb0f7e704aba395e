"""How the tree brackets a radius when a slice of the time is not enough."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import milpverify as mv
from milpverify.search.branch_and_bound import BranchAndBound
from milpverify.search.question import Answer, CaseAnswer, Question
from milpverify.tasks import nearest
from milpverify.tasks.epsilon import radius_state
from milpverify.tasks.progress import Clock
from tests.cases import NETWORKS, brute_force_minimum, seeds


@dataclass(frozen=True)
class TiresEasily(BranchAndBound):
    """A tree that leaves all cases but one open in some of its runs, though it may have met a point."""

    tired: tuple[bool, ...] = ()
    asked: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)

    def run(self, question: Question) -> Answer:
        run = len(self.asked)
        self.asked.append((float(question.region.radius), tuple(case.name for case in question.cases)))
        answer = super().run(question)
        if run >= len(self.tired) or not self.tired[run]:
            return answer
        first, *others = answer.cases
        return Answer((first, *(CaseAnswer(-math.inf, timed_out=True) for _ in others)))


@pytest.mark.parametrize("ball", [mv.LinfBall, mv.L2Ball, mv.L1Ball])
@settings(max_examples=4)
@given(seed=seeds, tired=st.lists(st.booleans(), max_size=6))
def test_brackets_hold_the_radius_whichever_slices_fail(ball: type, seed: int, tired: list[bool]) -> None:
    rng = np.random.default_rng(seed)
    net = NETWORKS["chain"](rng)
    x = rng.uniform(0, 1, net.n_inputs)
    label = int(np.argmax(net.forward(x)))
    tree = TiresEasily(attack=None, tired=(True, *tired))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "FEW", -1)  # as if there were too many unstable neurons for programs
        patch.setattr("milpverify.tasks.epsilon.by_programs", lambda state: None)
        method = mv.Radius(tree=tree, relative_gap=1e-3, bisections=2)
        found = mv.minimum_epsilon(net, x, label, ball=ball, clip=(0, 1), method=method)
    others = [np.eye(net.n_outputs)[label] - np.eye(net.n_outputs)[t] for t in range(net.n_outputs) if t != label]
    if ball is not mv.L2Ball:  # brute force knows polyhedra
        inside = found.lower - 1e-4 - 1e-3 * found.lower
        for row in others if inside > 0 else ():
            assert brute_force_minimum(net, ball(x, inside, clip=(0, 1)), row) > -1e-6
    whole = mv.minimum_epsilon(net, x, label, ball=ball, clip=(0, 1))
    assert found.lower <= whole.upper * (1 + 1e-9) and whole.lower <= found.upper * (1 + 1e-9)
    if found.witness is not None and not any(tired):
        assert found.gap <= 1.001e-3 * found.upper + 1e-6


def test_what_was_proved_for_a_target_is_not_asked_again() -> None:
    rng = np.random.default_rng(5)
    net = NETWORKS["chain"](rng)
    x = rng.uniform(0, 1, net.n_inputs)
    label = int(np.argmax(net.forward(x)))
    state = radius_state(
        "test", net, x, label, mv.LinfBall, (0, 1), None, False, None, Clock("test", None), mv.Radius()
    )
    n = len(state.unsafe)
    assert n >= 2
    state.close(0, 0.2, mv.Grade.BOUND_ROUNDED)
    assert state.lower == 0 and state.open_at(0.1) == list(range(1, n)) and state.open_at(0.3) == list(range(n))
    state.close(0, 0.1, mv.Grade.SOLVER_TRUSTED)  # less than is known
    for i in range(1, n):
        state.close(i, 0.1, mv.Grade.BOUND_ROUNDED)
    assert state.lower == 0.1 and state.lower_grade is mv.Grade.BOUND_ROUNDED
    assert not state.open_at(0.1)
    for i in range(1, n):
        state.close(i, 0.15, mv.Grade.SOLVER_TRUSTED)
    assert state.lower == 0.15 and state.lower_grade is mv.Grade.SOLVER_TRUSTED

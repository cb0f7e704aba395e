"""The zoo of questions that floats and solvers get wrong: our answers never contradict the exact truth."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

import milpverify as mv
from benchmarks.zoo import NONE, SAFE, UNSAFE, WORDS, Animal, animals, big_m_answer, interval_bounds, proof_answer
from milpverify.errors import BoundsError
from milpverify.proof.evidence import Witness

ZOO = list(animals(nets=2))
LIMIT_S = 30.0
METHODS = {"verify": None, "MILP": mv.MILP()}


def named(part: str) -> list[Animal]:
    """Those whose name contains a word."""
    found = [animal for animal in ZOO if part in animal.name]
    assert found
    return found


@pytest.mark.parametrize("method", METHODS)
def test_no_verdict_contradicts_the_truth(method: str) -> None:
    decided = 0
    for animal in ZOO:
        verdict = mv.verify(animal.question.net, animal.question.prop, time_limit_s=LIMIT_S, method=METHODS[method])
        answer = WORDS[verdict.word]
        assert answer in (animal.truth, NONE), animal.name
        decided += answer != NONE
        if isinstance(verdict, mv.Violated):
            assert verdict.witness.replay.confirmed and verdict.witness.replay.slack_exact >= animal.question.least[0]
    assert decided >= len(ZOO) // 2  # "unknown" throughout would be no answer


def test_proofs_are_found_of_nothing_but_the_truth() -> None:
    found = {animal.name: proof_answer(animal.question) for animal in ZOO}
    for animal in ZOO:
        assert found[animal.name].split()[0] in (animal.truth, NONE), animal.name
        assert "refused" not in found[animal.name]
    # Margins that floats can see are proved, however tiny weights are.
    assert all(found[a.name].startswith(SAFE) for a in named("weight") if a.truth == SAFE)
    assert all(found[a.name].startswith(SAFE) for a in named("random net") if a.truth == SAFE)


def test_the_truth_is_what_can_be_worked_out_by_hand() -> None:
    for animal in named("absorbed input"):
        assert animal.question.least[0] == Fraction(-1, 2)  # 1/2 - x at x = 1
    for animal in named("absorbed bias"):
        assert animal.question.least[0] == Fraction(0.6) - Fraction(1, 4)
    for animal in named("tie"):
        assert animal.question.least[0] == 0 and animal.truth == UNSAFE
    for animal in named("above by"):
        assert animal.question.least[0] == Fraction(1, 2**60) and animal.truth == SAFE


def test_a_plain_big_m_program_is_wrong_about_many() -> None:
    wrong = []
    for animal in ZOO:
        answer = big_m_answer(animal.question, interval_bounds(animal.question)[:-1])
        wrong += [animal.name] * animal.is_wrong(answer)
    for part in ("absorbed input", "absorbed bias", "needed for safety", "that breaks it", "random net"):
        assert any(part in name for name in wrong), part


@pytest.mark.parametrize("animal", [a for a in named("absorbed bias") if "2^5" in a.name], ids=lambda a: a.name)
def test_a_counterexample_of_floats_alone_is_refused(animal: Animal) -> None:
    question, (case,) = animal.question, animal.question.prop.cases
    x = np.ones(2)
    report = mv.replay(question.net, case, x)
    assert report.violates_float64 and not report.confirmed and report.slack_exact > 0
    assert mv.confirm(question.net, case, x) is None
    with pytest.raises(BoundsError, match="does not confirm"):
        mv.Violated(witness=Witness(x, question.net.forward(x), "", report))
    assert mv.verify(question.net, question.prop, time_limit_s=LIMIT_S).word != "sat"


def test_one_unit_in_the_last_place_decides() -> None:
    (tie,) = named("plateau, tie")
    case = tie.question.cases[0]
    for right, word in ((case.d[0], UNSAFE), (Fraction(math.nextafter(float(case.d[0]), -math.inf)), SAFE)):
        unsafe = mv.Polyhedron(case.C, np.zeros(1), (right,))
        prop = mv.Property((mv.Case(tie.question.prop.cases[0].region, unsafe, "moved"),), 1, 1)
        assert WORDS[mv.verify(tie.question.net, prop, time_limit_s=LIMIT_S).word] in (word, NONE)

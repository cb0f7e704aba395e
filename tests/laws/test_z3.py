"""Verdicts and proofs agree with z3, which decides the same questions in exact rationals, a hair below and above the
least slack."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import milpverify as mv
from benchmarks.exact_slack import least_slack
from benchmarks.small_questions import PlainCase, PlainLayer, Question
from milpverify.tasks.certify import certify

z3 = pytest.importorskip("z3", reason="z3 is not installed")

HAIR = Fraction(1, 10**9)


def random_question(rng: np.random.Generator) -> Question:
    """Two or three inputs, two hidden layers of up to 16 neurons together, one or two rows."""
    sizes = [int(rng.integers(2, 4)), *(int(v) for v in rng.integers(2, 9, 2)), 2]
    layers = []
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        W, b = (rng.normal(size=(m, n)) / np.sqrt(n)).astype(np.float32), (0.3 * rng.normal(size=m)).astype(np.float32)
        layers.append(PlainLayer({k: W.astype(np.float64)}, b.astype(np.float64)))
    middle, radius = rng.normal(size=sizes[0]), rng.uniform(0.1, 0.8)
    lower, upper = ([Fraction(round(100 * v), 100) for v in (middle + s * radius).tolist()] for s in (-1, 1))
    m = int(rng.integers(1, 3))
    C = rng.normal(size=(m, 2)).astype(np.float32).astype(np.float64)
    return Question(sizes[0], tuple(layers), (PlainCase(lower, upper, C, [Fraction(0)] * m),))


def unsafe_by_z3(question: Question, threshold: Fraction) -> bool:
    """Whether some input of the box has C y - d <= threshold, in exact rationals."""
    (case,) = question.cases
    solver = z3.SolverFor("QF_LRA")
    x = [z3.Real(f"x{i}") for i in range(question.n_inputs)]
    for v, low, high in zip(x, case.lower, case.upper, strict=True):
        solver.add(v >= _real(low), v <= _real(high))
    values = [x]
    for k, (blocks, bias) in enumerate(question.exact):
        zhat = [
            z3.Sum(_real(b), *(_real(w) * v for source, W in blocks for w, v in zip(W[i], values[source], strict=True)))
            for i, b in enumerate(bias)
        ]
        if k == len(question.exact) - 1:
            for row, d in zip(case.exact_rows(), case.d, strict=True):
                left = z3.Sum(*(_real(w) * v for w, v in zip(row, zhat, strict=True)))
                solver.add(left <= _real(d + threshold))
        z = [z3.Real(f"z{k}_{i}") for i in range(len(bias))]
        for value, before in zip(z, zhat, strict=True):
            solver.add(z3.Or(z3.And(before >= 0, value == before), z3.And(before <= 0, value == 0)))
        values.append(z)
    answer = solver.check()
    assert answer in (z3.sat, z3.unsat)
    return bool(answer == z3.sat)


def _real(q: Fraction) -> Any:
    return z3.RealVal(f"{q.numerator}/{q.denominator}")


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 50, 10))
def test_verdicts_and_proofs_agree_with_z3_a_hair_from_the_least_slack(first: int) -> None:
    for seed in range(first, first + 10):
        question = random_question(np.random.default_rng(seed))
        (case,) = question.cases
        least, _ = least_slack(question.exact, case.lower, case.upper, case.exact_rows(), case.d)
        for threshold, unsafe in ((least - HAIR, False), (least + HAIR, True)):
            assert unsafe_by_z3(question, threshold) is unsafe
            rights = [d + threshold for d in case.d]
            moved = Question(question.n_inputs, question.layers, (PlainCase(case.lower, case.upper, case.C, rights),))
            assert mv.verify(moved.net, moved.prop, time_limit_s=30).word == ("sat" if unsafe else "unsat")
            found = certify(question.net, question.prop, threshold=threshold, time_limit_s=30)
            assert (found.proof is None) is unsafe, found.reason

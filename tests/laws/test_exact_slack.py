"""The exact least slack of the benchmarks is attained, proved by its own multipliers, and that of brute force."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

import milpverify as mv
from benchmarks.exact_slack import PatternTree, forward, least_t
from benchmarks.small_questions import PlainCase, Question, random_question
from milpverify.network.exact import forward_exact
from tests.cases import brute_force_slack, seeds

FEW = settings(max_examples=12)


def slack(question: Question, case: PlainCase, x: list[Fraction]) -> Fraction:
    """max_i (C_i y - d_i) at x."""
    y = forward(question.exact, x)
    products = (sum((c * v for c, v in zip(row, y, strict=True)), Fraction(0)) for row in case.exact_rows())
    return max(product - d for product, d in zip(products, case.d, strict=True))


@FEW
@given(seed=seeds)
def test_the_least_slack_is_attained_and_nothing_sampled_is_below(seed: int) -> None:
    rng = np.random.default_rng(seed)
    question = random_question(rng, most_neurons=6)
    least, x = question.least
    inside = [c for c in question.cases if all(l <= v <= u for l, v, u in zip(c.lower, x, c.upper, strict=True))]
    assert min(slack(question, case, x) for case in inside) == least
    assert list(forward_exact(question.net, x)) == forward(question.exact, x)
    for case in question.cases:
        for share in rng.integers(0, 17, (20, question.n_inputs)).tolist():
            point = [l + (u - l) * Fraction(s, 16) for l, u, s in zip(case.lower, case.upper, share, strict=True)]
            assert slack(question, case, point) >= least


@FEW
@given(seed=seeds)
def test_the_least_slack_is_that_of_floating_brute_force(seed: int) -> None:
    question = next(q for q in map(drawn, range(seed, seed + 100)) if q.kind.split()[1] in ("normal", "ties"))
    found = []
    for case in question.cases:
        box = mv.Box(*(np.array([float(v) for v in side]) for side in (case.lower, case.upper)))
        found.append(brute_force_slack(question.net, box, case.C, np.array([float(v) for v in case.d])))
    least = float(question.least[0])
    assert min(found) == pytest.approx(least, rel=1e-6, abs=1e-6)


def drawn(seed: int) -> Question:
    """A small random question."""
    return random_question(np.random.default_rng(seed), most_neurons=5)


@FEW
@given(seed=seeds)
def test_the_multipliers_of_a_program_prove_its_value(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 4))

    def forms(count: int) -> list[tuple[list[Fraction], Fraction]]:
        values = rng.integers(-4, 5, (count, n + 1)).tolist()
        return [([Fraction(v) for v in row[:n]], Fraction(row[n])) for row in values]

    rows, signs = forms(int(rng.integers(1, 4))), forms(int(rng.integers(0, 6)))
    lower = [Fraction(int(v)) for v in rng.integers(-3, 1, n)]
    upper = [l + int(w) for l, w in zip(lower, rng.integers(0, 4, n), strict=True)]
    found = least_t(rows, signs, lower, upper)
    assert min(found.multipliers, default=0) >= 0
    forms_used = [*rows, *signs]
    a = [sum((m * f[0][i] for m, f in zip(found.multipliers, forms_used, strict=True)), Fraction(0)) for i in range(n)]
    b = sum((m * f[1] for m, f in zip(found.multipliers, forms_used, strict=True)), Fraction(0))
    bound = b + sum((min(c * l, c * u) for c, l, u in zip(a, lower, upper, strict=True)), Fraction(0))
    if found.value is None:
        assert not any(found.multipliers[: len(rows)]) and bound > 0
        return
    assert sum(found.multipliers[: len(rows)]) == 1 and bound == found.value
    assert all(l <= v <= u for l, v, u in zip(lower, found.x, upper, strict=True))
    values = [b + sum((c * v for c, v in zip(a, found.x, strict=True)), Fraction(0)) for a, b in forms_used]
    assert max(values[: len(rows)]) == found.value and max(values[len(rows) :], default=Fraction(0)) <= 0


def test_every_pattern_is_a_leaf_once() -> None:
    question = drawn(3)
    case = question.cases[0]
    tree = PatternTree(question.exact, case.lower, case.upper, case.exact_rows(), case.d)
    assert tree.split.count(-1) == len(tree.leaves) == sum(u >= 0 for u in tree.split) + 1
    assert tree.least.value == min(leaf.value for leaf in tree.leaves if leaf.value is not None)

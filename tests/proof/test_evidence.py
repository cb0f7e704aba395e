"""Verdicts and brackets: they refuse to claim more than their evidence, and go into JSON whole."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_cases import report, witness

from milpverify.errors import BoundsError
from milpverify.proof.evidence import (
    Bracket,
    CaseReport,
    Grade,
    Holds,
    Unknown,
    Verdict,
    Violated,
    float_at_least,
    float_at_most,
)

VERDICTS: list[tuple[Verdict, str]] = [
    (Holds(Grade.BOUND_ROUNDED), "unsat"),
    (Violated(witness()), "sat"),
    (Unknown("no bound was good enough"), "unknown"),
    (Unknown("60 s were over", timed_out=True), "timeout"),
]


@pytest.mark.parametrize(("verdict", "word"), VERDICTS)
def test_the_word_of_a_verdict(verdict: Verdict, word: str) -> None:
    assert verdict.word == word
    assert verdict.to_dict()["word"] == word


@pytest.mark.parametrize("verdict", [v for v, _ in VERDICTS])
def test_no_verdict_has_a_truth_value(verdict: Verdict) -> None:
    with pytest.raises(TypeError, match=r"isinstance\(verdict, Holds\)"):
        bool(verdict)
    with pytest.raises(TypeError):
        assert not verdict


def test_an_unconfirmed_point_makes_no_violation() -> None:
    for slack, in_region in ((1e-300, True), (-1.0, False)):
        with pytest.raises(BoundsError, match="does not confirm"):
            Violated(witness(slack, in_region))


def test_a_tie_is_a_violation() -> None:
    assert Violated(witness(0.0)).word == "sat"


@pytest.mark.parametrize("verdict", [v for v, _ in VERDICTS])
def test_verdicts_survive_json(verdict: Verdict) -> None:
    reports = (CaseReport("a", "holds", "bounds", -math.inf, 0.5), CaseReport("b", "unknown"))
    full = type(verdict)(**{**_own(verdict), "seconds": 1.5, "cases": reports, "approximations": ("1/3 was rounded.",)})
    data = json.loads(json.dumps(full.to_dict(), allow_nan=False))
    assert data == full.to_dict()
    assert (data["seconds"], data["semantics"], data["approximations"]) == (1.5, "real", ["1/3 was rounded."])
    assert data["cases"][0] == {"name": "a", "status": "holds", "how": "bounds", "lower": None, "seconds": 0.5}
    assert data["cases"][1]["how"] is None


def _own(verdict: Verdict) -> dict[str, object]:
    names = {"Holds": ["grade"], "Violated": ["witness"], "Unknown": ["reason", "timed_out"]}[type(verdict).__name__]
    return {name: getattr(verdict, name) for name in names}


def test_a_witness_in_json_keeps_every_digit() -> None:
    data = json.loads(json.dumps(witness().to_dict(), allow_nan=False))
    assert data["x"] == [0.1, 1.0]
    assert Fraction(data["replay"]["slack_exact"]) == Fraction(-1, 2)
    assert data["replay"]["violates_onnxruntime"] is None


def test_the_weakest_grade_wins() -> None:
    trusted, rounded, replayed = Grade.SOLVER_TRUSTED, Grade.BOUND_ROUNDED, Grade.REPLAYED
    assert Grade.weakest([rounded, trusted, replayed]) is trusted
    assert Grade.weakest([rounded, rounded]) is rounded
    assert Grade.weakest([]) is rounded


def test_replay_outcomes_follow_the_slacks() -> None:
    tie, miss = report(0.0), report(5e-324)
    assert tie.violates_exact and tie.violates_float64 and tie.violates_float32 and tie.confirmed
    assert not (miss.violates_exact or miss.violates_float64 or miss.violates_float32 or miss.confirmed)
    assert not report(-1.0, in_region=False).confirmed


def test_bracket_gap_exactness_and_text() -> None:
    bracket = Bracket(0.25, 0.375, Grade.SOLVER_TRUSTED, Grade.REPLAYED, "y", witness())
    assert bracket.gap == 0.125
    assert bracket.is_exact(0.125) and not bracket.is_exact(0.1)
    assert str(bracket) == "[0.25, 0.375] y (solver-trusted / replayed)"
    assert json.loads(json.dumps(bracket.to_dict(), allow_nan=False))["gap"] == 0.125


def test_an_open_bracket_has_an_infinite_gap() -> None:
    for low, high in ((-math.inf, 1.0), (1.0, math.inf), (math.inf, math.inf), (-math.inf, math.inf)):
        bracket = Bracket(low, high, Grade.BOUND_ROUNDED, Grade.REPLAYED)
        assert bracket.gap == math.inf and not bracket.is_exact(1e300)
        assert json.loads(json.dumps(bracket.to_dict(), allow_nan=False))["gap"] is None


def test_a_bracket_refuses_contradictions_and_claims_without_evidence() -> None:
    for low, high in ((1.0, 0.5), (math.nan, 1.0), (0.0, math.nan)):
        with pytest.raises(BoundsError, match="exceeds"):
            Bracket(low, high, Grade.BOUND_ROUNDED, Grade.REPLAYED)
    with pytest.raises(BoundsError, match="no grade"):
        Bracket(0.0, math.inf, None, None)


@settings(derandomize=True)
@given(value=st.fractions())
def test_float_at_least_is_the_nearest_float_above(value: Fraction) -> None:
    above, below = float_at_least(value), float_at_most(value)
    assert Fraction(below) <= value <= Fraction(above)
    assert above == below or above == math.nextafter(below, math.inf)


def test_float_at_least_keeps_the_sign_and_survives_overflow() -> None:
    tiny, huge = Fraction(1, 10**400), Fraction(10**400)
    assert float_at_least(tiny) == 5e-324 and float_at_least(-tiny) == 0.0
    assert float_at_least(huge) == math.inf and float_at_most(-huge) == -math.inf
    assert math.isfinite(float_at_most(huge)) and math.isfinite(float_at_least(-huge))

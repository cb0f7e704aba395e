"""Verdicts, brackets and witnesses in words."""

from __future__ import annotations

import math

from milpverify.proof.evidence import Bracket, CaseReport, Grade, Holds, Proof, Unknown, Verdict, Violated, Witness
from milpverify.report.screen import Column, Screen, Tone

ROWS_SHOWN = 20
GRADE_MEANS = {
    Grade.PROOF_CHECKED: "proved, and the proof checked in exact integers",
    Grade.BOUND_ROUNDED: "proved by bounds rounded outward",
    Grade.SOLVER_TRUSTED: "on the MILP solver's word, within its tolerances",
    Grade.REPLAYED: "replayed in exact arithmetic",
}
SEMANTICS_MEAN = {"real": "over the real numbers", "float32": "for every float32 execution"}


def number(value: float | None) -> str:
    """Six digits, "-" for nothing known."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.6g}"


def interval(bracket: Bracket) -> str:
    """A bracket as one number where its ends print alike, else as [lower, upper]."""
    low, high = (f"{side:.6g}" for side in (bracket.lower, bracket.upper))
    return low if low == high else f"[{low}, {high}]"


def evidence(bracket: Bracket) -> str:
    """What both sides of a bracket rest on."""
    sides = (("lower side", bracket.lower_grade), ("upper side", bracket.upper_grade))
    return "; ".join(f"{name} {'not known' if g is None else GRADE_MEANS[g]}" for name, g in sides)


def show_verdict(screen: Screen, verdict: Verdict) -> None:
    """A verdict with its cases, its witness and what it rests on."""
    screen.say(headline(verdict), _tone(verdict))
    if isinstance(verdict, Holds):
        if verdict.proof is not None:
            screen.say(f"  proof: {_proof_in_words(verdict.proof)}")
        elif verdict.unproved:
            screen.say(f"  no proof: {verdict.unproved}", Tone.OPEN)
        if verdict.cross_check:
            screen.say(f"  cross-check: {verdict.cross_check}")
    if isinstance(verdict, Violated):
        show_witness(screen, verdict.witness)
    if isinstance(verdict, Unknown):
        screen.say(f"  {verdict.reason}")
        if verdict.disagreement is not None and verdict.disagreement.witness is not None:
            show_witness(screen, verdict.disagreement.witness)
        if verdict.timed_out:
            screen.say("  A longer --timeout may decide it.", Tone.QUIET)
    show_cases(screen, verdict.cases)
    show_notes(screen, verdict.approximations)


def headline(verdict: Verdict) -> str:
    """One line: the verdict, the competition's word, the grade, the seconds."""
    name = f"{type(verdict).__name__} ({verdict.word})"
    end = f"{verdict.seconds:.2f} s"
    if isinstance(verdict, Holds):
        return f"{name}: no input of the region reaches the unsafe set, {GRADE_MEANS[verdict.grade]}; {end}"
    if isinstance(verdict, Violated):
        return f"{name}: an input of the region reaches the unsafe set, {GRADE_MEANS[verdict.grade]}; {end}"
    return f"{name}: not decided; {end}"


def show_certified(screen: Screen, proof: Proof | None, why_not: str) -> None:
    """A proof that was looked for, or why there is none."""
    if proof is None:
        screen.say(f"no proof: {why_not}", Tone.OPEN)
        return
    threshold = proof.certificate.threshold
    screen.say(f"proved: every least slack exceeds {threshold}; checked in exact integers", Tone.GOOD)
    screen.say(f"  {_proof_in_words(proof)}")


def _proof_in_words(proof: Proof) -> str:
    return (
        f"{SEMANTICS_MEAN[proof.certificate.semantics]}; {proof.n_cases} cases, {proof.n_contexts} boxes, "
        f"{proof.n_leaves} leaves, found in {proof.seconds:.2f} s, checked in {proof.check_seconds:.2f} s"
    )


def _tone(verdict: Verdict) -> Tone:
    if isinstance(verdict, Unknown):
        return Tone.OPEN
    return Tone.GOOD if isinstance(verdict, Holds) else Tone.BAD


def show_witness(screen: Screen, witness: Witness) -> None:
    """A witness in three lines: its case and slack, the arithmetics that confirm it, its notes."""
    replay = witness.replay
    runs = {
        "exact": replay.violates_exact,
        "float64": replay.violates_float64,
        "float32": replay.violates_float32,
        "onnxruntime": replay.violates_onnxruntime,
    }
    told = ", ".join(f"{name} {'yes' if hit else 'no'}" for name, hit in runs.items() if hit is not None)
    case = witness.case or "the unsafe set"
    screen.say(f"  witness of {case}: slack {number(replay.slack_upper)} (unsafe at or below 0)")
    screen.say(f"  in the unsafe set when run in: {told}")
    for note in replay.notes:
        screen.say(f"  {note}", Tone.QUIET)


def show_cases(screen: Screen, cases: tuple[CaseReport, ...]) -> None:
    """One row per case; of many, the undecided and violated ones first, and how many were left out."""
    if len(cases) < 2:
        return
    order = list(cases)
    if len(cases) > ROWS_SHOWN:
        order.sort(key=lambda case: ("violated", "unknown", "holds").index(case.status))
    rows: list[tuple[str, ...]] = [
        (c.name, c.status, c.how or "-", number(c.lower), f"{c.seconds:.2f}") for c in order[:ROWS_SHOWN]
    ]
    columns = (Column("case"), Column("status"), Column("by"), Column("slack at least", True), Column("s", True))
    screen.table("", columns, rows)
    if len(cases) > ROWS_SHOWN:
        held = sum(c.status == "holds" for c in order[ROWS_SHOWN:])
        screen.say(f"  and {len(cases) - ROWS_SHOWN} cases more, {held} of which hold", Tone.QUIET)


def show_notes(screen: Screen, approximations: tuple[str, ...]) -> None:
    """Where float64 could not hold the network exactly."""
    for note in approximations:
        screen.say(f"  note: {note}", Tone.QUIET)

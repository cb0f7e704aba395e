"""A small run of the fuzz of both checkers, and that it would find what it is there to find."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import proof_fuzz
from benchmarks.proof_fuzz import Target, campaign, main
from benchmarks.proof_mutations import KINDS
from benchmarks.small_questions import random_question
from benchmarks.tight_proofs import tight_proof

SOURCE = Path(proof_fuzz.checker.__file__)

# Faults of a checker: what stands in the file, and what would stand there.
FAULTS = {
    "rounding is not accounted for": ("-(-(sum(sizes) + sum(self.size)) >> (self.F + 1)) + 1", "0"),
    "errors of neurons may cancel": ("map(mul, map(abs, w), (form[2]", "map(mul, w, (form[2]"),
    "the row's own error is lost": ("(form[1] - form[2]) << self.F", "form[1] << self.F"),
    "negative shares of planes": ("[*alpha, *theta]", "[*alpha]"),
    "inactive neurons gain": ("V += min(-nu * low, -nu * high)", "V += max(-nu * low, -nu * high)"),
    "the best leaf of a claim counts": ("least = min(found)", "least = max(found)"),
    "upper claims are not turned round": ("(lo, min(hi, -least))", "(lo, min(hi, least))"),
    "neurons need not be listed": ("need(unstable or lo >= 0 or hi <= 0,", "need(True,"),
    "cases may be left out": ("need(not unproved,", "need(True,"),
    "the threshold is not claimed": ("near(-q - threshold, F)", "near(-q, F)"),
}


@pytest.mark.parametrize("number", range(4))
def test_no_damaged_proof_of_a_false_claim_is_accepted(number: int) -> None:
    tally = campaign(seed=1, number=number, count=60)
    assert tally.findings == []
    asked = tally.of("false exact")
    assert sum(asked.values()) == 60 and set(asked) <= set(KINDS)
    assert not any(tally.of("accepted false exact").values()) and not any(
        tally.of("accepted false stand-alone").values()
    )
    # Some damaged proofs of true claims are still proofs: it is not that nothing is accepted.
    assert any(tally.of("accepted true exact").values()) and any(tally.of("true claims").values())


@pytest.mark.parametrize("fault", FAULTS)
def test_the_fuzz_finds_a_faulty_checker(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, (old, new) = SOURCE.read_text(), FAULTS[fault]
    assert source.count(old) == 1
    faulty = types.ModuleType("faulty")
    exec(compile(source.replace(old, new), "faulty", "exec"), faulty.__dict__)
    monkeypatch.setattr(proof_fuzz, "checker", faulty)
    monkeypatch.setattr(proof_fuzz, "TRUE_SHARE", 0.0)
    nothing: Callable[..., str] = lambda *_: "not asked"  # noqa: E731
    monkeypatch.setattr(Target, "exact", nothing)
    monkeypatch.setattr(proof_fuzz.Campaign, "_true_claim", nothing)
    found = (line for number in range(60) for line in campaign(seed=3, number=number, count=60).findings)
    assert any("ACCEPTED A FALSE CLAIM" in line for line in found)


def test_both_checkers_refuse_an_alpha_a_hair_above_one() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        question = random_question(rng)
        found = tight_proof(question, rng)
        tree = found[0].header["groups"][0]["contexts"][0]["trees"][0] if found else {}
        coarse = found is not None and found[0].header["bits"] < 52  # there the hair is rounded away
        if coarse and question.is_chain and found[0].arrays[tree["alpha"]].size:  # type: ignore[index]
            break
    (file, threshold), target = found, Target(question)  # type: ignore[misc]
    for alpha, accepted in ((1.0, True), (np.nextafter(1.0, 2.0), False)):
        file.arrays[tree["alpha"]][...] = alpha
        answers = target.exact(file.content(), threshold), target.stand_alone(file.content(), threshold)
        assert [answer == proof_fuzz.ACCEPTED for answer in answers] == [accepted, accepted]


def test_a_run_that_was_ended_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--seed", "5", "--out", str(tmp_path / "found"), "--state"]
    for name, counts in (("whole", ("200",)), ("parts", ("100", "200"))):
        for count in counts:
            assert main(["--count", count, *state, str(tmp_path / name)]) == 0
    whole, parts = (
        proof_fuzz._restored(tmp_path / name, {"seed": 5, "per_network": 100}) for name in ("whole", "parts")
    )
    assert whole[0] == parts[0] and whole[1].counts == parts[1].counts
    assert "nothing found" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="Name another file"):
        main(["--count", "100", "--seed", "6", "--state", str(tmp_path / "whole")])

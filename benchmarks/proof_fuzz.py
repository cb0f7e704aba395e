"""Fuzz both checkers of proofs with certificates of claims that are false by one unit in the last place.

    python benchmarks/proof_fuzz.py --count 100000 --seed 0 --jobs 1 --state fuzz.json

Small random networks (dense, convolution, skip; ties, huge and tiny weights, weights halfway between fixed-point
numbers) over boxes, their least slack m known as an exact rational. Proofs of a threshold just below m are made, by
`certify` and from exact linear programs. The threshold is raised to m, or to the next float64 above it, which makes the
claim false; the proof is damaged in one of many ways, or not at all; and both checkers are asked. None may accept, and
none may end in any other way than by a clean refusal. A part of the damaged proofs is also checked with the true
threshold: there both checkers must say the same. True claims with margins from 1e-4 to 1e-12 must be accepted by both.

Rows of the report are ways of damage, then reasons. The exit status is 1 if a false claim was accepted, an exception
escaped or the checkers disagreed; the files of such a case are written to --out. With --state, a run that was ended
goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy loads its BLAS
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.proof_mutations import KINDS, SHARES, mutated
from benchmarks.small_questions import Question, random_question
from benchmarks.tight_proofs import ProofFile, exact_check, tight_proof
from milpverify.errors import ProofError
from milpverify.proof import checker
from milpverify.search.box_proof import BoxProver
from milpverify.tasks.certify import Prover, certify

ACCEPTED = "accepted"
LIMIT = 1 << 26  # bytes of a proof, inflated
PER_NETWORK = 100
TRUE_SHARE = 0.2  # of the damaged proofs that are also checked with the true threshold
MARGINS = (1e-4, 1e-6, 1e-8, 1e-10, 1e-12)
CERTIFY_S = 5.0


@dataclass
class Tally:
    """What a run has counted; all of it can be added up.

    Attributes:
        counts: By words, the first of which says what is counted.
        seconds: By what they were spent on.
        findings: What must not happen, one line each.
    """

    counts: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add another's."""
        self.counts.update(other.counts)
        self.seconds.update(other.seconds)
        self.findings += other.findings

    def of(self, first: str) -> dict[str, int]:
        """The counts under a first word, largest first."""
        found = {key.split("|", 1)[1]: n for key, n in self.counts.items() if key.split("|")[0] == first}
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))


class Target:
    """A question as both checkers read it."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.alone = question.is_chain
        if self.alone:
            self.files = question.onnx(), question.document()
            self.n, self.n_outputs, self.cases = checker.read_property(memoryview(self.files[1]))
            outputs, self.network = checker.read_onnx(memoryview(self.files[0]), self.n)
            assert outputs == self.n_outputs

    def exact(self, content: bytes, threshold: Fraction) -> str:
        """The package's checker: `ACCEPTED`, or why not; any exception but a refusal of the bytes escapes."""
        try:
            found = exact_check(content, self.question, threshold)
        except ProofError as error:
            return f"malformed: {error}"
        return ACCEPTED if found.accepted else found.reason

    def stand_alone(self, content: bytes, threshold: Fraction) -> str:
        """The stand-alone checker, as its command line calls it; that answers whatever is raised by a refusal."""
        try:
            proof = checker.Proof(content, LIMIT)
            if checker.rational(proof.header["threshold"]) < threshold:
                return "it claims less"
            checker.check(proof, self.network, self.cases)
        except checker.Stop as stop:
            return str(stop.args[1])
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ACCEPTED

    def command_line(self, content: bytes, threshold: Fraction) -> int:
        """The exit status of the stand-alone checker's command line."""
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, name) for name in ("a.proof", "net.onnx", "prop.json")]
            for path, data in zip(paths, (content, *self.files), strict=True):
                path.write_bytes(data)
            with contextlib.redirect_stdout(io.StringIO()):
                return checker.main([*map(str, paths), f"--threshold={threshold}"])


class Campaign:
    """All that is done with one network.

    Args:
        seed, number: Which network, of which run.
        out: Where the files of findings go; None to keep none.
    """

    def __init__(self, seed: int, number: int, out: Path | None = None) -> None:
        self.rng = np.random.default_rng([seed, number])
        self.name, self.out, self.tally = f"{seed}-{number}", out, Tally()

    def run(self, count: int) -> Tally:
        """Damage a proof of some network `count` times, the first time not at all."""
        with self._timed("questions"):
            self.question = random_question(self.rng)
            self.least = self.question.least[0]
            self.target = Target(self.question)
        self.tally.counts[f"network|{self.question.kind}"] += 1
        with self._timed("proofs"):
            found = self._proof()
        if found is None:
            self.tally.counts["network without a proof|"] += 1
            return self.tally
        file, threshold = found
        self._true_claim(file, threshold)
        above = float(self.least)
        false = [self.least, Fraction(above if above > self.least else math.nextafter(above, math.inf))]
        file.look(self.question, false[0])
        kinds = ["none", *self.rng.choice(KINDS, count - 1, p=SHARES)]
        for kind in kinds:
            self._one(file, threshold, false[int(self.rng.integers(2))], str(kind))
        return self.tally

    def _proof(self) -> tuple[ProofFile, Fraction] | None:
        """A proof and its threshold; now and then by `certify`, with trees over phases or over boxes."""
        if self.rng.random() < 0.25:
            prover = Prover(few_neurons=-1 if self.rng.random() < 0.4 else 30, boxes=BoxProver(most=64))
            size = max(1, abs(self.least))
            threshold = self.least - Fraction(size) / 10 ** int(self.rng.integers(0, 7))
            proof = certify(
                self.question.net, self.question.prop, threshold=threshold, time_limit_s=CERTIFY_S, prover=prover
            ).proof
            if proof is not None and proof.n_leaves <= 200:
                return ProofFile.of(proof.certificate.to_bytes(), self.question.n_inputs), threshold
        return tight_proof(self.question, self.rng)

    def _true_claim(self, file: ProofFile, threshold: Fraction) -> None:
        """Both must accept what is true; `certify` is asked for a small margin."""
        self._both_accept(file.content(), threshold, "tight or found")
        if self.question.kind.split()[1] not in ("normal", "ties"):
            return
        margin = float(self.rng.choice(MARGINS))
        near = self.least - Fraction(margin)
        rows = "one row" if all(len(c.d) == 1 for c in self.question.cases) else "several rows"
        with self._timed("certify"):
            found = certify(self.question.net, self.question.prop, threshold=near, time_limit_s=CERTIFY_S).proof
        self.tally.counts[f"certify|{margin:.0e} {rows} {'proved' if found else 'not proved'}"] += 1
        if found is not None:
            self._both_accept(found.certificate.to_bytes(), near, f"margin {margin:.0e}")

    def _both_accept(self, content: bytes, threshold: Fraction, what: str) -> None:
        answers = {"exact": self.target.exact(content, threshold)}
        if self.target.alone:
            answers["stand-alone"] = self.target.stand_alone(content, threshold)
            if self.target.command_line(content, threshold) != 0:
                answers["command line"] = "its exit status is not 0"
            if self.target.command_line(content, self.least) == 0:
                self._report("a command line accepted a false claim", content)
        for who, answer in answers.items():
            self.tally.counts[f"true claims|{what} {who}"] += 1
            if answer != ACCEPTED:
                self._report(f"a true claim refused by {who}: {answer}", content)

    def _one(self, file: ProofFile, true: Fraction, false: Fraction, kind: str) -> None:
        """One damaged proof."""
        file.header["threshold"] = str(false)
        seed = int(self.rng.integers(2**63))
        with self._timed("mutations"):
            content = mutated(file, np.random.default_rng(seed), kind)
        self._ask(content, false, kind, must_refuse=True)
        if self.rng.random() < TRUE_SHARE:
            file.header["threshold"] = str(true)
            self._ask(mutated(file, np.random.default_rng(seed), kind), true, kind, must_refuse=False)

    def _ask(self, content: bytes, threshold: Fraction, kind: str, must_refuse: bool) -> None:
        counts, claim = self.tally.counts, "false" if must_refuse else "true"
        answers = {}
        for who in ("exact", "stand-alone") if self.target.alone else ("exact",):
            with self._timed(f"{who} {claim}"):
                try:
                    answer = (self.target.exact if who == "exact" else self.target.stand_alone)(content, threshold)
                except Exception as error:
                    answer = f"escaped: {type(error).__name__}: {error}"
                    self._report(f"{who}: {kind}: {answer}", content)
            answers[who] = answer
            counts[f"{claim} {who}|{kind}"] += 1
            if must_refuse:
                counts[f"reason {who}|{_shortened(answer)}"] += 1
            counts[f"accepted {claim} {who}|{kind}"] += answer == ACCEPTED
            if must_refuse and answer == ACCEPTED:
                self._report(f"{who} ACCEPTED A FALSE CLAIM: {kind}", content)
        if len({answer == ACCEPTED for answer in answers.values()}) > 1:
            self._report(f"the checkers disagree: {kind}: {answers}", content)

    def _report(self, what: str, content: bytes) -> None:
        name = f"{self.name}-{len(self.tally.findings)}"
        self.tally.findings.append(f"{name}: {' '.join(what.split())[:300]}")
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / f"{name}.proof").write_bytes(content)
            if self.target.alone:
                (self.out / f"{name}.onnx").write_bytes(self.target.files[0])
            (self.out / f"{name}.json").write_bytes(self.question.document())

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.tally.seconds[what] += time.perf_counter() - started


def _shortened(reason: str) -> str:
    """A reason without its numbers and names."""
    return re.sub(r"'[^']*'|0x\w+|[-+]?\d[\d./e+-]*|\[[^]]*\]", "#", reason)[:70]


def campaign(seed: int, number: int, count: int, out: Path | None = None) -> Tally:
    """`Campaign.run` as a function that another process can call."""
    return Campaign(seed, number, out).run(count)


def report(tally: Tally, whole: bool = True) -> str:
    """The summary."""
    lines = []
    for claim in ("false", "true"):
        for who in ("exact", "stand-alone"):
            tried, accepted = tally.of(f"{claim} {who}"), tally.of(f"accepted {claim} {who}")
            n, seconds = sum(tried.values()), tally.seconds[f"{who} {claim}"]
            lines.append(
                f"{claim} claims, {who}: {n} damaged proofs, {sum(accepted.values())} accepted, "
                f"{n / max(seconds, 1e-9):.0f} a second"
            )
    if whole:
        head = "way of damage: false claims to exact, to stand-alone (true claims: accepted by exact / tried)"
        lines += ["", head]
        for kind in KINDS:
            who = [tally.counts[f"{key}|{kind}"] for key in (
                "false exact", "false stand-alone", "accepted true exact", "true exact"
            )]  # fmt: skip
            lines.append(f"  {kind:24}{who[0]:8}{who[1]:8}    ({who[2]} / {who[3]})")
        for who in ("exact", "stand-alone"):
            lines += ["", f"reasons of {who}"]
            lines += [f"  {n:8} {reason}" for reason, n in tally.of(f"reason {who}").items()]
        for first in ("true claims", "certify", "network", "network without a proof"):
            lines += ["", first]
            lines += [f"  {n:8} {what}" for what, n in sorted(tally.of(first).items())]
    lines += ["", "seconds: " + ", ".join(f"{what} {s:.0f}" for what, s in tally.seconds.most_common())]
    lines += [f"FOUND {line}" for line in tally.findings] or ["nothing found"]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line; its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="damaged proofs of false claims (default 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--state", type=Path, help="a file to go on from and to save counts to")
    parser.add_argument("--out", type=Path, default=Path("proof_fuzz_findings"), help="a folder for findings")
    options = parser.parse_args(arguments)
    head = {"seed": options.seed, "per_network": PER_NETWORK}
    number, tally = _restored(options.state, head)
    todo = (options.count + PER_NETWORK - 1) // PER_NETWORK
    with ProcessPoolExecutor(options.jobs) if options.jobs > 1 else contextlib.nullcontext() as pool:
        while (done := sum(tally.of("false exact").values())) < options.count:
            numbers = range(number, number + max(1, min(options.jobs * 4 if pool else 1, todo)))
            work = [(options.seed, n, min(PER_NETWORK, options.count - done), options.out) for n in numbers]
            for found in pool.map(campaign, *zip(*work, strict=True)) if pool else (campaign(*one) for one in work):
                tally.add(found)
            number = numbers.stop
            _save(options.state, {**head, "next": number}, tally)
            print(
                f"{sum(tally.of('false exact').values())} of {options.count}, {len(tally.findings)} findings",
                flush=True,
            )
    print(report(tally))
    return 1 if tally.findings else 0


def _restored(state: Path | None, head: dict[str, Any]) -> tuple[int, Tally]:
    """The next network and what has been counted."""
    if state is None or not state.exists():
        return 0, Tally()
    saved = json.loads(state.read_text())
    if {key: saved.get(key) for key in head} != head:
        raise SystemExit(f"{state} was saved by a run with {saved}, not with {head}. Name another file.")
    return saved["next"], Tally(Counter(saved["counts"]), Counter(saved["seconds"]), saved["findings"])


def _save(state: Path | None, head: dict[str, Any], tally: Tally) -> None:
    if state is not None:
        part = state.with_suffix(".part")
        part.write_text(json.dumps({**head, **vars(tally)}))
        os.replace(part, state)


if __name__ == "__main__":
    sys.exit(main())

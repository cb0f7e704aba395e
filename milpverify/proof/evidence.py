"""What an answer is and how strong it is: verdicts, brackets, witnesses, and the grades of their evidence.

`word` maps verdicts to the competition's words: Violated is `sat` (the unsafe set is reached), Holds is `unsat`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from milpverify.errors import BoundsError

if TYPE_CHECKING:
    from milpverify.proof.certificate import Certificate
    from milpverify.proof.disagreement import Disagreement

Status = Literal["holds", "violated", "unknown"]
How = Literal["bounds", "attack", "tree", "milp", ""]


class Grade(Enum):
    """How strong a piece of evidence is.

    `PROOF_CHECKED`: a certificate that the exact checker has accepted (docs/proofs.md). `BOUND_ROUNDED`: a bound whose
    floating-point evaluation is rounded outward proves it. `SOLVER_TRUSTED`: a MILP solver's word, tolerances included.
    `REPLAYED`: a witness was checked in exact rational arithmetic.
    """

    PROOF_CHECKED = "proof-checked"
    BOUND_ROUNDED = "bound-rounded"
    SOLVER_TRUSTED = "solver-trusted"
    REPLAYED = "replayed"

    @classmethod
    def weakest(cls, grades: Iterable[Grade]) -> Grade:
        """The grade of a claim that needs all of these; `BOUND_ROUNDED` for no claim at all."""
        held = set(grades)
        order = (cls.SOLVER_TRUSTED, cls.REPLAYED, cls.BOUND_ROUNDED, cls.PROOF_CHECKED)
        return next((g for g in order if g in held), cls.BOUND_ROUNDED)


@dataclass(frozen=True, eq=False)
class Replay:
    """What an input does, in the arithmetics a network is run in.

    Slack is max_i (C_i y - d_i), in units of y: the unsafe set is reached iff it is <= 0, a tie included.

    Attributes:
        in_region: Whether the input lies in the region, in exact rationals.
        slack_exact: The slack of the exact network at the exact input.
        slack_float64: The slack of y computed in float64, the last comparison exact.
        slack_float32: The same for IEEE single precision, at the input rounded into the region in float32.
        slack_onnxruntime: The same for onnxruntime on the original file, at the same float32 input; None where it
            was not asked for or could not run.
        fixed: Coordinates that the region fixes to a decimal no float equals: taken at that exact rational.
        notes: What a reader should know, one sentence each.
    """

    in_region: bool
    slack_exact: Fraction
    slack_float64: float
    slack_float32: float
    slack_onnxruntime: float | None = None
    fixed: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def violates_exact(self) -> bool:
        """Whether the exact network reaches the unsafe set."""
        return self.slack_exact <= 0

    @property
    def violates_float64(self) -> bool:
        """Whether the float64 forward pass does."""
        return self.slack_float64 <= 0

    @property
    def violates_float32(self) -> bool:
        """Whether the float32 forward pass does."""
        return self.slack_float32 <= 0

    @property
    def violates_onnxruntime(self) -> bool | None:
        """Whether onnxruntime does; None where it did not run."""
        return None if self.slack_onnxruntime is None else self.slack_onnxruntime <= 0

    @property
    def confirmed(self) -> bool:
        """Whether the input is a witness: in the region and in violation, both exactly."""
        return self.in_region and self.violates_exact

    @property
    def slack_upper(self) -> float:
        """The exact slack rounded up: a proven upper bound of the least slack over the region. Rounded."""
        return float_at_least(self.slack_exact)

    def to_dict(self) -> dict[str, Any]:
        """The attributes and outcomes, JSON-ready; the exact slack as "p/q" and rounded up, non-finite as null."""
        return {
            "in_region": self.in_region,
            "confirmed": self.confirmed,
            "violates_exact": self.violates_exact,
            "violates_float64": self.violates_float64,
            "violates_float32": self.violates_float32,
            "violates_onnxruntime": self.violates_onnxruntime,
            "slack_exact": str(self.slack_exact),
            "slack_upper": _json(self.slack_upper),
            "slack_float64": _json(self.slack_float64),
            "slack_float32": _json(self.slack_float32),
            "slack_onnxruntime": _json(self.slack_onnxruntime),
            "fixed": list(self.fixed),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class Witness:
    """An input of the region that reaches the unsafe set.

    Attributes:
        x: Shape (n_inputs,), float64; the nearest float where the region fixes a decimal (`replay.fixed`).
        y: The float64 output there, shape (n_outputs,).
        case: Name of the case it violates.
        replay: What checked it.
    """

    x: np.ndarray
    y: np.ndarray
    case: str
    replay: Replay

    def to_dict(self) -> dict[str, Any]:
        """`case`, `x` and `y` (lists of floats), `replay` (see `Replay.to_dict`)."""
        x, y = ([_json(float(v)) for v in values] for values in (self.x, self.y))
        return {"case": self.case, "x": x, "y": y, "replay": self.replay.to_dict()}


@dataclass(frozen=True)
class CaseReport:
    """How one case of a property ended.

    Attributes:
        name: Of the case.
        status: "holds", "violated" or "unknown".
        how: What decided it: "bounds", "attack", "tree" (branch and bound) or "milp"; empty where nothing did.
        lower: Best proven lower bound of the least slack over the region, in units of y; None where there is none.
        seconds: Time spent on this case alone.
        cross_check: What a second solver made of it, where one was asked; else empty.
    """

    name: str
    status: Status
    how: How = ""
    lower: float | None = None
    seconds: float = 0.0
    cross_check: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The attributes, JSON-ready; a bound that is not finite is null, an empty `cross_check` left out."""
        how = self.how or None
        told = {
            "name": self.name,
            "status": self.status,
            "how": how,
            "lower": _json(self.lower),
            "seconds": self.seconds,
        }
        return {**told, "cross_check": self.cross_check} if self.cross_check else told


@dataclass(frozen=True, eq=False, kw_only=True)
class Verdict:
    """The answer to a property: `Holds`, `Violated` or `Unknown`. It has no truth value; ask its type or `word`.

    Attributes:
        seconds: Wall time of the whole answer.
        cases: One report per case that was looked at.
        semantics: What the verdict is about: "real", the network over the real numbers.
        approximations: Where float64 could not hold the network exactly, from `Network.approximations`.
    """

    seconds: float = 0.0
    cases: tuple[CaseReport, ...] = ()
    semantics: str = "real"
    approximations: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The competition's word: "sat", "unsat", "unknown" or "timeout"."""
        raise NotImplementedError

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: a verdict is neither true nor false. "
            "Ask isinstance(verdict, Holds), or compare verdict.word with 'unsat'."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: `verdict` (type in small letters), `word`, `seconds`, `semantics`, `approximations`, `cases`
        (see `CaseReport.to_dict`), and `grade`, `witness` (see `Witness.to_dict`) or `reason`, `timed_out`
        and `interrupted`; where a proof was asked for, `proof` (see `Proof.to_dict`) and `unproved`; where a second
        solver was, `cross_checked` and `cross_check`, or `disagreement` (see `Disagreement.to_dict`)."""
        return {
            "verdict": type(self).__name__.lower(),
            "word": self.word,
            **self._own(),
            "seconds": self.seconds,
            "semantics": self.semantics,
            "approximations": list(self.approximations),
            "cases": [case.to_dict() for case in self.cases],
        }

    def _own(self) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Proof:
    """A certificate that the exact checker has accepted, and what that took.

    Attributes:
        certificate: To be written to a file and checked by others.
        n_cases, n_contexts, n_leaves: What was checked: cases, boxes, leaves of trees over phases.
        seconds: Wall time of finding it.
        check_seconds: Wall time of the last check.
    """

    certificate: Certificate
    n_cases: int
    n_contexts: int
    n_leaves: int
    seconds: float
    check_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: `semantics`, `bits`, `threshold` ("p/q"), the counts and the seconds."""
        return {
            "semantics": self.certificate.semantics,
            "bits": self.certificate.bits,
            "threshold": str(self.certificate.threshold),
            "cases": self.n_cases,
            "boxes": self.n_contexts,
            "leaves": self.n_leaves,
            "seconds": self.seconds,
            "check_seconds": self.check_seconds,
        }


@dataclass(frozen=True, eq=False)
class Holds(Verdict):
    """No input of any region reaches its unsafe set.

    Attributes:
        grade: The weakest grade among the cases; `PROOF_CHECKED` where there is a proof of all of them.
        proof: That proof, where one was asked for and found.
        unproved: Why there is none, where one was asked for.
        cross_checked: Whether a second solver confirmed every case that rests on the first one's word.
        cross_check: What came of asking it, where that was wished for; else empty.
    """

    grade: Grade
    proof: Proof | None = None
    unproved: str = ""
    cross_checked: bool = False
    cross_check: str = ""

    @property
    def word(self) -> str:
        return "unsat"

    def __str__(self) -> str:
        return f"Holds (unsat, {self.grade.value}): {len(self.cases)} cases in {self.seconds:.3g} s"

    def _own(self) -> dict[str, Any]:
        own: dict[str, Any] = {"grade": self.grade.value}
        if self.proof is not None or self.unproved:
            own["proof"] = None if self.proof is None else self.proof.to_dict()
            own["unproved"] = self.unproved or None
        if self.cross_check:
            own["cross_checked"], own["cross_check"] = self.cross_checked, self.cross_check
        return own


@dataclass(frozen=True, eq=False)
class Violated(Verdict):
    """Some input reaches an unsafe set.

    Attributes:
        witness: Such an input; its replay is confirmed.

    Raises:
        BoundsError: If exact replay did not confirm the witness: such a point shows nothing.
    """

    witness: Witness
    grade: Grade = field(default=Grade.REPLAYED, init=False)

    def __post_init__(self) -> None:
        if not self.witness.replay.confirmed:
            raise BoundsError(
                f"Violated: exact replay does not confirm the point for case {self.witness.case!r}. "
                "Answer Unknown instead."
            )

    @property
    def word(self) -> str:
        return "sat"

    def __str__(self) -> str:
        case = f" case {self.witness.case!r}" if self.witness.case else ""
        slack = self.witness.replay.slack_upper
        return f"Violated (sat, {self.grade.value}):{case} slack {slack:.6g} in {self.seconds:.3g} s"

    def _own(self) -> dict[str, Any]:
        return {"grade": self.grade.value, "witness": self.witness.to_dict()}


@dataclass(frozen=True, eq=False)
class Unknown(Verdict):
    """No answer.

    Attributes:
        reason: One sentence.
        timed_out: Whether a time limit, and nothing else, is to blame.
        interrupted: Whether Ctrl-C ended the work.
        disagreement: Of two solvers, for which the verdict was refused.
    """

    reason: str
    timed_out: bool = False
    interrupted: bool = False
    disagreement: Disagreement | None = None

    @property
    def word(self) -> str:
        return "timeout" if self.timed_out else "unknown"

    def __str__(self) -> str:
        return f"Unknown ({self.word}): {' '.join(self.reason.split())} ({self.seconds:.3g} s)"

    def _own(self) -> dict[str, Any]:
        own: dict[str, Any] = {"reason": self.reason, "timed_out": self.timed_out, "interrupted": self.interrupted}
        return own if self.disagreement is None else {**own, "disagreement": self.disagreement.to_dict()}


@dataclass(frozen=True, eq=False)
class Bracket:
    """A number known to lie in [lower, upper], each side with its own evidence.

    Attributes:
        lower, upper: May be infinite where nothing is known.
        lower_grade, upper_grade: What proves each side; None for an infinite side.
        unit: Of the number, for reports: "y" for margins, "x" for radii.
        witness: An input that attains the witnessed side, where there is one.
        timed_out: Whether a time limit left the bracket wider than asked.
        seconds: Wall time.
        approximations: From `Network.approximations`.
        interrupted: Whether Ctrl-C did so.

    Raises:
        BoundsError: If lower > upper, or a finite side has no grade. A solver's bound that passes a witnessed one by
            the solver's tolerance must be cut back to it first.
    """

    lower: float
    upper: float
    lower_grade: Grade | None
    upper_grade: Grade | None
    unit: str = ""
    witness: Witness | None = None
    timed_out: bool = False
    seconds: float = 0.0
    approximations: tuple[str, ...] = ()
    interrupted: bool = False

    def __post_init__(self) -> None:
        if not self.lower <= self.upper:
            raise BoundsError(f"Bracket: lower {self.lower!r} exceeds upper {self.upper!r}: the evidence disagrees.")
        for side, grade in ((self.lower, self.lower_grade), (self.upper, self.upper_grade)):
            if math.isfinite(side) and grade is None:
                raise BoundsError(f"Bracket: the finite side {side!r} has no grade. Say what proves it.")

    @property
    def gap(self) -> float:
        """upper - lower; infinite where a side is."""
        return math.inf if math.isinf(self.lower) or math.isinf(self.upper) else self.upper - self.lower

    def is_exact(self, tolerance: float) -> bool:
        """Whether the gap is at most `tolerance`, in the bracket's own unit."""
        return self.gap <= tolerance

    def __str__(self) -> str:
        grades = [g.value for g in (self.lower_grade, self.upper_grade) if g is not None]
        unit = f" {self.unit}" if self.unit else ""
        late = ", interrupted" if self.interrupted else ", timed out" if self.timed_out else ""
        return f"[{self.lower:.6g}, {self.upper:.6g}]{unit} ({' / '.join(grades) or 'nothing known'}{late})"

    def to_dict(self) -> dict[str, Any]:
        """The attributes and `gap`, JSON-ready: grades as their words, infinite numbers as null."""
        return {
            "lower": _json(self.lower),
            "upper": _json(self.upper),
            "gap": _json(self.gap),
            "lower_grade": None if self.lower_grade is None else self.lower_grade.value,
            "upper_grade": None if self.upper_grade is None else self.upper_grade.value,
            "unit": self.unit,
            "timed_out": self.timed_out,
            "interrupted": self.interrupted,
            "seconds": self.seconds,
            "approximations": list(self.approximations),
            "witness": None if self.witness is None else self.witness.to_dict(),
        }


def float_at_least(value: Fraction) -> float:
    """The least float64 that is >= value; infinite beyond the largest float."""
    try:
        nearest = float(value)
    except OverflowError:
        return math.inf if value > 0 else math.nextafter(-math.inf, 0.0)
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)


def float_at_most(value: Fraction) -> float:
    """The greatest float64 that is <= value; infinite beyond the largest float."""
    return -float_at_least(-value)


def _json(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

"""Two solvers that contradict each other about one program, so that neither is believed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milpverify.program.program import Program
    from milpverify.proof.evidence import Witness


@dataclass(frozen=True, eq=False)
class Opinion:
    """What one solver says about the least slack of a case.

    Attributes:
        solver: In words, such as "HiGHS".
        says: The same in half a sentence that begins with the solver.
        lower: The lower bound it gives, in units of y; -inf for none.
        program: What it was asked to minimise.
    """

    solver: str
    says: str
    lower: float
    program: Program

    def to_dict(self) -> dict[str, Any]:
        """`solver`, `says` and `lower`, JSON-ready; a bound that is not finite is null."""
        lower = self.lower if math.isfinite(self.lower) else None
        return {"solver": self.solver, "says": self.says, "lower": lower}


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Answers about one case that cannot both be right within the solvers' tolerances.

    Attributes:
        case: Name of the case.
        first: Whose word the verdict would have rested on.
        second: Who contradicts it.
        witness: An input that the second one found and exact replay confirms: the first one is wrong. None where it is
            one word against the other.
        files: Where both programs were written, if they were.
    """

    case: str
    first: Opinion
    second: Opinion
    witness: Witness | None = None
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        about = f" about {self.case}" if self.case else ""
        return f"{self.first.solver} and {self.second.solver} disagree{about}: {self.first.says}; {self.second.says}"

    def to_dict(self) -> dict[str, Any]:
        """The attributes, JSON-ready; the programs are in the files."""
        return {
            "case": self.case,
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "witness": None if self.witness is None else self.witness.to_dict(),
            "files": list(self.files),
        }

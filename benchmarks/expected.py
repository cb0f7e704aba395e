"""What each suite is expected to take, on two cores: limits, and the counts and times a run is held against."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Expectation:
    """What should hold for the instances of a suite; whatever is None is not asked for.

    Attributes:
        suite: Its name.
        limit_s: Time limit of each instance; within it,
        decided: so many instances are decided (all of them when None), with
        median_s, slowest_s: these wall seconds of the decided ones, and
        total_s: the sum over all instances.
        only: Regular expression that an instance's key must contain to count here.
    """

    suite: str
    limit_s: float = 60.0
    decided: int | None = None
    median_s: float | None = None
    slowest_s: float | None = None
    total_s: float | None = None
    only: str = ""

    def outcome(self, rows: Sequence[dict[str, str]]) -> str:
        """One line: each number next to what was expected, and MISSED where it is."""
        chosen = [row for row in rows if row["suite"] == self.suite and re.search(self.only, row["key"])]
        if not chosen:
            return ""
        decided = [float(row["seconds"]) for row in chosen if row["word"] in ("sat", "unsat")]
        wanted = len(chosen) if self.decided is None else min(self.decided, len(chosen))
        parts = [f"decided {len(decided)} of {wanted}" + ("" if len(decided) >= wanted else " MISSED")]
        measured = (
            ("median", median(decided or [self.limit_s]), self.median_s),
            ("slowest", max(decided, default=self.limit_s), self.slowest_s),
            ("total", sum(float(row["seconds"]) for row in chosen), self.total_s),
        )
        for name, value, most in measured:
            if most is not None:
                parts.append(f"{name} {value:.2f} of {most:g} s" + ("" if value <= most else " MISSED"))
        return f"{self.suite} {self.only or 'all'}: " + ", ".join(parts)


EXPECTATIONS = (
    Expectation("acasxu", 60.0, median_s=0.6, slowest_s=60.0, total_s=120.0),
    Expectation("mnist_fc", 120.0, decided=46, median_s=0.6),
    Expectation("mnist_fc", 120.0, slowest_s=1.5, only="256x2"),
    Expectation("rl_benchmarks", 60.0, median_s=0.5),
    Expectation("reach_prob_density"),
    Expectation("safenlp"),
    Expectation("linearizenn"),
    Expectation("tllverifybench", only=r"M=(8|16|24)_"),
    Expectation("collins_rul_cnn", decided=92),
    Expectation("oval21", 300.0, decided=6),
    Expectation("test"),
)


def limit_s(suite: str) -> float:
    """The time limit that a suite's expectations are about."""
    return next((e.limit_s for e in EXPECTATIONS if e.suite == suite), 60.0)

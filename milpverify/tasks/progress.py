"""How long work tells where it stands, and how it knows when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from milpverify.errors import OptionError
from milpverify.program.solver import MipProgress
from milpverify.search.question import TreeProgress


@dataclass(frozen=True)
class Progress:
    """Where a task stands.

    Attributes:
        stage: "bounds", "attack", "tree", "milp", or the task's own word.
        what: The case or number at work.
        seconds: Since the task began.
        lower, upper: Bracket of the quantity at work, as far as known.
        unstable: Unstable neurons of the region at work; None before its bounds.
        left: Cases still open after this one; None where that has no meaning.
        nodes, open: Of a search: nodes bounded so far, and those still open.
    """

    stage: str
    what: str
    seconds: float
    lower: float = -math.inf
    upper: float = math.inf
    unstable: int | None = None
    left: int | None = None
    nodes: int | None = None
    open: int | None = None

    def __str__(self) -> str:
        parts = [f"{self.seconds:6.1f} s", self.stage, self.what]
        if math.isfinite(self.lower) or math.isfinite(self.upper):
            parts.append(f"[{self.lower:.5g}, {self.upper:.5g}]")
        if self.unstable is not None:
            parts.append(f"{self.unstable} unstable")
        if self.left is not None:
            parts.append(f"{self.left} left")
        if self.nodes:
            parts.append(f"{self.nodes} nodes, {self.open} open")
        return "  ".join(parts)


OnProgress = Callable[[Progress], None]


class Clock:
    """Time since a task began, against its limit."""

    def __init__(self, who: str, time_limit_s: float | None, on_progress: OnProgress | None = None) -> None:
        """Start the clock.

        Raises:
            OptionError: If the limit is not a positive number of seconds.
        """
        limit = math.inf if time_limit_s is None else time_limit_s
        if not limit > 0:
            raise OptionError(
                f"{who}: the time limit must be positive, got {time_limit_s} s. Leave it out for no limit."
            )
        self._began = time.monotonic()
        self._limit = limit
        self._on_progress = on_progress

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds until the limit, at least 0."""
        return max(0.0, self._limit - self.seconds)

    @property
    def out(self) -> bool:
        """Whether the limit has passed."""
        return self.left <= 0

    def tell(
        self,
        stage: str,
        what: str,
        lower: float = -math.inf,
        upper: float = math.inf,
        unstable: int | None = None,
        left: int | None = None,
    ) -> None:
        """Report to whoever listens."""
        if self._on_progress is not None:
            self._on_progress(Progress(stage, what, self.seconds, lower, upper, unstable, left))

    def search_listener(self, what: str, unstable: int) -> Callable[[TreeProgress], None] | None:
        """A callback for a search that reports through this clock; None where nobody listens."""
        if self._on_progress is None:
            return None
        return lambda p: self._heard(p, what, unstable)

    def _heard(self, p: TreeProgress, what: str, unstable: int) -> None:
        assert self._on_progress is not None
        self._on_progress(Progress(p.how, what, self.seconds, p.lower, p.upper, unstable, None, p.nodes, p.open))

    def mip_listener(self, what: str, unstable: int, left: int | None = None) -> Callable[[MipProgress], None] | None:
        """A callback for a MIP solver that reports through this clock; None where nobody listens."""
        if self._on_progress is None:
            return None
        return lambda p: self.tell("milp", what, p.dual_bound, p.primal_bound, unstable, left)

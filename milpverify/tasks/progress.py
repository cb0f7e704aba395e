"""How long work tells where it stands, and how it knows when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from milpverify.errors import OptionError
from milpverify.program.solver import MipProgress
from milpverify.search.interrupt import Interrupt
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
    """Time since a task began, against its limit; Ctrl-C (`interrupt`) ends it too."""

    def __init__(
        self,
        who: str,
        time_limit_s: float | None,
        on_progress: OnProgress | None = None,
        interrupt: Interrupt | None = None,
    ) -> None:
        """Start the clock.

        Args:
            who: Whose, for errors.
            time_limit_s: None for no limit.
            on_progress: Who is told; a KeyboardInterrupt it raises counts as Ctrl-C.
            interrupt: Of the task that this one is a part of.

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
        self.interrupt = interrupt or Interrupt()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds until the limit, at least 0."""
        return 0.0 if self.interrupt.pending else max(0.0, self._limit - self.seconds)

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
        self._tell(Progress(stage, what, self.seconds, lower, upper, unstable, left))

    def part(self, time_limit_s: float | None, seen: Callable[[Progress], Progress]) -> Clock:
        """The clock of a part of the task.

        Args:
            time_limit_s: Of the part.
            seen: What the part tells, as the task tells it; the seconds become the task's own.
        """
        listener = None
        if self._on_progress is not None:
            listener = lambda p: self._tell(replace(seen(p), seconds=self.seconds))  # noqa: E731
        return Clock("", time_limit_s, listener, self.interrupt)

    def search_listener(self, what: str, unstable: int) -> Callable[[TreeProgress], None] | None:
        """A callback for a search that reports through this clock; None where nobody listens."""
        if self._on_progress is None:
            return None
        return lambda p: self._heard(p, what, unstable)

    def _heard(self, p: TreeProgress, what: str, unstable: int) -> None:
        self._tell(Progress(p.how, what, self.seconds, p.lower, p.upper, unstable, None, p.nodes, p.open))

    def _tell(self, progress: Progress) -> None:
        if self._on_progress is not None:
            try:
                self._on_progress(progress)
            except KeyboardInterrupt:
                self.interrupt.pending = True

    def mip_listener(self, what: str, unstable: int, left: int | None = None) -> Callable[[MipProgress], None] | None:
        """A callback for a MIP solver that reports through this clock; None where nobody listens."""
        if self._on_progress is None:
            return None
        return lambda p: self.tell("milp", what, p.dual_bound, p.primal_bound, unstable, left)

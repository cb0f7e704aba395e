"""Listeners for a task's progress: one that remembers, one that prints sparse lines, one that stays live."""

from __future__ import annotations

import math
import time
from typing import IO, TYPE_CHECKING

from milpverify.tasks.progress import Progress

if TYPE_CHECKING:
    from rich.text import Text

FIRST_LINE_AFTER_S = 2.0
LINE_EVERY_S = 5.0


class Recorder:
    """Remembers where the work stands, for the message after Ctrl-C."""

    def __init__(self) -> None:
        """Nothing heard yet."""
        self.last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        """Hear of progress."""
        self.last = progress


class SparseLines(Recorder):
    """One line now and then: none for quick work, one every few seconds for long."""

    def __init__(self, out: IO[str], title: str, eager: bool = False) -> None:
        """Write to `out`; `eager` prints the first line at once."""
        super().__init__()
        self._out, self._title = out, title
        self._next = time.monotonic() + (0.0 if eager else FIRST_LINE_AFTER_S)

    def __call__(self, progress: Progress) -> None:
        super().__call__(progress)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LINE_EVERY_S
            print(f"{self._title}: {progress}", file=self._out, flush=True)


class LiveStatus(Recorder):
    """One live line: a spinner, the seconds, the stage, the bracket. rich draws it again and again."""

    def __init__(self, title: str) -> None:
        """Begin at once."""
        super().__init__()
        self.restart(title)
        self._finished = False

    def restart(self, title: str) -> None:
        """Begin another piece of work."""
        self._title, self._began, self.last = title, time.monotonic(), None

    def finish(self) -> None:
        """Show nothing from now on."""
        self._finished = True

    def __rich__(self) -> Text:
        from rich.text import Text

        if self._finished:
            return Text("")
        # The seconds are our own: they pass even while a solver does not report.
        seconds = time.monotonic() - self._began
        frame = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int(seconds * 8) % 10]
        text = Text.assemble((f"{frame} ", "cyan"), (self._title, "bold"), f"  {seconds:.1f} s")
        if self.last is not None:
            text.append(f"  {describe(self.last)}", "dim")
        return text


def describe(progress: Progress) -> str:
    """A progress report without its seconds: stage, case, bracket, unstable neurons, nodes, cases left."""
    parts = [progress.stage, progress.what]
    if math.isfinite(progress.lower) or math.isfinite(progress.upper):
        parts.append(f"[{progress.lower:.5g}, {progress.upper:.5g}]")
    if progress.unstable is not None:
        parts.append(f"{progress.unstable} unstable neurons")
    if progress.nodes:
        parts.append(f"{progress.nodes} nodes, {progress.open} open")
    if progress.left:
        parts.append(f"{progress.left} left")
    return "  ".join(part for part in parts if part)

"""Ctrl-C while a search runs: it ends at the next point where every open node is accounted for."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupt:
    """Whether Ctrl-C was pressed; a context manager that takes it over from Python while a task is at work.

    Python raises KeyboardInterrupt between any two bytecodes: a node that has just left the pool would be lost, and
    with it the proof. So the first Ctrl-C only sets `pending`, which every loop of a search takes for the end of its
    time; the second one is raised as usual. Work that holds no node is done in `released`, which it ends at once.

    Only the main thread hears signals, and a handler that somebody else has installed is left alone: there a
    KeyboardInterrupt goes through the task to its caller.
    """

    def __init__(self) -> None:
        """Nothing pressed yet."""
        self.pending = False
        self._ours = False

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._ours = True
                signal.signal(signal.SIGINT, self._pressed)
        return self

    def __exit__(self, *error: object) -> None:
        if self._ours:
            self._ours = False
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True

    def released(self) -> Released:
        """Work that may be dropped at any point: Ctrl-C ends it, and is pending afterwards.

        What the work would have assigned is then missing, so give that a value before. Does nothing outside of the
        context, and nothing once Ctrl-C is pending.
        """
        return Released(self)

    def _pass_on(self) -> bool:
        """Let Python raise KeyboardInterrupt; whether that was ours to say."""
        # Python's own handler, not one of ours that raises: the calls into HiGHS guard against that one.
        if not self._ours or self.pending:
            return False
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return True

    def _take_back(self) -> None:
        signal.signal(signal.SIGINT, self._pressed)


class Released:
    """The context of `Interrupt.released`."""

    def __init__(self, interrupt: Interrupt) -> None:
        """Of that task."""
        self._interrupt = interrupt
        self._raises = False

    def __enter__(self) -> None:
        self._raises = self._interrupt._pass_on()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not self._raises:
            return False
        self._interrupt._take_back()
        ours = kind is not None and issubclass(kind, KeyboardInterrupt)
        self._interrupt.pending = self._interrupt.pending or ours
        return ours

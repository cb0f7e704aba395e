"""Work in a child process that its parent ends at a deadline, whatever it is doing.

Imports nothing heavy: the child is forked before numpy is loaded, which costs a millisecond and loses no thread.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from milpverify.errors import InputError

DONE, BAD_INPUT, BUG = 0, 2, 3

Work = Callable[[], tuple[str, str]]


@dataclass(frozen=True)
class Outcome:
    """How some work ended.

    Attributes:
        status: Exit status: `DONE`, `BAD_INPUT` or `BUG`.
        message: One line for people.
        text: The result file's text.
    """

    status: int
    message: str
    text: str


def guarded(work: Work, until: float) -> Outcome | None:
    """Do some work, but not beyond a deadline.

    Where the system has no fork, the work is done in this process, and only its own time limit holds.

    Args:
        work: Gives a message and the text of a result file. Run in a child process, which is ended with all its own.
        until: The deadline, on the clock of `time.monotonic`.

    Returns:
        What the work gave, or how it failed; None if the deadline came first.
    """
    if not hasattr(os, "fork"):
        return outcome_of(work)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work_as_child(work, writing)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        os.close(writing)
        told = _read_until(reading, until)
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(reading)
        for end in (os.killpg, os.kill):  # the group may not exist yet, and workers may outlive the child
            with suppress(ProcessLookupError, PermissionError):
                end(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return None if told is None else _decoded(told)


def outcome_of(work: Work) -> Outcome:
    """What some work gives, whatever it raises."""
    try:
        return Outcome(DONE, *work())
    except InputError as error:
        return Outcome(BAD_INPUT, str(error), "error\n")
    except MemoryError:
        return Outcome(DONE, "unknown: out of memory", "unknown\n")
    except Exception as error:  # a bug of ours: it must not pass for an answer
        return Outcome(BUG, f"a bug of milpverify ({type(error).__name__}: {error}).", "error\n")


def _work_as_child(work: Work, writing: int) -> NoReturn:
    """Work in a process group of its own, tell the parent, end at once."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        outcome = outcome_of(work)
        with os.fdopen(writing, "w", encoding="utf-8") as pipe:
            message = " ".join(outcome.message.split())
            pipe.write(f"{outcome.status} {len(outcome.text)}\n{message}\n{outcome.text}")
        sys.stderr.flush()
    finally:
        os._exit(DONE)  # an orderly end would run the parent's handlers, and take time


def _read_until(pipe: int, until: float) -> str | None:
    """All that comes through the pipe until it is closed; None if time runs out before."""
    parts: list[bytes] = []
    while (left := until - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left)[0]:
            break
        part = os.read(pipe, 1 << 16)
        if not part:
            return b"".join(parts).decode("utf-8", "replace")
        parts.append(part)
    return None


def _decoded(told: str) -> Outcome:
    """What the child told, if it told all of it."""
    head, _, rest = told.partition("\n")
    message, _, text = rest.partition("\n")
    status, _, length = head.partition(" ")
    if not (status.isdigit() and length.isdigit() and len(text) == int(length)):
        return Outcome(BUG, "the search was killed, by lack of memory perhaps: there is no answer.", "error\n")
    return Outcome(int(status), message, text)


def _terminated(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)

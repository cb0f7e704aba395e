"""LPs in several processes: each worker holds its own warm LP and a share of the rows, and sends back multipliers.

Workers are spawned, never forked: a fork of a process in which HiGHS has run threads hangs. A script that starts them
needs the usual `if __name__ == "__main__":`. What a worker sends is no claim: bounds are proven from its multipliers
in the calling process, so that a worker that dies costs the tightness of its rows and nothing else.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait

from milpverify.bounds.processes import started
from milpverify.tighten.target import left
from milpverify.tighten.triangle import Found, Group, TriangleProgram

# Spawning pays from this many LPs times coefficients on: some five seconds of HiGHS, against one of start-up.
SPAWN_FROM = 5e7


@dataclass(eq=False)
class Answers:
    """What came back.

    Attributes:
        found: In the order it came.
        dead: Workers that ended before their share was done.
    """

    found: list[Found] = field(default_factory=list)
    dead: int = 0


def solve(program: TriangleProgram, groups: Sequence[Group], workers: int, ends: float) -> Answers:
    """Run every group's LPs until a time on the clock of `time.monotonic`; earlier groups come earlier.

    Args:
        program: The LP.
        groups: What to solve.
        workers: Processes to use, where there is enough to do for them.
        ends: When to stop.
    """
    count = min(workers, len(groups))
    work = sum(map(len, groups)) * program.program.n_nonzeros
    # A daemon (a worker of somebody else's pool) may have no children.
    if count < 2 or work < SPAWN_FROM or multiprocessing.current_process().daemon:
        return Answers(list(program.solve(groups, ends)))
    return _spawned(program, [groups[i::count] for i in range(count)], ends)


def _spawned(program: TriangleProgram, shares: Sequence[Sequence[Group]], ends: float) -> Answers:
    answers = Answers()
    with started(len(shares), _serve) as open_:
        for ours, share in list(zip(open_, shares, strict=True)):
            try:
                ours.send((program, share, left(ends, time.monotonic())))
            except OSError:
                _bury(ours, open_, answers)
        _collect(open_, answers, ends)
    return answers


def _bury(ours: Connection, open_: list[Connection], answers: Answers) -> None:
    """Count a dead worker and close its pipe."""
    answers.dead += 1
    open_.remove(ours)
    ours.close()


def _collect(open_: list[Connection], answers: Answers, ends: float) -> None:
    """Read what workers send until all are done or time is over; closes the pipes that end."""
    while open_:
        seconds = left(ends, time.monotonic())
        ready = wait(open_, None if math.isinf(seconds) else seconds)
        if not ready:
            return
        for ours in ready:
            assert isinstance(ours, Connection)
            try:
                found = ours.recv()
            except (EOFError, OSError):
                _bury(ours, open_, answers)
                continue
            if found is None:
                open_.remove(ours)
                ours.close()
            else:
                answers.found.append(found)


def _serve(theirs: Connection) -> None:
    program, share, seconds = theirs.recv()
    for found in program.solve(share, time.monotonic() + seconds):
        theirs.send(found)
    theirs.send(None)

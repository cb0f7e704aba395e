"""Independent pieces of work on several processes: an answer for each, in their order, and nothing left behind.

Workers are spawned, never forked: a fork of a process whose libraries run threads can hang. A script that starts them
needs the usual `if __name__ == "__main__":`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from milpverify.errors import OptionError

Piece = TypeVar("Piece")
Answer = TypeVar("Answer")


def share(who: str, run: Callable[[Piece], Answer], pieces: Sequence[Piece], workers: int) -> list[Answer]:
    """run(piece) of every piece, by at most `workers` processes. An error in one of them is raised here.

    Args:
        who: For messages.
        run: What can be pickled; sent once to each worker.
        pieces: What to run it on; a worker that is done gets the next one.
        workers: Processes.

    Raises:
        OptionError: If a worker dies.
    """
    # A daemon (a worker of somebody else's pool) may have no children.
    if min(workers, len(pieces)) < 2 or multiprocessing.current_process().daemon:
        return [run(piece) for piece in pieces]
    answers: dict[int, Answer] = {}
    todo = iter(enumerate(pieces))
    with started(min(workers, len(pieces)), _serve) as busy:
        try:
            for ours in busy:
                ours.send(run)
                ours.send(next(todo))
            while len(answers) < len(pieces):
                for ready in wait(busy):
                    assert isinstance(ready, Connection)
                    place, answer, error = ready.recv()
                    if error is not None:
                        raise error
                    answers[place] = answer
                    piece = next(todo, None)
                    if piece is not None:
                        ready.send(piece)
                    else:
                        busy.remove(ready)
        except (EOFError, OSError) as error:
            raise OptionError(
                f"{who}: a worker process died. Give fewer workers or less memory to each, and guard the script's main "
                'part by if __name__ == "__main__".'
            ) from error
    return [answers[place] for place in range(len(pieces))]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def started(count: int, serve: Callable[[Connection], None]) -> Iterator[list[Connection]]:
    """Pipes to spawned workers that run `serve`; they are ended on the way out, also on Ctrl-C.

    A worker that could not be started, or died, has a pipe that ends.
    """
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    pipes: list[Connection] = []
    try:
        with _one_thread_each():
            for _ in range(count):
                ours, theirs = context.Pipe()
                pipes.append(ours)
                # The work goes through our pipe: `start` waits for ever on a worker that dies before it has read much.
                process = context.Process(target=_ignoring_ctrl_c, args=(serve, theirs), daemon=True)
                try:
                    process.start()
                    processes.append(process)
                except OSError:
                    pass  # the system has no room for it
                finally:
                    theirs.close()  # so that a dead worker's pipe ends
        yield list(pipes)
    finally:
        for worker in processes:
            worker.terminate()
        for worker in processes:
            worker.join()
            worker.close()
        for ours in pipes:
            ours.close()


def _ignoring_ctrl_c(serve: Callable[[Connection], None], theirs: Connection) -> None:
    """What a worker does. Ctrl-C reaches the caller, who ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(theirs)


def _serve(theirs: Connection) -> None:
    run: Callable[[Any], Any] = theirs.recv()
    while True:
        place, piece = theirs.recv()
        try:
            theirs.send((place, run(piece), None))
        except Exception as error:  # the caller's to judge
            theirs.send((place, None, error))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Children started here run linear algebra on one thread: they share the cores already."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

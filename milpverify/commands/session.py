"""What every command does around its answer: watch it, survive a solver's failure, print it, choose the exit status."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from milpverify.commands.question import Question
from milpverify.proof.evidence import Bracket
from milpverify.report.files import envelope, network_facts, print_json
from milpverify.report.progress import Recorder, describe
from milpverify.report.screen import Screen, choose_screen
from milpverify.tasks.progress import OnProgress

Answer = TypeVar("Answer")
AnswerOut = TypeVar("AnswerOut", covariant=True)

ANSWERED, OPEN, INTERRUPTED = 0, 1, 130

# A witness is replayed exactly, a solver's bound holds within its feasibility tolerance: brackets closed to a smaller
# gap may still be this far open.
SOLVER_SLACK = 1e-5


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a task; the message says where it stood."""


def screen_for(args: argparse.Namespace) -> Screen:
    """The screen that the output options ask for."""
    return choose_screen(json=args.json, progress=args.progress)


@contextmanager
def watched(screen: Screen, title: str) -> Iterator[Recorder]:
    """Progress of a task.

    Raises:
        Interrupted: After Ctrl-C, with the last progress.
    """
    with screen.watching(title) as recorder:
        try:
            yield recorder
        except KeyboardInterrupt:
            where = f" during {describe(recorder.last)}" if recorder.last else ""
            raise Interrupted(f"interrupted{where}; nothing is claimed.") from None


class Task(Protocol[AnswerOut]):
    """A task with all but its time and its listener bound."""

    def __call__(self, *, time_limit_s: float | None, on_progress: OnProgress | None) -> AnswerOut: ...


def respond(
    args: argparse.Namespace,
    question: Question,
    task: Task[Answer],
    *,
    answered: Callable[[Answer], bool],
    to_json: Callable[[Answer], Any],
    show: Callable[[Screen, Answer], None],
    interrupted: Callable[[Answer], bool] = lambda answer: False,
) -> int:
    """Run a task under watch, and print its answer: the frame of every command that asks about a network.

    Args:
        args: Options.
        question: What was asked.
        task: What answers it.
        answered: Whether that is an answer, for the exit status.
        to_json: The answer for --json.
        show: Says the answer to a reader who has been told about the network.
        interrupted: Whether Ctrl-C ended the task: the answer is what was known by then.

    Returns:
        The exit status.
    """
    screen = screen_for(args)
    with watched(screen, args.command) as listener:
        answer = task(time_limit_s=question.time_left(args), on_progress=listener)
    status = ANSWERED if answered(answer) else INTERRUPTED if interrupted(answer) else OPEN
    if args.json:
        print_answer(args, question, status, to_json(answer))
    else:
        introduce(screen, question)
        show(screen, answer)
    return status


def is_closed(bracket: Bracket, gap: float) -> bool:
    """Whether a bracket is as narrow as was asked, up to the solver's tolerance."""
    scale = max(1.0, abs(bracket.lower)) if bracket.gap < float("inf") else 1.0
    return not bracket.timed_out and bracket.is_exact(max(gap, SOLVER_SLACK) * scale)


def print_answer(args: argparse.Namespace, question: Question, status: int, result: Any) -> None:
    """The JSON object of a command that was asked about a network."""
    facts = {"network": network_facts(question.net, question.path), "question": question.described, "result": result}
    print_json(envelope(args.command, facts, status, time.monotonic() - question.began))


def introduce(screen: Screen, question: Question) -> None:
    """What a reader should know before the answer: the network, and what is odd about the clean input."""
    net = question.net
    screen.say(f"{question.path}: {net.n_inputs} inputs, {net.n_neurons} ReLUs, {net.n_outputs} outputs")
    for remark in question.point.remarks if question.point is not None else ():
        screen.say(remark)

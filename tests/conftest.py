"""Fixtures that several rooms use."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Laws run on the same examples every time, so that a run tells what a change did; now and then, others are due."""
    parser.addoption(
        "--law-seed", type=int, metavar="N", help="run the hypothesis laws alone, on the examples of seed N"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --law-seed, only the laws, each with that seed in place of its fixed one."""
    number = config.getoption("--law-seed")
    if number is None:
        return
    laws = [item for item in items if hypothesis.is_hypothesis_test(getattr(item, "function", None))]
    for item in laws:
        hypothesis.seed(number)(item.function)
    kept = set(laws)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = laws


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt here and in child processes, even where the tests run in the background.

    A shell starts background jobs with the signal ignored, and Python leaves it so.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)

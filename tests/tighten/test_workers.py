"""Laws of the LPs' worker processes: the same bounds, and neither a death nor Ctrl-C leaves anything behind."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import Connection

import numpy as np
import pytest

import milpverify as mv
from milpverify.bounds.compute import make_problem
from milpverify.tighten import workers
from milpverify.tighten.lp import TriangleLP
from tests.tighten.test_lp import assert_inside, deep

NET = deep(np.random.default_rng(1), (3, 12, 12, 2))
REGION = mv.Box([-1.0] * 3, [1.0] * 3)


def dies(theirs: Connection) -> None:
    """A worker that sends one answer and is gone."""
    program, share, _ = theirs.recv()
    theirs.send(next(program.solve(share, math.inf)))
    os._exit(1)


def dies_at_once(theirs: Connection) -> None:
    """A worker that is gone before it has read its work."""
    os._exit(1)


def sleeps(theirs: Connection) -> None:
    """A worker that never answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(60)


@pytest.fixture
def spawning(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few LPs there are, workers are spawned."""
    monkeypatch.setattr(workers, "SPAWN_FROM", 0.0)


@pytest.mark.usefixtures("spawning")
def test_two_workers_find_the_bounds_of_one() -> None:
    one = mv.compute_bounds(NET, REGION, TriangleLP())
    two = mv.compute_bounds(NET, REGION, TriangleLP(workers=2))
    crown = mv.compute_bounds(NET, REGION, mv.Crown())
    assert_inside(one, two, 1e-9)
    assert_inside(two, one, 1e-9)
    assert any((a > b + 1e-6).any() for a, b in zip(two.lower, crown.lower, strict=True))
    rows = [mv.bound_rows(NET, REGION, one, np.eye(2), TriangleLP(workers=n)).value for n in (1, 2)]
    assert np.allclose(*rows, rtol=0, atol=1e-9)
    assert not multiprocessing.active_children()


def test_few_lps_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(workers, "_spawned", refuse)
    mv.compute_bounds(NET, REGION, TriangleLP(workers=2))


@pytest.mark.usefixtures("spawning")
def test_a_dead_worker_costs_tightness_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem(NET, REGION, None)
    problem = problem.with_layer(*mv.Crown().layer(problem, 1))
    l, u = mv.Crown().layer(problem, 2)
    best = TriangleLP().refine(problem, 2, l, u)
    monkeypatch.setattr(workers, "_serve", dies)
    with pytest.warns(UserWarning, match="TriangleLP: layer 2: 2 workers died") as told:
        low, high = TriangleLP(workers=2).refine(problem, 2, l, u)
    assert len(told) == 1
    assert ((low >= l) & (high <= u)).all()
    assert ((low <= best[0] + 1e-9) & (high >= best[1] - 1e-9)).all()
    assert 1 <= (low > l).sum() + (high < u).sum() <= 2  # what they had sent is kept
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("spawning")
def test_a_worker_that_dies_before_it_reads_a_large_program_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    net, region = deep(np.random.default_rng(1), (400, 60, 30, 2)), mv.Box([-0.1] * 400, [0.1] * 400)
    crown = mv.compute_bounds(net, region, mv.Crown())
    assert min(crown.n_unstable) > 20  # megabytes of coefficients and costs, more than any pipe holds
    monkeypatch.setattr(workers, "_serve", dies_at_once)
    with pytest.warns(UserWarning, match="2 workers died"):
        bounds = mv.compute_bounds(net, region, TriangleLP(workers=2))
    assert_inside(bounds, crown)
    assert_inside(crown, bounds)
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("spawning")
def test_a_system_without_room_for_processes_costs_tightness_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: object) -> None:
        raise OSError("Resource temporarily unavailable")

    crown = mv.compute_bounds(NET, REGION, mv.Crown())
    monkeypatch.setattr(multiprocessing.get_context("spawn").Process, "start", refuse)
    with pytest.warns(UserWarning, match="2 workers died"):
        bounds = mv.compute_bounds(NET, REGION, TriangleLP(workers=2))
    assert_inside(bounds, crown)
    assert_inside(crown, bounds)


@pytest.mark.usefixtures("spawning")
def test_workers_that_hang_are_ended_by_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_serve", sleeps)
    bounds = mv.compute_bounds(NET, REGION, TriangleLP(workers=2, time_limit_s=0.2))
    crown = mv.compute_bounds(NET, REGION, mv.Crown())
    assert_inside(bounds, crown)
    assert_inside(crown, bounds)
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("spawning", "interruptible")
def test_ctrl_c_ends_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_serve", sleeps)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        mv.compute_bounds(NET, REGION, TriangleLP(workers=2))
    timer.join()
    assert not multiprocessing.active_children()

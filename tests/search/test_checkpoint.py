"""Laws of checkpoints: what is closed stays closed, what is open comes back, and no other file is touched."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import milpverify as mv
from milpverify.errors import CheckpointError, OptionError
from milpverify.search.bounding import RunningPrograms
from milpverify.search.domain import Nodes
from milpverify.search.input_tree import _Tree
from milpverify.search.question import Question, Search
from milpverify.search.record import Record, taken_from
from milpverify.tasks.margin import measured
from milpverify.tasks.prepare import prepare
from tests.paths import ROOT
from tests.search.checkpoint_cases import MINIMISER, TREE, VERIFIER, network, prop

LOWERED = 0.34  # the worst margin is about -0.326: just proved
ALONE = replace(TREE, phases=mv.ReluSplitting(race=False), attack=None)
SEARCHES = {
    "ascents": ALONE,
    "programs": replace(TREE, first_nodes=0, phases=mv.ReluSplitting(ascents=None), attack=None),
    "race": TREE,
    "portfolio": mv.Portfolio(tree=TREE, first_turn_s=0.05),
}


# Each round begins anew, so that its nodes are not below saved ones.
ROUNDS = {"rounds": replace(TREE, first_nodes=0, attack=None, patience_s=0.01)}


def asked(net: mv.Network, p: mv.Property, gap: float | None = None) -> Question:
    prepared = prepare(net, p.cases)

    def replay(i: int, x: np.ndarray) -> float:
        point = measured(net, p.cases[i], x)
        return math.inf if point is None else point.replay.slack_upper

    return Question(
        net, prepared.region, p.cases, prepared.bounds, prepared.lower.copy(), replay, gap, starts=prepared.starts
    )


def stopped(search: Search, question: Question, ticks: int) -> dict[str, np.ndarray]:
    """What the record says after so many ticks; the search then ends as by Ctrl-C."""
    left, found = [ticks], {}

    def save() -> float:
        left[0] -= 1
        if not left[0]:
            found.update({key: np.array(value) for key, value in question.record.describe().items()})
            question.interrupt.pending = True
        return 0.0

    question.record = Record(None, save)
    answer = search.run(question)
    assert found, "the search ended before"
    assert any(case.reason for case in answer.cases)
    return found


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> list[Nodes]:
    """All nodes that are bounded from now on, but for second looks at leaves."""
    seen: list[Nodes] = []
    ascents, programs = mv.Ascending.bound, RunningPrograms.bound

    def by_ascent(self: mv.Ascending, problem: object, nodes: Nodes, steps: int | None = None) -> object:
        seen.append(nodes)
        return ascents(self, problem, nodes, steps)  # type: ignore[arg-type]

    def by_programs(self: RunningPrograms, question: Question, rows_of: np.ndarray, nodes: Nodes) -> object:
        seen.append(nodes)
        return programs(self, question, rows_of, nodes)

    monkeypatch.setattr(mv.Ascending, "bound", by_ascent)
    monkeypatch.setattr(RunningPrograms, "bound", by_programs)
    return seen


def inside_open(nodes: Nodes, found: dict[str, np.ndarray]) -> bool:
    """Whether each node lies in an open node of some saved tree, and deeper than it."""
    trees = [taken_from(f"race/tree{i}", found) for i in range(2)]
    for b in range(len(nodes)):
        inside = [
            (tree["l"] <= nodes.l[b]).all(axis=1)
            & (tree["u"] >= nodes.u[b]).all(axis=1)
            & (tree["case"] == nodes.case[b])
            & (tree["depth"] < nodes.depth[b])
            for tree in trees
            if tree
        ]
        if not any(mask.any() for mask in inside):
            return False
    return True


@pytest.mark.parametrize("name", SEARCHES)
def test_only_open_nodes_are_bounded_after_a_stop(name: str, bounded: list[Nodes]) -> None:
    net, search = network(), SEARCHES[name]
    p, ticks = prop(net, lowered=LOWERED), 12
    if name == "programs":  # far fewer nodes, and slower ones
        net, ticks = network(n=12, hidden=20), 10
        p = prop(net, lowered=0.48)
    question = asked(net, p)
    found = stopped(search, question, ticks)
    saved = sum(int(found.get(f"race/tree{i}/count", 0)) for i in range(2)) + int(found.get("tree/nodes", 0))
    assert saved > 0 and len(found["race/tree0/case"]) > 0
    if name == "race":
        assert "race/tree1/count" in found
    bounded.clear()
    again = asked(net, p)
    again.record = Record(found)
    answer = search.run(again)
    assert all(case.holds for case in answer.cases)
    # The programs' tree of the portfolio may not have begun yet: then its root is new.
    if all(f"race/tree{i}/count" in found for i in range(1 if name in ("ascents", "programs") else 2)):
        assert all(inside_open(nodes, found) for nodes in bounded)
    assert answer.nodes > saved


@pytest.mark.parametrize("name", [*SEARCHES, *ROUNDS])
def test_a_stopped_and_resumed_minimum_is_the_same(name: str) -> None:
    net, search = network(n=12, hidden=20), {**SEARCHES, **ROUNDS}[name]
    p = prop(net)
    whole = asked(net, p, gap=1e-4)
    lower = min(case.lower for case in search.run(whole).cases)
    for ticks in (1, 2, 4):
        part = asked(net, p, gap=1e-4)
        found = stopped(search, part, ticks)
        again = asked(net, p, gap=1e-4)
        again.record = Record(found)
        if part.best_x is not None:
            again.offer(part.best_case, part.best_x)
        resumed = search.run(again)
        least = min(case.lower for case in resumed.cases)
        assert not any(case.reason for case in resumed.cases)
        assert least <= again.best <= least + 2e-4
        assert lower <= again.best and least <= whole.best  # both brackets hold the one minimum


def test_open_boxes_come_back_and_closed_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    net, search = network(n=4, hidden=24), mv.InputSplitting(batch=8, phases=None, attack=None)
    p = prop(net, eps=1.0)
    truth = mv.worst_margin(net, p).upper
    p = prop(net, eps=1.0, lowered=0.01 - truth)
    found = stopped(search, asked(net, p), 6)
    low, high = found["boxes/low"].copy(), found["boxes/high"].copy()
    assert 0 < len(low)
    seen: list[bool] = []
    bound = _Tree._bound

    def watch(self: _Tree, boxes: object) -> object:
        for a, b in zip(boxes.low, boxes.high, strict=True):  # type: ignore[attr-defined]
            seen.append(bool(((low <= a) & (b <= high)).all(axis=1).any()))
        return bound(self, boxes)  # type: ignore[arg-type]

    monkeypatch.setattr(_Tree, "_bound", watch)
    again = asked(net, p)
    again.record = Record(found)
    answer = search.run(again)
    assert seen and all(seen)
    assert answer.nodes == int(found["boxes/nodes"]) + len(seen)
    assert all(case.holds for case in answer.cases)


def test_a_killed_process_is_gone_on_from(tmp_path: Path, bounded: list[Nodes]) -> None:
    path = tmp_path / "tree.npz"
    command = [sys.executable, "-m", "tests.search.checkpoint_cases", str(path), str(LOWERED)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        found: dict[str, np.ndarray] = {}
        while "race/tree1/count" not in found or int(found["race/tree0/count"]) < 200:
            assert process.poll() is None, "it was answered before it could be killed"
            time.sleep(0.002)
            if path.exists():
                with np.load(path) as archive:
                    found = taken_from("0", {key: archive[key] for key in archive.files})
        process.kill()
        assert process.wait() == -signal.SIGKILL
    with np.load(path) as archive:
        found = taken_from("0", {key: archive[key] for key in archive.files})
    net = network()
    p = prop(net, lowered=LOWERED)
    told: list[mv.Progress] = []
    verdict = mv.verify(net, p, method=VERIFIER, checkpoint=path, on_progress=told.append)
    assert isinstance(verdict, mv.Holds) and verdict.grade is mv.Grade.BOUND_ROUNDED
    assert bounded and all(inside_open(nodes, found) for nodes in bounded)
    saved = sum(int(found[f"race/tree{i}/count"]) for i in range(2))
    assert all(p.nodes is None or p.nodes >= saved for p in told)
    # Answered: the same call needs no search, and says the same.
    bounded.clear()
    again = mv.verify(net, p, method=VERIFIER, checkpoint=path)
    assert isinstance(again, mv.Holds) and again.grade is mv.Grade.BOUND_ROUNDED and not bounded


def test_a_time_limit_leaves_a_checkpoint_that_a_later_call_ends(tmp_path: Path) -> None:
    net, path = network(), tmp_path / "tree.npz"
    p = prop(net)
    brackets = [mv.worst_margin(net, p, method=MINIMISER, time_limit_s=0.5, checkpoint=path)]
    assert brackets[0].timed_out and path.exists()
    brackets.append(mv.worst_margin(net, p, method=MINIMISER, checkpoint=path))
    assert not brackets[1].timed_out and brackets[1].gap <= 1.0001e-4
    assert brackets[0].lower <= brackets[1].lower <= brackets[1].upper <= brackets[0].upper
    again = mv.worst_margin(net, p, method=MINIMISER, checkpoint=path)
    assert (again.lower, again.upper) == (brackets[1].lower, brackets[1].upper)


def test_a_violation_is_found_again_from_its_point(tmp_path: Path) -> None:
    net, path = network(), tmp_path / "tree.npz"
    p = prop(net, lowered=0.3255)
    method = replace(VERIFIER, attack=None)
    verdict = mv.verify(net, p, method=method, checkpoint=path)
    assert isinstance(verdict, mv.Violated) and path.exists()
    again = mv.verify(net, p, method=method, checkpoint=path)
    assert isinstance(again, mv.Violated) and again.witness.x.tolist() == verdict.witness.x.tolist()


def test_every_region_has_its_own_place(tmp_path: Path) -> None:
    net, path = network(n=12, hidden=20), tmp_path / "tree.npz"
    near, far = prop(net, eps=0.25), prop(net, eps=0.3)
    both = mv.Property((*near.cases, *far.cases), net.n_inputs, net.n_outputs)
    least = mv.worst_margin(net, both, method=MINIMISER)
    for limit in (0.2, 0.4, None):
        bracket = mv.worst_margin(net, both, method=MINIMISER, time_limit_s=limit, checkpoint=path)
        assert bracket.lower <= least.upper and least.lower <= bracket.upper
    assert bracket.gap <= 1.0001e-4
    with np.load(path) as archive:
        assert {key.partition("/")[0] for key in archive.files} == {"header", "checksum", "0", "1"}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path, net = tmp_path / "tree.npz", network()
    mv.worst_margin(net, prop(net), method=MINIMISER, time_limit_s=0.3, checkpoint=path)
    return path


def test_a_checkpoint_of_another_question_is_refused(made: Path) -> None:
    net, whole = network(), made.read_bytes()
    other = network(seed=2)
    calls: dict[str, Callable[[], object]] = {
        "network": lambda: mv.worst_margin(other, prop(other), method=MINIMISER, checkpoint=made),
        "property": lambda: mv.worst_margin(net, prop(net, eps=0.2), method=MINIMISER, checkpoint=made),
        "question": lambda: mv.verify(net, prop(net), method=VERIFIER, checkpoint=made),
        "method or gap": lambda: mv.worst_margin(net, prop(net), method=replace(MINIMISER, gap=1e-3), checkpoint=made),
    }
    for word, call in calls.items():
        with pytest.raises(CheckpointError, match=f"{made.name} was made with another {word}"):
            call()
        assert made.read_bytes() == whole


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(made: Path, share: float) -> None:
    net, whole = network(), made.read_bytes()
    made.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="truncated"):
        mv.worst_margin(net, prop(net), method=MINIMISER, checkpoint=made)
    assert made.read_bytes() == whole[: int(share * len(whole))]


def test_a_flipped_bit_is_noticed_or_changes_nothing(made: Path) -> None:
    from milpverify.search.checkpoint import _read

    whole, arrays = made.read_bytes(), _read(made)
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(whole), 200).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        made.write_bytes(damaged)
        try:
            found = _read(made)
        except CheckpointError:
            refused += 1
        else:
            assert found.keys() == arrays.keys()
            assert all(np.array_equal(found[key], arrays[key], equal_nan=False) for key in found)
    assert refused > 100


def test_values_that_do_not_fit_the_checksum_are_noticed(made: Path) -> None:
    with np.load(made) as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays["0/lower"] = arrays["0/lower"] + 1.0
    np.savez(made, **arrays)
    net = network()
    with pytest.raises(CheckpointError, match="damaged"):
        mv.worst_margin(net, prop(net), method=MINIMISER, checkpoint=made)


@pytest.mark.parametrize("kind", ["text", "archive", "pickle", "folder"])
def test_a_file_that_is_no_checkpoint_is_left_alone(tmp_path: Path, kind: str) -> None:
    path, net = tmp_path / "mine.npz", network()
    if kind == "text":
        path.write_text("my notes\n")
    elif kind == "archive":
        np.savez(path, weights=np.zeros(3))
    elif kind == "pickle":
        np.savez(path, header=np.array([{"a": 1}], dtype=object))
    else:
        path.mkdir()
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(CheckpointError):
        mv.verify(net, prop(net), method=VERIFIER, checkpoint=path)
    assert path.is_dir() if before is None else path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    net = network()
    with pytest.raises(CheckpointError, match="folder"):
        mv.verify(net, prop(net), checkpoint=tmp_path / "absent" / "tree.npz")
    with pytest.raises(OptionError, match="every_s"):
        mv.Checkpoint(tmp_path / "tree.npz", -1.0)


def test_a_failing_disk_costs_the_checkpoint_not_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, path = network(n=12, hidden=20), tmp_path / "tree.npz"

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("milpverify.search.checkpoint.os.replace", full)
    with pytest.warns(UserWarning, match="No space left"):
        bracket = mv.worst_margin(net, prop(net), method=MINIMISER, checkpoint=path)
    assert bracket.gap <= 1.0001e-4 and list(tmp_path.iterdir()) == []

"""Verdicts in a file: what is gone on with, what is refused, and that nothing known is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import milpverify as mv
from milpverify.errors import CheckpointError, SolverError
from milpverify.proof.evidence import Unknown
from milpverify.tasks.progress import Progress
from milpverify.training.evaluation import Evaluator, robust_evaluation
from milpverify.training.models import mlp
from tests.training.training_cases import CLASSES, SHAPE, images


@pytest.fixture(scope="module")
def net() -> mv.Network:
    return mv.from_torch(mlp(SHAPE, (6, 5), CLASSES, seed=2).eval(), SHAPE)


def letters(table: mv.RobustEvaluation) -> dict[str, tuple[list[bool], list[bool]]]:
    return {e.name: (e.wrong.tolist(), e.open.tolist()) for e in table.errors}


@pytest.mark.parametrize("stage", ["clean", "fgsm", "pgd", "dual", "exact"])
def test_what_ctrl_c_cut_short_is_gone_on_with_to_the_same_table(net: mv.Network, tmp_path: Path, stage: str) -> None:
    data, file = images(20, 4), tmp_path / "run.json"
    whole = robust_evaluation(net, data, 0.1)

    def stop(progress: Progress) -> None:
        if progress.stage == stage:
            raise KeyboardInterrupt

    part = robust_evaluation(net, data, 0.1, on_progress=stop, checkpoint=file)
    assert part.interrupted and part.cut_short == "interrupted" and part.errors[-1].name == "exact"
    for row in part.errors:
        assert (part.errors[0].wrong <= row.wrong).all() and (row.wrong | row.open).any()
    exact = part["exact"]
    assert (exact.wrong <= whole["exact"].wrong).all() and (whole["exact"].wrong <= exact.wrong | exact.open).all()
    again = robust_evaluation(net, data, 0.1, checkpoint=file)
    assert letters(again) == letters(whole) and not again.cut_short


def test_an_image_that_was_open_is_asked_again_and_one_that_was_settled_is_not(
    net: mv.Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, file = images(20, 4), tmp_path / "run.json"
    method, verify, asked = Evaluator(bounds=()), mv.verify, []
    monkeypatch.setattr("milpverify.training.evaluation.verify", lambda *_, **__: Unknown(reason="too hard"))
    first = robust_evaluation(net, data, 0.15, method=method, checkpoint=file)["exact"]
    assert first.open.any()

    def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        return verify(*arguments, **options)

    monkeypatch.setattr("milpverify.training.evaluation.verify", counted)
    second = robust_evaluation(net, data, 0.15, method=replace(method, image_limit_s=1000.0), checkpoint=file)["exact"]
    assert len(asked) == first.open.sum() and not second.open.any()
    assert (first.wrong <= second.wrong).all()


def test_a_time_limit_leaves_the_rest_open_and_says_so(net: mv.Network) -> None:
    found = robust_evaluation(net, images(20, 4), 0.1, time_limit_s=1e-9)
    assert found.timed_out and not found.interrupted and "time ran out" in found.title
    assert [e.name for e in found.errors] == ["exact"] and found["exact"].open.all()
    assert not robust_evaluation(net, images(20, 4), 0.1, time_limit_s=600.0).timed_out


def test_what_was_known_before_a_bug_of_ours_is_saved(
    net: mv.Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def buggy(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    data, file = images(20, 4), tmp_path / "run.json"
    with monkeypatch.context() as patch:
        patch.setattr("milpverify.training.evaluation.verify", buggy)
        with pytest.raises(ZeroDivisionError):
            robust_evaluation(net, data, 0.1, method=Evaluator(bounds=()), checkpoint=file)
    assert set(json.loads(file.read_text())["rows"]) == {"clean", "fgsm", "pgd", "exact"}
    again = robust_evaluation(net, data, 0.1, method=Evaluator(bounds=()), checkpoint=file)
    assert letters(again) == letters(robust_evaluation(net, data, 0.1, method=Evaluator(bounds=())))


def test_an_image_on_which_a_solver_fails_is_open_and_is_told(net: mv.Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise SolverError("HiGHS: nonsense")

    monkeypatch.setattr("milpverify.training.evaluation.verify", failing)
    found = robust_evaluation(net, images(20, 4), 0.1, method=Evaluator(bounds=()))
    assert found["exact"].open.any() and any("HiGHS: nonsense" in remark for remark in found.remarks)
    assert "HiGHS: nonsense" in str(found) and not found.cut_short


OTHERS: dict[str, tuple[Callable[..., Any], str]] = {
    "eps": (lambda net, file: robust_evaluation(net, images(5), 0.2, checkpoint=file), "another eps"),
    "norm": (
        lambda net, file: robust_evaluation(net, images(5), 0.1, norm=mv.Norm(2), checkpoint=file),
        "another norm",
    ),
    "data": (lambda net, file: robust_evaluation(net, images(5, 7), 0.1, checkpoint=file), "another images"),
    "number": (lambda net, file: robust_evaluation(net, images(6), 0.1, checkpoint=file), "damaged"),
    "method": (
        lambda net, file: robust_evaluation(net, images(5), 0.1, method=Evaluator(bounds=()), checkpoint=file),
        "another method",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_question_is_refused_and_kept(net: mv.Network, tmp_path: Path, name: str) -> None:
    file = tmp_path / "run.json"
    robust_evaluation(net, images(5), 0.1, checkpoint=file)
    kept = file.read_bytes()
    ask, words = OTHERS[name]
    with pytest.raises(CheckpointError, match=words):
        ask(net, file)
    assert file.read_bytes() == kept


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def edit(text: str) -> str:
        told = json.loads(text)
        change(told)
        return json.dumps(told)

    return edit


DAMAGE: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "cut": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[]",
    "no rows": edited(lambda told: told.pop("rows")),
    "other letters": edited(lambda told: told["rows"]["clean"].update(verdicts="rrxrr")),
    "too few letters": edited(lambda told: told["rows"]["exact"].update(verdicts="rr")),
    "no seconds": edited(lambda told: told["rows"]["exact"].update(seconds="soon")),
    "question of another kind": edited(lambda told: told.update(question=3)),
    "another version": edited(lambda told: told.update(version=2)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused_and_kept(net: mv.Network, tmp_path: Path, name: str) -> None:
    file = tmp_path / "run.json"
    robust_evaluation(net, images(5), 0.1, checkpoint=file)
    file.write_text(DAMAGE[name](file.read_text()))
    kept = file.read_bytes()
    with pytest.raises(CheckpointError, match=r"run\.json"):
        robust_evaluation(net, images(5), 0.1, checkpoint=file)
    assert file.read_bytes() == kept


def test_a_solvers_word_is_counted(net: mv.Network, tmp_path: Path) -> None:
    data, file = images(20, 4), tmp_path / "run.json"
    method = Evaluator(bounds=(), verifier=mv.Verifier(search=mv.MILP()))
    found = robust_evaluation(net, data, 0.1, method=method, checkpoint=file)
    trusted = json.loads(file.read_text())["rows"]["exact"]["verdicts"].count("s")
    grades = [
        mv.verify(net, mv.robustness(net, mv.LinfBall(x.reshape(-1).astype(float), 0.1, clip=(0, 1)), int(y)),
                  method=mv.Verifier(search=mv.MILP()))
        for x, y in zip(data.images, data.labels, strict=True)
    ]  # fmt: skip
    assert trusted == sum(isinstance(v, mv.Holds) and v.grade is mv.Grade.SOLVER_TRUSTED for v in grades)
    assert (f"{trusted} of the images" in " ".join(found.remarks)) == (trusted > 0)
    assert np.isfinite(found["exact"].seconds)

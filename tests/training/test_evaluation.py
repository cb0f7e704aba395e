"""The table of errors: attacks below, bounds above, the exact error between, and right where it is known."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import milpverify as mv
from milpverify.attack.fgsm import Fgsm
from milpverify.attack.method import AttackResult
from milpverify.attack.pgd import Pgd
from milpverify.errors import BoundsError, InputError, OptionError
from milpverify.proof.evidence import Unknown
from milpverify.training.ball import Norm
from milpverify.training.datasets import ImageSet
from milpverify.training.error_table import RobustError, RobustEvaluation
from milpverify.training.evaluation import BALLS, Evaluator, robust_evaluation
from milpverify.training.models import mlp
from milpverify.training.trainer import Trainer
from tests.training.training_cases import CLASSES, SHAPE, images

NAMES = ["clean", "fgsm", "pgd", "interval", "dual", "alpha", "exact"]


@pytest.mark.parametrize("norm", [Norm(), Norm(clip=None), Norm(2.0), Norm(1.0)], ids=str)
def test_errors_stand_in_order_image_by_image(norm: Norm) -> None:
    trained = Trainer(epochs=4, batch_size=10, learning_rate=0.02).fit(mlp(SHAPE, (10, 8), CLASSES), images(60))
    net = mv.from_torch(trained.model, SHAPE)
    eps = {np.inf: 0.12, 2.0: 0.3, 1.0: 0.6}[norm.p]
    found = robust_evaluation(net, images(24, 1), eps, norm=norm)
    assert [e.name for e in found.errors] == NAMES
    exact = found["exact"]
    assert not exact.open.any()
    assert 0 < exact.wrong.sum() < 24  # else the order says nothing
    for name in ("clean", "fgsm", "pgd"):
        assert (found[name].wrong <= exact.wrong).all()
    for name in ("interval", "dual", "alpha"):
        assert (exact.wrong <= (found[name].wrong | found[name].open)).all()
    assert found["clean"].lower == found["clean"].upper
    assert found["pgd"].upper == 1.0


@dataclass(frozen=True)
class Counted(Pgd):
    """PGD that keeps the centres of the balls it was asked about."""

    asked: list[bytes] = field(default_factory=list, repr=False)

    def attack_all(self, net: mv.Network, cases: Sequence[mv.Case], **options: Any) -> tuple[AttackResult, ...]:
        self.asked.append(cases[0].region.center.tobytes())
        return super().attack_all(net, cases, **options)


def test_what_a_bound_proves_is_attacked_only_on_request_and_the_table_is_the_same() -> None:
    trained = Trainer(epochs=4, batch_size=10, learning_rate=0.02).fit(mlp(SHAPE, (10, 8), CLASSES), images(60))
    net, data = mv.from_torch(trained.model, SHAPE), images(24, 1)
    few, all_ = Counted(rounds=1), Counted(rounds=1)
    found = robust_evaluation(net, data, 0.06, method=Evaluator(pgd=few))
    whole = robust_evaluation(net, data, 0.06, method=Evaluator(pgd=all_, attack_proven=True))
    assert found.to_dict()["errors"][0]["name"] == "clean"
    for one, other in zip(found.errors, whole.errors, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.wrong, other.wrong)
        np.testing.assert_array_equal(one.open, other.open)
    right = ~found["clean"].wrong
    proven = np.logical_or.reduce([right & ~found[name].open for name in ("interval", "dual", "alpha")])
    assert 0 < proven.sum() < right.sum()
    assert len(all_.asked) == right.sum() and len(few.asked) == (right & ~proven).sum()
    assert set(few.asked) <= set(all_.asked)


def linear(seed: int) -> tuple[mv.Network, np.ndarray, np.ndarray]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)).eval()
    return (
        mv.from_torch(module, SHAPE),
        module[1].weight.detach().double().numpy(),
        module[1].bias.detach().double().numpy(),
    )


@pytest.mark.parametrize("p", [np.inf, 2.0, 1.0])
def test_the_exact_error_of_a_linear_network_is_the_closed_form(p: float) -> None:
    """Without a clip the least margin over the ball is (w_y - w_t).x + b_y - b_t - eps ||w_y - w_t||_q."""
    net, W, b = linear(0)
    data, eps = images(30), {np.inf: 0.05, 2.0: 0.2, 1.0: 0.5}[p]
    y = np.argmax(data.images.reshape(30, -1) @ W.T + b, axis=1)
    data = ImageSet(data.images, np.where(np.arange(30) % 5, y, (y + 1) % CLASSES))
    q = {np.inf: 1, 2.0: 2, 1.0: np.inf}[p]
    wrong = []
    for x, label in zip(data.images.reshape(30, -1).astype(float), data.labels, strict=True):
        others = [t for t in range(CLASSES) if t != label]
        rows, offset = W[label] - W[others], b[label] - b[others]
        wrong.append((rows @ x + offset - eps * np.linalg.norm(rows, ord=q, axis=1)).min() <= 0)
    assert 6 < sum(wrong) < 30
    found = robust_evaluation(net, data, eps, norm=Norm(p, None))
    np.testing.assert_array_equal(found["exact"].wrong, wrong)
    assert found["clean"].lower == 6 / 30
    for name in ("fgsm", "dual"):  # on a linear network one step attains the minimum, and the bound is it
        assert found[name].lower == found["exact"].lower or name == "dual"
        assert name == "fgsm" or found[name].upper == found["exact"].upper


def test_a_tie_is_an_error() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    with torch.no_grad():
        module[1].weight.fill_(0.25)
        module[1].bias.fill_(0.1)
    net = mv.from_torch(module, SHAPE)
    data = ImageSet(images(3).images, [0, 1, 0])
    assert robust_evaluation(net, data, 0.0)["clean"].lower == 1.0


@pytest.mark.parametrize("p", [np.inf, 2.0, 1.0])
def test_with_radius_zero_the_exact_error_is_the_clean_error(p: float) -> None:
    net, W, b = linear(1)
    data = images(12)
    y = np.argmax(data.images.reshape(12, -1) @ W.T + b, axis=1)
    data = ImageSet(data.images, np.where(np.arange(12) % 4, y, (y + 1) % CLASSES))
    found = robust_evaluation(net, data, 0.0, norm=Norm(p))
    assert found["clean"].lower == 3 / 12
    np.testing.assert_array_equal(found["exact"].wrong, found["clean"].wrong)
    assert not found["exact"].open.any()


def test_a_margin_that_float64_does_not_see_is_judged_exactly() -> None:
    """y_0 = 2**60 + 1 - 2**60 = 1 and y_1 = 0, while float64 gets 0 for both from left to right."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False)).double().eval()
    with torch.no_grad():
        module[1].weight.zero_()
        module[1].weight[0, :3] = torch.tensor([2.0**60, 1.0, -(2.0**60)])
    pixels = np.zeros((1, *SHAPE))
    pixels[0, 0, 0, :3] = 1.0
    net = mv.from_torch(module, SHAPE)
    assert robust_evaluation(net, ImageSet(pixels, [0]), 0.0)["clean"].lower == 0.0
    assert robust_evaluation(net, ImageSet(pixels, [1]), 0.0)["clean"].lower == 1.0


def random_module(seed: int) -> nn.Module:
    """A small network, every third one on coarse weights, so that ties occur."""
    rng = np.random.default_rng(seed)
    module = mlp((1, 2, 2), [int(n) for n in rng.integers(2, 5, rng.integers(0, 3))], 3, seed=seed).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(3.0)
            if seed % 3 == 0:
                p.copy_((2 * p).round() / 2)
    return module


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limit", [60.0, 1e-6])
def test_no_row_contradicts_the_exact_margin(seed: int, limit: float) -> None:
    """Errors for certain have a margin of at most 0, what is proven a larger one, by a MILP or (L2) a tree."""
    rng = np.random.default_rng(1000 + seed)
    p = (np.inf, 2.0, 1.0)[seed % 3]
    norm, eps = Norm(p, (0.0, 1.0) if seed % 2 else None), float(rng.choice([0.05, 0.1, 0.25]))
    net, pixels = mv.from_torch(random_module(seed), (1, 2, 2)), rng.integers(0, 5, (5, 1, 2, 2)) / 4
    labels = [int(np.argmax(net.forward(x.reshape(-1)))) for x in pixels]
    found = robust_evaluation(net, ImageSet(pixels, labels), eps, norm=norm, method=Evaluator(image_limit_s=limit))
    for i, (x, label) in enumerate(zip(pixels.reshape(5, -1), labels, strict=True)):
        prop = mv.robustness(net, BALLS[p](x, eps, clip=norm.clip), label)
        margin = mv.worst_margin(net, prop, method=None if p == 2.0 else mv.MILP())
        for row in found.errors[1:]:
            assert not row.wrong[i] or margin.upper <= 1e-7
            assert row.wrong[i] or row.open[i] or margin.upper > -1e-7
        exact = found["exact"]
        if limit == 60.0 and abs(margin.upper) > 1e-4:
            assert not exact.open[i] and exact.wrong[i] == (margin.upper < 0)


def test_what_runs_out_of_time_is_open_and_counts_above_only() -> None:
    trained = Trainer(epochs=2, batch_size=10).fit(mlp(SHAPE, (30, 30), CLASSES), images(60))
    method = Evaluator(bounds=(), image_limit_s=1e-9)
    found = robust_evaluation(mv.from_torch(trained.model, SHAPE), images(10, 1), 0.2, method=method)
    exact = found["exact"]
    assert exact.open.any()
    assert exact.lower < exact.upper == pytest.approx(exact.lower + exact.open.mean())
    assert not (exact.open & exact.wrong).any()


def test_ctrl_c_leaves_the_images_that_are_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    net, _, _ = linear(0)
    method = Evaluator(bounds=(), pgd=Fgsm())
    asked = []

    def interrupted(*_: object, **__: object) -> Unknown:
        asked.append(1)
        return Unknown(reason="interrupted", interrupted=True)

    monkeypatch.setattr("milpverify.training.evaluation.verify", interrupted)
    found = robust_evaluation(net, images(30), 0.01, method=method)
    assert found.interrupted and len(asked) == 1
    assert (found["exact"].open == ~found["exact"].wrong).all()


def test_rows_that_contradict_each_other_are_a_bug_that_is_told() -> None:
    yes, no = np.array([True, False]), np.array([False, False])
    attack, bound = RobustError("pgd", yes, ~yes, 0.0), RobustError("dual", no, no, 0.0)
    table = RobustEvaluation("images", 2, 0.1, Norm(), (attack, replace(bound, open=~no)))
    assert table["dual"].upper == 1.0
    with pytest.raises(BoundsError, match="image 0 is proven robust by dual"):
        RobustEvaluation("images", 2, 0.1, Norm(), (attack, bound))


def test_the_table_reads_as_text_and_as_json() -> None:
    net, _, _ = linear(0)
    found = robust_evaluation(net, images(4), 0.1, method=Evaluator(exact=False))
    assert [e["name"] for e in found.to_dict()["errors"]] == NAMES[:-1]
    lines = str(found).splitlines()
    assert "4 images of rows, linf eps 0.1" in lines[0] and len(lines) == 2 + len(NAMES[:-1])
    with pytest.raises(KeyError):
        found["exact"]


def test_the_table_is_saved_as_its_suffix_says(tmp_path: Path) -> None:
    net, _, _ = linear(0)
    found = robust_evaluation(net, images(4), 0.1)
    found.save(tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    found.save(tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == NAMES
    for row, e in zip(rows, found.errors, strict=True):
        assert float(row["at_least"]) == e.lower
        assert row["at_most"] == ("" if e.name in ("fgsm", "pgd") else str(e.upper))
    found.save(tmp_path / "t.md")
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert len(lines) == 4 + len(NAMES) and len({line.count("|") for line in lines[2:]}) == 1
    for name in ("t.txt", "none/t.md"):
        with pytest.raises(OptionError):
            found.save(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.json", "t.md"]


def test_what_does_not_fit_is_refused() -> None:
    net, _, _ = linear(0)
    with pytest.raises(OptionError, match=r"reads \(1, 1, 4, 4\)"):
        robust_evaluation(net, ImageSet(np.zeros((2, 1, 3, 3)), [0, 1]), 0.1)
    with pytest.raises(OptionError, match="axes in that order"):  # channels last, of the same size
        robust_evaluation(net, ImageSet(np.zeros((2, 2, 8, 1)), [0, 1]), 0.1)
    with pytest.raises(OptionError, match="labels up to 3"):
        robust_evaluation(net, ImageSet(np.zeros((2, *SHAPE)), [0, 3]), 0.1)
    with pytest.raises(OptionError, match="beyond the clip"):
        robust_evaluation(net, images(2), 0.1, norm=Norm(clip=(0.2, 0.3)))
    for given in ((net, images(2).images), ("net.onnx", images(2))):
        with pytest.raises(InputError, match=r"ImageSet|from_onnx"):
            robust_evaluation(*given, 0.1)  # type: ignore[arg-type]
    for limit in (0.0, -1.0, np.nan):
        with pytest.raises(OptionError, match="image_limit_s"):
            Evaluator(image_limit_s=limit)
    with pytest.raises(OptionError, match="one name"):
        Evaluator(bounds=(("pgd", mv.Interval()),))
    for eps in (-0.1, np.nan, "0.1"):
        with pytest.raises(OptionError, match="eps"):
            robust_evaluation(net, images(2), eps)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="clip"):
        robust_evaluation(net, images(2), 2.0)

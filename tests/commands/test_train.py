"""`train` on the command line: the three files it writes, what it says, and what it refuses before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import milpverify as mv
from milpverify.cli import main
from milpverify.tasks.progress import Clock
from milpverify.training.datasets import read_digits
from milpverify.training.evaluation import Evaluator, robust_evaluation
from milpverify.training.losses import Batch, LossValue
from milpverify.training.run import Run

QUICK = "--epochs 2 --images 100 --evaluate 5 --model mlp:8"

FACTORY = """
import torch
from torch import nn

def small(input_shape, n_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, n_classes))

def smooth(input_shape, n_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, n_classes), nn.Sigmoid())

def narrow(input_shape, n_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

def mismatched(input_shape, n_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3, n_classes))

def frozen(input_shape, n_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, n_classes).requires_grad_(False))

def failing(input_shape, n_classes):
    raise RuntimeError("no such luck")

def nothing(input_shape, n_classes):
    return None
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with models of one's own and a damaged data set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(FACTORY)
    (tmp_path / "broken.py").write_text("def small(:\n")
    (tmp_path / "own.txt").write_text("notes of my own\n")
    (tmp_path / "other.json").write_text('{"command": "verify"}')
    (tmp_path / "text.txt").write_text("not a checkpoint\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0")
    (tmp_path / "data" / "train-labels-idx1-ubyte").write_bytes(b"")
    return tmp_path


def train(capsys: pytest.CaptureFixture[str], words: str, status: int = 0) -> dict[str, Any]:
    """The JSON object of `train net.onnx ... --json`."""
    assert main(["train", "net.onnx", *words.split(), *QUICK.split(), "--json"]) == status
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize("loss", ["standard", "pgd", "interval", "dual", "dual-hinge"])
def test_every_loss_gives_a_network_and_a_report_about_it(
    folder: Path, capsys: pytest.CaptureFixture[str], loss: str
) -> None:
    found = train(capsys, f"--loss {loss} --eps 0.03 --ramp 1")
    assert found == json.loads((folder / "net.json").read_text())
    net = mv.from_onnx(folder / "net.onnx")
    assert found["network"]["fingerprint"] == net.fingerprint and net.sizes == (8,)
    assert len(found["result"]["training"]["epochs"]) == 2
    again = robust_evaluation(net, read_digits(0)[1].first(5), 0.03, method=Evaluator())
    told = {e["name"]: (e["lower"], e["upper"]) for e in found["result"]["evaluation"]["errors"]}
    assert told == {e.name: (e.lower, e.upper) for e in again.errors}
    text = (folder / "net.txt").read_text()
    assert "exact" in text and f"{loss} loss" in text
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(("net", "."))) == [
        "net.json",
        "net.onnx",
        "net.txt",
    ]


def test_equal_options_give_equal_networks_and_a_checkpoint_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--eps 0.03 --seed 4"
    whole = train(capsys, words)["network"]["fingerprint"]
    assert train(capsys, words)["network"]["fingerprint"] == whole
    assert train(capsys, "--eps 0.03 --seed 5")["network"]["fingerprint"] != whole
    first = QUICK.replace("--epochs 2", "--epochs 1").split()
    assert main(["train", "half.onnx", *words.split(), *first, "--checkpoint", "run.pt", "--json"]) == 0
    capsys.readouterr()
    assert train(capsys, f"{words} --checkpoint run.pt")["network"]["fingerprint"] == whole


def test_tightness_weights_reach_the_loss(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = []
    for weights in ("0 0", "0.1 0.1"):
        found = train(capsys, f"--eps 0.1 --tightness {weights}")
        losses.append(found["result"]["training"]["epochs"][0]["loss"])
        assert found["question"]["tightness"] == [float(w) for w in weights.split()]
    assert losses[1] > losses[0]


def test_losses_on_projections_are_called_estimates_and_the_judgement_is_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = "train net.onnx --eps 0.03 --epochs 2 --images 50 --evaluate 5 --model mlp:8-9 --json"
    for words, estimated in (("--projections 5", True), ("--projections 9", False), ("", False)):
        assert main([*common.split(), *words.split()]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [e["estimated"] for e in found["result"]["training"]["epochs"]] == [estimated] * 2
        text = (folder / "net.txt").read_text()
        for name in ("loss", "errors of the loss", "validation loss"):
            assert (f"{name}, estimated" in text) == estimated
        assert ("projections" in text.splitlines()[0]) == bool(words)
        net, test = mv.from_onnx(folder / "net.onnx"), read_digits(0)[1].first(5)
        judged = robust_evaluation(net, test, 0.03, method=Evaluator())
        told = found["result"]["evaluation"]["errors"]
        assert [(e["name"], e["lower"], e["upper"]) for e in told] == [
            (e.name, e.lower, e.upper) for e in judged.errors
        ]


def test_a_factory_of_ones_own_is_trained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "train net.onnx --eps 0.03 --epochs 1 --images 50 --evaluate 0 --model own.py:small"
    assert main(arguments.split()) == 0
    out = capsys.readouterr().out
    assert "own.py:small on 50 images of digits" in out and "wrote net.onnx" in out
    assert mv.from_onnx(folder / "net.onnx").sizes == (6,)


def test_images_that_lack_a_class_still_get_an_output_for_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "train net.onnx --eps 0.03 --epochs 1 --images 2 --evaluate 3 --model mlp:4"
    assert main(arguments.split()) == 0
    assert mv.from_onnx(folder / "net.onnx").n_outputs == 10


def test_validation_and_patience_reach_the_trainer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = train(capsys, "--loss standard --validation 0.2 --patience 1 --learning-rate 0.01")
    assert all(e["validation_loss"] is not None for e in found["result"]["training"]["epochs"])


def test_a_run_that_diverges_writes_the_last_good_network_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", "net.onnx", "--loss", "standard", *QUICK.split(), "--json"]
    one_epoch = [word if word != "2" else "1" for word in arguments]
    assert main(one_epoch) == 0
    good = json.loads(capsys.readouterr().out)["network"]["fingerprint"]
    step = Run._step

    def poisoned(self: Run, batch: Batch, where: str) -> LossValue:
        if where == "epoch 2, step 2":  # what a step that is too long leaves behind
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))
        return step(self, batch, where)

    monkeypatch.setattr(Run, "_step", poisoned)
    assert main(arguments) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["result"]["training"]["diverged"] and "epoch 2" in found["result"]["training"]["stopped"]
    assert found["network"]["fingerprint"] == mv.from_onnx(folder / "net.onnx").fingerprint == good


def test_ctrl_c_keeps_the_last_whole_epoch(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = Run._tell

    def stop(self: Run, stage: str, what: str) -> None:
        if stage == "epoch 2/2":
            raise KeyboardInterrupt
        tell(self, stage, what)

    monkeypatch.setattr(Run, "_tell", stop)
    found = train(capsys, "--loss standard", status=130)
    assert found["result"]["training"]["interrupted"] and found["result"]["evaluation"] is None
    assert np.isfinite(mv.from_onnx(folder / "net.onnx").forward(np.zeros(64))).all()


def test_ctrl_c_while_judging_keeps_the_network_and_what_is_known_of_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Clock, stage: str, what: str, **more: Any) -> None:
        raise KeyboardInterrupt

    train(capsys, "--loss standard --seed 1")
    monkeypatch.setattr(Clock, "tell", stop)
    assert main(["train", "net.onnx", "--loss", "standard", "--eps", "0.1", *QUICK.split()]) == 130
    told = json.loads((folder / "net.json").read_text())
    table = told["result"]["evaluation"]
    assert table["interrupted"] and [e["name"] for e in table["errors"]] == ["clean", "exact"]
    assert told["network"]["fingerprint"] == mv.from_onnx(folder / "net.onnx").fingerprint
    assert "(interrupted)" in (folder / "net.txt").read_text()


def test_a_radius_that_is_not_reached_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "train net.onnx --eps 0.1 --wait 1 --ramp 2 --images 50 --evaluate 0 --model mlp:4 --epochs".split()
    assert main([*arguments, "2"]) == 0
    assert "eps only reaches 0.05 in 2 epochs" in capsys.readouterr().out
    assert main([*arguments, "3"]) == 0
    assert "only reaches" not in capsys.readouterr().out


def test_progress_is_told_on_standard_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "train net.onnx --eps 0.03 --epochs 1 --images 50 --evaluate 1 --model mlp:4 --progress --json"
    assert main(arguments.split()) == 0
    out, err = capsys.readouterr()
    assert "epoch 1/1" in err and "judge" in err
    json.loads(out)


BAD = {
    "no file": "--eps 0.1",
    "two files": "a.onnx b.onnx --eps 0.1",
    "another suffix": "net.pt --eps 0.1",
    "missing folder": "none/net.onnx --eps 0.1",
    "no eps": "net.onnx",
    "eps of zero": "net.onnx --eps 0",
    "a report over other text": "own.onnx --eps 0.1",
    "a report over other json": "other.onnx --eps 0.1",
    "negative eps": "net.onnx --eps -0.1",
    "eps NaN": "net.onnx --eps nan",
    "eps beyond the clip": "net.onnx --eps 1.5",
    "eps beyond a narrow clip": "net.onnx --eps 0.6 --ramp 5 --clip 0 0.5",
    "clip within the pixels": "net.onnx --eps 0.1 --clip 0.2 0.5",
    "clip upside down": "net.onnx --eps 0.1 --clip 1 0",
    "unknown loss": "net.onnx --eps 0.1 --loss hope",
    "clean share of the standard loss": "net.onnx --loss standard --clean-share 0.5",
    "clean share out of range": "net.onnx --eps 0.1 --clean-share 2",
    "unknown data": "net.onnx --eps 0.1 --data cifar",
    "idx without a folder": "net.onnx --eps 0.1 --data idx:",
    "missing data": "net.onnx --eps 0.1 --data idx:none",
    "damaged data": "net.onnx --eps 0.1 --data idx:data",
    "unknown model": "net.onnx --eps 0.1 --model resnet",
    "broken widths": "net.onnx --eps 0.1 --model mlp:10-",
    "width of zero": "net.onnx --eps 0.1 --model mlp:0",
    "missing model file": "net.onnx --eps 0.1 --model none.py:small",
    "missing factory": "net.onnx --eps 0.1 --model own.py:large",
    "file that does not parse": "net.onnx --eps 0.1 --model broken.py:small",
    "factory that fails": "net.onnx --eps 0.1 --model own.py:failing",
    "factory of nothing": "net.onnx --eps 0.1 --model own.py:nothing",
    "factory for other images": "net.onnx --eps 0.1 --model own.py:mismatched",
    "model without weights to train": "net.onnx --eps 0.1 --model own.py:frozen",
    "model larger than memory": "net.onnx --eps 0.1 --model mlp:1000000000000",
    "model that is not piecewise linear": "net.onnx --eps 0.1 --model own.py:smooth",
    "model with too few outputs": "net.onnx --eps 0.1 --model own.py:narrow",
    "no such checkpoint": "net.onnx --eps 0.1 --checkpoint text.txt",
    "checkpoint in a missing folder": "net.onnx --eps 0.1 --checkpoint none/run.pt",
    "checkpoint that is a folder": "net.onnx --eps 0.1 --checkpoint data",
    "checkpoint that is the network": "net.onnx --eps 0.1 --checkpoint net.onnx",
    "checkpoint that is the report": "net.onnx --eps 0.1 --checkpoint ./net.json",
    "tightness of another loss": "net.onnx --eps 0.1 --loss pgd --tightness 0.1 0.1",
    "negative tightness": "net.onnx --eps 0.1 --tightness -1 0.1",
    "projections of another loss": "net.onnx --eps 0.1 --loss interval --projections 50",
    "projections over L1 balls": "net.onnx --eps 0.1 --norm l1 --projections 50",
    "projections and tightness": "net.onnx --eps 0.1 --projections 50 --tightness 0.1 0.1",
    "no projections": "net.onnx --eps 0.1 --projections 0",
    "projections that are no number": "net.onnx --eps 0.1 --projections many",
    "no epochs": "net.onnx --eps 0.1 --epochs 0",
    "no learning": "net.onnx --eps 0.1 --learning-rate 0",
    "negative ramp": "net.onnx --eps 0.1 --ramp -1",
    "validation on everything": "net.onnx --eps 0.1 --validation 1",
    "patience without validation": "net.onnx --eps 0.1 --patience 3",
    "unknown device": "net.onnx --eps 0.1 --device toaster",
    "device without numbers": "net.onnx --eps 0.1 --device meta",
    "negative number of images": "net.onnx --eps 0.1 --evaluate -1",
}


@pytest.mark.parametrize("words", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["train", *words.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("milpverify: error: ") and err.count("\n") == 1 and "Traceback" not in err
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in str(path)}
    assert after == before


def test_a_checkpoint_of_another_architecture_is_refused_and_kept(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(capsys, "--loss standard --checkpoint run.pt")
    kept = {name: (folder / name).read_bytes() for name in ("run.pt", "net.onnx", "net.json", "net.txt")}
    arguments = f"train net.onnx --loss standard --checkpoint run.pt {QUICK} --model mlp:9"
    assert main(arguments.split()) == 2
    assert "another architecture" in capsys.readouterr().err
    assert {name: (folder / name).read_bytes() for name in kept} == kept

"""`evaluate` on the command line: the table it shows and writes, what it goes on from, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import milpverify as mv
from milpverify.cli import main
from milpverify.tasks.progress import Clock
from milpverify.training.datasets import ImageSet
from milpverify.training.evaluation import robust_evaluation
from milpverify.training.models import mlp

SHAPE = (1, 3, 3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a network of nine inputs and three classes, and images for it."""
    monkeypatch.chdir(tmp_path)
    mv.save_onnx(mlp(SHAPE, (6, 5), 3, seed=1), SHAPE, "net.onnx")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 3, 3), dtype=np.uint8)
    net = mv.from_onnx("net.onnx")
    labels = [int(np.argmax(net.forward(x.reshape(-1) / 255))) for x in images]
    labels[3] = (labels[3] + 1) % 3
    np.savez("data.npz", images=images, labels=labels)
    np.savez("other.npz", images=images[:, :2], labels=labels)
    np.savez("many.npz", images=images, labels=np.array(labels) + 5)
    np.savez("lacking.npz", images=images)
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4 and no more")
    (tmp_path / "text.json").write_text("{}")
    return tmp_path


def evaluate(capsys: pytest.CaptureFixture[str], words: str, status: int = 0) -> dict[str, Any]:
    """The JSON object of `evaluate net.onnx ... --json`."""
    assert main(["evaluate", "net.onnx", "--data", "data.npz", *words.split(), "--json"]) == status
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_command_tells_what_the_function_does(folder: Path, capsys: pytest.CaptureFixture[str], norm: str) -> None:
    found = evaluate(capsys, f"--eps 0.05 --images 5 --norm {norm}")
    arrays = np.load("data.npz")
    data = ImageSet(arrays["images"][:5, None] / np.float32(255), arrays["labels"][:5])
    p = {"linf": np.inf, "l2": 2.0, "l1": 1.0}[norm]
    again = robust_evaluation(mv.from_onnx("net.onnx"), data, 0.05, norm=mv.Norm(p))
    told = {e["name"]: (e["wrong"], e["open"]) for e in found["result"]["errors"]}
    assert told == {e.name: (list(np.flatnonzero(e.wrong)), list(np.flatnonzero(e.open))) for e in again.errors}
    assert told["clean"] == ([3], []) and found["network"]["fingerprint"] == mv.from_onnx("net.onnx").fingerprint


def test_a_normalisation_is_folded_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """(x - 0) / 0.5 before the network is the same as a network that doubles its input."""
    found = evaluate(capsys, "--eps 0.02 --mean 0 --std 0.5 --no-exact")
    arrays = np.load("data.npz")
    net = mv.from_onnx("net.onnx")
    wrong = [
        i for i, (x, y) in enumerate(zip(arrays["images"], arrays["labels"], strict=True))
        if np.argmax(net.forward(2.0 * (x / np.float32(255)).reshape(-1).astype(float))) != y
    ]  # fmt: skip
    assert found["result"]["errors"][0]["wrong"] == wrong
    assert [e["name"] for e in found["result"]["errors"]][-1] == "alpha"


def test_the_table_is_written_as_its_suffix_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix, start in ((".md", "Errors on 5 images of data[:5]"), (".csv", "method,at_least"), (".json", "{\n")):
        place = folder / f"table{suffix}"
        assert main(f"evaluate net.onnx --data data.npz --eps 0.05 --images 5 --table {place}".split()) == 0
        assert "exact" in capsys.readouterr().out
        assert place.read_text().startswith(start) and "exact" in place.read_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_picture_shows_the_tables_shares(folder: Path, capsys: pytest.CaptureFixture[str], theme: str) -> None:
    assert main("evaluate net.onnx --data data.npz --eps 0.1 --plot p.png --image-timeout 1e-6".split()) in (0, 1)
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")
    arrays = np.load("data.npz")
    data = ImageSet(arrays["images"][:, None] / np.float32(255), arrays["labels"])
    table = robust_evaluation(mv.from_onnx("net.onnx"), data, 0.1)
    certain, open_ = mv.plot_errors(table, mv.Theme(theme)).axes[0].containers
    assert [bar.get_width() for bar in certain] == pytest.approx([100 * e.lower for e in table.errors])
    most = [bar.get_x() + bar.get_width() for bar in open_]
    assert most == pytest.approx([100 * (e.lower if e.name in ("fgsm", "pgd") else e.upper) for e in table.errors])


def test_a_checkpoint_is_gone_on_from_and_answers_without_work(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(capsys, "--eps 0.2 --checkpoint run.json")

    def work(*_: object, **__: object) -> None:
        raise AssertionError("nothing is left to be judged")

    for name in ("_clean", "_attacked", "_bounded", "_decided"):
        monkeypatch.setattr(f"milpverify.training.evaluation._Evaluation.{name}", work)
    again = evaluate(capsys, "--eps 0.2 --checkpoint run.json")
    assert again["result"] == whole["result"]
    kept = (folder / "run.json").read_bytes()
    assert main("evaluate net.onnx --data data.npz --eps 0.1 --checkpoint run.json".split()) == 2
    assert "another eps" in capsys.readouterr().err and (folder / "run.json").read_bytes() == kept


def test_ctrl_c_gives_the_rows_so_far(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = Clock.tell

    def stop(self: Clock, stage: str, what: str, **more: Any) -> None:
        if stage == "alpha":
            raise KeyboardInterrupt
        tell(self, stage, what, **more)

    monkeypatch.setattr(Clock, "tell", stop)
    assert main("evaluate net.onnx --data data.npz --eps 0.2 --table t.json".split()) == 130
    assert "(interrupted)" in capsys.readouterr().out
    told = json.loads((folder / "t.json").read_text())
    assert told["interrupted"]
    assert [e["name"] for e in told["errors"]] == ["clean", "interval", "dual", "alpha", "exact"]
    exact = told["errors"][-1]
    assert set(told["errors"][1]["wrong"]) <= set(exact["wrong"]) and exact["open"]


def test_torch_is_not_needed(folder: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from milpverify.cli import main; sys.exit(main(sys.argv[1:]))"
    words = "evaluate net.onnx --data data.npz --eps 0.05 --images 2".split()
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert "exact" in done.stdout


def test_progress_is_told_on_standard_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("evaluate net.onnx --data data.npz --eps 0.05 --progress --json".split()) == 0
    out, err = capsys.readouterr()
    assert "evaluate:" in err and "clean" in err
    json.loads(out)


BAD = {
    "no network": "--eps 0.1 --data data.npz",
    "no eps": "net.onnx --data data.npz",
    "negative eps": "net.onnx --data data.npz --eps -0.1",
    "eps beyond the clip": "net.onnx --data data.npz --eps 1.5",
    "clip within the pixels": "net.onnx --data data.npz --eps 0.1 --clip 0.4 0.6",
    "missing network": "none.onnx --data data.npz --eps 0.1",
    "no network but data": "data.npz --data data.npz --eps 0.1",
    "unknown data": "net.onnx --data cifar --eps 0.1",
    "missing data": "net.onnx --data none.npz --eps 0.1",
    "damaged data": "net.onnx --data broken.npz --eps 0.1",
    "data without labels": "net.onnx --data lacking.npz --eps 0.1",
    "images of another size": "net.onnx --data other.npz --eps 0.1",
    "digits for another network": "net.onnx --eps 0.1",
    "labels beyond the classes": "net.onnx --data many.npz --eps 0.1",
    "missing idx folder": "net.onnx --data idx:none --eps 0.1",
    "mean without std": "net.onnx --data data.npz --eps 0.1 --mean 0.1",
    "std of zero": "net.onnx --data data.npz --eps 0.1 --mean 0.1 --std 0",
    "picture of another kind": "net.onnx --data data.npz --eps 0.1 --plot p.bmp",
    "picture in a missing folder": "net.onnx --data data.npz --eps 0.1 --plot none/p.png",
    "table of another kind": "net.onnx --data data.npz --eps 0.1 --table t.xlsx",
    "table in a missing folder": "net.onnx --data data.npz --eps 0.1 --table none/t.md",
    "no such checkpoint": "net.onnx --data data.npz --eps 0.1 --checkpoint text.json",
    "checkpoint that is the data": "net.onnx --data data.npz --eps 0.1 --checkpoint data.npz",
    "checkpoint that is a folder": "net.onnx --data data.npz --eps 0.1 --checkpoint .",
    "checkpoint that is the table": "net.onnx --data data.npz --eps 0.1 --checkpoint t.json --table t.json",
    "no images": "net.onnx --data data.npz --eps 0.1 --images 0",
    "no time": "net.onnx --data data.npz --eps 0.1 --image-timeout 0",
}


@pytest.mark.parametrize("words", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["evaluate", *words.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("milpverify: error: ") and err.count("\n") == 1 and "Traceback" not in err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

"""Bad input: exit status 2, one line on standard error, no traceback, no file left behind."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from milpverify.cli import main
from tests.paths import need
from tests.tiny import PROPERTY, write_input, write_network, write_property


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with good and bad files, made the working folder."""
    monkeypatch.chdir(tmp_path)
    write_network(tmp_path / "good.onnx")
    write_network(tmp_path / "nan.onnx", weight=float("nan"))
    write_network(tmp_path / "inf.onnx", weight=float("inf"))
    write_network(tmp_path / "sigmoid.onnx", op="Sigmoid")
    good = (tmp_path / "good.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(good[: len(good) // 2])
    (tmp_path / "cut.onnx.gz").write_bytes(gzip.compress(good)[:-20])
    (tmp_path / "text.onnx").write_text("not a network\n")
    (tmp_path / "empty.onnx").write_bytes(b"")
    write_input(tmp_path / "x.npy", 1.0)
    write_input(tmp_path / "long.npy", 1.0, 2.0, 3.0)
    write_input(tmp_path / "nan.npy", float("nan"))
    np.save(tmp_path / "words.npy", np.array(["a"]))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.ones(1), b=np.ones(1))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:40])
    (tmp_path / "bad.csv").write_text("1, two\n")
    write_property(tmp_path / "good.vnnlib", "0.75", "1.25")
    for name, old, new in (
        ("undeclared", "(<= Y_0 Y_1)", "(<= Y_0 Y_7)"),
        ("strict", "(<= Y_0 Y_1)", "(< Y_0 Y_1)"),
        ("product", "(<= Y_0 Y_1)", "(<= (* Y_0 Y_1) 1.0)"),
        ("cut", "(assert (<= Y_0 Y_1))", "(assert (<= Y_0"),
        (
            "other",
            "(declare-const X_0 Real)",
            "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(assert (<= X_1 X_1))",
        ),
    ):
        (tmp_path / f"{name}.vnnlib").write_text(PROPERTY.format(low="0.75", high="1.25").replace(old, new))
    write_property(tmp_path / "empty.vnnlib", "1.25", "0.75")
    (tmp_path / "bad.json").write_text('{"format": "something else"}')
    return tmp_path


BALL = "good.onnx --input x.npy --eps 0.25"
BAD = {
    "missing network": "verify none.onnx good.vnnlib",
    "folder as network": "verify . good.vnnlib",
    "truncated network": "verify cut.onnx good.vnnlib",
    "truncated gzip": "verify cut.onnx.gz good.vnnlib",
    "text as network": "verify text.onnx good.vnnlib",
    "empty network": "verify empty.onnx good.vnnlib",
    "NaN weight": "verify nan.onnx good.vnnlib",
    "infinite weight": "verify inf.onnx good.vnnlib",
    "unsupported operator": "verify sigmoid.onnx good.vnnlib",
    "missing property": "verify good.onnx none.vnnlib",
    "undeclared variable": "verify good.onnx undeclared.vnnlib",
    "strict inequality": "verify good.onnx strict.vnnlib",
    "product": "verify good.onnx product.vnnlib",
    "truncated property": "verify good.onnx cut.vnnlib",
    "property of another network": "verify good.onnx other.vnnlib",
    "empty region": "verify good.onnx empty.vnnlib",
    "not a property": "verify good.onnx bad.json",
    "wrong input shape": "verify good.onnx --input long.npy --eps 0.25",
    "NaN input": "verify good.onnx --input nan.npy --eps 0.25",
    "words as input": "verify good.onnx --input words.npy --eps 0.25",
    "pickled input": "verify good.onnx --input objects.npy --eps 0.25",
    "truncated input": "verify good.onnx --input cut.npy --eps 0.25",
    "missing input": "verify good.onnx --input none.npy --eps 0.25",
    "broken text input": "verify good.onnx --input bad.csv --eps 0.25",
    "which array": "verify good.onnx --input two.npz --eps 0.25",
    "unknown array": "verify good.onnx --input two.npz --key c --eps 0.25",
    "index out of range": "verify good.onnx --input long.npy --index 3 --eps 0.25",
    "negative eps": "verify good.onnx --input x.npy --eps -0.1",
    "eps NaN": "verify good.onnx --input x.npy --eps nan",
    "eps infinite": "verify good.onnx --input x.npy --eps inf",
    "eps no number": "verify good.onnx --input x.npy --eps small",
    "no eps": "verify good.onnx --input x.npy",
    "nothing asked": "verify good.onnx",
    "no file at all": "verify",
    "too many files": "verify good.onnx good.vnnlib more.vnnlib",
    "label out of range": f"verify {BALL} --label 2",
    "negative label": f"verify {BALL} --label -1",
    "target is the label": f"verify {BALL} --label 0 --targets 0",
    "target out of range": f"verify {BALL} --label 0 --targets 5",
    "region outside the clip": f"verify {BALL} --clip 2 3",
    "clip upside down": f"verify {BALL} --clip 1 0",
    "clip NaN": f"verify {BALL} --clip nan 1",
    "time limit 0": f"verify {BALL} --timeout 0",
    "negative time limit": f"verify {BALL} --timeout -3",
    "time limit NaN": f"verify {BALL} --timeout nan",
    "unknown norm": f"verify {BALL} --norm l3",
    "mean without std": f"verify {BALL} --mean 0.5",
    "mean without a space": f"verify {BALL} --mean 0.5 --std 0.25",
    "space without mean": f"verify {BALL} --eps-space pixel",
    "std of zero": f"verify {BALL} --mean 0.5 --std 0 --eps-space input",
    "means of other channels": f"verify {BALL} --mean 0.5,0.5,0.5 --std 1 --eps-space pixel",
    "property and eps": "verify good.onnx good.vnnlib --eps 0.1",
    "unknown option": f"verify {BALL} --fast",
    "shortened option": f"verify {BALL} --time 3",
    "negative seed": f"verify {BALL} --seed -1",
    "no thread": f"verify {BALL} --threads 0",
    "no worker": f"verify {BALL} --workers 0",
    "result in a missing folder": f"verify {BALL} --result none/result.txt",
    "result over the network": f"verify {BALL} --result good.onnx",
    "result on a device": f"verify {BALL} --result /dev/null",
    "gap of zero": f"margin {BALL} --gap 0",
    "no end to the search": "epsilon good.onnx --input x.npy",
    "negative eps-max": "epsilon good.onnx --input x.npy --eps-max -1",
    "an input in place of the property": "verify good.onnx x.npy",
    "a property in place of the network": "verify good.vnnlib good.onnx",
    "a PyTorch file": "verify model.pt good.vnnlib",
    "eps over 0": "verify good.onnx --input x.npy --eps 8/0",
    "unknown bound method": f"bounds {BALL} --methods interval,guess",
    "unknown suffix": f"export {BALL} model.txt",
    "model in a missing folder": f"export {BALL} none/model.lp",
    "detect on a property": "detect good.onnx good.vnnlib",
    "demo into a file": "demo --out good.onnx",
    "unknown command": "prove good.onnx good.vnnlib",
    "no command": "",
}


@pytest.mark.parametrize("words", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    arguments = words.split()
    if words.startswith("verify") and "--result" not in words:
        arguments += ["--result", "result.txt"]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("milpverify: error: ") and err.endswith("\n")
    assert err.count("\n") == 1 and "Traceback" not in err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("unsupported operator", ["Sigmoid", "'activation'"]),
        ("NaN weight", ["nan"]),
        ("undeclared variable", ["undeclared.vnnlib:6", "Y_7"]),
        ("strict inequality", ["strict.vnnlib:6", "strict"]),
        ("product", ["product.vnnlib:6"]),
        ("wrong input shape", ["(3,)", "(1, 1)"]),
        ("label out of range", ["2 classes"]),
        ("region outside the clip", ["clip"]),
        ("time limit 0", ["time limit", "positive"]),
        ("missing network", ["none.onnx"]),
        ("an input in place of the property", ["--input x.npy"]),
        ("a property in place of the network", ["good.vnnlib", "NET first"]),
        ("a PyTorch file", ["torch.onnx.export"]),
        ("eps over 0", ["8/255"]),
        ("no end to the search", ["--clip", "--eps-max"]),
    ],
)
def test_the_line_names_the_place(folder: Path, capsys: pytest.CaptureFixture[str], name: str, told: list[str]) -> None:
    main(BAD[name].split())
    err = capsys.readouterr().err
    for part in told:
        assert part in err


def test_an_array_with_the_axes_in_another_order_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from milpverify.commands.inputs import _check_axes
    from milpverify.errors import InputError

    for shape in ((3, 4, 5), (1, 3, 4, 5), (60,), (1, 60)):
        _check_axes(Path("x.npy"), shape, (1, 3, 4, 5))
    with pytest.raises(InputError, match="Transpose"):
        _check_axes(Path("x.npy"), (4, 5, 3), (1, 3, 4, 5))
    with pytest.raises(InputError, match="Flatten"):
        _check_axes(Path("x.npy"), (4, 5), (1, 20, 1))


def test_the_published_unsupported_network_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = need("unsupported_ops", "onnx", "mnist_concat.onnx")
    [prop] = sorted(need("unsupported_ops", "vnnlib").rglob("*.vnnlib"))
    assert main(["verify", str(net), str(prop), "--result", str(tmp_path / "result.txt")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Sigmoid" in err
    assert list(tmp_path.iterdir()) == []

"""ONNX files hold exactly the module's weights, and no file is lost to one that cannot be written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import milpverify as mv
from milpverify.errors import NetworkError, OptionError, UnsupportedError
from milpverify.training.models import mlp, wong_small
from milpverify.training.to_onnx import check_writable_as_onnx, save_onnx

SHAPE = (1, 8, 8)

MODULES: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp(SHAPE, (12, 9), 10),
    "wong-small": lambda: wong_small(SHAPE, 10),
    "no biases": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)),
    "nested, with dropout": lambda: nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, stride=(2, 1), padding=(1, 0), dilation=2, bias=False), nn.ReLU()),
        nn.Conv2d(4, 6, 2, groups=2),
        nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Identity(), nn.LazyLinear(3)),
    ),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    module = MODULES[name]()
    module.eval()(torch.zeros(1, *SHAPE))  # a lazy layer takes its shape
    return module.train()


@pytest.mark.parametrize("name", MODULES)
def test_what_is_written_is_the_module_exactly(tmp_path: Path, name: str) -> None:
    module, path = made(name), tmp_path / "net.onnx"
    written = save_onnx(module, SHAPE, path, "a note")
    assert module.training
    read = mv.from_onnx(path)
    assert read.fingerprint == written.fingerprint == mv.from_torch(module.eval(), SHAPE).fingerprint
    x = np.random.default_rng(0).random((1, *SHAPE)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {session.get_inputs()[0].name: x})[0]
    with torch.no_grad():
        np.testing.assert_allclose(theirs, module(torch.tensor(x)).numpy(), rtol=1e-5, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


class Negative(nn.ReLU):
    """A subclass that computes something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


REFUSED: dict[str, nn.Module] = {
    "another layer": nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Sigmoid()),
    "a subclass": nn.Sequential(nn.Flatten(), nn.Linear(64, 3), Negative()),
    "another flatten": nn.Sequential(nn.Flatten(2), nn.Linear(64, 3)),
    "reflection": nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(128, 3)),
    "padding in words": nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.Flatten(), nn.Linear(128, 3)),
    "float64": nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_refused_and_no_file_touched(tmp_path: Path, name: str) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("as it was")
    with pytest.raises(UnsupportedError, match="save_onnx"):
        check_writable_as_onnx(REFUSED[name])
    with pytest.raises(UnsupportedError, match="save_onnx"):
        save_onnx(REFUSED[name], SHAPE, path)
    assert path.read_text() == "as it was"
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_a_shape_that_the_module_does_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="does not run on an input of shape"):
        save_onnx(made("mlp"), (1, 9, 9), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot write"):
        save_onnx(made("mlp"), SHAPE, tmp_path / "none" / "net.onnx")


def test_networks_of_the_papers_have_their_published_sizes() -> None:
    net = mv.from_torch(wong_small((1, 28, 28), 10).eval(), (1, 28, 28))
    assert net.sizes == (3136, 1568, 100)
    assert mv.from_torch(mlp((1, 28, 28), (100, 100), 10).eval(), (1, 28, 28)).sizes == (100, 100)


def test_equal_seeds_make_equal_modules_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    a, b, c = mlp(SHAPE, (5,), 3, seed=4), mlp(SHAPE, (5,), 3, seed=4), mlp(SHAPE, (5,), 3, seed=5)
    assert torch.equal(torch.rand(2), expected)
    same = [torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True)]
    other = [torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters(), strict=True)]
    assert all(same) and not any(other)


@pytest.mark.parametrize("make", [lambda: mlp(SHAPE, (5, 0), 3), lambda: wong_small((64,), 3)])
def test_shapes_that_make_no_network_are_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(OptionError):
        make()

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from milpverify.errors import NetworkError, OptionError
from milpverify.network.exact import forward_exact
from milpverify.network.from_onnx import from_onnx
from milpverify.network.from_torch import from_torch
from tests.network.onnx_cases import build, node, write
from tests.network.torch_cases import CASES, IMAGE, Lambda, Residual, TorchCase


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_lowered_module_computes_what_torch_computes(case: TorchCase) -> None:
    module = case.module()
    net = from_torch(module, case.shape)
    assert net.input_shape == (1, *case.shape)
    for seed, spread in enumerate((0.2, 1.0, 1.0, 5.0)):
        x = spread * np.random.default_rng(seed).standard_normal(net.n_inputs).astype(np.float32)
        with torch.no_grad():
            theirs = module(torch.tensor(x).reshape(net.input_shape).clone()).numpy()
        assert net.output_shape == theirs.shape
        np.testing.assert_allclose(net.forward(x.astype(np.float64)), theirs.reshape(-1), rtol=2e-5, atol=2e-5)
    exact = np.array([float(y) for y in forward_exact(net, [float(v) for v in x])])
    np.testing.assert_allclose(net.forward(x.astype(np.float64)), exact, rtol=1e-11, atol=1e-11)


def test_the_module_is_not_changed_and_gradients_stay_on() -> None:
    module = TorchCase("", Residual).module()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    flags = [p.requires_grad for p in module.parameters()]
    first = from_torch(module, IMAGE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert [p.requires_grad for p in module.parameters()] == flags == [True] * len(flags)
    assert torch.is_grad_enabled() and not module.training
    nn.init.zeros_(module.first.weight)  # type: ignore[attr-defined, arg-type]
    assert from_torch(module, IMAGE).fingerprint != first.fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_does_not_follow_later_training(dtype: torch.dtype) -> None:
    module = nn.Linear(3, 2).to(dtype).eval()
    net = from_torch(module, (3,))
    y = net.forward(np.ones(3))
    with torch.no_grad():
        module.weight += 1
        module.bias += 1
    np.testing.assert_array_equal(net.forward(np.ones(3)), y)


def test_weights_and_written_numbers_are_exactly_those_torch_uses() -> None:
    module = nn.Sequential(nn.Linear(2, 1), nn.LeakyReLU(0.01)).eval()
    nn.init.constant_(module[0].weight, -0.1)
    nn.init.constant_(module[0].bias, 0.3)
    net = from_torch(module, (2,))
    w, b, slope = (Fraction(float(np.float32(v))) for v in (-0.1, 0.3, 0.01))
    assert forward_exact(net, [Fraction(7, 3), Fraction(1)]) == (slope * (w * Fraction(10, 3) + b),)
    assert net.approximations == ()
    assert [layer.name for layer in net.layers] == ["leaky_relu_1"]


def test_written_numbers_are_rounded_to_the_type_they_meet() -> None:
    net = from_torch(Lambda(lambda m, x: x.double() * 0.1 + x * 0.1).eval(), (6,))
    assert forward_exact(net, [1] * 6)[0] == Fraction(0.1) + Fraction(float(np.float32(0.1)))


def test_double_modules_are_exact_in_float64() -> None:
    module = nn.Linear(2, 1).double().eval()
    net = from_torch(module, (2,))
    w, b = module.weight.detach().numpy(), module.bias.detach().numpy()
    assert forward_exact(net, [1, 1]) == (Fraction(w[0, 0]) + Fraction(w[0, 1]) + Fraction(b[0]),)


def test_a_module_and_its_onnx_export_are_the_same_function(tmp_path: Path) -> None:
    module = TorchCase(
        "", lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(90, 4), nn.LeakyReLU())
    ).module()
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    nodes = [node("Conv", "x 0.weight 0.bias", "a"), node("Relu", "a", "b"), node("Flatten", "b", "c"),
             node("Gemm", "c 3.weight 3.bias", "d", transB=1), node("LeakyRelu", "d", alpha=0.01)]  # fmt: skip
    path = write(tmp_path, build(nodes, weights, (1, *IMAGE)))
    ours, theirs = from_torch(module, IMAGE), from_onnx(path)
    x = [Fraction(n % 7, 3) - 1 for n in range(ours.n_inputs)]
    assert forward_exact(ours, x) == forward_exact(theirs, x)


def test_constants_combined_by_torch_are_noted() -> None:
    (note,) = from_torch(Lambda(lambda m, x: x @ (m.w * 0.3)).eval(), (6,)).approximations
    assert "constants were combined by torch" in note


def refusal(forward: Callable[[Lambda, Tensor], Tensor] | nn.Module, shape: tuple[int, ...] = (6,)) -> str:
    """The message of the error that a module raises; one line that ends with a remedy."""
    module = forward if isinstance(forward, nn.Module) else Lambda(forward)
    with pytest.raises(NetworkError) as caught:
        from_torch(module.eval(), shape)
    message = str(caught.value)
    assert message.startswith("from_torch: ") and "\n" not in message and message.endswith(".")
    return message


REFUSED: list[tuple[Callable[[Any, Tensor], Any], str]] = [
    (lambda m, x: torch.sigmoid(x), "operator sigmoid (node 'sigmoid') is not piecewise linear"),
    (lambda m, x: functional.softmax(x, 1), "softmax"),
    (lambda m, x: x.argmax(1), "operator argmax"),
    (lambda m, x: x * x, "multiplies two values"),
    (lambda m, x: x / x, "divides by a value"),
    (lambda m, x: 1 / x, "not piecewise linear"),
    (lambda m, x: x @ x.t(), "multiplies two values"),
    (lambda m, x: x.max(1).indices, "returns positions"),
    (lambda m, x: x.clamp(m.c, m.c + 1), "given by a tensor"),
    (lambda m, x: torch.where(x > 0, x, 3 * x), "operator"),
    (lambda m, x: x.half().float(), "casts to torch.float16"),
    (lambda m, x: x + torch.rand(6), "draws random numbers"),
    (lambda m, x: functional.dropout(x, 0.5, True), "random"),
    (lambda m, x: x / torch.zeros(6), "division by zero"),
    (lambda m, x: torch.log(m.c.abs() * 0) + x, "finite"),
    (lambda m, x: m.c, "does not depend on the input"),
    (lambda m, x: (x, x), "1 inputs and 2 outputs"),
    (lambda m, x: x if x.sum() > 0 else -x, "torch.export cannot trace"),
    (lambda m, x: x @ m.w.t(), "torch.export cannot trace"),
    (lambda m, x: functional.avg_pool2d(x[None, None], (1, 2), divisor_override=3), "divisor_override=3"),
    (lambda m, x: x.sum(1, dtype=torch.float64), "dtype=torch.float64"),
    (lambda m, x: torch.div(x, 2, rounding_mode="floor"), "rounding_mode='floor'"),
]  # fmt: skip


@pytest.mark.parametrize(("forward", "fragment"), REFUSED, ids=[fragment for _, fragment in REFUSED])
def test_what_is_not_read_is_refused_by_name(forward: Callable[[Any, Tensor], Any], fragment: str) -> None:
    assert fragment in refusal(forward)


def test_the_module_path_is_named() -> None:
    inner = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.ReLU(), nn.Tanh()))
    assert "operator tanh (module '1.1') is not piecewise linear" in refusal(inner)
    assert "(module '0')" in refusal(nn.Sequential(nn.ConvTranspose2d(2, 2, 3)), IMAGE)
    assert "uses windows of several sizes" in refusal(nn.Sequential(nn.AdaptiveAvgPool2d(4)), IMAGE)


def test_batch_statistics_are_refused() -> None:
    assert "statistics of its batch" in refusal(nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False)), IMAGE)


def test_buffers_that_change_are_refused() -> None:
    def forward(m: Lambda, x: Tensor) -> Tensor:
        m.c += 1
        return x + m.c

    assert "changes its buffer 'c'" in refusal(forward)


def test_training_mode_is_refused_wherever_it_is() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(NetworkError, match=r"the model is in training mode. Call model.eval\(\) first"):
        from_torch(module, (2,))
    module.eval()
    module[1].train()
    with pytest.raises(NetworkError, match="1 is in training mode"):
        from_torch(module, (2,))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(bad: float) -> None:
    module = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        module[0].weight[1, 2] = bad
    assert "'weight', whose entry (1, 2) is" in refusal(module, (3,))
    assert "(module '0')" in refusal(module, (3,))


def test_other_types_are_refused() -> None:
    assert "types ['torch.bfloat16']" in refusal(nn.Linear(3, 2).bfloat16(), (3,))
    mixed = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).double())
    assert "types ['torch.float32', 'torch.float64']" in refusal(mixed, (3,))
    with pytest.raises(NetworkError, match=r"expected an nn\.Module, got str"):
        from_torch("net.onnx", (3,))


def test_shapes_that_do_not_fit_are_refused() -> None:
    assert "torch.export cannot trace the model on shape (1, 4)" in refusal(nn.Linear(3, 2), (4,))
    assert "Give positive sizes" in refusal(nn.Linear(3, 2), (0,))


def test_the_check_finds_a_forward_that_was_traced_wrongly() -> None:
    class Counting(nn.Module):
        """Computes something else on its second call, as no graph can."""

        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Counting.calls += 1
            return x * (2 if Counting.calls < 2 else 3)

    with pytest.raises(NetworkError, match="by the module, at a sampled input"):
        from_torch(Counting().eval(), (3,), check=2)
    assert from_torch(nn.Linear(3, 2).eval(), (3,), check=5).n_outputs == 2
    with pytest.raises(OptionError, match="check=-2"):
        from_torch(nn.Linear(3, 2).eval(), (3,), check=-2)


def test_torch_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OptionError, match=r"Install milpverify\[torch\]"):
        from_torch(None, (3,))

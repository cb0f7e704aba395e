"""Values that others published or that independent solvers agreed on, reproduced."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import milpverify as mv
from milpverify.formulation.encode import encode_slack
from milpverify.formulation.property_program import stack_rows
from tests.paths import mnist, need

# Of ../shared/data/mlp/README.md: net, image, eps, margin over all targets.
OVER_ALL_TARGETS = [("mlp24", 1, 0.05, 0.912468), ("mlp50", 2, 0.02, 2.40242), ("mlp50", 0, 0.05, 2.92885)]
# The same file: mlp50 at eps 0.03, for the target that plain CROWN finds hardest.
HARDEST_TARGET = [(0, 4.3014), (1, 2.1654), (2, 1.7515), (3, 4.5313), (4, -0.2035), (5, 2.8997)]


def robust(net: mv.Network, index: int, eps: float, targets: tuple[int, ...] | None = None) -> mv.Property:
    images, labels = mnist()
    return mv.robustness(net, mv.LinfBall(images[index], eps, clip=(0, 1)), int(labels[index]), targets)


def hardest(net: mv.Network, prop: mv.Property) -> tuple[int, mv.Bounds]:
    """Position of the case with the lowest CROWN bound."""
    region = prop.cases[0].region
    bounds = mv.compute_bounds(net, region, mv.Crown())
    rows = np.concatenate([case.unsafe.C for case in prop.cases])
    return int(mv.bound_rows(net, region, bounds, rows, mv.Crown()).value.argmin()), bounds


@pytest.mark.slow
@pytest.mark.parametrize(("name", "index", "eps", "expected"), OVER_ALL_TARGETS)
def test_worst_margins_over_all_targets(name: str, index: int, eps: float, expected: float) -> None:
    net = mv.from_onnx(need("mlp", f"{name}.onnx"))
    margin = mv.worst_margin(net, robust(net, index, eps))
    assert margin.is_exact(1e-4)
    assert margin.lower - 1e-4 <= expected <= margin.upper + 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("index", "expected"), HARDEST_TARGET)
def test_worst_margins_of_the_hardest_target(index: int, expected: float) -> None:
    net = mv.from_onnx(need("mlp", "mlp50.onnx"))
    every = robust(net, index, 0.03)
    position, _ = hardest(net, every)
    margin = mv.worst_margin(net, mv.Property((every.cases[position],), net.n_inputs, net.n_outputs))
    assert margin.is_exact(1e-4)
    assert margin.lower - 1e-4 <= expected <= margin.upper + 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "index", "eps"), [("mlp24", 1, 0.05), ("mlp50", 2, 0.02), ("mlp50", 2, 0.03)])
def test_cbc_and_highs_agree_on_the_same_program(name: str, index: int, eps: float) -> None:
    net = mv.from_onnx(need("mlp", f"{name}.onnx"))
    prop = robust(net, index, eps)
    position, bounds = hardest(net, prop)
    stacked = stack_rows(net, bounds, prop.cases)
    members = stacked.members[position]
    program = encode_slack(stacked.condensed, prop.cases[0].region, members, stacked.d[members]).program
    values = [solver.solve(program).objective for solver in (mv.Highs(), mv.Cbc())]
    assert values[0] == pytest.approx(values[1], abs=1e-5)


@cache
def mipverify_fixture() -> tuple[mv.Network, np.ndarray]:
    """The network of MIPVerify.jl's test 'conv+fc+softmax', its channel-fastest flatten included, and its input."""
    torch = pytest.importorskip("torch")
    data = {
        key: torch.as_tensor(value)
        for key, value in np.load(need("mipverify_nets", "mipverify_conv_fixture.npz")).items()
    }

    class Fixture(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 2, 2).double()
            self.fc1, self.fc2 = torch.nn.Linear(18, 4).double(), torch.nn.Linear(4, 3).double()
            with torch.no_grad():
                self.conv.weight.copy_(data["conv_weight_oihw"])
                self.conv.bias.copy_(data["conv_bias"])
                for layer, name in ((self.fc1, "fc1"), (self.fc2, "fc2")):
                    layer.weight.copy_(data[f"{name}_weight"])
                    layer.bias.copy_(data[f"{name}_bias"])

        def forward(self, x):  # type: ignore[no-untyped-def]
            x = self.conv(torch.nn.functional.pad(x, (0, 1, 0, 1)))
            x = torch.relu(torch.nn.functional.max_pool2d(x, 2))
            x = torch.flatten(x.permute(0, 2, 3, 1), 1)
            return self.fc2(torch.relu(self.fc1(x)))

    return mv.from_torch(Fixture().eval(), input_shape=(1, 6, 6)), data["conv_input"].numpy()


@pytest.mark.parametrize(
    ("ball", "targets", "expected"),
    [(mv.L1Ball, (1,), 0.9187638), (mv.LinfBall, (2,), 0.4270584), (mv.LinfBall, (1, 2), 0.06688736)],
)
def test_minimal_distortions_of_the_mipverify_fixture(ball: type, targets: tuple[int, ...], expected: float) -> None:
    net, x = mipverify_fixture()
    label = int(np.argmax(net.forward(x.reshape(-1))))
    radius = mv.minimum_epsilon(net, x, label, ball=ball, clip=(0, 1), targets=targets, as_largest=True)
    assert radius.is_exact(1e-5)
    assert radius.lower - 1e-4 * expected <= expected <= radius.upper + 1e-4 * expected


@pytest.mark.parametrize(("eps", "word"), [(0.06, "unsat"), (0.07, "sat")])
def test_the_mipverify_fixture_is_robust_up_to_its_distance(eps: float, word: str) -> None:
    net, x = mipverify_fixture()
    label = int(np.argmax(net.forward(x.reshape(-1))))
    assert mv.verify(net, mv.robustness(net, mv.LinfBall(x, eps, clip=(0, 1)), label)).word == word

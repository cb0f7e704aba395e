"""The same bounds on a GPU: run where a CUDA device is present, skipped elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

import milpverify as mv
from milpverify.bounds.method import BoundMethod
from tests.cases import NETWORKS, REGIONS
from tests.paths import need

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is present")

METHODS: tuple[BoundMethod, ...] = (mv.Interval(), mv.FastLin(), mv.Crown(), mv.AlphaCrown(kappa_steps=10))


@pytest.mark.parametrize("region_kind", ("box", "l2 clipped"))
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_cuda_and_numpy_prove_the_same_to_rounding(method: BoundMethod, kind: str, region_kind: str) -> None:
    rng = np.random.default_rng(7)
    net = NETWORKS[kind](rng)
    region = REGIONS[region_kind](rng, net.n_inputs)
    one, other = (mv.compute_bounds(net, region, method, device=device) for device in (None, "cuda"))
    rows = rng.normal(size=(4, net.n_outputs))
    # The ascent is float32 on both; its last digits may send it another way.
    tolerance = 1e-3 if isinstance(method, mv.AlphaCrown) else 1e-9
    for a, b in zip((*one.lower, *one.upper), (*other.lower, *other.upper), strict=True):
        assert np.allclose(a, b, rtol=0, atol=tolerance)
    values = [mv.bound_rows(net, region, one, rows, method, device=device).value for device in (None, "cuda")]
    assert np.allclose(*values, rtol=0, atol=tolerance)


def test_a_batch_of_boxes_on_cuda_proves_what_numpy_proves() -> None:
    net = mv.from_onnx(need("mlp", "mlp50.onnx"))
    rng = np.random.default_rng(0)
    middle = rng.uniform(0, 1, (64, 784))
    boxes = mv.BoxBatch(middle - 0.01, middle + 0.01)
    rows = -np.eye(10) + np.eye(10)[3]
    one, other = (mv.bound_batch(net, boxes, rows, mv.Crown(), device=device) for device in (None, "cuda"))
    assert np.allclose(one.value, other.value, rtol=0, atol=1e-9)
    assert np.array_equal(one.n_unstable, other.n_unstable)


def test_the_byte_budget_bounds_memory_on_cuda() -> None:
    net = mv.from_onnx(need("mlp", "mlp50.onnx"))
    box = mv.Box(np.zeros(784), np.ones(784))
    torch.cuda.reset_peak_memory_stats()
    mv.compute_bounds(net, box, mv.Crown(budget_bytes=2**22), device="cuda")
    assert torch.cuda.max_memory_allocated() < 2**22 + 64 * 2**20  # the weights, and cuBLAS' own workspace

"""Bound methods against the published reference of Wong & Kolter's dual bound, and their error paths."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

import milpverify as mv
from tests.paths import need

EPS = 0.1


@pytest.mark.parametrize("row", [0, 7, 100, 250, 499])
def test_the_reference_dual_bound_is_reproduced(row: int) -> None:
    reference = np.load(need("mipverify_nets", "wk_dual_reference.npz"))
    net = mv.from_onnx(need("mipverify_nets", "wk_repo_mnist_linf0.1.onnx"))
    index = int(reference["mnist_test_index_wk_repo"][row])
    images = gzip.decompress(need("mnist", "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress(need("mnist", "t10k-labels-idx1-ubyte.gz").read_bytes())
    image = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784)[index] / 255.0
    label = labels[8 + index]
    ball, method = mv.LinfBall(image, EPS), mv.FastLin(intersect=False)
    bounds = mv.compute_bounds(net, ball, method)
    margins = np.eye(10)[label] - np.eye(10)
    upper = -mv.bound_rows(net, ball, bounds, margins, method).value
    assert np.allclose(upper, reference["wk_repo_unclipped_ub"][row], rtol=0, atol=1e-4)
    assert bounds.n_unstable == tuple(reference["wk_repo_unclipped_unstable"][row])


def test_a_region_of_another_size_is_refused() -> None:
    net = mv.from_onnx(need("mlp", "mlp24.onnx"))
    with pytest.raises(mv.RegionError, match="5 coordinates, the network reads 784"):
        mv.compute_bounds(net, mv.Box(np.zeros(5), np.ones(5)))


def test_a_budget_too_small_for_one_row_is_refused() -> None:
    net = mv.from_onnx(need("mlp", "mlp24.onnx"))
    with pytest.raises(mv.OptionError, match="give at least"):
        mv.compute_bounds(net, mv.Box(np.zeros(784), np.ones(784)), mv.Crown(budget_bytes=1000))


def test_an_absent_device_is_refused() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is present")
    net = mv.from_onnx(need("mlp", "mlp24.onnx"))
    with pytest.raises(mv.OptionError, match="no CUDA device"):
        mv.compute_bounds(net, mv.Box(np.zeros(784), np.ones(784)), device="cuda")

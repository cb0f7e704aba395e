"""Bound methods against the published reference of Wong & Kolter's dual bound, and their error paths."""

from __future__ import annotations

import numpy as np
import pytest

import milpverify as mv
from tests.paths import mnist, need

EPS = 0.1


@pytest.mark.parametrize("row", [0, 7, 100, 250, 499])
def test_the_reference_dual_bound_is_reproduced(row: int) -> None:
    reference = np.load(need("mipverify_nets", "wk_dual_reference.npz"))
    net = mv.from_onnx(need("mipverify_nets", "wk_repo_mnist_linf0.1.onnx"))
    index = int(reference["mnist_test_index_wk_repo"][row])
    images, labels = mnist()
    image, label = images[index], labels[index]
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


def test_bounds_of_real_numbers_are_refused_for_float32() -> None:
    net = mv.from_onnx(need("mlp", "mlp24.onnx"))
    box, rows = mv.Box(np.zeros(784), np.full(784, 0.01)), np.eye(10)
    real, single = (mv.compute_bounds(net, box, semantics=s) for s in (mv.Real(), mv.Float32()))
    with pytest.raises(mv.BoundsError, match="real semantics prove nothing in float32"):
        mv.bound_rows(net, box, real, rows, semantics=mv.Float32())
    assert (mv.bound_rows(net, box, single, rows, semantics=mv.Float32()).value <= 1e9).all()
    assert mv.bound_rows(net, box, single, rows).value.shape == (10,)  # they hold for real numbers too
    assert real.intersect(single).semantics == "real" and single.intersect(single).semantics == "float32"


def test_what_is_no_method_no_semantics_or_no_row_is_refused_in_a_line() -> None:
    net = mv.from_onnx(need("mlp", "mlp24.onnx"))
    box = mv.Box(np.zeros(784), np.full(784, 0.01))
    bounds = mv.compute_bounds(net, box)
    with pytest.raises(mv.OptionError, match=r"expected a bound method such as Crown\(\)"):
        mv.compute_bounds(net, box, mv.Crown)  # type: ignore[arg-type]
    with pytest.raises(mv.OptionError, match=r"expected semantics such as Float32\(\)"):
        mv.compute_bounds(net, box, semantics=mv.Float32)  # type: ignore[arg-type]
    for rows in (np.eye(5), np.full((1, 10), np.nan)):
        with pytest.raises(mv.BoundsError, match=r"expected finite rows of shape \(m, 10\)"):
            mv.bound_rows(net, box, bounds, rows)
    with pytest.raises(mv.BoundsError, match="do not fit a network"):
        mv.bound_rows(net, box, mv.Bounds(bounds.lower[:1], bounds.upper[:1]), np.eye(10))
    prop = mv.robustness(net, mv.LinfBall(np.zeros(784), 0.01), 0)
    for odd in ("crown", [mv.Crown], mv.Crown(), []):
        with pytest.raises(mv.OptionError, match="bound_ladder"):
            mv.bound_ladder(net, prop, odd)  # type: ignore[arg-type]
    for same in ("crown", mv.MILPTightening()):
        with pytest.raises(mv.OptionError, match="bound_ladder"):
            mv.bound_ladder(net, prop, [mv.Crown()], same_bounds=same)  # type: ignore[arg-type]

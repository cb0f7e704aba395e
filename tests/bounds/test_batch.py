"""Laws of `bound_batch`: the bounds of each box alone, for any chunks, rows and workers, and nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

import milpverify as mv
from milpverify.bounds import batch
from milpverify.bounds.dual import DualBound
from milpverify.bounds.problem import DualProblem
from milpverify.errors import BoundsError, OptionError, RegionError
from milpverify.network.graph import Network
from milpverify.spec.regions import Box, BoxBatch
from tests.bounds.convolutions import CONVOLUTIONS, mlp
from tests.cases import NETWORKS, affine, weights

NETS = {
    "skip": NETWORKS["skip"](np.random.default_rng(1)),
    "options": CONVOLUTIONS["options"](np.random.default_rng(1)),
    "mlp": mlp(np.random.default_rng(1), (4, 12, 12, 3)),
}
METHODS = {
    "interval": mv.Interval(),
    "fastlin": mv.FastLin(),
    "crown": mv.Crown(),
    "fastlin pure": mv.FastLin(intersect=False),
    "crown pure": mv.Crown(intersect=False),
}
PURE = METHODS["crown pure"]


@dataclass(frozen=True)
class Dies(mv.Crown):
    """A method whose process is gone when rows are asked for."""

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        os._exit(1)


@dataclass(frozen=True)
class Fails(mv.Crown):
    """A method that refuses."""

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        raise BoundsError("Fails: refuses")


@dataclass(frozen=True)
class Sleeps(mv.Crown):
    """A method that does not come back."""

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        time.sleep(60)
        raise AssertionError


def some_boxes(net: Network, count: int = 5) -> BoxBatch:
    """Boxes from points to wide ones: their neurons differ in phase."""
    rng = np.random.default_rng(2)
    middle = rng.uniform(0, 1, (count, net.n_inputs))
    radius = np.linspace(0.0, 0.4, count)[:, None]
    return BoxBatch(middle - radius, middle + radius)


def some_rows(net: Network, *batch_axes: int) -> np.ndarray:
    """Two rows, or two for each box."""
    return np.random.default_rng(3).normal(size=(*batch_axes, 2, net.n_outputs))


def one_by_one(
    net: Network, boxes: BoxBatch, rows: np.ndarray, method: mv.BoundMethod
) -> tuple[np.ndarray, list[list[int]]]:
    """Bounds and unstable neurons of each box by itself."""
    values, counts = [], []
    for i in range(len(boxes)):
        region = boxes[i]
        assert isinstance(region, Box)
        bounds = mv.compute_bounds(net, region, method)
        values.append(mv.bound_rows(net, region, bounds, rows if rows.ndim == 2 else rows[i], method).value)
        counts.append([int(n) for n in bounds.n_unstable])
    return np.array(values), counts


@pytest.mark.parametrize("large", (1, 1000), ids=("alone", "together"))
@pytest.mark.parametrize("own", (False, True), ids=("shared rows", "own rows"))
@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", METHODS)
def test_a_batch_has_the_bounds_of_each_box(
    name: str, kind: str, own: bool, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "LARGE", large)
    net = NETS[kind]
    boxes = some_boxes(net)
    rows = some_rows(net, 5) if own else some_rows(net)
    expected, counts = one_by_one(net, boxes, rows, METHODS[name])
    found = mv.bound_batch(net, boxes, rows, METHODS[name])
    assert np.allclose(found.value, expected, rtol=1e-9, atol=1e-9)
    assert found.n_unstable.tolist() == counts
    assert sum(map(sum, counts[1:]))


@pytest.mark.parametrize("large", (1, 1000), ids=("alone", "together"))
@pytest.mark.parametrize("own", (False, True), ids=("shared rows", "own rows"))
def test_searches_over_a_batch_bound_each_box_soundly(own: bool, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "LARGE", large)
    net = NETS["mlp"]
    boxes = some_boxes(net)
    rows = some_rows(net, 5) if own else some_rows(net)
    crown = mv.bound_batch(net, boxes, rows).value
    for method in (mv.AlphaCrown(), mv.FastLinStep(), mv.AlphaCrown(kappa_steps=5, layer_kappa_steps=5)):
        found = mv.bound_batch(net, boxes, rows, method).value
        y = net.forward(boxes.sample(np.random.default_rng(4), 200))  # (5, 200, outputs)
        least = (y @ np.swapaxes(np.broadcast_to(rows, (5, 2, 3)), -1, -2)).min(axis=1)
        assert (found <= least + 1e-12).all()
        if isinstance(method, mv.AlphaCrown):
            assert (found >= crown - 1e-9).all() and (found > crown + 1e-6).any()


@pytest.mark.parametrize("kind", NETS)
def test_chunks_do_not_change_a_batch(kind: str) -> None:
    net = NETS[kind]
    boxes = some_boxes(net, 7)
    for rows in (some_rows(net), some_rows(net, 7)):
        whole = mv.bound_batch(net, boxes, rows, PURE)
        needed = batch.DEFAULT_BUDGET_BYTES // batch._boxes_at_once(net, 2, batch.DEFAULT_BUDGET_BYTES)
        assert batch._boxes_at_once(net, 2, 3 * needed) in (2, 3)
        parts = mv.bound_batch(net, boxes, rows, PURE, budget_bytes=3 * needed)
        assert np.allclose(whole.value, parts.value, rtol=0, atol=1e-9)
        assert whole.n_unstable.tolist() == parts.n_unstable.tolist()


def test_a_batch_on_a_torch_device_has_the_same_bounds() -> None:
    pytest.importorskip("torch")
    for net in NETS.values():
        boxes = some_boxes(net)
        for rows in (some_rows(net), some_rows(net, 5)):
            one, other = (mv.bound_batch(net, boxes, rows, device=d) for d in (None, "cpu"))
            assert np.allclose(one.value, other.value, rtol=0, atol=1e-9)
            assert one.n_unstable.tolist() == other.n_unstable.tolist()


def test_two_workers_give_the_numbers_of_one() -> None:
    net = NETS["options"]
    boxes, rows = some_boxes(net, 9), some_rows(net, 9)
    one, two = (mv.bound_batch(net, boxes, rows, PURE, workers=n) for n in (1, 2))
    assert np.allclose(one.value, two.value, rtol=0, atol=1e-9)
    assert one.n_unstable.tolist() == two.n_unstable.tolist()
    assert not multiprocessing.active_children()


def test_worker_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    net = NETS["skip"]
    mv.bound_batch(net, some_boxes(net), some_rows(net), workers=2)
    assert os.environ["OMP_NUM_THREADS"] == "3" and "MKL_NUM_THREADS" not in os.environ


def test_a_worker_that_dies_is_an_error_of_one_line_and_leaves_nothing_behind() -> None:
    net = NETS["skip"]
    with pytest.raises(OptionError, match="a worker process died") as error:
        mv.bound_batch(net, some_boxes(net), some_rows(net), Dies(), workers=2)
    assert "\n" not in str(error.value)
    assert not multiprocessing.active_children()


def test_an_error_in_a_worker_is_raised_here_and_leaves_nothing_behind() -> None:
    net = NETS["skip"]
    with pytest.raises(BoundsError, match="Fails: refuses"):
        mv.bound_batch(net, some_boxes(net), some_rows(net), Fails(), workers=2)
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_workers() -> None:
    net = NETS["skip"]

    def interrupt() -> None:
        while not multiprocessing.active_children():
            time.sleep(0.05)
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        mv.bound_batch(net, some_boxes(net), some_rows(net), Sleeps(), workers=2)
    thread.join()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", (1, 2))
def test_an_empty_batch_has_no_bounds(workers: int) -> None:
    for net in NETS.values():
        boxes = BoxBatch(np.zeros((0, net.n_inputs)), np.zeros((0, net.n_inputs)))
        for rows in (some_rows(net), some_rows(net, 0)):
            found = mv.bound_batch(net, boxes, rows, workers=workers)
            assert found.value.shape == (0, 2) and found.n_unstable.shape == (0, len(net.layers))


@pytest.mark.parametrize("large", (1, 1000), ids=("alone", "together"))
def test_no_rows_give_no_bounds_of_each_box(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "LARGE", large)
    net = NETS["mlp"]
    for method in (mv.Crown(), mv.AlphaCrown(), mv.AlphaCrown(kappa_steps=3), mv.FastLinStep(), mv.Interval()):
        found = mv.bound_batch(net, some_boxes(net), np.zeros((0, 3)), method)
        assert found.value.shape == (5, 0) and found.n_unstable.shape == (5, 2)


def test_a_network_without_hidden_layers_is_bounded_in_batches() -> None:
    net = Network((4,), (3,), (), affine({0: weights(np.random.default_rng(0), 3, 4)}, np.zeros(3)))
    boxes, rows = some_boxes(net), some_rows(net)
    found = mv.bound_batch(net, boxes, rows)
    assert np.allclose(found.value, one_by_one(net, boxes, rows, mv.Crown())[0], rtol=0, atol=1e-12)
    assert found.n_unstable.shape == (5, 0)


@pytest.mark.parametrize("shape", ((3,), (2, 4), (4, 2, 3), (5, 2, 4), (1, 5, 2, 3)), ids=str)
def test_rows_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    net = NETS["mlp"]
    with pytest.raises(BoundsError, match="bound_batch: rows of shape") as error:
        mv.bound_batch(net, some_boxes(net), np.zeros(shape))
    assert "\n" not in str(error.value)


def test_boxes_that_do_not_fit_are_refused() -> None:
    net = NETS["mlp"]
    stacked = BoxBatch(np.zeros((2, 2, 4)), np.ones((2, 2, 4)))  # whose rows would be anybody's guess
    for boxes in (stacked, Box(np.zeros(4), np.ones(4)), BoxBatch(np.zeros((2, 3)), np.ones((2, 3)))):
        with pytest.raises(RegionError) as error:
            mv.bound_batch(net, boxes, np.zeros((2, 3)))  # type: ignore[arg-type]
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options", ({"workers": 0}, {"workers": 2, "device": "cpu"}, {"budget_bytes": 0}, {"budget_bytes": 100}), ids=str
)
def test_senseless_options_are_refused(options: dict[str, int | str]) -> None:
    net = NETS["mlp"]
    with pytest.raises(OptionError, match="bound_batch") as error:
        mv.bound_batch(net, some_boxes(net), np.zeros((2, 3)), **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)

"""Many regions in one run: bounds of the rows over each of them, in chunks that fit in memory, on several processes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from milpverify.bounds.compute import bound_layers, chosen, make_problem
from milpverify.bounds.method import DEFAULT_BUDGET_BYTES, BoundMethod
from milpverify.bounds.processes import share
from milpverify.errors import BoundsError, OptionError, RegionError
from milpverify.network.graph import Network
from milpverify.spec.regions import BoxBatch

LARGE = 1000  # neurons: from here on each region alone keeps a core busy, and may leave its inactive neurons out
ARRAYS = 12  # arrays of the widest layer alive for each row
SHARE = 16  # chunks a worker gets, so that none waits long for the last

_Chunk = tuple[BoxBatch, np.ndarray]  # boxes and their rows


@dataclass(frozen=True, eq=False)
class BatchBounds:
    """What a batch of regions proved.

    Attributes:
        value: Lower bounds of the rows, shape (B, m). Rounded.
        n_unstable: Unstable neurons of each hidden layer, shape (B, layers).
    """

    value: np.ndarray
    n_unstable: np.ndarray


def bound_batch(
    net: Network,
    boxes: BoxBatch,
    rows: np.ndarray,
    method: BoundMethod | None = None,
    *,
    workers: int = 1,
    device: str | None = None,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
) -> BatchBounds:
    """Lower bounds of rows . y over each of B boxes. Rounded.

    Small networks take many boxes through the kernel at once; of large ones each box is bounded alone on the CPU,
    without the neurons that it leaves inactive.

    Args:
        net: The network, numpy operators.
        boxes: B boxes of net.n_inputs coordinates.
        rows: Shape (m, n_outputs), or (B, m, n_outputs): each box its own.
        method: Defaults to `Crown()`. Many boxes at once get no input-wise multipliers: `KappaCrown` is then alpha.
        workers: Processes that share the boxes (started afresh: a script must guard its main part).
        device: A torch device ("cpu", "cuda"); numpy when None.
        budget_bytes: Boxes are taken in chunks whose arrays fit in about this much memory, for each worker.

    Raises:
        OptionError: If workers is not positive, more than one is asked for on a device, one box does not fit, or a
            worker dies.
        RegionError: If the boxes are no plain list of boxes of net.n_inputs coordinates.
        BoundsError: If the rows do not fit.
    """
    method, rows = chosen("bound_batch", method), np.asarray(rows, dtype=np.float64)
    if not isinstance(boxes, BoxBatch) or len(boxes.batch_shape) != 1:
        raise RegionError(f"bound_batch: expected a BoxBatch with one leading axis, got {boxes!r}.")
    if rows.ndim not in (2, 3) or rows.shape[-1] != net.n_outputs or (rows.ndim == 3 and len(rows) != len(boxes)):
        raise BoundsError(
            f"bound_batch: rows of shape {rows.shape} came, expected (m, {net.n_outputs}) or ({len(boxes)}, m, "
            f"{net.n_outputs})."
        )
    if workers < 1 or (workers > 1 and device is not None):
        raise OptionError(
            f"bound_batch: workers={workers} with device={device!r}: give workers >= 1, and 1 on a device."
        )
    step = _boxes_at_once(net, rows.shape[-2], budget_bytes)
    if workers > 1:
        step = max(min(step, -(-len(boxes) // (SHARE * workers))), 1)
    starts = range(0, len(boxes), step)
    chunks = [(_some(boxes, i, step), rows if rows.ndim == 2 else rows[i : i + step]) for i in starts]
    parts = share("bound_batch", partial(_chunk, net, method, device), chunks, workers)
    if not parts:
        return BatchBounds(np.zeros((0, rows.shape[-2])), np.zeros((0, len(net.layers)), dtype=np.int64))
    return BatchBounds(np.concatenate([p.value for p in parts]), np.concatenate([p.n_unstable for p in parts]))


def _some(boxes: BoxBatch, first: int, count: int) -> BoxBatch:
    return BoxBatch(boxes.lower[first : first + count], boxes.upper[first : first + count])


def _chunk(net: Network, method: BoundMethod, device: str | None, chunk: _Chunk) -> BatchBounds:
    boxes, rows = chunk
    alone = device is None and net.n_neurons >= LARGE
    regions = [boxes[i] for i in range(len(boxes))] if alone else [boxes]
    values, counts = [], []
    for i, region in enumerate(regions):
        problem = bound_layers(make_problem(net, region, device), method)
        wanted = rows[i] if alone and rows.ndim == 3 else rows
        values.append(np.atleast_2d(method.rows(problem, wanted).value))
        unstable = [((l < 0) & (u > 0)).sum(axis=-1) for l, u in zip(problem.lower, problem.upper, strict=True)]
        counts.append(np.reshape(np.transpose(unstable), (-1 if unstable else len(values[-1]), len(unstable))))
    return BatchBounds(np.concatenate(values), np.concatenate(counts))


def _boxes_at_once(net: Network, rows: int, budget_bytes: int) -> int:
    widest = max(net.n_inputs, *net.sizes, net.n_outputs)
    needed = 8 * ARRAYS * widest * max(2 * max(net.sizes, default=1), rows)
    if net.n_neurons >= LARGE:
        return max(budget_bytes // needed, 64)  # one at a time: methods keep to their own budgets
    if needed > budget_bytes:
        raise OptionError(
            f"bound_batch: budget_bytes={budget_bytes} does not hold one box of this network; give at least {needed}."
        )
    return int(budget_bytes // needed)

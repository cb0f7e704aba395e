r"""Zonotopes pushed forward through the layers: all bounds in one pass, for boxes with few inputs.

`zonotope_forms` has what is known of a layer and why; here are the method, and the forms that are kept between layers.

With the same l and u these are the bounds of Fast-Lin, i.e. of the dual function g with nu = lambda u / (u - l): the
sum of c -+ |G_g| over the symbols is g's sum of minima. Here all neurons of a layer share one pass.

Source: Singh et al. 2018, "Fast and effective robustness certification" (DeepZ), theorem 3.1; Weng et al. 2018
(Fast-Lin).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from milpverify.bounds.dual import DualBound
from milpverify.bounds.interval import interval_layer
from milpverify.bounds.method import DEFAULT_BUDGET_BYTES, BoundMethod, check_budget
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.zonotope_forms import (
    ARRAYS,
    Form,
    Values,
    activated,
    batch_axes,
    form_range,
    input_lam,
    input_values,
    propagated,
    some_boxes,
    turned,
)
from milpverify.errors import BoundsError
from milpverify.network.arrays import device

CHUNK = 2**14  # values of the widest layer over the boxes taken at once on a CPU: larger matrices leave the caches


@dataclass(frozen=True)
class Zonotope(BoundMethod):
    """DeepZ's zonotopes: Fast-Lin's bounds of all neurons of a layer in one forward pass. Rounded.

    The cost grows with the input dimension, so this is for networks with few inputs and for many boxes at once; the
    regions must be boxes. Slopes come from the bounds stored in the problem, whoever proved them.

    `rows` claims its values from the output's form, not from g: `DualBound.nu` is empty.

    Attributes:
        intersect: Meet the bounds with intervals, which zonotopes do not always contain. Off, the result is pure.
        budget_bytes: Boxes are taken in chunks, and forms recomputed, so that about this much memory is used.
    """

    intersect: bool = True
    budget_bytes: int = DEFAULT_BUDGET_BYTES
    name: ClassVar[str] = "zonotope"

    def __post_init__(self) -> None:
        check_budget(self, self.budget_bytes)

    def layer(self, problem: DualProblem, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self.intersect:
            return self.refine(problem, k, *interval_layer(problem, k))
        shape = (*batch_axes(problem), problem.affine(k).size)
        return self.refine(problem, k, np.full(shape, -np.inf), np.full(shape, np.inf))

    def refine(self, problem: DualProblem, k: int, l: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        store = _store(self, problem, k)
        low, high = np.full(l.shape, -np.inf), np.full(u.shape, np.inf)
        flat_low, flat_high = low.reshape(-1, l.shape[-1]), high.reshape(-1, l.shape[-1])
        known = u.reshape(-1, u.shape[-1])
        with np.errstate(over="ignore", invalid="ignore"):
            for chunk in store.chunks:
                live = np.flatnonzero((known[chunk] > 0).any(axis=0))
                form = _form(problem, store, k, chunk, live)
                flat_low[chunk, form.columns], flat_high[chunk, form.columns] = form_range(problem, form)
        return np.maximum(l, low), np.minimum(u, high)

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        k, batch = len(problem.layers), batch_axes(problem)
        store = _store(self, problem, k)
        C = rows if rows.ndim == 2 else np.broadcast_to(rows, (*batch, *rows.shape[-2:])).reshape(-1, *rows.shape[-2:])
        m, everything = rows.shape[-2], np.arange(rows.shape[-1])
        value, lam = np.empty((store.boxes, m)), np.empty((store.boxes, m, problem.n_inputs))
        with np.errstate(over="ignore", invalid="ignore"):
            for chunk in store.chunks:
                form = _form(problem, store, k, chunk, everything)
                form = turned(problem, form, C if rows.ndim == 2 else C[chunk])
                value[chunk], lam[chunk] = form_range(problem, form)[0], input_lam(problem, form, chunk)
        return DualBound(value.reshape(*batch, m), lam.reshape(*batch, m, problem.n_inputs))


@dataclass(eq=False)
class _Store:
    """The forms made so far, chunk by chunk of the flattened batch; what does not fit is made again when needed.

    Attributes:
        boxes: How many there are.
        chunks: Slices of them.
        budget: Bytes, half of them for what is kept.
        below: The bounds of the layers that the forms rest on.
        items: Forms and values, by kind, layer and first box.
        used: Bytes of them.
    """

    boxes: int
    chunks: list[slice]
    budget: int
    below: list[np.ndarray] = field(default_factory=list)
    items: dict[tuple[str, int, int], Any] = field(default_factory=dict)
    used: int = 0

    def keep(self, key: tuple[str, int, int], item: Form | Values) -> None:
        size = _bytes(item)
        if self.used + size <= self.budget // 2:
            self.items[key] = item
            self.used += size

    def pop(self, key: tuple[str, int, int]) -> Any:
        item = self.items.pop(key, None)
        if item is not None:
            self.used -= _bytes(item)
        return item


def _bytes(item: Form | Values) -> int:
    return 8 * math.prod(item.generators.matrix.shape) + 64 * math.prod(item.centre.shape)


def _store(method: Zonotope, problem: DualProblem, k: int) -> _Store:
    """The problem's forms, as far as they rest on the bounds that it holds below layer k.

    Raises:
        BoundsError: If the region is no box.
    """
    if not problem.region.is_box:
        raise BoundsError(
            f"Zonotope: expected a box or a BoxBatch, got {problem.region!r}. "
            "Use Crown() for it, or pass its bounding box Box(region.lower, region.upper), which contains it."
        )
    key = ("zonotope", method.budget_bytes)
    below = [side for both in zip(problem.lower[: k - 1], problem.upper[: k - 1], strict=True) for side in both]
    store = problem.cache.get(key)
    if store is None or not all(a is b for a, b in zip(store.below, below, strict=False)):
        store = _new_store(method, problem)
        problem.cache[key] = store
    if len(below) > len(store.below):
        store.below = below
    return store


def _new_store(method: Zonotope, problem: DualProblem) -> _Store:
    boxes = int(np.prod(batch_axes(problem), dtype=np.int64))
    widest = max(problem.n_inputs, *(layer.size for layer in problem.layers))
    symbols = problem.n_inputs + sum(layer.size for layer in problem.layers[:-1])
    step = max(method.budget_bytes // (2 * 8 * ARRAYS * widest * symbols), 1)
    if str(device(problem.like)).startswith("cpu"):
        step = min(step, max(CHUNK // widest, 1))
    count = -(-boxes // step)
    edges = [boxes * i // max(count, 1) for i in range(count + 1)]
    chunks = [slice(a, b) for a, b in itertools.pairwise(edges)]
    return _Store(boxes, chunks, method.budget_bytes)


def _form(problem: DualProblem, store: _Store, k: int, chunk: slice, live: np.ndarray) -> Form:
    """The form of layer k over some boxes, at least for the neurons `live`."""
    key = ("form", k, chunk.start)
    known: Form | None = store.items.get(key)
    if known is not None:
        if np.array_equal(live, known.columns) or np.isin(live, known.columns).all():
            return known
        store.pop(key)
    sources = [_values(problem, store, source, chunk) for source, _ in problem.affine(k).blocks]
    form = propagated(problem, k, chunk, live, sources, store.budget)
    if k < len(problem.layers):
        read = {source for layer in problem.layers[k:] for source, _ in layer.blocks}
        for values in sources:
            if values.newest.origin not in read:
                store.pop(("values", values.newest.origin, chunk.start))
    store.keep(key, form)
    return form


def _values(problem: DualProblem, store: _Store, j: int, chunk: slice) -> Values:
    """The form of source j over some boxes."""
    key = ("values", j, chunk.start)
    values: Values | None = store.items.get(key)
    if values is None:
        if j == 0:
            values = input_values(problem, chunk)
        else:
            live = np.flatnonzero((some_boxes(problem, problem.upper[j - 1], chunk) > 0).any(axis=0))
            form = _form(problem, store, j, chunk, live)
            store.pop(("form", j, chunk.start))  # its generators are about to be overwritten
            values = activated(problem, j, form, live, chunk)
        store.keep(key, values)
    return values

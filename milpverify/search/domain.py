"""The nodes of a search over ReLU phases: batches of them, and the pool of those still open."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from milpverify.bounds.node_parts import Multipliers
from milpverify.errors import CheckpointError

FIRST_ROOM = 256  # nodes a pool has room for before it grows


@dataclass(frozen=True, eq=False)
class Nodes:
    """A batch of B nodes on a condensed problem of N neurons and m rows.

    Attributes:
        l, u: Proven bounds of the neurons on each node, (B, N).
        alpha, beta, theta, mu: Multipliers to start from; see `bounds.nodes`.
        score: What splitting each neuron may gain, as the node's bound sees it; counts only where it is free, (B, N).
        case: What each node is about, (B,).
        lower: Its proven lower bound, (B,).
        depth: Splits above it, (B,).
    """

    l: np.ndarray
    u: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    theta: np.ndarray
    mu: np.ndarray
    score: np.ndarray
    case: np.ndarray
    lower: np.ndarray
    depth: np.ndarray

    def __len__(self) -> int:
        return len(self.case)

    def __getitem__(self, index: Any) -> Nodes:
        return Nodes(*(getattr(self, part.name)[index] for part in fields(self)))

    def arrays(self) -> dict[str, np.ndarray]:
        """All fields by name, as `saved_nodes` takes them."""
        return {name: getattr(self, name) for name in _NAMES}

    @property
    def multipliers(self) -> Multipliers:
        """alpha, beta, theta and mu."""
        return Multipliers(self.alpha, self.beta, self.theta, self.mu)

    @property
    def free(self) -> np.ndarray:
        """Which neurons are unstable on each node, (B, N)."""
        return (self.l < 0) & (self.u > 0)

    @classmethod
    def concat(cls, parts: Sequence[Nodes]) -> Nodes:
        """The batches one after the other."""
        return cls(*(np.concatenate([getattr(p, part.name) for p in parts]) for part in fields(cls)))

    def replaced(self, where: np.ndarray, by: Nodes) -> Nodes:
        """The nodes with those of a mask (B,) replaced, in their order."""
        parts = [np.array(getattr(self, name)) for name in _NAMES]
        for part, name in zip(parts, _NAMES, strict=True):
            part[where] = getattr(by, name)
        return Nodes(*parts)

    def split(self, neuron: np.ndarray) -> Nodes:
        """2B children: all nodes with their neuron active, then all with it inactive.

        Args:
            neuron: Per node one that is free there, (B,).
        """
        n, index = len(self), np.arange(len(self))
        both = self[np.concatenate([index, index])]
        l, u = both.l.copy(), both.u.copy()
        l[index, neuron] = 0.0
        u[n + index, neuron] = 0.0
        return replace(both, l=l, u=u, depth=both.depth + 1)

    def fixed(self, neuron: np.ndarray, active: np.ndarray, real: np.ndarray) -> Nodes:
        """The nodes with one neuron each active or inactive, where `real`; each of shape (B,)."""
        l, u, index = self.l.copy(), self.u.copy(), np.arange(len(self))
        on, off = active & real, ~active & real
        l[index[on], neuron[on]] = 0.0
        u[index[off], neuron[off]] = 0.0
        return replace(self, l=l, u=u, depth=self.depth + real)


def saved_nodes(arrays: Mapping[str, np.ndarray], like: Nodes) -> Nodes:
    """Nodes from the arrays of `Nodes.arrays`.

    Args:
        arrays: By name; others are ignored.
        like: Nodes of the problem that they must fit.

    Raises:
        CheckpointError: If they do not.
    """
    nodes = Nodes(*(arrays[name] for name in _NAMES))
    for name, now in like.arrays().items():
        then = arrays[name]
        if then.shape[1:] != now.shape[1:] or then.dtype != now.dtype or len(then) != len(nodes):
            raise CheckpointError(
                f"checkpoint: {name} of the saved nodes is {then.dtype} of shape {then.shape}, expected {now.dtype} of "
                f"(..., {', '.join(map(str, now.shape[1:]))}). It is another program's; begin again without it."
            )
    return nodes


class Pool:
    """Open nodes, lowest bound first, or deepest first once they take more memory than they may.

    What `pop` hands out counts in `lower` until `release`, so that a bracket holds whenever a step is cut short.
    """

    def __init__(self, like: Nodes, budget_bytes: int) -> None:
        self._room = [np.empty((FIRST_ROOM, *np.shape(v)[1:]), v.dtype) for v in _columns(like)]
        self._free = list(range(FIRST_ROOM))
        self._heap: list[tuple[float, float, int, int]] = []
        self._out: list[tuple[float, float, int, int]] = []
        self._count = 0
        self._budget = budget_bytes
        self.deepest_first = False

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def node_bytes(self) -> int:
        """Memory of one node."""
        return sum(int(v[:1].nbytes) for v in self._room)

    def lower(self, cases: int) -> np.ndarray:
        """Per case the least bound of its nodes, open or handed out; infinite where there is none."""
        slots = [item[-1] for item in (*self._heap, *self._out)]
        least = np.full(cases, np.inf)
        case, lower = (self._room[_PLACE[name]][slots] for name in ("case", "lower"))
        np.minimum.at(least, case, lower)
        return least

    def push(self, nodes: Nodes) -> None:
        """Keep nodes for later."""
        while len(self._free) < len(nodes):
            self._grow()
        slots = [self._free.pop() for _ in range(len(nodes))]
        for room, values in zip(self._room, _columns(nodes), strict=True):
            room[slots] = values
        if not self.deepest_first and len(self) * self.node_bytes > self._budget:
            self.deepest_first = True
            self._heap = [self._keyed(slot) for *_, slot in self._heap]
            heapq.heapify(self._heap)
        for slot in slots:
            heapq.heappush(self._heap, self._keyed(slot))

    def pop(self, count: int) -> Nodes:
        """At most `count` nodes, the most urgent ones; what was handed out before must have been released."""
        for _ in range(min(count, len(self))):
            self._out.append(self._heap[0])
            heapq.heappop(self._heap)
        slots = [item[-1] for item in self._out]
        return Nodes(*(room[slots] for room in self._room))

    def release(self) -> None:
        """What came of the nodes handed out is recorded: forget them."""
        out, self._out = self._out, []
        self._free.extend(item[-1] for item in out)

    def all(self) -> Nodes:
        """Every open node, in the order of their slots."""
        slots = sorted(item[-1] for item in self._heap)
        return Nodes(*(room[slots] for room in self._room))

    def _keyed(self, slot: int) -> tuple[float, float, int, int]:
        lower, depth = (float(self._room[_PLACE[name]][slot]) for name in ("lower", "depth"))
        self._count += 1
        return (-depth, lower, self._count, slot) if self.deepest_first else (lower, depth, self._count, slot)

    def _grow(self) -> None:
        size = len(self._room[0])
        self._room = [np.concatenate([v, np.empty_like(v)]) for v in self._room]
        self._free.extend(range(size, 2 * size))


_NAMES = [part.name for part in fields(Nodes)]
_PLACE = {name: i for i, name in enumerate(_NAMES)}


def _columns(nodes: Nodes) -> list[np.ndarray]:
    return [getattr(nodes, name) for name in _NAMES]

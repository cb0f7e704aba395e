"""Bound methods: objects that bound every hidden neuron over a region, and the property's rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from milpverify.bounds.backward import crown_rule, fastlin_rule
from milpverify.bounds.dual import DualBound, DualProblem, Rule, dual_bound
from milpverify.bounds.interval import interval_layer, interval_rows
from milpverify.errors import BoundsError, OptionError, RegionError
from milpverify.network.graph import Bounds, Network
from milpverify.spec.regions import Region

DEFAULT_BUDGET_BYTES = 256 * 2**20


class BoundMethod(ABC):
    """How l and u of the hidden neurons are proven, layer by layer, and how the rows of a property are bounded."""

    name: ClassVar[str]

    @abstractmethod
    def layer(self, problem: DualProblem, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Bounds l, u of zhat_k, each (n_k,), from a problem that bounds the layers below. Rounded."""

    @abstractmethod
    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        """Lower bounds of rows . y, rows of shape (m, n_outputs), with every hidden layer bounded. Rounded."""


@dataclass(frozen=True)
class Interval(BoundMethod):
    """Interval propagation; rows by intervals through the last affine map."""

    name: ClassVar[str] = "interval"

    def layer(self, problem: DualProblem, k: int) -> tuple[np.ndarray, np.ndarray]:
        return interval_layer(problem, k)

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        return interval_rows(problem, rows)


@dataclass(frozen=True)
class Backward(BoundMethod):
    """Closed-form backward bounds through g.

    Attributes:
        intersect: Meet them with intervals, and run backward only for neurons that intervals leave unstable. Off, the
            result is the pure dual bound of the paper.
        budget_bytes: Rows are taken in chunks whose arrays fit in about this much memory.
    """

    intersect: bool = True
    budget_bytes: int = DEFAULT_BUDGET_BYTES
    rule: ClassVar[Rule]
    name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.budget_bytes <= 0:
            raise OptionError(f"{type(self).__name__}: budget_bytes must be positive, got {self.budget_bytes}.")

    def layer(self, problem: DualProblem, k: int) -> tuple[np.ndarray, np.ndarray]:
        l, u = interval_layer(problem, k)
        if self.intersect:
            if _interval_is_exact(problem, k):
                return l, u
            open_ = np.flatnonzero((l < 0) & (u > 0))
        else:
            open_ = np.arange(len(l))
            l, u = np.full(len(l), -np.inf), np.full(len(u), np.inf)
        step = self._chunk(problem)
        for start in range(0, len(open_), step):
            index = open_[start : start + step]
            rows = np.zeros((2 * len(index), len(l)))
            rows[np.arange(len(index)), index] = 1.0
            rows[len(index) + np.arange(len(index)), index] = -1.0
            value = dual_bound(problem, k, rows, type(self).rule).value
            l[index] = np.maximum(l[index], value[: len(index)])
            u[index] = np.minimum(u[index], -value[len(index) :])
        return l, u

    def rows(self, problem: DualProblem, rows: np.ndarray) -> DualBound:
        return dual_bound(problem, len(problem.net.layers) + 1, rows, type(self).rule)

    def _chunk(self, problem: DualProblem) -> int:
        """Neurons bounded at once: two rows each, about six arrays of the widest layer alive."""
        widest = max(problem.net.n_inputs, *problem.net.sizes)
        step = self.budget_bytes // (2 * 6 * 8 * widest)
        if step < 1:
            raise OptionError(
                f"{type(self).__name__}: budget_bytes={self.budget_bytes} does not hold one row of {widest} values; "
                f"give at least {96 * widest}."
            )
        return int(step)


@dataclass(frozen=True)
class FastLin(Backward):
    """Wong & Kolter's dual bound with fixed slopes u / (u - l)."""

    name: ClassVar[str] = "fastlin"
    rule: ClassVar[Rule] = staticmethod(fastlin_rule)


@dataclass(frozen=True)
class Crown(Backward):
    """CROWN: the same with the lower slope chosen 0 or 1 per neuron."""

    name: ClassVar[str] = "crown"
    rule: ClassVar[Rule] = staticmethod(crown_rule)


def compute_bounds(
    net: Network, region: Region, method: BoundMethod | None = None, *, device: str | None = None
) -> Bounds:
    """Bound every hidden pre-activation over a region. Rounded.

    Args:
        net: The network, numpy operators.
        region: Where the bounds hold.
        method: Defaults to `Crown()`.
        device: A torch device ("cpu", "cuda") to run on; numpy when None.

    Returns:
        numpy bounds.

    Raises:
        RegionError: If the region does not have net.n_inputs coordinates.
        BoundsError: If some l > u, which only an empty region allows.
        OptionError: If the device is not there.

    Source:
        Wong & Kolter 2018, algorithm 1 (layers in order, each from the bounds below it).
    """
    if region.dimension != net.n_inputs:
        raise RegionError(
            f"compute_bounds: the region has {region.dimension} coordinates, the network reads {net.n_inputs}."
        )
    method = method or Crown()
    problem = make_problem(net, region, device)
    for k in range(1, len(net.layers) + 1):
        l, u = method.layer(problem, k)
        if not (l <= u).all():
            where = int(np.flatnonzero(~(l <= u))[0])
            raise BoundsError(f"compute_bounds: layer {k}, neuron {where} has l > u or NaN. The region may be empty.")
        problem = problem.with_layer(l, u)
    return Bounds(problem.lower, problem.upper, method.name)


def bound_rows(
    net: Network, region: Region, bounds: Bounds, rows: np.ndarray, method: BoundMethod | None = None
) -> DualBound:
    """Lower bounds of rows . y over the region, rows of shape (m, n_outputs). Rounded."""
    return (method or Crown()).rows(DualProblem.of(net, region, bounds), np.atleast_2d(rows))


def make_problem(net: Network, region: Region, device: str | None) -> DualProblem:
    """An empty problem in numpy, or in torch on a device."""
    if device is None:
        return DualProblem(net, region)
    try:
        import torch
    except ImportError as error:
        raise OptionError(
            f"device={device!r} needs torch, which is not installed: pip install milpverify[torch]."
        ) from error
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise OptionError(f"device={device!r}: no CUDA device is present. Leave the device out to run on numpy.")
    return DualProblem(net.to_torch(device), region, like=torch.zeros(0, dtype=torch.float64, device=device))


def _interval_is_exact(problem: DualProblem, k: int) -> bool:
    """Whether layer k reads only the input, and the input is a plain box: no dual bound is tighter."""
    return all(source == 0 for source, _ in problem.affine(k).blocks) and problem.region.is_box

"""What every attack is: a search in float64 for a point of the region with the least slack max_i (C_i y - d_i)."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milpverify.attack.gradient import Linearization
from milpverify.errors import OptionError, PropertyError
from milpverify.network.graph import Network
from milpverify.spec.property import Case
from milpverify.spec.regions import Region

BATCH_BYTES = 2**28  # activations of one forward pass, all layers alive


@dataclass(frozen=True, eq=False)
class AttackResult:
    """The best point an attack met. Floating: only exact replay turns it into a witness.

    Attributes:
        x: Shape (n_inputs,), in the region up to rounding.
        slack: max_i (C_i y - d_i) there as float64 computes it; <= 0 claims a violation.
    """

    x: np.ndarray
    slack: float

    @property
    def found(self) -> bool:
        """Whether float64 takes the point for a violation."""
        return self.slack <= 0


class Attack(ABC):
    """A way to look for points with little slack."""

    def attack(
        self,
        net: Network,
        case: Case,
        *,
        start: np.ndarray | None = None,
        stop: float = 0.0,
        time_limit_s: float | None = None,
    ) -> AttackResult:
        """Minimise the slack of one case over its region; the arguments are those of `attack_all`."""
        return self.attack_all(net, [case], start=start, stop=stop, time_limit_s=time_limit_s)[0]

    def attack_all(
        self,
        net: Network,
        cases: Sequence[Case],
        *,
        start: np.ndarray | None = None,
        stop: float = 0.0,
        every_case: bool = False,
        time_limit_s: float | None = None,
    ) -> tuple[AttackResult, ...]:
        """Minimise the slack of every case over its region, the cases of one region as one batch. Floating.

        Args:
            net: The network, numpy operators.
            cases: Cases sharing a region are batched when they hold the same region object.
            start: Points to begin from besides the attack's own, shape (n_inputs,) or (m, n_inputs).
            stop: The search ends when a slack falls to this; -inf makes it run to its end.
            every_case: Whether `stop` must be met by every case instead of any.
            time_limit_s: Wall time after which the best so far is returned; None for no limit.

        Returns:
            One result per case, in order.

        Raises:
            PropertyError: If a case does not fit the network.
            OptionError: If the time limit is negative or NaN.
        """
        if time_limit_s is not None and not time_limit_s >= 0:
            raise OptionError(f"attack: time_limit_s must be at least 0, got {time_limit_s}. Omit it for no limit.")
        for case in cases:
            _check_fit(net, case)
        ends = time.monotonic() + (np.inf if time_limit_s is None else time_limit_s)
        groups: dict[int, list[int]] = {}
        for i, case in enumerate(cases):
            groups.setdefault(id(case.region), []).append(i)
        points = np.zeros((0, net.n_inputs)) if start is None else np.asarray(start, float).reshape(-1, net.n_inputs)
        results: dict[int, AttackResult] = {}
        for left, members in zip(range(len(groups), 0, -1), groups.values(), strict=True):
            now = time.monotonic()
            objective = Slack.of(net, [cases[i] for i in members])
            hit = any(result.slack <= stop for result in results.values())
            deadline = now if hit and not every_case else now + (ends - now) / left
            goal = Goal(stop, every_case, deadline)
            results.update(zip(members, self._search(objective, cases[members[0]].region, points, goal), strict=True))
        return tuple(results[i] for i in range(len(cases)))

    @abstractmethod
    def _search(self, slack: Slack, region: Region, start: np.ndarray, goal: Goal) -> list[AttackResult]:
        """One result per case of `slack`, all over one region; past the deadline, the slack of a single point."""


@dataclass(frozen=True)
class Goal:
    """When a search may end.

    Attributes:
        stop: Slack that is good enough.
        every_case: Whether every case must reach it.
        deadline: On the clock of `time.monotonic`.
    """

    stop: float
    every_case: bool
    deadline: float

    def met(self, best: np.ndarray, comfort: np.ndarray | float = 0.0) -> bool:
        """Whether the best slacks, one per case, are at or below the goal by a margin `comfort`."""
        done = best <= self.stop - comfort
        return bool(done.all() if self.every_case else done.any())

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self.deadline


@dataclass(frozen=True, eq=False)
class Slack:
    """The slacks of several cases as functions of the input.

    Attributes:
        net: The network.
        C: Shape (cases, rows, n_outputs); a case with fewer rows repeats its last one.
        d: Shape (cases, rows).
    """

    net: Network
    C: np.ndarray
    d: np.ndarray

    @classmethod
    def of(cls, net: Network, cases: Sequence[Case]) -> Slack:
        """The slacks of these cases."""
        most = max(1, *(len(case.unsafe.d) for case in cases))
        C, d = np.zeros((len(cases), most, net.n_outputs)), np.zeros((len(cases), most))
        for i, case in enumerate(cases):
            rows = len(case.unsafe.d)
            if rows:  # without rows every output is unsafe, and 0 <= 0 says so
                pick = np.minimum(np.arange(most), rows - 1)
                C[i], d[i] = case.unsafe.C[pick], case.unsafe.d[pick]
        return cls(net, C, d)

    @property
    def n_cases(self) -> int:
        """Number of cases."""
        return len(self.C)

    @property
    def points_at_once(self) -> int:
        """Points whose activations fit in `BATCH_BYTES`, with room for the windows of a convolution."""
        return max(1, BATCH_BYTES // (64 * (self.net.n_inputs + self.net.n_neurons + self.net.n_outputs)))

    def at_points(self, x: np.ndarray) -> np.ndarray:
        """Every case's slack at every point: (batch, n_inputs) -> (batch, cases)."""
        step = self.points_at_once
        parts = [self._rows(self.net.forward(x[i : i + step])) for i in range(0, len(x), step)]
        return np.concatenate(parts)

    def with_gradient(
        self, x: np.ndarray, which: np.ndarray, closed_slope: np.ndarray | float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """The slack of case which[i] at point x[i], and its gradient: the largest row's (floating).

        Args:
            x: Shape (batch, n_inputs).
            which: Case indices, shape (batch,).
            closed_slope: As in `Linearization.pull_back`.

        Returns:
            Shapes (batch,) and (batch, n_inputs).
        """
        point = Linearization.at(self.net, x)
        rows = (self.C[which] @ point.y[:, :, None])[:, :, 0] - self.d[which]
        worst = rows.argmax(axis=1)
        return rows.max(axis=1), point.pull_back(self.C[which, worst], closed_slope)

    def _rows(self, y: np.ndarray) -> np.ndarray:
        values = y @ self.C.reshape(-1, self.C.shape[-1]).T
        return np.asarray((values.reshape(len(y), *self.d.shape) - self.d).max(axis=2))


def centre(region: Region) -> np.ndarray:
    """The ball's centre, or the middle of the box, moved into the region. Shape (n_inputs,)."""
    return region.project(region.anchor)


def _check_fit(net: Network, case: Case) -> None:
    inputs, outputs = len(case.region.lower), case.unsafe.C.shape[1]
    if (inputs, outputs) != (net.n_inputs, net.n_outputs):
        raise PropertyError(
            f"attack: case {case.name!r} is about {inputs} inputs and {outputs} outputs, the network has "
            f"{net.n_inputs} and {net.n_outputs}. Check that property and network belong together."
        )

r"""DeepFool: the nearest adversarial example of the linearised network, again and again.

At x with margins m_t > 0 of the targets t and gradients g_t, one batched Jacobian, the nearest boundary of the
linearised network is the target with the shortest step delta, g_t . delta <= -m_t; x moves there and a little further,
until some margin is <= 0. The steps keep within the clip and are shortest under it (`attack.steps`), so that no pixel
at its limit is counted on.

Two things are our own. What is found is drawn towards the centre: along the straight line, and by the shortest step
from the *centre* onto the boundary of the linearisation at the point found, as long as the point stays adversarial. And
the walk is repeated from the centre with no step longer than a share of the distance found, since beyond a few phases a
linearisation says nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from milpverify.attack.gradient import Linearization
from milpverify.attack.iterative_fgsm import check_norm
from milpverify.attack.method import BATCH_BYTES
from milpverify.attack.steps import Norm, onto_half_space
from milpverify.errors import OptionError
from milpverify.network.graph import Network
from milpverify.network.operators import Array
from milpverify.spec.regions import L1Ball, L2Ball, LinfBall

BISECTIONS = 20  # along the line from the centre


@dataclass(frozen=True)
class DeepFool:
    """Minimum-distance attack by linearisation; many inputs, each with several margins, as one batch.

    Attributes:
        norm: That distances are measured in: `L2Ball`, `LinfBall` or `L1Ball`.
        steps: Linearisations until an input is given up.
        overshoot: By how much each step goes beyond the boundary of the linearisation, as a share of the step.
        passes: Walks from the centre.
        longest_step: Of any step from the second walk on, as a share of the distance found before.
        draws: Steps from the centre after a walk.
        straight: Whether what is found is drawn back along the line to its centre.
        each_target: Whether every target is walked to alone, the nearest end counting; or at every step the nearest
            target. Without this and `straight`, with one pass and no draws this is the published attack, but for the
            clip.

    Raises:
        OptionError: If the norm is no ball, steps is not positive, or another number is negative.

    Source:
        Moosavi-Dezfooli, Fawzi & Frossard 2016, algorithm 2 (L2) and section 3.3 (other norms); steps within the box as
        in Croce & Hein 2020 (FAB), section 3.1.
    """

    norm: Norm = L2Ball
    steps: int = 50
    overshoot: float = 0.02
    passes: int = 3
    longest_step: float = 0.1
    draws: int = 10
    straight: bool = True
    each_target: bool = True

    def __post_init__(self) -> None:
        check_norm("DeepFool", self.norm)
        if self.steps < 1 or not 0 <= self.overshoot < np.inf or self.draws < 0:
            raise OptionError(
                f"DeepFool: steps={self.steps} must be positive, overshoot={self.overshoot} and draws={self.draws} at "
                "least 0."
            )
        if self.passes < 1 or not 0 < self.longest_step <= 1:
            raise OptionError(
                f"DeepFool: passes={self.passes} must be positive and longest_step={self.longest_step} in (0, 1]."
            )

    def search(
        self, net: Network, x: np.ndarray, rows: np.ndarray, low: np.ndarray, high: np.ndarray, ends: float = np.inf
    ) -> tuple[np.ndarray, np.ndarray]:
        """Walk every input to where some row of its own is <= 0. Floating.

        Args:
            net: The network, numpy operators.
            x: Centres, shape (batch, n_inputs), within the clip.
            rows: Margins, shape (batch, targets, n_outputs): combinations of outputs without a constant.
            low, high: The clip, shape (n_inputs,) or numbers; infinite for none.
            ends: On the clock of `time.monotonic`: no step begins later.

        Returns:
            The points, shape (batch, n_inputs), and whether each is adversarial in float64, shape (batch,).
        """
        low, high = (np.broadcast_to(np.asarray(side, float), x.shape[1:]) for side in (low, high))
        batch, targets, n_outputs = rows.shape
        whole = _Task(net, x, rows, rows, low, high, ends)
        if self.each_target and targets > 1:
            whole = replace(
                whole, x=np.repeat(x, targets, axis=0), rows=rows.reshape(-1, 1, n_outputs),
                unsafe=np.repeat(rows, targets, axis=0),
            )  # fmt: skip
        step = max(1, BATCH_BYTES // (128 * whole.rows.shape[1] * (net.n_inputs + net.n_neurons)))
        parts = [self._searched(whole.part(slice(i, i + step))) for i in range(0, len(whole.x), step)]
        points, length = (np.concatenate([part[k] for part in parts]) for k in range(2))
        length = length.reshape(batch, -1)
        nearest, every = length.argmin(axis=1), np.arange(batch)
        return points.reshape(batch, -1, x.shape[1])[every, nearest], np.isfinite(length[every, nearest])

    def _searched(self, task: _Task) -> tuple[np.ndarray, np.ndarray]:
        """The nearest points of all walks and how far they are, for a batch whose gradients fit in memory.

        Where nothing was found the distance is infinite, and the point the last walk's end.
        """
        best, least = task.x.copy(), np.full(len(task.x), np.inf)
        for _ in range(self.passes):
            point, found = self._walked(task, np.where(np.isfinite(least), self.longest_step * least, np.inf))
            if self.straight:
                point = self._drawn_back(task, point, found)
            for _ in range(self.draws):
                before = point
                if task.late:
                    break
                point = self._drawn(task, point, found)
                if (point == before).all():
                    break
            length = np.where(found, length_of(point - task.x, self.norm), np.inf)
            nearer, lost = length < least, np.isinf(least)
            best[nearer | lost], least = point[nearer | lost], np.minimum(least, length)
            if not nearer.any():
                break
        return best, least

    def _walked(self, task: _Task, cap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One walk from the centres, no step longer than `cap`, shape (batch,)."""
        point, found = task.x.copy(), np.zeros(len(task.x), dtype=bool)
        for _ in range(self.steps + 1):
            left = np.flatnonzero(~found)
            if not len(left) or task.late:
                break
            y, margins, gradients = margins_and_gradients(task.net, point[left], task.rows[left])
            found[left] = ((task.unsafe[left] @ y[:, :, None])[:, :, 0] <= 0).any(axis=1)
            left, walk = left[~found[left]], ~found[left]
            low, high = task.low - point[left], task.high - point[left]
            step, _ = self._shortest(margins[walk], gradients[walk], low, high)
            length = length_of(step, self.norm)
            shrink = np.minimum(1.0, cap[left] / np.where(length > 0, length, 1.0))
            moved = np.clip(point[left] + ((1.0 + self.overshoot) * shrink)[:, None] * step, task.low, task.high)
            moved = np.where(np.isfinite(moved).all(axis=1)[:, None], moved, point[left])  # no step after an overflow
            if (moved == point[left]).all():
                break
            point[left] = moved
        return point, found

    def _shortest(
        self, margins: np.ndarray, gradients: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The shortest step to any target's boundary, and whether the box allows one; else the step that gains most."""
        batch, targets, n = gradients.shape
        step, reached = onto_half_space(
            gradients.reshape(-1, n), margins.reshape(-1), np.repeat(low, targets, axis=0),
            np.repeat(high, targets, axis=0), self.norm,
        )  # fmt: skip
        length = np.where(reached, length_of(step, self.norm), np.inf).reshape(batch, targets)
        missing = margins + np.einsum("btn,btn->bt", gradients, step.reshape(batch, targets, n))
        best = np.where(np.isinf(length).all(axis=1), missing.argmin(axis=1), length.argmin(axis=1))
        rows = np.arange(batch)
        return step.reshape(batch, targets, n)[rows, best], reached.reshape(batch, targets)[rows, best]

    def _drawn_back(self, task: _Task, point: np.ndarray, found: np.ndarray) -> np.ndarray:
        """The nearest adversarial point that bisection meets between a point and its centre."""
        near, far = np.zeros(len(point)), np.ones(len(point))
        best = point.copy()
        for _ in range(BISECTIONS if found.any() else 0):
            middle = (near + far) / 2
            tried = task.x + middle[:, None] * (point - task.x)
            hit = is_adversarial(task.net, tried, task.unsafe) & found
            best[hit] = tried[hit]
            near, far = np.where(hit, near, middle), np.where(hit, middle, far)
        return best

    def _drawn(self, task: _Task, point: np.ndarray, found: np.ndarray) -> np.ndarray:
        """The shortest steps from the centres onto the boundaries seen at the points, where that is nearer and hits."""
        some = np.flatnonzero(found)
        if not len(some):
            return point
        x, rows, unsafe = task.x[some], task.rows[some], task.unsafe[some]
        _, margins, gradients = margins_and_gradients(task.net, point[some], rows)
        at_centre = margins + np.einsum("btn,bn->bt", gradients, x - point[some])
        step, reached = self._shortest(at_centre, gradients, task.low - x, task.high - x)
        best, least = point.copy(), length_of(point[some] - x, self.norm)
        for push in (1.0 + 1e-9, 1.0 + 1e-4, 1.0 + 1e-2):
            tried = np.clip(x + push * step, task.low, task.high)
            length = length_of(tried - x, self.norm)
            hit = reached & (length < least * (1.0 - 1e-9)) & is_adversarial(task.net, tried, unsafe)
            best[some[hit]], least[hit] = tried[hit], length[hit]
        return best


@dataclass(frozen=True, eq=False)
class _Task:
    """A batch of centres, each with what its walks go for.

    Attributes:
        x: Shape (batch, n_inputs).
        rows: Margins that are linearised, shape (batch, targets, n_outputs).
        unsafe: Margins of which any must fall to 0, shape (batch, m, n_outputs).
        low, high: The clip, shape (n_inputs,).
        ends: On the clock of `time.monotonic`.
    """

    net: Network
    x: np.ndarray
    rows: np.ndarray
    unsafe: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ends: float

    def part(self, some: slice) -> _Task:
        """Some of the centres."""
        return replace(self, x=self.x[some], rows=self.rows[some], unsafe=self.unsafe[some])

    @property
    def late(self) -> bool:
        """Whether no further step may begin."""
        return time.monotonic() >= self.ends


def margins_and_gradients(net: Network, x: np.ndarray, rows: np.ndarray) -> tuple[Array, Array, Array]:
    """y, rows . y and their gradients, all targets of all inputs in one batched pull-back. Floating.

    Args:
        net: The network.
        x: Shape (batch, n_inputs).
        rows: Shape (batch, targets, n_outputs).

    Returns:
        Shapes (batch, n_outputs), (batch, targets) and (batch, targets, n_inputs).
    """
    targets = rows.shape[1]
    at = Linearization.at(net, x)
    wide = Linearization(
        net, np.repeat(x, targets, axis=0), at.y, tuple(np.repeat(z, targets, axis=0) for z in at.hidden)
    )
    gradients = wide.pull_back(rows.reshape(-1, rows.shape[-1])).reshape(len(x), targets, -1)
    return at.y, (rows @ at.y[:, :, None])[:, :, 0], gradients


def is_adversarial(net: Network, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Whether some row . y is <= 0 at each point, shape (batch,). Floating."""
    return np.asarray(((rows @ net.forward(x)[:, :, None])[:, :, 0] <= 0).any(axis=1))


def length_of(delta: np.ndarray, norm: Norm) -> np.ndarray:
    """The norm over the last axis. Floating."""
    return np.asarray(np.linalg.norm(delta, {LinfBall: np.inf, L2Ball: 2, L1Ball: 1}[norm], axis=-1))

"""Could this input be adversarial? Yes unless no other label is reachable near it: no false negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from milpverify.network.graph import Network
from milpverify.proof.evidence import Holds, Verdict, Violated
from milpverify.spec.property import robustness
from milpverify.spec.regions import Grid, L1Ball, L2Ball, LinfBall
from milpverify.tasks.progress import OnProgress
from milpverify.tasks.verify import Verifier, verify


@dataclass(frozen=True, eq=False)
class Detection:
    """Whether an input could be the perturbed copy of one with another label.

    Attributes:
        label: What the network predicts for the input.
        possible: False only if it is proven that every input of the ball gets `label`; an open question is True.
        certain: Whether another label was actually found in the ball.
        verdict: The evidence.
    """

    label: int
    possible: bool
    certain: bool
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """`label`, `possible`, `certain` and `verdict` (see `Verdict.to_dict`)."""
        return {
            "label": self.label,
            "possible": self.possible,
            "certain": self.certain,
            "verdict": self.verdict.to_dict(),
        }


def possibly_adversarial(
    net: Network,
    x: np.ndarray,
    eps: float,
    *,
    ball: type[LinfBall] | type[L1Ball] | type[L2Ball] = LinfBall,
    clip: tuple[float, float] | None = None,
    grid: Grid | None = None,
    time_limit_s: float | None = None,
    method: Verifier | None = None,
    on_progress: OnProgress | None = None,
) -> Detection:
    """Is any label other than the predicted one reachable within eps of x?

    If x is an adversarial example made from a clean input of another label by a perturbation of at most eps, then that
    clean input lies in the ball, so the answer is `possible`: no adversarial example goes unflagged. The label is
    that of the float64 forward pass; ties count as another label.

    Args:
        net: A classifier.
        x: n_inputs values.
        eps: Radius, in units of the input.
        ball: The norm.
        clip: Range of valid inputs.
        grid: Whose points alone are inputs; None where every point is.
        time_limit_s, method, on_progress: As in `verify`; what runs out of time is possible.

    Returns:
        The answer with its evidence.

    Raises:
        RegionError, OptionError: As in the ball and `verify`.

    Source:
        Wong & Kolter 2018, sections 2.1 and 3.5 (provably detecting adversarial examples at test time).
    """
    point = net.flat(x)
    label = int(np.argmax(net.forward(point)))
    prop = robustness(net, ball(point, eps, clip=clip, grid=grid), label)
    verdict = verify(net, prop, time_limit_s=time_limit_s, method=method, on_progress=on_progress)
    return Detection(label, not isinstance(verdict, Holds), isinstance(verdict, Violated), verdict)

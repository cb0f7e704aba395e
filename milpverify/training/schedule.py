"""How the radius grows while a network is trained."""

from __future__ import annotations

from dataclasses import dataclass

from milpverify.errors import OptionError


@dataclass(frozen=True)
class EpsSchedule:
    """The radius: `start` for `wait` epochs, then up to `eps` on a line over `ramp` epochs, and there to the end.

    Attributes:
        eps: The radius at the end, in units of the input.
        start: The radius at first, at most `eps`.
        wait, ramp: In epochs; fractions are allowed.

    Raises:
        OptionError: If a number is negative, infinite or NaN, or the radius would fall.
    """

    eps: float
    start: float = 0.0
    wait: float = 0.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.eps < float("inf"):
            raise OptionError(
                f"EpsSchedule: expected 0 <= start <= eps, got start={self.start}, eps={self.eps}. "
                "Give finite radii in units of the input."
            )
        if not (0 <= self.wait < float("inf") and 0 <= self.ramp < float("inf")):
            raise OptionError(f"EpsSchedule: wait={self.wait} and ramp={self.ramp} must be finite and not negative.")

    def at(self, epoch: float) -> float:
        """The radius after that many epochs."""
        if epoch >= self.full_from:
            return self.eps
        share = 0.0 if epoch <= self.wait else (epoch - self.wait) / self.ramp
        return self.start + (self.eps - self.start) * share

    @property
    def full_from(self) -> float:
        """Epochs after which the radius stays at `eps`."""
        return self.wait + self.ramp

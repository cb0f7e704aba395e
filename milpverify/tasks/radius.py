"""What is known of a minimum distance while it is searched for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from milpverify.attack.deepfool import DeepFool
from milpverify.attack.pgd import Pgd
from milpverify.bounds.method import BoundMethod
from milpverify.errors import OptionError
from milpverify.network.graph import Network
from milpverify.proof.evidence import Grade, Witness, float_at_least
from milpverify.proof.replay import confirm
from milpverify.search.branch_and_bound import BranchAndBound
from milpverify.search.milp import MILP
from milpverify.spec.property import Case, Polyhedron, Property
from milpverify.spec.regions import L1Ball, L2Ball, LinfBall
from milpverify.tasks.progress import Clock

Ball: TypeAlias = LinfBall | L1Ball | L2Ball


@dataclass(frozen=True)
class Radius:
    """How minimum distances are found.

    Attributes:
        bounds: Bounds of the hidden neurons; `Crown()` when None.
        attack: Gives upper bounds on balls that shrink; None to leave upper bounds to tree and programs altogether.
        tree: Decides whether the best point is the nearest one; None to leave that to the programs.
        search: Options of the programs; `search.gap` is the gap, in units of the input.
        relative_gap: The same as a share of the radius; the wider of both counts.
        growth: Factor from one radius searched to the next: a smaller region has fewer unstable neurons, so radii grow
            from the proven one until a witness is met.
        bisections: Steps that push the proven radius up by bounds alone, and as many that push the attacked one down.
        inside: How far inside the unsafe set, in units of y, witnesses are polished, so that rounding cannot put them
            outside.
        nearest: Minimum-distance attack that comes before `attack`, if there is one, and gives the first upper bound.
    """

    bounds: BoundMethod | None = None
    attack: Pgd | None = field(default_factory=lambda: Pgd(restarts=4, rounds=1))
    tree: BranchAndBound | None = field(default_factory=lambda: BranchAndBound(attack=None))
    search: MILP = field(default_factory=MILP)
    growth: float = 1.2
    bisections: int = 8
    inside: float = 1e-7
    relative_gap: float = 0.0
    nearest: DeepFool | None = field(default_factory=DeepFool)

    def __post_init__(self) -> None:
        if not self.growth > 1 or self.bisections < 0 or not self.inside >= 0 or not 0 <= self.relative_gap < 1:
            raise OptionError(
                "Radius: growth must exceed 1, bisections and inside must not be negative, relative_gap is in [0, 1)."
            )


@dataclass(eq=False)
class RadiusState:
    """What is known of a radius, and how more is learnt."""

    net: Network
    ball: Ball
    unsafe: tuple[tuple[str, Polyhedron], ...]
    clock: Clock
    method: Radius
    lower: float = 0.0
    lower_grade: Grade = Grade.BOUND_ROUNDED
    upper: float = math.inf
    witness: Witness | None = None
    reach: float = math.inf
    timed_out: bool = False
    _closed: dict[int, tuple[float, Grade]] = field(default_factory=dict)

    def property_at(self, eps: float, which: Sequence[int] | None = None) -> Property:
        """That nothing within eps is in an unsafe set, or in some of them."""
        region = self.ball.scaled_to(eps)
        sets = self.unsafe if which is None else [self.unsafe[i] for i in which]
        cases = tuple(Case(region, unsafe, name) for name, unsafe in sets)
        return Property(cases, self.net.n_inputs, self.net.n_outputs)

    def open_at(self, eps: float) -> list[int]:
        """The unsafe sets that were not proved, one by one, to hold nothing within eps."""
        return [i for i in range(len(self.unsafe)) if self._closed.get(i, (-1.0, None))[0] < eps]

    def close(self, i: int, eps: float, grade: Grade) -> None:
        """One unsafe set holds nothing within eps; where the others do not either, the radius is proved."""
        if eps > self._closed.get(i, (-1.0, grade))[0]:
            self._closed[i] = eps, grade
        if len(self._closed) == len(self.unsafe):
            radii, grades = zip(*self._closed.values(), strict=True)
            trusted = Grade.SOLVER_TRUSTED in grades
            self.prove(min(radii), Grade.SOLVER_TRUSTED if trusted else Grade.BOUND_ROUNDED)

    def offer(self, prop: Property, x: np.ndarray, name: str | None = None) -> Witness | None:
        """Keep a point if it is adversarial in exact arithmetic and nearer than the best."""
        for case in prop.cases:
            if name is not None and case.name != name:
                continue
            witness = confirm(self.net, case, x)
            if witness is not None:
                distance = distance_from_centre(self.ball, witness.x)
                if distance < self.upper:
                    self.upper, self.witness = distance, witness
                return witness
        return None

    def prove(self, eps: float, grade: Grade) -> None:
        if eps > self.lower:
            self.lower = min(eps, self.upper)
            if grade is Grade.SOLVER_TRUSTED:
                self.lower_grade = grade

    def tell(self, stage: str, unstable: int | None = None) -> None:
        self.clock.tell(stage, "radius", self.lower, self.upper, unstable)

    @property
    def gap(self) -> float:
        """The difference to close."""
        if math.isinf(self.upper):
            return self.method.search.gap
        return max(self.method.search.gap, self.method.relative_gap * self.upper)

    @property
    def done(self) -> bool:
        return self.upper - self.lower <= self.gap or self.clock.out


def distance_from_centre(ball: Ball, x: np.ndarray) -> float:
    """The exact distance of x from a ball's centre in its norm, rounded up."""
    gaps = [abs(Fraction(a) - Fraction(b)) for a, b in zip(x.tolist(), ball.center.tolist(), strict=True)]
    if isinstance(ball, L2Ball):
        return _root_at_least(sum((gap * gap for gap in gaps), Fraction(0)))
    return float_at_least(max(gaps, default=Fraction(0)) if isinstance(ball, LinfBall) else sum(gaps, Fraction(0)))


def _root_at_least(square: Fraction) -> float:
    """The least float64 whose square is at least a rational, or the next one."""
    root = math.sqrt(float_at_least(square))
    while Fraction(root) ** 2 < square:
        root = math.nextafter(root, math.inf)
    return root

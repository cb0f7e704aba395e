"""How near is the nearest adversarial image? On a grid distances in L-inf are whole steps: each is decided, or skipped.

The centre is a grid point c (given as a float next to it). With no adversarial grid point within j steps of c and one
at j + 1, the minimum is (j + 1) / steps, exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from milpverify.errors import OptionError
from milpverify.network.graph import Network
from milpverify.proof.evidence import Bracket, Grade, Holds, Unknown, Violated, Witness
from milpverify.proof.replay import confirm
from milpverify.search.portfolio import Portfolio
from milpverify.search.question import Search
from milpverify.spec.grid import SLACK, Grid
from milpverify.spec.property import Case, Polyhedron, Property
from milpverify.spec.regions import LinfBall
from milpverify.tasks.progress import Clock, OnProgress
from milpverify.tasks.radius import Radius
from milpverify.tasks.verify import Verifier, verify


@dataclass(eq=False)
class _Steps:
    """What is known of the radius, in steps.

    Attributes:
        proven: No unsafe point lies within so many.
        found: One lies at so many; None where none was found.
        most: Beyond so many none is looked for.
    """

    most: int
    proven: int = -1
    found: int | None = None
    witness: Witness | None = None
    grade: Grade = Grade.BOUND_ROUNDED
    timed_out: bool = False
    interrupted: bool = False

    @property
    def end(self) -> int:
        """The least number of steps that needs no question."""
        return self.most + 1 if self.found is None else self.found

    @property
    def next(self) -> int:
        """Twice as far while nothing is found, then halfway."""
        far = max(1, 2 * self.proven) if self.found is None else (self.proven + self.found) // 2
        return min(far, self.end - 1)


def grid_radius(
    net: Network,
    ball: LinfBall,
    grid: Grid,
    unsafe: tuple[tuple[str, Polyhedron], ...],
    clock: Clock,
    method: Radius,
    on_progress: OnProgress | None = None,
) -> Bracket:
    """The L-inf distance from a ball's centre to the nearest grid point of the ball that some unsafe set holds.

    Args:
        net: The network.
        ball: Centre, clip and the largest distance of interest; without a grid.
        grid: The centre lies on it.
        unsafe: Named sets, each a way to be adversarial.
        clock: Ends the search.
        method: Options; `attack`, `growth`, `bisections` and `inside` have no part in it.
        on_progress: Called as the work goes on.

    Raises:
        OptionError: If the centre is no grid point.
        RegionError: If the clip excludes it.
    """
    home = _index(ball, grid)
    centre = LinfBall(grid.values(home), 0.0, clip=ball.clip, grid=grid)
    known = _Steps(math.floor(Fraction(ball.eps) * grid.steps + SLACK))

    def at(steps: int) -> Property:
        region = centre.scaled_to(steps / grid.steps)
        return Property(tuple(Case(region, part, name) for name, part in unsafe), net.n_inputs, net.n_outputs)

    for case in at(0).cases:
        known.witness = known.witness or confirm(net, case, centre.center)
    if known.witness is not None:
        known.found = 0
    known.proven = 0 if known.found is None else -1
    while known.proven < known.end - 1:
        _decide(net, at(known.next), known.next, known, clock, _verifier(method), on_progress)
        if known.timed_out or known.interrupted:
            break
        if known.witness is not None and known.found != 0:
            known.found = int(np.abs(grid.nearest(known.witness.x) - home).max())
    return _bracket(net, ball, grid, known, clock)


def _decide(
    net: Network,
    prop: Property,
    steps: int,
    known: _Steps,
    clock: Clock,
    verifier: Verifier,
    on_progress: OnProgress | None,
) -> None:
    """Ask whether anything lies within so many steps."""
    if clock.out:
        known.timed_out = True
        return
    limit = None if math.isinf(clock.left) else max(clock.left, 1e-3)
    verdict = verify(net, prop, time_limit_s=limit, method=verifier, on_progress=on_progress)
    if isinstance(verdict, Holds):
        known.proven, known.grade = steps, Grade.weakest((known.grade, verdict.grade))
    elif isinstance(verdict, Violated):
        known.witness, known.found = verdict.witness, steps
    else:
        assert isinstance(verdict, Unknown)
        known.interrupted, known.timed_out = verdict.interrupted, not verdict.interrupted


def _verifier(method: Radius) -> Verifier:
    search: Search = method.search if method.tree is None else Portfolio(tree=method.tree, milp=method.search)
    return Verifier(bounds=method.bounds, search=search)


def _index(ball: LinfBall, grid: Grid) -> np.ndarray:
    """The centre in steps."""
    home = grid.nearest(ball.center)
    for i, (x, k) in enumerate(zip(ball.center.tolist(), home.tolist(), strict=True)):
        if abs(Fraction(x) * grid.steps - int(k)) > SLACK:
            raise OptionError(
                f"minimum_epsilon: x[{i}] = {x!r} is no k/{grid.steps}: distances on a grid are counted from a grid "
                "point. Round x to the grid first."
            )
    return home


def _bracket(net: Network, ball: LinfBall, grid: Grid, known: _Steps, clock: Clock) -> Bracket:
    beyond = known.found is None and known.proven >= known.most
    lower = ball.eps if beyond else float(grid.around(np.array(known.proven + 1.0))[0])
    upper = math.inf if known.found is None else float(grid.around(np.array(float(known.found)))[1])
    return Bracket(
        min(lower, upper), upper, known.grade, None if known.witness is None else Grade.REPLAYED, "x", known.witness,
        known.timed_out, clock.seconds, net.approximations, known.interrupted,
    )  # fmt: skip

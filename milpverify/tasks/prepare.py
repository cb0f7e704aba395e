"""What every task does first: bound a region once, for all cases in it, and see what the bounds alone decide."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from milpverify import __version__
from milpverify.attack.pgd import Pgd
from milpverify.bounds.backward import Crown, FastLin
from milpverify.bounds.compute import compute_bounds
from milpverify.bounds.method import BoundMethod
from milpverify.bounds.problem import DualProblem
from milpverify.errors import PropertyError
from milpverify.network.graph import Bounds, Network
from milpverify.proof.evidence import Grade
from milpverify.search.checkpoint import Checkpoint, CheckpointFile
from milpverify.search.question import Question, Replay, trusted_allowance
from milpverify.spec.property import Case, Property
from milpverify.spec.regions import Region
from milpverify.spec.store import property_fingerprint
from milpverify.tasks.progress import Clock

LARGEST_SEARCH = 5e6  # inputs of unstable neurons, times rows: some seconds


@dataclass(frozen=True, eq=False)
class Prepared:
    """A region's bounds, shared by its cases.

    Attributes:
        net: The network.
        cases: All over one region.
        bounds: Of the hidden neurons.
        lower: Per case a lower bound of its least slack (rounded); > 0 proves that the case holds, as far as `grade`
            says. Where the hidden bounds are a solver's word, its tolerance has been taken off.
        starts: Inputs where the bounds think the rows smallest, shape (rows, n_inputs): good places to attack from.
    """

    net: Network
    cases: tuple[Case, ...]
    bounds: Bounds
    lower: np.ndarray
    starts: np.ndarray

    @property
    def region(self) -> Region:
        """The region of all cases."""
        return self.cases[0].region

    @property
    def n_unstable(self) -> int:
        """Unstable neurons in all layers."""
        return sum(self.bounds.n_unstable)

    @property
    def grade(self) -> Grade:
        """What `lower` rests on."""
        return Grade.SOLVER_TRUSTED if self.bounds.solver_trusted else Grade.BOUND_ROUNDED

    def question(self, replay: Replay, clock: Clock, gap: float | None = None, relative_gap: float = 0.0) -> Question:
        """What a search is asked about these cases.

        Args:
            replay: Judges a point for a case.
            clock: Ends the search, and is told where it stands.
            gap, relative_gap: As of `Question`.
        """
        spare = trusted_allowance(self.region, [self.bounds]) if self.bounds.solver_trusted else 0.0
        question = Question(
            self.net, self.region, self.cases, self.bounds, self.lower.copy(), replay, gap, relative_gap, spare,
            self.starts, ends=time.monotonic() + clock.left, interrupt=clock.interrupt,
        )  # fmt: skip
        name = self.cases[0].name if len(self.cases) == 1 else f"{len(self.cases)} cases"
        question.tell = clock.search_listener(name, self.n_unstable)
        return question


def first_attack() -> Pgd:
    """A quick attack: what it does not find is left to the search, which attacks in earnest."""
    return Pgd(steps=20, restarts=4, rounds=1, samples=4096)


def prepare(net: Network, cases: Sequence[Case], method: BoundMethod | None = None, *, ascend: bool = True) -> Prepared:
    """Bound one region for its cases.

    The rows are bounded with the slopes of CROWN and of Fast-Lin; where neither decides, by an ascent of slopes and
    input-wise multipliers. The best one counts.

    Args:
        net: The network.
        cases: All over one region.
        method: Bounds of the hidden neurons; `Crown()` when None.
        ascend: Whether that ascent is wanted: a tree makes its own.
    """
    region = cases[0].region
    bounds = compute_bounds(net, region, method)
    counts = [len(case.unsafe.d) for case in cases]
    rows = np.concatenate([case.unsafe.C for case in cases])
    if not len(rows):
        return Prepared(net, tuple(cases), bounds, np.full(len(cases), -np.inf), np.zeros((0, net.n_inputs)))
    problem = DualProblem.of(net, region, bounds)
    d, case_of = np.concatenate([case.unsafe.d for case in cases]), np.repeat(np.arange(len(cases)), counts)
    spare = trusted_allowance(region, [bounds]) if bounds.solver_trusted else 0.0
    found = [slopes.rows(problem, rows) for slopes in (Crown(), FastLin())]
    value = np.nextafter(np.maximum(*(f.value for f in found)) - d - spare, -np.inf)
    lower = np.full(len(cases), -np.inf)
    np.maximum.at(lower, case_of, value)
    open_ = np.flatnonzero(lower[case_of] <= 0)
    if ascend and len(open_) and few_unstable(net, bounds):
        from milpverify.bounds.slopes import AlphaCrown, KappaCrown

        search = KappaCrown() if few_unstable(net, bounds, len(open_)) else AlphaCrown()
        found.append(search.rows(problem, rows[open_]))
        np.maximum.at(lower, case_of[open_], np.nextafter(found[-1].value - d[open_] - spare, -np.inf))
    starts = np.concatenate([np.asarray(region.minimiser(f.input_lam)) for f in found])
    return Prepared(net, tuple(cases), bounds, lower, starts)


def few_unstable(net: Network, bounds: Bounds, rows: int = 1) -> bool:
    """Whether an ascent on `rows` rows keeps its arrays small next to what a MILP will take."""
    return 0 < bounds.condensed_entries(net.n_inputs) * rows <= LARGEST_SEARCH


def open_checkpoint(
    checkpoint: Checkpoint | Path | str | None, net: Network, prop: Property, question: str, method: object
) -> CheckpointFile | None:
    """The checkpoint of a question, read if it exists; None where none is asked for.

    Raises:
        CheckpointError: If it is damaged, another question's, or no checkpoint.
    """
    if checkpoint is None:
        return None
    asked = {
        "program": __version__,
        "network": net.fingerprint,
        "property": property_fingerprint(prop),
        "question": question,
        "options": repr(method),
    }
    return CheckpointFile(Checkpoint.of(checkpoint), asked)


def check_fit(who: str, net: Network, prop: Property) -> None:
    """Refuse a property made for another network.

    Raises:
        PropertyError: If the numbers of inputs or outputs differ.
    """
    if (prop.n_inputs, prop.n_outputs) != (net.n_inputs, net.n_outputs):
        raise PropertyError(
            f"{who}: the property is about {prop.n_inputs} inputs and {prop.n_outputs} outputs, the network has "
            f"{net.n_inputs} and {net.n_outputs}. Check that they belong together."
        )

"""A proof of a property: a certificate that a checker without solver, search or tolerance accepts (docs/proofs.md).

What bounds close is written down as it is; what needs a tree gets one whose leaves keep their multipliers, over input
boxes where few inputs are free, else over ReLU phases. Where a small tree over phases does not do, hidden neurons are
bounded anew, by claims that the proof holds too. The exact checker is run on what comes out: only what it accepts
is handed on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from milpverify import __version__
from milpverify.bounds.backward import Crown
from milpverify.bounds.compute import compute_bounds
from milpverify.bounds.nodes import NodeProblem
from milpverify.bounds.problem import DualProblem
from milpverify.bounds.semantics import REAL, Float32
from milpverify.bounds.small import folded_rows, small_problem
from milpverify.errors import OptionError
from milpverify.network.graph import Bounds, Network
from milpverify.proof.certificate import Certificate, Context, Group, Layer, LeafTree, PlaneSet
from milpverify.proof.evidence import Proof, float_at_least, float_at_most
from milpverify.proof.exact import ContextTrace, check_exact
from milpverify.proof.float32 import float32_at_most, float32_obstacle
from milpverify.search.box_proof import BoxProver, BoxTree, GridSides, one_leaf
from milpverify.search.neuron_claims import NeuronProver, Places
from milpverify.search.phase_proof import PhaseProver
from milpverify.spec.box import Box
from milpverify.spec.property import Case, Polyhedron, Property
from milpverify.spec.store import property_fingerprint
from milpverify.tasks.prepare import check_fit
from milpverify.tasks.progress import Clock, OnProgress

SEMANTICS = ("real", "float32", "both")
GROWN = 3  # times that a tree over phases is grown in float32, with room for what the checker found missing
INTERRUPTED = "interrupted"  # the reason after Ctrl-C
BITS = (40, 64, 128, 512)  # tried one after the other, where a margin is within rounding
FIRST_SHARE, CLAIMS_SHARE = 0.25, 0.5  # of the time left, for trees before there are claims, and for claims
AGAIN = 2.0  # times what claims took before: less than that is not enough for better ones
LARGEST_CLAIMS = 5e6  # inputs of unstable neurons: what claims may be asked for
MOST_CLAIMED = 1000  # leaves of claims: with more of them, more bits take too long
ROUNDS = 3  # of boxes that the checker refuses: after so many, rounding is to blame


@dataclass(frozen=True)
class Prover:
    """How proofs are searched for.

    Attributes:
        phases: The trees over phases.
        boxes: The trees over boxes.
        few_inputs: Free inputs up to which boxes are split.
        few_neurons: Unstable neurons up to which phases are split first.
        bits: Precisions of the proof, tried in this order.
        neurons: Claims about hidden neurons, tried in this order, and only where many inputs are free.
        first_nodes: Of trees over phases until all of those have been tried; with more than `first_neurons` unstable
            neurons these are roots alone.
    """

    phases: PhaseProver = field(default_factory=PhaseProver)
    boxes: BoxProver = field(default_factory=BoxProver)
    few_inputs: int = 16
    few_neurons: int = 30
    bits: tuple[int, ...] = BITS
    neurons: tuple[NeuronProver, ...] = (NeuronProver(nodes=0), NeuronProver(), NeuronProver(nodes=400))
    first_nodes: int = 1000
    first_neurons: int = 150


@dataclass(frozen=True, eq=False)
class Certified:
    """What came of it.

    Attributes:
        proof: A certificate that the exact checker has accepted; None where there is none.
        reason: Why not.
        seconds: Wall time of all.
    """

    proof: Proof | None
    reason: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: `proof` (see `Proof.to_dict`) or null, `reason` or null, `seconds`."""
        proof = None if self.proof is None else self.proof.to_dict()
        return {"proof": proof, "reason": self.reason or None, "seconds": self.seconds}


class _OpenError(Exception):
    """A case that no proof was found for: carries the reason. Never seen by a user."""


def certify(
    net: Network,
    prop: Property,
    *,
    threshold: Fraction | float = 0,
    semantics: str = "real",
    time_limit_s: float | None = None,
    prover: Prover | None = None,
    on_progress: OnProgress | None = None,
) -> Certified:
    """Prove that the least slack max_i (C_i y - d_i) of every case exceeds a threshold: for 0, that the property holds.

    Args:
        net: The network.
        prop: What must not happen. Regions that are no boxes count as the box around them, or as its points of their
            grid.
        threshold: In units of y, taken as its exact value.
        semantics: "real" numbers; every "float32" execution, which includes them; or "both": float32 in half of the
            time where the network allows it, else real.
        time_limit_s: Wall time; None for no limit.
        prover: How; `Prover()` when None.
        on_progress: Called as the work goes on.

    Returns:
        The certificate, if one was found: never one that the exact checker has not accepted.

    Raises:
        PropertyError: If the property does not fit the network.
        OptionError: If the time limit is not positive, or there are no such semantics.
    """
    clock = Clock("certify", time_limit_s, on_progress)
    check_fit("certify", net, prop)
    return certify_within(net, prop, prover or Prover(), clock, Fraction(threshold), semantics)


def certify_within(
    net: Network,
    prop: Property,
    prover: Prover,
    clock: Clock,
    threshold: Fraction = Fraction(0),
    semantics: str = "real",
) -> Certified:
    """`certify` as a part of another task, whose clock ends it."""
    check_semantics(semantics)
    if semantics == "both":
        if not clock.out and not float32_obstacle(net):
            half = clock.part(None if math.isinf(clock.left) else clock.left / 2, lambda progress: progress)
            found = certify_within(net, prop, prover, half, threshold, "float32")
            if found.proof is not None or found.reason == INTERRUPTED:
                return replace(found, seconds=clock.seconds)
        return certify_within(net, prop, prover, clock, threshold)
    work = _Work(net, prop, threshold, prover, clock, semantics == "float32")
    proof, reason = None, ""
    with clock.interrupt:
        try:
            proof = work.proof()
        except _OpenError as open_:
            reason = INTERRUPTED if clock.interrupt.pending else str(open_)
    return Certified(proof, reason, clock.seconds)


@dataclass(eq=False)
class _Work:
    net: Network
    prop: Property
    threshold: Fraction
    prover: Prover
    clock: Clock
    float32: bool

    def proof(self) -> Proof:
        """Write down what there is, ask the checker, and search on where it finds leaves open."""
        obstacle = float32_obstacle(self.net) if self.float32 else ""
        if obstacle:
            raise _OpenError(f"in float32: {obstacle}")
        semantics, grid = "float32" if self.float32 else "real", _grid(self.prop)
        index = {id(case): i for i, case in enumerate(self.prop.cases)}
        parts = [_Part(self, cases, tuple(index[id(case)] for case in cases)) for cases in self.prop.groups()]
        bits = list(self.prover.bits)
        if self.float32:  # what executions lose is far more than what 64 bits do
            bits = [b for b in bits if b <= 64] or bits[:1]
        made_by, names = f"milpverify {__version__}", (self.net.fingerprint, property_fingerprint(self.prop))
        while True:
            groups = tuple(part.written() for part in parts)
            certificate = Certificate(bits[0], groups, self.threshold, *names, made_by, semantics=semantics, grid=grid)
            self.clock.tell("checker", f"{sum(len(group.contexts) for group in groups)} boxes")
            check = check_exact(certificate, self.net, self.prop, self.threshold, trace=True)
            if check.accepted:
                counts = check.n_cases, check.n_contexts, check.n_leaves
                return Proof(certificate, *counts, self.clock.seconds, check.seconds)
            if self.clock.out:
                raise _OpenError("time ran out")
            traces = iter(check.trace)
            searched = False
            for part, group in zip(parts, groups, strict=True):
                mine = [next(traces, None) for _ in group.contexts]
                searched |= part.search_on(mine, bits[0])
            if self.clock.out:
                raise _OpenError("time ran out")
            if not searched:
                del bits[: len(bits) if sum(part.claimed for part in parts) > MOST_CLAIMED else 1]
            if not bits:
                raise _OpenError(f"the exact checker refused what was found: {check.reason}")


class _Part:
    """The cases of one region: one leaf each at first, then trees over phases, or one over boxes.

    Args:
        work: What they are a part of.
        cases: Of one region.
        numbers: Their places in the property.
    """

    def __init__(self, work: _Work, cases: tuple[Case, ...], numbers: tuple[int, ...]) -> None:
        if any(not len(case.unsafe.d) for case in cases):
            raise _OpenError(f"{_name(cases[0])}: every output is unsafe")
        self._work, self._numbers = work, numbers
        self._grid = cases[0].region.grid
        self._cases = tuple(_shifted(case, work.threshold, work.float32) for case in cases)
        self._rows = _best_rows(work.net, self._cases)
        self._layers: tuple[Layer, ...] | None = None  # whose neurons are split there, whatever precision comes next
        self._begin()
        self._neurons = list(work.prover.neurons if len(work.net.layers) > 1 else ())  # what has not been tried
        self._boxes: BoxTree | None = None
        self._leaves = np.zeros(1, dtype=int)
        self._refused = 0

    @property
    def claimed(self) -> int:
        """Leaves of claims about hidden neurons."""
        return sum(claims.n_leaves for layer in self._layers or () for claims in layer.claims)

    def _begin(self) -> None:
        """One leaf for each case."""
        self._trees = [one_leaf(len(case.unsafe.d), row) for case, row in zip(self._cases, self._rows, strict=True)]
        self._planes: list[PlaneSet] = []
        self._grown, self._room = [0] * len(self._cases), [0.0] * len(self._cases)  # how often a case got a tree

    def written(self) -> Group:
        """The group as it stands."""
        if self._boxes is None:
            return Group(self._numbers, (Context(tuple(self._trees), self._layers, tuple(self._planes)),))
        split, at, self._leaves, contexts = self._boxes.written()
        return Group(self._numbers, contexts, *((split, at) if len(split) > 1 else ()))

    def search_on(self, traces: Sequence[ContextTrace | None], bits: int) -> bool:
        """Search on where the checker found leaves open; whether there was anything to do."""
        open_ = [i for i, trace in enumerate(traces) if trace is not None and _open(trace)]
        if self._boxes is not None:
            return self._reopen(open_ or [i for i, trace in enumerate(traces) if trace is None])
        if not open_ or traces[0] is None:
            return False
        most = GROWN if self._work.float32 else 1  # over the real numbers more bits are the remedy
        again = [i for i in _open(traces[0]) if self._grown[i] < most]
        for i in again:
            self._room[i] += 2.0 * _shortfall(traces[0], i, bits) if self._grown[i] else 0.0
        if again:
            self._search(again, _as_floats(traces[0], bits))
        return bool(again)

    def _reopen(self, still: list[int]) -> bool:
        """Split boxes that the checker refused; now and then, rounding is to blame instead."""
        self._refused += bool(still)
        if not still or self._refused % ROUNDS == 0 or not self._boxes:
            return False
        if not self._boxes.reopen(self._leaves[still]) or not self._grow(self._boxes, lambda: self._work.clock.left):
            raise self._failure("boxes")
        return True

    def _search(self, cases: list[int], bounds: Bounds) -> None:
        """Trees over phases for some cases, or one over boxes for all, or claims with which the search begins again.

        Raises:
            _OpenError: If nothing is left to try.
        """
        prover, region = self._work.prover, self._cases[0].region
        ways = ["phases"]
        if int((region.upper > region.lower).sum()) <= prover.few_inputs:
            few = sum(bounds.n_unstable) <= prover.few_neurons and self._grid is None  # phases see no grid
            ways = ["phases", "boxes"] if few else ["boxes", "phases"]
        elif self._neurons and bounds.condensed_entries(self._work.net.n_inputs) <= LARGEST_CLAIMS:
            nodes = prover.first_nodes if sum(bounds.n_unstable) <= prover.first_neurons else 1
            first = replace(prover.phases, node_limit=min(nodes, prover.phases.node_limit))
            if not self._by_phases(cases, bounds, self._share(FIRST_SHARE), first):
                self._claim(self._neurons.pop(0))
            return
        for left, way in zip(range(len(ways) - 1, -1, -1), ways, strict=True):
            left_s = self._share(0.5 if left else 1.0)
            if self._by_boxes(left_s) if way == "boxes" else self._by_phases(cases, bounds, left_s, prover.phases):
                return
        raise self._failure(way)

    def _share(self, share: float) -> Callable[[], float]:
        """The seconds that are left of a share of what there is now."""
        clock = self._work.clock
        until = math.inf if share == 1.0 else clock.seconds + share * clock.left
        return lambda: min(clock.left, until - clock.seconds)

    def _claim(self, neurons: NeuronProver) -> None:
        """Bounds of hidden neurons anew; all trees begin again."""
        clock, net, semantics = self._work.clock, self._work.net, Float32() if self._work.float32 else REAL
        began = clock.seconds

        def tell(k: int, unstable: int) -> None:
            clock.tell("claims", f"layer {k}", unstable=unstable, left=len(net.layers) - k)

        self._layers = neurons.layers(net, self._cases[0].region, semantics, self._share(CLAIMS_SHARE), tell)
        self._begin()
        if CLAIMS_SHARE * clock.left < AGAIN * (clock.seconds - began):
            self._neurons = []

    def _by_boxes(self, left_s: Callable[[], float]) -> bool:
        """A tree over boxes; whether there is one."""
        sides = None if self._grid is None else GridSides(self._grid, self._work.float32)
        tree = BoxTree(self._work.net, self._cases, self._work.prover.boxes, sides)
        if not self._grow(tree, left_s):
            return False
        self._boxes = tree
        return True

    def _grow(self, tree: BoxTree, left_s: Callable[[], float]) -> bool:
        clock = self._work.clock

        def tell(nodes: int, open_: int) -> None:
            clock.tell("boxes", f"{nodes} boxes, {open_} open")

        return tree.grow(left_s, tell)

    def _by_phases(self, cases: list[int], bounds: Bounds, left_s: Callable[[], float], phases: PhaseProver) -> bool:
        """A tree over phases for each of some cases, with room for what the checker has found missing from the last
        one; whether there are."""
        clock, net, semantics = self._work.clock, self._work.net, Float32() if self._work.float32 else REAL
        layers = self._layers or _listed(bounds)
        places = Places.of(layers, zip(bounds.lower, bounds.upper, strict=True))
        if not places.all_:  # planes are about the unstable neurons alone
            phases = replace(phases, plane_steps=0)
        problem, k = DualProblem.of(net, self._cases[0].region, bounds, semantics), len(net.layers) + 1
        for place, i in enumerate(cases):
            case = self._cases[i]
            clock.tell("tree", case.name, unstable=sum(bounds.n_unstable), left=len(cases) - place - 1)
            small = small_problem(problem, k, folded_rows(problem, k, case.unsafe.C))
            found = phases.close(NodeProblem.of(small, case.unsafe.d + self._room[i]), left_s)
            if found is None:
                return False
            tree, own = found.written(len(self._planes))
            self._trees[i], self._layers = _over_listed(tree, places), layers
            self._grown[i] += 1
            if own is not None:
                self._planes.append(own)
        return True

    def _failure(self, over: str) -> _OpenError:
        out = self._work.clock.out
        why = "time ran out" if out else f"no tree over {over} closes it within its limits"
        return _OpenError(f"{_name(self._cases[0])}: {why}")


def check_semantics(semantics: str) -> None:
    """Refuse semantics that no proof is about.

    Raises:
        OptionError: If there are none of that name.
    """
    if semantics not in SEMANTICS:
        raise OptionError(f"proof: semantics must be one of {', '.join(SEMANTICS)}, got {semantics!r}.")


def _name(case: Case) -> str:
    return case.name or "the case"


def _grid(prop: Property) -> int:
    """The steps of the grid of all inputs, 0 for none.

    Raises:
        _OpenError: If regions differ in that.
    """
    grids = {case.region.grid for case in prop.cases}
    if len(grids) > 1:
        raise _OpenError("its regions have different grids: a proof is about one")
    (grid,) = grids
    return 0 if grid is None else grid.steps


def _shifted(case: Case, threshold: Fraction, float32: bool) -> Case:
    """The case with the threshold on its right-hand sides, over the box around its region (of float32 numbers)."""
    rights = tuple(d + threshold for d in case.unsafe.d_exact or ())
    region = case.region
    if region.grid is not None:
        region = Box.of_fractions(region.exact_lower, region.exact_upper)
    elif not isinstance(region, Box) or not region.is_box:
        region = _box(case)
    if float32:
        sides = zip(region.exact_lower, region.exact_upper, strict=True)
        lower, upper = zip(*((float(float32_at_most(l)), -float(float32_at_most(-u))) for l, u in sides), strict=True)
        region = Box(np.array(lower), np.array(upper))
    return Case(region, Polyhedron(case.unsafe.C, np.zeros(len(rights)), rights), case.name)


def _box(case: Case) -> Box:
    return Box(case.region.lower, case.region.upper)


def _open(trace: ContextTrace) -> list[int]:
    """The cases that have an open leaf in a context."""
    return [i for i, values in enumerate(trace.values) if any(v is not None and v <= 0 for v in values)]


def _shortfall(trace: ContextTrace, i: int, bits: int) -> float:
    """How far below 0 the lowest leaf of a case is."""
    return -float(Fraction(min(v for v in trace.values[i] if v is not None), 1 << 2 * bits))


def _listed(bounds: Bounds) -> tuple[Layer, ...]:
    """The unstable neurons of every layer, said in so many words: at another precision there may be others."""
    sides = zip(bounds.lower, bounds.upper, strict=True)
    return tuple(Layer(unstable=((l < 0) & (u > 0)).astype(np.uint8)) for l, u in sides)


def _over_listed(tree: LeafTree, places: Places) -> LeafTree:
    """A tree over unstable neurons without planes, over those that are listed."""
    if places.all_:
        return tree
    split = None if tree.split is None else places.split(tree.split)
    alpha = None if tree.alpha is None else places.spread(tree.alpha, 1.0)
    beta = None if tree.beta is None else places.spread(tree.beta, 0.0)
    return replace(tree, split=split, alpha=alpha, beta=beta)


def _as_floats(trace: ContextTrace, bits: int) -> Bounds:
    """The checker's bounds of the hidden neurons."""
    lower = tuple(np.array([float_at_most(Fraction(v, 1 << bits)) for v in side]) for side in trace.lower)
    upper = tuple(np.array([float_at_least(Fraction(v, 1 << bits)) for v in side]) for side in trace.upper)
    return Bounds(lower, upper)


def _best_rows(net: Network, cases: Sequence[Case]) -> list[int]:
    """Per case of one region the row that CROWN bounds best."""
    if all(len(case.unsafe.d) == 1 for case in cases):
        return [0] * len(cases)
    region = cases[0].region
    problem = DualProblem.of(net, region, compute_bounds(net, region, Crown()))
    return [int((Crown().rows(problem, case.unsafe.C).value - case.unsafe.d).argmax()) for case in cases]

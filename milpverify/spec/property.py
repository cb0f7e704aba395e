"""Properties: what is claimed of a network. Each case says "no input of this region reaches this unsafe set"."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from milpverify.errors import PropertyError
from milpverify.spec.grid import Grid
from milpverify.spec.region import Region, frozen
from milpverify.spec.rounding import finite_fractions, round_fractions

if TYPE_CHECKING:
    from milpverify.network.graph import Network


@dataclass(frozen=True, eq=False)
class Polyhedron:
    """The unsafe outputs { y : C y <= d }. Without rows (m = 0) every output is unsafe.

    Attributes:
        C: Shape (m, n_outputs), float64, meant as the exact values of its floats.
        d: Shape (m,), float64; `d_exact` rounded up, so that a proof against d proves the exact claim.
        d_exact: Exact right-hand sides, for decimals that are no floats; those of d when None is given.

    Raises:
        PropertyError: If shapes do not fit or a number is not finite.
    """

    C: np.ndarray
    d: np.ndarray
    d_exact: tuple[Fraction, ...] | None = None

    def __post_init__(self) -> None:
        C, d = np.array(self.C, dtype=np.float64), np.array(self.d, dtype=np.float64)
        if self.d_exact is not None:
            d = round_fractions(self.d_exact).up
        if C.ndim != 2 or C.shape[1] == 0 or d.shape != (len(C),):
            raise PropertyError(
                f"Polyhedron: C of shape {C.shape} and d of shape {d.shape} came, expected (m, n_outputs) and (m,)."
            )
        if not (np.isfinite(C).all() and np.isfinite(d).all()):
            raise PropertyError("Polyhedron: C or d holds NaN or infinity. Leave out rows that bind nothing.")
        exact = finite_fractions(d) if self.d_exact is None else tuple(self.d_exact)
        for name, value in (("C", frozen(C)), ("d", frozen(d)), ("d_exact", exact)):
            object.__setattr__(self, name, value)

    @property
    def n_outputs(self) -> int:
        """Number of outputs it is about."""
        return int(self.C.shape[1])

    def contains_exact(self, y: Sequence[Fraction]) -> bool:
        """Whether y is unsafe: C y <= d_exact. Exact.

        Args:
            y: n_outputs rationals (floats count as their exact values).
        """
        return all(slack <= 0 for slack in self._slacks(y))

    def slack_exact(self, y: Sequence[Fraction]) -> Fraction:
        """max_i (C_i y - d_i), at most 0 exactly on the unsafe set. Exact.

        Raises:
            PropertyError: If there are no rows: then every y is unsafe, by no measurable slack.
        """
        slacks = self._slacks(y)
        if not slacks:
            raise PropertyError("slack_exact: a set without rows holds every output; ask contains_exact instead.")
        return max(slacks)

    def _slacks(self, y: Sequence[Fraction]) -> list[Fraction]:
        if len(y) != self.n_outputs:
            raise PropertyError(f"Polyhedron: {len(y)} outputs came, expected {self.n_outputs}.")
        values = [Fraction(v) for v in y]
        rights = self.d_exact or ()
        slacks = []
        for row, right in zip(self.C, rights, strict=True):
            used = np.flatnonzero(row)
            slacks.append(sum((Fraction(float(row[j])) * values[j] for j in used), -right))
        return slacks


@dataclass(frozen=True, eq=False)
class Case:
    """One claim: no input of `region` has its output in `unsafe`."""

    region: Region
    unsafe: Polyhedron
    name: str = ""


@dataclass(frozen=True, eq=False)
class Property:
    """A conjunction of cases: the property holds iff every case does.

    Attributes:
        cases: At least one. Cases over the same inputs share one region object, so that bounds are computed once.
        n_inputs, n_outputs: Of the networks it is about.
        name: For people.
        label: The class whose robustness is claimed, where that is the claim.

    Raises:
        PropertyError: If there are no cases, or one has other dimensions.
    """

    cases: tuple[Case, ...]
    n_inputs: int
    n_outputs: int
    name: str = ""
    label: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "cases", tuple(self.cases))
        if not self.cases:
            raise PropertyError(f"Property {self.name!r}: expected at least one case, got none.")
        for i, case in enumerate(self.cases):
            got = case.region.dimension, case.unsafe.n_outputs
            if got != (self.n_inputs, self.n_outputs):
                raise PropertyError(
                    f"Property {self.name!r}: case {i} {case.name!r} is about {got[0]} inputs and {got[1]} outputs, "
                    f"expected {self.n_inputs} and {self.n_outputs}."
                )

    def groups(self) -> tuple[tuple[Case, ...], ...]:
        """The cases grouped by their region object, in order of first appearance."""
        groups: dict[int, list[Case]] = {}
        for case in self.cases:
            groups.setdefault(id(case.region), []).append(case)
        return tuple(tuple(group) for group in groups.values())

    def on_grid(self, grid: Grid) -> Property:
        """The same claim about the grid points of every region only.

        Raises:
            RegionError: If a region has no point of the grid, or another grid.
        """
        regions = {id(group[0].region): group[0].region.with_grid(grid) for group in self.groups()}
        return replace(self, cases=tuple(replace(case, region=regions[id(case.region)]) for case in self.cases))

    def save(self, path: str | Path) -> None:
        """Write the property to a file, whole or not at all.

        Args:
            path: `.json` keeps everything, exactly. `.vnnlib` and `.vnnlib.gz` keep boxes and comparisons of outputs
                with constants or with each other, in exact decimals; names and the label are lost.

        Raises:
            PropertyError: If the suffix is another one, the format cannot say it, or the file cannot be written.
        """
        from milpverify.spec.store import save_property  # a reader of this module: imported when all is defined

        save_property(self, Path(path))


def robustness(
    net: Network, region: Region, label: int, targets: Iterable[int] | None = None, name: str = "robustness"
) -> Property:
    """The claim that every input of a region gets a larger output at `label` than at each target.

    One case per target t, with the unsafe set { y_label - y_t <= 0 }: a tie is unsafe.

    Args:
        net: Its n_inputs, n_outputs and input_shape are used.
        region: In the units of the network's own input.
        label: Index of the output that should stay the largest.
        targets: Other outputs; all of them when None.
        name: For people.

    Raises:
        PropertyError: If label or a target is no output, a target is the label, no target is left, or the region has
            not one coordinate per input.
    """
    if region.dimension != net.n_inputs:
        raise PropertyError(
            f"robustness: the region has {region.dimension} coordinates, the network reads {net.n_inputs} "
            f"(input shape {tuple(net.input_shape)}). Give an input of that shape."
        )
    label = _output(label, net, "label")
    chosen = [t for t in range(net.n_outputs) if t != label]
    if targets is not None:
        chosen = list(dict.fromkeys(_output(t, net, "target") for t in targets))
    if label in chosen:
        raise PropertyError(f"robustness: target {label} is the label itself. Leave it out.")
    if not chosen:
        raise PropertyError(
            f"robustness: no target is left besides label {label} of {net.n_outputs} outputs. Name at least one."
        )
    cases = []
    for t in chosen:
        row = np.zeros((1, net.n_outputs))
        row[0, label], row[0, t] = 1.0, -1.0
        cases.append(Case(region, Polyhedron(row, np.zeros(1)), f"target {t}"))
    return Property(tuple(cases), net.n_inputs, net.n_outputs, name, label)


def load_property(path: str | Path) -> Property:
    """Read what `Property.save` wrote, or any VNN-LIB file, by suffix: .json, .vnnlib, .vnnlib.gz.

    Raises:
        PropertyError: If the suffix is another one, or the file cannot be read.
        RegionError: If its region is empty.
    """
    from milpverify.spec.store import read_property  # a reader of this module: imported when all is defined

    return read_property(Path(path))


def _output(index: int, net: Network, what: str) -> int:
    try:
        chosen = operator.index(index)
    except TypeError:
        raise PropertyError(f"robustness: {what} must be an integer, got {type(index).__name__}.") from None
    if not 0 <= chosen < net.n_outputs:
        raise PropertyError(
            f"robustness: {what} {chosen} is out of range: the network has {net.n_outputs} outputs, "
            f"0 to {net.n_outputs - 1}."
        )
    return chosen

"""What every program here is about: some rows of a layer over the condensed layers below, on the host.

The condensed problem is a few dense blocks over unstable neurons, whatever the network was and wherever its arrays lie.
What is proven on it holds for the network (`bounds.small`).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np

from milpverify.bounds.backward import crown_rule
from milpverify.bounds.dual import DualBound, Rule, dual_bound
from milpverify.bounds.problem import DualProblem, open_neurons
from milpverify.bounds.small import small_problem
from milpverify.errors import BoundsError, OptionError
from milpverify.network.arrays import to_host
from milpverify.network.condense import Condensed, Folded
from milpverify.network.graph import Affine, AffineMap, Bounds, Network
from milpverify.spec.regions import Region


@dataclass(frozen=True, eq=False)
class Target:
    """Rows of one layer over the condensed layers below them.

    Attributes:
        problem: Numpy, dense blocks, every neuron unstable; its last layer holds the rows.
        region: The region.
        condensed: The same as a network whose outputs are the rows, for the encodings.
    """

    problem: DualProblem
    region: Region
    condensed: Condensed

    @classmethod
    def of(cls, problem: DualProblem, k: int, rows: Folded, region: Region) -> Target:
        """Folded rows of layer k; `problem` bounds the layers below it, in any namespace."""
        small = small_problem(problem, k, rows)
        layers = tuple(_on_host(layer) for layer in small.layers)
        small = replace(small, layers=layers, like=np.zeros(0))
        sides = zip(problem.lower[: k - 1], problem.upper[: k - 1], strict=True)
        kept = tuple(open_neurons(l, u) for l, u in sides)
        net = Network((region.dimension,), (len(rows.bias),), layers[:-1], layers[-1])
        return cls(small, region, Condensed(net, Bounds(small.lower, small.upper), kept, small.slack))

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.condensed.net.n_outputs

    @property
    def kept(self) -> tuple[np.ndarray, ...]:
        """Per layer below, the indices of its neurons in the original layer."""
        return self.condensed.kept

    @property
    def n_below(self) -> int:
        """Unstable neurons below."""
        return sum(map(len, self.kept))

    def bound(self, rows: np.ndarray, rule: Rule = crown_rule) -> DualBound:
        """Lower bounds of combinations of the rows, shape (r, n_rows), by g. Rounded."""
        return dual_bound(self.problem, len(self.problem.layers), rows, rule)


def _on_host(layer: AffineMap) -> Affine:
    assert isinstance(layer, Affine)  # what folding makes
    return layer.map_arrays(to_host)


def one_region(who: str, problem: DualProblem, l: np.ndarray | None = None) -> Region:
    """The region of a problem that has one.

    Raises:
        BoundsError: If the problem is a batch.
    """
    parts = problem.lower if l is None else (*problem.lower, l)
    if isinstance(problem.region, Region) and all(part.ndim == 1 for part in parts):
        return problem.region
    raise BoundsError(
        f"{who}: programs are about one region and one set of bounds, a batch came. Bound its members one by one, or "
        "use Crown() for the batch."
    )


def check_limits(who: str, **seconds: float) -> None:
    """Refuse time limits that make no sense.

    Raises:
        OptionError: If one is negative or NaN.
    """
    for name, value in seconds.items():
        if not value >= 0:
            raise OptionError(f"{who}: {name} must be at least 0, got {value}. Give seconds, or math.inf.")


def check_count(who: str, name: str, value: int | None, least: int) -> None:
    """Refuse counts below `least`; None is no count.

    Raises:
        OptionError: If it is smaller.
    """
    if value is not None and value < least:
        raise OptionError(f"{who}: {name} must be at least {least}, got {value}.")


def tell(who: str, place: str, troubles: list[str]) -> None:
    """One warning about all that went wrong, which has cost tightness and nothing else."""
    if troubles:
        warnings.warn(f"{who}: {place}: {'; '.join(troubles)}. Bounds there stay as they were.", stacklevel=4)


def left(ends: float, now: float) -> float:
    """Seconds until a deadline, at least 0."""
    return math.inf if math.isinf(ends) else max(0.0, ends - now)

r"""Which neurons make the triangle relaxation loose, for one row of outputs.

For multipliers nu and any input x, the gap between what the network attains and what is proven falls apart exactly:

    c . f(x) - g(nu) = lambda_0 . x - min_X lambda_0 . x
                     + sum_j ( lambda_j relu(zhat_j) - nu_j zhat_j - min_v ( lambda_j relu(v) - nu_j v ) ),

every term >= 0 (design of `bounds.dual`). At the LP's optimal nu and input x* the first difference is 0, and what is
left is one share per neuron. The same term at the LP's own zhat_j is the triangle's slack z_j - relu(zhat_j) weighted
by -lambda_j: what the LP itself gains by leaving the graph of that relu.

Source: Wong & Kolter 2018, section 3 (the dual network); Salman et al. 2019 (the LP as its best choice of nu).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpverify.bounds.method import BoundMethod
from milpverify.network.graph import Bounds, Network
from milpverify.spec.regions import Region

Neuron = tuple[int, int]  # hidden layer from 1, index in it


@dataclass(frozen=True)
class NeuronGap:
    """What one neuron adds to the looseness of an LP, in units of the row.

    Attributes:
        layer: Hidden layer, from 1.
        index: In that layer.
        slack: -lambda (z - relu(zhat)) at the LP's optimum.
        share: Its term in c . f(x*) - LP.
        gain: How much the LP's optimum rises when this neuron alone is exact; None if that was not asked.
    """

    layer: int
    index: int
    slack: float
    share: float
    gain: float | None = None


@dataclass(frozen=True, eq=False)
class Attribution:
    """The gap of one row, neuron by neuron.

    Attributes:
        lower: The LP's bound of the row; rounded.
        attained: The row at the LP's input.
        point: That input, shape (n_inputs,).
        neurons: The unstable neurons, those of the largest gain (or share) first.
        slack, share, gain: The same as one array per hidden layer, shape (n_k,), for heat maps: 0 for stable neurons,
            NaN where the gain was not asked.
    """

    lower: float
    attained: float
    point: np.ndarray
    neurons: tuple[NeuronGap, ...]
    slack: tuple[np.ndarray, ...]
    share: tuple[np.ndarray, ...]
    gain: tuple[np.ndarray, ...]


def attribute_gap(
    net: Network,
    region: Region,
    row: np.ndarray,
    *,
    hidden: BoundMethod | Bounds | None = None,
    candidates: int | None = 20,
) -> Attribution:
    """Attribute the gap of the triangle LP for one row of outputs (to be minimised) to the unstable neurons.

    Args:
        net: The network.
        region: The inputs: anything with linear rows, so no L2 ball.
        row: Shape (n_outputs,).
        hidden: Bounds of the hidden neurons, or the method for them; `Crown()` when None.
        candidates: For so many neurons, those of the largest slack or share, the gain is worked out; all when None.
    """
    raise NotImplementedError

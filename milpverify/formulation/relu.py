"""How z = relu(zhat) is written as rows of a program.

The big-M rows of an unstable neuron, l < 0 < u, with a binary a (1: active):

    z >= zhat        z <= zhat - l (1 - a)        z <= u a        0 <= z <= u

Relaxing a to [0, 1] and eliminating it leaves z <= u (zhat - l) / (u - l): the triangle. So the mixed-integer program
and the LP relaxation are the same rows, written once.

Source: Tjeng, Xiao & Tedrake 2019, section 4.1; Ehlers 2017 (the triangle).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milpverify.program.program import ProgramBuilder


@dataclass(frozen=True, eq=False)
class NeuronRows:
    """The unstable neurons of one layer, as an encoding meets them.

    Attributes:
        labels: One per neuron, such as "2_17" (layer, index in the original network).
        blocks: zhat = bias + sum of matrix @ x[columns]: pairs (columns, matrix (n, k)).
        bias: Shape (n,).
        l, u: Proven bounds of zhat, l < 0 < u, shape (n,).
        error: How far the rows' zhat can be from the exact one, shape (n,): they are loosened by it.
    """

    labels: tuple[str, ...]
    blocks: tuple[tuple[np.ndarray, np.ndarray], ...]
    bias: np.ndarray
    l: np.ndarray
    u: np.ndarray
    error: np.ndarray


class ReLUEncoding(ABC):
    """A way to write z = relu(zhat) for the unstable neurons of a layer."""

    @abstractmethod
    def add(self, builder: ProgramBuilder, neurons: NeuronRows) -> tuple[np.ndarray, np.ndarray]:
        """Add columns and rows; return the columns of z and of the binaries, each of shape (n,)."""


@dataclass(frozen=True)
class BigM(ReLUEncoding):
    """One binary per neuron and proven bounds as the constants M.

    Attributes:
        preactivation_columns: Whether zhat gets columns of its own. Off, its terms stand in two rows per neuron; on,
            in one equality. Off was the faster on convolutional networks, the two were equal on dense ones.
    """

    preactivation_columns: bool = False

    def add(self, builder: ProgramBuilder, neurons: NeuronRows) -> tuple[np.ndarray, np.ndarray]:
        count, labels = len(neurons.labels), neurons.labels
        unit, l, u = np.eye(count), neurons.l, neurons.u
        z = builder.add_columns(_named("z", labels), 0.0, u)
        a = builder.add_columns(_named("a", labels), 0.0, 1.0, integer=True)
        zhat, bias, error = self._preactivation(builder, neurons)
        minus = [(columns, -matrix) for columns, matrix in zhat]
        builder.add_rows([(z, unit), *minus], bias - error, np.inf, _named("above", labels))
        builder.add_rows([(z, unit), *minus, (a, -unit * l)], -np.inf, bias - l + error, _named("active", labels))
        builder.add_rows([(z, unit), (a, -unit * u)], -np.inf, 0.0, _named("inactive", labels))
        return z, a

    def _preactivation(
        self, builder: ProgramBuilder, neurons: NeuronRows
    ) -> tuple[Sequence[tuple[np.ndarray, np.ndarray]], np.ndarray, np.ndarray]:
        if not self.preactivation_columns:
            return neurons.blocks, neurons.bias, neurons.error
        unit = np.eye(len(neurons.labels))
        zhat = builder.add_columns(_named("zhat", neurons.labels), neurons.l, neurons.u)
        terms = [(columns, -matrix) for columns, matrix in neurons.blocks]
        low, high = neurons.bias - neurons.error, neurons.bias + neurons.error
        builder.add_rows([(zhat, unit), *terms], low, high, _named("affine", neurons.labels))
        return [(zhat, unit)], np.zeros(len(unit)), np.zeros(len(unit))


def _named(prefix: str, labels: Sequence[str]) -> list[str]:
    return [f"{prefix}{label}" for label in labels]

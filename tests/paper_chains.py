"""Chains of dense layers as the papers write them, and the rows of docs/equations.md that tests compare."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import milpverify as mv

EPS = 0.15
WK, ZHU, SINGLA, TUTORIAL = "Wong & Kolter 2018", "Zhu et al. 2020", "Singla & Feizi 2019", "Kolter & Madry"
TJENG, ATTACKS, OTHERS = "Tjeng, Xiao & Tedrake 2019", "Attacks", "Bounds, proofs and training of others"
COMPARED: set[str] = set()

Test = Callable[..., None]


def compares(paper: str, *there: str) -> Callable[[Test], Test]:
    """Note which rows of the map a test compares."""
    COMPARED.update(f"{paper}: {name}" for name in there)
    return lambda test: test


seeds = pytest.mark.parametrize("seed", range(4))


class Dense:
    """A chain of dense layers as W_1, b_1, ..., W_k, b_k, a point x with its class, and the margin c to another one."""

    def __init__(self, seed: int, sizes: tuple[int, ...] = (4, 9, 7, 3)) -> None:
        rng = np.random.default_rng(seed)
        self.net = mv.random_network(sizes, seed)
        affines = (*self.net.layers, self.net.output)
        self.W = [affine.blocks[0][1].dense() for affine in affines]
        self.b = [np.asarray(affine.bias, float) for affine in affines]
        self.x = rng.normal(size=sizes[0])
        self.label = int(self.net.forward(self.x).argmax())
        self.others = [k for k in range(sizes[-1]) if k != self.label]
        self.c = np.eye(sizes[-1])[self.label] - np.eye(sizes[-1])[self.others[-1]]
        self.ball = mv.LinfBall(self.x, EPS)
        self.prop = mv.robustness(self.net, self.ball, self.label, targets=self.others[-1:])
        self.bounds = mv.compute_bounds(self.net, self.ball, mv.FastLin(intersect=False))

    @property
    def limits(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(l, u) of every hidden layer."""
        return list(zip(self.bounds.lower, self.bounds.upper, strict=True))

    def forward(self, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Pre-activations of the hidden layers, and the outputs."""
        hidden, z = [], x
        for W, b in zip(self.W[:-1], self.b[:-1], strict=True):
            hidden.append(W @ z + b)
            z = np.maximum(hidden[-1], 0.0)
        return hidden, self.W[-1] @ z + self.b[-1]

    def gradient(self, x: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Of c . y at x."""
        for W, zhat in zip(self.W[:0:-1], self.forward(x)[0][::-1], strict=True):
            c = (W.T @ c) * (zhat > 0)
        return self.W[0].T @ c

    def row_bound(self, method: mv.BoundMethod) -> float:
        return float(mv.bound_rows(self.net, self.ball, self.bounds, self.c[None], method).value[0])


def free(l: np.ndarray, u: np.ndarray) -> np.ndarray:
    return (l < 0) & (u > 0)

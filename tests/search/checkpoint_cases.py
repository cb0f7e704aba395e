"""A question that takes a tree of some thousand nodes, and a process that works on it until it is ended."""

from __future__ import annotations

import sys

import numpy as np

import milpverify as mv
from tests.cases import affine, bias, weights

TREE = mv.BranchAndBound(inputs=None, first_nodes=100)
VERIFIER = mv.Verifier(search=TREE)
MINIMISER = mv.Minimiser(search=TREE, gap=1e-4)


def network(seed: int = 1, n: int = 20, hidden: int = 24) -> mv.Network:
    """Two hidden layers, three outputs, random."""
    rng = np.random.default_rng(seed)
    first = affine({0: weights(rng, hidden, n)}, bias(rng, hidden))
    second = affine({1: weights(rng, hidden, hidden)}, bias(rng, hidden))
    return mv.Network((n,), (3,), (first, second), affine({2: weights(rng, 3, hidden)}, bias(rng, 3)))


def prop(net: mv.Network, eps: float = 0.3, lowered: float = 0.0) -> mv.Property:
    """Robustness around the centre, every margin counted as larger by `lowered`."""
    x = np.full(net.n_inputs, 0.5)
    label = int(net.forward(x).argmax())
    robust = mv.robustness(net, mv.LinfBall(x, eps), label)
    cases = tuple(
        mv.Case(case.region, mv.Polyhedron(case.unsafe.C, case.unsafe.d - lowered), case.name) for case in robust.cases
    )
    return mv.Property(cases, net.n_inputs, net.n_outputs)


def main(path: str, lowered: float) -> None:
    """Verify with a checkpoint after every step."""
    net = network()
    mv.verify(net, prop(net, lowered=lowered), method=VERIFIER, checkpoint=mv.Checkpoint(path, 0.0))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))

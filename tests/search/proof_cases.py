"""Networks and cases that proofs are searched for in tests, with what is true of them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

import milpverify as mv
from milpverify.network.graph import Network
from milpverify.proof.certificate import Certificate, Context, Group
from milpverify.proof.exact import CheckResult, check_exact
from milpverify.spec.box import Box
from tests.cases import NETWORKS, brute_force_slack
from tests.search.test_relu_tree import all_stable, no_hidden_layer

KINDS: dict[str, Callable[[np.random.Generator], Network]] = {
    **NETWORKS,
    "no hidden layer": no_hidden_layer,
    "all stable": all_stable,
}
TIGHT = 1e-4  # below a threshold: certainly to be proved


def around(region: mv.Region) -> Box:
    """The box around a region."""
    return Box(region.lower, region.upper)


def random_case(rng: np.random.Generator, net: Network, region: mv.Region, m: int, name: str = "") -> mv.Case:
    """m random rows."""
    return mv.Case(region, mv.Polyhedron(rng.normal(size=(m, net.n_outputs)), rng.normal(size=m)), name)


def least_slack(net: Network, case: mv.Case) -> float:
    """The least of max_i (C_i y - d_i) over the box around the case's region, by brute force."""
    return brute_force_slack(net, around(case.region), case.unsafe.C, case.unsafe.d)


def above(case: mv.Case, threshold: float) -> mv.Case:
    """The case that the least slack exceeds a threshold, over the box around its region."""
    rights = [d + Fraction(threshold) for d in case.unsafe.d_exact or ()]
    return mv.Case(around(case.region), mv.Polyhedron(case.unsafe.C, np.zeros(len(rights)), rights), case.name)


def as_property(net: Network, *cases: mv.Case) -> mv.Property:
    return mv.Property(cases, net.n_inputs, net.n_outputs)


def checked(net: Network, case: mv.Case, context: Context, bits: int = 44) -> CheckResult:
    """What the exact checker says of one case with one context."""
    return check_exact(Certificate(bits, (Group((0,), (context,)),)), net, as_property(net, case), trace=True)

"""The indicators d and r of the dual bound against its exact gap: proposition 1, and correlations over random cases.

    python benchmarks/tightness_gap.py [--cases 200] [--seed 0] [--limit 60]

Each case is a random network 5-10-8-3, an input, one margin and an eps between 0.01 and 0.5 in L-inf. The exact
minimum is `worst_margin`'s, closed to 1e-10. Cases are drawn until so many have unstable neurons and an exact minimum:
these make the correlations (Pearson's, and of ranks); the laws are held against all that were drawn. Prints: that d is
never below the gap, the largest gap where r = 0 (it must be under 1e-9, unstable neurons or not), and the correlations.
Exit status 1 where a law is broken, or where too few minima are exact within the limit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np
from machine import describe
from simplex_timing import random_network

import milpverify as mv

EXACT = 1e-9
CLOSED = 1e-8  # between the sides of an exact minimum
MOST = 10  # times as many cases are drawn before it is given up


def main() -> int:
    """Make the cases and judge them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="in the correlations (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for an exact minimum (default 60)")
    arguments = parser.parse_args()
    print(describe())
    rng = np.random.default_rng(arguments.seed)
    cases = np.array(list(_drawn(rng, arguments.cases, arguments.limit)))
    low, high, d, r, is_exact, unstable = cases.T
    closed = high - low <= CLOSED
    exact = is_exact > 0
    hard = exact & (unstable > 0)
    broken = int((d < low - EXACT).sum() + (high < -EXACT).sum())
    largest = float(np.abs(high[exact]).max(initial=0.0))
    print(f"{len(cases)} cases, {int(closed.sum())} exact to 1e-8; {int((unstable > 0).sum())} with unstable neurons")
    print(f"d below the gap, or a bound above the minimum: {broken}")
    print(
        f"proposition 1: r = 0 in {int(exact.sum())} cases, {int(hard.sum())} of them with unstable neurons (up to "
        f"{int(unstable[hard].max(initial=0))}); largest |exact optimum - bound| there {largest:.1e}"
    )
    some = closed & (unstable > 0)
    gap = high[some]
    for name, values in (("d", d[some]), ("r", r[some])):
        pearson = np.corrcoef(values, gap)[0, 1]
        ranks = np.corrcoef(_ranks(values), _ranks(gap))[0, 1]
        print(f"correlation of {name} with the exact gap over {len(gap)} cases: {pearson:.3f}, of ranks {ranks:.3f}")
    lacking = int(some.sum()) < arguments.cases
    return int(broken > 0 or largest > EXACT or not hard.any() or not closed[exact].all() or lacking)


def _drawn(
    rng: np.random.Generator, wanted: int, limit: float
) -> Iterator[tuple[float, float, float, float, bool, int]]:
    """Cases until so many of them are closed and have unstable neurons."""
    counted = 0
    for _ in range(MOST * wanted):
        if counted == wanted:
            return
        case = _case(rng, limit)
        counted += case[1] - case[0] <= CLOSED and case[-1] > 0
        yield case


def _case(rng: np.random.Generator, limit: float) -> tuple[float, float, float, float, bool, int]:
    """Lower and upper side of the exact gap, d, r, whether r = 0, and the number of unstable neurons."""
    net = random_network(rng, [5, 10, 8, 3])
    x, eps = rng.normal(size=5), float(np.exp(rng.uniform(np.log(0.01), np.log(0.5))))
    label = int(net.forward(x).argmax())
    target = int(rng.choice([t for t in range(3) if t != label]))
    row = (np.eye(3)[label] - np.eye(3)[target])[None, None]
    found = mv.tightness(net, x, label, eps, rows=row)
    relaxed = mv.LinearNetwork.of(net, x, eps)
    unstable = sum(int(relaxed.unstable(k).sum()) for k in (1, 2))
    prop = mv.robustness(net, mv.LinfBall(x, eps), label, [target])
    exact = mv.worst_margin(net, prop, time_limit_s=limit, method=mv.Minimiser(gap=1e-10))
    bound = float(found.bound[0, 0])
    return (
        exact.lower - bound, exact.upper - bound, float(found.d[0, 0]), float(found.r[0, 0]),
        bool(found.exact()[0, 0]), unstable,
    )  # fmt: skip


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


if __name__ == "__main__":
    sys.exit(main())

"""Random regions for the laws."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import assume, settings
from hypothesis import strategies as st

from milpverify.errors import RegionError
from milpverify.spec.regions import Box, L1Ball, L2Ball, LinfBall, Region

LAW = settings(max_examples=50, deadline=None, derandomize=True)

numbers = st.one_of(
    st.floats(-3, 3, allow_subnormal=False),
    st.integers(-3, 3).map(float),
    st.sampled_from([0.1, 1 / 3, 1e6 + 0.1, -1e-9]),
)
radii = st.one_of(st.floats(0, 4, allow_subnormal=False), st.sampled_from([0.0, 1e-12, 0.1, 1.0]))


@st.composite
def balls(draw: st.DrawFn, kinds: tuple[type, ...] = (LinfBall, L1Ball, L2Ball)) -> Region:
    """A ball of some norm, half of them with a clip, which may leave the centre out."""
    center = draw(st.lists(numbers, min_size=1, max_size=5))
    eps = draw(radii)
    clip = None
    if draw(st.booleans()):
        share = draw(st.lists(st.floats(-1, 1), min_size=len(center), max_size=len(center)))
        lo = np.array(center) + eps * np.array(share)
        clip = (lo, lo + draw(radii))
    try:
        return draw(st.sampled_from(kinds))(center, eps, clip)
    except RegionError:
        assume(False)
        raise


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """A box of floats, or of decimals that no float equals; some sides have no width."""
    pairs = draw(st.lists(st.tuples(numbers, st.sampled_from([0.0, 0.3, 2.0])), min_size=1, max_size=5))
    if draw(st.booleans()):
        return Box([l for l, _ in pairs], [l + w for l, w in pairs])
    lower = [Fraction(round(l * 1000), 1000) for l, _ in pairs]
    return Box.of_fractions(lower, [l + Fraction(w) for l, (_, w) in zip(lower, pairs, strict=True)])


def regions() -> st.SearchStrategy[Region]:
    """Boxes and balls."""
    return st.one_of(boxes(), balls())


def seeds() -> st.SearchStrategy[np.random.Generator]:
    """Random generators."""
    return st.integers(0, 2**32 - 1).map(np.random.default_rng)

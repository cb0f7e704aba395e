from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from milpverify.errors import NetworkError
from milpverify.network import expression
from milpverify.network.exact import forward_exact
from milpverify.network.graph import Network
from milpverify.network.lowering import Lowering
from milpverify.network.normalise import fold_normalisation


def skipping() -> Network:
    """A convolution whose input is read again by the output, and a bias."""
    lowering = Lowering((1, 2, 2, 2))
    x = lowering.input
    kernel = np.random.default_rng(0).standard_normal((3, 2, 2, 2))
    z = lowering.relu(
        expression.shift(expression.convolve(x, kernel, [1], ([0], [0]), [1], 1), np.full((3, 1, 1), 0.3))
    )
    return lowering.finish(expression.concatenate([expression.reshape(z, (1, 3)), expression.reshape(x, (1, 8))], 1))


MEANS: list[Any] = [0.5, [0.1], [0.1307, -2.0], np.arange(8.0), np.arange(8.0).reshape(2, 2, 2)]
STDS: list[Any] = [0.25, [3.0], [0.3081, 7.0], np.arange(1, 9.0), np.arange(1, 9.0).reshape(1, 2, 2, 2)]


@pytest.mark.parametrize(("mean", "std"), list(zip(MEANS, STDS, strict=True)))
def test_the_folded_network_normalises_first(mean: Any, std: Any) -> None:
    net = skipping()
    x = np.random.default_rng(1).random((4, 8))
    offset, spread = (np.repeat(v, 4) if np.size(v) == 2 else np.reshape(v, -1) for v in (mean, std))
    expected = net.forward((x - offset) / spread)
    folded = fold_normalisation(net, mean, std)
    np.testing.assert_allclose(folded.forward(x), expected, rtol=1e-12, atol=1e-12)
    assert folded.input_shape == net.input_shape
    assert bool(folded.approximations) == (np.size(std) != 1 or float(np.reshape(std, -1)[0]) != 0.25)


def test_folding_is_exact_for_powers_of_two() -> None:
    net = skipping()
    folded = fold_normalisation(net, 0.1, 0.5)
    x = [Fraction(n, 9) for n in range(8)]
    assert forward_exact(folded, x) == forward_exact(net, [(v - Fraction(0.1)) * 2 for v in x])
    assert folded.approximations == () and folded.fingerprint != net.fingerprint


def test_folding_nothing_changes_nothing() -> None:
    net = skipping()
    assert fold_normalisation(net, 0.0, 1.0).fingerprint == net.fingerprint


@pytest.mark.parametrize(
    ("mean", "std", "fragment"),
    [
        (0.0, 0.0, "std must be positive, got 0.0"),
        (0.0, [1.0, -1.0], "std must be positive, got -1.0"),
        (0.0, 1e-320, "1/std overflows"),
        (np.nan, 1.0, "mean holds NaN"),
        (0.0, np.inf, "std holds NaN or an infinite number"),
        ([1.0, 2.0, 3.0], 1.0, r"mean has shape \(3,\)"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(mean: Any, std: Any, fragment: str) -> None:
    with pytest.raises(NetworkError, match=fragment):
        fold_normalisation(skipping(), mean, std)

"""Machine words give the integers that Python's give, or say that they are too small."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milpverify.proof.fixed_point import PythonIntegers, TooLargeError
from milpverify.proof.machine_words import FLOAT_BITS, MachineIntegers, pieces_for, size_bits, split
from tests.cases import seeds

MANY = settings(max_examples=150)
bits = st.integers(16, 55)


def words(rng: np.random.Generator, shape: tuple[int, ...], most: int) -> np.ndarray:
    """Integers of up to `most` bits: random ones, powers of two and their neighbours, zeros."""
    size = rng.integers(0, most + 1, shape)
    random = np.array([int(rng.integers(0, 1 << 62)) >> 62 - s for s in size.reshape(-1).tolist()], dtype=np.int64)
    edges = (1 << size) - rng.integers(0, 2, shape)
    values = np.where(rng.random(shape) < 0.5, random.reshape(shape), edges)
    return np.where(rng.random(shape) < 0.5, values, -values) * (rng.random(shape) < 0.9)


def wide(values: np.ndarray) -> np.ndarray:
    """Python's integers."""
    return values.astype(object)


def same_or_too_large(python: Callable[[], np.ndarray], machine: Callable[[], np.ndarray]) -> bool:
    """Whether words sufficed; then the integers must agree."""
    try:
        found = machine()
    except TooLargeError:
        return False
    assert found.tolist() == python().tolist()
    return True


@MANY
@given(seed=seeds, F=bits)
def test_sums_of_products(seed: int, F: int) -> None:
    rng = np.random.default_rng(seed)
    python, machine = PythonIntegers(F), MachineIntegers(F)
    batch, m, p = (int(v) for v in rng.integers(1, 4, 3))
    most = int(rng.choice([20, 40, 50, 60, 61]))
    factors = []
    for _ in range(int(rng.integers(0, 4))):
        n = int(rng.choice([0, 1, 2, 30, 300]))
        width = int(rng.integers(1, p + 1))
        factors.append((words(rng, (batch, m, n), most), words(rng, (batch, n, width), most)))
    base = words(rng, (batch, m, p), most)
    same_or_too_large(
        lambda: python.round([python.product(wide(a), wide(b)) for a, b in factors], wide(base)),
        lambda: machine.round([machine.product(a, b) for a, b in factors], base),
    )
    for a, b in factors:
        want = python.product(wide(a), wide(b))
        assert machine.exact(machine.product(a, b)).tolist() == python.exact(want).tolist()
        same_or_too_large(lambda want=want: python.floor(want), lambda a=a, b=b: machine.floor(machine.product(a, b)))  # type: ignore[misc]


def test_words_suffice_for_what_networks_have() -> None:
    rng = np.random.default_rng(0)
    for F in (32, 40, 44):
        python, machine = PythonIntegers(F), MachineIntegers(F)
        a, b = rng.integers(-(4 << F), 4 << F, (1, 5, 784)), rng.integers(-(4 << F), 4 << F, (1, 784, 6))
        base = np.zeros((1, 5, 6), dtype=np.int64)
        assert same_or_too_large(
            lambda: python.round([python.product(wide(a), wide(b))], wide(base)),  # noqa: B023
            lambda: machine.round([machine.product(a, b)], base),  # noqa: B023
        )


@MANY
@given(seed=seeds, F=bits)
def test_entry_by_entry(seed: int, F: int) -> None:
    rng = np.random.default_rng(seed)
    python, machine = PythonIntegers(F), MachineIntegers(F)
    factor, values = words(rng, (7, 9), int(rng.choice([F, 61]))), words(rng, (7, 9), 61)
    same_or_too_large(lambda: python.scaled(wide(factor), wide(values)), lambda: machine.scaled(factor, values))
    share = np.minimum(np.abs(factor), 1 << F)
    values = words(rng, (7, 9), min(58, 110 - F))
    assert same_or_too_large(lambda: python.scaled(wide(share), wide(values)), lambda: machine.scaled(share, values))
    reals = rng.normal(size=(7, 9)) * 2.0 ** rng.integers(-70, 70 - F, (7, 9))
    reals = np.where(rng.random((7, 9)) < 0.3, np.ldexp(np.round(np.ldexp(reals, F + 1)), -F - 1), reals)  # with ties
    same_or_too_large(lambda: python.near(reals), lambda: machine.near(reals))
    same_or_too_large(lambda: python.down(reals), lambda: machine.down(reals))


@MANY
@given(seed=seeds, F=bits)
def test_which_end_is_the_least(seed: int, F: int) -> None:
    rng = np.random.default_rng(seed)
    python, machine = PythonIntegers(F), MachineIntegers(F)
    most = int(rng.choice([F, 61]))
    low, high = -np.abs(words(rng, (50,), most)) - 1, np.abs(words(rng, (50,), most)) + 1
    lam = -np.abs(words(rng, (50,), 60))
    slope = (wide(high) << F) // (wide(high) - wide(low))
    nu = np.array([int(s) * int(v) >> F for s, v in zip(slope, lam, strict=True)])
    same_or_too_large(lambda: python.above(*map(wide, (lam, nu, low, high))), lambda: machine.above(lam, nu, low, high))


@MANY
@given(seed=seeds, n=st.integers(1, 100_000))
def test_pieces_are_exact(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = int(rng.integers(0, 62)), int(rng.integers(0, 62))
    pieces = pieces_for(left, right, n)
    assert n * 2 ** (pieces.left[0] + pieces.right[0] - 2) <= 2**FLOAT_BITS
    for size, (width, count) in ((left, pieces.left), (right, pieces.right)):
        values = words(rng, (40, 1), size)
        values = np.clip(values, -(1 << size) + 1, (1 << size) - 1)
        cut = split(values, width, count, axis=1)
        assert np.abs(cut).max() <= 2.0 ** (width - 1)
        whole = [sum(int(piece) << width * k for k, piece in enumerate(row)) for row in cut.tolist()]
        assert whole == values[:, 0].tolist()
        assert size_bits(values) <= size


def test_large_bits_are_refused() -> None:
    with pytest.raises(TooLargeError):
        MachineIntegers(56)
    machine = MachineIntegers(40)
    for make in (
        lambda: machine.narrow(np.array([1 << 61])),
        lambda: machine.narrow(np.array([1 << 80], dtype=object)),
        lambda: machine.near(np.array([2.0**22])),
        lambda: machine.near(np.array([1e308])),
        lambda: machine.down(np.array([-(2.0**22)])),
    ):
        with pytest.raises(TooLargeError):
            make()
    assert machine.narrow(np.array([-(1 << 61) + 1])).tolist() == [-(1 << 61) + 1]

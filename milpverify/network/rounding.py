"""Float64 arithmetic that knows whether it rounded, by error-free transformations.

Coefficients that are combined while a network is read (a Gemm's alpha times its matrix, an input mean through a
scaling) are merged only where nothing is lost.

Source:
    Dekker 1971, "A floating-point technique for extending the available precision"; Knuth, TAOCP vol. 2, 4.2.2.
"""

from __future__ import annotations

import numpy as np

SPLITTER = 2.0**27 + 1.0
SMALLEST = 1e-250  # below it the error of a product could underflow and go unseen


def rounded_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, bool]:
    """a + b in float64, and whether every entry is exact."""
    total = a + b
    virtual = total - a
    error = (a - (total - virtual)) + (b - virtual)
    return total, bool((error == 0).all())


def rounded_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, bool]:
    """a * b in float64, and whether every entry is exact."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        product = a * b
        high_a, low_a = _split(a)
        high_b, low_b = _split(b)
        error = ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b
    exact = (a == 0) | (b == 0) | ((error == 0) & (abs(product) > SMALLEST))
    return product, bool(exact.all())


def rounded_quotient(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, bool]:
    """a / b in float64 for nonzero b, and whether every entry is exact."""
    with np.errstate(over="ignore", under="ignore"):
        quotient = a / b
    back, exact = rounded_product(quotient, b)
    return quotient, exact and bool((back == a).all())


def rounded_root(a: np.ndarray) -> tuple[np.ndarray, bool]:
    """The square root of a >= 0 in float64, and whether every entry is exact."""
    root = np.sqrt(a)
    back, exact = rounded_product(root, root)
    return root, exact and bool((back == a).all())


def _split(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled = SPLITTER * a
    high = scaled - (scaled - a)
    return high, a - high

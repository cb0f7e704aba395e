"""The namespace of an array: numpy itself, or the array API's view of another library.

numpy 2.1 is an array API namespace of its own. Asking array_api_compat for one would import all of numpy's submodules,
which costs more than an easy verification.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def array_namespace(x: Any) -> Any:
    """The module whose functions work on x, by the array API standard."""
    if isinstance(x, np.ndarray | np.generic):
        return np
    import array_api_compat

    return array_api_compat.array_namespace(x)


def device(x: Any) -> Any:
    """The device x lies on."""
    return x.device


def to_host(x: Any) -> np.ndarray:
    """An array of any namespace as numpy."""
    return x if isinstance(x, np.ndarray) else np.asarray(x.to("cpu"))

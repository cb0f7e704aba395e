"""What one question has come to, in arrays: how a search says what it would need to go on, and finds it again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from milpverify.network.graph import Bounds

State: TypeAlias = Mapping[str, np.ndarray]


def put_under(name: str, state: State) -> dict[str, np.ndarray]:
    """The state with a name before all of its keys."""
    return {f"{name}/{key}": value for key, value in state.items()}


def taken_from(name: str, state: State) -> dict[str, np.ndarray]:
    """What stands under a name."""
    return {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}


def bounds_arrays(bounds: Bounds) -> dict[str, np.ndarray]:
    """Bounds of the hidden neurons as `saved_bounds` takes them."""
    none = np.zeros(0)
    return {
        "l": np.concatenate([none, *bounds.lower]),
        "u": np.concatenate([none, *bounds.upper]),
        "sizes": np.array([len(side) for side in bounds.lower], dtype=int),
        "solver_trusted": np.array(bounds.solver_trusted),
        "source": np.array(bounds.source),
    }


def saved_bounds(arrays: State) -> Bounds:
    """Bounds from the arrays of `bounds_arrays`; others are ignored."""
    ends = np.cumsum(arrays["sizes"])[:-1]
    lower, upper = (tuple(np.split(arrays[side], ends)) if len(arrays["sizes"]) else () for side in ("l", "u"))
    return Bounds(lower, upper, str(arrays["source"]), bool(arrays["solver_trusted"]))


class Record:
    """The parts of a search that is at work, each with what describes it, and what an earlier call left of them.

    A search registers its parts, and calls `tick` where every open node is in them: only there may they be saved.
    """

    def __init__(self, found: State | None = None, save: Callable[[], float] | None = None) -> None:
        """Begin.

        Args:
            found: What an earlier call left; None for a fresh start.
            save: Saves everything; returns how many seconds to wait until the next time. None never to save.
        """
        self._found = dict(found or {})
        self._parts: dict[str, Callable[[], State]] = {}
        self._save, self._next = save, time.monotonic()

    def take(self, name: str) -> dict[str, np.ndarray]:
        """What an earlier call left of a part, once: whoever asks again begins afresh. Empty if it left nothing."""
        taken = taken_from(name, self._found)
        self._found = {key: value for key, value in self._found.items() if not key.startswith(f"{name}/")}
        return taken

    def keep(self, name: str, describe: Callable[[], State]) -> None:
        """Register a part; one of the same name is forgotten."""
        self._parts[name] = describe

    def describe(self) -> dict[str, np.ndarray]:
        """All parts as they are now."""
        state: dict[str, np.ndarray] = {}
        for name, part in self._parts.items():
            state.update(put_under(name, part()))
        return state

    def tick(self) -> None:
        """Save if it is time to."""
        if self._save is not None and time.monotonic() >= self._next:
            wait = self._save()
            self._next = time.monotonic() + wait

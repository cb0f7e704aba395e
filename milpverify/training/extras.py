"""The optional package that training needs; everything here can be imported without it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from milpverify.errors import OptionError, first_line


def need_torch(who: str) -> None:
    """Refuse to go on without torch, which is not imported here.

    Raises:
        OptionError: If it is not installed.
    """
    known = "torch" in sys.modules
    if sys.modules.get("torch") is None if known else importlib.util.find_spec("torch") is None:
        raise OptionError(f"{who}: torch is not installed. Install milpverify[torch].")


@contextmanager
def enough_memory(who: str, remedy: str) -> Iterator[None]:
    """Tell torch's ways to run out of memory from bugs.

    Raises:
        OptionError: Where the body needs more memory than there is.
    """
    try:
        yield
    except RuntimeError as error:  # torch has a class of its own for devices only
        if not any(words in str(error) for words in ("allocate memory", "out of memory")):
            raise
        raise OptionError(f"{who}: out of memory ({first_line(error)}). {remedy}") from None

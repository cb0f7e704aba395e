"""The optional package that training needs; everything here can be imported without it."""

from __future__ import annotations

import importlib.util
import sys

from milpverify.errors import OptionError


def need_torch(who: str) -> None:
    """Refuse to go on without torch, which is not imported here.

    Raises:
        OptionError: If it is not installed.
    """
    known = "torch" in sys.modules
    if sys.modules.get("torch") is None if known else importlib.util.find_spec("torch") is None:
        raise OptionError(f"{who}: torch is not installed. Install milpverify[torch].")

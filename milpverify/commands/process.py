"""Memory of a process that answers one question and ends."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from contextlib import suppress

GARBAGE = 50_000  # new objects before a collection: loading modules makes many, and no garbage
TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
MOST_TRIM, MOST_MMAP = 2**30, 2**25  # bytes; glibc takes no larger threshold for maps of their own


def in_own_process(main: Callable[[], int]) -> int:
    """What `main` returns, in a process that ends afterwards.

    Garbage is looked for rarely, and not at the end. Freed arrays are kept for the next ones: by default glibc gives
    each larger one back to the system, which then clears its pages again.
    """
    gc.set_threshold(GARBAGE)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(MMAP, MOST_MMAP)
            mallopt(TRIM, MOST_TRIM)
    try:
        return main()
    finally:
        gc.freeze()

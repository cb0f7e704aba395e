"""Files that appear complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def written_whole(path: Path, suffix: str = ".tmp") -> Iterator[Path]:
    """A place beside a file to write to; what stands there at the end replaces the file, in one step.

    Where the body raises, the file is left as it was; the place is cleared either way.

    Args:
        path: The file. A link is replaced itself: resolve it before to write through it.
        suffix: Of the place's name.

    Raises:
        OSError: If the file cannot be replaced. What to tell the user is the caller's matter.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

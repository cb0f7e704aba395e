"""What `train` and `evaluate` read alike: images, and the norm of the balls around them."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from milpverify.errors import OptionError

if TYPE_CHECKING:
    from milpverify.training.ball import Norm
    from milpverify.training.datasets import ImageSet


def image_sets(data: str, seed: int, known: str) -> tuple[ImageSet, ImageSet]:
    """Training and test images.

    Args:
        data: `digits` or `idx:FOLDER`.
        seed: Of how the digits are parted.
        known: What --data may be, for the message.

    Raises:
        InputError: If they cannot be read, or `data` names none.
    """
    from milpverify.training.datasets import read_digits, read_idx_folder

    kind, _, folder = data.partition(":")
    if data == "digits":
        return read_digits(seed)
    if kind == "idx" and folder:
        return read_idx_folder(folder)
    raise OptionError(f"--data: expected {known}, got '{data}'. Name one of them.")


def norm_of(args: argparse.Namespace) -> Norm:
    """The norm of the balls, with the clip."""
    from milpverify.training.ball import Norm

    low, high = args.clip
    return Norm({"linf": math.inf, "l2": 2.0, "l1": 1.0}[args.norm], (low, high))

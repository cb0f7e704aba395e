"""The optional package that training needs; everything here can be imported without it."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from milpverify.errors import NetworkError, OptionError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn


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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, and afterwards in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def output_on_zeros(who: str, model: nn.Module, input_shape: tuple[int, ...], remedy: str) -> Tensor:
    """What the module gives for one input of zeros, in the precision and on the device of its first parameter.

    Raises:
        NetworkError: If it does not run on an input of that shape.
    """
    import torch

    like = next(model.parameters(), torch.zeros(1))
    try:
        with evaluating(model), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about speed
            found: Tensor = model(torch.zeros((1, *input_shape), dtype=like.dtype, device=like.device))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise NetworkError(
            f"{who}: the module does not run on an input of shape {(1, *input_shape)} ({first_line(error)}). {remedy}"
        ) from None
    return found

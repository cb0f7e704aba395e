"""One call of an exported torch graph while it is being read: its arguments by name, ticked off one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from milpverify.errors import NetworkError, UnsupportedError
from milpverify.network.expression import Expr, constant
from milpverify.network.lowering import Lowering


class Call:
    """An ATen operator and its arguments: expressions, torch tensors (known values), numbers, lists.

    Args:
        target: The operator overload.
        arguments: Bound arguments by name, defaults filled in.
        place: What messages call it.
        label: Short name for layers and notes: the module's path, else the graph node's name.
        lowering: The network read so far.
        dtype: The floating type the module computes in; numbers in the graph are rounded to it, as torch does.
    """

    def __init__(
        self, target: Any, arguments: dict[str, Any], place: str, label: str, lowering: Lowering, dtype: Any
    ) -> None:
        self.name, self.overload = target._schema.name.split("::")[1], target._schema.overload_name
        self.place, self.label, self.lowering, self.dtype = place, label, lowering, dtype
        self._unread = dict(arguments)
        self._defaults = {a.name: a.default_value for a in target._schema.arguments}

    def refuse(self, what: str, remedy: str) -> UnsupportedError:
        """The error to raise for something that is not read."""
        return UnsupportedError(f"from_torch: {self.place} {what}. {remedy}")

    def has(self, name: str) -> bool:
        """Whether the operator has an argument of this name that is not None."""
        return self._unread.get(name) is not None

    def take(self, name: str) -> Any:
        """An argument as it is; it counts as read."""
        if name not in self._unread:
            raise self.refuse(f"lacks the argument '{name}'", "This version of torch is not known; use torch 2.13.")
        return self._unread.pop(name)

    def optional(self, name: str, default: Any) -> Any:
        """An argument that not every overload has."""
        value = self._unread.pop(name, None)
        return default if value is None else value

    def ignore(self, *names: str) -> None:
        """Arguments that change nothing in inference."""
        for name in names:
            self._unread.pop(name, None)

    def expr(self, name: str) -> Expr:
        """A tensor or number as an expression."""
        return self.as_expr(self.take(name), name)

    def exprs(self, name: str) -> list[Expr]:
        """A list of tensors as expressions."""
        return [self.as_expr(value, name) for value in self.take(name)]

    def known(self, name: str) -> np.ndarray:
        """A tensor or number that does not depend on the network's input, float64 and finite."""
        return self.as_known(self.take(name), name)

    def as_expr(self, value: Any, name: str) -> Expr:
        """A value of an argument as an expression."""
        return value if isinstance(value, Expr) else constant(self.as_known(value, name))

    def as_known(self, value: Any, name: str) -> np.ndarray:
        """A value of an argument as finite float64 numbers."""
        import torch

        if isinstance(value, Expr):
            raise self.refuse(f"computes its argument '{name}' from the network's input", "Make it a constant.")
        if isinstance(value, (bool, int, float)):
            value = torch.tensor(value, dtype=self.dtype)  # torch rounds numbers to the tensor's type too
        if value.dtype not in (torch.float32, torch.float64) and value.is_floating_point():
            raise self.refuse(f"reads '{name}' of type {value.dtype}", "Convert the module to float32: model.float().")
        array = np.array(value.detach().cpu().numpy(), dtype=np.float64)  # a copy: training may go on
        if not np.isfinite(array).all():
            at = tuple(int(k) for k in np.argwhere(~np.isfinite(array))[0])
            raise NetworkError(f"from_torch: {self.place} reads '{name}', whose entry {at} is {array[at]}. "
                               "Replace it by a finite number.")  # fmt: skip
        return array

    def number(self, name: str) -> float:
        """A number, rounded to the type the module computes in; infinities stay."""
        import torch

        value = self.take(name)
        if not isinstance(value, (bool, int, float)):
            raise self.refuse(f"has {name} given by a tensor", "Use a number.")
        return float(torch.tensor(value, dtype=self.dtype))

    def integers(self, name: str, rank: int | None = None) -> list[int]:
        """A list of integers; one integer stands for `rank` equal ones."""
        value = self.take(name)
        value = [value] if isinstance(value, int) else list(value)
        if not all(isinstance(n, int) for n in value):
            raise self.refuse(f"has {name}={value}, which depends on the input", "Use fixed shapes.")
        return value * rank if rank is not None and len(value) == 1 else value

    def finish(self) -> None:
        """Refuse arguments that were not read and are not at their default."""
        for name, value in self._unread.items():
            default = self._defaults.get(name)
            if isinstance(value, Expr) or not _same(value, default):
                raise self.refuse(f"has {name}={value!r}, which is not read", f"Use {name}={default!r}.")


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value) == (list(default) if isinstance(default, Sequence) else default)
    return value is default or (isinstance(value, (bool, int, float, str)) and value == default)

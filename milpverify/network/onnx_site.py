"""One node while it is being read: its inputs as values, its attributes ticked off one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from milpverify.errors import NetworkError, UnsupportedError
from milpverify.network.expression import Expr, constant, select
from milpverify.network.lowering import Lowering
from milpverify.network.onnx_file import OnnxNode

Value = Expr | np.ndarray  # computed from the input, or known; known floats are float64
Rearrangement = Callable[[np.ndarray], np.ndarray]
LARGEST_EXACT_INTEGER = 2**53


class Site:
    """A node, the values it may read, and what of it has not been read yet.

    Args:
        node: The node.
        values: Every value computed so far, by name.
        opset: Version of the standard operator set.
        lowering: The network read so far.
    """

    def __init__(self, node: OnnxNode, values: Mapping[str, Value], opset: int, lowering: Lowering) -> None:
        self.node, self.opset, self.lowering = node, opset, lowering
        self._inputs = [self._value(name, values) for name in node.inputs]
        self._unread = dict(node.attributes)

    @property
    def place(self) -> str:
        """What messages call this node."""
        return f"operator {self.node.op} (node '{self.node.name}')"

    @property
    def n_inputs(self) -> int:
        """Number of inputs, optional ones left out included."""
        return len(self._inputs)

    def refuse(self, what: str, remedy: str) -> UnsupportedError:
        """The error to raise for something that is not read."""
        return UnsupportedError(f"from_onnx: {self.place} {what}. {remedy}")

    def has(self, i: int) -> bool:
        """Whether input i is given."""
        return i < len(self._inputs) and self._inputs[i] is not None

    def value(self, i: int) -> Value:
        """Input i, which must be given."""
        value = self._inputs[i] if i < len(self._inputs) else None
        if value is None:
            raise NetworkError(f"from_onnx: {self.place} lacks its input {i}. Check the file with onnx.checker.")
        return value

    def values(self) -> list[Value]:
        """All inputs."""
        return [self.value(i) for i in range(len(self._inputs))]

    def expr(self, i: int) -> Expr:
        """Input i as an expression; a known one as a constant expression."""
        value = self.value(i)
        return value if isinstance(value, Expr) else constant(self.finite(i))

    def known(self, i: int) -> np.ndarray:
        """Input i, which must be known before the network runs."""
        value = self.value(i)
        if isinstance(value, Expr):
            raise self.refuse(
                f"computes its input {i} ('{self.node.inputs[i]}') from the network's input", "Make it a constant."
            )
        return value

    def finite(self, i: int) -> np.ndarray:
        """Input i as known finite numbers, float64."""
        value = self.known(i)
        if value.dtype.kind in "iub" and value.size and np.abs(value.astype(object)).max() > LARGEST_EXACT_INTEGER:
            raise self.refuse(
                f"has the integer weights '{self.node.inputs[i]}', which float64 cannot hold", "Store them as floats."
            )
        value = value.astype(np.float64)
        if not np.isfinite(value).all():
            at = tuple(int(k) for k in np.argwhere(~np.isfinite(value))[0])
            raise NetworkError(
                f"from_onnx: {self.place} reads '{self.node.inputs[i]}', whose entry {at} is {value[at]}. "
                "Replace it by a finite number."
            )
        return value

    def integers(self, i: int) -> list[int]:
        """Input i as known integers (axes, shapes, positions)."""
        value = self.known(i)
        if value.dtype.kind not in "iu":
            raise self.refuse(f"expects integers as input {i}, got {value.dtype}", "Check the file with onnx.checker.")
        return [int(n) for n in value.reshape(-1)]

    def scalar(self, i: int) -> float | None:
        """Input i as one known number, possibly infinite; None where it is left out."""
        if not self.has(i):
            return None
        value = self.known(i)
        if value.size != 1:
            raise self.refuse(f"expects one number as input {i}, got shape {value.shape}", "Use a scalar.")
        return float(value.reshape(-1)[0])

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self._take(name, default, int))

    def number(self, name: str, default: float) -> float:
        """A float attribute, the float32 it is stored as."""
        return float(self._take(name, default, float))

    def text(self, name: str, default: str) -> str:
        """A text attribute."""
        return str(self._take(name, default, str))

    def integer_list(self, name: str, default: Sequence[int]) -> list[int]:
        """A list-of-integers attribute."""
        return [int(n) for n in self._take(name, tuple(default), tuple)]

    def optional(self, name: str) -> object | None:
        """Any attribute, None where absent."""
        return self._unread.pop(name, None)

    def given(self, name: str) -> bool:
        """Whether the node sets an attribute that has not been read yet."""
        return name in self._unread

    def ignore(self, *names: str) -> None:
        """Attributes that change nothing in inference."""
        for name in names:
            self._unread.pop(name, None)

    def expect(self, name: str, *allowed: object) -> None:
        """An attribute that must be absent or have one of these values."""
        value = self._unread.pop(name, allowed[0])
        if value not in allowed:
            raise self.refuse(f"has {name}={value!r}, which is not read", f"Use {name}={allowed[0]!r}.")

    def axes(self, position: int, since: int) -> list[int] | None:
        """The axes of a reduction or squeeze: an attribute before operator set `since`, an input from it on."""
        if self.opset < since:
            return self.integer_list("axes", ()) if self.given("axes") else None
        return self.integers(position) if self.has(position) else None

    def finish(self) -> None:
        """Refuse what has not been read."""
        for name, value in self._unread.items():
            raise self.refuse(f"has the attribute {name}={value!r}, which is not read", "Export the model without it.")

    def rearrange(self, value: Value, how: Rearrangement) -> Value:
        """A value whose entries are only moved, repeated or left out: `how` acts on the array, or on positions."""
        return select(value, how(value.index)) if isinstance(value, Expr) else how(value)

    def _take(self, name: str, default: Any, kind: type) -> Any:
        value = self._unread.pop(name, default)
        if not isinstance(value, kind):
            raise self.refuse(f"has {name}={value!r} of the wrong kind", "Check the file with onnx.checker.")
        return value

    def _value(self, name: str, values: Mapping[str, Value]) -> Value | None:
        if not name:
            return None
        if name not in values:
            raise NetworkError(
                f"from_onnx: {self.place} reads '{name}', which nothing computes. Check the file with onnx.checker."
            )
        return values[name]

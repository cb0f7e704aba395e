"""The canonical form of a torch module whose operators hold the module's own parameters, for autograd.

`from_torch` copies weights; training needs operators that share them. The reader is run once on a copy of the module
whose parameters are numbered: entry i holds BASE + i. What it builds shows where every entry has gone, and from then on
the same form is filled with the live parameters, at every step. So whatever `from_torch` reads by moving numbers only
can be trained: dense layers, convolutions, skip connections, pools that select. Where it computes with parameters
(batch-norm), no such map exists, and that is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from milpverify.errors import NetworkError, UnsupportedError, first_line
from milpverify.network.from_torch import from_torch
from milpverify.network.graph import Affine, Network
from milpverify.network.operators import LinearOperator
from milpverify.training.extras import evaluating, output_on_zeros

if TYPE_CHECKING:
    from torch import Tensor, nn

BASE = 2.0**40  # no weight written in code is that large, and BASE + i is exact up to 2**53
LARGEST_CONSTANT = 2.0**20  # what is larger and no number was computed from numbers
TOLERANCE = 1e-4  # relative, of the float32 comparison with the module


@dataclass(frozen=True, eq=False)
class LiveAffine:
    """An `AffineMap` whose operators and bias are torch tensors under autograd; the bias has no error of its own."""

    blocks: tuple[tuple[int, LinearOperator], ...]
    bias: Any
    size: int
    name: str = ""

    @cached_property
    def bias_error(self) -> Any:
        """Zeros: nothing here is rounded outward."""
        return self.bias.detach() * 0.0


class Twin:
    """Where each parameter of a module stands in its canonical form."""

    def __init__(self, model: nn.Module, input_shape: Sequence[int]) -> None:
        """Read the module's structure; its weights are read by `layers`, whenever that is called.

        Args:
            model: As `from_torch` takes it, in either mode; batch-norms are not taken.
            input_shape: Shape of one input without the batch axis.

        Raises:
            UnsupportedError: If the canonical form computes with parameters instead of moving them.
            NetworkError: If the module cannot be read, or its form computes something else.
        """
        self._model = model
        self.input_shape = tuple(int(n) for n in input_shape)
        _check_runs(model, self.input_shape)
        self.form = _numbered(model, self.input_shape)
        self._places: dict[int, _Place] = {}
        for affine in (*self.form.layers, self.form.output):
            for _, op in affine.blocks:
                op.map_arrays(self._note)
            for term, vector in affine.bias_terms:
                if term is not None:
                    term.map_arrays(self._note)
                self._note(vector)
        self._check()

    def layers(self) -> tuple[LiveAffine, ...]:
        """The affine maps with the parameters' present values, the output last; gradients flow to the parameters."""
        source = _Parameters(tuple(self._model.parameters()))
        filled: dict[int, Any] = {}

        def fill(array: Any) -> Any:
            if id(array) not in filled:
                filled[id(array)] = self._places[id(array)].read(source)
            return filled[id(array)]

        zero = source.like.detach().reshape(-1)[:1] * 0.0
        return tuple(_live(affine, fill, zero) for affine in (*self.form.layers, self.form.output))

    def _note(self, array: Any) -> Any:
        self._places[id(array)] = _Place.of(array)
        return array

    def _check(self) -> None:
        """Compare with the module on random inputs: a form that depends on the weights' values shows here."""
        import torch

        source = _Parameters(tuple(self._model.parameters()))
        draw = torch.Generator().manual_seed(0)
        x = torch.rand((4, *self.input_shape), generator=draw).to(source.like)
        try:
            with evaluating(self._model), torch.no_grad():
                found = forward(self.layers(), x.reshape(4, -1))
                expected = self._model(x).reshape(4, -1)
        except (RuntimeError, ValueError, IndexError) as error:
            raise NetworkError(
                f"Twin: the module does not run on a batch of 4 inputs of shape {self.input_shape} "
                f"({first_line(error)}). Write its forward for any number of inputs."
            ) from None
        size = 1.0 + float(expected.abs().max())
        if expected.shape != found.shape or not float((expected - found).abs().max()) <= TOLERANCE * size:
            raise NetworkError(
                "Twin: the canonical form does not compute what the module does. Give a module without control flow, "
                "whose parameters enter by plain linear layers and convolutions, with finite weights."
            )


def forward(layers: Sequence[LiveAffine], x: Tensor) -> Tensor:
    """y at x, shape (..., n_inputs) -> (..., n_outputs). Floating."""
    values, y = [x], x
    for affine in layers:
        y = affine.bias
        if not affine.blocks:
            y = y + x.new_zeros((*x.shape[:-1], 1))
        for source, op in affine.blocks:
            y = y + op.apply(values[source])
        values.append(y.relu())
    return y


class _Parameters:
    """The live parameters of a module, one by one, and in a row where some array needs that."""

    def __init__(self, parameters: tuple[Any, ...]) -> None:
        self.parts = parameters
        self.like = parameters[0]
        self.starts = np.cumsum([0, *(p.numel() for p in parameters)])

    @cached_property
    def row(self) -> Any:
        import torch

        return torch.cat([p.reshape(-1) for p in self.parts])


@dataclass(frozen=True, eq=False)
class _Place:
    """Where the entries of an array come from: +-parameters, or constants.

    Attributes:
        index: Number of the parameter entry, of the array's shape; -1 for a constant.
        sign: +1 or -1 for parameters, the value itself for constants.
    """

    index: np.ndarray
    sign: np.ndarray

    @classmethod
    def of(cls, array: Any) -> _Place:
        values = np.asarray(array, dtype=np.float64)
        size = np.abs(values)
        numbered = (size >= BASE) & (size < 2 * BASE) & (values == np.rint(values))
        if (~numbered & (size > LARGEST_CONSTANT)).any():
            raise UnsupportedError(
                "Twin: the canonical form computes with parameters (a batch-norm, or two biases that are added). "
                "Train plain dense layers and convolutions; fold a batch-norm in, or leave one bias out."
            )
        index = np.where(numbered, size - BASE, -1.0).astype(np.int64)
        return cls(index, np.where(numbered, np.sign(values), values))

    @cached_property
    def _whole(self) -> bool:
        """Whether it is a run of parameter entries, in order and with their own sign."""
        flat = self.index.reshape(-1)
        return bool(flat.size and flat[0] >= 0 and (np.diff(flat) == 1).all() and (self.sign == 1).all())

    def read(self, source: _Parameters) -> Any:
        """The array, filled with what the parameters hold now."""
        import torch

        like = source.like
        if not (self.index >= 0).any():
            return torch.as_tensor(self.sign, dtype=like.dtype, device=like.device)
        if self._whole:
            first = int(self.index.reshape(-1)[0])
            which = int(np.searchsorted(source.starts, first, side="right")) - 1
            part, offset = source.parts[which], first - int(source.starts[which])
            if offset + self.index.size <= part.numel():
                return part.reshape(-1)[offset : offset + self.index.size].reshape(self.index.shape)
        index = torch.as_tensor(np.maximum(self.index, 0), device=like.device)
        sign = torch.as_tensor(np.where(self.index >= 0, self.sign, 0.0), dtype=like.dtype, device=like.device)
        rest = torch.as_tensor(np.where(self.index >= 0, 0.0, self.sign), dtype=like.dtype, device=like.device)
        return source.row[index] * sign + rest


def _live(affine: Affine, fill: Callable[[Any], Any], zero: Any) -> LiveAffine:
    bias = zero.expand(affine.size)
    for op, vector in affine.bias_terms:
        bias = bias + (fill(vector) if op is None else op.map_arrays(fill).apply(fill(vector)))
    blocks = tuple((source, op.map_arrays(fill)) for source, op in affine.blocks)
    return LiveAffine(blocks, bias, affine.size, affine.name)


def _check_runs(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Refuse a module that cannot read such inputs, before it is traced: a failed trace fills the screen.

    Raises:
        NetworkError: If it does not run on one input, or not in float32 or float64.
    """
    import torch

    like = next(model.parameters(), torch.zeros(1))
    if like.dtype not in (torch.float32, torch.float64):
        raise NetworkError(f"Twin: the module's weights are {like.dtype}, expected float32 or float64. Convert it.")
    output_on_zeros("Twin", model, input_shape, "Build it for images of that shape.")


def _numbered(model: nn.Module, input_shape: tuple[int, ...]) -> Network:
    """The canonical form of the module with numbered parameters."""
    import torch

    clone = copy.deepcopy(model).double().eval()
    at = 0
    with torch.no_grad():
        for p in clone.parameters():
            numbers = torch.arange(at, at + p.numel(), dtype=torch.float64, device=p.device) + BASE
            p.copy_(numbers.reshape(p.shape))
            at += p.numel()
    if not at:
        raise NetworkError("Twin: the module has no parameters, so there is nothing to train.")
    return from_torch(clone, input_shape)

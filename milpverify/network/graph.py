"""The canonical form: affine maps and ReLUs, block lower-triangular, and the bounds of its neurons.

    zhat_k = b_k + W_k0 x + sum_{j<k} W_kj z_j        z_k = relu(zhat_k)        y = b_o + W_o0 x + sum_j W_oj z_j

A plain chain has only the blocks W_{k,k-1}; a skip connection is one more block. Layers count from 1; source 0 is
the input x.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from milpverify.errors import BoundsError, NetworkError
from milpverify.network.arrays import array_namespace, device, to_host
from milpverify.network.operators import Array, LinearOperator

UNIT = 2.0**-53  # unit roundoff of float64

BiasTerm = tuple["LinearOperator | None", np.ndarray]


@dataclass(frozen=True, eq=False)
class Affine:
    """b + sum_j W_j z_j: the pre-activation of a layer, or the output.

    The bias is the sum of `op v` over its terms. Where that is one stored vector it is exact in float64; where
    constants were pushed through a map (an input mean through the first weights, say) `bias` is the rounded value and
    `bias_error` bounds its distance to the exact one, entry by entry.

    Attributes:
        blocks: (source, operator) pairs in rising order of source; 0 is the input, j the j-th ReLU layer.
        bias_terms: (operator or None, vector of float64) pairs whose exact sum is the bias.
        name: Where it came from, for messages and for the names of rows and columns.
        size: Number of entries.
    """

    blocks: tuple[tuple[int, LinearOperator], ...]
    bias_terms: tuple[BiasTerm, ...]
    size: int
    name: str = ""

    def __post_init__(self) -> None:
        sources = [source for source, _ in self.blocks]
        if sources != sorted(set(sources)):
            raise NetworkError(f"Affine {self.name!r}: sources must rise, got {sources}.")
        for source, op in self.blocks:
            if op.out_size != self.size:
                raise NetworkError(
                    f"Affine {self.name!r}: block {source} yields {op.out_size} values, expected {self.size}."
                )
        for term, vector in self.bias_terms:
            length = len(vector) if term is None else term.out_size
            if length != self.size or (term is not None and term.in_size != len(vector)):
                raise NetworkError(f"Affine {self.name!r}: a bias of {length} values, expected {self.size}.")

    @cached_property
    def bias(self) -> np.ndarray:
        """The bias rounded to float64, shape (size,)."""
        total = np.zeros(self.size)
        for op, vector in self.bias_terms:
            total = total + (vector if op is None else op.apply(vector))
        return total

    @cached_property
    def bias_size(self) -> np.ndarray:
        """sum |op| |v| over the terms: at least |bias|, and how large what is summed can be, shape (size,)."""
        total = np.zeros(self.size)
        for op, vector in self.bias_terms:
            total = total + (np.abs(vector) if op is None else op.absolute.apply(np.abs(vector)))
        return total

    @property
    def bias_roundings(self) -> int:
        """Upper bound of the rounded operations in `bias`."""
        return len(self.bias_terms) + sum(0 if op is None else op.roundings for op, _ in self.bias_terms)

    @cached_property
    def bias_error(self) -> np.ndarray:
        """Entry-wise bound on |bias - exact bias|, shape (size,); zero where one stored vector is the bias."""
        if len(self.bias_terms) <= 1 and all(op is None for op, _ in self.bias_terms):
            return np.zeros(self.size)
        lost = np.full(self.size, 2.0**-1000)
        for op, vector in self.bias_terms:
            # Products that underflow, and what acts on them afterwards.
            lost = lost + (0.0 if op is None else 2.0**-1021 * op.underflow_gain(vector))
        return 2.0 * (self.bias_roundings + 2) * UNIT * self.bias_size + lost

    def apply(self, values: Sequence[Array]) -> Array:
        """bias + sum_j W_j values[j]; each value has shape (..., n_j). Floating."""
        first = values[0]
        xp = array_namespace(first)
        total = xp.asarray(self.bias, dtype=first.dtype, device=device(first))
        if not self.blocks:  # a constant still has the batch axes of its arguments
            total = total + xp.zeros((*first.shape[:-1], 1), dtype=first.dtype, device=device(first))
        for source, op in self.blocks:
            total = total + op.apply(values[source])
        return total

    def map_arrays(self, convert: Callable[[Array], Array]) -> Affine:
        """The same map with the operators' arrays converted; the bias stays numpy float64."""
        blocks = tuple((source, op.map_arrays(convert)) for source, op in self.blocks)
        converted = replace(self, blocks=blocks)
        # The terms hold numpy operators; only their sum is needed on another device.
        converted.__dict__.update(bias=self.bias, bias_error=self.bias_error, bias_size=self.bias_size)
        return converted


class AffineMap(Protocol):
    """What bounds need of a layer: an `Affine`, or a part of one."""

    @property
    def blocks(self) -> tuple[tuple[int, LinearOperator], ...]:
        """(source, operator), rising sources."""

    @property
    def bias(self) -> np.ndarray:
        """Rounded, shape (*batch or none, size)."""

    @property
    def bias_error(self) -> np.ndarray: ...

    @property
    def size(self) -> int: ...

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Network:
    """A ReLU network in canonical form; frozen, checked, float64.

    Attributes:
        input_shape: Shape of one input (leading batch axis of one included if the file has it).
        output_shape: Likewise for the output.
        layers: The pre-activations zhat_1, zhat_2, ...
        output: The affine map to y.
        approximations: What float64 could not hold exactly, one sentence each; empty for most networks.
        rewritten: Operators of the model that this form does not execute as they stand, though its function is the
            same: what is proven of float32 executions of the form says nothing about the model's.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    layers: tuple[Affine, ...]
    output: Affine
    approximations: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = [self.n_inputs, *(layer.size for layer in self.layers)]
        for k, layer in enumerate((*self.layers, self.output), start=1):
            for source, op in layer.blocks:
                if source >= k or op.in_size != sizes[source]:
                    size = sizes[source] if source < k else "not been computed"
                    raise NetworkError(
                        f"Network: layer {layer.name!r} reads {op.in_size} values of source {source}, which has {size}."
                    )
        if self.output.size != self.n_outputs:
            raise NetworkError(f"Network: output shape {self.output_shape} does not hold {self.output.size} values.")

    @property
    def n_inputs(self) -> int:
        """Number of input coordinates."""
        return int(np.prod(self.input_shape))

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return int(np.prod(self.output_shape))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of ReLUs of each layer."""
        return tuple(layer.size for layer in self.layers)

    @property
    def n_neurons(self) -> int:
        """Number of ReLUs."""
        return sum(self.sizes)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of its operators, in the order of the layers: what they are, and where."""
        found: list[Array] = []

        def note(a: Array) -> Array:
            if getattr(a, "ndim", 0):
                found.append(a)
            return a

        for affine in (*self.layers, self.output):
            for _, op in affine.blocks:
                op.map_arrays(note)
        return tuple(found)

    def flat(self, x: Any) -> np.ndarray:
        """One input as a flat float64 vector.

        Args:
            x: Anything numpy reads, of any shape with n_inputs entries in C order.

        Raises:
            NetworkError: If the number of entries differs, or one is not finite.
        """
        given = to_host(x.detach()) if hasattr(x, "requires_grad") else x
        vector = np.asarray(given, dtype=np.float64).reshape(-1)
        if vector.size != self.n_inputs:
            raise NetworkError(
                f"input: the network reads {self.n_inputs} values (shape {self.input_shape}), got an array of shape "
                f"{np.shape(x)}. Pass one input of that shape."
            )
        if not np.isfinite(vector).all():
            where = int(np.flatnonzero(~np.isfinite(vector))[0])
            raise NetworkError(f"input: entry {where} is {vector[where]}. Replace it by a finite number.")
        return vector

    def activations(self, x: Array) -> tuple[list[Array], Array]:
        """Pre-activations zhat_k, each (..., n_k), and the output y at x, shape (..., n_inputs). Floating."""
        values, hidden = [x], []
        for layer in self.layers:
            hidden.append(layer.apply(values))
            values.append(relu(hidden[-1]))
        return hidden, self.output.apply(values)

    def forward(self, x: Array) -> Array:
        """y at x: (..., n_inputs) -> (..., n_outputs), in the arithmetic of x. Floating."""
        return self.activations(x)[1]

    def map_arrays(self, convert: Callable[[Array], Array]) -> Network:
        """The same network with every operator's arrays converted (another dtype, torch, a device)."""
        layers = tuple(layer.map_arrays(convert) for layer in self.layers)
        return replace(self, layers=layers, output=self.output.map_arrays(convert))

    def to_torch(self, device: str = "cpu") -> Network:
        """A twin whose operators hold torch tensors (float64) on `device`."""
        import torch

        return self.map_arrays(lambda a: torch.as_tensor(np.asarray(a), device=device))

    def as_float32(self) -> Network:
        """A twin in IEEE single precision, for replay only."""
        return self.map_arrays(lambda a: np.asarray(a, dtype=np.float32))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over structure and coefficients, hexadecimal; equal only for the same function in the same form."""
        digest = hashlib.sha256(b"milpverify network 1")
        for layer in (*self.layers, self.output):
            digest.update(b"layer")
            for source, op in layer.blocks:
                _hash_into(digest, (source, op.description()))
            for term, vector in layer.bias_terms:
                _hash_into(digest, (() if term is None else term.description(), vector))
        return digest.hexdigest()


def relu(x: Array) -> Array:
    """max(x, 0), for arrays of any namespace and for Python integers."""
    return x * (x > 0)


@dataclass(frozen=True, eq=False)
class Bounds:
    """Proven bounds l <= zhat <= u of every hidden pre-activation over one region.

    Attributes:
        lower, upper: One float64 array of shape (n_k,) per hidden layer, sound for real arithmetic; (B, n_k) over a
            batch of regions.
        source: The method that proved them, for reports.
        solver_trusted: Whether some of them rest on a MILP solver's word within its tolerances.
        semantics: Whose arithmetic they are about: "real", or "float32", which holds for real numbers too.
    """

    lower: tuple[np.ndarray, ...]
    upper: tuple[np.ndarray, ...]
    source: str = ""
    solver_trusted: bool = False
    semantics: str = "real"

    def __post_init__(self) -> None:
        for k, (l, u) in enumerate(zip(self.lower, self.upper, strict=True), start=1):
            if l.shape != u.shape or not (l <= u).all():
                raise BoundsError(
                    f"Bounds: layer {k} has some l > u (or NaN), which no input allows. The region may be empty."
                )

    def active(self, k: int) -> np.ndarray:
        """Mask of the neurons of layer k (from 1) with l >= 0."""
        return np.asarray(self.lower[k - 1] >= 0)

    def inactive(self, k: int) -> np.ndarray:
        """Mask of the neurons of layer k (from 1) with u <= 0; a neuron fixed at zero counts as active."""
        return np.asarray((self.upper[k - 1] <= 0) & (self.lower[k - 1] < 0))

    def unstable(self, k: int) -> np.ndarray:
        """Mask of the neurons of layer k (from 1) with l < 0 < u."""
        return np.asarray((self.lower[k - 1] < 0) & (self.upper[k - 1] > 0))

    @property
    def n_unstable(self) -> tuple[int, ...]:
        """Unstable neurons of each layer, over all regions of a batch."""
        return tuple(int(self.unstable(k).sum()) for k in range(1, len(self.lower) + 1))

    def condensed_entries(self, n_inputs: int) -> int:
        """Dense weights of the condensed network: unstable neurons read the inputs and all unstable ones below."""
        columns, entries = n_inputs, 0
        for count in self.n_unstable:
            entries += count * columns
            columns += count
        return entries

    def intersect(self, other: Bounds) -> Bounds:
        """The tighter of both bounds, neuron by neuron."""
        lower = tuple(np.maximum(a, b) for a, b in zip(self.lower, other.lower, strict=True))
        upper = tuple(np.minimum(a, b) for a, b in zip(self.upper, other.upper, strict=True))
        trusted = self.solver_trusted or other.solver_trusted
        semantics = self.semantics if self.semantics == other.semantics else "real"
        return Bounds(lower, upper, f"{self.source} & {other.source}", trusted, semantics)


def _hash_into(digest: Any, item: object) -> None:
    if isinstance(item, np.ndarray):
        digest.update(repr((item.shape, item.dtype.str)).encode())
        digest.update(np.ascontiguousarray(item).tobytes())
    elif isinstance(item, tuple):
        digest.update(b"(")
        for part in item:
            _hash_into(digest, part)
        digest.update(b")")
    else:
        digest.update(repr(item).encode() + b";")

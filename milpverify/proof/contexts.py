"""The bounds of all layers over a batch of boxes, and what the proof says about them (docs/proofs.md, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from milpverify.network.graph import Network
from milpverify.proof.certificate import Context, Layer
from milpverify.proof.claims import Values, claimed_bounds
from milpverify.proof.fixed_point import Integers
from milpverify.proof.float32 import float32_error
from milpverify.proof.forms import AffineSteps, Columns, Forms, Value, masked_index
from milpverify.proof.leaf_walk import KnownLayers, RejectedError
from milpverify.proof.near_operators import near_bias
from milpverify.proof.walk import HiddenLayer, hidden_layer, walk


@dataclass(frozen=True, eq=False)
class BoundedBoxes:
    """A batch of boxes with all their layers bounded.

    Attributes:
        known: The columns of all layers.
        lower, upper: Bounds of every zhat, one (batch, n_k) a layer.
        claims: For each layer, box and its `Claims`, V of their leaves.
        output: The expressions of y, as a value.
    """

    known: KnownLayers
    lower: tuple[np.ndarray, ...]
    upper: tuple[np.ndarray, ...]
    claims: tuple[list[list[Values]], ...]
    output: Value


class NetworkInIntegers:
    """A network in one arithmetic: its maps and biases are rounded once for all boxes.

    Args:
        net: The network.
        integers: The arithmetic.
        float32: Whether every float32 execution is meant; the network must be one without `float32_obstacle`.
    """

    def __init__(self, net: Network, integers: Integers, float32: bool = False) -> None:
        self.net, self.integers, self.float32 = net, integers, float32
        self.steps = AffineSteps(integers)

    @cached_property
    def biases(self) -> list[np.ndarray]:
        """b~ of the layers and of the output."""
        affines = (*self.net.layers, self.net.output)
        return [near_bias(affine.bias_terms, affine.size, self.integers) for affine in affines]

    def bound(
        self, lower: np.ndarray, upper: np.ndarray, contexts: Sequence[Context], names: Sequence[str]
    ) -> BoundedBoxes:
        """Bound all layers over boxes.

        Args:
            lower, upper: The boxes, (batch, n).
            contexts: What the proof says about each.
            names: Of the contexts, for reasons.

        Raises:
            RejectedError: If a neuron is neither listed as unstable nor stable, or a context does not fit the network.
        """
        integers, net, batch = self.integers, self.net, len(lower)
        nothing = Columns(lower[:, :0], upper[:, :0], np.zeros(batch, dtype=object))
        columns = nothing.with_more(lower, upper)
        values = [_input(integers, columns)]
        layers: list[HiddenLayer] = []
        lowers, uppers, claims = list[np.ndarray](), list[np.ndarray](), list[list[list[Values]]]()
        valids: list[np.ndarray] = []
        for k, affine in enumerate(net.layers):
            told = [
                _layer_of(context, k, affine.size, net, name) for context, name in zip(contexts, names, strict=True)
            ]
            forms = self._forms(k, values, columns)
            lo, hi = self.steps.interval(forms, columns)
            if k and any(layer.rule == "crown" for layer in told):
                lo, hi = self._walked(
                    forms, lo, hi, np.array([layer.rule == "crown" for layer in told]), layers, columns
                )
            known = KnownLayers.of(columns, layers, valids)
            lo, hi, found = claimed_bounds(integers, known, forms, (lo, hi), [layer.claims for layer in told], names)
            claims.append(found)
            listed = np.array([_listed(layer, l, h) for layer, l, h in zip(told, lo, hi, strict=True)], dtype=bool)
            _demand_stable(listed | (lo >= 0) | (hi <= 0), k, names)
            index, valid = masked_index(listed)
            low, high = (np.take_along_axis(side, index, axis=1) * valid for side in (lo, hi))
            layers.append(hidden_layer(integers, forms.at(index, valid), low, high, columns))
            values.append(_value(forms, lo, hi, listed, (index, valid, columns.count)))
            columns = columns.with_more(np.maximum(low, 0), np.maximum(high, 0))
            lowers.append(lo)
            uppers.append(hi)
            valids.append(valid)
        y = self._forms(len(net.layers), values, columns)
        known = KnownLayers.of(columns, layers, valids)
        return BoundedBoxes(known, tuple(lowers), tuple(uppers), tuple(claims), self.steps.whole(y, columns))

    def _forms(self, k: int, values: Sequence[Value], columns: Columns) -> Forms:
        """The expressions of the pre-activations of layer k, from 0; of the output for the last."""
        affine, bias = (*self.net.layers, self.net.output)[k], self.biases[k]
        forms = self.steps.forms(affine.blocks, bias, values, columns)
        if not self.float32:
            return forms
        ((source, op),) = affine.blocks
        e, finite = float32_error(self.integers, self.steps.near(op), op.fan_in, bias, values[source].size)
        if not finite.all():
            raise RejectedError(f"layer {affine.name or k + 1} may overflow in float32")
        return Forms(forms.E, forms.beta, self.integers.narrow(forms.eps + e))

    def _walked(
        self,
        forms: Forms,
        lo: np.ndarray,
        hi: np.ndarray,
        crown: np.ndarray,
        layers: list[HiddenLayer],
        columns: Columns,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds by intervals, those with lo < 0 < hi in boxes of the rule crown tightened by a walk.

        A walk from the first layer ends where the interval does, so it is left out there.
        """
        index, valid = masked_index((lo < 0) & (hi > 0) & crown[:, None])
        m = index.shape[1]
        some = forms.at(index, valid)
        both = Forms(*(np.concatenate(pair, axis=1) for pair in (
            (some.E, -some.E), (some.beta, -some.beta), (some.eps, some.eps)
        )))  # fmt: skip
        V = walk(self.integers, both, layers, columns) >> self.integers.bits
        lo, hi = lo.copy(), hi.copy()
        for side, found, better in ((lo, V[:, :m], np.maximum), (hi, -V[:, m:], np.minimum)):
            known = np.take_along_axis(side, index, axis=1)
            tightened = self.integers.narrow(np.where(valid, better(known.astype(object), found), known))
            np.put_along_axis(side, index, tightened, axis=1)
        return lo, hi


def _input(integers: Integers, columns: Columns) -> Value:
    """The input: every entry is its own column."""
    batch, n = columns.lower.shape
    none = Forms(integers.zeros((batch, 0, 0)), integers.zeros((batch, 0)), integers.zeros((batch, 0)))
    index = np.broadcast_to(np.arange(n), (batch, n))
    size = np.maximum(np.abs(columns.lower), np.abs(columns.upper))
    return Value(size, index[:, :0], none, index, np.ones((batch, n), dtype=bool), 0)


def _value(
    forms: Forms, lo: np.ndarray, hi: np.ndarray, listed: np.ndarray, own: tuple[np.ndarray, np.ndarray, int]
) -> Value:
    """relu(zhat): columns where listed, expressions where active, else zero."""
    active = ~listed & (lo >= 0)
    index, valid = masked_index(active)
    size = np.where(active | listed, np.maximum(hi, 0), 0)
    return Value(size, index, forms.at(index, valid), *own)


def _layer_of(context: Context, k: int, size: int, net: Network, name: str) -> Layer:
    """What a context says about a layer."""
    if context.layers is None:
        return Layer()
    if len(context.layers) != len(net.layers):
        raise RejectedError(f"{name} has {len(context.layers)} layers, the network {len(net.layers)}")
    layer = context.layers[k]
    if layer.unstable is not None and len(layer.unstable) != size:
        raise RejectedError(f"{name} lists {len(layer.unstable)} neurons of layer {k + 1}, the network has {size}")
    return layer


def _listed(layer: Layer, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    return np.asarray((lo < 0) & (hi > 0) if layer.unstable is None else layer.unstable == 1, dtype=bool)


def _demand_stable(settled: np.ndarray, k: int, names: Sequence[str]) -> None:
    if not settled.all():
        box, neuron = (int(v) for v in np.argwhere(~settled.astype(bool))[0])
        raise RejectedError(f"{names[box]}: neuron {neuron} of layer {k + 1} is not listed as unstable and not stable")

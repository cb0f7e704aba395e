"""Certified radii: what every certificate returns, and what they all need of norms, inputs and labels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import numpy as np

from milpverify.bounds.compute import bound_rows, compute_bounds
from milpverify.bounds.method import Interval
from milpverify.errors import NetworkError, OptionError, PropertyError, UnsupportedError
from milpverify.network.arrays import array_namespace, device, to_host
from milpverify.network.graph import Bounds, Network
from milpverify.network.operators import Array
from milpverify.spec.batch import BoxBatch
from milpverify.spec.regions import L1Ball, L2Ball, LinfBall

Ball: TypeAlias = LinfBall | L1Ball | L2Ball
BALLS = (LinfBall, L1Ball, L2Ball)


class Exactness(Enum):
    """What the arithmetic behind a radius allows to claim.

    `FLOATING`: the formula evaluated in floating point, off by rounding either way. `ROUNDED`: every operation is
    rounded so that the exact radius is never exceeded.
    """

    FLOATING = "floating"
    ROUNDED = "rounded"


@dataclass(frozen=True, eq=False)
class CertifiedRadii:
    """Lower bounds of the distances to the nearest input that is not classified as its label.

    Every input strictly nearer than `value` has its label strictly on top, clipped or not.

    Attributes:
        value: Shape (batch,), in units of the input; 0 where the input itself is misclassified (a tie included), and
            infinite where no input at all can be.
        correct: Whether the label is strictly on top at the input, shape (batch,).
        exactness: What the arithmetic allows to claim.
    """

    value: Array
    correct: Array
    exactness: Exactness


def check_ball(who: str, ball: object) -> None:
    """Refuse what is no class of balls.

    Raises:
        OptionError: If it is none.
    """
    if ball not in BALLS:
        raise OptionError(f"{who}: {ball!r} is no ball. Choose LinfBall, L2Ball or L1Ball.")


def dual_norm(rows: Array, ball: type[Ball]) -> Array:
    """max of row . delta over ||delta|| <= 1 in the ball's norm, over the last axis. Floating, differentiable.

    The L1 norm for L-inf balls, the maximum for L1 balls, the L2 norm for itself; its gradient is 0 at a zero row.
    """
    xp = array_namespace(rows)
    if ball is LinfBall:
        return xp.sum(xp.abs(rows), axis=-1)
    if ball is L1Ball:
        return xp.max(xp.abs(rows), axis=-1)
    size = xp.abs(rows)
    top = xp.max(size if isinstance(size, np.ndarray) else size.detach(), axis=-1, keepdims=True)
    scale = xp.where((top > 0) & xp.isfinite(top), top, xp.ones_like(top))  # so that no square overflows or vanishes
    square = xp.sum((rows / scale) ** 2, axis=-1)
    positive = square > 0
    root = xp.sqrt(xp.where(positive, square, xp.ones_like(square)))
    return scale[..., 0] * xp.where(positive, root, square * 0.0)


def inputs(who: str, net: Network, x: Any) -> Array:
    """One input or a batch of them, shape (batch, n_inputs), in its own namespace and of the network's dtype.

    Raises:
        NetworkError: If the entries do not fit the network, or one is not finite.
        OptionError: If network and x are arrays of different libraries.
    """
    values = x if hasattr(x, "requires_grad") else np.asarray(x, dtype=np.float64)
    namespaces_agree(who, net, values)
    if not isinstance(values, np.ndarray):
        xp = array_namespace(values)
        values = xp.astype(values, next((a.dtype for a in net.arrays), xp.float64), copy=False)
    size = int(np.prod(values.shape))
    if not values.shape or not size or size % max(net.n_inputs, 1):
        raise NetworkError(
            f"{who}: the network reads {net.n_inputs} values (shape {net.input_shape}), got an array of shape "
            f"{tuple(values.shape)}. Pass one input, or a batch with one axis in front."
        )
    values = values.reshape((-1, net.n_inputs))
    if not bool(array_namespace(values).all(array_namespace(values).isfinite(values))):
        raise NetworkError(f"{who}: an input holds NaN or infinity. Replace it by finite numbers.")
    return values


def class_labels(who: str, net: Network, labels: Any, batch: int) -> np.ndarray:
    """One label per input, shape (batch,); a single one serves all.

    Raises:
        PropertyError: If a label is no output, their number does not fit, or there are fewer than two outputs.
    """
    given = np.asarray(to_host(labels) if hasattr(labels, "requires_grad") else labels)
    if given.dtype.kind not in "iu" or given.size not in (1, batch):
        raise PropertyError(f"{who}: expected {batch} integer labels, or one for all; got {given.size} {given.dtype}.")
    if net.n_outputs < 2:
        raise PropertyError(f"{who}: a margin needs two outputs, the network has {net.n_outputs}.")
    chosen = np.broadcast_to(given.reshape(-1), (batch,)).astype(int)
    wrong = chosen[(chosen < 0) | (chosen >= net.n_outputs)]
    if len(wrong):
        raise PropertyError(f"{who}: label {wrong[0]} of {net.n_outputs} outputs. Labels count from 0.")
    return chosen


def margin_rows(labels: np.ndarray, n_outputs: int, like: Array | None = None) -> Array:
    """The rows e_label - e_other, other = 0, 1, ... without the label; shape (batch, n_outputs - 1, n_outputs)."""
    others = np.array([[j for j in range(n_outputs) if j != label] for label in labels.tolist()], dtype=int)
    unit = np.eye(n_outputs)
    rows = unit[labels][:, None, :] - unit[others]
    return rows if like is None else array_namespace(like).asarray(rows, dtype=like.dtype, device=device(like))


def enclosed(net: Network, x: np.ndarray, rows: np.ndarray) -> tuple[Bounds, np.ndarray]:
    """Enclosures of all pre-activations at points, and lower bounds of rows . y there. Rounded.

    Args:
        net: numpy operators.
        x: Shape (batch, n_inputs).
        rows: Shape (batch, m, n_outputs).

    Returns:
        Bounds of shape (batch, n_k), and values of shape (batch, m).
    """
    region = BoxBatch(x, x)
    bounds = compute_bounds(net, region, Interval())
    return bounds, bound_rows(net, region, bounds, rows, Interval()).value


def need_plain_layers(who: str, net: Network, hidden: int) -> None:
    """Refuse a network that is not a chain of so many hidden layers.

    Raises:
        UnsupportedError: Naming what it has instead.
    """
    chain = all([s for s, _ in a.blocks] == [k] for k, a in enumerate((*net.layers, net.output)))
    if len(net.layers) != hidden or not chain:
        shape = f"{len(net.layers)} hidden layers{'' if chain else ' and skip connections'}"
        remedy = "simplex_certificate takes any network of ReLUs"
        raise UnsupportedError(f"{who}: needs a chain of {hidden} hidden layers, this network has {shape}; {remedy}.")


def numpy_twin(net: Network) -> Network:
    """The network with numpy operators, whatever its arrays are and whether or not gradients flow through them."""
    return net.map_arrays(lambda a: a if isinstance(a, np.ndarray) else to_host(a.detach()).astype(np.float64))


def numpy_inputs(who: str, net: Network, x: Any) -> np.ndarray:
    """`inputs` of what rounds outward, which numpy alone does.

    Raises:
        NetworkError, OptionError: As `inputs`; or if network or x are arrays of another library.
    """
    if hasattr(x, "requires_grad") or not all(isinstance(a, np.ndarray) for a in net.arrays):
        raise OptionError(
            f"{who}: works on numpy arrays only, which it rounds outward. Pass the network that net.to_torch() was "
            "made of, and x.detach().cpu().numpy()."
        )
    return np.asarray(inputs(who, net, x))


def namespaces_agree(who: str, net: Network, x: Array) -> None:
    """Refuse a numpy network with torch inputs, and the other way round.

    Raises:
        OptionError: With the remedy.
    """
    if any(isinstance(a, np.ndarray) != isinstance(x, np.ndarray) for a in net.arrays):
        raise OptionError(f"{who}: network and input are arrays of different libraries. Use net.to_torch() with torch.")

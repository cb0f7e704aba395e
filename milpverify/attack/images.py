"""Attacks on batches of inputs with labels, by the conventions of foolbox and torchattacks.

foolbox returns raw and clipped adversarials and a success mask; torchattacks returns the clipped ones. Radii are in
units of the network's own input, and a tie counts as success, as everywhere here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from milpverify.attack.deepfool import DeepFool, is_adversarial, length_of
from milpverify.attack.iterative_fgsm import check_norm
from milpverify.attack.method import Attack
from milpverify.attack.steps import Norm
from milpverify.errors import NetworkError, OptionError, PropertyError, RegionError
from milpverify.network.arrays import to_host
from milpverify.network.graph import Network
from milpverify.spec.property import robustness
from milpverify.spec.regions import LinfBall


@dataclass(frozen=True, eq=False)
class Adversarials:
    """What an attack made of a batch. Floating: only exact replay turns a point into a witness.

    Attributes:
        raw: The points as the attack left them, whatever eps, shape (batch, n_inputs).
        clipped: The same moved into ball and clip.
        success: Whether `clipped` has its label not strictly on top, or for a target is not below it, shape (batch,).
        distance: Of `clipped` from its input in the norm, shape (batch,); infinite without success.
    """

    raw: np.ndarray
    clipped: np.ndarray
    success: np.ndarray
    distance: np.ndarray


def attack_images(
    net: Network,
    x: Any,
    labels: Any,
    attack: Attack | DeepFool,
    *,
    eps: float | None = None,
    ball: Norm = LinfBall,
    clip: tuple[float, float] | None = None,
    targets: Any = None,
) -> Adversarials:
    """Attack every input of a batch. Floating.

    Args:
        net: The network, numpy operators.
        x: Inputs, any shape with n_inputs entries each; numpy or torch, the results are numpy.
        labels: One class per input, or one for all.
        attack: `DeepFool`, which needs no eps and is stopped by none, or any attack on a region.
        eps: Radius in units of the input; None only for `DeepFool`, whose clipped points are then its raw ones.
        ball: Of the norm of eps; `DeepFool` has its own.
        clip: Range of inputs, such as (0, 1).
        targets: One class per input that should come out on top of the label; any other class when None.

    Raises:
        NetworkError, PropertyError, RegionError, OptionError: If an argument does not fit.
    """
    check_norm("attack_images", ball)
    if not isinstance(attack, Attack | DeepFool):
        raise OptionError(f"attack_images: expected an attack such as DeepFool() or Pgd(), got {attack!r}.")
    x = _points(net, x)
    rows = _margins(net, labels, targets, len(x))
    low, high = (-np.inf, np.inf) if clip is None else clip
    if not np.less_equal(low, high).all():
        raise RegionError(f"attack_images: expected a clip (low, high), got ({low}, {high}). Give the range of inputs.")
    if (x < low).any() or (x > high).any():
        raise RegionError(f"attack_images: an input lies outside the clip [{low}, {high}]. Check the units.")
    if isinstance(attack, DeepFool):
        ball = attack.norm
        raw, _ = attack.search(net, x, rows, np.asarray(low), np.asarray(high))
        if eps is None:
            clipped = raw
        else:
            clipped = np.stack([ball(c, eps, clip=clip).project(p) for c, p in zip(x, raw, strict=True)])
    elif eps is None:
        raise OptionError("attack_images: this attack searches a ball. Give eps, or use DeepFool.")
    else:
        raw = clipped = np.stack(
            [_attacked(net, c, r, attack, ball(c, eps, clip=clip)) for c, r in zip(x, rows, strict=True)]
        )
    success = is_adversarial(net, clipped, rows)
    return Adversarials(raw, clipped, success, np.where(success, length_of(clipped - x, ball), np.inf))


def _attacked(net: Network, x: np.ndarray, rows: np.ndarray, attack: Attack, region: Any) -> np.ndarray:
    """The point of least slack over all targets."""
    label = int(rows[0].argmax())
    prop = robustness(net, region, label, [int(row.argmin()) for row in rows])
    results = attack.attack_all(net, prop.cases)
    return min(results, key=lambda result: result.slack).x


def _points(net: Network, x: Any) -> np.ndarray:
    if not all(isinstance(a, np.ndarray) for a in net.arrays):
        raise OptionError("attack_images: works on numpy operators. Pass the network that net.to_torch() was made of.")
    values = np.asarray(_on_host(x), dtype=np.float64)
    if not values.size or values.size % net.n_inputs:
        raise NetworkError(
            f"attack_images: the network reads {net.n_inputs} values (shape {net.input_shape}), got an array of shape "
            f"{values.shape}. Pass a batch of inputs."
        )
    if not np.isfinite(values).all():
        raise NetworkError("attack_images: an input holds NaN or infinity. Replace it by finite numbers.")
    return values.reshape(-1, net.n_inputs)


def _margins(net: Network, labels: Any, targets: Any, batch: int) -> np.ndarray:
    """Rows e_label - e_target, shape (batch, targets, n_outputs)."""
    unit = np.eye(net.n_outputs)
    label = _classes(net, labels, batch, "labels")
    if targets is not None:
        target = _classes(net, targets, batch, "targets")
        if (target == label).any():
            raise PropertyError("attack_images: a target is its input's own label. Give another class.")
        return (unit[label] - unit[target])[:, None, :]
    others = np.array([[t for t in range(net.n_outputs) if t != c] for c in label], dtype=int)
    if not others.size:
        raise PropertyError(f"attack_images: an attack needs two outputs, the network has {net.n_outputs}.")
    return np.asarray(unit[label][:, None, :] - unit[others])


def _classes(net: Network, values: Any, batch: int, what: str) -> np.ndarray:
    given = np.asarray(_on_host(values))
    if given.dtype.kind not in "iu" or given.size not in (1, batch):
        raise PropertyError(
            f"attack_images: expected {batch} integer {what}, or one for all; got {given.size} {given.dtype}."
        )
    chosen = np.broadcast_to(given.reshape(-1), (batch,)).astype(int)
    wrong = chosen[(chosen < 0) | (chosen >= net.n_outputs)]
    if len(wrong):
        raise PropertyError(f"attack_images: {what} must lie in 0..{net.n_outputs - 1}, got {wrong[0]}.")
    return chosen


def _on_host(values: Any) -> Any:
    """A torch tensor as numpy, whether or not gradients flow through it; anything else as it is."""
    return to_host(values.detach()) if hasattr(values, "requires_grad") else values

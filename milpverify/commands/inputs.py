"""The clean input: read from a file, in the right space, with its label."""

from __future__ import annotations

import argparse
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from milpverify.errors import InputError, OptionError, PropertyError
from milpverify.network.from_onnx import from_onnx
from milpverify.network.graph import Network

CHECKED_INPUTS = 16
FEWEST_PIXELS = 64  # an image of fewer, with whole numbers, may as well be a table of anything


@dataclass(frozen=True, eq=False)
class Point:
    """An input and its label.

    Attributes:
        x: In the units the network (normalisation folded in, if it was) reads; shape (n_inputs,).
        label: The class that should win.
        predicted: The class that does (float64); the first of several that tie.
        wins: Whether the label's output is strictly the largest.
        given: Whether the label was given, or does not matter to the command; else it is the predicted one.
        clip: Range of valid inputs in the units of x, or None.
    """

    x: np.ndarray
    label: int
    predicted: int
    wins: bool
    given: bool
    clip: Any

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader should know about the clean input; empty if nothing."""
        about_label = ""
        if self.predicted != self.label:
            about_label = f"misclassified: predicted {self.predicted}, label {self.label}"
        elif not self.wins:
            about_label = f"the input itself is a tie: label {self.label} is not strictly the largest output"
        elif not self.given:
            about_label = f"no --label given: using the predicted class {self.label}"
        about_units = ""
        # Raw bytes given to a network that reads [0, 1] are the commonest slip, and the answers look good.
        if self.clip is None and len(self.x) >= FEWEST_PIXELS and 1 < self.x.max() <= 255 and self.x.min() >= 0:
            if (self.x == self.x.round()).all():
                about_units = f"the input holds whole numbers up to {self.x.max():g}: eps is in these units too"
        return tuple(text for text in (about_label, about_units) if text)

    def to_dict(self) -> dict[str, Any]:
        """`label`, `label_given`, `predicted`, `misclassified`."""
        return {
            "label": self.label,
            "label_given": self.given,
            "predicted": self.predicted,
            "misclassified": not self.wins,
        }


def read_network(args: argparse.Namespace, path: str) -> Network:
    """NET, compared with onnxruntime if that was asked for.

    Raises:
        InputError: If it is no ONNX file; what is commonly given in its place is told apart by its suffix.
    """
    if path.endswith((".pt", ".pth", ".pt2")):
        raise InputError(f"{args.command}: {path} is a PyTorch file, expected ONNX. Export it with torch.onnx.export.")
    if path.endswith((".vnnlib", ".vnnlib.gz")):
        raise InputError(f"{args.command}: {path} is a property, expected the network. Give NET first, then PROP.")
    return from_onnx(path, check=CHECKED_INPUTS if args.check_import else 0)


def read_point(args: argparse.Namespace, path: str) -> tuple[Network, Point]:
    """The network (with the normalisation folded in, if that was asked for), and the input with its label.

    Raises:
        InputError: If something cannot be read or does not fit together.
    """
    net = read_network(args, path)
    values = read_input(args.input, net.n_inputs, args.key, args.index)
    x = net.flat(values)
    _check_axes(args.input, values.shape, net.input_shape)
    net, x, clip = _normalised(args, net, x)
    y = net.forward(x)
    predicted = int(np.argmax(y))
    label = predicted if args.label is None else args.label
    if not 0 <= label < net.n_outputs:
        raise PropertyError(f"--label {label}: the network has {net.n_outputs} classes. Give 0 to {net.n_outputs - 1}.")
    wins = bool((np.delete(y, label) < y[label]).all())
    return net, Point(x, label, predicted, wins, args.unlabelled or args.label is not None, clip)


def described(args: argparse.Namespace, point: Point) -> dict[str, Any]:
    """The options about the input and its ball, and the label, JSON-ready."""
    names = ("key", "index", "norm", "clip", "mean", "std", "eps_space", "targets")
    given = {name: getattr(args, name) for name in names}
    return {"input": str(args.input), **given, **described_grid(args), **point.to_dict()}


def described_grid(args: argparse.Namespace) -> dict[str, Any]:
    """`grid`: its steps; nothing where every input counts."""
    return {} if args.grid is None else {"grid": args.grid}


def read_input(path: Path, n_inputs: int, key: str | None = None, index: int | None = None) -> np.ndarray:
    """One input from a file.

    Args:
        path: .npy, .npz (`key` names the array), .txt or .csv (numbers between commas or blanks).
        n_inputs: Entries of one input.
        key, index: Which array, and which entry along its first axis.

    Returns:
        The chosen array, any shape; float64.

    Raises:
        InputError: If the file cannot be read, or does not hold one input.
    """
    try:
        array = np.asarray(_read_array(path, key))
    except FileNotFoundError:
        raise InputError(f"--input: no file {path}. Check the path.") from None
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"--input: {path} does not read as numbers ({reason}). Give .npy, .npz, .txt or .csv."
        ) from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"--input: {path} holds values of type {array.dtype}, expected real numbers. Convert it.")
    values = array.astype(np.float64)
    if index is not None:
        if values.ndim == 0 or not 0 <= index < len(values):
            raise InputError(f"--index {index}: {path} has shape {values.shape}. Give a position along its first axis.")
        values = values[index]
    elif values.ndim > 1 and values.size == len(values) * n_inputs and len(values) > 1:
        raise InputError(f"--input: {path} holds {len(values)} inputs, shape {values.shape}. Choose one with --index.")
    return values


def _check_axes(path: Path, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Refuse an array of the right size with other axes: most likely channels last, and so another input."""
    axes, expected = ([n for n in s if n != 1] for s in (shape, wanted))
    if len(axes) > 1 and axes != expected:
        remedy = "Transpose it, or flatten it in that order."
        if len(expected) == 1:
            remedy = "Flatten it in the order the network was trained on, e.g. x.reshape(-1)."
        raise InputError(f"--input: {path} has shape {shape}, the network reads {wanted}. {remedy}")


def _read_array(path: Path, key: str | None) -> Any:
    if path.suffix in (".txt", ".csv"):
        return np.array(path.read_text(encoding="utf-8").replace(",", " ").split(), dtype=np.float64)
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        return loaded
    with loaded as arrays:
        if key is None and len(arrays.files) != 1:
            raise InputError(f"--input: {path} holds the arrays {arrays.files}. Choose one with --key.")
        chosen = arrays.files[0] if key is None else key
        if chosen not in arrays.files:
            raise InputError(f"--key {chosen}: {path} holds the arrays {arrays.files}. Choose one of them.")
        return arrays[chosen]


def _normalised(args: argparse.Namespace, net: Network, x: np.ndarray) -> tuple[Network, np.ndarray, Any]:
    """Network, input and clip in one space; the input file always holds raw pixels."""
    clip = None if args.clip is None else tuple(args.clip)
    if args.mean is None and args.std is None:
        if args.eps_space is not None:
            raise OptionError("--eps-space: without --mean and --std, eps is in the network's own units. Leave it out.")
        return net, x, clip
    if args.mean is None or args.std is None or args.eps_space is None:
        raise OptionError(
            "--mean, --std and --eps-space go together: is eps in units of the raw pixels, or of the normalised input? "
            "Give all three."
        )
    if args.grid is not None and args.eps_space == "input":
        raise OptionError("--grid: k/STEPS are raw pixels, not normalised inputs. Give --eps-space pixel.")
    from milpverify.network.normalise import fold_normalisation

    mean, std = (np.array(v) if len(v) > 1 else np.array(v[0]) for v in (args.mean, args.std))
    folded = fold_normalisation(net, mean, std)  # checks both
    if args.eps_space == "pixel":
        return folded, x, clip
    shape = net.input_shape
    offset, spread = (_per_entry(v, shape) for v in (mean, std))
    if clip is not None:
        clip = tuple((np.full(net.n_inputs, side) - offset) / spread for side in clip)
    return net, (x - offset) / spread, clip


def _per_entry(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One number per input entry: one for all, one per channel (axis 1), or as many as entries."""
    if values.size in (1, int(np.prod(shape))):
        return np.broadcast_to(values.reshape(-1), int(np.prod(shape))).copy()
    per_channel = values.reshape(1, -1, *[1] * (len(shape) - 2)) if len(shape) > 1 else values
    return np.broadcast_to(per_channel, shape).reshape(-1).copy()

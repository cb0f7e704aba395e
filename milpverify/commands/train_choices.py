"""The strings of `train` turned into data, modules, losses and a trainer."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milpverify.commands.image_options import image_sets, norm_of
from milpverify.errors import OptionError

if TYPE_CHECKING:
    from torch import nn

    from milpverify.training.datasets import ImageSet
    from milpverify.training.losses import Loss, Penalty
    from milpverify.training.projection import RandomProjections
    from milpverify.training.trainer import Trainer

DUAL, STANDARD = ("dual", "dual-hinge"), "standard"
LOSS_NAMES = (STANDARD, "pgd", "interval", *DUAL)


def data(args: argparse.Namespace) -> tuple[ImageSet, ImageSet]:
    """Training and test images.

    Raises:
        InputError: If they cannot be read.
    """
    train, test = image_sets(args.data, args.seed, "digits or idx:FOLDER")
    return train.first(args.images), test


def model(args: argparse.Namespace, images: ImageSet, n_classes: int) -> nn.Module:
    """The module with its first weights.

    Args:
        args: Options.
        images: What it will read.
        n_classes: How many outputs it needs; the first images of a set can lack a class.

    Raises:
        OptionError: If it cannot be made.
    """
    from milpverify.training.models import mlp, wong_small

    text: str = args.model
    if text == "wong-small":
        return wong_small(images.input_shape, n_classes, args.seed)
    if re.fullmatch(r"mlp:[0-9]+(-[0-9]+)*", text):
        widths = [int(n) for n in text.removeprefix("mlp:").split("-")]
        return mlp(images.input_shape, widths, n_classes, args.seed)
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise OptionError(f"--model: expected mlp:100-100, wong-small or file.py:NAME, got '{text}'. Name one of them.")
    return _from_file(Path(path), name, (images.input_shape, n_classes), args.seed)


def _from_file(path: Path, name: str, wanted: tuple[tuple[int, ...], int], seed: int) -> nn.Module:
    """What the function `name` of a Python file makes of the shape of an image and the number of classes."""
    import torch

    from milpverify.training.twin import Twin

    if not path.is_file():
        raise OptionError(f"--model: there is no file {path}. Check the path.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # the suffix is .py
    code = importlib.util.module_from_spec(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            spec.loader.exec_module(code)
            if not hasattr(code, name):
                raise OptionError(f"--model: {path} defines no {name}. Check the name.")
            made: Any = getattr(code, name)(*wanted)
        except OptionError:
            raise
        except Exception as error:  # whatever the user's code raises
            kind = type(error).__name__
            raise OptionError(f"--model: {path} failed ({kind}: {error}). Run it alone to find out why.") from None
    if not isinstance(made, torch.nn.Module):
        raise OptionError(f"--model: {name} of {path} gave {type(made).__name__}, expected an nn.Module. Return one.")
    outputs = Twin(made, wanted[0]).form.n_outputs
    if outputs < wanted[1]:
        raise OptionError(f"--model: {name} of {path} has {outputs} outputs for {wanted[1]} classes. Give one a class.")
    return made


def loss(args: argparse.Namespace) -> Loss:
    """What is minimised.

    Raises:
        OptionError: If the loss has no clean share or it is out of range, or an option is about another loss.
    """
    from milpverify.training.losses import AdversarialLoss, DualLoss, IntervalLoss, StandardLoss

    share: float | None = args.clean_share
    if args.tightness is not None and args.loss not in DUAL:
        raise OptionError(
            f"--tightness: the indicators are about the dual bound, not the {args.loss} loss. Leave it out."
        )
    if args.projections is not None and args.loss not in DUAL:
        raise OptionError(f"--projections: they estimate the dual bound, not the {args.loss} loss. Leave them out.")
    if args.loss == STANDARD:
        if share is not None:
            raise OptionError("--clean-share: the standard loss is at clean images only. Leave it out.")
        return StandardLoss()
    if args.loss in DUAL:
        hinge, share = args.loss == "dual-hinge", 0.0 if share is None else share
        return DualLoss(hinge, share, penalties=_penalties(args), projection=_projection(args))
    half = 0.5 if share is None else share
    return AdversarialLoss(clean_share=half) if args.loss == "pgd" else IntervalLoss(clean_share=half)


def _penalties(args: argparse.Namespace) -> tuple[Penalty, ...]:
    """The tightness term, which grows with the radius."""
    from milpverify.training.tightness import TightnessPenalty

    if args.tightness is None:
        return ()
    weight_d, weight_r = args.tightness
    return (TightnessPenalty(weight_d, weight_r, args.wait, args.ramp),)


def _projection(args: argparse.Namespace) -> RandomProjections | None:
    """The random columns that estimate bounds."""
    from milpverify.training.projection import RandomProjections

    return None if args.projections is None else RandomProjections(args.projections)


def trainer(args: argparse.Namespace) -> Trainer:
    """How it is trained.

    Raises:
        OptionError: If an option is out of range.
    """
    from milpverify.training.schedule import EpsSchedule
    from milpverify.training.trainer import Trainer

    eps = args.eps or 0.0
    growing = args.wait or args.ramp
    return Trainer(
        loss(args),
        EpsSchedule(eps, 0.0 if growing else eps, args.wait, args.ramp),
        norm_of(args),
        epochs=args.epochs,
        batch_size=args.batch,
        learning_rate=args.learning_rate,
        halve_every=args.halve_every,
        patience=args.patience,
        seed=args.seed,
        device=args.device,
    )

"""What is asked: the network, the input or property, and the region, read from files and options."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from typing import Any

from milpverify.commands.inputs import Point, described, read_network, read_point
from milpverify.commands.options import ball_class, chosen_grid
from milpverify.errors import OptionError, PropertyError
from milpverify.network.graph import Network
from milpverify.spec.property import Property, robustness
from milpverify.spec.regions import Grid, Region


@dataclass(frozen=True, eq=False)
class Question:
    """A network and what is asked about it.

    Attributes:
        net: The network.
        path: Its file.
        began: When the command began, on `time.monotonic`: what the time limit counts from.
        prop: The property; None where only a region or a point was asked about.
        region: The input region; None where the property has several, or none was given.
        point: The clean input, where one was given.
        described: The question, JSON-ready.
    """

    net: Network
    path: str
    began: float
    prop: Property | None = None
    region: Region | None = None
    point: Point | None = None
    described: dict[str, Any] = field(default_factory=dict)

    def time_left(self, args: argparse.Namespace) -> float | None:
        """What --timeout leaves after reading; never 0, so that running out is an answer and not an error."""
        return None if args.timeout is None else max(args.timeout - (time.monotonic() - self.began), 1e-3)

    def one_property(self) -> Property:
        """The property, which the caller knows to be there."""
        assert self.prop is not None
        return self.prop

    def one_region(self) -> Region:
        """The region.

        Raises:
            PropertyError: If the property has several.
        """
        if self.region is None:
            raise PropertyError(
                f"{self.described.get('property')}: the property has several input regions. "
                "Write one property per region, or give --input and --eps."
            )
        return self.region


def names(args: argparse.Namespace, least: int, most: int, wanted: str) -> list[str]:
    """The files given, if their number is right.

    Raises:
        OptionError: If not.
    """
    if not least <= len(args.files) <= most:
        got = " ".join(args.files) or "none"
        raise OptionError(f"{args.command}: expected {wanted}, got {got}. See 'milpverify {args.command} --help'.")
    return list(args.files)


def ask(args: argparse.Namespace, files: list[str], *, classes: bool = True) -> Question:
    """Read NET and either PROP or the options about an input and a ball.

    Args:
        args: Parsed options.
        files: NET and perhaps PROP.
        classes: Whether the question is about the label; False for one about the region alone.

    Raises:
        InputError: If something cannot be read or does not fit together.
    """
    if len(files) > 1:
        return _about_property(args, files)
    if args.input is None:
        raise OptionError(f"{args.command}: nothing to ask. Give a property file PROP, or --input with --eps.")
    if args.eps is None:
        raise OptionError(f"{args.command}: --input needs --eps, the radius of the ball around it.")
    net, point = read_point(args, files[0])
    region = ball_class(args.norm)(point.x, args.eps, clip=point.clip, grid=chosen_grid(args))
    several = net.n_outputs > 1
    if classes and not several:
        raise PropertyError(f"{args.command}: a network with one output has no classes. Give a property file PROP.")
    prop = robustness(net, region, point.label, args.targets) if several else None
    return Question(net, files[0], args.began, prop, region, point, {"eps": args.eps, **described(args, point)})


def read_property(path: str, net: Network, grid: Grid | None = None) -> Property:
    """A property: .json as `Property.save` writes it, else VNN-LIB; of a grid's points only, where one is given.

    Raises:
        PropertyError: If it cannot be read or does not fit the network.
        RegionError: If a region has no point of the grid, or another grid.
    """
    from milpverify.spec.property import load_property
    from milpverify.spec.vnnlib import read_vnnlib
    from milpverify.tasks.prepare import check_fit

    if not path.endswith(".json"):
        return read_vnnlib(path, net, grid)
    prop = load_property(path)
    check_fit("load_property", net, prop)
    return prop if grid is None else prop.on_grid(grid)


def _about_property(args: argparse.Namespace, files: list[str]) -> Question:
    if files[1].endswith((".npy", ".npz", ".csv")):
        raise OptionError(
            f"{args.command}: {files[1]} is an input, expected a property. Give it as --input {files[1]}."
        )
    given = [f"--{name.replace('_', '-')}" for name in ("input", "eps", "label", "targets", "clip", "mean", "std")
             if getattr(args, name, None) is not None]  # fmt: skip
    if given:
        raise OptionError(
            f"{args.command}: {files[1]} states the region and the outputs. Drop it, or drop {', '.join(given)}."
        )
    net = read_network(args, files[0])
    prop = read_property(files[1], net, chosen_grid(args))
    regions = {id(case.region): case.region for case in prop.cases}
    region = next(iter(regions.values())) if len(regions) == 1 else None
    facts: dict[str, Any] = {"property": files[1], "cases": len(prop.cases)}
    grids = [region.grid.steps for region in regions.values() if region.grid is not None]
    if grids:
        facts["grid"] = grids[0]
    return Question(net, files[0], args.began, prop, region, None, facts)

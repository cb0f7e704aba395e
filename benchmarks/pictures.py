"""Pictures of exact things, each with its numbers; files are .svg, .pdf, .png, or .gif for the animation.

    python benchmarks/pictures.py acas-map --out acas.pdf         an advisory for every intruder's place: ACAS Xu
    python benchmarks/pictures.py mnist-slice --out slice.pdf     the margin around a digit, and certified balls
    python benchmarks/pictures.py figure5 --out figure5.pdf       two decision maps: standard and robust training
    python benchmarks/pictures.py animation --out growing.gif     the exact polytope and its relaxations over eps

--dark draws on dark paper; --help of each command tells the rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from data import mnist_test, need

import milpverify as mv
from milpverify.errors import MilpverifyError
from milpverify.polytope.plot_outline import Panel
from milpverify.polytope.plot_style import DARK, LIGHT, Theme, check_figure, save_figure

# Inputs of ACAS Xu in their units, with the mean and range that its networks expect to be normalised by.
INPUTS = {
    "rho": ("distance to the intruder (ft)", 19791.091, 60261.0, (0.0, 60760.0)),
    "theta": ("angle to the intruder (rad, counter-clockwise)", 0.0, 6.28318530718, (-3.141592, 3.141592)),
    "psi": ("heading of the intruder (rad, counter-clockwise)", 0.0, 6.28318530718, (-3.141592, 3.141592)),
    "v-own": ("own speed (ft/s)", 650.0, 1100.0, (100.0, 1200.0)),
    "v-int": ("speed of the intruder (ft/s)", 600.0, 1200.0, (0.0, 1200.0)),
}
ADVISORIES = ("clear of conflict", "weak left", "weak right", "strong left", "strong right")
RADII_METHODS = (
    ("interval", mv.Interval()),
    ("fastlin", mv.FastLin()),
    ("crown", mv.Crown()),
    ("lp", mv.TriangleLP()),
)
BISECTIONS = 14  # of a certified radius: to 1/16,000 of the exact one


def acas_map(arguments: argparse.Namespace, theme: Theme) -> None:
    """The advised action over two inputs: the least of five scores."""
    first, second = arguments.free
    if first == second:
        raise SystemExit("acas-map: --free needs two different inputs.")
    file = need("acasxu", "onnx", f"ACASXU_run2a_{arguments.net}_batch_2000.onnx")
    mean, spread = (np.array([INPUTS[name][k] for name in INPUTS]) for k in (1, 2))
    net = mv.fold_normalisation(mv.from_onnx(file), mean, spread)
    lower, upper = (np.array([getattr(arguments, name.replace("-", "_")) for name in INPUTS]) for _ in range(2))
    for name in (first, second):
        place = list(INPUTS).index(name)
        lower[place], upper[place] = INPUTS[name][3]
    began = time.perf_counter()
    regions = mv.linear_regions(net, mv.Box(lower, upper))
    decided = mv.decision_map(regions, -np.eye(5))
    seconds = time.perf_counter() - began
    others = ", ".join(
        f"{name} {getattr(arguments, name.replace('-', '_')):g}" for name in INPUTS if name not in (first, second)
    )
    s, t = (INPUTS[name][0] for name in sorted((first, second), key=list(INPUTS).index))
    wording = mv.Wording(f"ACAS Xu {arguments.net}: advisories, {others}", s, t, ADVISORIES)
    save_figure(mv.plot_regions(decided, wording=wording, theme=theme), arguments.out)
    print(f"{len(regions)} linear regions, {len(decided.boundary)} boundary segments in {seconds:.2f} s")
    for name, area in zip(ADVISORIES, decided.areas, strict=True):
        print(f"{name:<18}{100.0 * area / regions.area:8.3f} %")


def certified_radius(net: mv.Network, x: np.ndarray, rows: np.ndarray, method: mv.BoundMethod, most: float) -> float:
    """The largest eps found by bisection at which a method proves all rows positive: proven, and a lower bound."""
    low, high = 0.0, most
    for _ in range(BISECTIONS):
        eps = (low + high) / 2
        ball = mv.LinfBall(x, eps)
        bounds = mv.compute_bounds(net, ball, method)
        if (mv.bound_rows(net, ball, bounds, rows, method).value > 0).all():
            low = eps
        else:
            high = eps
    return low


def mnist_slice(arguments: argparse.Namespace, theme: Theme) -> None:
    """The plane through a digit and its nearest adversarial examples of two classes."""
    net, (images, labels) = mv.from_onnx(need(*arguments.net.split("/"))), mnist_test()
    x, label = images[arguments.image], int(labels[arguments.image])
    nearest = mv.minimum_epsilon(net, x, label, eps_max=1.0, time_limit_s=arguments.timeout)
    if nearest.witness is None or not nearest.lower > 0:
        raise SystemExit(f"mnist-slice: no adversarial example in {arguments.timeout:g} s, or a misclassified image.")
    rival = int(np.delete(nearest.witness.y, label).argmax())
    rival += rival >= label
    second = min(
        (
            mv.minimum_epsilon(
                net, x, label, targets=(k,), eps_max=4.0 * nearest.upper, time_limit_s=arguments.timeout / 8
            )
            for k in range(10)
            if k not in (label, rival)
        ),
        key=lambda bracket: bracket.upper,
    )
    if second.witness is None:
        raise SystemExit("mnist-slice: no adversarial example of a second class. Choose another image.")
    u, towards = nearest.witness.x - x, second.witness.x - x
    u = u / np.abs(u).max()
    v = towards - (towards @ u) / (u @ u) * u
    v = v / np.abs(v).max()
    places = [np.linalg.lstsq(np.array([u, v]).T, w.x - x, rcond=None)[0] for w in (nearest.witness, second.witness)]
    reach = arguments.wide * max(nearest.upper, float(np.abs(places[1]).max()))
    corners = reach * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    rows = np.eye(10)[label] - np.delete(np.eye(10), label, axis=0)
    balls = []
    print(f"{'exact':<10}{nearest.lower:.6f} to {nearest.upper:.6f}")
    for name, method in RADII_METHODS:
        radius = certified_radius(net, x, rows, method, nearest.upper)
        print(f"{name:<10}{radius:.6f} ({100.0 * radius / nearest.upper:.1f} % of the exact one)", flush=True)
        balls.append(mv.BallOutline(f"{theme.label(name)}: ε = {radius:.4f}", radius, name))
    balls.append(mv.BallOutline(f"exact: ε = {nearest.lower:.4f}", nearest.lower, "exact"))
    began = time.perf_counter()
    regions = mv.linear_regions(net, mv.InputSlice(x, np.array([u, v]), corners))
    print(f"{len(regions)} linear regions in {time.perf_counter() - began:.2f} s")
    marks = [mv.Mark(f"image {arguments.image}", (0.0, 0.0), left=True)]
    for place, bracket in zip(places, (nearest, second), strict=True):
        classes = np.delete(np.arange(10), label)
        seen = int(classes[np.delete(bracket.witness.y, label).argmax()])
        marks.append(mv.Mark(f"seen as {seen}", (float(place[0]), float(place[1])), "X"))
    wording = mv.Wording(
        f"{arguments.net}: margin of class {label}",
        "towards the nearest adversarial example (largest change of a pixel)",
        "at right angles, towards that of a second class",
    )
    figure = mv.plot_margin(regions, label, balls=balls, marks=marks, wording=wording, theme=theme)
    save_figure(figure, arguments.out)


def figure5(arguments: argparse.Namespace, theme: Theme) -> None:
    """Two networks on fifty points."""
    from robust_2d import Recipe, contest, draw

    recipe = Recipe(steps=arguments.steps, seed=arguments.seed)
    points, labels, found = contest(recipe)
    save_figure(draw(recipe, points, labels, found, theme), arguments.out)


def animation(arguments: argparse.Namespace, theme: Theme) -> None:
    """A random network around the origin."""
    from polytope import random_network

    radii = np.linspace(0.0, arguments.eps, arguments.frames + 1)[1:]
    began = time.perf_counter()

    def tell(i: int, panel: Panel) -> None:
        exact = 0.0 if panel.exact is None else panel.exact.area
        areas = ", ".join(f"{found.name} {found.area:.4g}" for found in panel.outlines)
        print(f"{panel.title}: exact {exact:.4g}, {areas}; {time.perf_counter() - began:.1f} s", flush=True)

    mv.animate_polytope(
        random_network(arguments.seed), mv.LinfBall(np.zeros(2), arguments.eps), radii.tolist(), arguments.out,
        (mv.TriangleLP(), mv.AlphaCrown(), mv.Crown(), mv.FastLin()), animation=mv.Animation(theme=theme),
        on_frame=tell,
    )  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True)

    def add(
        name: str, run: object, text: str, suffixes: tuple[str, ...] = (".svg", ".pdf", ".png")
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--out", type=Path, required=True, help=f"a {', '.join(suffixes)} file")
        command.add_argument("--dark", action="store_true", help="on dark paper")
        command.set_defaults(run=run, suffixes=suffixes)
        return command

    acas = add("acas-map", acas_map, "The least of ACAS Xu's five scores over two of its inputs, exact.")
    acas.add_argument("--net", default="1_1", help="which of the 45 networks (default 1_1)")
    acas.add_argument("--free", nargs=2, choices=list(INPUTS), default=("theta", "psi"), help="(default theta psi)")
    for name, value in (("rho", 8000.0), ("theta", 0.0), ("psi", 1.570796), ("v-own", 600.0), ("v-int", 600.0)):
        acas.add_argument(
            f"--{name}", type=float, default=value, help=f"{INPUTS[name][0]}, where fixed (default {value:g})"
        )
    digit = add("mnist-slice", mnist_slice, "The margin over the plane through a digit and two adversarial examples.")
    digit.add_argument("--net", default="mlp/mlp50.onnx", help="below the benchmark data (default %(default)s)")
    digit.add_argument("--image", type=int, default=0, help="of the MNIST test set (default 0)")
    digit.add_argument("--wide", type=float, default=1.4, help="half the side, in the farther example (default 1.4)")
    digit.add_argument("--timeout", type=float, default=120.0, help="seconds for the nearest example (default 120)")
    five = add("figure5", figure5, "Wong & Kolter 2018, figure 5: decision maps with balls around fifty points.")
    five.add_argument("--steps", type=int, default=1500, help="of training (default %(default)s)")
    five.add_argument("--seed", type=int, default=0, help="(default 0)")
    grow = add("animation", animation, "The set of outputs of a 2-100-100-100-100-2 network as eps grows.", (".gif",))
    grow.add_argument("--eps", type=float, default=0.25, help="of the last frame (default 0.25)")
    grow.add_argument("--frames", type=int, default=25, help="(default 25)")
    grow.add_argument("--seed", type=int, default=0, help="of the network (default 0)")
    return top


def main() -> int:
    """Draw one picture."""
    arguments = parser().parse_args()
    try:
        check_figure(arguments.out, arguments.suffixes)
        arguments.run(arguments, DARK if arguments.dark else LIGHT)
    except MilpverifyError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

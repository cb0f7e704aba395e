"""Bounds beside those of auto_LiRPA 0.3: the same networks, boxes, rows and methods, in turn, on one core.

    python benchmarks/vs_auto_lirpa.py                              every network and method, a few minutes
    python benchmarks/vs_auto_lirpa.py mlp50 --methods crown        one network, one method
    python benchmarks/vs_auto_lirpa.py --float32                    auto_LiRPA in its default precision

auto_LiRPA is no dependency of this package. It asks for torch below 1.13 and runs with a current one, so install it by
hand, in an environment of its own that holds this package too:

    pip install -c constraints.txt torch onnx && pip install -c constraints.txt --no-deps auto_LiRPA
    pip install -c constraints.txt appdirs tqdm && pip install -c constraints.txt -e .

`allow_current_libraries` puts back the five names that torch and numpy have dropped since; it touches no mathematics.

Methods:
    ibp         Intervals, rows through the last affine map. Ours: Interval. Theirs: IBP.
    crown       Backward with intervals first: only neurons that intervals leave open are bounded backward. Ours: Crown,
                which meets the two. Theirs: CROWN, whose sparse intermediate bounds do the same without meeting them,
                and which bounds a whole layer where more than 90 % of it is open.
    alpha-last  Intermediate bounds by CROWN, then alpha steps on the rows alone. Ours: Crown, then AlphaCrown for the
                rows. Theirs: init_slope, then CROWN-Optimized with those intermediate bounds held.
    alpha       Alpha steps on intermediate bounds too. Ours: AlphaCrown for both. Theirs: init_slope, then
                CROWN-Optimized, which optimises the slopes of all layers jointly.
                The ascent is theirs by default: Adam, rate 0.5, decay 0.98, a slope per row and unstable neuron (within
                a channel of a convolution shared, where more than 512 of its neurons are open), the best of each row.

Both sides compute lower bounds of the margins alone (rows e_label - e_other), float64 unless --float32. Ours are
rounded outward; theirs are plain floating point. Timed is the bound computation, region and rows given, models
converted; each side is called once before. Every question is timed --repeat times, the sides in turn.

Columns: median seconds over questions and repeats; their ratio (below 1: ours is faster); the lower bounds, ours minus
theirs, least and mean over all rows (positive: ours is tighter); unstable neurons of each layer, mean over questions.
Exit status 1 if a bound of ibp or crown is looser by more than 1e-4 max(1, |bound|); 2 if something needed is absent.
Alpha ascent is a heuristic on both sides: a row may go either way, and a negative `least` there is no failure.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from auto_lirpa_side import Answer, Question, Theirs, import_theirs, torch_module
from data import mnist_test, need

import milpverify as mv

TOLERANCE = 1e-4
METHODS = ("ibp", "crown", "alpha-last", "alpha")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

Ask = Callable[[Question], Answer]


def mnist_balls(net: mv.Network, eps: float, indices: tuple[int, ...]) -> Iterator[Question]:
    """Balls around MNIST test images, clipped to [0, 1]."""
    images, labels = mnist_test()
    for index in indices:
        yield Question.of(mv.robustness(net, mv.LinfBall(images[index], eps, clip=(0, 1)), int(labels[index])))


def mlp50(net: mv.Network) -> Iterator[Question]:
    """Test images 0 to 9 at eps 0.03."""
    return mnist_balls(net, 0.03, tuple(range(10)))


def mnist_fc(net: mv.Network) -> Iterator[Question]:
    """The published instances at eps 0.03."""
    for number in range(0, 16, 2):
        yield Question.of(mv.load_property(need("mnist_fc", "vnnlib", f"prop_{number}_0.03.vnnlib")))


def wk17a(net: mv.Network) -> Iterator[Question]:
    """Test images at eps 0.1, the three of benchmarks/wk17a.py first."""
    return mnist_balls(net, 0.1, (8, 18, 115, 0, 2, 4))


SUITES: dict[str, tuple[tuple[str, ...], Callable[[mv.Network], Iterator[Question]]]] = {
    "mlp50": (("mlp", "mlp50.onnx"), mlp50),
    "mnist_fc": (("mnist_fc", "onnx", "mnist-net_256x4.onnx"), mnist_fc),
    "wk17a": (("mipverify_nets", "wk17a_mnist_linf0.1.onnx"), wk17a),
}


def ours(net: mv.Network, method: str, steps: int) -> Ask | None:
    """Our side of a method; None if this version of the package does not have it."""
    alpha: Any = getattr(mv, "AlphaCrown", None)
    if method.startswith("alpha") and alpha is None:
        return None
    crown = mv.Crown()
    hidden, last = {
        "ibp": lambda: (mv.Interval(), mv.Interval()),
        "crown": lambda: (crown, crown),
        "alpha-last": lambda: (crown, alpha(steps=steps)),
        "alpha": lambda: (alpha(steps=steps), alpha(steps=steps)),
    }[method]()

    def ask(question: Question) -> Answer:
        bounds = mv.compute_bounds(net, question.region, hidden)
        return Answer(mv.bound_rows(net, question.region, bounds, question.rows, last).value, bounds.n_unstable)

    return ask


@dataclass(frozen=True)
class Line:
    """What one network and method gave; arrays run over questions and repeats, or over all rows."""

    seconds: tuple[np.ndarray, np.ndarray]
    lower: tuple[np.ndarray, np.ndarray]
    unstable: tuple[np.ndarray, np.ndarray]

    @property
    def gain(self) -> np.ndarray:
        """Our bounds minus theirs, per row."""
        return self.lower[0] - self.lower[1]

    @property
    def looser(self) -> bool:
        """Whether a bound of ours is looser than the tolerance allows, or NaN."""
        return not (self.gain >= -TOLERANCE * np.maximum(1.0, np.abs(self.lower[1]))).all()

    def __str__(self) -> str:
        a, b = (float(np.median(s)) for s in self.seconds)
        own, other = ("+".join(f"{v:.4g}" for v in u.mean(axis=0)) for u in self.unstable)
        return f"{a:9.4f} {b:9.4f} {a / b:7.2f} {self.gain.min():+11.2e} {self.gain.mean():+11.2e}  {own} | {other}"


def timed(call: Callable[[], Answer]) -> tuple[float, Answer]:
    """Seconds and answer."""
    began = time.perf_counter()
    answer = call()
    return time.perf_counter() - began, answer


def compare(own: Ask, other: Callable[[Any], Answer], pairs: list[tuple[Question, Any]], repeat: int) -> Line:
    """Both sides on every question, in turn, after one call of each that is not counted."""
    own(pairs[0][0])
    other(pairs[0][1])
    seconds, answers = [], []
    for question, given in pairs:
        for _ in range(repeat):
            a, b = timed(partial(own, question)), timed(partial(other, given))
            seconds.append((a[0], b[0]))
        answers.append((a[1], b[1]))
    times = np.array(seconds).T
    lower = tuple(np.concatenate([answer[side].lower for answer in answers]) for side in (0, 1))
    unstable = tuple(np.array([answer[side].unstable for answer in answers]) for side in (0, 1))
    return Line((times[0], times[1]), (lower[0], lower[1]), (unstable[0], unstable[1]))


def same_function(net: mv.Network, theirs: Theirs, question: Question) -> None:
    """End unless the rebuilt module is the network, by its outputs at the middle of a box."""
    x = (question.region.lower + question.region.upper) / 2
    with theirs.torch.no_grad():
        y = theirs.module(theirs.tensor(x).reshape(theirs.shape))[0].double().numpy()
    close = 1e-3 if theirs.torch.get_default_dtype() == theirs.torch.float32 else 1e-9
    if not np.allclose(y, net.forward(x), rtol=close, atol=close):
        raise SystemExit("vs_auto_lirpa: the network rebuilt for auto_LiRPA computes something else; no comparison.")


def run(name: str, arguments: argparse.Namespace, torch: Any, library: Any) -> bool:
    """The lines of one network; whether a bound of ibp or crown is looser."""
    parts, make = SUITES[name]
    net = mv.from_onnx(need(*parts))
    questions = list(make(net))[: arguments.questions]
    module, shape = torch_module(torch, need(*parts))
    options = {"optimize_bound_args": {"iteration": arguments.steps, "init_alpha": False}}  # see Theirs.call
    bounded = library.BoundedModule(module, torch.zeros(shape), bound_opts=options, device="cpu")
    theirs = Theirs(torch, library, bounded, shape)
    same_function(net, theirs, questions[0])
    pairs = [(question, theirs.given(question)) for question in questions]
    looser = False
    for method in arguments.methods:
        own = ours(net, method, arguments.steps)
        if own is None:
            print(f"{name:9} {method:10} alpha: not in this version of milpverify", flush=True)
            continue
        line = compare(own, theirs.ask(method), pairs, arguments.repeat)
        wrong = line.looser and not method.startswith("alpha")
        looser |= wrong
        print(f"{name:9} {method:10}{line}{'  LOOSER' if wrong else ''}", flush=True)
    return looser


def positive(text: str) -> int:
    """A count for argparse."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


def main() -> int:
    """Parse, import, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(SUITES)} (default all)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="default all, in this order")
    parser.add_argument("--questions", type=positive, default=10, help="at most so many a network (default 10, all)")
    parser.add_argument("--repeat", type=positive, default=3, help="timed calls a question and side (default 3)")
    parser.add_argument("--steps", type=positive, default=20, help="steps of alpha ascent on both sides (default 20)")
    parser.add_argument("--float32", action="store_true", help="auto_LiRPA in float32; ours stays float64")
    arguments = parser.parse_args()
    if unknown := set(arguments.networks) - set(SUITES):
        parser.error(f"unknown network {', '.join(sorted(unknown))}; choose from {', '.join(SUITES)}")
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        # numpy's threads are fixed when it is imported, so begin again.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **ONE_THREAD})
    torch, library = import_theirs(arguments.float32)
    precision = "float32" if arguments.float32 else "float64"
    print(f"auto_LiRPA {library.__version__}, torch {torch.__version__}, {precision}; milpverify {mv.__version__}, "
          f"float64; one thread, {arguments.repeat} repeats, {arguments.steps} steps")  # fmt: skip
    print("network   method        ours s  theirs s   ratio       least        mean  unstable ours | theirs")
    return int(any([run(name, arguments, torch, library) for name in arguments.networks or SUITES]))


if __name__ == "__main__":
    sys.exit(main())

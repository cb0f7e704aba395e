"""What bounds of hidden neurons cost and buy: seconds, unstable neurons of each layer, and the worst margin bound.

    python benchmarks/layer_bounds.py mnist_fc          mnist-net_256x4, images 6 and 8 at eps 0.03, every method
    python benchmarks/layer_bounds.py wk17a             WK17a at eps 0.1, 50 images: CROWN bounds and condensing

mnist_fc: `crown pure` is CROWN without intervals. `alpha` ascends on slopes, `kappa` on input-wise multipliers too; the
triangle LP's optimum (`lp`, slow) is what no slopes can pass. Seconds are those of the hidden layers and of the rows,
the least of --repeat runs.

wk17a: median seconds over the images of all bounds and of condensing with all nine rows, network loaded. Run it with
OMP_NUM_THREADS=1 for the figures of one core.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from data import mnist_test, need

import milpverify as mv
from milpverify.bounds.method import BoundMethod
from milpverify.formulation.property_program import stack_rows

METHODS: dict[str, BoundMethod] = {
    "crown pure": mv.Crown(intersect=False),
    "crown": mv.Crown(),
    "alpha": mv.AlphaCrown(),
    "alpha, 40 steps": mv.AlphaCrown(steps=40, layer_steps=40),
    "kappa, 8 steps": mv.AlphaCrown(layer_kappa_steps=8),
    "kappa": mv.KappaCrown(),
}


def mnist_fc(images: list[int], with_lp: bool, repeat: int) -> None:
    """Every method on each question."""
    net = mv.from_onnx(need("mnist_fc", "onnx", "mnist-net_256x4.onnx"))
    methods = {**METHODS, "lp": mv.TriangleLP()} if with_lp else METHODS
    print(f"{'image':<6} {'method':<16} {'unstable':<18} {'worst margin':>12} {'layers s':>9} {'rows s':>7}")
    for image in images:
        prop = mv.read_vnnlib(need("mnist_fc", "vnnlib", f"prop_{image}_0.03.vnnlib"), net)
        region = prop.cases[0].region
        rows = np.concatenate([case.unsafe.C for case in prop.cases])
        d = np.concatenate([case.unsafe.d for case in prop.cases])
        for name, method in methods.items():
            layers, last = [], []
            for _ in range(1 if name == "lp" else repeat):
                began = time.perf_counter()
                bounds = mv.compute_bounds(net, region, method)
                between = time.perf_counter()
                value = mv.bound_rows(net, region, bounds, rows, method).value - d
                layers.append(between - began)
                last.append(time.perf_counter() - between)
            counts = "+".join(map(str, bounds.n_unstable))
            print(
                f"{image:<6} {name:<16} {counts:<18} {value.min():12.4f} {min(layers):9.3f} {min(last):7.3f}",
                flush=True,
            )


def wk17a(count: int) -> None:
    """All bounds and condensation of single images."""
    net = mv.from_onnx(need("mipverify_nets", "wk17a_mnist_linf0.1.onnx"))
    images, labels = mnist_test()
    seconds, unstable = [], []
    for i in range(count + 1):
        ball = mv.LinfBall(images[i], 0.1, clip=(0, 1))
        prop = mv.robustness(net, ball, int(labels[i]))
        began = time.perf_counter()
        bounds = mv.compute_bounds(net, ball)
        between = time.perf_counter()
        stack_rows(net, bounds, prop.cases)
        seconds.append((between - began, time.perf_counter() - between))
        unstable.append(bounds.n_unstable)
    print(f"first image, with what is prepared once for the network: {sum(seconds[0]):.3f} s")
    times = np.array(seconds[1:])
    print(
        f"{count} images: bounds {np.median(times[:, 0]):.3f} s, condensing {np.median(times[:, 1]):.3f} s, together "
        f"{np.median(times.sum(axis=1)):.3f} s (slowest {times.sum(axis=1).max():.3f}); "
        f"unstable {np.median(unstable, axis=0).astype(int).tolist()} (medians)"
    )


def main() -> int:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("mnist_fc", "wk17a"))
    parser.add_argument("--images", type=int, nargs="+", default=[6, 8], help="of mnist_fc (default 6 8)")
    parser.add_argument("--count", type=int, default=50, help="images of wk17a (default 50)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each method of mnist_fc (default 3)")
    parser.add_argument("--lp", action="store_true", help="the triangle LP too")
    arguments = parser.parse_args()
    if arguments.what == "mnist_fc":
        mnist_fc(arguments.images, arguments.lp, arguments.repeat)
    else:
        wk17a(arguments.count)
    return 0


if __name__ == "__main__":
    sys.exit(main())

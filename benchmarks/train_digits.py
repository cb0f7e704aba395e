"""Train the digits network of `milpverify demo` and write the two files that ship with the package.

    python benchmarks/train_digits.py [--out milpverify/data]

Data: scikit-learn's 8x8 digits (the test part of "Optical Recognition of Handwritten Digits", Alpaydin &
Kaynak 1998, UCI). Grey levels 0..16 are divided by 16, so every pixel lies in [0, 1] and is exact in float32.
The network is Flatten, then three Gemm with ReLU between them (64-24-12-10), trained on clean and on PGD
images in equal parts, so that its smallest adversarial perturbations are visible and not all alike; it is
small enough that each of them is found exactly in a few seconds.

Seeds, split and thread count are fixed: the same versions on the same machine write the same bytes; another
processor may round differently, which is why the files are kept in the repository.

Needs torch, scikit-learn, onnx and onnxruntime (the extra `test`).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

REPOSITORY = Path(__file__).resolve().parent.parent
GREY_LEVELS = 16


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights.

    Attributes:
        widths: Input, hidden and output widths.
        eps: L-inf radius of the training attack, in pixel units (0 black, 1 white).
        attack_steps: Signed gradient steps of the training attack, each of size `2.5 * eps / attack_steps`.
        min_clean_accuracy: Nothing is written below this share of the test images.
    """

    widths: tuple[int, ...] = (64, 24, 12, 10)
    eps: float = 0.08
    attack_steps: int = 7
    epochs: int = 150
    batch: int = 64
    learning_rate: float = 3e-3
    test_share: float = 0.25
    seed: int = 2017
    min_clean_accuracy: float = 0.95


@dataclass(frozen=True)
class Digits:
    """Images (n, 8, 8) float32 in [0, 1], labels (n,) int64, and each image's row in `load_digits` (n,)."""

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray


def split_digits(recipe: Recipe) -> tuple[Digits, Digits]:
    """Return the training and the test part: shuffled once, every class in proportion."""
    raw = load_digits()
    images = (raw.images / GREY_LEVELS).astype(np.float32)
    if not np.array_equal(images.astype(np.float64) * GREY_LEVELS, raw.images):
        raise ValueError("train_digits: a grey level is not k/16; the data set is not the one expected.")
    train, test = train_test_split(
        np.arange(len(images)), test_size=recipe.test_share, random_state=recipe.seed, stratify=raw.target
    )
    labels = raw.target.astype(np.int64)
    return Digits(images[train], labels[train], train), Digits(images[test], labels[test], test)


def build_model(widths: tuple[int, ...]) -> nn.Sequential:
    """Return Flatten, then Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def pgd(model: nn.Module, x: torch.Tensor, y: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Return images within `recipe.eps` of x (L-inf, clipped to [0, 1]) that raise the cross-entropy.

    Source:
        Madry et al. 2018, eq. 2.2 and the projected gradient descent after it.
    """
    low, high = (x - recipe.eps).clamp(0, 1), (x + recipe.eps).clamp(0, 1)
    adversarial = low + (high - low) * torch.rand_like(x)
    for _ in range(recipe.attack_steps):
        adversarial.requires_grad_(True)
        loss = nn.functional.cross_entropy(model(adversarial), y)
        (gradient,) = torch.autograd.grad(loss, adversarial)
        step = 2.5 * recipe.eps / recipe.attack_steps * gradient.sign()
        adversarial = torch.clamp(adversarial.detach() + step, low, high)
    return adversarial


def train(data: Digits, recipe: Recipe) -> nn.Sequential:
    """Train on half clean, half PGD loss; Adam with a cosine schedule."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    x, y = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    model = build_model(recipe.widths)
    # No weight decay: it drives the weights of always-black pixels to 1e-40, which no MILP solver keeps.
    optimiser = torch.optim.Adam(model.parameters(), recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs)
    for _ in range(recipe.epochs):
        for pick in torch.randperm(len(x)).split(recipe.batch):
            clean, adversarial = x[pick], pgd(model, x[pick], y[pick], recipe)
            loss = nn.functional.cross_entropy(model(torch.cat((clean, adversarial))), y[pick].repeat(2))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    return model.eval()


def to_onnx(model: nn.Sequential, note: str) -> onnx.ModelProto:
    """Write the graph node by node, so that names read well and no exporter is needed; opset 13, float32."""
    nodes = [helper.make_node("Flatten", ["image"], ["pixels"], name="flatten", axis=1)]
    initializers = []
    linears = [layer for layer in model if isinstance(layer, nn.Linear)]
    last, width = "pixels", 0
    for k, linear in enumerate(linears, start=1):
        name, is_output = f"dense{k}", k == len(linears)
        width = linear.out_features
        for part, tensor in (("weight", linear.weight), ("bias", linear.bias)):
            initializers.append(numpy_helper.from_array(tensor.detach().numpy(), f"{name}.{part}"))
        output = "scores" if is_output else f"{name}.out"
        inputs = [last, f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Gemm", inputs, [output], name=name, transB=1))
        last = output
        if not is_output:
            last = f"relu{k}.out"
            nodes.append(helper.make_node("Relu", [output], [last], name=f"relu{k}"))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, width])],
        initializers,
        doc_string=note,
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="milpverify"
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto


def predict(proto: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Return onnxruntime's label of each image (n, 8, 8): the file is judged, not the module it came from."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    scores = [session.run(["scores"], {"image": image[None, None]})[0][0] for image in images]
    return np.argmax(np.array(scores), axis=1)


def choose(test: Digits, predicted: np.ndarray) -> np.ndarray:
    """Choose 20 test images by rule, not by eye.

    Returns:
        Positions in the test part: the first correctly classified image of each class 0..9, then the first
        eight other correct ones, then the first two that the network gets wrong.
    """
    correct = predicted == test.labels
    classes = [int(np.flatnonzero(correct & (test.labels == c))[0]) for c in range(10)]
    others = [i for i in np.flatnonzero(correct) if i not in classes][:8]
    wrong = np.flatnonzero(~correct)[:2]
    return np.array([*classes, *others, *wrong])


def main() -> None:
    """Train, judge with onnxruntime, print the figures, and write `digits.onnx` and `digits.npz`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = REPOSITORY / "milpverify" / "data"
    parser.add_argument("--out", type=Path, default=data, help="folder to write to (default: %(default)s)")
    out = parser.parse_args().out
    recipe = Recipe()
    train_part, test_part = split_digits(recipe)
    model = train(train_part, recipe)
    shape = "-".join(map(str, recipe.widths))
    proto = to_onnx(
        model,
        f"scikit-learn's 8x8 digits, pixels k/16; {shape} ReLU, PGD-trained at L-inf {recipe.eps}; "
        "written by benchmarks/train_digits.py",
    )
    predicted = predict(proto, test_part.images)
    accuracy = float(np.mean(predicted == test_part.labels))
    x, y = torch.from_numpy(test_part.images), torch.from_numpy(test_part.labels)
    attacked = predict(proto, pgd(model, x, y, recipe).numpy())
    attacked_accuracy = float(np.mean(attacked == test_part.labels))
    if accuracy < recipe.min_clean_accuracy:
        raise SystemExit(
            f"train_digits: clean test accuracy must be at least {recipe.min_clean_accuracy}, "
            f"got {accuracy:.4f}; nothing written. Change the recipe."
        )

    pick = choose(test_part, predicted)
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, out / "digits.onnx")
    np.savez_compressed(
        out / "digits.npz",
        images=test_part.images[pick],
        labels=test_part.labels[pick],
        rows=test_part.rows[pick].astype(np.int64),
    )
    print(f"train {len(train_part.labels)} images, test {len(test_part.labels)} images, network {shape}")
    print(f"test accuracy by onnxruntime: clean {accuracy:.4f}, PGD at {recipe.eps}: {attacked_accuracy:.4f}")
    print(f"labels    {test_part.labels[pick].tolist()}\npredicted {predicted[pick].tolist()}")
    for name in ("digits.onnx", "digits.npz"):
        print(f"{out / name}: {(out / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()

"""Labelled images to train on: scikit-learn's digits, or idx files that the user has. Nothing is downloaded."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from milpverify.errors import InputError, OptionError, first_line

IDX_BYTES = 0x08  # the idx type code of unsigned bytes, which MNIST and Fashion-MNIST use
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images with their labels.

    Attributes:
        images: Shape (N, channels, height, width), float32 in [0, 1]; read-only.
        labels: Shape (N,), int64 from 0; read-only.
        name: For reports; `[:N]` at its end says that only the first N are meant.

    Raises:
        InputError: If there are no images, the numbers differ, a value is out of range, or a label is no whole number.
    """

    images: np.ndarray
    labels: np.ndarray
    name: str = "images"

    def __post_init__(self) -> None:
        who = f"ImageSet {self.name!r}"
        images, labels = _numbers(self.images, f"{who}: images"), _numbers(self.labels, f"{who}: labels")
        if images.ndim != 4 or labels.shape != images.shape[:1] or not images.size:
            raise InputError(
                f"{who}: images of shape {images.shape} with labels of shape {labels.shape}, expected "
                "(N, channels, height, width) and (N,) with N >= 1. Reshape them, e.g. images.reshape(-1, 1, 28, 28)."
            )
        if not (images.min() >= 0 and images.max() <= 1):
            raise InputError(
                f"{who}: pixels must lie in [0, 1], got {images.min():g} to {images.max():g}. "
                "Divide the images by their largest possible value, e.g. 255."
            )
        if not (labels == np.rint(labels)).all() or labels.min() < 0:
            raise InputError(
                f"{who}: labels must be whole numbers from 0, got {labels.min():g} to {labels.max():g}. "
                "Number the classes."
            )
        images, labels = np.array(images, dtype=np.float32), np.array(labels, dtype=np.int64)
        for name, values in (("images", images), ("labels", labels)):
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"ImageSet({self.name!r}, {len(self)} images of shape {self.input_shape}, {self.n_classes} classes)"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return tuple(self.images.shape[1:])

    @property
    def n_classes(self) -> int:
        """One more than the largest label, and at least two."""
        return max(int(self.labels.max()) + 1, 2)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of images and labels, hexadecimal."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(self.images.tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def first(self, count: int | None) -> ImageSet:
        """The first so many images; all of them when None.

        Raises:
            OptionError: If that is not positive.
        """
        if count is None or count >= len(self):
            return self
        if count < 1:
            raise OptionError(f"ImageSet: expected at least one image of {self.name!r}, got {count}.")
        return ImageSet(self.images[:count], self.labels[:count], f"{self.name}[:{count}]")

    def split(self, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
        """Two parts at random, the second with that share of the images.

        Raises:
            OptionError: If a part would be empty.
        """
        count = round(share * len(self)) if math.isfinite(share) else 0
        if not 0 < count < len(self):
            raise OptionError(
                f"ImageSet: a share of {share} of {len(self)} images leaves a part empty. Give one between 0 and 1."
            )
        order = np.random.default_rng(seed).permutation(len(self))
        parts = (np.sort(order[count:]), np.sort(order[:count]))
        first, second = (ImageSet(self.images[part], self.labels[part], self.name) for part in parts)
        return first, second


def check_image_set(data: Any, who: str) -> None:
    """Refuse anything else, such as bare arrays.

    Raises:
        InputError: If it is no `ImageSet`.
    """
    if not isinstance(data, ImageSet):
        raise InputError(f"{who}: expected an ImageSet, got {type(data).__name__}. Give mv.ImageSet(images, labels).")


def read_digits(seed: int = 0, test_share: float = 0.25) -> tuple[ImageSet, ImageSet]:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, grey levels k / 16, parted at random into training and test images.

    Raises:
        OptionError: If scikit-learn is not installed.

    Source:
        Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits (UCI), its test part.
    """
    images, labels = _digits()
    train, test = ImageSet(images[:, None] / 16.0, labels).split(test_share, seed)
    return replace(train, name="digits train"), replace(test, name="digits test")


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images, shape (1797, 8, 8), and labels: read from scikit-learn's file, whose own reader takes a second to import.

    Raises:
        OptionError: If scikit-learn is not installed.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise OptionError(
            "digits: scikit-learn is not installed. Install it (pip install scikit-learn), or give idx files."
        )
    file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        with gzip.open(file, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",")
    else:  # a release that keeps it elsewhere
        from sklearn.datasets import load_digits

        raw = load_digits()
        table = np.column_stack([raw.data, raw.target])
    return table[:, :64].reshape(-1, 8, 8), table[:, 64]


def read_idx_folder(folder: Path | str) -> tuple[ImageSet, ImageSet]:
    """The four files of MNIST or Fashion-MNIST, packed (.gz) or not: training and test images, pixels k / 255.

    Raises:
        InputError: If a file is missing, damaged, or its partner has another number of entries.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"idx: there is no folder {folder}. Give the folder that holds {FILES['train'][0]}(.gz).")
    train, test = (_read_pair(folder, part) for part in ("train", "test"))
    if train.input_shape != test.input_shape:
        raise InputError(
            f"idx: {folder}: training images are {train.input_shape}, test images {test.input_shape}. "
            "Files of two data sets are mixed."
        )
    return train, test


def read_npz(path: Path | str) -> ImageSet:
    """The arrays `images` and `labels` of an .npz file; bytes stand for k / 255, and a missing channel axis is added.

    Raises:
        InputError: If the file cannot be read, lacks an array, or holds no images.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            if not {"images", "labels"} <= set(arrays.files):
                raise InputError(
                    f"npz: {path} holds the arrays {arrays.files}, expected images and labels. Rename them."
                )
            images, labels = arrays["images"], arrays["labels"]
    except FileNotFoundError:
        raise InputError(f"npz: there is no file {path}. Check the path.") from None
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"npz: {path} does not read as arrays ({first_line(error)}). Write it by numpy.savez."
        ) from None
    if images.dtype == np.uint8:
        images = images / np.float32(255)
    return ImageSet(images[:, None] if images.ndim == 3 else images, labels, path.stem)


def read_idx(path: Path | str) -> np.ndarray:
    """An idx file of unsigned bytes, packed by gzip or not.

    Returns:
        uint8, of the shape that the file states.

    Raises:
        InputError: If it cannot be read, is no idx file of bytes, or has another length than its header states.

    Source:
        LeCun, Cortes & Burges, the MNIST database, "file formats".
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"idx: cannot read {path} ({error.strerror}). Check the path.") from None
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"idx: {path} is a damaged gzip file ({error}). Fetch it again.") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != IDX_BYTES or not 1 <= data[3] <= 4:
        start = data[:4].hex() or "nothing"
        raise InputError(
            f"idx: {path} begins with {start}, expected 000008 and a number of axes from 1 to 4. It is no idx file of "
            "bytes, or damaged."
        )
    axes = data[3]
    head = 4 + 4 * axes
    if len(data) < head:
        raise InputError(f"idx: {path} ends within its header of {head} bytes. Fetch it again.")
    shape = struct.unpack(f">{axes}I", data[4:head])
    expected = head + math.prod(shape)  # Python integers: a damaged header can state absurd sizes
    if len(data) != expected:
        raise InputError(
            f"idx: {path} has {len(data)} bytes, its header states {expected} (shape {shape}). Fetch it again."
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _numbers(values: Any, who: str) -> np.ndarray:
    """An array of real numbers, also from a torch tensor that carries gradients.

    Raises:
        InputError: If it is none.
    """
    try:
        array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    except (ValueError, TypeError) as error:
        raise InputError(f"{who} are no array ({error}). Give all of them the same shape.") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{who} are of type {array.dtype}, expected real numbers. Convert them.")
    return array


def _read_pair(folder: Path, part: str) -> ImageSet:
    images_path, labels_path = (_present(folder, name) for name in FILES[part])
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1:
        raise InputError(
            f"idx: {images_path.name} has {images.ndim} axes and {labels_path.name} {labels.ndim}, expected 3 and 1. "
            "The files are mixed up."
        )
    if len(images) != len(labels):
        raise InputError(
            f"idx: {images_path.name} holds {len(images)} images, {labels_path.name} {len(labels)} labels. "
            "The files do not belong together."
        )
    return ImageSet(images[:, None] / np.float32(255), labels, f"{folder.name} {part}")


def _present(folder: Path, name: str) -> Path:
    dotted = name.replace("-idx", ".idx")  # as some archives unpack them
    for path in (folder / name, folder / f"{name}.gz", folder / dotted, folder / f"{dotted}.gz"):
        if path.is_file():
            return path
    raise InputError(f"idx: {folder} holds neither {name} nor {name}.gz. Put the four files of the data set there.")

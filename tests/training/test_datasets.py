"""Reading labelled images: what is right is read exactly, what is damaged is refused in one line."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from milpverify.errors import InputError, OptionError
from milpverify.training.datasets import FILES, ImageSet, read_digits, read_idx, read_idx_folder
from tests.paths import need


def idx(values: np.ndarray, code: int = 0x08) -> bytes:
    return bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_folder(folder: Path, *, packed: bool = False, count: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    arrays = {}
    for names in FILES.values():
        arrays[names[0]] = rng.integers(0, 256, (count, 4, 3), dtype=np.uint8)
        arrays[names[1]] = rng.integers(0, 10, count, dtype=np.uint8)
    for name, values in arrays.items():
        data = idx(values)
        (folder / (name + ".gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return arrays


@pytest.mark.parametrize("packed", [False, True])
def test_what_was_written_is_read(tmp_path: Path, packed: bool) -> None:
    arrays = write_folder(tmp_path, packed=packed)
    for part, names in zip(read_idx_folder(tmp_path), FILES.values(), strict=True):
        assert part.input_shape == (1, 4, 3)
        np.testing.assert_array_equal(np.rint(part.images[:, 0] * 255), arrays[names[0]])
        np.testing.assert_array_equal(part.labels, arrays[names[1]])


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda b: b"", "begins with nothing"),
    "other magic": (lambda b: b"PK" + b[2:], "no idx file"),
    "other type": (lambda b: b[:2] + b"\x0d" + b[3:], "no idx file"),
    "no axes": (lambda b: b[:3] + b"\0" + b[4:], "no idx file"),
    "cut header": (lambda b: b[:9], "within its header"),
    "cut pixels": (lambda b: b[:-7], "its header states"),
    "more than stated": (lambda b: b + b"\0", "its header states"),
    "absurd size": (lambda b: b[:4] + b"\xff" * 12 + b[16:], "its header states"),
    "cut gzip": (lambda b: gzip.compress(b)[:-9], "damaged gzip"),
    "flipped gzip": (lambda b: _flipped(gzip.compress(b)), "damaged gzip"),
}


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    write_folder(tmp_path)
    path = tmp_path / FILES["train"][0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=said) as caught:
        read_idx_folder(tmp_path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_missing_folders_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        read_idx_folder(tmp_path / "none")
    write_folder(tmp_path)
    (tmp_path / FILES["test"][1]).unlink()
    with pytest.raises(InputError, match=r"neither t10k-labels-idx1-ubyte nor"):
        read_idx_folder(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        read_idx(tmp_path / "none")


def test_images_and_labels_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    images, labels = (tmp_path / name for name in FILES["train"])
    kept = labels.read_bytes()
    labels.write_bytes(idx(np.zeros(4, dtype=np.uint8)))
    with pytest.raises(InputError, match="5 images, train-labels-idx1-ubyte 4 labels"):
        read_idx_folder(tmp_path)
    labels.write_bytes(images.read_bytes())
    with pytest.raises(InputError, match="mixed up"):
        read_idx_folder(tmp_path)
    labels.write_bytes(kept)
    images.write_bytes(idx(np.zeros((5, 3, 3), dtype=np.uint8)))
    with pytest.raises(InputError, match="two data sets"):
        read_idx_folder(tmp_path)


def test_mnist_has_its_published_sizes() -> None:
    train, test = read_idx_folder(need("mnist", "train-images-idx3-ubyte.gz").parent)
    assert (len(train), len(test), train.input_shape, train.n_classes) == (60000, 10000, (1, 28, 28), 10)
    assert np.bincount(train.labels)[1] == 6742 and test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_digits_are_parted_without_loss_and_equally_for_equal_seeds() -> None:
    train, test = read_digits(seed=3)
    assert len(train) + len(test) == 1797 and train.input_shape == (1, 8, 8)
    again = read_digits(seed=3)
    assert (train.fingerprint, test.fingerprint) == (again[0].fingerprint, again[1].fingerprint)
    assert read_digits(seed=4)[1].fingerprint != test.fingerprint
    assert set(np.unique(train.images * 16)) == set(range(17))


def test_image_sets_that_make_no_sense_are_refused() -> None:
    good, labels = np.zeros((2, 1, 2, 2)), np.zeros(2, dtype=int)
    for images, y in ((good[:0], labels[:0]), (good, labels[:1]), (good[0], labels), (good + 2, labels),
                      (good * np.nan, labels), (good, labels - 1)):  # fmt: skip
        with pytest.raises(InputError):
            ImageSet(images, y)
    with pytest.raises(OptionError):
        ImageSet(good, labels).first(0)
    with pytest.raises(OptionError):
        ImageSet(good, labels).split(0.01, 0)
    with pytest.raises(ValueError, match="read-only"):
        ImageSet(good, labels).images[0] = 1.0

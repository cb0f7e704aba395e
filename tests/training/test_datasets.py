"""Reading labelled images: what is right is read exactly, what is damaged is refused in one line."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from milpverify.errors import InputError, OptionError
from milpverify.training.datasets import FILES, ImageSet, read_digits, read_idx, read_idx_folder, read_npz
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


def test_the_digits_are_scikit_learns() -> None:
    raw = pytest.importorskip("sklearn.datasets").load_digits()
    parts = read_digits(2)
    found = np.concatenate([np.column_stack([16 * p.images.reshape(len(p), -1), p.labels]) for p in parts])
    expected = np.column_stack([raw.data, raw.target])
    order = [np.lexsort(table.T) for table in (found, expected)]
    np.testing.assert_array_equal(found[order[0]], expected[order[1]])


def test_tensors_with_gradients_are_taken_and_the_set_reads_well() -> None:
    x, y = torch.full((3, 1, 2, 2), 0.5, requires_grad=True), torch.tensor([0, 2, 1])
    found = ImageSet(x, y, "mine")  # type: ignore[arg-type]
    assert (found.images == 0.5).all() and found.labels.tolist() == [0, 2, 1]
    assert repr(found.first(2)) == "ImageSet('mine[:2]', 2 images of shape (1, 2, 2), 3 classes)"


def test_an_npz_file_holds_images_or_bytes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (4, 3, 2), dtype=np.uint8)
    np.savez(tmp_path / "bytes.npz", images=values, labels=[0, 1, 2, 1])
    np.savez(tmp_path / "floats.npz", images=(values / np.float32(255))[:, None], labels=[0, 1, 2, 1])
    first, second = read_npz(tmp_path / "bytes.npz"), read_npz(tmp_path / "floats.npz")
    assert first.input_shape == (1, 3, 2) and first.fingerprint == second.fingerprint
    np.savez(tmp_path / "objects.npz", images=np.array([{}], dtype=object), labels=[0])
    for name in ("objects.npz", "none.npz"):
        with pytest.raises(InputError, match=name):
            read_npz(tmp_path / name)


def test_idx_files_with_a_dot_in_their_names_are_found(tmp_path: Path) -> None:
    write_folder(tmp_path, packed=True)
    expected = read_idx_folder(tmp_path)[0].fingerprint
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert read_idx_folder(tmp_path)[0].fingerprint == expected


def test_image_sets_that_make_no_sense_are_refused() -> None:
    good, labels = np.zeros((2, 1, 2, 2)), np.zeros(2, dtype=int)
    for images, y in ((good[:0], labels[:0]), (good, labels[:1]), (good[0], labels), (good + 2, labels),
                      (good * np.nan, labels), (good, labels - 1), (good, labels + 0.5), (good, ["a", "b"]),
                      (good, labels * np.nan), ([[1.0], [1.0, 2.0]], labels), (good[..., :0], labels)):  # fmt: skip
        with pytest.raises(InputError):
            ImageSet(images, y)
    with pytest.raises(OptionError):
        ImageSet(good, labels).first(0)
    for share in (0.01, 0.99, -1.0, float("nan"), float("inf")):
        with pytest.raises(OptionError):
            ImageSet(good, labels).split(share, 0)
    with pytest.raises(ValueError, match="read-only"):
        ImageSet(good, labels).images[0] = 1.0

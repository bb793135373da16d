"""Data sets: what the publishers' files hold, and what is said of files that are missing, cut or swapped."""

from __future__ import annotations

import gzip
import importlib.util
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from real_data import real_data

from chainfl.errors import DatasetCorrupt, DatasetError, DatasetMissing, UsageError
from chainfl.training import datasets
from chainfl.training.datasets import (
    Dataset,
    concatenate,
    load_cifar10,
    load_dataset,
    load_digits,
    load_folder,
    load_mnist,
    load_npz,
    save_folder,
)


def idx_images(count: int, *, magic: int = 0x803, sides: tuple[int, int] = (28, 28), seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, count * 784, dtype=np.uint8)
    return struct.pack(">IIII", magic, count, *sides) + pixels.tobytes()


def idx_labels(count: int, *, magic: int = 0x801, largest: int = 9) -> bytes:
    return struct.pack(">II", magic, count) + bytes(i % (largest + 1) for i in range(count))


def mnist_folder(folder: Path, **replaced: bytes) -> Path:
    files = {
        "train-images-idx3-ubyte": idx_images(20),
        "train-labels-idx1-ubyte": idx_labels(20),
        "t10k-images-idx3-ubyte": idx_images(10, seed=1),
        "t10k-labels-idx1-ubyte": idx_labels(10),
    }
    for name, data in files.items():
        (folder / name).write_bytes(replaced.get(name.partition("-idx")[0].replace("-", "_"), data))
    return folder


def cifar_batch(count: int, *, seed: int = 0, label: int | None = None) -> bytes:
    records = np.random.default_rng(seed).integers(0, 256, (count, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(count) % 10 if label is None else label
    return records.tobytes()


# --- digits --------------------------------------------------------------------------------------


def test_load_digits__installed_package__equals_sklearns_own_loader():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    expected = sklearn_datasets.load_digits()
    digits = load_digits()
    np.testing.assert_array_equal(digits.features, (expected.images / 16).astype(np.float32)[:, None])
    np.testing.assert_array_equal(digits.labels, expected.target)
    assert (digits.features.dtype, digits.labels.dtype, digits.num_classes) == (np.float32, np.int64, 10)


def test_load_digits__fresh_process__imports_neither_sklearn_nor_torch():
    code = (
        "import sys; from chainfl.training.datasets import load_digits; load_digits();"
        "assert not {'sklearn', 'torch'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_load_digits__without_scikit_learn__says_which_file(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DatasetMissing) as caught:
        load_digits()
    assert caught.value.evidence["file"] == "digits.csv.gz"


@pytest.mark.parametrize(
    "table", [b"1,2\n3,4\n", b"not,numbers\n", b"1\n2,3\n", b"\xff\xfe", (",".join(["99"] * 65) + "\n").encode() * 1797]
)
def test_load_digits__damaged_table__is_corrupt(tmp_path, monkeypatch, table):
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(gzip.compress(table))
    monkeypatch.setattr(datasets, "_find", lambda *_: path)
    with pytest.raises(DatasetCorrupt):
        load_digits()


# --- MNIST ---------------------------------------------------------------------------------------


def test_load_mnist__real_files__gives_images_in_unit_range():
    splits = load_mnist(real_data("mnist"))
    assert len(splits.train) >= 10_000
    assert len(splits.test) == 10_000
    assert splits.test.features.shape == (10_000, 1, 28, 28)
    assert (splits.test.features.min(), splits.test.features.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(splits.test.labels[:10], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9])


def test_load_mnist__gzipped_and_plain__are_the_same(tmp_path):
    plain = load_mnist(mnist_folder(tmp_path))
    for path in list(tmp_path.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    np.testing.assert_array_equal(load_mnist(tmp_path).train.features, plain.train.features)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_load_mnist__file_missing__names_file_and_folder(tmp_path, name):
    (mnist_folder(tmp_path) / name).unlink()
    with pytest.raises(DatasetMissing) as caught:
        load_mnist(tmp_path)
    assert caught.value.evidence == {"file": name, "folder": str(tmp_path)}
    assert name in caught.value.hint


def test_load_mnist__no_folder__says_so(tmp_path):
    with pytest.raises(DatasetMissing, match="folder"):
        load_mnist(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("replaced", "problem"),
    [
        ({"train_images": idx_images(20)[:-1]}, "header says 20"),
        ({"train_images": idx_images(20) + b"\0"}, "header says 20"),
        ({"train_images": b"\0\0\x08"}, "within its header"),
        ({"train_images": idx_labels(21)}, "swapped"),
        ({"train_labels": idx_images(21)}, "swapped"),
        ({"train_images": idx_images(20, magic=0x1234)}, "not an IDX file"),
        ({"train_images": idx_images(20, sides=(2**31, 2**31))}, "not 28 by 28"),
        ({"train_images": struct.pack(">IIII", 0x803, 2**32 - 1, 28, 28)}, "header says 4294967295"),
        ({"train_images": struct.pack(">IIII", 0x803, 0, 28, 28)}, "header says 0"),
        ({"train_labels": idx_labels(10)}, "same file"),
        ({"train_labels": idx_labels(19)}, "19 labels"),
        ({"train_labels": idx_labels(20, largest=10)}, "label 10"),
        ({"t10k_images": idx_images(20), "t10k_labels": idx_labels(20)}, "same file"),
    ],
)
def test_load_mnist__damaged_file__is_corrupt_and_says_how(tmp_path, replaced, problem):
    with pytest.raises(DatasetCorrupt, match=problem) as caught:
        load_mnist(mnist_folder(tmp_path, **replaced))
    assert set(caught.value.evidence) == {"file", "folder"}


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"no gzip" + data, lambda data: b""])
def test_load_mnist__damaged_gzip__is_corrupt(tmp_path, damage):
    path = mnist_folder(tmp_path) / "train-images-idx3-ubyte"
    path.with_name(path.name + ".gz").write_bytes(damage(gzip.compress(path.read_bytes())))
    path.unlink()
    with pytest.raises(DatasetCorrupt):
        load_mnist(tmp_path)


def test_load_mnist__gzip_bomb__stops_at_the_largest_possible_size(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_MNIST_MAX_EXAMPLES", 20)
    path = mnist_folder(tmp_path) / "train-images-idx3-ubyte"
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(bytes(1 << 20)))
    path.unlink()
    with pytest.raises(DatasetCorrupt, match="longer than"):
        load_mnist(tmp_path)


# --- CIFAR-10 ------------------------------------------------------------------------------------


def test_load_cifar10__real_files__gives_channels_first():
    splits = load_cifar10(real_data("cifar10"))
    assert splits.train.shape == (3, 32, 32)
    assert (len(splits.train), len(splits.test)) == (10_000, 2_000)
    assert set(np.bincount(splits.train.labels)) == {1000}


def test_load_cifar10__several_batches__are_concatenated_in_order(tmp_path):
    for number in (1, 2):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(cifar_batch(10, seed=number))
    (tmp_path / "test_batch.bin.gz").write_bytes(gzip.compress(cifar_batch(5, seed=9)))
    splits = load_cifar10(tmp_path)
    assert (len(splits.train), len(splits.test)) == (20, 5)
    assert splits.train.values[10].tobytes() == cifar_batch(10, seed=2)[1:3073]


def test_load_cifar10__gap_between_batches__names_the_missing_one(tmp_path):
    for number in (1, 3):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(cifar_batch(10, seed=number))
    with pytest.raises(DatasetMissing, match=r"data_batch_2\.bin"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize(
    ("batch", "problem"),
    [
        (cifar_batch(10)[:-1], "whole number of records"),
        (b"", "whole number of records"),
        (cifar_batch(10, label=10), "label 10"),
        (cifar_batch(5, seed=9), "same file"),
    ],
)
def test_load_cifar10__damaged_batch__is_corrupt(tmp_path, batch, problem):
    (tmp_path / "data_batch_1.bin").write_bytes(batch)
    (tmp_path / "test_batch.bin").write_bytes(cifar_batch(5, seed=9))
    with pytest.raises(DatasetCorrupt, match=problem):
        load_cifar10(tmp_path)


# --- names and folders ---------------------------------------------------------------------------


def test_load_dataset__unknown_or_without_folder__is_a_usage_error():
    with pytest.raises(UsageError, match="imagenet"):
        load_dataset("imagenet")
    with pytest.raises(UsageError, match="data-dir"):
        load_dataset("mnist")
    assert load_dataset("digits").test is None


def small_dataset(dtype: type = np.uint8, scale: float = 1 / 255) -> Dataset:
    values = np.arange(24, dtype=dtype).reshape(6, 1, 2, 2)
    return Dataset("small", values, np.array([0, 1, 2, 0, 1, 2]), 4, scale)


@pytest.mark.parametrize("dataset", [small_dataset(), small_dataset(scale=1 / 16), small_dataset(np.float32, 1.0)])
def test_save_folder__then_load_folder__gives_the_same_examples(tmp_path, dataset):
    save_folder(dataset, tmp_path / "share")
    loaded = load_folder(tmp_path / "share")
    np.testing.assert_array_equal(loaded.features, dataset.features)
    np.testing.assert_array_equal(loaded.labels, dataset.labels)
    assert loaded.num_classes == 4


def test_load_folder__mnist_files_without_a_test_set__is_enough(tmp_path):
    for name, data in (("train-images-idx3-ubyte", idx_images(20)), ("train-labels-idx1-ubyte", idx_labels(20))):
        (tmp_path / name).write_bytes(data)
    assert len(load_folder(tmp_path)) == 20


def test_load_folder__cifar_files__is_recognised(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(cifar_batch(10))
    assert load_folder(tmp_path).name == "cifar10"


def test_load_folder__nothing_known__says_what_it_looks_for(tmp_path):
    with pytest.raises(DatasetMissing, match=r"dataset\.npz"):
        load_folder(tmp_path)


@pytest.mark.parametrize(("value", "told"), [(np.nan, "nan"), (np.inf, "inf"), (1e39, r"1e\+39")])
def test_load_npz__value_that_is_no_finite_float32__names_the_example(tmp_path, value, told):
    features = np.zeros((3, 2))
    features[2, 1] = value
    np.savez(tmp_path / "dataset.npz", features=features, labels=np.arange(3))
    with pytest.raises(DatasetCorrupt, match=rf"example 2 has {told} at \[1\], but features are finite float32"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"features": np.zeros((3, 2), np.float32)},
        {"features": np.zeros((3, 2), np.float32), "labels": np.zeros(2, np.int64)},
        {"features": np.zeros((3, 2), np.float32), "labels": np.array([0, 1, -1])},
        {"features": np.zeros((3, 2), np.float32), "labels": np.array([0.0, 1.0, 2.0])},
        {"features": np.full((3, 2), np.nan, np.float32), "labels": np.array([0, 1, 2])},
        {"features": np.zeros((3, 2), np.float32), "labels": np.array([0, 1, 2]), "num_classes": np.int64(2)},
        {"features": np.zeros((3, 2), np.float32), "labels": np.array([0, 1, 2]), "num_classes": np.float64(3)},
        {"features": np.zeros((0, 2), np.float32), "labels": np.zeros(0, np.int64)},
        {"features": np.zeros(3, np.float32), "labels": np.array([0, 1, 2])},
        {"features": np.array([[object()]]), "labels": np.array([0])},
        {"features": np.array([["text"]]), "labels": np.array([0])},
    ],
)
def test_load_npz__arrays_that_are_no_data_set__are_corrupt(tmp_path, arrays):
    np.savez(tmp_path / "dataset.npz", **arrays)
    with pytest.raises(DatasetCorrupt):
        load_folder(tmp_path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut", b"\x93NUMPY"])
def test_load_npz__not_an_archive__is_corrupt(tmp_path, data):
    (tmp_path / "dataset.npz").write_bytes(data)
    with pytest.raises(DatasetCorrupt):
        load_npz(tmp_path / "dataset.npz")


def test_load_npz__cut_archive__is_corrupt(tmp_path):
    path = save_folder(small_dataset(), tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DatasetCorrupt):
        load_npz(path)


def test_dataset__labels_of_another_length__is_refused():
    with pytest.raises(DatasetError):
        Dataset("odd", np.zeros((2, 1), np.float32), np.zeros(3, np.int64), 1)


def test_concatenate__other_shapes_or_nothing__is_refused():
    other = Dataset("other", np.zeros((2, 1), np.float32), np.zeros(2, np.int64), 4)
    with pytest.raises(DatasetError):
        concatenate([small_dataset(), other])
    with pytest.raises(DatasetError):
        concatenate([])


@pytest.mark.parametrize(
    ("labels", "problem"),
    [([0, -3], "a label -3, and labels count from 0"), ([0.0, 1.0], "labels float64"), ([0, 9], "a label 9")],
)
def test_load_npz__labels_that_cannot_be__says_which_and_how_to_save_it(tmp_path, labels, problem):
    np.savez(tmp_path / "dataset.npz", features=np.zeros((2, 3)), labels=np.array(labels), num_classes=2)
    with pytest.raises(DatasetCorrupt, match=problem) as caught:
        load_npz(tmp_path / "dataset.npz")
    assert "Fetch" not in caught.value.hint
    assert "integers from 0" in caught.value.hint

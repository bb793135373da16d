"""Labelled images: scikit-learn's digits (in its package), MNIST and CIFAR-10 (from a folder), and a user's own .npz.

No torch and no scikit-learn is imported here: `import sklearn.datasets` alone costs 2.5 s of CPU, and nine processes
of a demo would each pay it. A file is judged by its header and its length before anything of its size is allocated.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainfl.errors import ArraysUnfit, DatasetCorrupt, DatasetError, DatasetMissing, UsageError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

BUILT_IN = ("digits", "mnist", "cifar10")
NPZ_NAME = "dataset.npz"
PIXEL_SCALE = 1 / 255
"""What a model sees of a pixel of uint8 is between 0 and 1."""

_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_IDX_IMAGES, _IDX_LABELS = 0x00000803, 0x00000801
_MNIST_SIDE = 28
_MNIST_MAX_EXAMPLES = 60_000

_CIFAR_RECORD = 1 + 3 * 32 * 32
_CIFAR_MAX_BATCHES = 5
_CIFAR_MAX_EXAMPLES = 10_000

_DIGITS_SHAPE = (1797, 65)
_DIGITS_MAX_BYTES = 8 << 20


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples with one label each; immutable by convention.

    values: (n, ...) uint8 or float32 as stored; what a model sees is `features`, `values * scale`.
    labels: (n,) int64 in [0, num_classes).
    """

    name: str
    values: NDArray[Any]
    labels: IntArray
    num_classes: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        if len(self.values) != len(self.labels):
            raise DatasetError(f"{self.name}: {len(self.values)} examples, but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def features(self) -> FloatArray:
        """(n, ...) float32. Converted on first use, so that a whole MNIST costs its bytes until it is cut up."""
        if self.values.dtype == np.float32 and self.scale == 1.0:
            return self.values
        return np.multiply(self.values, np.float32(self.scale), dtype=np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example, (channels, height, width) for images."""
        return tuple(self.values.shape[1:])

    def subset(self, indices: IntArray) -> Dataset:
        """The examples at `indices`, in that order, as a copy that does not keep this set alive."""
        return Dataset(self.name, self.values[indices], self.labels[indices], self.num_classes, self.scale)


def not_finite(values: NDArray[Any]) -> tuple[int, ...] | None:
    """Example and place within it of the first value that is NaN or infinite; None where all are finite."""
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return None
    return tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])


def check_finite(dataset: Dataset, which: str) -> None:
    """Raises DatasetError that names the set and the first example that has a NaN or an infinity as float32."""
    if not np.isfinite(dataset.scale):
        raise DatasetError(f"{which}: its scale is {dataset.scale}, but features are finite; give it a finite one")
    if dataset.values.dtype.kind != "f":
        return
    found = not_finite(dataset.features)
    if found is not None:
        raise DatasetError(f"{which}: {not_finite_told(dataset.values, found)}")


def not_finite_told(values: NDArray[Any], found: tuple[int, ...]) -> str:
    """What is wrong with a value and what to do. found: of `not_finite`."""
    example, *place = found
    return (
        f"example {example} has {values[found]} at {place}, but features are finite float32; leave the example out, or "
        "fill the value in"
    )


@dataclass(frozen=True, eq=False)
class DatasetSplits:
    """A set as its publisher splits it; `test` is None when there is no test set of its own (digits)."""

    train: Dataset
    test: Dataset | None


def concatenate(parts: list[Dataset]) -> Dataset:
    """All examples of `parts` in order; they must share name, shape, scale and classes. Raises DatasetError."""
    if not parts:
        raise DatasetError("nothing to concatenate")
    first = parts[0]
    kinds = {(part.shape, part.num_classes, part.scale, part.values.dtype) for part in parts}
    if len(kinds) != 1:
        raise DatasetError(f"{first.name}: parts of different shapes or classes")
    values = np.concatenate([part.values for part in parts])
    return Dataset(first.name, values, np.concatenate([part.labels for part in parts]), first.num_classes, first.scale)


def load_dataset(name: str, data_dir: Path | None = None) -> DatasetSplits:
    """A built-in set by its name; MNIST and CIFAR-10 need the folder that holds their files.

    Raises UsageError for an unknown name or a missing folder name, DatasetMissing, DatasetCorrupt.
    """
    if name == "digits":
        return DatasetSplits(load_digits(), None)
    if name not in BUILT_IN:
        raise UsageError(f"no data set is called {name!r}; there are {', '.join(BUILT_IN)}", name=name)
    if data_dir is None:
        raise UsageError(
            f"{name} is read from a folder: name it (data_dir, or --data-dir); Data in docs/learning.md says where to "
            "get its files",
            name=name,
        )
    return load_mnist(data_dir) if name == "mnist" else load_cifar10(data_dir)


# --- digits --------------------------------------------------------------------------------------


def load_digits() -> Dataset:
    """scikit-learn's handwritten digits: 1,797 images of (1, 8, 8) in [0, 1]; its own loader's values / 16.

    Reads the compressed table inside the installed package without importing it.
    Raises DatasetMissing without scikit-learn, DatasetCorrupt when the table is damaged.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DatasetMissing("scikit-learn is not installed", file="digits.csv.gz", folder="sklearn/datasets/data")
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    path = _find(folder, "digits.csv")
    try:
        table = np.loadtxt(_read(path, _DIGITS_MAX_BYTES).decode("ascii").splitlines(), delimiter=",", dtype=np.float32)
    except ValueError as error:  # covers a wrong number, a ragged row and a byte that is not ASCII
        raise _corrupt(path, "it is not a table of numbers") from error
    if table.shape != _DIGITS_SHAPE or not _is_whole(table, 16) or table[:, -1].max() > 9:
        raise _corrupt(path, f"expected a table of {_DIGITS_SHAPE} whole numbers from 0 to 16")
    pixels = table[:, :-1].astype(np.uint8).reshape(-1, 1, 8, 8)
    return Dataset("digits", pixels, table[:, -1].astype(np.int64), 10, 1 / 16)


def _is_whole(table: FloatArray, largest: int) -> bool:
    return bool(np.all((table >= 0) & (table <= largest) & (table == np.floor(table))))


# --- MNIST ---------------------------------------------------------------------------------------


def load_mnist(folder: Path) -> DatasetSplits:
    """MNIST from its four IDX files, plain or .gz: images of (1, 28, 28) in [0, 1].

    Raises DatasetMissing, or DatasetCorrupt for a file that is cut, longer than its header says, swapped with
    another, or whose count differs from its partner's.
    """
    # Look for all the files before reading one, so that what is missing is said at once.
    paths = {split: [_find(folder, name) for name in names] for split, names in _MNIST_FILES.items()}
    _refuse_copies([path for pair in paths.values() for path in pair])
    train, test = (_mnist_split(*paths[split]) for split in ("train", "test"))
    return DatasetSplits(train, test)


def _mnist_split(images_path: Path, labels_path: Path) -> Dataset:
    images = _read_idx(images_path, _IDX_IMAGES)
    labels = _read_idx(labels_path, _IDX_LABELS)
    if len(images) != len(labels):
        message = f"it has {len(labels)} labels, but {images_path.name} has {len(images)} images"
        raise _corrupt(labels_path, message)
    _check_labels(labels_path, labels, 10)
    return Dataset("mnist", images, labels.astype(np.int64), 10, PIXEL_SCALE)


def _read_idx(path: Path, expected_magic: int) -> NDArray[np.uint8]:
    """(n, 1, 28, 28) or (n,) uint8. The header must be MNIST's and the length exactly what it says."""
    header_bytes, shape = (16, (1, _MNIST_SIDE, _MNIST_SIDE)) if expected_magic == _IDX_IMAGES else (8, ())
    value_bytes = int(np.prod(shape, dtype=np.int64))
    data = _read(path, header_bytes + _MNIST_MAX_EXAMPLES * value_bytes)
    if len(data) < header_bytes:
        raise _corrupt(path, f"it ends within its header of {header_bytes} bytes")
    magic, count, *sides = struct.unpack_from(f">{header_bytes // 4}I", data)
    if magic != expected_magic:
        raise _corrupt(path, _magic_problem(magic, expected_magic))
    if sides not in ([], [_MNIST_SIDE, _MNIST_SIDE]):
        raise _corrupt(path, f"its images are {sides[0]} by {sides[1]}, not 28 by 28")
    if count == 0 or len(data) != header_bytes + count * value_bytes:
        raise _corrupt(path, f"its header says {count} examples, its length {(len(data) - header_bytes) / value_bytes}")
    return np.frombuffer(data, np.uint8, offset=header_bytes).reshape(count, *shape)


def _magic_problem(magic: int, expected: int) -> str:
    kinds = {_IDX_IMAGES: "images", _IDX_LABELS: "labels"}
    if magic in kinds:
        return f"it holds {kinds[magic]}, not {kinds[expected]}: the files are swapped"
    return f"it is not an IDX file of {kinds[expected]} (magic {magic:#010x}, not {expected:#010x})"


# --- CIFAR-10 ------------------------------------------------------------------------------------


def load_cifar10(folder: Path) -> DatasetSplits:
    """CIFAR-10's binary version, plain or .gz: images of (3, 32, 32) in [0, 1].

    Reads `data_batch_1.bin` and as many of the following batches as are there without a gap, and `test_batch.bin`.
    Raises DatasetMissing, or DatasetCorrupt for a batch that is cut, has impossible labels, or is another's copy.
    """
    batches = _cifar_batches(folder)
    test = _find(folder, "test_batch.bin")
    _refuse_copies([*batches, test])
    return DatasetSplits(concatenate([_cifar_batch(path) for path in batches]), _cifar_batch(test))


def _cifar_batches(folder: Path) -> list[Path]:
    numbers = [n for n in range(1, _CIFAR_MAX_BATCHES + 1) if _lookup(folder, f"data_batch_{n}.bin")]
    last = max(numbers, default=1)
    return [_find(folder, f"data_batch_{n}.bin") for n in range(1, last + 1)]


def _cifar_batch(path: Path) -> Dataset:
    data = _read(path, _CIFAR_MAX_EXAMPLES * _CIFAR_RECORD)
    if not data or len(data) % _CIFAR_RECORD:
        raise _corrupt(path, f"{len(data)} bytes are not a whole number of records of {_CIFAR_RECORD}")
    records = np.frombuffer(data, np.uint8).reshape(-1, _CIFAR_RECORD)
    labels = records[:, 0].astype(np.int64)
    _check_labels(path, labels, 10)
    return Dataset("cifar10", records[:, 1:].reshape(-1, 3, 32, 32), labels, 10, PIXEL_SCALE)


# --- an operator's own folder --------------------------------------------------------------------


def load_folder(folder: Path) -> Dataset:
    """An operator's own examples: `dataset.npz` (see `save_folder`), or the training files of MNIST or CIFAR-10.

    Raises DatasetMissing when the folder has none of them, DatasetCorrupt when what it has is damaged.
    """
    if (folder / NPZ_NAME).is_file():
        return load_npz(folder / NPZ_NAME)
    if _lookup(folder, _MNIST_FILES["train"][0]) or _lookup(folder, _MNIST_FILES["train"][1]):
        return _mnist_train(folder)
    if _lookup(folder, "data_batch_1.bin"):
        return concatenate([_cifar_batch(path) for path in _cifar_batches(folder)])
    raise DatasetMissing(
        f"{folder} holds no data set: neither {NPZ_NAME}, nor MNIST's IDX files, nor CIFAR-10's binary batches",
        file=NPZ_NAME,
        folder=str(folder),
    )


def _mnist_train(folder: Path) -> Dataset:
    return _mnist_split(*(_find(folder, name) for name in _MNIST_FILES["train"]))


def load_npz(path: Path) -> Dataset:
    """A set from an .npz file with `features` (n, ...) uint8 or float, `labels` (n,) and, if present, `num_classes`.

    uint8 features are read as pixels and scaled to [0, 1]; others are taken as they are, as float32. Pickled objects
    are refused. Raises DatasetMissing, DatasetCorrupt.
    """
    if not path.is_file():
        raise DatasetMissing(f"{path} is not there", file=path.name, folder=str(path.parent))
    try:
        with np.load(path, allow_pickle=False) as archive:
            fields = {name: archive[name] for name in archive.files}
    except (
        OSError,
        ValueError,
        EOFError,
        zlib.error,
        struct.error,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
    ) as error:
        raise _unfit(path, f"it cannot be read as .npz ({error})") from error
    if missing := {"features", "labels"} - set(fields):
        raise _unfit(path, f"it has no array called {' or '.join(sorted(missing))}")
    return _from_arrays(path, fields)


def save_folder(dataset: Dataset, folder: Path) -> Path:
    """Writes `dataset.npz`, which `load_folder` reads back with the same features and labels; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NPZ_NAME
    # Only pixels of 0 to 255 mean something as uint8 without their scale.
    is_pixels = dataset.values.dtype == np.uint8 and dataset.scale == PIXEL_SCALE
    values = dataset.values if is_pixels else dataset.features
    np.savez_compressed(path, features=values, labels=dataset.labels, num_classes=np.int64(dataset.num_classes))
    return path


def _from_arrays(path: Path, fields: dict[str, NDArray[Any]]) -> Dataset:
    features, labels = fields["features"], fields["labels"]
    if features.ndim < 2 or labels.shape != features.shape[:1] or not len(labels):
        raise _unfit(path, f"features of {features.shape} do not go with labels of {labels.shape}")
    if labels.dtype.kind not in "iu" or features.dtype.kind not in "fu":
        raise _unfit(path, f"features are {features.dtype}, labels {labels.dtype}; expected pixels or floats, integers")
    if labels.min() < 0:
        raise _unfit(path, f"it has a label {labels.min()}, and labels count from 0")
    num_classes = _class_count(path, fields, labels)
    if labels.max() >= num_classes:
        raise _unfit(path, f"it has a label {labels.max()}, but num_classes is {num_classes}")
    if features.dtype == np.uint8:
        return Dataset(path.parent.name, features, labels.astype(np.int64), num_classes, PIXEL_SCALE)
    with np.errstate(over="ignore"):  # judged on the next line
        values = features.astype(np.float32)
    if (found := not_finite(values)) is not None:
        raise _unfit(path, not_finite_told(features, found))
    return Dataset(path.parent.name, values, labels.astype(np.int64), num_classes)


def _class_count(path: Path, fields: dict[str, NDArray[Any]], labels: NDArray[Any]) -> int:
    declared = fields.get("num_classes")
    if declared is None:
        return int(labels.max()) + 1
    if declared.shape != () or declared.dtype.kind not in "iu" or declared < 1:
        raise _unfit(path, "num_classes is not a positive whole number")
    return int(declared)


# --- files ---------------------------------------------------------------------------------------


def _lookup(folder: Path, name: str) -> Path | None:
    """The file, plain or with .gz, or None."""
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _find(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise DatasetMissing(f"the folder {folder} is not there", file=name, folder=str(folder))
    path = _lookup(folder, name)
    if path is None:
        raise DatasetMissing(f"{folder} has no {name}, plain or as .gz", file=name, folder=str(folder))
    return path


def _read(path: Path, max_bytes: int) -> bytes:
    """The file's bytes, unpacked when its name ends in .gz; never more than `max_bytes` are held."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _corrupt(path, f"it does not unpack ({error})") from error
    except OSError as error:
        raise DatasetMissing(f"{path} cannot be read ({error})", file=path.name, folder=str(path.parent)) from error
    if len(data) > max_bytes:
        raise _corrupt(path, f"it is longer than the {max_bytes} bytes that such a file can have")
    return data


def _refuse_copies(paths: list[Path]) -> None:
    """A batch put there twice, or a test set that is the training set, would only show as a wrong accuracy."""
    seen: dict[str, Path] = {}
    for digest, path in _digests(paths):
        if digest in seen:
            raise _corrupt(path, f"it is the same file as {seen[digest].name}")
        seen[digest] = path


def _digests(paths: list[Path]) -> Iterator[tuple[str, Path]]:
    for path in paths:
        with path.open("rb") as stream:
            yield hashlib.file_digest(stream, "sha256").hexdigest(), path


def _check_labels(path: Path, labels: NDArray[Any], num_classes: int) -> None:
    if labels.max() >= num_classes:
        raise _corrupt(path, f"it has a label {labels.max()}, but there are {num_classes} classes")


def _corrupt(path: Path, problem: str) -> DatasetCorrupt:
    return DatasetCorrupt(f"{path.name} in {path.parent}: {problem}", file=path.name, folder=str(path.parent))


def _unfit(path: Path, problem: str) -> ArraysUnfit:
    return ArraysUnfit(f"{path.name} in {path.parent}: {problem}", file=path.name, folder=str(path.parent))

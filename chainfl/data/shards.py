"""Shards: a labelled set cut into .npz files that have the same bytes on every machine, and the strict reader of them.

A shard is what `datasets.load_npz` takes: a zip archive of three arrays, stored and not compressed, with the earliest
time that a zip can hold. zlib's output differs between its versions, and numpy pads headers as its version likes, so
neither has a part in the bytes. A stranger's shard is held against the one form that it can have before anything is
allocated for it.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np
from numpy.typing import NDArray

from chainfl.errors import DatasetCorrupt, UsageError
from chainfl.training.datasets import Dataset, not_finite
from chainfl.training.partition import partition_dirichlet, partition_iid

Partition = Literal["iid", "dirichlet"]
FeatureType = Literal["uint8", "float32"]

_DESCR: Final[dict[str, str]] = {"uint8": "|u1", "float32": "<f4"}
_LABELS: Final = "<i8"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_HEADER_ALIGN: Final = 64
_PIECE_VALUES: Final = 1 << 20
_PIXEL_SCALE: Final = 1 / 255


@dataclass(frozen=True, slots=True)
class ShardForm:
    """All that a shard's size and header bytes follow from. input_shape: of one example."""

    dtype: FeatureType
    input_shape: tuple[int, ...]
    num_classes: int
    num_examples: int

    def members(self) -> tuple[tuple[str, bytes, int], ...]:
        """Name, .npy header and number of value bytes of each array, in the archive's order."""
        features = (self.num_examples, *self.input_shape)
        return (
            ("features.npy", *_npy(_DESCR[self.dtype], features)),
            ("labels.npy", *_npy(_LABELS, (self.num_examples,))),
            ("num_classes.npy", *_npy(_LABELS, ())),
        )

    def num_bytes(self) -> int:
        """How many bytes of arrays the archive holds; the file has a few hundred more."""
        return sum(len(header) + size for _, header, size in self.members())


def cut(dataset: Dataset, count: int, *, partition: Partition, alpha: float | None, seed: int) -> Iterator[Dataset]:
    """The shards, one after the other. One shard is the set as it is, in its order.

    Raises UsageError for an alpha that the partition does not take, and what the partitioners raise.
    """
    if (alpha is None) != (partition == "iid"):
        raise UsageError("--alpha goes with --partition dirichlet, and dirichlet needs it")
    if count == 1 and partition == "iid":
        yield dataset
        return
    rng = np.random.default_rng(seed)
    if alpha is None:
        parts = partition_iid(len(dataset), count, rng)
    else:
        parts = partition_dirichlet(dataset.labels, count, rng, alpha=alpha)
    for part in parts:
        yield dataset.subset(part)


def form_of(dataset: Dataset) -> ShardForm:
    """The form of the set's shard. Pixels of 0 to 255 stay bytes; all else becomes float32."""
    is_pixels = dataset.values.dtype == np.uint8 and dataset.scale == _PIXEL_SCALE
    return ShardForm("uint8" if is_pixels else "float32", dataset.shape, dataset.num_classes, len(dataset))


def write_shard(dataset: Dataset, target: BinaryIO) -> None:
    """Writes the set as a shard. target: seekable."""
    form = form_of(dataset)
    arrays: Sequence[NDArray[Any]] = (
        dataset.values if form.dtype == "uint8" else dataset.features,
        dataset.labels,
        np.array(dataset.num_classes),
    )
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for (name, header, size), array in zip(form.members(), arrays, strict=True):
            with archive.open(_entry(name, len(header) + size), "w") as member:
                member.write(header)
                for piece in _pieces(array, _LABELS if name != "features.npy" else _DESCR[form.dtype]):
                    member.write(piece)


def read_shard(path: Path, form: ShardForm, name: str) -> Dataset:
    """The set in a stranger's shard that must have this form. name: what the set is called.

    Raises DatasetCorrupt for every other file, before anything is allocated that the file itself does not hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(path, archive, form)
            arrays = [_read_array(archive, *member) for member in form.members()]
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, struct.error) as error:
        raise _corrupt(path, f"it cannot be read as an archive ({error})") from error
    except zipfile.BadZipFile as error:
        raise _corrupt(path, f"it is not a sound archive ({error})") from error
    if arrays[2].view(_LABELS).item() != form.num_classes:
        raise _corrupt(path, f"it does not say that there are {form.num_classes} classes")
    shape = (form.num_examples, *form.input_shape)
    return _checked(path, form, name, arrays[0].view(_DESCR[form.dtype]).reshape(shape), arrays[1].view(_LABELS))


def _checked(path: Path, form: ShardForm, name: str, values: NDArray[Any], labels: NDArray[Any]) -> Dataset:
    if not 0 <= labels.min() <= labels.max() < form.num_classes:
        raise _corrupt(path, f"a label is not one of {form.num_classes} classes")
    if (place := not_finite(values)) is not None:
        raise _corrupt(path, f"example {place[0]} has a feature that is not finite")
    scale = _PIXEL_SCALE if form.dtype == "uint8" else 1.0
    return Dataset(name, values.astype(form.dtype, copy=False), labels.astype(np.int64), form.num_classes, scale)


def _check_entries(path: Path, archive: zipfile.ZipFile, form: ShardForm) -> None:
    seen = [(entry.filename, entry.file_size, entry.compress_size, entry.compress_type) for entry in archive.filelist]
    size_of = {name: len(header) + size for name, header, size in form.members()}
    if seen != [(name, size, size, zipfile.ZIP_STORED) for name, size in size_of.items()]:
        raise _corrupt(path, f"its arrays are not those of {form.num_examples} examples as described")


def _read_array(archive: zipfile.ZipFile, name: str, header: bytes, size: int) -> NDArray[np.uint8]:
    """The value bytes of one array. Sized by the form, which `_check_entries` has held against the file."""
    values = np.empty(size, np.uint8)
    with archive.open(name) as member:
        if member.read(len(header)) != header:
            raise ValueError(f"{name} has another type or shape than described")
        filled = 0
        while filled < size and (piece := member.read(min(size - filled, _PIECE_VALUES))):
            values.data[filled : filled + len(piece)] = piece
            filled += len(piece)
        if filled < size or member.read(1):
            raise ValueError(f"{name} does not have the length that its header says")
    return values


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    entry.file_size = size  # decides on zip64 before the first byte
    return entry


def _npy(descr: str, shape: tuple[int, ...]) -> tuple[bytes, int]:
    """Header and number of value bytes of a .npy file, version 1.0, padded to 64 bytes and no further."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode("ascii")
    length = -(-(10 + len(text) + 1) // _HEADER_ALIGN) * _HEADER_ALIGN - 10
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", length) + text.ljust(length - 1) + b"\n"
    size = np.dtype(descr).itemsize
    for side in shape:
        size *= side
    return header, size


def _pieces(array: NDArray[Any], descr: str) -> Iterator[memoryview]:
    flat = array.reshape(-1)
    for start in range(0, flat.size, _PIECE_VALUES):
        yield np.ascontiguousarray(flat[start : start + _PIECE_VALUES], descr).data.cast("B")


def _corrupt(path: Path, problem: str) -> DatasetCorrupt:
    return DatasetCorrupt(f"the shard {path.name}: {problem}", file=path.name, folder=str(path.parent))

"""Shards: the same bytes for everybody, what `load_npz` reads, hostile when read."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from data_sets import floats, pixels
from hypothesis import given
from hypothesis import strategies as st

from chainfl.data.shards import ShardForm, cut, form_of, read_shard, write_shard
from chainfl.errors import DatasetCorrupt, DatasetError, UsageError
from chainfl.training.datasets import Dataset, load_npz


def shard_bytes(dataset) -> bytes:
    target = io.BytesIO()
    write_shard(dataset, target)
    return target.getvalue()


def same(left, right) -> bool:
    return np.array_equal(left.features, right.features) and np.array_equal(left.labels, right.labels)


def test_write_shard__fixed_set__the_bytes_that_it_always_had():
    # Another Python, numpy or zlib must not give operators another CID for the same data.
    values, labels = np.arange(24, dtype=np.uint8).reshape(4, 1, 3, 2), np.array([0, 1, 2, 1])
    digests = [
        hashlib.sha256(shard_bytes(Dataset("fixed", values, labels, 3, scale))).hexdigest() for scale in (1 / 255, 0.5)
    ]
    assert digests == [
        "bad32f2e67038f2cece73be308744156711d9cb8c018de893626d269e9a1c866",
        "9c4240ed511859e14e5d5a9fd20eb4ed7e2db892e6316e907c6f0b77037942bb",
    ]


@pytest.mark.parametrize("dataset", [pixels(), floats()], ids=["pixels", "floats"])
def test_write_shard__read_by_numpy_and_by_our_reader__the_same_set(tmp_path, dataset):
    path = tmp_path / "dataset.npz"
    path.write_bytes(shard_bytes(dataset))
    assert same(load_npz(path), dataset)
    read = read_shard(path, form_of(dataset), "tiny")
    assert same(read, dataset)
    assert read.num_classes == dataset.num_classes


def test_write_shard__transposed_array__written_in_its_logical_order(tmp_path):
    dataset = replace(pixels(), values=np.asfortranarray(pixels().values))
    assert shard_bytes(dataset) == shard_bytes(pixels())


def test_form__pixels_with_another_scale__become_floats():
    assert form_of(replace(pixels(), scale=1 / 16)).dtype == "float32"
    assert form_of(pixels()) == ShardForm("uint8", (1, 3, 2), 4, 40)


def test_cut__one_shard__is_the_set_in_its_order():
    (only,) = cut(pixels(), 1, partition="iid", alpha=None, seed=5)
    assert same(only, pixels())


@pytest.mark.parametrize(("partition", "alpha"), [("iid", None), ("dirichlet", 0.5)])
def test_cut__several_shards__every_example_once_and_the_same_again(partition, alpha):
    parts = list(cut(pixels(), 3, partition=partition, alpha=alpha, seed=1))
    assert sum(map(len, parts)) == 40
    together = np.concatenate([part.values for part in parts])
    assert sorted(map(bytes, together)) == sorted(map(bytes, pixels().values))
    assert all(map(same, parts, cut(pixels(), 3, partition=partition, alpha=alpha, seed=1)))


@pytest.mark.parametrize(("partition", "alpha"), [("iid", 0.5), ("dirichlet", None)])
def test_cut__alpha_and_partition_that_do_not_go_together__refused(partition, alpha):
    with pytest.raises(UsageError):
        list(cut(pixels(), 3, partition=partition, alpha=alpha, seed=1))


def test_cut__more_shards_than_examples__refused():
    with pytest.raises(DatasetError):
        list(cut(pixels(), 41, partition="iid", alpha=None, seed=1))


def rezipped(change) -> bytes:
    """The shard of `pixels()` with its arrays changed, as another program would write it."""
    with zipfile.ZipFile(io.BytesIO(shard_bytes(pixels()))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", change.pop("compression", zipfile.ZIP_STORED)) as archive:
        for name, content in {**members, **change}.items():
            if content is not None:
                archive.writestr(name, content)
    return target.getvalue()


def npy(array) -> bytes:
    target = io.BytesIO()
    np.save(target, array)
    return target.getvalue()


HUGE = npy(np.zeros((40, 1, 3, 2), np.uint8)).replace(b"(40, 1, 3, 2)", b"(1<<40,3,2) ")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        shard_bytes(pixels())[:-30],
        shard_bytes(pixels())[:200],
        shard_bytes(pixels(39)),
        shard_bytes(floats()),
        rezipped({"compression": zipfile.ZIP_DEFLATED}),
        rezipped({"labels.npy": None}),
        rezipped({"more.npy": b"x"}),
        rezipped({"features.npy": HUGE}),
        rezipped({"labels.npy": npy(np.full(40, 4))}),
        rezipped({"labels.npy": npy(np.full(40, -1))}),
        rezipped({"labels.npy": npy(np.array([None] * 40, object))}),
        rezipped({"num_classes.npy": npy(np.array(9))}),
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_read_shard__not_of_the_described_form__refused(tmp_path, data):
    path = tmp_path / "shard.npz"
    path.write_bytes(data)
    with pytest.raises(DatasetCorrupt):
        read_shard(path, form_of(pixels()), "tiny")


def test_read_shard__feature_that_is_not_finite__refused(tmp_path):
    dataset = floats()
    dataset.values[3, 2] = np.nan
    path = tmp_path / "shard.npz"
    path.write_bytes(shard_bytes(dataset))
    with pytest.raises(DatasetCorrupt, match="finite"):
        read_shard(path, form_of(dataset), "tiny")


@given(position=st.integers(0, len(shard_bytes(pixels())) - 1), mask=st.integers(1, 255))
def test_read_shard__any_byte_changed__refused_or_the_same_arrays(tmp_path_factory, position, mask):
    data = bytearray(shard_bytes(pixels()))
    data[position] ^= mask
    path = tmp_path_factory.getbasetemp() / "changed.npz"
    path.write_bytes(data)
    try:
        read = read_shard(path, form_of(pixels()), "tiny")
    except DatasetCorrupt:
        return
    assert same(read, pixels())

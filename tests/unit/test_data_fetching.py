"""Publishing and fetching: nothing twice, nothing unchecked, nothing half-written."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from data_sets import WORDS, floats, pixels, published
from fake_chain import MemoryStore

from chainfl.data import fetching
from chainfl.data.croissant import Description
from chainfl.data.fetching import chosen_shards, fetch, fetch_description, fetch_shard, open_shard
from chainfl.data.publishing import Cutting, publish
from chainfl.errors import BlobNotFound, DatasetCorrupt, DescriptionInvalid, PayloadTooLarge, UsageError
from chainfl.storage.unixfs import cid_of
from chainfl.training.datasets import load_folder


class Counting(MemoryStore):
    """Remembers what it was asked for; `broken` after so many puts or gets."""

    def __init__(self, broken: int = 1_000) -> None:
        super().__init__()
        self.put: list[str] = []
        self.got: list[str] = []
        self.broken = broken

    def put_file(self, path, **options):
        if len(self.put) == self.broken:
            raise KeyboardInterrupt
        cid = super().put_file(path)
        self.put.append(cid)
        return cid

    def get_file(self, cid, target, *, max_bytes, **options):
        if len(self.got) == self.broken:
            raise KeyboardInterrupt
        self.got.append(cid)
        super().get_file(cid, target, max_bytes=max_bytes)


def quiet(*_: object) -> None:
    pass


def fetch_all(store, cid, told: Description, folder, numbers=None, **options) -> bool:
    settings = {"max_bytes": 1 << 30, "replace": False, "tell": quiet} | options
    return fetch(store, cid, told, numbers or chosen_shards(told, None), folder, **settings)


def test_publish__cut_off_and_run_again__puts_the_rest_and_gives_the_same_cids():
    store = Counting(broken=2)
    with pytest.raises(KeyboardInterrupt):
        published(store)
    first, store.broken, heard = list(store.put), 1_000, []
    cid, told = publish(pixels(), store, WORDS, Cutting(3), lambda *event: heard.append(event))
    assert store.put == [*(shard.cid for shard in told.shards), cid]
    assert [(number, moved) for number, _, moved in heard] == [(1, False), (2, False), (3, True)]
    assert first == store.put[:2]
    assert cid == published(MemoryStore())[0]


@pytest.mark.parametrize("count", [0, 4097])
def test_publish__impossible_number_of_shards__refused(count):
    with pytest.raises(UsageError):
        publish(pixels(), MemoryStore(), WORDS, Cutting(count), quiet)


def test_fetch_description__another_file__refused():
    store = MemoryStore()
    with pytest.raises(DescriptionInvalid):
        fetch_description(store, store.put_bytes(b"{}"))


@pytest.mark.parametrize(
    ("choice", "numbers"), [(None, [1, 2, 3]), ("2", [2]), ("1/2", [1, 3]), ("2/2", [2]), ("3/3", [3]), ("3/9", [3])]
)
def test_chosen_shards__of_three__those(choice, numbers):
    assert chosen_shards(published(MemoryStore())[1], choice) == numbers


@pytest.mark.parametrize("choice", ["0", "4", "4/9", "3/2", "x", "", "1/0", "²", "-1", "1.0"])
def test_chosen_shards__no_such_shard__refused(choice):
    with pytest.raises(UsageError):
        chosen_shards(published(MemoryStore())[1], choice)


@pytest.mark.parametrize("dataset", [pixels(), floats()], ids=["pixels", "floats"])
def test_fetch__all_shards__every_example_in_one_file(tmp_path, dataset):
    store = MemoryStore()
    cid, told = published(store, dataset)
    assert fetch_all(store, cid, told, tmp_path / "out")
    loaded = load_folder(tmp_path / "out")
    assert sorted(map(bytes, loaded.features)) == sorted(map(bytes, dataset.features))
    assert sorted(loaded.labels) == sorted(dataset.labels)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset.json", "dataset.npz"]


def test_fetch__one_shard__is_its_very_file(tmp_path):
    store = MemoryStore()
    cid, told = published(store)
    fetch_all(store, cid, told, tmp_path, [2])
    assert cid_of((tmp_path / "dataset.npz").read_bytes()) == told.shards[1].cid


def test_fetch__done_before__asks_for_nothing(tmp_path):
    store = Counting()
    cid, told = published(store)
    fetch_all(store, cid, told, tmp_path)
    store.got.clear()
    assert not fetch_all(store, cid, told, tmp_path)
    assert store.got == []


def test_fetch__cut_off_and_run_again__fetches_the_rest_alone(tmp_path):
    store = Counting(broken=2)
    cid, told = published(MemoryStore())
    store.blobs = {shard.cid: content for shard in told.shards for content in [_content(shard.cid)]}
    with pytest.raises(KeyboardInterrupt):
        fetch_all(store, cid, told, tmp_path)
    assert not (tmp_path / "dataset.npz").exists()
    store.broken = 1_000
    store.got.clear()
    fetch_all(store, cid, told, tmp_path)
    assert store.got == [told.shards[2].cid]


def _content(cid):
    store = MemoryStore()
    published(store)
    return store.blobs[cid]


def test_fetch__cut_off_between_the_record_and_the_file__finishes_without_the_store(tmp_path, monkeypatch):
    store = Counting()
    cid, told = published(store)
    with monkeypatch.context() as patched:
        patched.setattr(fetching, "_write_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch_all(store, cid, told, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".shards"]
    store.got.clear()
    fetch_all(store, cid, told, tmp_path)
    assert store.got == []
    assert len(load_folder(tmp_path)) == 40


def test_fetch__other_data_there__kept_unless_replacing_is_allowed(tmp_path):
    store = MemoryStore()
    cid, told = published(store)
    fetch_all(store, cid, told, tmp_path, [1])
    before = (tmp_path / "dataset.npz").read_bytes()
    with pytest.raises(UsageError, match="--force"):
        fetch_all(store, cid, told, tmp_path, [2])
    assert (tmp_path / "dataset.npz").read_bytes() == before
    assert fetch_all(store, cid, told, tmp_path, [2], replace=True)


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b'{"x": 1}', b"\xff", bytes(2 << 20)], ids=range(6))
def test_fetch__record_that_nobody_of_us_wrote__is_no_record(tmp_path, record):
    store = MemoryStore()
    cid, told = published(store)
    (tmp_path / "dataset.json").write_bytes(record)
    assert fetch_all(store, cid, told, tmp_path)
    assert json.loads((tmp_path / "dataset.json").read_bytes())["description"] == cid


def test_fetch__larger_than_allowed__refused_before_anything_is_fetched(tmp_path):
    store = Counting()
    cid, told = published(store)
    store.got.clear()
    with pytest.raises(PayloadTooLarge):
        fetch_all(store, cid, told, tmp_path, max_bytes=told.num_bytes - 1)
    assert store.got == []


def test_fetch__shard_that_nobody_serves__told(tmp_path):
    store = MemoryStore()
    cid, told = published(store)
    store.drop(told.shards[1].cid)
    with pytest.raises(BlobNotFound):
        fetch_all(store, cid, told, tmp_path)


@pytest.mark.parametrize("change", [{"sha256": "00" * 32}, {"num_bytes": 5_000}])
def test_fetch_shard__not_the_file_described__refused_and_removed(tmp_path, change):
    store = MemoryStore()
    _, told = published(store)
    lying = replace(told, shards=(replace(told.shards[0], **change),))
    with pytest.raises(DatasetCorrupt):
        fetch_shard(store, lying, 1, tmp_path / "shard.npz")
    assert list(tmp_path.iterdir()) == []


def test_open_shard__other_label_counts_than_described__refused(tmp_path):
    store = MemoryStore()
    _, told = published(store)
    counts = np.roll(told.shards[0].label_counts, 1)
    assert tuple(counts) != told.shards[0].label_counts
    lying = replace(told, shards=(replace(told.shards[0], label_counts=tuple(map(int, counts))),))
    fetch_shard(store, told, 1, tmp_path / "shard.npz")
    with pytest.raises(DatasetCorrupt, match="label counts"):
        open_shard(lying, 1, tmp_path / "shard.npz")

"""How far a transfer is: heard in order, to the end, and of several as of the slowest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from data_sets import WORDS, pixels, published

from chainfl.data.fetching import fetch
from chainfl.data.publishing import Cutting, publish
from chainfl.errors import StoreFull
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.moved import Slowest, counted
from chainfl.storage.several import Place, SeveralStores
from chainfl.storage.unixfs import CidBuilder, read_dag
from chainfl.types import Cid

MIB = 1 << 20
DATA = bytes(range(256)) * 8 * 1024 + b"the end"  # three chunks
STEPS = [(MIB, len(DATA)), (2 * MIB, len(DATA)), (len(DATA), len(DATA))]


class Heard(list[tuple[int, int]]):
    """A Moved that remembers."""

    def __call__(self, done: int, total: int) -> None:
        self.append((done, total))


def test_counted__a_part_that_is_not_used_up__is_not_counted() -> None:
    heard = Heard()
    parts = counted([b"ab", b"c"], 3, heard)
    assert next(parts) == b"ab"
    assert heard == []
    assert next(parts) == b"c"
    assert heard == [(2, 3)]


def test_embedded__put_and_get__are_heard_piece_by_piece(tmp_path: Path) -> None:
    store, source = EmbeddedStore(tmp_path / "store"), tmp_path / "source"
    source.write_bytes(DATA)
    put, got = Heard(), Heard()
    cid = store.put_file(source, moved=put)
    store.get_file(cid, tmp_path / "target", max_bytes=len(DATA), moved=got)
    assert put == got == STEPS


def test_embedded__put_of_a_pipe__has_no_total(tmp_path: Path) -> None:
    heard, (end, start) = Heard(), os.pipe()
    os.write(start, b"content")
    os.close(start)
    EmbeddedStore(tmp_path).put_file(Path(f"/dev/fd/{end}"), moved=heard)
    os.close(end)
    assert heard == [(7, 0)]


def test_read_dag__leaf_by_leaf__is_heard_with_the_size_that_the_root_states() -> None:
    blocks: dict[Cid, bytes] = {}
    builder, heard = CidBuilder(blocks.__setitem__), Heard()
    builder.update(DATA)
    assert b"".join(read_dag(builder.finish(), blocks.__getitem__, max_bytes=len(DATA), moved=heard)) == DATA
    assert heard == STEPS


def test_slowest__of_two__is_heard_until_it_ends_and_then_the_other() -> None:
    heard = Heard()
    slowest = Slowest(heard, ["a", "b"])
    with slowest.going("a") as first:
        with slowest.going("b") as second:
            first(5, 9)
            second(3, 9)
        first(6, 9)
    assert heard == [(0, 9), (3, 9), (6, 9)]


def test_slowest__one_fails__the_other_is_heard() -> None:
    heard = Heard()
    slowest = Slowest(heard, ["a", "b"])
    with pytest.raises(StoreFull), slowest.going("a"):
        raise StoreFull("disk full")
    with slowest.going("b") as second:
        second(3, 9)
    assert heard == [(3, 9)]


def test_several__put__is_heard_as_far_as_every_store_is(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    heard = Heard()
    places = [Place(name, EmbeddedStore(tmp_path / name)) for name in ("a", "b")]
    SeveralStores(places, quorum=2).put_file(tmp_path / "source", moved=heard)
    assert set(heard) >= {STEPS[-1]}
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)


def test_several__get__is_heard_of_the_store_that_gives(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "store")
    cid, heard = store.put_bytes(DATA), Heard()
    several = SeveralStores([Place("a", EmbeddedStore(tmp_path / "empty")), Place("b", store)])
    several.get_file(cid, tmp_path / "target", max_bytes=len(DATA), moved=heard)
    assert heard == STEPS


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "there"])
def test_publish__shard_by_shard__is_heard_in_bytes(tmp_path: Path, is_there: bool) -> None:
    store, heard = EmbeddedStore(tmp_path / "store"), Heard()
    told = published(store)[1] if is_there else None
    _, described = publish(pixels(), store, WORDS, Cutting(3), lambda *_: None, heard)
    assert told in (None, described)
    assert heard == [(shard.num_bytes, shard.num_bytes) for shard in described.shards]


def test_fetch__shard_by_shard__is_heard_in_bytes_and_not_of_what_was_there(tmp_path: Path) -> None:
    store, heard = EmbeddedStore(tmp_path / "store"), Heard()
    cid, told = published(store)

    def tell(*_: object) -> None:
        raise KeyboardInterrupt

    options = {"max_bytes": MIB, "replace": False}
    with pytest.raises(KeyboardInterrupt):
        fetch(store, cid, told, [1, 2, 3], tmp_path / "mine", tell=tell, **options)
    fetch(store, cid, told, [1, 2, 3], tmp_path / "mine", tell=lambda *_: None, moved=heard, **options)
    assert heard == [(shard.num_bytes, shard.num_bytes) for shard in told.shards[1:]]

"""Blocks fetched ahead: the right ones, in order, never more than the window, and errors where they belong."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainfl.errors import BlobNotFound
from chainfl.storage.cid import DAG_PB, codec_of
from chainfl.storage.readahead import ReadAhead
from chainfl.storage.unixfs import CidBuilder, Layout, cid_of, read_dag
from chainfl.types import Cid

TINY = Layout(chunk_bytes=4, max_links=3)
WAIT_S = 10


class Upstream:
    """Blocks in a dictionary; knows how many were fetched and not handed over."""

    def __init__(self, blocks: dict[str, bytes]) -> None:
        self.blocks = blocks
        self.fetched: list[Cid] = []
        self.reached = threading.Semaphore(0)
        self.gate: threading.Event | None = None
        self._lock = threading.Lock()

    def fetch(self, cid: Cid) -> bytes:
        with self._lock:
            self.fetched.append(cid)
        self.reached.release()
        if self.gate:
            assert self.gate.wait(WAIT_S)
        if cid not in self.blocks:
            raise BlobNotFound(f"no {cid}", cid=cid)
        return self.blocks[cid]


def file_of(data: bytes) -> tuple[Cid, Upstream]:
    blocks: dict[str, bytes] = {}
    builder = CidBuilder(blocks.__setitem__, layout=TINY)
    builder.update(data)
    return builder.finish(), Upstream(blocks)


def leaves(count: int) -> list[tuple[Cid, bytes]]:
    blocks = [b"leaf %d" % number for number in range(count)]
    return [(cid_of(block), block) for block in blocks]


@given(st.integers(0, 200), st.integers(1, 4), st.integers(0, 5), st.booleans())
def test_read_dag__through_read_ahead__same_content_each_block_once(
    size: int, workers: int, more: int, repeats: bool
) -> None:
    data = bytes(size) if repeats else bytes(range(size))
    cid, upstream = file_of(data)
    direct = Upstream(upstream.blocks)
    assert b"".join(read_dag(cid, direct.fetch, max_bytes=size, layout=TINY)) == data
    with ReadAhead(upstream.fetch, workers=workers, window=workers + more) as ahead:
        assert b"".join(read_dag(cid, ahead.fetch, max_bytes=size, expect=ahead.expect, layout=TINY)) == data
    assert Counter(upstream.fetched) == Counter(direct.fetched)


def test_expect__more_than_the_window__fetches_no_further() -> None:
    blocks = leaves(10)
    upstream = Upstream(dict(blocks))
    with ReadAhead(upstream.fetch, workers=2, window=3) as ahead:
        ahead.expect([cid for cid, _ in blocks])
        for count, (cid, block) in enumerate(blocks):
            assert len(upstream.fetched) <= count + 3
            assert ahead.fetch(cid) == block
    assert upstream.fetched[:1] == [blocks[0][0]]


def test_expect__workers__fetch_at_the_same_time() -> None:
    blocks = leaves(4)
    upstream = Upstream(dict(blocks))
    upstream.gate = threading.Event()
    with ReadAhead(upstream.fetch, workers=4, window=4) as ahead:
        ahead.expect([cid for cid, _ in blocks])
        for _ in range(4):
            assert upstream.reached.acquire(timeout=WAIT_S)
        upstream.gate.set()
        assert [ahead.fetch(cid) for cid, _ in blocks] == [block for _, block in blocks]


def test_expect__a_node__nothing_behind_it_is_fetched_before_its_children() -> None:
    cid, upstream = file_of(bytes(range(81)))  # a root over three nodes, each over three nodes of leaves
    read = read_dag(cid, upstream.fetch, max_bytes=81, layout=TINY)
    assert len(list(read)) == 21
    nodes = [block for block in dict.fromkeys(upstream.fetched) if codec_of(block) == DAG_PB][1:]
    upstream.fetched.clear()
    with ReadAhead(upstream.fetch, workers=1, window=8) as ahead:
        ahead.expect(nodes)
        ahead.fetch(nodes[0])
        assert upstream.fetched == nodes[:1]
        ahead.expect(nodes[4:])
        for node in nodes[4:]:
            ahead.fetch(node)
        assert upstream.fetched == [nodes[0], *nodes[4:]]


def test_expect__block_displaced_by_others__is_kept_until_its_turn() -> None:
    blocks = leaves(6)
    upstream = Upstream(dict(blocks))
    with ReadAhead(upstream.fetch, workers=1, window=2) as ahead:
        ahead.expect([cid for cid, _ in blocks[3:]])
        ahead.expect([cid for cid, _ in blocks[:3]])
        assert [ahead.fetch(cid) for cid, _ in blocks] == [block for _, block in blocks]
    assert set(Counter(upstream.fetched).values()) == {1}


def test_fetch__block_that_nobody_expected__comes_on_the_spot() -> None:
    (cid, block), (other, _) = leaves(2)
    upstream = Upstream({cid: block, other: b"leaf 1"})
    with ReadAhead(upstream.fetch, workers=1, window=1) as ahead:
        ahead.expect([other])
        assert ahead.fetch(cid) == block
        assert ahead.fetch(other) == b"leaf 1"
    assert Counter(upstream.fetched) == Counter([cid, other])


def test_fetch__failed_ahead__raises_where_the_block_is_asked_for() -> None:
    (first, block), (missing, _), (last, end) = leaves(3)
    upstream = Upstream({first: block, last: end})
    with ReadAhead(upstream.fetch, workers=2, window=3) as ahead:
        ahead.expect([first, missing, last])
        assert ahead.fetch(first) == block
        with pytest.raises(BlobNotFound):
            ahead.fetch(missing)
        assert ahead.fetch(last) == end


def test_leaving__fetches_under_way__waits_for_nobody_and_starts_nothing() -> None:
    blocks = leaves(5)
    upstream = Upstream(dict(blocks))
    upstream.gate = threading.Event()
    with ReadAhead(upstream.fetch, workers=1, window=5) as ahead:
        ahead.expect([cid for cid, _ in blocks])
        assert upstream.reached.acquire(timeout=WAIT_S)
    assert upstream.fetched == [blocks[0][0]]
    upstream.gate.set()


def test_fetch__under_way__its_thread_keeps_no_process_from_ending() -> None:
    blocks = leaves(1)
    upstream = Upstream(dict(blocks))
    fetchers: list[threading.Thread] = []

    def fetch(cid: Cid) -> bytes:
        fetchers.append(threading.current_thread())
        return upstream.fetch(cid)

    with ReadAhead(fetch, workers=1, window=1) as ahead:
        ahead.expect([blocks[0][0]])
        assert ahead.fetch(blocks[0][0]) == blocks[0][1]
    assert [thread.daemon for thread in fetchers] == [True]

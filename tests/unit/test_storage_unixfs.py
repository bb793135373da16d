"""UnixFS: the official importer's CIDs byte for byte, and a reader that takes nothing but what it would make."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainfl.errors import BlobNotFound, CidMismatch, InvalidCid, MalformedDag, PayloadTooLarge
from chainfl.storage.cid import CID_BYTES, DAG_PB, RAW, cid_from_bytes, cid_to_bytes, codec_of, make_cid
from chainfl.storage.unixfs import (
    MAX_BLOCK_BYTES,
    UNIXFS_V1_2025,
    CidBuilder,
    Layout,
    Link,
    cid_of,
    encode_node,
    read_dag,
)
from chainfl.types import Cid

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "cid.json").read_text())
SMALL = Layout(chunk_bytes=4, max_links=3)
ANY = 1 << 40
Blocks = dict[Cid, bytes]


def content(size: int, period: int) -> Iterator[memoryview]:
    """The vectors' content: the same rule as in scripts/cid_vectors.mjs."""
    seed = VECTORS["content"]["seed"].encode()
    blocks = (hashlib.sha256(seed + i.to_bytes(8, "big")).digest() for i in range((period + 31) // 32))
    pattern = memoryview(b"".join(blocks)[:period])
    for at in range(0, size, period):
        yield pattern[: size - at]


def blocks_of(data: bytes, layout: Layout = SMALL) -> tuple[Cid, Blocks]:
    blocks: Blocks = {}
    builder = CidBuilder(blocks.__setitem__, layout=layout)
    builder.update(data)
    return builder.finish(), blocks


def fetch_from(blocks: Blocks) -> Callable[[Cid], bytes]:
    def fetch(cid: Cid) -> bytes:
        if cid not in blocks:
            raise BlobNotFound(f"no {cid}", cid=cid)
        return blocks[cid]

    return fetch


def read(root: Cid, blocks: Blocks, *, max_bytes: int = ANY, layout: Layout = SMALL) -> bytes:
    return b"".join(read_dag(root, fetch_from(blocks), max_bytes=max_bytes, layout=layout))


def put(blocks: Blocks, block: bytes, codec: int = DAG_PB) -> Cid:
    cid = make_cid(codec, hashlib.sha256(block).digest())
    blocks[cid] = block
    return cid


# --- the importer's CIDs -------------------------------------------------------------------------


def vector_id(vector: dict[str, Any]) -> str:
    layout = vector.get("layout")
    return f"{vector['size']}" + (f"-{layout['chunk_bytes']}x{layout['max_links']}" if layout else "")


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=vector_id)
def test_cid_builder__vector__equals_the_official_importer(vector: dict[str, Any]) -> None:
    builder = CidBuilder(layout=Layout(**vector["layout"]) if "layout" in vector else UNIXFS_V1_2025)
    for piece in content(vector["size"], vector["period"]):
        builder.update(piece)
    assert builder.finish() == vector["cid"]


def test_vectors__sizes__reach_beyond_one_node_of_links() -> None:
    assert max(v["size"] for v in VECTORS["vectors"]) > 1024 * MAX_BLOCK_BYTES


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=6))
def test_cid_builder__any_cuts__do_not_change_the_cid(data: bytes, cuts: list[int]) -> None:
    builder = CidBuilder(layout=SMALL)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in itertools.pairwise(edges):
        builder.update(memoryview(data)[start:stop])
    assert builder.finish() == blocks_of(data)[0]


def test_cid_builder__buffers_of_larger_items__are_their_bytes() -> None:
    builder = CidBuilder()
    builder.update(memoryview(bytes(range(32))).cast("i"))
    assert builder.finish() == cid_of(bytes(range(32)))


# --- reading back --------------------------------------------------------------------------------


@given(st.binary(max_size=400))
def test_read_dag__what_the_builder_made__comes_back(data: bytes) -> None:
    root, blocks = blocks_of(data)
    assert read(root, blocks, max_bytes=len(data)) == data


@pytest.mark.parametrize("size", [0, 1, MAX_BLOCK_BYTES - 1, MAX_BLOCK_BYTES, MAX_BLOCK_BYTES + 1, 3 * MAX_BLOCK_BYTES])
def test_read_dag__profile_sizes__come_back_and_no_block_is_over_the_limit(size: int) -> None:
    data = bytes(size)
    root, blocks = blocks_of(data, UNIXFS_V1_2025)
    assert max(map(len, blocks.values())) <= MAX_BLOCK_BYTES
    assert read(root, blocks, layout=UNIXFS_V1_2025) == data


def test_encode_node__full_node_of_the_profile__fits_the_block_limit() -> None:
    links = [Link(bytes(CID_BYTES), 1 << 50, 1 << 51)] * UNIXFS_V1_2025.max_links
    assert len(encode_node(links)) < 80_000 < MAX_BLOCK_BYTES


@pytest.mark.parametrize("size", [3, 4, 5, 12, 13, 40])
def test_read_dag__limit_at_minus_one_zero_plus_one(size: int) -> None:
    data = bytes(range(size))
    root, blocks = blocks_of(data)
    assert read(root, blocks, max_bytes=size) == data
    assert read(root, blocks, max_bytes=size + 1) == data
    with pytest.raises(PayloadTooLarge):
        read(root, blocks, max_bytes=size - 1)


@pytest.mark.parametrize("size", [3, 5, 13, 40])
def test_read_dag__any_block_changed_or_cut__is_a_mismatch(size: int) -> None:
    root, blocks = blocks_of(bytes(range(size)))
    for cid, block in blocks.items():
        for damaged in (block[:-1], block + b"\0", bytes([block[0] ^ 1]) + block[1:], b""):
            with pytest.raises(CidMismatch):
                read(root, {**blocks, cid: damaged})


def test_read_dag__block_missing__is_not_found() -> None:
    root, blocks = blocks_of(bytes(range(40)))
    for cid in blocks:
        with pytest.raises(BlobNotFound):
            read(root, {other: block for other, block in blocks.items() if other != cid})


def test_read_dag__not_a_cid__is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(InvalidCid):
        read(Cid("hello"), {})


# --- strangers -----------------------------------------------------------------------------------


def leaves(blocks: Blocks, data: bytes) -> list[Link]:
    parts = [data[at : at + SMALL.chunk_bytes] for at in range(0, len(data), SMALL.chunk_bytes)]
    return [Link(cid_to_bytes(put(blocks, part, RAW)), len(part), len(part)) for part in parts]


def file_data(size: int, block_sizes: list[int], *, kind: int = 2, inline: bytes = b"") -> bytes:
    out = bytes([0x08, kind]) + (bytes([0x12, len(inline)]) + inline if inline else b"")
    return out + bytes([0x18, size]) + b"".join(bytes([0x20, s]) for s in block_sizes)


def node(links: list[bytes], data: bytes) -> bytes:
    return b"".join(bytes([0x12, len(link)]) + link for link in links) + bytes([0x0A, len(data)]) + data


def raw_link(cid: bytes, dag_size: int, name: bytes = b"") -> bytes:
    return bytes([0x0A, len(cid)]) + cid + bytes([0x12, len(name)]) + name + bytes([0x18, dag_size])


def hostile_nodes() -> dict[str, tuple[Blocks, bytes]]:
    """Root blocks over "abcdefgh" that differ from the right one in one respect, with the leaves they need."""
    blocks: Blocks = {}
    first, second = leaves(blocks, b"abcdefgh")
    a, b = first.cid, second.cid
    right = [raw_link(a, 4), raw_link(b, 4)]
    good = node(right, file_data(8, [4, 4]))
    assert good == encode_node([first, second])
    sha512 = b"\x01\x55\x13\x40" + bytes(64)
    nodes = {
        "size larger than the content": node(right, file_data(9, [4, 4])),
        "size smaller than the content": node(right, file_data(7, [4, 4])),
        "size of one chunk": node(right, file_data(4, [4, 4])),
        "size zero": node(right, file_data(0, [4, 4])),
        "block sizes that lie": node(right, file_data(8, [3, 5])),
        "block sizes missing": node(right, file_data(8, [])),
        "a link size that lies": node([raw_link(a, 4), raw_link(b, 127)], file_data(8, [4, 4])),
        "a link too many": node([*right, raw_link(a, 4)], file_data(8, [4, 4])),
        "a link too few": node(right[:1], file_data(8, [4, 4])),
        "no link": node([], file_data(8, [4, 4])),
        "an empty link": node([b"", b""], file_data(8, [4, 4])),
        "a named link": node([raw_link(a, 4, b"x"), right[1]], file_data(8, [4, 4])),
        "a directory": node(right, file_data(8, [4, 4], kind=1)),
        "a symlink": node([], b"\x08\x04\x12\x01/"),
        "data inside of the node": node(right, file_data(8, [4, 4], inline=b"x")),
        "data before links": good[len(good) - 12 :] + good[: len(good) - 12],
        "bytes after the end": good + b"\0",
        "the data twice": good + good[-12:],
        "a number in more bytes than it needs": good[:-12] + b"\x0a\x0b\x08\x02\x18\x88\x00" + b"\x20\x04\x20\x04",
        "an endless number": good[:-9] + b"\x18" + b"\xff" * 40,
        "an empty block": b"",
        "the end cut off": good[:-3],
        "a link longer than the block": b"\x12\x7f" + good[2:],
        "a CIDv0 link": node([raw_link(a[2:], 4), right[1]], file_data(8, [4, 4])),
        "a link to another hash": node([raw_link(sha512, 4), right[1]], file_data(8, [4, 4])),
        "a link to another codec": node([raw_link(b"\x01\x71" + a[2:], 4), right[1]], file_data(8, [4, 4])),
        "a link to a node instead of a leaf": node([raw_link(b"\x01\x70" + a[2:], 4), right[1]], file_data(8, [4, 4])),
    }
    return {name: (blocks, block) for name, block in nodes.items()}


@pytest.mark.parametrize("name", hostile_nodes())
def test_read_dag__node_that_the_importer_would_not_make__is_malformed(name: str) -> None:
    blocks, block = hostile_nodes()[name]
    blocks = dict(blocks)
    with pytest.raises(MalformedDag):
        read(put(blocks, block), blocks)


def test_read_dag__leaf_shorter_than_its_parent_says__is_malformed() -> None:
    blocks: Blocks = {}
    links = [*leaves(blocks, b"abcd"), Link(cid_to_bytes(put(blocks, b"xy", RAW)), 4, 4)]
    with pytest.raises(MalformedDag, match="2 bytes where its parent says 4"):
        read(put(blocks, encode_node(links)), blocks)


def test_read_dag__raw_root_larger_than_a_chunk__is_malformed() -> None:
    blocks: Blocks = {}
    with pytest.raises(MalformedDag):
        read(put(blocks, b"abcde", RAW), blocks)


def test_read_dag__one_chunk_wrapped_in_a_node__is_malformed() -> None:
    blocks: Blocks = {}
    with pytest.raises(MalformedDag, match="fit into one leaf"):
        read(put(blocks, encode_node(leaves(blocks, b"abcd"))), blocks)


def bomb(depth: int) -> tuple[Cid, Blocks, int]:
    """`depth` valid levels that each link the one below 1,024 times: a petabyte of zeros out of a few blocks."""
    blocks: Blocks = {}
    chunk = bytes(UNIXFS_V1_2025.chunk_bytes)
    link = Link(cid_to_bytes(put(blocks, chunk, RAW)), len(chunk), len(chunk))
    for _ in range(depth):
        block = encode_node([link] * UNIXFS_V1_2025.max_links)
        cid = put(blocks, block)
        link = Link(cid_to_bytes(cid), link.size * 1024, link.dag_size * 1024 + len(block))
    return cid_from_bytes(link.cid), blocks, link.size


def test_read_dag__bomb_of_honest_sizes__is_refused_at_its_root() -> None:
    root, blocks, size = bomb(3)
    assert size == 1 << 50
    with pytest.raises(PayloadTooLarge) as caught:
        read(root, {root: blocks[root]}, max_bytes=100 << 20, layout=UNIXFS_V1_2025)
    assert caught.value.evidence == {"size": size, "limit": 100 << 20}


def test_read_dag__bomb_that_claims_to_be_small__is_malformed_before_a_leaf_is_read() -> None:
    root, blocks, _ = bomb(2)
    child = cid_to_bytes(next(cid for cid in blocks if codec_of(cid) == DAG_PB and cid != root))
    claimed = 1024 * 1024  # a kilobyte a link, where each holds a gigabyte
    lying = put(blocks, encode_node([Link(child, 1024, 1024)] * 1024))
    honest_looking = put(blocks, encode_node([Link(child, MAX_BLOCK_BYTES, MAX_BLOCK_BYTES)] * 2))
    for cid in (lying, honest_looking):
        fetched: list[Cid] = []

        def fetch(wanted: Cid, fetched: list[Cid] = fetched) -> bytes:
            fetched.append(wanted)
            return blocks[wanted]

        with pytest.raises(MalformedDag):
            list(read_dag(cid, fetch, max_bytes=2 * claimed))
        assert fetched == [cid]


def test_read_dag__chain_of_ten_thousand_nodes__is_malformed_at_the_first() -> None:
    blocks: Blocks = {}
    link = leaves(blocks, b"abcd")[0]
    for _ in range(10_000):
        block = encode_node([link])
        link = Link(cid_to_bytes(put(blocks, block)), 8, link.dag_size + len(block))
    with pytest.raises(MalformedDag):
        read(cid_from_bytes(link.cid), blocks)


@given(st.binary(max_size=300))
def test_read_dag__random_bytes_as_a_node__end_in_a_typed_error(block: bytes) -> None:
    blocks: Blocks = {}
    with pytest.raises((MalformedDag, PayloadTooLarge)):
        read(put(blocks, block), blocks, max_bytes=1 << 20)


@given(data=st.data(), size=st.integers(5, 60))
def test_read_dag__any_byte_of_a_root_changed__is_refused(data: st.DataObject, size: int) -> None:
    root, blocks = blocks_of(bytes(range(size)))
    block = bytearray(blocks[root])
    at = data.draw(st.integers(0, len(block) - 1))
    block[at] ^= data.draw(st.integers(1, 255))
    # A changed link may name a block that is not there; everything else is malformed or too large.
    with pytest.raises((MalformedDag, PayloadTooLarge, BlobNotFound)):
        read(put(blocks, bytes(block)), blocks, max_bytes=1 << 20)

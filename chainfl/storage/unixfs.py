"""UnixFS files under the `unixfs-v1-2025` profile: content to CID, and a DAG of blocks back to content.

A file is cut into chunks of 1 MiB, each a raw block. One chunk alone is the file; more become a balanced tree of
dag-pb nodes with up to 1,024 links each. The same bytes therefore have exactly one tree and one CID, whoever
adds them, and the reader here accepts that tree alone: a size that lies, a link too many, a directory or a bomb
of nested nodes is refused at the first block that is not what the importer makes for the size that was claimed.
Source: IPIP-499 (profiles), https://specs.ipfs.tech/unixfs (messages), the dag-pb specification (canonical form).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from chainfl.errors import CidMismatch, InvalidCid, MalformedDag, PayloadTooLarge
from chainfl.storage.cid import CID_BYTES, DAG_PB, RAW, cid_from_bytes, cid_to_bytes, codec_of, digest_of, make_cid
from chainfl.storage.moved import Moved, counted, unheard
from chainfl.types import Cid

Sink = Callable[[Cid, bytes], None]
"""Takes each block as it is complete, leaves before the nodes that link to them."""

Fetch = Callable[[Cid], bytes]
"""Gives the block of a CID, unverified and at most MAX_BLOCK_BYTES long. Raises BlobNotFound."""

Expect = Callable[[Sequence[Cid]], None]
"""Hears which blocks will be asked for next, in order, so that they can be fetched ahead. It need not do anything."""


@dataclass(frozen=True)
class Layout:
    """How a file becomes a tree. chunk_bytes: of a leaf; max_links: of a node."""

    chunk_bytes: int
    max_links: int

    def height(self, size: int) -> int:
        """Levels of nodes above the leaves of a file of `size` bytes; 0 for a single chunk."""
        height, capacity = 0, self.chunk_bytes
        while capacity < size:
            height, capacity = height + 1, capacity * self.max_links
        return height

    def child_sizes(self, size: int, height: int) -> list[int]:
        """File bytes below each child of a node at `height` >= 1 that covers `size` bytes: all full but the last."""
        full = self.chunk_bytes * self.max_links ** (height - 1)
        count, rest = divmod(size, full)
        return [full] * count + ([rest] if rest else [])


UNIXFS_V1_2025: Final = Layout(chunk_bytes=1 << 20, max_links=1024)
MAX_BLOCK_BYTES: Final = 1 << 20
"""No block of the profile is larger: a full leaf is 1 MiB, a full node about 60 KiB."""


class Link(NamedTuple):
    """One child as its parent sees it. cid: binary; size: file bytes below; dag_size: those plus the nodes' own."""

    cid: bytes
    size: int
    dag_size: int


# --- encoding ------------------------------------------------------------------------------------


def encode_node(links: Sequence[Link]) -> bytes:
    """The dag-pb block of a UnixFS file node, links before data, as every importer writes it."""
    out = bytearray()
    for cid, _, dag_size in links:
        link = b"\x0a\x24" + cid + b"\x12\x00\x18" + _varint(dag_size)
        out += b"\x12" + _varint(len(link)) + link
    data = b"\x08\x02\x18" + _varint(sum(link.size for link in links))
    data += b"".join(b"\x20" + _varint(link.size) for link in links)
    return bytes(out + b"\x0a" + _varint(len(data)) + data)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class CidBuilder:
    """The CID of a stream, in constant memory (a hash state and up to 1,024 links a level).

    sink: gets every block, for a caller that stores or sends the DAG; without it no byte is copied.
    """

    def __init__(self, sink: Sink | None = None, *, layout: Layout = UNIXFS_V1_2025) -> None:
        self._sink = sink
        self._layout = layout
        self._levels: list[list[Link]] = [[]]
        self._hash = hashlib.sha256()
        self._fill = 0  # bytes in the current leaf
        self._leaf = bytearray()  # the same bytes, only kept for a sink
        self._finished = False

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Appends bytes. Any C-contiguous buffer of native items will do (`array.view(np.uint8)` for others)."""
        assert not self._finished, "update after finish"
        view = memoryview(data).cast("B")
        while view:
            if self._fill == self._layout.chunk_bytes:
                self._close_leaf()
            part = view[: self._layout.chunk_bytes - self._fill]
            self._hash.update(part)
            if self._sink:
                self._leaf += part
            self._fill += len(part)
            view = view[len(part) :]

    def finish(self) -> Cid:
        """The CID of everything appended; of the empty file if that is nothing. Ends the stream."""
        assert not self._finished, "finish twice"
        self._finished = True
        if self._fill or not self._levels[0]:
            self._close_leaf()
        height = 0
        while height < len(self._levels) - 1 or len(self._levels[height]) > 1:
            if self._levels[height]:
                self._close_node(height)
            height += 1
        return cid_from_bytes(self._levels[height][0].cid)

    def _close_leaf(self) -> None:
        cid = make_cid(RAW, self._hash.digest())
        if self._sink:
            self._sink(cid, bytes(self._leaf))
        self._append(0, Link(cid_to_bytes(cid), self._fill, self._fill))
        self._hash, self._fill = hashlib.sha256(), 0
        self._leaf.clear()

    def _close_node(self, height: int) -> None:
        links = self._levels[height]
        block = encode_node(links)
        cid = make_cid(DAG_PB, hashlib.sha256(block).digest())
        if self._sink:
            self._sink(cid, block)
        self._levels[height] = []
        size, dag_size = sum(link.size for link in links), sum(link.dag_size for link in links)
        self._append(height + 1, Link(cid_to_bytes(cid), size, dag_size + len(block)))

    def _append(self, height: int, link: Link) -> None:
        if height == len(self._levels):
            self._levels.append([])
        # A full level is folded when the next link comes, not before: the last one may be the root.
        if len(self._levels[height]) == self._layout.max_links:
            self._close_node(height)
        self._levels[height].append(link)


def cid_of(data: bytes | bytearray | memoryview) -> Cid:
    """The CID of `data` as a file."""
    builder = CidBuilder()
    builder.update(data)
    return builder.finish()


# --- decoding ------------------------------------------------------------------------------------


def read_dag(
    root: Cid,
    fetch: Fetch,
    *,
    max_bytes: int,
    expect: Expect | None = None,
    moved: Moved = unheard,
    layout: Layout = UNIXFS_V1_2025,
) -> Iterator[bytes]:
    """The content below `root`, leaf by leaf in order, each verified before it is yielded.

    Fetches no more blocks than a file of `max_bytes` has, and holds one leaf and one node a level.
    expect: told the children of each node once the node itself is known to be right; moved: of each leaf.
    Raises InvalidCid, PayloadTooLarge (before the first leaf), CidMismatch for a block with another hash,
    MalformedDag for blocks that are not the tree of a file, and what `fetch` raises.
    """
    block = _verified(root, fetch)
    size = _stated_size(root, block, layout)
    _refuse_too_large(root, size, max_bytes)
    yield from counted(_walk(root, block, size, layout.height(size), _Source(fetch, expect), layout), size, moved)


def block_cids(root: Cid, fetch: Fetch, *, max_bytes: int, layout: Layout = UNIXFS_V1_2025) -> Iterator[Cid]:
    """The CIDs of all blocks of a file, each once, as `read_dag` first asks for them. Fetches the nodes alone.

    A few nodes with equal links can state more leaves than anybody could count: no CID is followed twice, and nothing
    below a root that states more than `max_bytes`.
    Raises what `read_dag` raises for a node; a file of one leaf is not fetched, and so not measured.
    """
    yield root
    if codec_of(root) == DAG_PB:
        block = _verified(root, fetch)
        size = _stated_size(root, block, layout)
        _refuse_too_large(root, size, max_bytes)
        yield from _cids_below(root, block, size, layout.height(size), _Distinct(fetch, {root}), layout)


class _Distinct(NamedTuple):
    fetch: Fetch
    seen: set[Cid]


def _cids_below(cid: Cid, block: bytes, size: int, height: int, source: _Distinct, layout: Layout) -> Iterator[Cid]:
    for child, child_size in _children(cid, block, size, height, layout):
        if child in source.seen:
            continue
        source.seen.add(child)
        yield child
        if height > 1:
            yield from _cids_below(child, _verified(child, source.fetch), child_size, height - 1, source, layout)


def _refuse_too_large(root: Cid, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise PayloadTooLarge(f"{root} has {size} bytes, at most {max_bytes} are allowed", size=size, limit=max_bytes)


def _stated_size(root: Cid, block: bytes, layout: Layout) -> int:
    """The file size that a root block states, if a file of that size has such a root."""
    if codec_of(root) == RAW:
        if len(block) > layout.chunk_bytes:
            raise MalformedDag(f"a leaf of {len(block)} bytes is larger than a chunk: {root}", cid=root)
        return len(block)
    size = _claimed_size(root, block)
    if size <= layout.chunk_bytes:
        raise MalformedDag(f"a tree over {size} bytes, which fit into one leaf: {root}", cid=root)
    return size


class _Source(NamedTuple):
    fetch: Fetch
    expect: Expect | None


def _walk(cid: Cid, block: bytes, size: int, height: int, source: _Source, layout: Layout) -> Iterator[bytes]:
    """Yields the leaves below `block`, which covers `size` bytes; recursion is as deep as the file is high."""
    if height == 0:
        if len(block) != size:
            raise MalformedDag(f"a leaf has {len(block)} bytes where its parent says {size}: {cid}", cid=cid)
        yield block
        return
    children = _children(cid, block, size, height, layout)
    if source.expect:
        source.expect([child for child, _ in children])
    for child, child_size in children:
        yield from _walk(child, _verified(child, source.fetch), child_size, height - 1, source, layout)


def _children(cid: Cid, block: bytes, size: int, height: int, layout: Layout) -> list[tuple[Cid, int]]:
    """The children of a node at `height` >= 1 that covers `size` bytes, and how many of these each covers."""
    sizes = layout.child_sizes(size, height)
    children = _child_cids(cid, block, len(sizes))
    links = [Link(c, s, _dag_size(s, height - 1, layout)) for c, s in zip(children, sizes, strict=True)]
    # One comparison refuses every lie about sizes, order, names, types, extra fields and non-canonical varints.
    if encode_node(links) != block:
        raise MalformedDag(f"not the node of a file of {size} bytes under unixfs-v1-2025: {cid}", cid=cid)
    codec = RAW if height == 1 else DAG_PB
    below = [(cid_from_bytes(link.cid), link.size) for link in links]
    for child, _ in below:
        if codec_of(child) != codec:
            raise MalformedDag(f"a child with another codec than its level's: {child}", cid=child)
    return below


def _verified(cid: Cid, fetch: Fetch) -> bytes:
    digest = digest_of(cid)
    block = fetch(cid)
    if hashlib.sha256(block).digest() != digest:
        raise CidMismatch(f"a block of {len(block)} bytes does not match its CID {cid}", cid=cid)
    return block


@lru_cache(maxsize=256)
def _dag_size(size: int, height: int, layout: Layout) -> int:
    """What a link to a subtree of `size` bytes must state as its total: a function of the size alone."""
    if height == 0:
        return size
    sizes = layout.child_sizes(size, height)
    links = [Link(bytes(CID_BYTES), s, _dag_size(s, height - 1, layout)) for s in sizes]
    return len(encode_node(links)) + sum(link.dag_size for link in links)


def _claimed_size(cid: Cid, block: bytes) -> int:
    """The file size that a root node states. Only a claim: `_walk` holds the whole tree against it."""
    try:
        at = 0
        while block[at] == 0x12:
            length, at = _read_varint(block, at + 1)
            at += length
        if block[at] == 0x0A:
            _, at = _read_varint(block, at + 1)
            if block[at : at + 3] == b"\x08\x02\x18":
                return _read_varint(block, at + 3)[0]
    except (IndexError, ValueError) as error:
        raise MalformedDag(f"a node that ends too early or has an endless number: {cid}", cid=cid) from error
    raise MalformedDag(f"not a UnixFS file: {cid} (a directory, a symlink, or something else)", cid=cid)


def _child_cids(cid: Cid, block: bytes, count: int) -> list[bytes]:
    """The first `count` links' binary CIDs, from where a canonical node has them."""
    out: list[bytes] = []
    at = 0
    for _ in range(count):
        child = block[at + 4 : at + 4 + CID_BYTES]
        if len(child) != CID_BYTES or block[at + 2 : at + 4] != b"\x0a\x24":
            raise MalformedDag(f"fewer or other links than a file of its size has: {cid}", cid=cid)
        try:
            cid_from_bytes(child)
        except InvalidCid as error:
            raise MalformedDag(f"a link to a CID with another hash or codec: {cid}", cid=cid) from error
        out.append(child)
        at += 2 + block[at + 1]
    return out


def _read_varint(block: bytes, at: int) -> tuple[int, int]:
    """A number of up to 63 bits and where it ends. Raises IndexError past the end, ValueError beyond nine bytes."""
    value = 0
    for shift in range(0, 63, 7):
        byte = block[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a varint of more than 63 bits")

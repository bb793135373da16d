"""A stream of blocks as CARv1, read block by block: only what a trustless gateway answers for one CID.

    varint | header { roots, version: 1 }, then for each block: varint | binary CID | bytes

The stream comes from a stranger. Its header must be one of the two that a gateway writes for the CID that was asked
for (with it as the root, or with none), so there is no CBOR to parse; a length is refused before a byte of it is
read, and each block is held against its CID before it is given out.
Source: https://ipld.io/specs/transport/car/carv1/, https://specs.ipfs.tech/http-gateways/trustless-gateway/
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Final

from chainfl.errors import CidMismatch, InvalidCid, StorageError
from chainfl.storage.cid import CID_BYTES, cid_from_bytes, cid_to_bytes, digest_of
from chainfl.storage.unixfs import MAX_BLOCK_BYTES
from chainfl.types import Cid

Read = Callable[[int], bytes]
"""Gives the next bytes of a stream, up to as many as were asked for; fewer only at the end."""

_VARINT_BYTES: Final = 3  # up to 2 MiB: a block of the profile and its CID fit in
_VERSION: Final = b"\x67version\x01"
_ROOTS: Final = b"\xa2\x65roots"


def car_headers(root: Cid) -> tuple[bytes, bytes]:
    """The headers, in DAG-CBOR, that a stream for `root` may have: with `root` as its one root, and with none."""
    link = b"\xd8\x2a\x58\x25\x00" + cid_to_bytes(root)
    return _ROOTS + b"\x81" + link + _VERSION, _ROOTS + b"\x80" + _VERSION


def read_car(read: Read, root: Cid) -> Iterator[tuple[Cid, bytes]]:
    """The blocks of a stream for `root` in its order, each verified. Reads nothing ahead.

    Raises StorageError for what is no such stream or ends within a block, CidMismatch for a block that is another
    than its CID says, InvalidCid for one with another hash or codec, and what `read` raises.
    """
    allowed = car_headers(root)
    length = _length(read, max(map(len, allowed)))
    if length is None or _exactly(read, length) not in allowed:
        raise StorageError(f"not a CAR stream of version 1 for {root}", cid=root)
    while (length := _length(read, CID_BYTES + MAX_BLOCK_BYTES)) is not None:
        if length < CID_BYTES:
            raise InvalidCid(f"a CAR stream for {root} has a block with another kind of CID", cid=root)
        cid = cid_from_bytes(_exactly(read, CID_BYTES))
        block = _exactly(read, length - CID_BYTES)
        if hashlib.sha256(block).digest() != digest_of(cid):
            raise CidMismatch(f"a block of {len(block)} bytes in a CAR stream does not match its CID {cid}", cid=cid)
        yield cid, block


def _length(read: Read, most: int) -> int | None:
    """The varint that comes next; None at the end of the stream. Raises StorageError beyond `most`."""
    value = 0
    for at in range(_VARINT_BYTES):
        byte = read(1) if at == 0 else _exactly(read, 1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << 7 * at
        if byte[0] < 0x80:
            break
    else:
        raise StorageError("a CAR stream with a length of more than three bytes")
    if value > most:
        raise StorageError(f"a CAR stream with a part of {value} bytes where {most} are possible")
    return value


def _exactly(read: Read, size: int) -> bytes:
    data = read(size)
    if len(data) != size:
        raise StorageError(f"a CAR stream that ends {size - len(data)} bytes too early")
    return data

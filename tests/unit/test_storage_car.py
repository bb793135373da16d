"""CAR streams as gateways write them, and as nobody should."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainfl.errors import CidMismatch, InvalidCid, StorageError
from chainfl.storage.car import car_headers, read_car
from chainfl.storage.cid import DAG_PB, RAW, cid_to_bytes, make_cid
from chainfl.storage.unixfs import MAX_BLOCK_BYTES, cid_of
from chainfl.types import Cid

# `ipfs dag export` of Kubo 0.42.0 for the file b"hello\n", added under unixfs-v1-2025.
KUBO = bytes.fromhex(
    "3aa265726f6f747381d82a582500015512205891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    "6776657273696f6e012a015512205891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be0368656c6c6f0a"
)
HELLO = b"hello\n"
ROOT = cid_of(HELLO)


class Source(io.BytesIO):
    """A stream that counts what was asked of it."""

    asked = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        self.asked += size
        return super().read(size)


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def part(content: bytes) -> bytes:
    return varint(len(content)) + content


def car(*blocks: tuple[bytes, bytes], header: bytes = car_headers(ROOT)[0]) -> bytes:
    return part(header) + b"".join(part(cid + block) for cid, block in blocks)


def block_of(data: bytes, codec: int = RAW) -> tuple[bytes, bytes]:
    return cid_to_bytes(make_cid(codec, hashlib.sha256(data).digest())), data


def read(stream: bytes, root: Cid = ROOT) -> list[tuple[Cid, bytes]]:
    return list(read_car(io.BytesIO(stream).read, root))


def test_read_car__what_kubo_exports__gives_its_block() -> None:
    assert read(KUBO) == [(ROOT, HELLO)]
    assert car(block_of(HELLO)) == KUBO


def test_read_car__blocks__in_their_order_with_what_repeats() -> None:
    stream = car(block_of(b"node", DAG_PB), block_of(b"a"), block_of(b"a"), block_of(b""))
    assert [block for _, block in read(stream)] == [b"node", b"a", b"a", b""]


def test_read_car__header_without_a_root__is_taken() -> None:
    assert read(car(block_of(HELLO), header=car_headers(ROOT)[1])) == [(ROOT, HELLO)]


def test_read_car__largest_block__is_taken_and_one_byte_more_is_not_read() -> None:
    assert read(car(block_of(bytes(MAX_BLOCK_BYTES))))[0][1] == bytes(MAX_BLOCK_BYTES)
    source = Source(car(block_of(bytes(MAX_BLOCK_BYTES + 1))))
    with pytest.raises(StorageError, match="are possible"):
        list(read_car(source.read, ROOT))
    assert source.asked < 100


def test_read_car__nothing_asked__nothing_read_ahead() -> None:
    source = Source(car(block_of(b"a" * 100), block_of(b"b" * 100)))
    blocks = read_car(source.read, ROOT)
    assert source.tell() == 0
    next(blocks)
    assert source.tell() == len(car(block_of(b"a" * 100)))


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\xff" * 20,
        b"\x80\x80\x80\x01",
        part(b"\xa2" * 58),
        part(car_headers(cid_of(b"another"))[0]),
        part(car_headers(ROOT)[0][:-1] + b"\x02"),
        varint(1 << 20),
        part(b""),
        b"<html>not found</html>",
    ],
    ids=["empty", "endless varint", "long varint", "not CBOR", "other root", "version 2", "bomb", "no header", "page"],
)
def test_read_car__other_header__is_refused_within_a_few_bytes(start: bytes) -> None:
    source = Source(start + car(block_of(HELLO)) if start else b"")
    with pytest.raises(StorageError):
        list(read_car(source.read, ROOT))
    assert source.asked <= 61


@pytest.mark.parametrize("size", [1 << 21, 1 << 40, 1 << 62])
def test_read_car__huge_length__is_refused_before_it_is_read(size: int) -> None:
    source = Source(car() + varint(size) + bytes(100))
    with pytest.raises(StorageError):
        list(read_car(source.read, ROOT))
    assert source.asked < 100


def test_read_car__cut_anywhere__gives_whole_blocks_and_then_an_error_or_the_end() -> None:
    stream = car(block_of(b"first"), block_of(b"second"))
    ends = {len(car()), len(car(block_of(b"first"))), len(stream)}
    for cut in range(len(stream)):
        blocks = read_car(io.BytesIO(stream[:cut]).read, ROOT)
        if cut in ends:
            assert [block for _, block in blocks] == [b"first", b"second"][: sorted(ends).index(cut)]
        else:
            with pytest.raises(StorageError):
                list(blocks)


def test_read_car__block_other_than_its_cid__is_a_mismatch() -> None:
    with pytest.raises(CidMismatch):
        read(car((block_of(b"a")[0], b"b")))


@pytest.mark.parametrize(
    "cid",
    [
        b"\x12\x20" + bytes(34),  # CIDv0, and two bytes of its block
        b"\x01\x71\x12\x20" + bytes(32),  # dag-cbor
        b"\x01\x55\x1e\x20" + bytes(32),  # blake3
        b"\x01\x55\x00\x03abc" + bytes(29),  # identity
        b"\x02\x55\x12\x20" + bytes(32),
    ],
    ids=["CIDv0", "dag-cbor", "blake3", "identity", "version 2"],
)
def test_read_car__cid_of_another_kind__is_refused(cid: bytes) -> None:
    with pytest.raises(InvalidCid):
        read(car((cid, b"block")))


def test_read_car__section_shorter_than_a_cid__is_refused() -> None:
    for size in (0, 1, 35):
        with pytest.raises(InvalidCid):
            read(car() + part(bytes(size)))


@given(st.binary(max_size=300), st.booleans())
def test_read_car__any_bytes__end_in_verified_blocks_or_a_storage_error(tail: bytes, with_header: bool) -> None:
    try:
        for cid, block in read((car() if with_header else b"") + tail):
            assert hashlib.sha256(block).digest() == cid_to_bytes(cid)[4:]
    except StorageError:
        return


def test_headers__are_canonical_dag_cbor() -> None:
    one, none = car_headers(ROOT)
    assert one == KUBO[1 : 1 + KUBO[0]]
    assert none == b"\xa2\x65roots\x80\x67version\x01"

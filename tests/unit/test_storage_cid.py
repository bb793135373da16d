"""CIDs: one spelling, 36 bytes on chain, and nothing else accepted."""

from __future__ import annotations

import base64
import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainfl.errors import InvalidCid
from chainfl.storage.cid import (
    CID_BYTES,
    DAG_PB,
    RAW,
    cid_from_bytes,
    cid_to_bytes,
    codec_of,
    digest_of,
    make_cid,
    parse_cid,
)
from chainfl.types import Cid

EMPTY_FILE = Cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku")
EMPTY_DIGEST = hashlib.sha256(b"").digest()


def text_of(binary: bytes) -> str:
    return "b" + base64.b32encode(binary).decode().rstrip("=").lower()


def test_make_cid__empty_file__is_what_ipfs_shows() -> None:
    assert make_cid(RAW, EMPTY_DIGEST) == EMPTY_FILE


@given(codec=st.sampled_from([RAW, DAG_PB]), digest=st.binary(min_size=32, max_size=32))
def test_cid__any_digest__round_trips_through_36_bytes(codec: int, digest: bytes) -> None:
    cid = make_cid(codec, digest)
    binary = cid_to_bytes(cid)
    assert len(binary) == CID_BYTES
    assert (cid_from_bytes(binary), codec_of(cid), digest_of(cid)) == (cid, codec, digest)
    assert parse_cid(str(cid)) == cid


@pytest.mark.parametrize(
    "binary",
    [
        b"",
        cid_to_bytes(EMPTY_FILE)[:-1],
        cid_to_bytes(EMPTY_FILE) + b"\0",
        b"\x12\x20" + EMPTY_DIGEST,  # CIDv0
        b"\x02\x55\x12\x20" + EMPTY_DIGEST,  # version 2
        b"\x01\x71\x12\x20" + EMPTY_DIGEST,  # dag-cbor
        b"\x01\x55\x1b\x20" + EMPTY_DIGEST,  # keccak-256
        b"\x01\x55\x00\x20" + EMPTY_DIGEST,  # identity
        b"\x01\x55\x12\x1f" + EMPTY_DIGEST,  # a digest cut short
        b"\x81\x00\x55\x12\x20" + EMPTY_DIGEST[:-1],  # a version that is not minimal
    ],
)
def test_cid_from_bytes__another_form__is_refused(binary: bytes) -> None:
    with pytest.raises(InvalidCid):
        cid_from_bytes(binary)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "hello",
        "../../etc/passwd",
        "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH",
        f"/ipfs/{EMPTY_FILE}",
        f"ipfs://{EMPTY_FILE}",
        EMPTY_FILE.upper(),
        "B" + EMPTY_FILE[1:].upper(),
        EMPTY_FILE + "a",
        EMPTY_FILE[:-1],
        EMPTY_FILE + "\n",
        " " + EMPTY_FILE,
        EMPTY_FILE[:-1] + "1",  # outside of the alphabet
        EMPTY_FILE[:-1] + "v",  # the same bytes with one of the two spare bits set
        "z" + EMPTY_FILE[1:],
        "b" + "é" * 58,
        "b" + "a" * 10_000_000,
        text_of(b"\x01\x71\x12\x20" + EMPTY_DIGEST),
    ],
)
def test_parse_cid__text_that_is_not_our_form__is_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(InvalidCid) as caught:
        parse_cid(text)
    assert len(str(caught.value)) < 300


def test_parse_cid__cid_v0__says_so() -> None:
    with pytest.raises(InvalidCid, match="CIDv0"):
        parse_cid("QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH")


@given(st.text(alphabet=string.printable, max_size=80) | st.text(max_size=80))
def test_parse_cid__anything__is_refused_or_the_canonical_text(text: str) -> None:
    try:
        cid = parse_cid(text)
    except InvalidCid:
        return
    assert cid_from_bytes(cid_to_bytes(cid)) == text


DIGEST = bytes(range(32))


def _base32(binary: bytes) -> str:
    return "b" + base64.b32encode(binary).decode().rstrip("=").lower()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Qm" + "a" * 44, "a CIDv0; add the file again"),
        ("/ipfs/" + make_cid(RAW, DIGEST), "give the CID in it alone"),
        (make_cid(RAW, DIGEST) + "/file", "give the CID in it alone"),
        (make_cid(RAW, DIGEST).upper(), f"in lower case, {make_cid(RAW, DIGEST)}"),
        (_base32(b"\x01\x55\xa0\xe4\x02\x20" + DIGEST), "its hash is blake2b-256; add the file again"),
        (_base32(b"\x01\x71\x12\x20" + DIGEST), "its codec is dag-cbor; add the file again"),
        (_base32(b"\x01\x71\x13\x40" + 2 * DIGEST), "its codec is dag-cbor and its hash is sha2-512"),
    ],
)
def test_parse_cid__another_kind_of_identifier__says_what_it_is_and_what_to_do(text: str, told: str) -> None:
    with pytest.raises(InvalidCid) as caught:
        parse_cid(text)
    assert told in str(caught.value)
    assert "chainfl store add" in caught.value.hint


@pytest.mark.parametrize("text", ["", "x", "b", "bb", "b=", "baaaa", "b" + "a" * 200, "b" + "7" * 59, "bé"])
def test_parse_cid__nothing_that_could_be_one__is_invalid_all_the_same(text: str) -> None:
    with pytest.raises(InvalidCid):
        parse_cid(text)

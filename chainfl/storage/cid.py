"""CIDv1 in the one spelling that chainfl uses: base32 text, SHA-256, codec raw or dag-pb.

The multiformats allow many spellings of one identifier. Here there is exactly one, so two CIDs are the same
content if and only if their text is equal, and on chain a CID is always 36 bytes.
Source: https://github.com/multiformats/cid (CIDv1), RFC 4648 (base32).
"""

from __future__ import annotations

import base64
import re
from typing import Final

from chainfl.errors import InvalidCid
from chainfl.types import Cid

RAW: Final = 0x55
DAG_PB: Final = 0x70
CID_BYTES: Final = 36

_PREFIXES: Final = {RAW: b"\x01\x55\x12\x20", DAG_PB: b"\x01\x70\x12\x20"}  # version, codec, sha2-256, 32 bytes
_TEXT: Final = re.compile(r"b[a-z2-7]{58}", re.ASCII)
_SHOWN_CHARS: Final = 80


def make_cid(codec: int, digest: bytes) -> Cid:
    """The CID of a block. codec: RAW or DAG_PB; digest: the block's SHA-256, 32 bytes."""
    assert len(digest) == 32
    return cid_from_bytes(_PREFIXES[codec] + digest)


def cid_from_bytes(binary: bytes) -> Cid:
    """The text of a binary CID, as it stands on chain. Raises InvalidCid unless it is 36 bytes of our form."""
    if len(binary) != CID_BYTES or bytes(binary[:4]) not in _PREFIXES.values():
        raise InvalidCid(
            f"not a CIDv1 with SHA-256 and codec raw or dag-pb: 0x{bytes(binary[:CID_BYTES]).hex()}",
            cid=bytes(binary[:CID_BYTES]).hex(),
        )
    return Cid("b" + base64.b32encode(binary).decode("ascii").rstrip("=").lower())


def cid_to_bytes(cid: Cid) -> bytes:
    """The 36 binary bytes of a CID: what goes on chain. Raises InvalidCid."""
    text = str(cid)
    if not _TEXT.fullmatch(text):
        raise InvalidCid(f"not a base32 CIDv1: {text[:_SHOWN_CHARS]!r}{_why(text)}", cid=text[:_SHOWN_CHARS])
    binary = base64.b32decode(text[1:].upper() + "======")
    # 58 characters carry two bits too many; a second spelling of the same CID would pass if they were ignored.
    if cid_from_bytes(binary) != text:
        raise InvalidCid(f"not the canonical spelling of its CID: {text!r}", cid=text)
    return binary


def parse_cid(text: str) -> Cid:
    """`text`, if it is a CID as chainfl writes it. Raises InvalidCid. For whatever a stranger or a person typed."""
    cid = Cid(text)
    cid_to_bytes(cid)
    return cid


def codec_of(cid: Cid) -> int:
    """RAW or DAG_PB. Raises InvalidCid."""
    return cid_to_bytes(cid)[1]


def digest_of(cid: Cid) -> bytes:
    """The SHA-256 of the block that the CID names, 32 bytes. Raises InvalidCid."""
    return cid_to_bytes(cid)[4:]


def _why(text: str) -> str:
    if text.startswith("Qm") and len(text) == 46:
        return " (a CIDv0; publish it again under unixfs-v1-2025)"
    if text.startswith(("/ipfs/", "ipfs://")):
        return " (give the CID alone)"
    return ""

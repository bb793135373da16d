"""CIDv1 in the one spelling that chainfl uses: base32 text, SHA-256, codec raw or dag-pb.

The multiformats allow many spellings of one identifier. Here there is exactly one, so two CIDs are the same
content if and only if their text is equal, and on chain a CID is always 36 bytes.
Source: https://github.com/multiformats/cid (CIDv1), RFC 4648 (base32).
"""

from __future__ import annotations

import base64
import contextlib
import re
from typing import Final

from chainfl.errors import InvalidCid
from chainfl.types import Cid

RAW: Final = 0x55
DAG_PB: Final = 0x70
CID_BYTES: Final = 36

_PREFIXES: Final = {RAW: b"\x01\x55\x12\x20", DAG_PB: b"\x01\x70\x12\x20"}  # version, codec, sha2-256, 32 bytes
_TEXT: Final = re.compile(r"b[a-z2-7]{58}", re.ASCII)
_BASE32: Final = re.compile(r"[bB]([A-Za-z2-7]{4,200})", re.ASCII)
_CODECS: Final = {0x71: "dag-cbor", 0x0129: "dag-json", 0x72: "libp2p-key", 0x0202: "car"}
_HASHES: Final = {0x00: "identity", 0x11: "sha1", 0x13: "sha2-512", 0x1E: "blake3", 0xB220: "blake2b-256"}
_SHA256: Final = 0x12
_PARTS: Final = ("codec", "hash")
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
        raise InvalidCid(f"not a CID that chainfl uses: {text[:_SHOWN_CHARS]!r}{_why(text)}", cid=text[:_SHOWN_CHARS])
    binary = base64.b32decode(text[1:].upper() + "======")
    # 58 characters carry two bits too many; a second spelling of the same CID would pass if they were ignored.
    if binary[:4] not in _PREFIXES.values():
        raise InvalidCid(f"not a CID that chainfl uses: {text!r}{_why(text)}", cid=text)
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
    """What kind of identifier a person most likely has there, and what to do with it."""
    if text.startswith("Qm") and len(text) == 46:
        return ": a CIDv0; add the file again with `chainfl store add`, which gives a CIDv1"
    if "/" in text:
        return ": a path or an address; give the CID in it alone"
    if text != text.lower() and _TEXT.fullmatch(text.lower()):
        return f": write it in lower case, {text.lower()}"
    match = _BASE32.fullmatch(text)
    kind = _kind(match[1]) if match else ""
    return f": {kind}; add the file again with `chainfl store add`" if kind else ""


def _kind(text: str) -> str:
    """What the base32 text of a CIDv1 says of its codec and hash where they are not ours; empty for any other text."""
    padded = text.upper() + "=" * (-len(text) % 8)
    with contextlib.suppress(ValueError, IndexError):
        binary = base64.b32decode(padded)
        codec, at = _varint(binary, 1)
        hashed, _ = _varint(binary, at)
        others = [names.get(code, f"{code:#x}") for names, code in ((_CODECS, codec), (_HASHES, hashed))]
        ours = (codec in _PREFIXES, hashed == _SHA256)
        told = [
            f"its {what} is {name}" for what, name, is_ours in zip(_PARTS, others, ours, strict=True) if not is_ours
        ]
        return " and ".join(told) if binary[0] == 1 else ""
    return ""


def _varint(binary: bytes, at: int) -> tuple[int, int]:
    """A number of up to three bytes, and where it ends. Raises IndexError past the end, ValueError for a longer one."""
    value = 0
    for place in range(3):
        byte = binary[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number of more than three bytes")

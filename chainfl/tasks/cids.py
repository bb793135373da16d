"""A CID as people write it, and as contracts hold it."""

from __future__ import annotations

from chainfl.errors import InvalidCid
from chainfl.storage.cid import DAG_PB, RAW, codec_of, digest_of, make_cid
from chainfl.tasks.state import CidOnChain
from chainfl.types import Cid


def cid_on_chain(cid: Cid) -> CidOnChain:
    """What a contract call takes. Raises InvalidCid."""
    return CidOnChain(digest=digest_of(cid), codec=codec_of(cid))


def cid_text(cid: CidOnChain) -> Cid:
    """The CID that a contract holds. Raises InvalidCid for a codec or digest that no CID of ours has."""
    if cid.codec not in (RAW, DAG_PB) or len(cid.digest) != 32:
        raise InvalidCid(f"codec {cid.codec:#x} with a digest of {len(cid.digest)} bytes is not a CID of ours")
    return make_cid(cid.codec, bytes(cid.digest))

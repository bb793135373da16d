"""What the gateway store decides without asking anybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainfl.errors import ConfigError, InvalidCid, StoreReadOnly
from chainfl.storage.cache import MIN_CACHE_BYTES, BlockCache
from chainfl.storage.cid import DAG_PB, codec_of
from chainfl.storage.gateway import GatewayStore, retry_after_s
from chainfl.storage.unixfs import CidBuilder, Layout, block_cids, cid_of, read_dag
from chainfl.types import Cid

DATA = b"".join(bytes([number]) * (1 << 20) for number in range(3))
NOW = 1_445_412_420.0  # Wed, 21 Oct 2015 07:27:00 GMT


@pytest.fixture
def cache(tmp_path: Path) -> BlockCache:
    return BlockCache(tmp_path / "cache", max_bytes=MIN_CACHE_BYTES)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("9" * 400, 999_999_999),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 60),
        ("Wed, 21 Oct 2015 07:26:00 GMT", -60),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("Fri, 31 Dec 99999999999 23:59:59 GMT", None),
    ],
)
def test_retry_after__seconds_a_date_or_nonsense(header: str, seconds: float | None) -> None:
    assert retry_after_s(header, NOW) == seconds


@pytest.mark.parametrize("url", ["", "example.org", "ftp://example.org", "https://a:b@example.org", "https://a.org/?x"])
def test_store__address_that_is_none__is_a_config_error(cache: BlockCache, url: str) -> None:
    with pytest.raises(ConfigError, match="gateway"):
        GatewayStore(["https://example.org", url], cache=cache)


def test_store__no_gateway_at_all__is_a_config_error(cache: BlockCache) -> None:
    with pytest.raises(ConfigError):
        GatewayStore([], cache=cache)


def test_store__spellings_of_one_gateway__are_one(cache: BlockCache) -> None:
    spellings = ["https://example.org", "https://example.org/", "https://EXAMPLE.org:443/ipfs/", "https://example.org"]
    store = GatewayStore(spellings, cache=cache)
    assert store.describe().startswith("gateways https://example.org; cache in")


def test_has__only_the_cache_is_asked_and_every_block_must_be_there(cache: BlockCache) -> None:
    store = GatewayStore(["https://example.org"], cache=cache)
    blocks: dict[Cid, bytes] = {}
    builder = CidBuilder(blocks.__setitem__)
    builder.update(DATA)
    cid = builder.finish()
    for block in list(blocks):
        assert not store.has(cid)
        cache.keep(block, blocks[block])
    assert store.has(cid)
    cache.discard(cid_of(DATA[:1048576]))
    assert not store.has(cid)
    with pytest.raises(InvalidCid):
        store.has(Cid("no CID"))


def test_put__hint_says_what_to_do(cache: BlockCache, tmp_path: Path) -> None:
    store = GatewayStore(["https://example.org"], cache=cache)
    with pytest.raises(StoreReadOnly) as caught:
        store.put_bytes(b"x")
    assert "{" not in caught.value.hint
    assert "embedded" in caught.value.hint
    with pytest.raises(StoreReadOnly):
        store.put_file(tmp_path / "missing")


def test_drop__is_nothing_but_checks_the_name(cache: BlockCache) -> None:
    store = GatewayStore(["https://example.org"], cache=cache)
    store.drop(cid_of(b"x"))
    with pytest.raises(InvalidCid):
        store.drop(Cid("no CID"))


def test_block_cids__file__is_the_order_of_read_dag() -> None:
    tiny, size = Layout(chunk_bytes=4, max_links=3), 150
    blocks: dict[Cid, bytes] = {}
    builder = CidBuilder(blocks.__setitem__, layout=tiny)
    builder.update(bytes(size - 50) + bytes(range(50)))
    cid = builder.finish()
    asked: list[Cid] = []
    list(read_dag(cid, lambda block: (asked.append(block), blocks[block])[1], max_bytes=size, layout=tiny))
    nodes = {block: data for block, data in blocks.items() if codec_of(block) == DAG_PB}
    assert list(block_cids(cid, nodes.__getitem__, layout=tiny)) == asked
    assert list(block_cids(cid_of(b"x"), {}.__getitem__)) == [cid_of(b"x")]

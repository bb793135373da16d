"""What the gateway store decides without asking anybody."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from chainfl.errors import ConfigError, InvalidCid, PayloadTooLarge, StoreReadOnly
from chainfl.storage.cache import MIN_CACHE_BYTES, BlockCache
from chainfl.storage.cid import DAG_PB, cid_to_bytes, codec_of, make_cid
from chainfl.storage.gateway import GatewayStore, retry_after_s
from chainfl.storage.unixfs import (
    MAX_BLOCK_BYTES,
    CidBuilder,
    Layout,
    Link,
    block_cids,
    cid_of,
    encode_node,
    read_dag,
)
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


def test_block_cids__file__is_the_order_of_read_dag_each_once() -> None:
    tiny, size = Layout(chunk_bytes=4, max_links=3), 150
    blocks: dict[Cid, bytes] = {}
    builder = CidBuilder(blocks.__setitem__, layout=tiny)
    builder.update(bytes(size - 50) + bytes(range(50)))
    cid = builder.finish()
    asked: list[Cid] = []
    list(read_dag(cid, lambda block: (asked.append(block), blocks[block])[1], max_bytes=size, layout=tiny))
    nodes = {block: data for block, data in blocks.items() if codec_of(block) == DAG_PB}
    assert list(block_cids(cid, nodes.__getitem__, max_bytes=size, layout=tiny)) == list(dict.fromkeys(asked))
    with pytest.raises(PayloadTooLarge):
        list(block_cids(cid, nodes.__getitem__, max_bytes=size - 1, layout=tiny))
    assert list(block_cids(cid_of(b"x"), {}.__getitem__, max_bytes=0)) == [cid_of(b"x")]


def tower(levels: int) -> tuple[Cid, dict[Cid, bytes]]:
    """A file that a few small blocks spell: `levels` nodes of 1,024 equal links above one leaf."""
    leaf = bytes(MAX_BLOCK_BYTES)
    cid, size, dag_size = cid_of(leaf), len(leaf), len(leaf)
    blocks = {cid: leaf}
    for _ in range(levels):
        block = encode_node([Link(cid_to_bytes(cid), size, dag_size)] * 1024)
        cid, size, dag_size = (
            make_cid(DAG_PB, hashlib.sha256(block).digest()),
            1024 * size,
            1024 * dag_size + len(block),
        )
        blocks[cid] = block
    return cid, blocks


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_has__tower_of_equal_links__looks_at_each_block_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: int
) -> None:
    cid, blocks = tower(levels)
    vast = BlockCache(tmp_path / "vast", max_bytes=1 << 62)
    for block, data in blocks.items():
        vast.keep(block, data)
    looks: list[Cid] = []
    holds = vast.holds
    monkeypatch.setattr(vast, "holds", lambda block: (looks.append(block), holds(block))[1])
    assert GatewayStore(["https://example.org"], cache=vast).has(cid)
    assert sorted(looks) == sorted(blocks)


def test_get__all_of_a_tower_in_the_cache__is_refused_after_the_root(
    cache: BlockCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid, blocks = tower(4)
    for block, data in blocks.items():
        cache.keep(block, data)
    store = GatewayStore(["https://example.org"], cache=cache)
    read: list[Cid] = []
    get = cache.get
    monkeypatch.setattr(cache, "get", lambda block: (read.append(block), get(block))[1])
    assert not store.has(cid)
    with pytest.raises(PayloadTooLarge):
        store.get_bytes(cid, max_bytes=1 << 30)
    assert set(read) == {cid}


def test_store__key_in_the_path_of_an_address__is_never_shown(
    cache: BlockCache, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ["https://127.0.0.1:9/secret-one", "https://127.0.0.1:9/secret-two"]
    store = GatewayStore(keys, cache=cache)
    first, second = store._gateways.servers
    assert (first.url, second.url) == tuple(keys)
    first.lied("other bytes")
    told = store.describe() + caplog.text + first.name + second.name
    assert "secret" not in told
    assert first.name != second.name

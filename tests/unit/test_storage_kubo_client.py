"""KuboStore against a client that lies, stalls and refuses; the real daemon is in tests/integration."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ipfshttpclient
import pytest
import urllib3.exceptions
from ipfshttpclient import exceptions as client_errors

from chainfl.errors import (
    BlobNotFound,
    CidMismatch,
    ConfigError,
    InvalidCid,
    MalformedDag,
    PayloadTooLarge,
    StorageError,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    StoreUnsupported,
    UsageError,
)
from chainfl.storage import kubo
from chainfl.storage.cid import DAG_PB, RAW, cid_to_bytes, codec_of, make_cid
from chainfl.storage.factory import open_store
from chainfl.storage.kubo import KuboStore
from chainfl.storage.unixfs import MAX_BLOCK_BYTES, CidBuilder, Link, cid_of, encode_node
from chainfl.types import Cid

DATA = bytes(range(256)) * 10_000  # three chunks
CID = cid_of(DATA)
API = "/ip4/127.0.0.1/tcp/5001"
PEER = "4001/p2p/12D3KooWGRUf1BJYoYYxpWyLFKKnpLcVFyn4bDoZ6sxXbGmrVxKR"


class FakeClient:
    """What KuboStore uses of ipfshttpclient.Client: blocks in a dictionary, and faults on demand."""

    instance: FakeClient

    def __init__(self, address: str, **settings: Any) -> None:
        FakeClient.instance = self
        self.address, self.settings = address, settings
        self.blocks: dict[str, bytes] = {}
        self.added: list[dict[str, Any]] = []
        self.fetched: list[str] = []
        self.looked_at: list[str] = []
        self.fault: Exception | None = None
        self.answer: str | None = None
        self.says_version = "0.42.0"
        self.pins: set[str] = set()
        self.forgets_to_pin = False
        self.peers_said: Any = None
        self.block = self.files = self.swarm = self
        self.pin = FakePins(self)

    def version(self, *, timeout: tuple[int, int]) -> dict[str, str]:
        assert timeout[1] < self.settings["timeout"][1]
        self._fail()
        return {"Version": self.says_version}

    def id(self) -> dict[str, Any]:
        self._fail()
        return {"Addresses": self.peers_said and [f"/ip4/127.0.0.1/tcp/{PEER}"]}

    def peers(self, *, opts: dict[str, str]) -> dict[str, Any]:
        assert opts == {"latency": "true"}
        if self.peers_said is None:
            raise client_errors.ErrorResponse("this action must be run in online mode, try 'ipfs daemon'", None)
        return {"Peers": self.peers_said}

    def add(self, stream: Any, **parameters: Any) -> dict[str, str]:
        self._fail()
        builder = CidBuilder(self.blocks.__setitem__)
        while part := stream.read(100_000):
            builder.update(part)
        self.added.append(parameters)
        cid = builder.finish()
        if not self.forgets_to_pin:
            self.pins.add(cid)
        return {"Hash": self.answer or cid}

    def get(
        self, cid: str, *, stream: bool, opts: dict[str, str], timeout: tuple[int, int], offline: bool = False
    ) -> Any:
        # A search ends by the daemon's own clock; one that hangs is waited for no longer than needed.
        assert (timeout[1] > int(opts["timeout"].removesuffix("s"))) != offline
        self._fail()
        (self.looked_at if offline else self.fetched).append(cid)
        if cid not in self.blocks:
            raise client_errors.ErrorResponse(f"block was not found locally (offline): could not find {cid}", None)
        return self._parts(self.blocks[cid])

    @contextlib.contextmanager
    def _parts(self, block: bytes) -> Iterator[Iterator[bytes]]:
        yield (block[at : at + 50_000] for at in range(0, len(block), 50_000))

    def stat(self, cid: str, *, offline: bool, timeout: tuple[int, int]) -> dict[str, Any]:
        assert offline
        assert timeout[1] < self.settings["timeout"][1]
        self._fail()
        self.looked_at.append(cid)
        if cid not in self.blocks:
            raise client_errors.ErrorResponse(f"block was not found locally (offline): could not find {cid}", None)
        return {"Key": cid, "Size": len(self.blocks[cid])}

    def _fail(self) -> None:
        if self.fault:
            raise self.fault


class FakePins:
    """The client's `pin`, in the daemon's own words."""

    def __init__(self, client: FakeClient) -> None:
        self._client = client

    def ls(self, *cids: str, type: str) -> dict[str, Any]:
        self._client._fail()
        assert type == "recursive"
        for cid in cids:
            if cid not in self._client.pins:
                raise client_errors.ErrorResponse(f"path '{cid}' is not pinned", None)
        return {"Keys": {cid: {"Type": "recursive"} for cid in cids or self._client.pins}}

    def add(self, cid: str, *, opts: dict[str, str], timeout: tuple[int, int]) -> None:
        self._client._fail()
        assert int(opts["timeout"].removesuffix("s")) < timeout[1]
        if cid not in self._client.blocks:
            raise client_errors.ErrorResponse("pin: context deadline exceeded", None)
        self._client.pins.add(cid)

    def rm(self, cid: str) -> None:
        self._client._fail()
        if cid not in self._client.pins:
            raise client_errors.ErrorResponse("not pinned or pinned indirectly", None)
        self._client.pins.remove(cid)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> KuboStore:
    monkeypatch.setattr(ipfshttpclient, "Client", FakeClient)
    return KuboStore(API)


@pytest.fixture
def client(store: KuboStore) -> FakeClient:
    return FakeClient.instance


def test_put__bytes_and_file__same_cid_pinned_and_every_import_parameter_explicit(
    store: KuboStore, client: FakeClient, tmp_path: Path
) -> None:
    (tmp_path / "update").write_bytes(DATA)
    assert store.put_bytes(DATA) == store.put_file(tmp_path / "update") == CID
    assert client.added[0] == client.added[1]
    parameters = client.added[0]
    options = parameters.pop("opts")
    to_send, to_answer = parameters.pop("timeout")
    assert to_send > client.settings["timeout"][0]
    assert to_answer == client.settings["timeout"][1]
    assert parameters == {
        "cid_version": 1,
        "raw_leaves": True,
        "chunker": "size-1048576",
        "trickle": False,
        "nocopy": False,
        "wrap_with_directory": False,
        "only_hash": False,
        "pin": True,
    }
    assert options == {"hash": "sha2-256", "max-file-links": "1024", "inline": "false"}


def test_get__what_was_put__comes_back(store: KuboStore, tmp_path: Path) -> None:
    store.put_bytes(DATA)
    assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA
    store.get_file(CID, tmp_path / "target", max_bytes=len(DATA))
    assert (tmp_path / "target").read_bytes() == DATA
    assert store.has(CID)


def test_put__daemon_answers_with_another_cid__is_a_mismatch(store: KuboStore, client: FakeClient) -> None:
    client.answer = "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"
    with pytest.raises(CidMismatch):
        store.put_bytes(DATA)


def test_prefetch__nothing_local__asks_for_every_block_once_and_gives_nothing(
    store: KuboStore, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_bytes(DATA)
    store.prefetch(CID, max_bytes=len(DATA))
    assert client.fetched == []
    monkeypatch.setattr(KuboStore, "_holds", lambda *_: False)
    store.prefetch(CID, max_bytes=len(DATA))
    assert set(client.fetched) == set(client.blocks)


def test_has__tower_of_equal_links__looks_at_each_block_once_and_no_further_than_is_bounded(
    store: KuboStore, client: FakeClient
) -> None:
    leaf = bytes(MAX_BLOCK_BYTES)
    cid, size, dag_size = cid_of(leaf), len(leaf), len(leaf)
    client.blocks[cid] = leaf
    for _ in range(2):
        node = encode_node([Link(cid_to_bytes(cid), size, dag_size)] * 1024)
        cid, size, dag_size = make_cid(DAG_PB, hashlib.sha256(node).digest()), 1024 * size, 1024 * dag_size + len(node)
        client.blocks[cid] = node
        client.looked_at.clear()
        small_enough = size <= kubo._HAS_MAX_BYTES
        assert store.has(cid) == small_enough
        assert sorted(client.looked_at) == sorted(client.blocks if small_enough else [cid])
    with pytest.raises(PayloadTooLarge):
        store.prefetch(cid, max_bytes=1 << 30)
    assert client.fetched == [cid]


def test_has__not_pinned__every_block_must_be_there(store: KuboStore, client: FakeClient) -> None:
    store.put_bytes(DATA)
    store.drop(CID)
    assert store.has(CID)
    del client.blocks[cid_of(DATA[-(len(DATA) % MAX_BLOCK_BYTES) :])]
    assert not store.has(CID)


@pytest.mark.parametrize(
    "said", [{"jsonrpc": "2.0", "error": {"code": -32700}}, [], None, 5, "ok"], ids=lambda said: type(said).__name__
)
def test_kubo_store__something_else_answers_there__is_unreachable_and_says_so(
    monkeypatch: pytest.MonkeyPatch, said: Any
) -> None:
    monkeypatch.setattr(ipfshttpclient, "Client", FakeClient)
    store = KuboStore(API)
    for command in ("version", "id", "peers", "add"):
        monkeypatch.setattr(FakeClient, command, lambda *_, **__: said)
    monkeypatch.setattr(FakePins, "ls", lambda *_, **__: said)
    for use in (
        lambda: KuboStore(API),
        store.describe,
        store.addresses,
        store.peers,
        lambda: store.put_bytes(DATA),
        lambda: store.has(CID),
        store.count_pins,
    ):
        with pytest.raises(StoreUnreachable, match=f"something else than a Kubo daemon answers at {API}"):
            use()


def test_kubo_store__not_asked_at_once__reads_and_refuses_an_old_daemon_when_it_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ipfshttpclient, "Client", FakeClient)
    store = KuboStore(API, at_once=False)
    FakeClient.instance.says_version = "0.34.1"
    assert not store.has(CID)
    with pytest.raises(StoreUnsupported):
        store.put_bytes(DATA)
    assert FakeClient.instance.added == []


def test_get__several_readers__share_the_requests_that_are_under_way_at_once(
    store: KuboStore, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_bytes(b"one block")
    under_way = most = 0
    lock, enough = threading.Lock(), threading.Barrier(kubo.FETCHES_AT_ONCE, timeout=10)

    @contextlib.contextmanager
    def counted(block: bytes) -> Iterator[Iterator[bytes]]:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        enough.wait()  # goes on only with all that may be under way
        yield iter([block])
        with lock:
            under_way -= 1

    monkeypatch.setattr(client, "_parts", counted)
    with ThreadPoolExecutor(2 * kubo.FETCHES_AT_ONCE) as pool:
        cid = cid_of(b"one block")
        got = list(pool.map(lambda _: store.get_bytes(cid, max_bytes=9), range(2 * kubo.FETCHES_AT_ONCE)))
    assert set(got) == {b"one block"}
    assert most == kubo.FETCHES_AT_ONCE


def test_put__daemon_did_not_pin__is_pinned_before_the_put_returns(store: KuboStore, client: FakeClient) -> None:
    client.forgets_to_pin = True
    store.put_bytes(DATA)
    assert client.pins == {CID}


def test_put__daemon_cannot_pin__fails_with_its_reason(store: KuboStore, client: FakeClient) -> None:
    client.forgets_to_pin = True
    client.pin.add = lambda *_, **__: (_ for _ in ()).throw(  # type: ignore[method-assign]
        client_errors.ErrorResponse("pin: no space left on device", None)
    )
    with pytest.raises(StoreFull):
        store.put_bytes(DATA)


def test_drop__pinned_and_not_pinned__is_kept_no_longer(store: KuboStore, client: FakeClient) -> None:
    store.put_bytes(DATA)
    assert store.is_pinned(CID)
    assert store.count_pins() == 1
    store.drop(CID)
    store.drop(CID)
    assert not store.is_pinned(CID)
    assert client.pins == set()


def test_pin__not_found_in_time__is_not_found(store: KuboStore) -> None:
    with pytest.raises(BlobNotFound):
        store.pin(CID, timeout_s=1)


@pytest.mark.parametrize("version", ["0.35.0", "0.41.3", "0.42.0-dev", "1.0.0", "custom"])
def test_kubo_store__version_that_can_work__is_taken(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(FakeClient, "version", lambda _, timeout: {"Version": version})
    monkeypatch.setattr(ipfshttpclient, "Client", FakeClient)
    assert version in KuboStore(API).describe()


@pytest.mark.parametrize("version", ["0.34.1", "0.7.0", "0.0.1"])
def test_kubo_store__version_that_cannot_work__is_refused_with_the_one_to_install(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(FakeClient, "version", lambda _, timeout: {"Version": version})
    monkeypatch.setattr(ipfshttpclient, "Client", FakeClient)
    with pytest.raises(StoreUnsupported, match=version) as caught:
        KuboStore(API)
    assert "0.35.0" in caught.value.hint


def test_untested__bounds_and_beyond__are_told_apart() -> None:
    oldest, newest = (".".join(map(str, each)) for each in (kubo.OLDEST_TESTED, kubo.NEWEST_TESTED))
    assert [kubo.untested(version) for version in (oldest, newest, f"{newest}-rc1")] == ["", "", ""]
    for version in ("0.35.0", "0.99.0", "1.0.0", "custom"):
        assert version in kubo.untested(version)


def test_peers__online_and_offline__with_their_round_trips(store: KuboStore, client: FakeClient) -> None:
    assert store.peers() == store.addresses() == ()
    address, _, peer = PEER.partition("/p2p/")
    client.peers_said = [{"Addr": f"/ip4/127.0.0.1/tcp/{address}", "Peer": peer, "Latency": "1.5ms"}]
    assert store.peers() == (kubo.Peer(f"/ip4/127.0.0.1/tcp/{PEER}", 0.0015),)
    assert store.addresses() == (f"/ip4/127.0.0.1/tcp/{PEER}",)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("350µs", 0.00035), ("1m2.5s", 62.5), ("17ns", 1.7e-8), ("n/a", None), ("", None), ("5", None), ("1.2.3s", None)],
)
def test_seconds__as_go_writes_them__are_numbers(said: str, seconds: float | None) -> None:
    assert kubo._seconds(said) == (seconds if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("codec", [RAW, DAG_PB])
def test_get__daemon_returns_other_bytes__is_a_mismatch_and_the_target_stays(
    store: KuboStore, client: FakeClient, tmp_path: Path, codec: int
) -> None:
    store.put_bytes(DATA)
    cid = next(cid for cid in client.blocks if codec_of(Cid(cid)) == codec)
    client.blocks[cid] = client.blocks[cid][:-1] + b"?"
    target = tmp_path / "target"
    target.write_bytes(b"as it was")
    with pytest.raises(CidMismatch):
        store.get_bytes(CID, max_bytes=len(DATA))
    with pytest.raises(CidMismatch):
        store.get_file(CID, target, max_bytes=len(DATA))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"as it was"]


def test_get__block_without_end__is_cut_off_at_the_limit(store: KuboStore, client: FakeClient) -> None:
    huge = bytes(MAX_BLOCK_BYTES + 50_001)
    cid = make_cid(RAW, hashlib.sha256(huge).digest())
    client.blocks[cid] = huge
    with pytest.raises(MalformedDag, match="more than"):
        store.get_bytes(cid, max_bytes=1 << 30)


def test_get__larger_than_allowed__is_refused_after_one_block(store: KuboStore, client: FakeClient) -> None:
    store.put_bytes(DATA)
    with pytest.raises(PayloadTooLarge):
        store.get_bytes(CID, max_bytes=len(DATA) - 1)
    assert client.fetched == [CID]


def test_get_and_has__not_a_cid__is_refused_without_a_request(store: KuboStore, client: FakeClient) -> None:
    client.fault = AssertionError("asked the daemon")
    with pytest.raises(InvalidCid):
        store.get_bytes(Cid("hello"), max_bytes=1)
    with pytest.raises(InvalidCid):
        store.has(Cid("../version"))


def test_get_and_has__content_not_there__is_not_found(store: KuboStore) -> None:
    assert not store.has(CID)
    with pytest.raises(BlobNotFound) as caught:
        store.get_bytes(CID, max_bytes=len(DATA))
    assert CID in caught.value.hint


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("write /repo/blocks/x: no space left on device", StoreFull),
        ("write /repo/blocks/x: disk quota exceeded", StoreFull),
        ("write /repo/blocks/x: file too large", StoreFull),
        ("open /repo/blocks/x: read-only file system", StoreReadOnly),
        ("open /repo/blocks/x: permission denied", StoreReadOnly),
        ("context deadline exceeded", BlobNotFound),
        ("block in storage has different hash than requested", CidMismatch),
        ("something new", StorageError),
    ],
)
def test_store__daemon_refuses__error_by_what_it_said(
    store: KuboStore, client: FakeClient, said: str, error: type[StorageError]
) -> None:
    client.fault = client_errors.ErrorResponse(said, None)
    with pytest.raises(error, match=said) as caught:
        store.get_bytes(CID, max_bytes=1)
        assert type(caught.value) in (error, *error.__subclasses__())
    assert "{" not in caught.value.hint


@pytest.mark.parametrize(
    "fault",
    [
        client_errors.ConnectionError(OSError("refused")),
        client_errors.TimeoutError(OSError("timed out")),
        client_errors.ProtocolError(OSError("not HTTP")),
        client_errors.StatusError(OSError("403")),
        client_errors.DecodingError("json", ValueError("not JSON")),
        urllib3.exceptions.ProtocolError("broken in the middle of a body"),
        ConnectionResetError("reset"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_store__daemon_gone_or_no_daemon__is_unreachable(
    store: KuboStore, client: FakeClient, fault: Exception, tmp_path: Path
) -> None:
    client.fault = fault
    (tmp_path / "update").write_bytes(DATA)
    for use in (
        lambda: store.put_bytes(DATA),
        lambda: store.put_file(tmp_path / "update"),
        lambda: store.get_bytes(CID, max_bytes=1),
        lambda: store.get_file(CID, tmp_path / "target", max_bytes=1),
        lambda: store.has(CID),
        lambda: store.describe(),
    ):
        with pytest.raises(StoreUnreachable) as caught:
            use()
        assert "ipfs daemon" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["update"]


def test_open_store__kubo_without_a_daemon__is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(FakeClient):
        def version(self) -> dict[str, str]:
            raise client_errors.ConnectionError(OSError("refused"))

    monkeypatch.setattr(ipfshttpclient, "Client", Gone)
    with pytest.raises(StoreUnreachable, match=API):
        open_store("kubo", store_dir=None, kubo_api=API)


def test_put_file__source_missing__is_a_usage_error_without_a_request(store: KuboStore, client: FakeClient) -> None:
    client.fault = AssertionError("asked the daemon")
    with pytest.raises(UsageError):
        store.put_file(Path("missing"))


def test_put_file__source_breaks_while_it_is_sent__is_not_the_daemons_fault(store: KuboStore, tmp_path: Path) -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise OSError("Input/output error")

    stream = kubo._HashedStream(Broken(), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="cannot read") as caught:
        store._add(stream)
    assert type(caught.value) is StorageError


@pytest.mark.parametrize(
    ("api", "address"),
    [
        (API, API),
        ("http://127.0.0.1:5001", "/ip4/127.0.0.1/tcp/5001/http"),
        ("http://[::1]:5001/", "/ip6/::1/tcp/5001/http"),
        ("https://node.example", "/dns/node.example/tcp/443/https"),
        ("http://localhost:5001", "/dns/localhost/tcp/5001/http"),
    ],
)
def test_kubo_store__address_as_people_write_it__becomes_a_multiaddr(
    monkeypatch: pytest.MonkeyPatch, api: str, address: str
) -> None:
    monkeypatch.setattr(ipfshttpclient, "Client", FakeClient)
    assert api in KuboStore(api).describe()
    assert FakeClient.instance.address == address


@pytest.mark.parametrize(
    "api", ["", "localhost:5001", "/ip4/x/tcp/5001", "http://host:port", "/ip4/127.0.0.1", "http://"]
)
def test_kubo_store__no_address__is_a_configuration_error(api: str) -> None:
    with pytest.raises(ConfigError, match="kubo_api"):
        KuboStore(api)


def test_kubo_store__known_warning__is_silent_and_others_are_not(store: KuboStore) -> None:
    with warnings.catch_warnings(record=True) as caught:
        text = "The 'strict' parameter is no longer needed on Python 3+. This will raise an error in urllib3 v3.0."
        warnings.warn_explicit(text, FutureWarning, "poolmanager.py", 1, module="urllib3.poolmanager")
        warnings.warn_explicit(text, FutureWarning, "mine.py", 1, module="mine")
        warnings.warn_explicit("another", FutureWarning, "poolmanager.py", 2, module="urllib3.poolmanager")
    assert [(str(w.message)[:11], w.filename) for w in caught] == [
        ("The 'strict", "mine.py"),
        ("another", "poolmanager.py"),
    ]

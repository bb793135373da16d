"""Several stores as one, over stores and services in memory that fail, lie and stall on demand."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ipfshttpclient
import pytest
from ipfshttpclient import exceptions as client_errors

from chainfl.errors import (
    BlobNotFound,
    ChainflError,
    CidMismatch,
    ConfigError,
    InvalidCid,
    MalformedDag,
    NotPublished,
    PayloadTooLarge,
    ServiceRefused,
    StorageError,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    TokenMissing,
    UsageError,
)
from chainfl.storage.cache import BlockCache
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.factory import confirming_stores, open_store
from chainfl.storage.gateway import GatewayStore
from chainfl.storage.moved import Moved, unheard
from chainfl.storage.several import Place, SeveralStores, Standing
from chainfl.storage.unixfs import cid_of
from chainfl.types import Cid

DATA = b"what a round is about"
CID = cid_of(DATA)


class Shelf:
    """A store in memory. fault: raised by every use; gate: puts wait for it; calls: what was asked."""

    def __init__(self, data: bytes | None = None, fault: Exception | None = None) -> None:
        self.kept = {} if data is None else {CID: data}
        self.fault = fault
        self.gate = threading.Event()
        self.gate.set()
        self.calls: list[str] = []

    def put_bytes(self, data: bytes) -> Cid:
        self._use("put")
        self.gate.wait(10)
        cid = cid_of(data)
        self.kept[cid] = data
        return cid

    def put_file(self, path: Path, *, moved: Moved = unheard) -> Cid:
        if not path.exists():
            raise UsageError(f"cannot read {path}")
        return self.put_bytes(path.read_bytes())

    def get_bytes(self, cid: Cid, *, max_bytes: int) -> bytes:
        self._use("get")
        if cid not in self.kept:
            raise BlobNotFound(f"no {cid}", cid=cid)
        if cid_of(self.kept[cid]) != cid:
            raise CidMismatch(f"other bytes for {cid}", cid=cid)
        return self.kept[cid]

    def get_file(self, cid: Cid, target: Path, *, max_bytes: int, moved: Moved = unheard) -> None:
        target.write_bytes(self.get_bytes(cid, max_bytes=max_bytes))

    def has(self, cid: Cid) -> bool:
        self._use("has")
        return cid in self.kept

    def drop(self, cid: Cid) -> None:
        self._use("drop")
        self.kept.pop(cid, None)

    def describe(self) -> str:
        return "shelf"

    def _use(self, what: str) -> None:
        self.calls.append(what)
        if self.fault:
            raise self.fault


class NetworkShelf(Shelf):
    """A store in a network: it can be told to keep what others have."""

    def __init__(self, data: bytes | None = None, fault: Exception | None = None) -> None:
        super().__init__(data, fault)
        self.pinned: list[Cid] = []
        self.dialled: list[str] = []

    def pin(self, cid: Cid) -> None:
        self._use("pin")
        self.kept[cid] = DATA
        self.pinned.append(cid)

    def is_pinned(self, cid: Cid) -> bool:
        self._use("is_pinned")
        return cid in self.kept

    def addresses(self) -> tuple[str, ...]:
        return ("/ip4/127.0.0.1/tcp/4001/p2p/us",)

    def connect(self, address: str) -> None:
        self.dialled.append(address)

    def prefetch(self, cid: Cid, *, max_bytes: int) -> None:
        self._use("prefetch")
        self.kept[cid] = DATA


class Vault:
    """A pinning service in memory. gate: it works on its request until then; trouble: it has failed so far."""

    def __init__(self, name: str, fault: Exception | None = None, trouble: StorageError | None = None) -> None:
        self.name = name
        self.fault = fault
        self.trouble = trouble
        self.gate = threading.Event()
        self.gate.set()
        self.held: set[Cid] = set()
        self.origins: Sequence[str] = ()

    def pin(
        self,
        cid: Cid,
        *,
        origins: Sequence[str],
        connect: Callable[[str], None] | None,
        timeout_s: float,
        accepted: Callable[[], None] | None,
        failing: Callable[[StorageError], None] | None,
    ) -> None:
        if self.fault:
            raise self.fault
        if self.trouble:
            assert failing
            failing(self.trouble)
            self.gate.wait(10)
        self.origins = origins
        assert connect
        connect("/ip4/127.0.0.1/tcp/1/p2p/them")
        assert accepted
        accepted()
        self.gate.wait(10)
        self.held.add(cid)

    def stand(self, cid: Cid) -> str:
        if self.fault:
            raise self.fault
        return "pinned" if cid in self.held else ""

    def drop(self, cid: Cid) -> None:
        self.held.discard(cid)


@pytest.fixture
def stalled() -> Iterator[list[threading.Event]]:
    """Gates that are opened again at the end, so that no thread stays behind."""
    gates: list[threading.Event] = []
    yield gates
    for gate in gates:
        gate.set()


def several(
    *stores: Shelf, quorum: int = 1, services: Sequence[Vault] = (), timeout_s: float = 5, grace_s: float = 0.05
) -> SeveralStores:
    places = [Place(f"store{at}", store) for at, store in enumerate(stores)]
    return SeveralStores(places, services, quorum=quorum, timeout_s=timeout_s, grace_s=grace_s)


def closed(gates: list[threading.Event], gate: threading.Event) -> None:
    """Closes a gate, which is opened again at the end."""
    gate.clear()
    gates.append(gate)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def read_only(store: Shelf) -> Place:
    return Place("gateway", store, writes=False)


# --- reading -------------------------------------------------------------------------------------


def test_get__the_second_store_has_it__is_asked_first(tmp_path: Path) -> None:
    first, second = Shelf(), Shelf(DATA)
    store = several(first, second)
    assert store.get_bytes(CID, max_bytes=100) == DATA
    store.get_file(CID, tmp_path / "target", max_bytes=100)
    assert (tmp_path / "target").read_bytes() == DATA
    assert "get" not in first.calls
    assert store.has(CID)


def test_get__both_have_it__comes_from_the_first() -> None:
    first, second = Shelf(DATA), Shelf(DATA)
    several(first, second).get_bytes(CID, max_bytes=100)
    assert "get" not in second.calls


def test_get__nobody_says_that_it_has_it__all_are_asked_in_order() -> None:
    class Far(Shelf):
        def has(self, cid: Cid) -> bool:
            return False

    assert several(Shelf(), Far(DATA)).get_bytes(CID, max_bytes=100) == DATA


def test_get__a_store_with_other_bytes__is_named_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    assert several(Shelf(b"other bytes"), Shelf(DATA)).get_bytes(CID, max_bytes=100) == DATA
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "store0" in warning


def test_get__a_store_that_does_not_answer__is_skipped() -> None:
    gone = Shelf(fault=StoreUnreachable("gone"))
    assert several(gone, Shelf(DATA)).get_bytes(CID, max_bytes=100) == DATA
    assert several(gone, Shelf(DATA)).has(CID)


@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        ([BlobNotFound("none", cid=CID), StoreUnreachable("gone")], StoreUnreachable),
        ([CidMismatch("other bytes", cid=CID), BlobNotFound("none", cid=CID)], BlobNotFound),
        ([BlobNotFound("none", cid=CID), PayloadTooLarge("too large")], PayloadTooLarge),
        ([StoreUnreachable("gone"), MalformedDag("a directory", cid=CID)], MalformedDag),
        ([StorageError("odd"), BlobNotFound("none", cid=CID)], BlobNotFound),
        ([CidMismatch("other bytes", cid=CID), CidMismatch("other bytes", cid=CID)], CidMismatch),
        ([BlobNotFound("none", cid=CID), StoreFull("the target's disk", path="/x")], StoreFull),
    ],
)
def test_get__nobody_gives_it__is_the_most_telling_error_and_names_all(
    faults: list[ChainflError], kind: type[ChainflError]
) -> None:
    with pytest.raises(kind) as caught:
        several(*(Shelf(fault=fault) for fault in faults)).get_bytes(CID, max_bytes=100)
    assert type(caught.value) is kind
    assert "store0" in str(caught.value)
    assert "store1" in str(caught.value)
    assert "{cid}" not in caught.value.hint


def test_get_put_and_has__no_cid__is_refused_without_a_question() -> None:
    shelf = Shelf()
    for use in (
        lambda store: store.get_bytes(Cid("../x"), max_bytes=1),
        lambda store: store.has(Cid("../x")),
        lambda store: store.drop(Cid("../x")),
        lambda store: store.keep(Cid("../x")),
        lambda store: list(store.standings(Cid("../x"))),
    ):
        with pytest.raises(InvalidCid):
            use(several(shelf))
    assert shelf.calls == []


def test_get__the_first_has_it__nobody_else_is_asked_at_all() -> None:
    first, second = Shelf(DATA), NetworkShelf(DATA)
    assert several(first, second).get_bytes(CID, max_bytes=100) == DATA
    assert several(first, second).has(CID)
    assert second.calls == []


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_SAY_TIMEOUT_S", "_HEAD_START_S"):
        monkeypatch.setattr(f"chainfl.storage.several.{name}", 0.05)


class Hanging(NetworkShelf):
    """A node that takes every question and answers none of them until its gate opens."""

    def _use(self, what: str) -> None:
        super()._use(what)
        self.gate.wait(10)


def test_get__a_node_hangs__is_named_and_left_alone_for_a_while(
    brisk: None, stalled: list[threading.Event], caplog: pytest.LogCaptureFixture
) -> None:
    node = Hanging()
    closed(stalled, node.gate)
    store = several(node, Shelf(DATA))
    for _ in range(3):
        assert store.get_bytes(CID, max_bytes=100) == DATA
        assert store.has(CID)
    assert node.calls == ["is_pinned"]
    (warning,) = warnings_in(caplog)
    assert "store0 did not answer" in warning
    node.gate.set()
    store._rests_until.clear()  # its rest is over
    store.has(CID)
    assert node.calls[1:] == ["is_pinned", "has"]


def test_get__a_node_hangs_and_nobody_else_has_it__is_asked_last_all_the_same(
    brisk: None, stalled: list[threading.Event]
) -> None:
    node = Hanging(DATA)
    closed(stalled, node.gate)
    store = several(node, Shelf())
    threading.Timer(0.3, node.gate.set).start()
    assert store.get_bytes(CID, max_bytes=100) == DATA


def test_get__a_node_searches_for_long__the_next_one_is_read_meanwhile(
    brisk: None, stalled: list[threading.Event]
) -> None:
    class Searching(NetworkShelf):
        def get_bytes(self, cid: Cid, *, max_bytes: int) -> bytes:
            self._use("get")
            self.gate.wait(10)
            raise BlobNotFound("nobody has it", cid=cid)

    class Far(Shelf):
        def has(self, cid: Cid) -> bool:
            return False

    node = Searching()
    closed(stalled, node.gate)
    assert several(node, Far(DATA)).get_bytes(CID, max_bytes=100) == DATA
    assert node.calls == ["is_pinned", "get"]


def test_prefetch__far_and_near__brings_it_to_the_far_store_unless_somebody_has_it() -> None:
    near, far = Shelf(), NetworkShelf()
    store = several(near, far)
    store.prefetch(CID, max_bytes=100)
    store.prefetch(CID, max_bytes=100)
    assert far.calls.count("prefetch") == 1
    several(near).prefetch(CID, max_bytes=100)
    assert "get" not in near.calls


# --- writing -------------------------------------------------------------------------------------


def test_put__bytes_and_file__reach_every_store_that_writes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    first, second, gateway = Shelf(), Shelf(), Shelf()
    store = SeveralStores([Place("a", first), read_only(gateway), Place("b", second)], quorum=2)
    assert store.put_bytes(DATA) == store.put_file(tmp_path / "file") == CID
    assert first.kept == second.kept == {CID: DATA}
    assert gateway.calls == []


def test_put__one_fails_and_the_quorum_is_met__returns_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert several(Shelf(fault=StoreFull("disk full")), Shelf()).put_bytes(DATA) == CID
    assert "store0" in caplog.text
    assert "disk full" in caplog.text


def test_put__quorum_missed__names_who_did_not_and_why_and_can_be_tried_again() -> None:
    vault = Vault("cellar", ServiceRefused("no funds", service="cellar"))
    store = several(NetworkShelf(), Shelf(fault=StoreFull("disk full")), quorum=2, services=[vault])
    with pytest.raises(NotPublished, match="1 of 2") as caught:
        store.put_bytes(DATA)
    assert caught.value.retryable
    assert caught.value.exit_code == 68
    for part in ("store1: disk full", "cellar: no funds"):
        assert part in caught.value.hint


def test_put__a_place_stalls__is_not_published_once_its_time_is_over(stalled: list[threading.Event]) -> None:
    slow = Shelf()
    slow.gate.clear()
    stalled.append(slow.gate)
    with pytest.raises(NotPublished) as caught:
        several(Shelf(), slow, quorum=2, timeout_s=0.1).put_bytes(DATA)
    assert "store1: no answer within 0.1 s" in caught.value.hint


def test_put__a_place_stalls_and_the_quorum_is_met__is_named_and_goes_on_by_itself(
    stalled: list[threading.Event], caplog: pytest.LogCaptureFixture
) -> None:
    slow = Shelf()
    closed(stalled, slow.gate)
    assert several(Shelf(), slow).put_bytes(DATA) == CID
    assert warnings_in(caplog) == ["store1 has not confirmed the content, and goes on in the background"]
    assert slow.kept == {}
    slow.gate.set()
    wait_until(lambda: slow.kept == {CID: DATA})


def test_put_file__a_slow_place_still_takes_bytes__is_waited_for_and_heard_no_longer_than_that(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    heard: list[int] = []

    class Slow(Shelf):
        def put_file(self, path: Path, *, moved: Moved = unheard) -> Cid:
            for done in range(6):
                time.sleep(0.2)  # what moves is slow, and not how long it is waited for
                moved(done, 6)
            return super().put_file(path)

    slow = Slow()
    store = several(Shelf(), slow, timeout_s=20, grace_s=0.8)
    assert store.put_file(tmp_path / "file", moved=lambda done, _: heard.append(done)) == CID
    assert slow.kept == {CID: DATA}
    assert heard == list(range(6))


@pytest.mark.parametrize("trouble", [StoreUnreachable("connection refused"), None], ids=["refuses", "stalls"])
def test_put__a_service_is_dead_and_the_quorum_is_met__is_named_with_its_trouble_and_asked_on(
    trouble: StorageError | None, stalled: list[threading.Event], caplog: pytest.LogCaptureFixture
) -> None:
    class Silent(Vault):
        def pin(self, cid: Cid, **options: Any) -> None:
            self.gate.wait(10)
            super().pin(cid, **options)

    vault = Vault("cellar", trouble=trouble) if trouble else Silent("cellar")
    closed(stalled, vault.gate)
    # Of one that is in trouble nothing is to be expected, whatever the grace.
    store = several(NetworkShelf(), services=[vault], timeout_s=600, grace_s=60 if trouble else 0.05)
    assert store.put_bytes(DATA) == CID
    (warning,) = warnings_in(caplog)
    assert warning.startswith("cellar has not confirmed the content")
    assert str(trouble or "") in warning
    vault.gate.set()
    wait_until(lambda: vault.held == {CID})


def test_put__a_service_is_dead_and_the_quorum_needs_it__is_given_up_after_its_outage(
    stalled: list[threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chainfl.storage.several.OUTAGE_S", -1.0)
    vault = Vault("cellar", trouble=StoreUnreachable("connection refused"))
    closed(stalled, vault.gate)
    with pytest.raises(NotPublished) as caught:
        several(NetworkShelf(), services=[vault], quorum=2, timeout_s=600).put_bytes(DATA)
    assert "cellar: connection refused" in caught.value.hint


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_put__places_are_asked_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=10)

    class Meeting(NetworkShelf):
        def put_bytes(self, data: bytes) -> Cid:
            barrier.wait()  # returns only when all three are here
            return super().put_bytes(data)

    assert several(Meeting(), Meeting(), Meeting(), quorum=3).put_bytes(DATA) == CID


def test_put__with_services__they_fetch_from_our_node_and_count(stalled: list[threading.Event]) -> None:
    node, vaults = NetworkShelf(), [Vault("cellar"), Vault("attic")]
    store = several(node, quorum=3, services=vaults)
    assert store.put_bytes(DATA) == CID
    assert [vault.held for vault in vaults] == [{CID}, {CID}]
    assert vaults[0].origins == node.addresses()
    assert node.dialled == ["/ip4/127.0.0.1/tcp/1/p2p/them"] * 2


def test_put__a_service_still_fetches_and_the_quorum_is_met__returns_and_it_goes_on(
    stalled: list[threading.Event],
) -> None:
    vault = Vault("cellar")
    vault.gate.clear()
    stalled.append(vault.gate)
    assert several(NetworkShelf(), services=[vault]).put_bytes(DATA) == CID
    assert vault.origins  # it has the request
    assert vault.held == set()


def test_put__the_node_fails__its_services_confirm_nothing() -> None:
    vault = Vault("cellar")
    node = NetworkShelf(fault=StoreUnreachable("daemon gone"))
    with pytest.raises(NotPublished) as caught:
        several(node, services=[vault]).put_bytes(DATA)
    assert "cellar: daemon gone" in caught.value.hint
    assert vault.held == set()


def test_put__only_a_place_that_does_not_confirm_took_it__is_not_published() -> None:
    local, node = Shelf(), NetworkShelf(fault=StoreUnreachable("nobody answers"))
    store = SeveralStores([Place("embedded", local, confirms=False), Place("kubo", node)], timeout_s=5)
    with pytest.raises(NotPublished, match="0 of 1"):
        store.put_bytes(DATA)
    assert CID in local.kept
    node.fault = None
    assert store.put_bytes(DATA) == CID


def test_put__source_missing__is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        several(Shelf(), Shelf()).put_file(tmp_path / "missing")


def test_put__only_gateways__is_read_only() -> None:
    with pytest.raises(StoreReadOnly):
        SeveralStores([read_only(Shelf())]).put_bytes(DATA)


def test_put__a_bug_in_a_store__is_not_taken_for_a_place_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError):
        several(Shelf(fault=ZeroDivisionError())).put_bytes(DATA)


def test_keep__what_another_store_has__is_kept_everywhere() -> None:
    gateway, embedded, node, vault = Shelf(DATA), Shelf(), NetworkShelf(), Vault("cellar")
    places = [Place("embedded", embedded), Place("kubo", node), read_only(gateway)]
    SeveralStores(places, [vault], quorum=3, timeout_s=5).keep(CID)
    assert embedded.kept == {CID: DATA}
    assert node.pinned == [CID]
    assert vault.held == {CID}


def test_drop__one_place_fails__the_others_drop_it_all_the_same() -> None:
    first, last, vault = Shelf(DATA), Shelf(DATA), Vault("cellar")
    vault.held.add(CID)
    with pytest.raises(StoreUnreachable, match="store1: gone"):
        several(first, Shelf(fault=StoreUnreachable("gone")), last, services=[vault]).drop(CID)
    assert first.kept == last.kept == {}
    assert vault.held == set()


def test_standings__every_place__says_whether_it_holds_it() -> None:
    vaults = [Vault("cellar"), Vault("attic", ServiceRefused("wrong token", service="attic"))]
    store = several(NetworkShelf(DATA), Shelf(), services=vaults)
    assert list(store.standings(CID)) == [
        Standing("store0", True, "pinned"),
        Standing("store1", False, "not there"),
        Standing("cellar", False, "not there"),
        Standing("attic", None, "wrong token"),
    ]


# --- the factory ---------------------------------------------------------------------------------


def test_open_store__one_in_a_list__is_that_store_itself(tmp_path: Path) -> None:
    assert isinstance(open_store(["embedded"], store_dir=tmp_path, kubo_api=None), EmbeddedStore)


def test_open_store__embedded_and_gateway__reads_both_and_writes_one(tmp_path: Path) -> None:
    store = open_store(
        ["embedded", "gateway"],
        store_dir=tmp_path / "store",
        kubo_api=None,
        gateways=["https://gateway.example"],
        cache_dir=tmp_path / "cache",
    )
    assert store.get_bytes(store.put_bytes(DATA), max_bytes=100) == DATA
    assert "gateway.example" in store.describe()
    assert isinstance(store, SeveralStores)
    assert [(place.name, place.writes) for place in store.places] == [("embedded", True), ("gateway", False)]
    assert isinstance(store.places[1].store, GatewayStore)


def test_open_store__quorum_out_of_reach__is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="publish_quorum"):
        open_store(["embedded"], store_dir=tmp_path, kubo_api=None, publish_quorum=2)


@pytest.mark.parametrize(
    ("kinds", "confirming"),
    [
        (["embedded"], {"embedded"}),
        (["embedded", "gateway"], {"embedded"}),
        (["embedded", "kubo", "gateway"], {"kubo"}),
        (["gateway"], set()),
    ],
)
def test_confirming_stores__embedded__counts_only_where_nothing_else_writes(kinds, confirming) -> None:
    assert confirming_stores(kinds) == confirming


def test_standings__a_store_that_asks_others__does_not_say_what_they_have(tmp_path: Path) -> None:
    store = GatewayStore(["https://gateway.example"], cache=BlockCache(tmp_path, max_bytes=1 << 30))
    (standing,) = SeveralStores.of(store).standings(CID)
    assert (standing.holds, standing.told) == (None, "not in the cache; gateways were not asked")


def test_describe__a_service_that_is_only_configured__is_not_said_to_have_pinned() -> None:
    told = several(NetworkShelf(), services=[Vault("cellar", fault=StorageError("no"))]).describe()
    assert "cellar" in told
    assert "pinned by" not in told


def test_open_store__several_and_the_daemon_down__is_that_places_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone:
        def __init__(self, *_: object, **__: object) -> None:
            self.block = self.pin = self

        def __getattr__(self, name: str) -> Callable[..., object]:
            def refused(*_: object, **__: object) -> None:
                raise client_errors.ConnectionError(OSError("refused"))

            return refused

    monkeypatch.setattr(ipfshttpclient, "Client", Gone)
    kept = EmbeddedStore(tmp_path / "store").put_bytes(b"kept")
    store = open_store(["kubo", "embedded"], store_dir=tmp_path / "store", kubo_api="/ip4/127.0.0.1/tcp/5001")
    assert isinstance(store, SeveralStores)
    assert store.get_bytes(kept, max_bytes=100) == b"kept"
    assert "no Kubo daemon answers" in store.describe()
    with pytest.raises(StoreUnreachable):
        open_store("kubo", store_dir=None, kubo_api="/ip4/127.0.0.1/tcp/5001")


def test_describe__a_place_does_not_answer__says_so_and_names_the_others() -> None:
    class Mute(Shelf):
        def describe(self) -> str:
            raise StoreUnreachable("nobody there")

    told = several(Mute(), Shelf()).describe()
    assert "store0 (nobody there)" in told
    assert "shelf" in told


def test_open_store__token_missing__reads_and_the_service_confirms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHAINFL_PINNING_CELLAR_TOKEN", raising=False)
    kept = EmbeddedStore(tmp_path / "store").put_bytes(b"kept")
    store = open_store(
        "embedded",
        store_dir=tmp_path / "store",
        kubo_api=None,
        pinning={"cellar": "https://cellar.example"},
        keys_dir=tmp_path / "keys",
        publish_quorum=2,
    )
    assert isinstance(store, SeveralStores)
    assert store.get_bytes(kept, max_bytes=100) == b"kept"
    assert [(standing.place, standing.holds) for standing in store.standings(kept)] == [
        ("embedded", True),
        ("cellar", None),
    ]
    with pytest.raises(TokenMissing):
        store.drop(CID)
    with pytest.raises(NotPublished, match="1 of 2"):
        store.put_bytes(DATA)


def test_of__a_gateway_alone__keeps_nothing(tmp_path: Path) -> None:
    gateway = GatewayStore(["https://gateway.example"], cache=BlockCache(tmp_path, max_bytes=1 << 30))
    with pytest.raises(StoreReadOnly):
        SeveralStores.of(gateway).keep(CID)


def test_of__one_store__is_one_place_under_its_kind(tmp_path: Path) -> None:
    store = SeveralStores.of(EmbeddedStore(tmp_path))
    assert [place.name for place in store.places] == ["embedded"]
    assert SeveralStores.of(store) is store

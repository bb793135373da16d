"""The gateway store against real HTTP servers with every fault, and against Kubo's own gateway."""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import gateway_server as faulty
import pytest
from at_once import READY, go, run_at_once, waiting
from gateway_server import Gateway, Request, blocks_of
from kubo import KuboDaemon, require_ipfs_binary

from chainfl.errors import (
    BlobNotFound,
    CidMismatch,
    InvalidCid,
    MalformedDag,
    PayloadTooLarge,
    ServiceUnreachable,
    StorageError,
    StoreFull,
    StoreReadOnly,
)
from chainfl.storage import unixfs
from chainfl.storage.cache import BlockCache
from chainfl.storage.cid import DAG_PB, RAW, cid_to_bytes, codec_of, make_cid
from chainfl.storage.gateway import GatewayStore, Patience
from chainfl.storage.http import Deadline, HttpClient, Limits
from chainfl.storage.racing import Pace, in_order
from chainfl.storage.unixfs import Layout, Link, cid_of, encode_node
from chainfl.types import Cid

MIB = 1 << 20
DATA = b"".join(hashlib.sha256(b"%d" % at).digest() * (MIB // 32) for at in range(9)) + b"the end"
CID, BLOCKS = blocks_of(DATA)
LEAVES = [Cid(cid) for cid in BLOCKS if codec_of(Cid(cid)) == RAW]
SMALL = b"a small update"
SMALL_CID = cid_of(SMALL)
# Long enough that a busy machine makes no difference; brisk where the test is about who is late.
CALM = Patience(
    block=Limits(connect_s=10, idle_s=10, total_s=20),
    stream=Limits(connect_s=10, idle_s=10, total_s=20),
    pace=Pace(soonest=10, latest=10, unknown=10, piece=10, finish=20, behind=20),
)
BRISK = Limits(connect_s=5, idle_s=1, total_s=2)
HEDGED = replace(CALM, pace=replace(CALM.pace, unknown=0.2))


@pytest.fixture
def cache(tmp_path: Path) -> BlockCache:
    return BlockCache(tmp_path / "cache", max_bytes=64 * MIB)


@pytest.fixture
def honest() -> Iterator[Gateway]:
    with Gateway({**BLOCKS, SMALL_CID: SMALL}) as gateway:
        yield gateway


def store_of(cache: BlockCache, *gateways: Gateway | str, patience: Patience = CALM) -> GatewayStore:
    urls = [gateway if isinstance(gateway, str) else gateway.url for gateway in gateways]
    return GatewayStore(urls, cache=cache, patience=patience)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- what a gateway is for -----------------------------------------------------------------------


def test_get__large_file__comes_as_one_stream(cache: BlockCache, honest: Gateway, tmp_path: Path) -> None:
    store = store_of(cache, honest)
    assert not store.has(CID)
    store.get_file(CID, tmp_path / "target", max_bytes=len(DATA))
    assert (tmp_path / "target").read_bytes() == DATA
    assert honest.asked == [("raw", CID), ("car", CID)]
    assert store.has(CID)
    assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA
    assert len(honest.asked) == 2


def test_get__small_file__is_one_raw_block(cache: BlockCache, honest: Gateway) -> None:
    assert store_of(cache, honest).get_bytes(SMALL_CID, max_bytes=100) == SMALL
    assert honest.asked == [("raw", SMALL_CID)]


@pytest.mark.parametrize("refusal", [faulty.answers(406), faulty.answers(200), faulty.answers(400)])
def test_get__gateway_without_streams__comes_as_raw_blocks_each_once(
    cache: BlockCache, honest: Gateway, refusal: faulty.Fault
) -> None:
    honest.faults.append(faulty.only_streams(refusal))
    store = store_of(cache, honest)
    assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA
    assert honest.times_asked() == Counter([CID, *LEAVES])


def test_get__same_chunk_many_times__is_fetched_once(cache: BlockCache) -> None:
    zeros = bytes(20 * MIB)
    cid, blocks = blocks_of(zeros)
    with Gateway(blocks, faulty.only_streams(faulty.answers(406))) as gateway:
        assert store_of(cache, gateway).get_bytes(cid, max_bytes=len(zeros)) == zeros
        assert set(gateway.times_asked().values()) == {1}


def test_prefetch__file__a_later_get_asks_nobody(cache: BlockCache, honest: Gateway) -> None:
    store = store_of(cache, honest)
    store.prefetch(CID, max_bytes=len(DATA))
    asked = list(honest.asked)
    assert store.has(CID)
    assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA
    assert honest.asked == asked
    with pytest.raises(PayloadTooLarge):
        store_of(cache, honest).prefetch(CID, max_bytes=len(DATA) - 1)


def test_put__gateways__are_read_only_and_the_hint_says_where_to_put(cache: BlockCache, tmp_path: Path) -> None:
    store = store_of(cache, "https://example.org")
    with pytest.raises(StoreReadOnly) as caught:
        store.put_bytes(SMALL)
    assert "kubo" in caught.value.hint
    with pytest.raises(StoreReadOnly):
        store.put_file(tmp_path)
    store.drop(SMALL_CID)


@pytest.mark.parametrize(
    "cid", ["", "Qm" + "a" * 44, "../" + CID, make_cid(RAW, bytes(32)).replace("bafkrei", "bagqcc")]
)
def test_get__cid_of_another_kind__is_refused_before_anybody_is_asked(
    cache: BlockCache, honest: Gateway, cid: str
) -> None:
    store = store_of(cache, honest)
    for use in (
        lambda: store.get_bytes(Cid(cid), max_bytes=100),
        lambda: store.get_file(Cid(cid), cache.root / "target", max_bytes=100),
        lambda: store.has(Cid(cid)),
    ):
        with pytest.raises(InvalidCid):
            use()
    assert honest.asked == []


# --- lies ----------------------------------------------------------------------------------------


def test_get__one_gateway_lies__is_named_left_out_and_another_serves(
    cache: BlockCache, honest: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with Gateway(BLOCKS, faulty.lies) as liar:
        store = store_of(cache, liar, honest)
        assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA
        assert store.get_bytes(SMALL_CID, max_bytes=100) == SMALL
        assert liar.asked == [("raw", CID)]
    assert [message for message in warnings_in(caplog) if liar.url in message and "lied" in message]
    assert f"{liar.url} (lied, left out)" in store.describe()


def test_get__stream_lies__its_gateway_is_named_and_only_the_rest_is_asked_elsewhere(
    cache: BlockCache, honest: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with Gateway(BLOCKS, faulty.only_streams(faulty.lies)) as liar:
        assert store_of(cache, liar, honest).get_bytes(CID, max_bytes=len(DATA)) == DATA
        assert liar.asked == [("raw", CID), ("car", CID)]
    assert honest.times_asked() == Counter([LEAVES[-1]])
    assert len([message for message in warnings_in(caplog) if liar.url in message]) == 1


def test_get__every_gateway_lies__is_a_mismatch_and_nobody_is_asked_again(cache: BlockCache) -> None:
    with Gateway(BLOCKS, faulty.lies) as liar, Gateway(BLOCKS, faulty.lies) as other:
        store = store_of(cache, liar, other)
        for _ in range(2):
            with pytest.raises(CidMismatch) as caught:
                store.get_bytes(CID, max_bytes=len(DATA))
            assert liar.url in str(caught.value)
        assert len(liar.asked + other.asked) == 2
    assert not store.has(CID)


def test_get__answer_without_end__is_a_lie_and_read_no_further_than_a_block(cache: BlockCache) -> None:
    with Gateway(BLOCKS, faulty.streams_for_ever) as endless:
        store = store_of(cache, endless)
        with pytest.raises(StorageError):
            store.get_bytes(CID, max_bytes=len(DATA))
        assert len(endless.asked) == 1
    assert "lied" in store.describe()


@pytest.mark.parametrize("fault", [faulty.streams_for_ever, faulty.streams_a_car_for_ever], ids=lambda f: f.__name__)
def test_get__stream_without_end__is_left_and_the_rest_comes_as_raw_blocks(
    cache: BlockCache, honest: Gateway, fault: faulty.Fault
) -> None:
    honest.faults.append(faulty.only_streams(fault))
    assert store_of(cache, honest).get_bytes(CID, max_bytes=len(DATA)) == DATA
    assert sum(kind == "car" for kind, _ in honest.asked) == 1
    assert set(honest.times_asked().values()) == {1}


def test_get__login_page_in_its_place__is_unreachable_and_no_lie(
    cache: BlockCache, caplog: pytest.LogCaptureFixture
) -> None:
    with Gateway(BLOCKS, faulty.shows_a_login) as captive:
        store = store_of(cache, captive)
        with pytest.raises(ServiceUnreachable, match="web page"):
            store.get_bytes(CID, max_bytes=len(DATA))
        captive.faults.clear()
        assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("fault", [faulty.lies_unframed, faulty.shows_a_login], ids=lambda f: f.__name__)
def test_get__what_may_be_an_accident_comes_twice__is_a_lie_and_named_once(
    cache: BlockCache, caplog: pytest.LogCaptureFixture, fault: faulty.Fault
) -> None:
    with Gateway(BLOCKS, fault) as liar:
        alone = store_of(cache, liar)
        for _ in range(3):
            with pytest.raises(StorageError):
                alone.get_bytes(CID, max_bytes=len(DATA))
        assert len(liar.asked) == 2
        assert f"{liar.url} (lied, left out)" in alone.describe()
        (warning,) = warnings_in(caplog)
        assert liar.url in warning


def test_get__other_bytes_in_chunks_that_end__are_a_lie_at_once(
    cache: BlockCache, honest: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with Gateway(BLOCKS, faulty.lies_chunked) as liar:
        assert store_of(cache, liar, honest).get_bytes(SMALL_CID, max_bytes=100) == SMALL
        assert len(liar.asked) == 1
        (warning,) = warnings_in(caplog)
        assert liar.url in warning


def test_get__key_in_the_path_of_the_address__is_sent_and_never_shown(
    cache: BlockCache, honest: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="chainfl")
    paths: list[str] = []

    def lies_to(request: Request) -> bool:
        paths.append(request.path)
        return faulty.lies(request)

    with Gateway(BLOCKS, lies_to) as liar:
        store = store_of(cache, f"{liar.url}/secret", f"{honest.url}/secret")
        assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA
        with pytest.raises(BlobNotFound) as caught:
            store.get_bytes(cid_of(b"not there"), max_bytes=100)
    assert paths[0].startswith("/secret/ipfs/")
    told = [record.getMessage() for record in caplog.records if record.name.startswith("chainfl")]
    assert "secret" not in f"{store.describe()} {caught.value} {caught.value.hint} {caught.value.evidence} {told}"


# --- slow and dead -------------------------------------------------------------------------------


def test_get__first_gateway_stalls__second_wins_and_stays_first(cache: BlockCache, honest: Gateway) -> None:
    with Gateway(BLOCKS, faulty.stalls) as silent:
        store = store_of(cache, silent, honest, patience=HEDGED)
        started = time.monotonic()
        assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA
        assert store.get_bytes(SMALL_CID, max_bytes=100) == SMALL
        assert time.monotonic() - started < HEDGED.block.idle_s
        assert len(silent.asked) == 1
    assert "failing" in store.describe()


@pytest.mark.parametrize("fault", [faulty.stalls, faulty.drips_headers, faulty.drips_body], ids=lambda f: f.__name__)
def test_get__only_gateway_stalls_or_drips__ends_in_time(cache: BlockCache, fault: faulty.Fault) -> None:
    with Gateway(BLOCKS, fault) as slow:
        started = time.monotonic()
        with pytest.raises(ServiceUnreachable, match="its time is over") as caught:
            store_of(cache, slow, patience=replace(CALM, block=BRISK)).get_bytes(CID, max_bytes=len(DATA))
        assert time.monotonic() - started < BRISK.total_s + 10
    assert slow.url in caught.value.hint


@pytest.mark.parametrize("fault", [faulty.stalls, faulty.drips_headers, faulty.drips_body], ids=lambda f: f.__name__)
def test_get__stream_stalls__rest_comes_as_raw_blocks(cache: BlockCache, honest: Gateway, fault: faulty.Fault) -> None:
    honest.faults.append(faulty.only_streams(fault))
    assert store_of(cache, honest, patience=replace(CALM, stream=BRISK)).get_bytes(CID, max_bytes=len(DATA)) == DATA
    assert honest.times_asked() == Counter([CID, *LEAVES])


@pytest.mark.parametrize("parts", [0, 1, 2, 5])
def test_get__stream_cut__only_what_is_missing_comes_as_raw_blocks(
    cache: BlockCache, honest: Gateway, parts: int
) -> None:
    honest.faults.append(faulty.cuts_stream_after(parts))
    assert store_of(cache, honest).get_bytes(CID, max_bytes=len(DATA)) == DATA
    streamed = max(parts - 2, 0)  # the header and the root come first
    assert honest.times_asked() == Counter([CID, *LEAVES[streamed:]])


@pytest.mark.parametrize("fault", [faulty.truncates, faulty.truncates_unframed], ids=lambda f: f.__name__)
def test_get__block_cut__is_asked_for_again_and_nobody_is_called_a_liar(
    cache: BlockCache, honest: Gateway, caplog: pytest.LogCaptureFixture, fault: faulty.Fault
) -> None:
    honest.faults.append(faulty.once(fault))
    assert store_of(cache, honest).get_bytes(SMALL_CID, max_bytes=100) == SMALL
    assert honest.times_asked() == {SMALL_CID: 2}
    assert warnings_in(caplog) == []


def test_get__gateway_gone__another_serves_and_the_dead_one_goes_to_the_back(
    cache: BlockCache, honest: Gateway
) -> None:
    with Gateway(BLOCKS) as gone:
        pass
    store = store_of(cache, gone, honest)
    assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA
    with pytest.raises(ServiceUnreachable):
        store_of(cache, gone).get_bytes(cid_of(b"other"), max_bytes=100)


IMPATIENT = replace(CALM, pace=replace(CALM.pace, piece=0.3, behind=0.3))


def test_get__answer_begins_and_stalls__another_gateway_is_asked_beside_it(cache: BlockCache, honest: Gateway) -> None:
    with Gateway(BLOCKS, faulty.stalls_after_headers) as silent:
        started = time.monotonic()
        assert store_of(cache, silent, honest, patience=IMPATIENT).get_bytes(CID, max_bytes=len(DATA)) == DATA
        assert time.monotonic() - started < IMPATIENT.pace.finish / 2


def test_get__stream_drips_and_another_gateway_is_faster__is_overtaken(
    cache: BlockCache, honest: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with Gateway(BLOCKS, faulty.drips_a_car(100)) as slow:
        store = store_of(cache, slow, honest, patience=IMPATIENT)
        started = time.monotonic()
        assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA
        assert time.monotonic() - started < len(DATA) / 102_400 / 4
        assert slow.asked[:2] == [("raw", CID), ("car", CID)]
        assert f"{slow.url} (failing" in store.describe()
        assert in_order(store._gateways.servers, time.monotonic() + 60)[0].name == honest.url
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("other", [faulty.answers(404), faulty.answers(500), faulty.stalls], ids=["404", "500", "mute"])
def test_get__stream_is_slow_and_no_other_gateway_sooner__goes_on(cache: BlockCache, other: faulty.Fault) -> None:
    data = DATA[: 5 * MIB]
    cid, blocks = blocks_of(data)
    with Gateway(blocks, faulty.drips_a_car(1600)) as slow, Gateway({}, other) as worse:
        assert store_of(cache, slow, worse, patience=IMPATIENT).get_bytes(cid, max_bytes=len(data)) == data
        assert slow.asked == [("raw", cid), ("car", cid)]
        assert {kind for kind, _ in worse.asked} == {"raw"}
        assert len(worse.asked) < len(blocks)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 410, 504])
def test_get__nobody_has_it__is_not_found_after_all_were_asked(cache: BlockCache, honest: Gateway, status: int) -> None:
    with Gateway({}, faulty.answers(status)) as empty:
        with pytest.raises(BlobNotFound):
            store_of(cache, empty, honest).get_bytes(cid_of(b"other"), max_bytes=100)
        assert (len(empty.asked), len(honest.asked)) == (1, 1)


def test_get__one_lacks_it_and_one_is_broken__is_unreachable_and_says_both(cache: BlockCache) -> None:
    with Gateway({}) as empty, Gateway({}, faulty.answers(500)) as broken:
        with pytest.raises(ServiceUnreachable) as caught:
            store_of(cache, empty, broken).get_bytes(CID, max_bytes=100)
        assert "404" in str(caught.value)
        assert "500" in str(caught.value)


@pytest.mark.parametrize("status", [429, 503])
def test_get__too_many_requests__gateway_is_left_alone_as_long_as_it_says(
    cache: BlockCache, honest: Gateway, status: int
) -> None:
    with Gateway(BLOCKS, faulty.answers(status, Retry_After="60")) as busy:
        store = store_of(cache, busy, honest)
        assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA
        alone = store_of(cache, busy)
        for _ in range(3):
            with pytest.raises(ServiceUnreachable):
                alone.get_bytes(SMALL_CID, max_bytes=100)
        assert len(busy.asked) == 2
    assert "60 s of peace" in store.describe() or "59 s of peace" in store.describe()


# --- redirects -----------------------------------------------------------------------------------


@pytest.fixture
def trap() -> Iterator[socket.socket]:
    """A listener on loopback that nobody configured."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        yield listener


def heard(trap: socket.socket) -> bytes:
    """What the first connection sent before it ended."""
    connection, _ = trap.accept()
    with connection:
        connection.settimeout(5)
        return connection.recv(1000)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["127.0.0.1", "rebound.example"])
def test_redirect__to_a_private_address__is_refused_before_anything_is_sent(
    cache: BlockCache, honest: Gateway, trap: socket.socket, monkeypatch: pytest.MonkeyPatch, host: str, scheme: str
) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda name, *rest: resolve("127.0.0.1" if name == "rebound.example" else name, *rest)
    )
    honest.faults.append(faulty.redirects(f"{scheme}://{host}:{trap.getsockname()[1]}"))
    with pytest.raises(ServiceUnreachable, match="not global"):
        store_of(cache, honest).get_bytes(SMALL_CID, max_bytes=100)
    assert heard(trap) == b""


def test_redirect__to_another_configured_gateway__is_followed(cache: BlockCache, honest: Gateway) -> None:
    with Gateway(BLOCKS, faulty.redirects(honest.url)) as front:
        assert store_of(cache, front, honest).get_bytes(CID, max_bytes=len(DATA)) == DATA
        assert front.asked[0] == ("raw", CID) == honest.asked[0]


def test_redirect__in_a_loop__ends(cache: BlockCache, honest: Gateway) -> None:
    honest.faults.append(faulty.redirects(""))
    with pytest.raises(ServiceUnreachable, match="more than 3 times"):
        store_of(cache, honest).get_bytes(SMALL_CID, max_bytes=100)
    assert len(honest.asked) == 4


def test_redirect__to_another_origin__takes_no_credentials_along(honest: Gateway) -> None:
    seen: list[dict[str, str]] = []

    def records(request: Request) -> bool:
        seen.append(dict(request.headers))
        return False

    honest.faults.append(records)
    with Gateway({}, faulty.redirects(honest.url)) as front:
        client = HttpClient([front.url, honest.url])
        sent = {"Authorization": "Bearer secret", "Accept": "text/plain"}
        with client.get(f"{front.url}/ipfs/{SMALL_CID}?format=raw", headers=sent, max_bytes=100) as answer:
            assert (answer.body(), answer.origin) == (SMALL, honest.url)
    assert "secret" not in str(seen)
    assert seen[0]["Accept"] == "text/plain"


def test_client__body_beyond_its_bound__is_an_error_that_shows_no_token(honest: Gateway) -> None:
    client = HttpClient([honest.url])
    url = f"{honest.url}/ipfs/{SMALL_CID}?format=raw&token=secret"
    with (
        pytest.raises(StorageError, match="more than 13 bytes") as caught,
        client.get(url, max_bytes=len(SMALL) - 1) as answer,
    ):
        answer.body()
    assert "secret" not in str(caught.value)
    with client.get(url, max_bytes=len(SMALL)) as answer:
        assert answer.body() == SMALL


def test_client__kept_connection_was_closed__get_is_sent_again(honest: Gateway) -> None:
    def hangs_up(request: Request) -> bool:
        request.close_connection = True
        return True

    client = HttpClient([honest.url])
    url = f"{honest.url}/ipfs/{SMALL_CID}?format=raw"
    with client.get(url, max_bytes=100) as answer:
        answer.body()
    honest.faults.append(faulty.once(hangs_up))
    with client.get(url, max_bytes=100) as answer:
        assert answer.body() == SMALL


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key."""
    if shutil.which("openssl") is None:
        reason = "no `openssl` on PATH to make a certificate with"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI never skips: {reason}")
        pytest.skip(reason)
    pem = tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    made = [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(pem), "-out", str(pem) + ".crt"]
    subprocess.run(made, check=True, capture_output=True)
    pem.write_bytes(pem.read_bytes() + (tmp_path / "certificate.pem.crt").read_bytes())
    return pem


def test_client__https__certificate_is_checked_and_the_time_limits_hold(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gateway({SMALL_CID: SMALL}, certificate=certificate) as gateway:
        url = f"{gateway.url}/ipfs/{SMALL_CID}?format=raw"
        with pytest.raises(ServiceUnreachable, match="self-signed"), HttpClient([url]).get(url, max_bytes=100):
            pytest.fail("nobody vouches for it")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        client = HttpClient([url], limits=BRISK)
        with client.get(url, max_bytes=100) as answer:
            assert answer.body() == SMALL
        gateway.faults.append(faulty.drips_body)
        started = time.monotonic()
        with pytest.raises(ServiceUnreachable, match="its time is over"), client.get(url, max_bytes=MIB) as answer:
            answer.body()
        assert time.monotonic() - started < BRISK.total_s + 10


def test_deadline__cancelled_from_another_thread__ends_the_wait_at_once(honest: Gateway) -> None:
    reached = threading.Event()

    def stalls_visibly(request: Request) -> bool:
        reached.set()
        return faulty.stalls(request)

    honest.faults.append(stalls_visibly)
    deadline = Deadline(Limits(idle_s=60, total_s=60))
    client = HttpClient([honest.url])

    def wait() -> None:
        with client.request("GET", honest.url, max_bytes=1, deadline=deadline):
            pytest.fail("it says nothing")

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        assert reached.wait(10)
        deadline.cancel()
        assert isinstance(waiting.exception(10), ServiceUnreachable)


# --- bombs ---------------------------------------------------------------------------------------

TINY = Layout(chunk_bytes=4, max_links=3)


def node_of(links: list[Link]) -> tuple[Cid, bytes]:
    block = encode_node(links)
    return make_cid(DAG_PB, hashlib.sha256(block).digest()), block


def deep_bomb() -> tuple[Cid, dict[str, bytes]]:
    """A chain of nodes, each the only child of the next, that claims a petabyte."""
    blocks: dict[str, bytes] = {}
    cid = make_cid(DAG_PB, bytes(32))
    for _ in range(50):
        cid, block = node_of([Link(cid_to_bytes(cid), 1 << 50, 1 << 50)])
        blocks[cid] = block
    return cid, blocks


def wide_bomb() -> tuple[Cid, dict[str, bytes]]:
    """One node with far more links than any file's, all to the same leaf."""
    leaf = bytes(MIB)
    links = [Link(cid_to_bytes(cid_of(leaf)), MIB, MIB)] * 15_000
    cid, block = node_of(links)
    return cid, {cid: block, cid_of(leaf): leaf}


def lying_size() -> tuple[Cid, dict[str, bytes]]:
    """Two full leaves, of which the second is stated to have one byte."""
    leaf = bytes(MIB)
    link = Link(cid_to_bytes(cid_of(leaf)), MIB, MIB)
    cid, block = node_of([link, link._replace(size=1, dag_size=1)])
    return cid, {cid: block, cid_of(leaf): leaf}


def directory() -> tuple[Cid, dict[str, bytes]]:
    block = b"\x0a\x02\x08\x01"
    cid = make_cid(DAG_PB, hashlib.sha256(block).digest())
    return cid, {cid: block}


@pytest.mark.parametrize("bomb", [deep_bomb, wide_bomb, lying_size, directory], ids=lambda f: f.__name__)
def test_get__dag_that_is_no_file__is_refused_after_few_blocks_and_nobody_is_called_a_liar(
    cache: BlockCache, bomb: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(bomb)
    cid, blocks = bomb()
    with Gateway(blocks) as gateway:
        store = store_of(cache, gateway)
        for _ in range(2):
            with pytest.raises((MalformedDag, PayloadTooLarge)):
                store.get_file(cid, tmp_path / "target", max_bytes=1 << 40)
        assert sum(gateway.times_asked().values()) <= 2
    assert not (tmp_path / "target").exists()
    assert warnings_in(caplog) == []
    assert not store.has(cid) or bomb is lying_size


def test_get__larger_than_allowed__is_refused_after_the_root(cache: BlockCache, honest: Gateway) -> None:
    with pytest.raises(PayloadTooLarge):
        store_of(cache, honest).get_bytes(CID, max_bytes=len(DATA) - 1)
    assert honest.asked == [("raw", CID)]


def test_get_file__stream_is_cut__is_heard_leaf_by_leaf_all_the_same(
    cache: BlockCache, honest: Gateway, tmp_path: Path
) -> None:
    honest.faults.append(faulty.once(faulty.cuts_stream_after(5)))
    heard: list[tuple[int, int]] = []
    store = store_of(cache, honest)
    store.get_file(CID, tmp_path / "target", max_bytes=len(DATA), moved=lambda *told: heard.append(told))
    assert heard == [(min(number * MIB, len(DATA)), len(DATA)) for number in range(1, len(LEAVES) + 1)]


# --- processes -----------------------------------------------------------------------------------

FETCH = f"""
from pathlib import Path
from chainfl.storage.cache import BlockCache
from chainfl.storage.gateway import GatewayStore
from chainfl.types import Cid
{READY}
url, root, cid, target = sys.argv[1:]
store = GatewayStore([url], cache=BlockCache(Path(root), max_bytes=64 << 20))
store.get_file(Cid(cid), Path(target), max_bytes=1 << 30)
"""


def fetching(gateway: Gateway, cache: BlockCache, cid: Cid, target: Path) -> subprocess.Popen[str]:
    """A process that waits for a line before it fetches `cid` into `target`."""
    return waiting(FETCH, gateway.url, cache.root, cid, target)


@pytest.mark.parametrize(
    ("cid", "data", "asked"),
    [(SMALL_CID, SMALL, [("raw", SMALL_CID)]), (CID, DATA, [("raw", CID), ("car", CID)])],
    ids=["block", "file"],
)
def test_get__eight_processes_at_once__ask_once(
    cache: BlockCache, honest: Gateway, tmp_path: Path, cid: Cid, data: bytes, asked: list[tuple[str, Cid]]
) -> None:
    processes = [fetching(honest, cache, cid, tmp_path / f"{number}") for number in range(8)]
    run_at_once(*processes)
    assert all((tmp_path / f"{number}").read_bytes() == data for number in range(8))
    assert honest.asked == asked


def test_get__process_that_fetches_is_stopped__another_one_waits_no_longer_than_it_should(
    cache: BlockCache, honest: Gateway, tmp_path: Path
) -> None:
    reached = threading.Event()

    def halts(request: Request) -> bool:
        reached.set()
        return faulty.stalls(request)

    honest.faults.append(faulty.once(faulty.only_streams(halts)))
    process = fetching(honest, cache, CID, tmp_path / "target")
    try:
        go(process)
        assert reached.wait(30)
        process.send_signal(signal.SIGSTOP)
        impatient = BlockCache(cache.root, max_bytes=cache.max_bytes, wait_s=0.5)
        started = time.monotonic()
        assert store_of(impatient, honest).get_bytes(CID, max_bytes=len(DATA)) == DATA
        assert time.monotonic() - started < 20
    finally:
        process.kill()
        process.wait()


def test_get_file__targets_disk_full__is_store_full_and_the_target_stays(
    cache: BlockCache, honest: Gateway, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "target").write_bytes(b"as it was")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 * MIB, hard))
    try:
        with pytest.raises(StoreFull):
            store_of(cache, honest).get_file(CID, folder / "target", max_bytes=len(DATA))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.read_bytes() for path in folder.iterdir()] == [b"as it was"]


@pytest.mark.parametrize("leaves", [0, 4, 9])
def test_get__killed_in_the_middle__leaves_nothing_visible_and_resumes_with_what_is_missing(
    cache: BlockCache, honest: Gateway, tmp_path: Path, leaves: int
) -> None:
    def halts(request: Request) -> bool:
        parts = list(faulty.car_parts(request.cid, BLOCKS))

        def halting() -> Iterator[bytes]:
            yield from parts[: 2 + leaves]  # the header and the root come first
            reached.set()
            request.stall()

        request.stream(halting())
        return True

    reached = threading.Event()
    honest.faults.append(faulty.only_streams(halts))
    process = fetching(honest, cache, CID, tmp_path / "target")
    go(process)
    assert reached.wait(30)
    wait_for_blocks(cache, [CID, *LEAVES[:leaves]])
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "target").exists()
    honest.asked.clear()
    store = store_of(cache, honest)
    assert not store.has(CID)
    store.get_file(CID, tmp_path / "target", max_bytes=len(DATA))
    assert (tmp_path / "target").read_bytes() == DATA
    assert list(tmp_path.rglob("*.part")) == []
    assert honest.times_asked() == Counter(LEAVES[leaves:])
    assert len(honest.asked) == len(LEAVES[leaves:])


def wait_for_blocks(cache: BlockCache, cids: list[Cid]) -> None:
    """Returns when another process has kept them all; nothing but the folder tells."""
    deadline = time.monotonic() + 30
    while not all(cache.holds(cid) for cid in cids):
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- the cache beneath ---------------------------------------------------------------------------


def test_get__block_in_the_cache_damaged__is_removed_and_fetched_again_alone(
    cache: BlockCache, honest: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(cache, honest)
    store.get_bytes(CID, max_bytes=len(DATA))
    honest.asked.clear()
    path = cache.root / "blocks" / LEAVES[3][-2:] / LEAVES[3]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA
    assert honest.asked == [("raw", LEAVES[3])]
    assert hashlib.sha256(path.read_bytes()).digest() == cid_to_bytes(LEAVES[3])[4:]
    assert any("damaged" in message for message in warnings_in(caplog))


def test_get__disk_full__blocks_are_used_and_not_kept_with_one_warning(
    cache: BlockCache, honest: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(cache, honest)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB - 1, hard))
    try:
        assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len([message for message in warnings_in(caplog) if "not kept" in message]) == 1
    assert list((cache.root / "pending").iterdir()) == []
    assert not store.has(CID)


# --- Kubo's own gateway --------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [True, False], ids=["car", "raw"])
def test_kubo_gateway__file__comes_back(
    cache: BlockCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    with KuboDaemon(require_ipfs_binary()) as daemon:
        cid = Cid(daemon.ipfs("add", "-Q", "--pin=false", str(source)))
        assert cid == CID
        gateway = (daemon.repo / "gateway").read_text().strip()
        store = store_of(cache, gateway)
        store._gateways.servers[0].streams = streams
        raced: list[Cid] = []
        race = store._gateways.race
        monkeypatch.setattr(store._gateways, "race", lambda block: (raced.append(block), race(block))[1])
        store.get_file(cid, tmp_path / "target", max_bytes=len(DATA))
        # All but the root in one stream, if it is as asked for: depth first, with what repeats.
        assert Counter(raced) == Counter([CID] if streams else [CID, *LEAVES])
        with pytest.raises(BlobNotFound):
            store.get_bytes(cid_of(b"not there"), max_bytes=100)
    assert (tmp_path / "target").read_bytes() == DATA


def test_unixfs__tiny_layout__is_not_what_the_store_takes(cache: BlockCache) -> None:
    blocks: dict[str, bytes] = {}
    builder = unixfs.CidBuilder(blocks.__setitem__, layout=TINY)
    builder.update(bytes(100))
    with Gateway(blocks) as gateway, pytest.raises(MalformedDag):
        store_of(cache, gateway).get_bytes(builder.finish(), max_bytes=1000)

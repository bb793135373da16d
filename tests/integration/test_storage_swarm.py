"""A private network of real nodes on loopback: blocks from node to node, nodes that vanish, and a pinning service."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from at_once import READY, run_at_once, waiting
from gateway_server import Gateway, blocks_of
from kubo import KuboDaemon, Relay, link, private_swarm
from pinning_service import TOKEN, Fault, PinningServer

from chainfl.cli.context import App
from chainfl.cli.doctor import examine
from chainfl.errors import BlobNotFound, NotPublished, StoreUnreachable
from chainfl.storage import kubo as kubo_store
from chainfl.storage.cache import BlockCache
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.gateway import GatewayStore
from chainfl.storage.kubo import KuboStore
from chainfl.storage.pinning import PinningService
from chainfl.storage.several import Place, SeveralStores, Standing
from chainfl.storage.unixfs import cid_of

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

MIB = 1 << 20


def content(seed: int, size: int = 5 * MIB) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(scope="module")
def swarm() -> Iterator[list[KuboDaemon]]:
    with private_swarm(3) as nodes:
        yield nodes


@pytest.fixture
def stores(swarm: list[KuboDaemon]) -> list[KuboStore]:
    return [KuboStore(node.api) for node in swarm]


def sent_blocks(node: KuboDaemon) -> int:
    return int(json.loads(node.ipfs("bitswap", "stat", "--enc=json"))["BlocksSent"])


def test_nodes__each_publishes__fetch_from_one_another_at_the_same_time(stores: list[KuboStore]) -> None:
    published = [(store.put_bytes(content(at)), content(at)) for at, store in enumerate(stores)]
    wanted = [(store, *each) for store in stores for each in published]
    with ThreadPoolExecutor(len(wanted)) as pool:
        got = pool.map(lambda want: want[0].get_bytes(want[1], max_bytes=len(want[2])) == want[2], wanted)
        assert list(got) == [True] * len(wanted)


def test_get__two_nodes_have_it__both_send_blocks_of_it(swarm: list[KuboDaemon], stores: list[KuboStore]) -> None:
    data = content(10, 60 * MIB)
    for store in stores[1:]:
        cid = store.put_bytes(data)
    before = [sent_blocks(node) for node in swarm[1:]]
    assert stores[0].get_bytes(cid, max_bytes=len(data)) == data
    sent = [now - then for now, then in zip(map(sent_blocks, swarm[1:]), before, strict=True)]
    assert min(sent) > 5
    assert sum(sent) >= 61


GET = f"""
from pathlib import Path
from chainfl.storage.kubo import KuboStore
{READY}
KuboStore(sys.argv[1]).get_file(sys.argv[2], Path(sys.argv[3]), max_bytes=1 << 30)
"""


def test_get__eight_processes_want_what_another_node_has__its_blocks_are_not_sent_for_each(
    swarm: list[KuboDaemon], stores: list[KuboStore], tmp_path: Path
) -> None:
    data = content(15, 20 * MIB)
    cid, before = stores[1].put_bytes(data), sent_blocks(swarm[1])
    targets = [tmp_path / f"{number}" for number in range(8)]
    run_at_once(*[waiting(GET, swarm[0].api, cid, target) for target in targets])
    assert all(target.read_bytes() == data for target in targets)
    # The daemon asks for a block once more where two processes want it in the moment in which it comes: a few of them.
    assert 21 <= sent_blocks(swarm[1]) - before < 2 * 21


def test_peers__linked__have_addresses_and_measured_round_trips(
    swarm: list[KuboDaemon], stores: list[KuboStore]
) -> None:
    cid = stores[0].put_bytes(content(20))
    stores[1].get_bytes(cid, max_bytes=5 * MIB)
    (ours,) = stores[0].addresses()
    (found,) = [peer for peer in stores[1].peers() if peer.address == ours]
    assert found.round_trip_s is not None
    assert 0 < found.round_trip_s < 5


def test_prefetch__then_the_publisher_is_cut_off__is_read_from_our_own_node(tmp_path: Path) -> None:
    data = content(30)
    with private_swarm(2) as (publisher, reader):
        store = KuboStore(reader.api)
        cid = KuboStore(publisher.api).put_bytes(data)
        store.prefetch(cid, max_bytes=len(data))
        assert store.has(cid)
        publisher.kill()
        store.get_file(cid, tmp_path / "target", max_bytes=len(data))
    assert (tmp_path / "target").read_bytes() == data


def test_get__a_node_vanishes_in_the_middle__another_one_serves_the_rest() -> None:
    data = content(40, 60 * MIB)
    with private_swarm(3) as (reader, vanishing, staying):
        for node in (vanishing, staying):
            cid = KuboStore(node.api).put_bytes(data)
        with Relay(reader.api) as relay:
            relay.at("block/get", lambda count: vanishing.kill() if count == 20 else None)
            assert KuboStore(relay.api).get_bytes(cid, max_bytes=len(data)) == data
        assert [peer.address for peer in KuboStore(reader.api).peers()] == [staying.address]


def test_connect__a_node_that_nobody_knew__then_has_its_content() -> None:
    with private_swarm(2, linked=False) as (ours, other):
        store, address = KuboStore(ours.api), other.address
        cid = KuboStore(other.api).put_bytes(content(50))
        with pytest.raises(BlobNotFound):
            store.pin(cid, timeout_s=1)
        store.connect(address)
        store.pin(cid, timeout_s=20)
        assert store.is_pinned(cid)
        other.kill()
        with pytest.raises(StoreUnreachable, match="cannot connect"):
            KuboStore(ours.api).connect(f"{address[:-1]}{'a' if address[-1] != 'a' else 'b'}")


# --- a pinning service ---------------------------------------------------------------------------


def published_by(node: KuboDaemon, server: PinningServer, *, quorum: int, timeout_s: float = 60) -> SeveralStores:
    service = PinningService("cellar", server.endpoint, TOKEN)
    return SeveralStores([Place("kubo", KuboStore(node.api))], [service], quorum=quorum, timeout_s=timeout_s)


def test_publish__worker_goes_away__others_fetch_it_from_the_services_node(tmp_path: Path) -> None:
    data = content(60)
    with private_swarm(3, linked=False) as (worker, cellar, reader), PinningServer(cellar) as server:
        # Nobody connects them but the delegates that the service names.
        store = published_by(worker, server, quorum=2)
        cid = store.put_bytes(data)
        assert list(store.standings(cid)) == [Standing("kubo", True, "pinned"), Standing("cellar", True, "pinned")]
        worker.kill()
        link(cellar, reader)
        cellar.ipfs("repo", "gc")
        KuboStore(reader.api).get_file(cid, tmp_path / "target", max_bytes=len(data))
    assert (tmp_path / "target").read_bytes() == data


def test_publish__service_fails__is_not_published_and_a_later_put_is(swarm: list[KuboDaemon]) -> None:
    with PinningServer(swarm[1]) as server:
        store = published_by(swarm[0], server, quorum=2)
        server.fail_all = True
        with pytest.raises(NotPublished) as caught:
            store.put_bytes(content(70))
        assert "cellar could not pin" in caught.value.hint
        server.fail_all = False
        server.faults = [Fault(500), Fault(0), Fault(0), Fault(429)]
        cid = store.put_bytes(content(70))
        assert KuboStore(swarm[1].api).is_pinned(cid)
        store.drop(cid)
        assert not any(KuboStore(node.api).is_pinned(cid) for node in swarm[:2])


def test_publish__service_too_slow__is_not_published_in_time(swarm: list[KuboDaemon]) -> None:
    with PinningServer(swarm[1]) as server:
        server.hold.set()
        with pytest.raises(NotPublished) as caught:
            published_by(swarm[0], server, quorum=2, timeout_s=1).put_bytes(content(80))
    assert "cellar" in caught.value.hint


def test_publish__service_slow_and_not_needed__returns_and_the_service_goes_on(swarm: list[KuboDaemon]) -> None:
    with PinningServer(swarm[1]) as server:
        server.hold.set()
        store = published_by(swarm[0], server, quorum=1)
        cid = store.put_bytes(content(90))
        assert list(store.standings(cid))[1] == Standing("cellar", False, "queued")
        server.hold.clear()
        PinningService("cellar", server.endpoint, TOKEN).pin(cid, timeout_s=60)
        assert list(store.standings(cid))[1].holds


# --- what is dead holds nobody up ----------------------------------------------------------------

PROMPT_S = 30
"""What no wait for a dead place fits into, on a busy machine too."""

PUBLISH = """
import sys
from pathlib import Path
from chainfl.storage.factory import open_store
api, endpoint, folder = sys.argv[1:]
store = open_store("kubo", store_dir=None, kubo_api=api, pinning={"cellar": endpoint}, keys_dir=Path(folder))
print(store.put_bytes(b"published all the same"))
"""


@pytest.mark.parametrize("how", ["refuses", "answers 500", "stalls"])
def test_publish__a_service_is_dead_and_the_quorum_is_met__is_named_and_the_process_ends_at_once(
    swarm: list[KuboDaemon], tmp_path: Path, how: str
) -> None:
    with PinningServer(swarm[1]) as server:
        halted = threading.Event()

        def stall(_: str) -> None:
            halted.wait(PROMPT_S)

        server.faults = [Fault(500)] * 1000 if how == "answers 500" else []
        server.at = stall if how == "stalls" else server.at
        endpoint = "http://127.0.0.1:1" if how == "refuses" else server.endpoint
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", PUBLISH, swarm[0].api, endpoint, str(tmp_path)],
            env={**os.environ, "CHAINFL_PINNING_TOKEN_CELLAR": TOKEN},
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.monotonic() - started
        halted.set()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == cid_of(b"published all the same")
    assert "cellar has not confirmed the content" in done.stderr
    assert took < PROMPT_S


@pytest.fixture
def hanging(swarm: list[KuboDaemon]) -> Iterator[KuboDaemon]:
    """A daemon that takes connections and says nothing."""
    swarm[0].pause()
    try:
        yield swarm[0]
    finally:
        swarm[0].resume()


def test_get__the_daemon_hangs__another_place_gives_it_and_the_daemon_is_left_alone(
    hanging: KuboDaemon, tmp_path: Path
) -> None:
    data = content(120, 12 * MIB)
    cid, blocks = blocks_of(data)
    near, node = EmbeddedStore(tmp_path / "store"), Place("kubo", KuboStore(hanging.api, at_once=False))
    with Gateway(blocks) as gateway:
        cache = BlockCache(tmp_path / "cache", max_bytes=64 * MIB)
        far = Place("gateway", GatewayStore([gateway.url], cache=cache))
        started = time.monotonic()
        assert SeveralStores([node, far]).get_bytes(cid, max_bytes=len(data)) == data
        assert time.monotonic() - started < PROMPT_S
        assert ("car", cid) in gateway.asked
        near.put_bytes(data)
        started = time.monotonic()
        assert SeveralStores([Place("embedded", near), node, far]).get_bytes(cid, max_bytes=len(data)) == data
        assert time.monotonic() - started < 2  # which asking the daemon alone takes


def test_get__the_daemon_hangs_in_the_middle__the_next_place_gives_it_after_one_wait_for_a_block(
    swarm: list[KuboDaemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubo_store, "_FETCH_LIMITS", (5, 5))
    data = content(130, 30 * MIB)
    cid, blocks = blocks_of(data)
    KuboStore(swarm[0].api).put_bytes(data)
    with Gateway(blocks) as gateway, Relay(swarm[0].api) as relay:
        cache = BlockCache(tmp_path / "cache", max_bytes=64 * MIB)
        places = [Place("kubo", KuboStore(relay.api)), Place("gateway", GatewayStore([gateway.url], cache=cache))]
        relay.at("block/get", lambda count: swarm[0].pause() if count == 10 else None)
        started = time.monotonic()
        try:
            assert SeveralStores(places).get_bytes(cid, max_bytes=len(data)) == data
        finally:
            swarm[0].resume()
        assert gateway.asked
        assert time.monotonic() - started < PROMPT_S


def test_doctor__node_service_and_gateway__are_told_with_their_figures(
    swarm: list[KuboDaemon], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gateway = (swarm[2].repo / "gateway").read_text().strip()
    with PinningServer(swarm[1]) as server, PinningServer(swarm[1]) as other:
        config = tmp_path / "chainfl.toml"
        config.write_text(
            f"""
            storage = ["kubo", "gateway"]
            kubo_api = "{swarm[0].api}"
            gateways = ["{gateway}", "http://127.0.0.1:1"]
            pinning = [
                {{ name = "cellar", endpoint = "{server.endpoint}" }},
                {{ name = "attic", endpoint = "{other.endpoint}" }},
            ]
            publish_quorum = 2
            keys_dir = "keys"
            cache_dir = "cache"
            rpc = "http://127.0.0.1:1"
            """
        )
        monkeypatch.setenv("CHAINFL_PINNING_TOKEN_CELLAR", TOKEN)
        monkeypatch.setenv("CHAINFL_PINNING_TOKEN_ATTIC", "wrong-token")
        found = {finding.what: finding for finding in examine(App({"config": str(config)}))}
    assert re.search(r"Kubo .* pins; 2 peers", found["Kubo daemon"].told)
    assert found[f"gateway {gateway.removeprefix('http://')}"].ok
    assert not found["gateway 127.0.0.1:1"].ok
    assert "takes the token, 0 pins" in found["pinning service cellar"].told
    assert not found["pinning service attic"].ok
    assert "does not take the token" in found["pinning service attic"].told
    assert found["store"].ok
    assert "published when 2 confirm" in found["store"].told
    assert server.pins == other.pins == {}


def test_read__own_block_damaged__comes_from_the_next_store(swarm: list[KuboDaemon], stores: list[KuboStore]) -> None:
    data = content(100)
    for store in stores[:2]:
        cid = store.put_bytes(data)
    path = swarm[0].block_path(swarm[0].ipfs("refs", cid).splitlines()[0])
    path.chmod(0o600)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    both = SeveralStores([Place("near", stores[0]), Place("far", stores[1])])
    assert both.get_bytes(cid, max_bytes=len(data)) == data


def test_get__eight_readers_at_once__all_get_it(swarm: list[KuboDaemon], stores: list[KuboStore]) -> None:
    data = content(110, 10 * MIB)
    cid = stores[2].put_bytes(data)
    gate = threading.Barrier(8)

    def read(_: int) -> bool:
        gate.wait()
        return KuboStore(swarm[0].api).get_bytes(cid, max_bytes=len(data)) == data

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(8))) == [True] * 8

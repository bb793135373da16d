"""KuboStore over a real daemon."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from at_once import READY, run_at_once, waiting
from kubo import KuboDaemon, Relay, require_ipfs_binary

from chainfl.errors import (
    BlobNotFound,
    CidMismatch,
    ContentDamaged,
    MalformedDag,
    PayloadTooLarge,
    StoreFull,
    StoreUnreachable,
)
from chainfl.storage.cid import DAG_PB, cid_to_bytes, make_cid
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.factory import open_store
from chainfl.storage.kubo import KuboStore, untested
from chainfl.storage.unixfs import Link, cid_of, encode_node
from chainfl.types import Cid

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

MIB = 1 << 20
DATA = bytes(range(255)) * 20_000  # five chunks, none like another
MISSING = cid_of(b"content that nobody has added")

# The opposite of the profile in everything that `Import` decides.
CONTRARY = {
    "Import.CidVersion": "0",
    "Import.UnixFSRawLeaves": "false",
    "Import.UnixFSChunker": '"size-262144"',
    "Import.UnixFSFileMaxLinks": "3",
    "Import.HashFunction": '"blake2b-256"',
    "Import.UnixFSDAGLayout": '"trickle"',
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[KuboDaemon]:
    with KuboDaemon(require_ipfs_binary(), CONTRARY) as running:
        yield running


@pytest.fixture
def store(daemon: KuboDaemon) -> KuboStore:
    return KuboStore(daemon.api)


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, len(DATA), 30 * MIB + 7])
def test_put__any_size__same_cid_in_both_stores_and_the_content_in_each(
    store: KuboStore, tmp_path: Path, size: int
) -> None:
    data = (DATA * 7)[:size]
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    embedded = EmbeddedStore(tmp_path / "store")
    cid = embedded.put_file(source)
    assert store.put_file(source) == store.put_bytes(data) == cid
    store.get_file(cid, target, max_bytes=size)
    assert target.read_bytes() == store.get_bytes(cid, max_bytes=size) == data


def test_put_file_and_get_file__of_several_chunks__are_heard_to_the_end(store: KuboStore, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    put: list[tuple[int, int]] = []
    got: list[tuple[int, int]] = []
    cid = store.put_file(tmp_path / "source", moved=lambda *told: put.append(told))
    store.get_file(cid, tmp_path / "target", max_bytes=len(DATA), moved=lambda *told: got.append(told))
    assert got == [(min(number * MIB, len(DATA)), len(DATA)) for number in range(1, 6)]
    assert put[-1] == (len(DATA), len(DATA))
    assert put == sorted(put)
    assert len(put) > 5


def test_put__daemon_configured_otherwise__the_command_line_differs_and_we_do_not(
    daemon: KuboDaemon, store: KuboStore, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(DATA)
    assert daemon.ipfs("add", "-Q", "--cid-version=1", str(tmp_path / "file")) != cid_of(DATA)
    assert store.put_bytes(DATA) == cid_of(DATA)


def test_put__profile_of_the_command_line__is_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    with KuboDaemon(require_ipfs_binary()) as daemon:
        assert daemon.ipfs("add", "-Q", str(tmp_path / "file")) == cid_of(DATA)


def test_put__content__is_pinned_and_survives_garbage_collection(daemon: KuboDaemon, store: KuboStore) -> None:
    cid = store.put_bytes(b"pinned" + DATA)
    assert daemon.ipfs("pin", "ls", "--type=recursive", "--quiet", cid) == cid
    daemon.ipfs("repo", "gc")
    assert store.get_bytes(cid, max_bytes=2 * len(DATA)) == b"pinned" + DATA


def test_has__added_partly_removed_and_missing(daemon: KuboDaemon, store: KuboStore) -> None:
    cid = store.put_bytes(b"has" + DATA)
    assert store.has(cid)
    assert store.has(store.put_bytes(b"one raw block"))
    assert not store.has(MISSING)
    leaf = daemon.ipfs("refs", cid).splitlines()[-1]
    daemon.ipfs("pin", "rm", cid)
    daemon.ipfs("block", "rm", leaf)
    assert not store.has(cid)


def test_get__content_not_there__is_not_found(store: KuboStore, tmp_path: Path) -> None:
    with pytest.raises(BlobNotFound):
        store.get_bytes(MISSING, max_bytes=100)
    with pytest.raises(BlobNotFound):
        store.get_file(MISSING, tmp_path / "target", max_bytes=100)
    assert list(tmp_path.iterdir()) == []


def test_get__larger_than_allowed__is_refused(store: KuboStore) -> None:
    cid = store.put_bytes(DATA)
    with pytest.raises(PayloadTooLarge):
        store.get_bytes(cid, max_bytes=len(DATA) - 1)


def test_get__directory__is_malformed(daemon: KuboDaemon, store: KuboStore, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x")
    arguments = ("--cid-version=1", "--raw-leaves", "--hash=sha2-256", str(tmp_path / "folder"))
    cid = Cid(daemon.ipfs("add", "-rQ", *arguments))
    with pytest.raises(MalformedDag):
        store.get_bytes(cid, max_bytes=100)


def test_describe__running_daemon__names_its_version_and_address(daemon: KuboDaemon, store: KuboStore) -> None:
    version = json.loads(daemon.ipfs("version", "--enc=json"))["Version"]
    assert store.describe() == f"Kubo {version} at {daemon.api}"


def test_version__of_the_daemon_here__is_in_the_tested_range(store: KuboStore) -> None:
    assert untested(store.version()) == ""


def test_drop__pinned__goes_with_the_next_garbage_collection(daemon: KuboDaemon, store: KuboStore) -> None:
    cid = store.put_bytes(b"dropped" + DATA)
    pins = store.count_pins()
    store.drop(cid)
    store.drop(cid)
    assert not store.is_pinned(cid)
    assert store.count_pins() == pins - 1
    daemon.ipfs("repo", "gc")
    assert not store.has(cid)


def test_pin__local_but_not_pinned_and_missing(daemon: KuboDaemon, store: KuboStore) -> None:
    cid = store.put_bytes(b"kept again" + DATA)
    store.drop(cid)
    store.pin(cid)
    assert store.is_pinned(cid)
    with pytest.raises(BlobNotFound):
        store.pin(MISSING, timeout_s=1)


def test_peers_and_addresses__offline__are_none(store: KuboStore) -> None:
    assert store.peers() == store.addresses() == ()


def test_open_store__kubo__is_chosen_by_configuration_alone(daemon: KuboDaemon) -> None:
    host, port = daemon.api.split("/")[2::2]
    for api in (daemon.api, f"http://{host}:{port}"):
        chosen = open_store("kubo", store_dir=None, kubo_api=api)
        assert chosen.get_bytes(chosen.put_bytes(b"either way"), max_bytes=100) == b"either way"


def test_store__whole_round_trip__says_nothing_on_stderr(daemon: KuboDaemon) -> None:
    script = (
        "import sys; from chainfl.storage.kubo import KuboStore\n"
        "store = KuboStore(sys.argv[1]); cid = store.put_bytes(b'quiet')\n"
        "assert store.has(cid) and store.get_bytes(cid, max_bytes=5) == b'quiet'"
    )
    done = subprocess.run([sys.executable, "-c", script, daemon.api], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_store__daemon_stops_and_comes_back__is_unreachable_in_between_and_then_goes_on(tmp_path: Path) -> None:
    with KuboDaemon(require_ipfs_binary()) as daemon, warnings.catch_warnings():
        # So that the second daemon listens where the first one did.
        store = KuboStore(daemon.api)
        cid = store.put_bytes(DATA)
        daemon.ipfs("config", "Addresses.API", daemon.api)
        api = daemon.api
        daemon.stop()
        for use in (
            lambda: store.put_bytes(DATA),
            lambda: store.get_bytes(cid, max_bytes=len(DATA)),
            lambda: store.get_file(cid, tmp_path / "target", max_bytes=len(DATA)),
            lambda: store.has(cid),
            lambda: store.describe(),
            lambda: KuboStore(api),
        ):
            with pytest.raises(StoreUnreachable) as caught:
                use()
            assert "ipfs daemon" in caught.value.hint
        assert list(tmp_path.iterdir()) == []
        daemon.start()
        assert store.get_bytes(cid, max_bytes=len(DATA)) == DATA


# --- faults --------------------------------------------------------------------------------------


@pytest.fixture
def fragile() -> Iterator[KuboDaemon]:
    """A daemon that a test may kill; it comes back at the same address."""
    with KuboDaemon(require_ipfs_binary()) as running:
        running.listen_again_at(running.api)
        yield running


def unlike_any_other(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("checks", ["false", "true"])
def test_get__block_damaged_on_the_daemons_disk__is_a_mismatch_until_it_is_removed_and_added_again(
    tmp_path: Path, checks: str
) -> None:
    data = unlike_any_other(3 * MIB)
    with KuboDaemon(require_ipfs_binary(), {"Datastore.HashOnRead": checks}) as daemon:
        store = KuboStore(daemon.api)
        cid = store.put_bytes(data)
        leaf = daemon.ipfs("refs", cid).splitlines()[1]
        path = daemon.block_path(leaf)
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        (tmp_path / "target").write_bytes(b"as it was")
        with pytest.raises(CidMismatch) as caught:
            store.get_file(cid, tmp_path / "target", max_bytes=len(data))
        assert f"Remove the block with `ipfs --api {daemon.api} pin rm {cid}`" in caught.value.hint
        assert f"block rm {leaf}`" in caught.value.hint
        assert daemon.api in str(caught.value)
        with pytest.raises(CidMismatch):
            store.verify(cid)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"as it was"]
        store.drop(cid)
        daemon.ipfs("block", "rm", leaf)
        assert store.put_bytes(data) == cid
        assert store.get_bytes(cid, max_bytes=len(data)) == data


def _damage(daemon: KuboDaemon, block: str) -> None:
    path = daemon.block_path(block)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("checks", ["true", "false"])
def test_mend__blocks_damaged_on_the_daemons_disk__are_whole_and_pinned_again(tmp_path: Path, checks: str) -> None:
    data = unlike_any_other(3 * MIB)
    (tmp_path / "file").write_bytes(data)
    with KuboDaemon(require_ipfs_binary(), {"Datastore.HashOnRead": checks}) as daemon:
        store = KuboStore(daemon.api)
        cid = store.put_bytes(data)
        leaves = daemon.ipfs("refs", cid).splitlines()
        for block in (leaves[2], cid):
            _damage(daemon, block)
            assert store.mend(tmp_path / "file") == cid
            store.verify(cid)
            assert store.is_pinned(cid)
            assert store.get_bytes(cid, max_bytes=len(data)) == data


def test_mend__damaged_block_is_part_of_something_else_that_is_pinned__says_how_to_remove_it(tmp_path: Path) -> None:
    shared = unlike_any_other(MIB)
    (tmp_path / "file").write_bytes(shared)
    with KuboDaemon(require_ipfs_binary()) as daemon:
        store = KuboStore(daemon.api)
        store.put_bytes(shared + unlike_any_other(MIB))
        cid = store.put_bytes(shared)
        _damage(daemon, cid)
        with pytest.raises(ContentDamaged, match=r"cannot be removed .* pinned") as caught:
            store.mend(tmp_path / "file")
        assert f"block rm {cid}`" in caught.value.hint


def test_put__daemon_dies_in_the_middle__is_unreachable_and_nothing_is_visible(
    fragile: KuboDaemon, tmp_path: Path
) -> None:
    data, fifo = unlike_any_other(4 * MIB), tmp_path / "fifo"
    os.mkfifo(fifo)
    store = KuboStore(fragile.api)

    def feed() -> None:
        # A pipe that nobody reads any more breaks: the put has failed already.
        with contextlib.suppress(BrokenPipeError), fifo.open("wb", buffering=0) as end:
            end.write(data[: 2 * MIB])
            fragile.kill()
            end.write(data[2 * MIB :])

    feeder = threading.Thread(target=feed)
    feeder.start()
    with pytest.raises(StoreUnreachable):
        store.put_file(fifo)
    feeder.join()
    fragile.start()
    assert not store.has(cid_of(data))
    assert not store.is_pinned(cid_of(data))
    assert store.is_pinned(store.put_bytes(data))


def test_put__daemon_dies_between_add_and_pin__is_not_published_until_the_put_is_repeated(fragile: KuboDaemon) -> None:
    data = unlike_any_other(2 * MIB)
    with Relay(fragile.api) as relay:
        # The add names its CID before it pins. This one never pins, and then the daemon is gone.
        relay.rewrite = (b"pin=True", b"pin=False")
        relay.at("pin/ls", lambda _: fragile.kill())
        with pytest.raises(StoreUnreachable):
            KuboStore(relay.api).put_bytes(data)
    fragile.start()
    store = KuboStore(fragile.api)
    assert not store.is_pinned(cid_of(data))
    assert store.is_pinned(store.put_bytes(data))


def test_put__daemon_answers_the_add_and_does_not_pin__is_pinned_when_the_put_returns(fragile: KuboDaemon) -> None:
    with Relay(fragile.api) as relay:
        relay.rewrite = (b"pin=True", b"pin=False")
        store = KuboStore(relay.api)
        cid = store.put_bytes(DATA)
    fragile.ipfs("repo", "gc")
    assert KuboStore(fragile.api).get_bytes(cid, max_bytes=len(DATA)) == DATA


def test_put__daemons_disk_full__is_store_full_and_nothing_is_visible(fragile: KuboDaemon) -> None:
    data = unlike_any_other(3 * MIB)
    store = KuboStore(fragile.api)
    fragile.limit_files(MIB // 2)
    with pytest.raises(StoreFull):
        store.put_bytes(data)
    assert not store.has(cid_of(data))
    assert not store.is_pinned(cid_of(data))
    fragile.limit_files(resource.RLIM_INFINITY)
    assert store.is_pinned(store.put_bytes(data))


def test_get__daemon_dies_in_the_middle__is_unreachable_and_the_target_stays(
    fragile: KuboDaemon, tmp_path: Path
) -> None:
    data, target = unlike_any_other(40 * MIB), tmp_path / "target"
    target.write_bytes(b"as it was")
    cid = KuboStore(fragile.api).put_bytes(data)
    with Relay(fragile.api) as relay:
        relay.at("block/get", lambda count: fragile.kill() if count == 20 else None)
        with pytest.raises(StoreUnreachable):
            KuboStore(relay.api).get_file(cid, target, max_bytes=len(data))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"as it was"]
    fragile.start()
    KuboStore(fragile.api).get_file(cid, target, max_bytes=len(data))
    assert target.read_bytes() == data


def test_put_file__daemon_takes_nothing_for_nine_seconds__goes_on(fragile: KuboDaemon, tmp_path: Path) -> None:
    data, fifo = unlike_any_other(40 * MIB), tmp_path / "fifo"
    os.mkfifo(fifo)
    store = KuboStore(fragile.api)
    timer = threading.Timer(9, fragile.resume)

    def feed() -> None:
        with fifo.open("wb", buffering=0) as end:
            end.write(data[: 2 * MIB])
            fragile.pause()
            timer.start()
            end.write(data[2 * MIB :])

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        assert store.put_file(fifo) == cid_of(data)
    finally:
        timer.join()
        feeder.join()


def test_get_file__targets_disk_full__is_store_full_and_the_target_stays(store: KuboStore, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"as it was")
    cid = store.put_bytes(DATA)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, hard))
    try:
        with pytest.raises(StoreFull):
            store.get_file(cid, target, max_bytes=len(DATA))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"as it was"]


def test_has__tower_of_equal_links__is_answered_at_once(daemon: KuboDaemon, store: KuboStore, tmp_path: Path) -> None:
    leaf = bytes(MIB)
    cid, size, dag_size = store.put_bytes(leaf), MIB, MIB
    for _ in range(3):
        node = encode_node([Link(cid_to_bytes(cid), size, dag_size)] * 1024)
        cid, size, dag_size = make_cid(DAG_PB, hashlib.sha256(node).digest()), 1024 * size, 1024 * dag_size + len(node)
        (tmp_path / "node").write_bytes(node)
        assert daemon.ipfs("block", "put", "--cid-codec=dag-pb", "--mhtype=sha2-256", str(tmp_path / "node")) == cid
        started = time.monotonic()
        assert store.has(cid) == (size <= 1 << 30)
        with pytest.raises(PayloadTooLarge):
            store.prefetch(cid, max_bytes=MIB)
        assert time.monotonic() - started < 10


def test_kubo_store__another_service_answers_there__is_unreachable_and_says_so() -> None:
    class Rpc(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": "no request"}}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on the terminal."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rpc) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(StoreUnreachable, match="something else than a Kubo daemon"):
            KuboStore(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_open_store__several_and_the_daemon_down__the_others_read_and_take(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        store = open_store(
            ["kubo", "embedded"],
            store_dir=tmp_path / "store",
            kubo_api=f"/ip4/127.0.0.1/tcp/{nobody.getsockname()[1]}",
        )
        cid = EmbeddedStore(tmp_path / "store").put_bytes(DATA)
        assert store.get_bytes(cid, max_bytes=len(DATA)) == DATA
        store.get_file(cid, tmp_path / "target", max_bytes=len(DATA))
        assert store.has(cid)


# --- our own end ---------------------------------------------------------------------------------

PUT_FILE = """
import sys
from pathlib import Path
from chainfl.storage.kubo import KuboStore
KuboStore(sys.argv[1]).put_file(Path(sys.argv[2]))
"""
GET_FILE = PUT_FILE.replace(
    "put_file(Path(sys.argv[2]))", "get_file(sys.argv[3], Path(sys.argv[2]), max_bytes=1 << 30)"
)


def interrupted(process: subprocess.Popen[bytes]) -> bytes:
    """What it says on standard error once SIGINT has ended it.

    One that arrives between Python's last look for signals and a system call is seen when that call returns, here after
    the daemon's 45 s. So whoever is not heard says it once more, as somebody at a keyboard would.
    """
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=2.5)[1]
    raise AssertionError("two interrupts do not end it")


def run(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)])


def test_put_file__killed_while_it_sends__leaves_nothing_visible(daemon: KuboDaemon, tmp_path: Path) -> None:
    data, fifo = unlike_any_other(5 * MIB), tmp_path / "fifo"
    os.mkfifo(fifo)
    process = run(PUT_FILE, daemon.api, fifo)
    with fifo.open("wb", buffering=0) as end:
        end.write(data[: 3 * MIB])
        process.kill()
        assert process.wait() == -signal.SIGKILL
    store = KuboStore(daemon.api)
    assert not store.has(cid_of(data))
    assert not store.is_pinned(cid_of(data))
    assert store.put_bytes(data) == cid_of(data)


@pytest.mark.parametrize("command", ["add", "pin/ls", "pin/add"])
def test_put_file__killed_in_a_step__the_next_put_publishes(daemon: KuboDaemon, tmp_path: Path, command: str) -> None:
    data, source = unlike_any_other(2 * MIB + len(command)), tmp_path / "source"
    source.write_bytes(data)
    store, reached = KuboStore(daemon.api), threading.Event()
    with Relay(daemon.api) as relay:
        relay.rewrite = (b"pin=True", b"pin=False")
        relay.at(command, lambda _: (reached.set(), threading.Event().wait()))  # type: ignore[arg-type, return-value]
        process = run(PUT_FILE, relay.api, source)
        assert reached.wait(30)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not store.is_pinned(cid_of(data))
    assert store.is_pinned(store.put_file(source))


def test_get_file__killed_while_it_reads__leaves_the_old_target_and_the_next_get_cleans_up(
    daemon: KuboDaemon, store: KuboStore, tmp_path: Path
) -> None:
    data, target = unlike_any_other(30 * MIB), tmp_path / "target"
    target.write_bytes(b"as it was")
    cid, reached = store.put_bytes(data), threading.Event()
    with Relay(daemon.api) as relay:
        stall = lambda count: (reached.set(), threading.Event().wait()) if count == 20 else None  # noqa: E731
        relay.at("block/get", stall)  # type: ignore[arg-type]
        process = run(GET_FILE, relay.api, target, cid)
        assert reached.wait(30)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert target.read_bytes() == b"as it was"
    store.get_file(cid, target, max_bytes=len(data))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [data]


PUT_AND_GET = f"""
from pathlib import Path
from chainfl.storage.kubo import KuboStore
{READY}
store, source, target, cid = KuboStore(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
assert store.put_file(source) == cid
assert store.is_pinned(cid)
store.get_file(cid, target, max_bytes=source.stat().st_size)
"""


def test_store__eight_processes_put_and_get_the_same_content__all_of_them_see_it_whole(
    daemon: KuboDaemon, store: KuboStore, tmp_path: Path
) -> None:
    data, source = unlike_any_other(9 * MIB + 5), tmp_path / "source"
    source.write_bytes(data)
    targets = [tmp_path / "shared"] * 4 + [tmp_path / f"{number}" for number in range(4)]
    run_at_once(*[waiting(PUT_AND_GET, daemon.api, source, target, cid_of(data)) for target in targets])
    assert {path.read_bytes() for path in targets} == {data}
    assert daemon.ipfs("pin", "ls", "--type=recursive", "--quiet", cid_of(data)) == cid_of(data)
    assert sorted(tmp_path.iterdir()) == sorted({source, *targets})


def test_get_file__interrupted_while_the_daemon_looks_for_a_block__ends_at_once(
    daemon: KuboDaemon, tmp_path: Path
) -> None:
    cid, reached = KuboStore(daemon.api).put_bytes(unlike_any_other(30 * MIB)), threading.Event()
    with Relay(daemon.api) as relay:
        relay.at("block/get", lambda count: (reached.set(), threading.Event().wait()) if count == 3 else None)  # type: ignore[arg-type, return-value]
        process = subprocess.Popen(
            [sys.executable, "-c", GET_FILE, relay.api, str(tmp_path / "target"), cid], stderr=subprocess.PIPE
        )
        assert reached.wait(30)
        told = interrupted(process)
    assert b"KeyboardInterrupt" in told
    assert list(tmp_path.iterdir()) == []


# --- memory --------------------------------------------------------------------------------------

MEASURED = """
import os, resource, sys
from pathlib import Path
from chainfl.storage.kubo import KuboStore
store, source, target = KuboStore(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
store.get_bytes(store.put_bytes(b"warm"), max_bytes=4)
before = peak()
cid = store.put_file(source)
added = peak()
store.get_file(cid, target, max_bytes=1 << 40)
print(added - before, peak() - before)
"""


def test_put_file_and_get_file__large_file__take_constant_memory(daemon: KuboDaemon, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for number in range(200):
            file.write(number.to_bytes(4) * (MIB // 4))
    arguments = [sys.executable, "-c", MEASURED, daemon.api, str(source), str(target)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    added_mib, read_mib = map(int, done.stdout.split())
    assert target.stat().st_size == source.stat().st_size
    assert added_mib < 25
    assert read_mib < 60

"""KuboStore over a real daemon."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubo import KuboDaemon, require_ipfs_binary

from chainfl.errors import BlobNotFound, MalformedDag, PayloadTooLarge, StoreUnreachable
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.factory import open_store
from chainfl.storage.kubo import KuboStore
from chainfl.storage.unixfs import cid_of
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

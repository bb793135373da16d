"""Data sets by the command line and the embedded store: cut off by kill -9 at any time, a second run finishes."""

from __future__ import annotations

import gzip
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kubo import private_swarm
from pinning_service import TOKEN, PinningServer

from chainfl.data.croissant import Description
from chainfl.data.fetching import fetch_description
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.kubo import KuboStore
from chainfl.training.datasets import load_folder
from chainfl.types import Cid

NUM_IMAGES = 4_000


class Shell:
    """`chainfl` as a process of its own in a folder with a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = EmbeddedStore(folder / "store")
        home = {name: str(folder) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CHAINFL_")}
        self._env = {**kept, **home, "CHAINFL_STORE_DIR": str(folder / "store"), "TMPDIR": str(folder)}

    def use(self, **variables: str) -> None:
        """Settings of the commands from here on."""
        self._env |= variables

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "chainfl.cli.main", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=self._env, stdout=pipe, stderr=pipe, text=True)

    def run(self, *arguments: str) -> tuple[str, str]:
        """Standard output and error of a command that succeeds."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out.strip(), err

    def kill_after(self, line: str, *arguments: str) -> None:
        """Starts a command and kills it as soon as it says this."""
        process = self.start(*arguments)
        assert process.stderr is not None
        with process:
            assert any(said.startswith(line) for said in process.stderr), f"it never said {line!r}"
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=120)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """With a folder `images` of MNIST's own form."""
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (NUM_IMAGES, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, NUM_IMAGES, dtype=np.uint8)
    (images / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, NUM_IMAGES, 28, 28) + pixels.tobytes())
    header = struct.pack(">2I", 0x801, NUM_IMAGES)
    (images / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))
    return Shell(tmp_path)


PUBLISH = ("data", "publish", "images", "--licence", "CC0-1.0", "--shards", "8")


def described(shell: Shell, cid: str) -> Description:
    return fetch_description(shell.store, Cid(cid))


def test_publish__killed_and_run_again__keeps_what_was_there_and_gives_the_same_cids(shell: Shell) -> None:
    shell.kill_after("shard 2:", *PUBLISH)
    cid, err = shell.run(*PUBLISH)
    assert all(f"shard {number}:" in err for number in range(1, 9))
    assert err.count(", was there") >= 2
    assert err.index("shard 2:") < err.index(", done"), "the first two are not put again"
    assert shell.run(*PUBLISH)[0] == cid
    assert described(shell, cid).num_examples == NUM_IMAGES


def test_fetch__killed_in_the_middle_and_run_again__fetches_the_rest_alone(shell: Shell) -> None:
    cid, _ = shell.run(*PUBLISH)
    second = described(shell, cid).shards[4].cid
    stored = shell.store.root / "objects" / second[-2:] / second
    content = stored.read_bytes()
    stored.unlink()
    os.mkfifo(stored)  # whoever opens it waits until somebody writes: a store that stalls
    fetch = ("data", "fetch", cid, "--shard", "1/4", "--out", "mine")  # shards 1 and 5
    shell.kill_after("shard 1:", *fetch)
    assert not (shell.folder / "mine" / "dataset.npz").exists()

    stored.unlink()
    stored.write_bytes(content)
    _, err = shell.run(*fetch)
    assert [line.rsplit(", ", 1)[1] for line in err.splitlines() if line.startswith("shard ")] == ["was there", "done"]
    assert sorted(path.name for path in (shell.folder / "mine").iterdir()) == ["dataset.json", "dataset.npz"]
    shards = described(shell, cid).shards
    loaded = load_folder(shell.folder / "mine")
    assert len(loaded) == shards[0].num_examples + shards[4].num_examples
    assert loaded.shape == (1, 28, 28)


def test_fetch__two_shards__are_disjoint_and_of_the_published_set(shell: Shell) -> None:
    cid, _ = shell.run(*PUBLISH)
    for number in ("1", "2"):
        shell.run("data", "fetch", cid, "--shard", number, "--out", f"shard-{number}")
    first, second = (set(map(bytes, load_folder(shell.folder / f"shard-{n}").values)) for n in (1, 2))
    published = set(map(bytes, load_folder(shell.folder / "images").values))
    assert first <= published
    assert second <= published
    assert not first & second


def test_fetch__damaged_in_the_store__is_not_delivered(shell: Shell) -> None:
    cid, _ = shell.run(*PUBLISH)
    shard = described(shell, cid).shards[0].cid
    stored = shell.store.root / "objects" / shard[-2:] / shard
    stored.write_bytes(stored.read_bytes()[:-1] + b"\xff")
    process = shell.start("data", "fetch", cid, "--shard", "1", "--out", "mine")
    _, err = process.communicate(timeout=120)
    assert (process.returncode, "CID" in err or "object" in err) == (62, True)
    assert not (shell.folder / "mine" / "dataset.npz").exists()


def test_publish__a_shard_is_damaged__run_again_puts_that_one_alone(shell: Shell) -> None:
    cid, _ = shell.run(*PUBLISH)
    shard = described(shell, cid).shards[2].cid
    stored = shell.store.root / "objects" / shard[-2:] / shard
    right = stored.read_bytes()
    stored.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    again, err = shell.run(*PUBLISH)
    assert again == cid
    assert [line for line in err.splitlines() if line.endswith(", done")] == [
        f"shard 3: {len(right):,} bytes, {shard}, done"
    ]
    assert stored.read_bytes() == right


@pytest.mark.enable_socket
def test_publish__a_block_is_damaged_in_a_daemon__is_mended_and_can_be_read(shell: Shell) -> None:
    with private_swarm(1) as (node,):
        shell.use(CHAINFL_STORAGE="kubo", CHAINFL_KUBO_API=node.api)
        cid, _ = shell.run(*PUBLISH)
        shard = fetch_description(KuboStore(node.api), Cid(cid)).shards[2]
        path = node.block_path(shard.cid)
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        again, err = shell.run(*PUBLISH)
        assert again == cid
        assert [line for line in err.splitlines() if line.endswith(", done")] == [
            f"shard 3: {shard.num_bytes:,} bytes, {shard.cid}, done"
        ]
        shell.run("store", "get", shard.cid, "--out", "copy")


@pytest.mark.enable_socket
def test_publish__a_wrong_token_is_corrected__the_service_gets_every_shard_once(shell: Shell) -> None:
    with private_swarm(2) as (node, theirs), PinningServer(theirs) as service:
        shell.use(
            CHAINFL_STORAGE="kubo",
            CHAINFL_KUBO_API=node.api,
            CHAINFL_PINNING=f"cellar={service.endpoint}",
            CHAINFL_PUBLISH_QUORUM="2",
            CHAINFL_PINNING_TOKEN_CELLAR="wrong-token",
        )
        refused = shell.start(*PUBLISH)
        _, err = refused.communicate(timeout=120)
        assert (refused.returncode, "does not take the token" in err) == (68, True)
        shell.use(CHAINFL_PINNING_TOKEN_CELLAR=TOKEN)
        cid, _ = shell.run(*PUBLISH)
        shards = {shard.cid for shard in fetch_description(KuboStore(node.api), Cid(cid)).shards}
        assert {pin.pin["cid"] for pin in service.pins.values() if pin.status == "pinned"} == {cid, *shards}
        asked = len(service.pins)
        _, err = shell.run(*PUBLISH)
        assert err.count(", was there") == len(shards)
        assert len(service.pins) == asked

        unpinned = min(shards)
        shell.run("store", "unpin", unpinned)
        _, err = shell.run(*PUBLISH)
        assert err.count(", done") == 1
        out, _ = shell.run("store", "status", unpinned)
        assert out.count("pinned") == 2

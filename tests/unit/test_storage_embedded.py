"""The embedded store: verified reads, atomic writes, several processes, and disks that fail."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future, wait
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from at_once import READY, run_at_once, waiting

from chainfl.errors import (
    BlobNotFound,
    CidMismatch,
    ConfigError,
    InvalidCid,
    PayloadTooLarge,
    StorageError,
    StoreFull,
    StoreReadOnly,
    UsageError,
)
from chainfl.storage import embedded, files
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.factory import open_store
from chainfl.storage.unixfs import cid_of
from chainfl.types import Cid

MIB = 1 << 20
DATA = bytes(range(256)) * 8 * 1024 + b"the end"  # 2 MiB and a bit: three chunks
CID = cid_of(DATA)
SMALL = b"a small update"
NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore(tmp_path / "store")


def test_get_bytes__system_reads_less_than_asked__is_read_to_the_end(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short(FileIO):
        """As Linux, which gives at most 0x7ffff000 bytes a read, only with less."""

        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, MIB))

    store.put_bytes(DATA)
    monkeypatch.setattr(embedded, "FileIO", Short)
    assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA


def object_path(store: EmbeddedStore, cid: Cid) -> Path:
    return store.root / "objects" / cid[-2:] / cid


def visible(store: EmbeddedStore) -> list[str]:
    return sorted(path.name for path in (store.root / "objects").rglob("*") if path.is_file())


def pending(folder: Path) -> list[Path]:
    return list(folder.rglob(f"*{files.PENDING_SUFFIX}"))


# --- putting and getting -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 9 * MIB + 5])
def test_store__sizes_around_a_chunk__come_back_from_bytes_and_file(store: EmbeddedStore, size: int) -> None:
    data = DATA * 5
    data = data[:size]
    source, target = store.root.parent / "source", store.root.parent / "target"
    source.write_bytes(data)
    cid = store.put_file(source)
    assert cid == store.put_bytes(data) == cid_of(data)
    store.get_file(cid, target, max_bytes=size)
    assert target.read_bytes() == store.get_bytes(cid, max_bytes=size) == data
    assert visible(store) == [cid]
    assert not pending(store.root.parent)


def test_put__object__is_an_ordinary_file_with_the_content_once(store: EmbeddedStore) -> None:
    store.put_bytes(DATA)
    assert object_path(store, CID).read_bytes() == DATA
    stored = sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())
    assert stored == len(DATA)


def test_has__before_and_after_a_put(store: EmbeddedStore) -> None:
    assert not store.has(CID)
    store.put_bytes(DATA)
    assert store.has(CID)


@pytest.mark.parametrize("cid", ["", "../../../etc/passwd", CID.upper(), CID + "/..", "Qm" + "a" * 44])
def test_store__name_that_is_no_cid__never_becomes_a_path(store: EmbeddedStore, cid: str) -> None:
    target = store.root.parent / "target"
    for use in (
        lambda: store.has(Cid(cid)),
        lambda: store.get_bytes(Cid(cid), max_bytes=1),
        lambda: store.get_file(Cid(cid), target, max_bytes=1),
    ):
        with pytest.raises(InvalidCid):
            use()


def test_get__content_not_there__is_not_found(store: EmbeddedStore, tmp_path: Path) -> None:
    with pytest.raises(BlobNotFound) as caught:
        store.get_bytes(CID, max_bytes=len(DATA))
    assert CID in caught.value.hint
    with pytest.raises(BlobNotFound):
        store.get_file(CID, tmp_path / "target", max_bytes=len(DATA))
    assert list(tmp_path.iterdir()) == []


def test_get__larger_than_allowed__is_refused_and_leaves_no_target(store: EmbeddedStore, tmp_path: Path) -> None:
    store.put_bytes(DATA)
    with pytest.raises(PayloadTooLarge):
        store.get_bytes(CID, max_bytes=len(DATA) - 1)
    with pytest.raises(PayloadTooLarge):
        store.get_file(CID, tmp_path / "target", max_bytes=len(DATA) - 1)
    assert not (tmp_path / "target").exists()


def test_put_file__source_missing_or_a_folder__is_a_usage_error(store: EmbeddedStore, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(UsageError):
            store.put_file(path)


def test_get_file__folder_of_the_target_missing__is_a_storage_error(store: EmbeddedStore, tmp_path: Path) -> None:
    store.put_bytes(SMALL)
    with pytest.raises(StorageError, match="cannot write below"):
        store.get_file(cid_of(SMALL), tmp_path / "no" / "such" / "target", max_bytes=100)


def test_describe__before_the_folder_exists__names_it(store: EmbeddedStore) -> None:
    assert str(store.root) in store.describe()
    assert not store.root.exists()


def test_put_file_and_get_file__large_file__take_constant_memory(store: EmbeddedStore, tmp_path: Path) -> None:
    with (tmp_path / "source").open("wb") as source:
        source.truncate(100 * MIB)
    tracemalloc.start()
    try:
        cid = store.put_file(tmp_path / "source")
        store.get_file(cid, tmp_path / "target", max_bytes=100 * MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB
    assert (tmp_path / "target").stat().st_size == 100 * MIB


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: MIB + 1],
        lambda data: b"",
        lambda data: data + b"\0",
        lambda data: data[:MIB] + b"\xff" + data[MIB + 1 :],
        lambda data: data[:-1] + b"\0",
    ],
    ids=["last byte cut", "cut in a chunk", "emptied", "byte added", "byte changed in a middle chunk", "last changed"],
)
def test_get__object_damaged_on_disk__is_a_mismatch_and_a_put_heals_it(
    store: EmbeddedStore, tmp_path: Path, damage: Any
) -> None:
    store.put_bytes(DATA)
    object_path(store, CID).write_bytes(damage(DATA))
    target = tmp_path / "target"
    target.write_bytes(b"as it was")
    with pytest.raises(CidMismatch):
        store.get_bytes(CID, max_bytes=2 * len(DATA))
    with pytest.raises(CidMismatch):
        store.get_file(CID, target, max_bytes=2 * len(DATA))
    assert target.read_bytes() == b"as it was"
    assert not pending(tmp_path)
    store.put_bytes(DATA)
    assert store.get_bytes(CID, max_bytes=len(DATA)) == DATA


def test_get__two_objects_swapped__are_mismatches(store: EmbeddedStore) -> None:
    first, second = store.put_bytes(b"first"), store.put_bytes(b"second")
    object_path(store, first).write_bytes(b"second")
    with pytest.raises(CidMismatch) as caught:
        store.get_bytes(first, max_bytes=100)
    assert (caught.value.evidence["cid"], caught.value.evidence["found"]) == (first, second)
    assert str(object_path(store, first)) in str(caught.value)
    assert "`chainfl store add FILE`, which replaces it" in caught.value.hint


def test_get__object_unreadable__is_a_storage_error_and_not_a_full_or_read_only_store(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.put_bytes(SMALL)

    class BrokenDisk(FileIO):
        def readinto(self, buffer: Any) -> int:
            raise OSError(errno.EIO, "Input/output error")

        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("chainfl.storage.embedded.FileIO", BrokenDisk)
    for use in (
        lambda: store.get_bytes(cid_of(SMALL), max_bytes=100),
        lambda: store.get_file(cid_of(SMALL), tmp_path / "target", max_bytes=100),
    ):
        with pytest.raises(StorageError, match="cannot read") as caught:
            use()
        assert type(caught.value) is StorageError


# --- disks that are full or read-only ------------------------------------------------------------
# Errors that need a special file system (ENOSPC, EDQUOT, EROFS) are raised by the file object that the store writes
# to. Two are made for real as well: a size limit of the process (EFBIG), and a folder without write permission, for
# which root, whom no permission stops, becomes an ordinary user for the length of the call.


def failing_writes(number: int, after_bytes: int) -> type[FileIO]:
    class FailingFile(FileIO):
        written = 0

        def write(self, data: Any) -> int:
            self.written += len(data)
            if self.written > after_bytes:
                raise OSError(number, os.strerror(number))
            return super().write(data)

    return FailingFile


@pytest.mark.parametrize("after_bytes", [0, MIB])
@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EROFS, StoreReadOnly),
        (errno.EACCES, StoreReadOnly),
        (errno.EPERM, StoreReadOnly),
        (errno.EIO, StorageError),
    ],
    ids=errno.errorcode.get,
)
def test_put__disk_fails__typed_error_nothing_visible_and_the_next_put_works(
    store: EmbeddedStore,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    number: int,
    error: type[StorageError],
    after_bytes: int,
) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    store.put_bytes(SMALL)
    with monkeypatch.context() as broken:
        broken.setattr(files, "FileIO", failing_writes(number, after_bytes))
        with pytest.raises(error) as caught:
            store.put_bytes(DATA)
        assert type(caught.value) is error
        with pytest.raises(error):
            store.put_file(source)
    assert visible(store) == [cid_of(SMALL)]
    assert not pending(store.root)
    assert store.get_bytes(cid_of(SMALL), max_bytes=100) == SMALL
    assert store.put_bytes(DATA) == CID


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_get_file__target_disk_fails__typed_error_names_its_folder(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    store.put_bytes(DATA)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.setattr(files, "FileIO", failing_writes(number, MIB))
    with pytest.raises(StorageError) as caught:
        store.get_file(CID, folder / "target", max_bytes=len(DATA))
    assert caught.value.evidence["path"] == folder
    assert str(folder) in caught.value.hint
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_put_file__flush_fails_at_any_time__is_heard(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing_call: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(20 * MIB))
    sync, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == failing_call:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    def done(flush: Future[None]) -> bool:
        wait([flush])
        return True

    # A flush in the background after every 8 MiB, then the last one; the kernel tells each failure only once.
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Future, "done", done)
    with pytest.raises(StoreFull):
        store.put_file(source)
    assert len(calls) >= failing_call
    assert visible(store) == []
    assert not pending(store.root)


def test_put__over_the_size_limit_of_the_process__is_store_full(store: EmbeddedStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        with pytest.raises(StoreFull) as caught:
            store.put_bytes(DATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(store.root) in caught.value.hint
    assert not pending(store.root)
    assert not store.has(CID)


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_store__folder_without_write_permission__reads_go_on_and_puts_are_refused() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        store = EmbeddedStore(folder / "store")
        cid = store.put_bytes(DATA)
        locked = [path for path in (store.root, *store.root.rglob("*")) if path.is_dir()]
        try:
            for path in locked:
                path.chmod(0o555)
            with as_ordinary_user():
                assert store.has(cid)
                assert store.get_bytes(cid, max_bytes=len(DATA)) == DATA
                with pytest.raises(StoreReadOnly) as caught:
                    store.put_bytes(SMALL)
                with pytest.raises(StoreReadOnly):
                    store.get_file(cid, store.root / "target", max_bytes=len(DATA))
            assert str(store.root) in caught.value.hint
        finally:
            for path in locked:
                path.chmod(0o755)
        assert visible(store) == [cid]


def test_put__root_is_a_file__is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a folder")
    with pytest.raises(StorageError):
        EmbeddedStore(tmp_path / "store").put_bytes(SMALL)


# --- processes that die --------------------------------------------------------------------------


def run(script: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], text=True, **options)


PUT_FILE = """
import sys
from pathlib import Path
from chainfl.storage.embedded import EmbeddedStore
EmbeddedStore(Path(sys.argv[1])).put_file(Path(sys.argv[2]))
"""
KILL_ITSELF_AT_FSYNC = "import os, signal\nos.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"


def test_put_file__killed_while_it_writes__leaves_nothing_visible_and_the_next_put_cleans_up(
    store: EmbeddedStore, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = run(PUT_FILE, store.root, fifo)
    with fifo.open("wb", buffering=0) as feed:
        # A pipe holds 64 KiB, so once 2 MiB have gone in the writer is in the middle of its file, waiting for more.
        feed.write(DATA)
        assert [path.stat().st_size > MIB for path in pending(store.root)] == [True]
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert visible(store) == []
    assert not store.has(CID)
    assert pending(store.root)
    fresh = EmbeddedStore(store.root)
    assert fresh.put_bytes(DATA) == CID
    assert visible(store) == [CID]
    assert not pending(store.root)


def test_put_file__killed_before_the_rename__leaves_nothing_visible(store: EmbeddedStore, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    assert run(KILL_ITSELF_AT_FSYNC + PUT_FILE, store.root, tmp_path / "source").wait() == -signal.SIGKILL
    assert visible(store) == []
    with pytest.raises(BlobNotFound):
        store.get_bytes(CID, max_bytes=len(DATA))


def test_get_file__killed_before_the_rename__keeps_the_old_target_and_the_next_get_cleans_up(
    store: EmbeddedStore, tmp_path: Path
) -> None:
    store.put_bytes(DATA)
    target = tmp_path / "out" / "target"
    target.parent.mkdir()
    target.write_bytes(b"as it was")
    script = KILL_ITSELF_AT_FSYNC + PUT_FILE.replace("put_file(Path(sys.argv[2]))", "get_file(*GET, max_bytes=1 << 30)")
    script = f"from pathlib import Path\nGET = ({str(CID)!r}, Path({str(target)!r}))\n" + script
    assert run(script, store.root).wait() == -signal.SIGKILL
    assert target.read_bytes() == b"as it was"
    assert len(pending(target.parent)) == 1
    store.get_file(CID, target, max_bytes=len(DATA))
    assert target.read_bytes() == DATA
    assert list(target.parent.iterdir()) == [target]


def test_remove_orphans__file_of_a_living_writer__stays(tmp_path: Path) -> None:
    with files.pending_file(tmp_path) as living:
        living.write(b"half")
        files.remove_orphans(tmp_path)
        living.write(b" and half")
        living.publish(tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == b"half and half"


# --- several processes ---------------------------------------------------------------------------

PUT_AND_GET = f"""
from pathlib import Path
from chainfl.storage.embedded import EmbeddedStore
{READY}
root, source, cid = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
target = root.parent / sys.argv[4]
size = source.stat().st_size
for turn in range(12):
    store = EmbeddedStore(root)
    assert store.put_file(source) == cid
    assert store.has(cid)
    assert store.get_bytes(cid, max_bytes=size) == source.read_bytes()
    store.get_file(cid, target, max_bytes=size)
"""


def test_store__eight_processes_put_and_get_the_same_content__all_of_them_see_it_whole(
    store: EmbeddedStore, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(DATA)
    run_at_once(*[waiting(PUT_AND_GET, store.root, tmp_path / "source", CID, "target") for _ in range(8)])
    assert visible(store) == [CID]
    assert (tmp_path / "target").read_bytes() == DATA
    assert not pending(tmp_path)


# --- chosen by configuration ---------------------------------------------------------------------


def test_open_store__embedded__is_the_folder_of_the_configuration(tmp_path: Path) -> None:
    store = open_store("embedded", store_dir=tmp_path, kubo_api=None)
    assert isinstance(store, EmbeddedStore)
    assert store.root == tmp_path


@pytest.mark.parametrize("kind", ["embedded", "kubo"])
def test_open_store__setting_missing__is_a_configuration_error(kind: Any) -> None:
    with pytest.raises(ConfigError):
        open_store(kind, store_dir=None, kubo_api=None)


def test_embedded__import__brings_no_http_client_torch_or_web3() -> None:
    script = (
        "import sys, chainfl.storage.factory, chainfl.storage.embedded\n"
        "print(*{'requests', 'urllib3', 'ipfshttpclient', 'torch', 'web3'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

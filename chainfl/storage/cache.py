"""Verified blocks on this machine's disk, shared by all of its processes, bounded in size, least recently used first.

    <root>/blocks/<last two characters of the CID>/<CID>    one block each, as it is
    <root>/pending/<random>.part                            being written, locked by its writer
    <root>/locks/<CID>.<what>.part                          while one process fetches what the others wait for
    <root>/size                                             bytes of all blocks, never less than they are

A block appears by rename, so every block that was ever kept survives a kill and a cut, and what was fetched is not
fetched again. There is no fsync: a block that a power cut tore does not match its CID when it is read, and is fetched
anew. Every read says so by the file's modification time, which is all that eviction looks at.

The blocks together hold at most `max_bytes`, and beyond that one block for each thread that writes at the moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from chainfl.errors import CidMismatch, ConfigError, StorageError
from chainfl.storage.cid import digest_of
from chainfl.storage.files import PENDING_SUFFIX, pending_file, reading, remove_orphans, writing
from chainfl.storage.unixfs import MAX_BLOCK_BYTES, Fetch
from chainfl.types import Cid

_log = logging.getLogger("chainfl.storage")
MIN_CACHE_BYTES: Final = 16 * MAX_BLOCK_BYTES
_EVICT_TO: Final = (7, 8)
"""How much of `max_bytes` an eviction leaves, so that not every block that comes looks through the whole folder."""
_WAIT_S: Final = 30.0
_LEDGER_WAIT_S: Final = 2.0
_FIRST_PAUSE_S: Final = 0.002
_LONGEST_PAUSE_S: Final = 0.1


class BlockCache:
    """A cache in the folder `root`, made on the first write. Safe among threads and processes. See the module.

    A folder that cannot be written, or a full disk, costs the keeping and never the reading: one warning, and blocks
    pass through. wait_s: how long a process that has stopped, and not died, holds up the others.
    Raises ConfigError for a `max_bytes` below MIN_CACHE_BYTES, 16 blocks.
    """

    def __init__(self, root: Path, *, max_bytes: int, wait_s: float = _WAIT_S) -> None:
        if max_bytes < MIN_CACHE_BYTES:
            raise ConfigError(f"a cache needs at least {MIN_CACHE_BYTES} bytes, not {max_bytes}")
        self.root = root
        self.max_bytes = max_bytes
        self._wait_s = wait_s
        self._blocks = root / "blocks"
        self._pending = root / "pending"
        self._locks = root / "locks"
        self._warned = threading.Event()
        self._swept = False

    def through(self, fetch: Fetch) -> Fetch:
        """A fetch that looks here first, and keeps what `fetch` gives. Of all processes that want the same block at
        once one fetches it. Raises CidMismatch for a block that is another, and what `fetch` raises."""

        def cached(cid: Cid) -> bytes:
            block = self.get(cid)
            if block is not None:
                return block
            with self.alone(cid):
                return self._fetched(cid, fetch)

        return cached

    def get(self, cid: Cid) -> bytes | None:
        """The block, verified; None if it is not here. A damaged one is removed. Raises InvalidCid."""
        path = self._path(cid)
        try:
            with reading(path), path.open("rb", buffering=0) as stream:
                block = stream.read(MAX_BLOCK_BYTES + 1)
                with contextlib.suppress(PermissionError):  # another user's file: read, but not made younger
                    os.utime(stream.fileno())
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                self._warn(error)
            return None
        if hashlib.sha256(block).digest() == digest_of(cid):
            return block
        _log.warning("%s in the cache is damaged; it is fetched again", cid)
        self.discard(cid)
        return None

    def holds(self, cid: Cid) -> bool:
        """Whether the block is here, without reading it. Raises InvalidCid."""
        return self._path(cid).is_file()

    def keep(self, cid: Cid, block: bytes) -> None:
        """Keeps a block that was verified. What the disk refuses is not kept. Raises InvalidCid."""
        path = self._path(cid)
        try:
            with writing(self.root):
                self._make_room(len(block))
                path.parent.mkdir(parents=True, exist_ok=True)
                with pending_file(self._pending) as pending:
                    pending.write(block)
                    pending.path.replace(path)  # not publish(): see the module for why nothing is synced
        except StorageError as error:
            self._warn(error)

    def discard(self, cid: Cid) -> None:
        """Removes the block, if it is here. Raises InvalidCid."""
        path = self._path(cid)
        try:
            with writing(self.root):
                path.unlink(missing_ok=True)
        except StorageError as error:
            self._warn(error)

    @contextlib.contextmanager
    def alone(self, cid: Cid, what: str = "block") -> Iterator[Callable[[], None]]:
        """Waits until no other thread or process is in here for the same `cid` and `what`.

        Gives what to call now and then, as a sign that it goes on. A process that dies makes room; one that gives no
        sign for `wait_s` is not waited for any longer. Where the folder takes no locks, nobody waits.
        """
        digest_of(cid)
        path = self._locks / f"{cid}.{what}{PENDING_SUFFIX}"
        stream = self._locked_if_possible(path)
        try:
            yield lambda: None if stream is None else os.utime(stream)
        finally:
            if stream is not None:
                # Before it is free, so that whoever gets it next sees that its name is gone and asks for a new one.
                with contextlib.suppress(OSError):
                    path.unlink()
                os.close(stream)

    def size(self) -> int:
        """Bytes of all blocks, counted. Raises StorageError."""
        with reading(self._blocks):
            return sum(entry.size for entry in self._entries())

    def describe(self) -> str:
        """One line for a person: where, how full, how large it may be."""
        return f"cache in {self.root} ({self.size() // 10**6} of {self.max_bytes // 10**6} MB)"

    def _fetched(self, cid: Cid, fetch: Fetch) -> bytes:
        block = self.get(cid)  # another process may have fetched it while we waited
        if block is None:
            block = fetch(cid)
            if hashlib.sha256(block).digest() != digest_of(cid):
                raise CidMismatch(f"a block of {len(block)} bytes does not match its CID {cid}", cid=cid)
            self.keep(cid, block)
        return block

    def _path(self, cid: Cid) -> Path:
        digest_of(cid)  # a name from a stranger becomes part of a path only once it is known to be a CID
        return self._blocks / cid[-2:] / cid

    def _locked_if_possible(self, path: Path) -> int | None:
        try:
            return self._locked(path)
        except StorageError as error:
            self._warn(error)
            return None

    def _locked(self, path: Path) -> int | None:
        """A descriptor that holds the lock of the file that is at `path` now; None if whoever has it has stopped."""
        with writing(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                stream = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                kept = False
                try:
                    if not _lock(stream, self._wait_s):
                        return None
                    kept = os.fstat(stream).st_nlink > 0
                    if kept:
                        return stream
                finally:
                    if not kept:
                        os.close(stream)

    def _warn(self, error: StorageError) -> None:
        if not self._warned.is_set():
            self._warned.set()
            _log.warning("the cache does not work, blocks are used and not kept: %s", error)

    # --- bounds ----------------------------------------------------------------------------------

    def _make_room(self, size: int) -> None:
        """Counts `size` bytes that are about to come, after evicting what they would push over the bound."""
        for folder in (self._pending, self._locks):
            folder.mkdir(parents=True, exist_ok=True)
        with (self.root / "size").open("a+b", buffering=0) as ledger:
            if not _lock(ledger.fileno(), _LEDGER_WAIT_S):
                raise StorageError(f"another process holds {ledger.name} and does not go on")
            ledger.seek(0)
            text = ledger.read(32)
            # Whatever else stands there is no count of ours; looking at the folder gives one.
            total = int(text) + size if text.isdigit() else self.max_bytes + 1
            if total > self.max_bytes or not self._swept:
                self._swept = True
                remove_orphans(self._pending)
                remove_orphans(self._locks)
            if total > self.max_bytes:
                total = self._evict(self.max_bytes * _EVICT_TO[0] // _EVICT_TO[1] - size) + size
            ledger.truncate(0)
            ledger.write(b"%d" % total)

    def _evict(self, target: int) -> int:
        """Removes the blocks that nobody has used for longest until the rest has at most `target` bytes: its size."""
        entries = sorted(self._entries())
        total = sum(entry.size for entry in entries)
        for entry in entries:
            if total <= target:
                break
            Path(entry.path).unlink(missing_ok=True)
            total -= entry.size
        return total

    def _entries(self) -> Iterator[_Entry]:
        for folder in _scan(self._blocks):
            for file in _scan(folder.path):
                # Gone meanwhile: another process removed it.
                with contextlib.suppress(FileNotFoundError):
                    stat = file.stat()
                    yield _Entry(stat.st_mtime_ns, stat.st_size, file.path)


class _Entry(NamedTuple):
    """A block on the disk; the first in order is the first to go."""

    used_ns: int
    size: int
    path: str


def _lock(stream: int, wait_s: float) -> bool:
    """Locks the file; False when whoever holds it has given no sign for `wait_s`, which is a new time of the file's.

    The system has no wait for a lock that ends, so this asks again and again, after pauses that grow.
    """
    pause_s, sign, deadline = _FIRST_PAUSE_S, 0, 0.0
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        now, newest = time.monotonic(), os.fstat(stream).st_mtime_ns
        if newest != sign:
            sign, deadline = newest, now + wait_s
        if now >= deadline:
            return False
        time.sleep(min(pause_s, deadline - now))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _scan(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        yield from entries

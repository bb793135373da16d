"""Files that appear complete or not at all, however the process ends; and the system's errors in chainfl's words."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Final

from chainfl.errors import StorageError, StoreFull, StoreReadOnly, StoreUnusable, TemporaryFull, UsageError
from chainfl.scratch import is_scratch

PENDING_SUFFIX: Final = ".part"
PIECE_BYTES: Final = 1 << 20
_FLUSH_BYTES: Final = 8 << 20
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY: Final = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_FOLDER: Final = {
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOENT,
    errno.EISDIR,
    errno.EINVAL,
    errno.EOPNOTSUPP,
    errno.ELOOP,
}


# --- errors --------------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what the system says about writing below `folder` into the StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            full = TemporaryFull if is_scratch(folder) else StoreFull
            raise full(f"no space left to write below {folder}: {error}", path=folder) from error
        if error.errno in _READ_ONLY:
            raise StoreReadOnly(f"cannot write below {folder}: {error}", path=folder) from error
        kind = StoreUnusable if error.errno in _NO_FOLDER else StorageError
        raise kind(f"cannot write below {folder}: {error}", path=folder) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the system says about reading `path` into StorageError, so that `writing` does not see it."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error}", path=path) from error


# --- reading -------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[FileIO]:
    """A file that the user named, open for reading. Raises UsageError if that cannot be."""
    try:
        stream = FileIO(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error}", path=path) from error
    with stream:
        yield stream


def size_of(source: FileIO) -> int:
    """The bytes of an open file; 0 for a pipe."""
    return os.fstat(source.fileno()).st_size


def pieces(source: FileIO, path: Path) -> Iterator[memoryview]:
    """The rest of `source` through one reused buffer: use each piece before the next one is asked for."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    while True:
        with reading(path):
            count = source.readinto(buffer)
        if not count:
            return
        yield buffer[:count]


# --- writing -------------------------------------------------------------------------------------


class PendingFile:
    """A file being written beside its future place, locked by its writer so that others can tell it from an orphan.

    Large files are flushed to the disk in the background while they grow (the caller hashes meanwhile): the fsync
    before the rename is otherwise as long as hashing the whole content.
    """

    def __init__(self, path: Path, stream: FileIO) -> None:
        self.path = path
        self._stream = stream
        self._unflushed = 0
        self._flusher: ThreadPoolExecutor | None = None
        self._flush: Future[None] | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Appends all of `data`. Raises OSError, also for an earlier write that only now reached the disk."""
        rest = memoryview(data)
        while rest:
            count = self._stream.write(rest)
            self._unflushed += count
            rest = rest[count:]
        if self._unflushed >= _FLUSH_BYTES:
            self._start_flush()

    def publish(self, target: Path) -> None:
        """Makes the content durable, then visible as `target` in one step; replaces what stood there."""
        # The kernel reports a failed write to one fsync only: if that was the background's, it must be heard.
        if self._flush:
            self._flush.result()
        os.fsync(self._stream.fileno())
        self.path.replace(target)
        # Without this a power cut could forget the new name, though not tear the content.
        _sync_folder(target.parent)

    def close(self) -> None:
        """Removes the file unless it was published, and frees its lock."""
        if self._flusher:
            self._flusher.shutdown()
        # While the lock is held: once it is free, the name belongs to whoever sweeps.
        self.path.unlink(missing_ok=True)
        self._stream.close()

    def _start_flush(self) -> None:
        if self._flush:
            if not self._flush.done():
                return
            self._flush.result()
        self._flusher = self._flusher or ThreadPoolExecutor(max_workers=1)
        self._flush = self._flusher.submit(os.fsync, self._stream.fileno())
        self._unflushed = 0


@contextlib.contextmanager
def pending_file(folder: Path, prefix: str = "") -> Iterator[PendingFile]:
    """A new file in `folder`, which is removed at the end unless it was published. Raises OSError."""
    pending = _create(folder, prefix)
    try:
        yield pending
    finally:
        pending.close()


def write_whole(target: Path, data: bytes | memoryview) -> None:
    """Makes `target` a file of these bytes in one step, and removes what killed ones left of it. Raises OSError."""
    folder, prefix = target.parent, f".{target.name}."
    remove_orphans(folder, prefix)
    with pending_file(folder, prefix) as pending:
        pending.write(data)
        pending.publish(target)


def remove_orphans(folder: Path, prefix: str = "") -> None:
    """Removes pending files whose writer has died: those whose lock is free. Raises OSError."""
    for entry in os.scandir(folder):
        if not (entry.name.startswith(prefix) and entry.name.endswith(PENDING_SUFFIX)):
            continue
        # Gone meanwhile, still being written, or another user's: in each case not ours to remove.
        with (
            contextlib.suppress(FileNotFoundError, BlockingIOError, PermissionError),
            Path(entry.path).open("rb") as stream,
        ):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Path(entry.path).unlink()


def _create(folder: Path, prefix: str) -> PendingFile:
    while True:
        path = folder / f"{prefix}{secrets.token_hex(8)}{PENDING_SUFFIX}"
        # Unbuffered: every write is a whole piece already, and an error shows where it happens.
        stream = FileIO(path, "x")
        fcntl.flock(stream, fcntl.LOCK_EX)
        # Between the two calls a sweeper may have taken it for an orphan; then it has no name left.
        if os.fstat(stream.fileno()).st_nlink:
            return PendingFile(path, stream)
        stream.close()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The store without a daemon: a folder of contents by CID, shared by the processes of one machine.

    <root>/objects/<last two characters of the CID>/<CID>     the content itself, one ordinary file each
    <root>/pending/<random>.part                              being written, locked by its writer

Contents and not blocks: with the profile's fixed layout a file's whole DAG follows from its bytes, so nothing is
stored twice, every object opens with any tool, and one sequential read both verifies and delivers. A later export
of blocks (CAR, bitswap) recomputes the few dag-pb nodes and reads the leaves as ranges.

An object appears by rename after fsync, and never changes. Two processes that put the same content both write it and
the second rename replaces equal bytes, which also heals a damaged object; no lock is held while anybody works.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from chainfl.errors import BlobNotFound, ContentDamaged, PayloadTooLarge
from chainfl.storage.cid import cid_to_bytes
from chainfl.storage.files import (
    PendingFile,
    open_source,
    pending_file,
    pieces,
    reading,
    remove_orphans,
    size_of,
    writing,
)
from chainfl.storage.moved import Moved, counted, unheard
from chainfl.storage.unixfs import CidBuilder, cid_of
from chainfl.types import Cid


class EmbeddedStore:
    """A BlobStore in the folder `root`, which is made on the first put. See the module for its layout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._objects = root / "objects"
        self._pending = root / "pending"
        self._swept = False

    def put_bytes(self, data: bytes) -> Cid:
        with self._new_object() as pending:
            pending.write(data)
            return self._publish(pending, cid_of(data))

    def put_file(self, path: Path, *, moved: Moved = unheard) -> Cid:
        with open_source(path) as source, self._new_object() as pending:
            builder = CidBuilder()
            for piece in counted(pieces(source, path), size_of(source), moved):
                builder.update(piece)
                pending.write(piece)
            return self._publish(pending, builder.finish())

    def get_bytes(self, cid: Cid, *, max_bytes: int) -> bytes:
        with self._object(cid, max_bytes) as source:
            with reading(self._path(cid)):
                data = _read(source, size_of(source))
            self._check(cid, cid_of(data))
            return data

    def get_file(self, cid: Cid, target: Path, *, max_bytes: int, moved: Moved = unheard) -> None:
        folder, prefix = target.parent, f".{target.name}."
        with self._object(cid, max_bytes) as source, writing(folder):
            remove_orphans(folder, prefix)
            with pending_file(folder, prefix) as pending:
                builder = CidBuilder()
                for piece in counted(pieces(source, self._path(cid)), size_of(source), moved):
                    builder.update(piece)
                    pending.write(piece)
                self._check(cid, builder.finish())
                pending.publish(target)

    def has(self, cid: Cid) -> bool:
        return self._path(cid).is_file()

    def drop(self, cid: Cid) -> None:
        with writing(self.root):
            self._path(cid).unlink(missing_ok=True)

    def describe(self) -> str:
        existing = next(p for p in (self.root, *self.root.absolute().parents) if p.exists())
        free_gb = shutil.disk_usage(existing).free // 10**9
        return f"embedded store in {self.root} ({free_gb} GB free)"

    def _check(self, wanted: Cid, found: Cid) -> None:
        if found != wanted:
            path = self._path(wanted)
            repair = (
                "Put the file there again with `chainfl store add FILE`, which replaces it. Where only others have it: "
                f"`chainfl store unpin {wanted}` removes it here, and the next read asks them."
            )
            told = f"what the embedded store has as {wanted} in {path} is damaged: it is {found}"
            raise ContentDamaged(told, cid=wanted, found=found, repair=repair)

    def _path(self, cid: Cid) -> Path:
        cid_to_bytes(cid)  # a name from a stranger becomes part of a path only once it is known to be a CID
        return self._objects / cid[-2:] / cid

    @contextlib.contextmanager
    def _new_object(self) -> Iterator[PendingFile]:
        with writing(self.root):
            self._pending.mkdir(parents=True, exist_ok=True)
            if not self._swept:
                remove_orphans(self._pending)
                self._swept = True
            with pending_file(self._pending) as pending:
                yield pending

    def _publish(self, pending: PendingFile, cid: Cid) -> Cid:
        path = self._path(cid)
        path.parent.mkdir(parents=True, exist_ok=True)
        pending.publish(path)
        return cid

    @contextlib.contextmanager
    def _object(self, cid: Cid, max_bytes: int) -> Iterator[FileIO]:
        path = self._path(cid)
        with reading(path):
            try:
                source = FileIO(path)
            except FileNotFoundError as error:
                raise BlobNotFound(f"{cid} is not in {self.root}", cid=cid) from error
        with source:
            size = size_of(source)
            if size > max_bytes:
                raise PayloadTooLarge(
                    f"{cid} has {size} bytes, at most {max_bytes} are allowed", size=size, limit=max_bytes
                )
            yield source


def _read(source: FileIO, size: int) -> bytes:
    """Up to `size` bytes, fewer only at the end: one read of Linux gives at most 0x7ffff000."""
    parts = []
    while size > 0 and (part := source.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)

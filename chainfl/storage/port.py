"""What the rest of chainfl may ask of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from chainfl.storage.moved import Moved, unheard
from chainfl.types import Cid


class BlobStore(Protocol):
    """Content by CID. Whatever comes back was checked against its CID first; a stranger may have written it.

    Files may be large: `moved` hears how far putting or getting one is. It must not raise.

    The CID of some content is the same in every store: CIDv1 of its UnixFS form under `unixfs-v1-2025`.
    Every method raises a StorageError: StoreFull, StoreReadOnly, StoreUnreachable when the store itself fails.
    """

    def put_bytes(self, data: bytes) -> Cid:
        """Keeps `data` durably and returns its CID. Idempotent; safe from several processes at once."""
        ...

    def put_file(self, path: Path, *, moved: Moved = unheard) -> Cid:
        """Keeps the file's content durably, in constant memory. Raises UsageError if it cannot be read."""
        ...

    def get_bytes(self, cid: Cid, *, max_bytes: int) -> bytes:
        """The content of `cid`, verified.

        Raises InvalidCid, BlobNotFound, CidMismatch, and PayloadTooLarge before more than `max_bytes` are read.
        """
        ...

    def get_file(self, cid: Cid, target: Path, *, max_bytes: int, moved: Moved = unheard) -> None:
        """Writes the content to `target`, in constant memory; `target` changes only once all of it is verified.

        Raises what get_bytes raises, and StoreFull or StoreReadOnly when `target` cannot be written.
        """
        ...

    def has(self, cid: Cid) -> bool:
        """Whether the store holds the content itself, without asking anyone else. Does not verify it."""
        ...

    def drop(self, cid: Cid) -> None:
        """Keeps the content no longer; its bytes may go at any time. Does nothing where it was not kept."""
        ...

    def describe(self) -> str:
        """One line about the store for a person: what it is, where, and how it is."""
        ...


@runtime_checkable
class FarStore(Protocol):
    """A store whose content may be on other machines."""

    def prefetch(self, cid: Cid, *, max_bytes: int) -> None:
        """Brings the content near, verified, so that getting it soon asks nobody far away.

        Raises what `BlobStore.get_bytes` does.
        """
        ...


@runtime_checkable
class MendingStore(Protocol):
    """A store in which a put leaves damage as it is."""

    def mend(self, path: Path) -> Cid:
        """Puts the file in place of whatever the store has of it. Raises ContentDamaged where that cannot be."""
        ...

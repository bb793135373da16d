"""Several stores as one: reads from the first that has the content, writes to all, published when enough confirm.

A place is a store that writes, or a pinning service; each is asked in a thread of its own, so that none waits for
another. A put returns once `quorum` places have confirmed the content, every store has answered or let its time pass,
and every service has taken the request; services that are still fetching go on by themselves.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar, runtime_checkable

from chainfl.errors import (
    BlobNotFound,
    ChainflError,
    CidMismatch,
    InvalidCid,
    NoStoreWrites,
    NotPublished,
    PayloadTooLarge,
    StorageError,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    TokenMissing,
)
from chainfl.scratch import scratch_folder
from chainfl.storage.cid import cid_to_bytes
from chainfl.storage.moved import Moved, Slowest, unheard
from chainfl.storage.port import BlobStore, FarStore
from chainfl.types import Cid

PLACE_TIMEOUT_S: Final = 600.0
"""How long one place may take to confirm one content."""
LOOK_TIMEOUT_S: Final = 15.0
"""How long one place may take to say whether it has a content."""
_MAX_COPY_BYTES: Final = 1 << 40

T = TypeVar("T")
log = logging.getLogger(__name__)


@runtime_checkable
class Node(Protocol):
    """A store in a network of nodes, such as a Kubo daemon: it can keep what others have, and be fetched from."""

    def pin(self, cid: Cid) -> None:
        """Keeps the content, fetched from others if need be."""
        ...

    def is_pinned(self, cid: Cid) -> bool:
        """Whether it keeps all of the content."""
        ...

    def addresses(self) -> Sequence[str]:
        """Where other nodes reach it."""
        ...

    def connect(self, address: str) -> None:
        """Connects it to another node."""
        ...


class Service(Protocol):
    """What keeps content for us elsewhere: chainfl.storage.pinning.PinningService."""

    name: str

    def pin(
        self,
        cid: Cid,
        *,
        origins: Sequence[str],
        connect: Callable[[str], None] | None,
        timeout_s: float,
        accepted: Callable[[], None] | None,
    ) -> None:
        """Returns once the service says that it holds the content; calls `accepted` once it took the request."""
        ...

    def stand(self, cid: Cid) -> str:
        """Where the service stands with the content, in its own word; empty when it was never asked."""
        ...

    def drop(self, cid: Cid) -> None:
        """Ends every request for the content."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """A store under the name that the configuration gives it.

    writes: whether it takes content; confirms: whether what it took counts as published, since others can fetch it.
    """

    name: str
    store: BlobStore
    writes: bool = True
    confirms: bool = True


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether one place holds some content. holds: None when it did not say; told: in words."""

    place: str
    holds: bool | None
    told: str


class SeveralStores:
    """A BlobStore and FarStore over `places`, in the order in which they are read.

    services: pin what the node among the places has; quorum: how many places and services must confirm a put.
    """

    def __init__(
        self,
        places: Sequence[Place],
        services: Sequence[Service] = (),
        *,
        quorum: int = 1,
        timeout_s: float = PLACE_TIMEOUT_S,
    ) -> None:
        self.places = tuple(places)
        self.services = tuple(services)
        self._writers = tuple(place for place in places if place.writes)
        self._node = next((place for place in self._writers if isinstance(place.store, Node)), None)
        self._quorum = quorum
        self._timeout_s = timeout_s

    @classmethod
    def of(cls, store: BlobStore) -> SeveralStores:
        """`store`, if it is several already; else the one place that it is."""
        if isinstance(store, SeveralStores):
            return store
        kind = type(store).__name__.removesuffix("Store").lower()
        return cls([Place(kind, store, writes=kind != "gateway")])

    # --- writing -----------------------------------------------------------------------------------

    def put_bytes(self, data: bytes) -> Cid:
        return self._published(lambda place: place.store.put_bytes(data))

    def put_file(self, path: Path, *, moved: Moved = unheard) -> Cid:
        slowest = Slowest(moved, [place.name for place in self._writers])

        def put(place: Place) -> Cid:
            with slowest.going(place.name) as heard:
                return place.store.put_file(path, moved=heard)

        return self._published(put)

    def keep(self, cid: Cid) -> None:
        """What a put does, for content that the network or one of the stores already has. Raises NotPublished."""
        cid_to_bytes(cid)
        self._published(lambda place: self._kept(place.store, cid))

    def drop(self, cid: Cid) -> None:
        cid_to_bytes(cid)
        drops = {place.name: _started(place.store.drop, cid) for place in self.places}
        drops |= {service.name: _started(service.drop, cid) for service in self.services}
        failed = [(name, error) for name, drop in drops.items() if (error := _failure(drop, self._timeout_s))]
        if failed:
            raise _most_telling(f"{cid} was not dropped everywhere", failed)

    def _kept(self, store: BlobStore, cid: Cid) -> Cid:
        if isinstance(store, Node):
            store.pin(cid)
        elif not store.has(cid):
            with scratch_folder() as folder:
                copy = folder / "content"
                self.get_file(cid, copy, max_bytes=_MAX_COPY_BYTES)
                return store.put_file(copy)
        return cid

    def _published(self, put: Callable[[Place], Cid]) -> Cid:
        if not self._writers:
            raise NoStoreWrites("none of the stores in `storage` takes content")
        return _Publication(put, self._writers, self._node, self.services, self._timeout_s).outcome(self._quorum)

    # --- reading -----------------------------------------------------------------------------------

    def get_bytes(self, cid: Cid, *, max_bytes: int) -> bytes:
        return self._first(cid, self.places, lambda store: store.get_bytes(cid, max_bytes=max_bytes))

    def get_file(self, cid: Cid, target: Path, *, max_bytes: int, moved: Moved = unheard) -> None:
        self._first(cid, self.places, lambda store: store.get_file(cid, target, max_bytes=max_bytes, moved=moved))

    def prefetch(self, cid: Cid, *, max_bytes: int) -> None:
        far = [place for place in self.places if isinstance(place.store, FarStore)]
        if far and not self.has(cid):
            self._first(cid, far, lambda store: _prefetch(store, cid, max_bytes))

    def has(self, cid: Cid) -> bool:
        cid_to_bytes(cid)
        return any(_has(place, cid) for place in self.places)

    def describe(self) -> str:
        stores = ", then ".join(map(_described, self.places))
        asked = f"; pins asked of {', '.join(service.name for service in self.services)}" if self.services else ""
        return f"{stores}{asked}; published when {self._quorum} confirm"

    def standings(self, cid: Cid, *, timeout_s: float = LOOK_TIMEOUT_S) -> Iterator[Standing]:
        """Where the content is, place by place; all are asked at the same time."""
        cid_to_bytes(cid)
        looks = {place.name: _started(_store_stand, place.store, cid) for place in self.places}
        looks |= {service.name: _started(_service_stand, service, cid) for service in self.services}
        deadline = time.monotonic() + timeout_s
        for name, look in looks.items():
            error = _failure(look, deadline - time.monotonic())
            holds, told = (None, str(error)) if error else look.result()
            yield Standing(name, holds, told)

    def _first(self, cid: Cid, places: Sequence[Place], get: Callable[[BlobStore], T]) -> T:
        cid_to_bytes(cid)
        failed: list[tuple[str, ChainflError]] = []
        for place in sorted(places, key=lambda place: not _has(place, cid)):
            try:
                return get(place.store)
            except (StorageError, PayloadTooLarge) as error:
                level = logging.WARNING if isinstance(error, CidMismatch) else logging.DEBUG
                log.log(level, "%s does not give %s: %s", place.name, cid, error)
                failed.append((place.name, error))
        raise _most_telling(f"no store gives {cid}", failed)


class _Publication:
    """One content on its way to all places."""

    def __init__(
        self,
        put: Callable[[Place], Cid],
        writers: Sequence[Place],
        node: Place | None,
        services: Sequence[Service],
        timeout_s: float,
    ) -> None:
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._puts = {place.name: _started(put, place) for place in writers}
        self._accepted = {service.name: threading.Event() for service in services}
        self._pins = {service.name: _started(self._pin, service, node) for service in services}
        self._places = self._puts | self._pins
        self._confirming = {place.name for place in writers if place.confirms} | self._pins.keys()
        for name, place in self._places.items():
            place.add_done_callback(lambda done, name=name: _log_failure(name, done))  # type: ignore[misc]

    def outcome(self, quorum: int) -> Cid:
        """The CID, once enough confirm. Raises NotPublished when they do not, UsageError for an unreadable source."""
        pending = set(self._places.values())
        while pending and (left := self._deadline - time.monotonic()) > 0:
            _, pending = wait(pending, timeout=left, return_when=FIRST_COMPLETED)
            if self._confirmed() >= quorum and all(put.done() for put in self._puts.values()):
                self._await_accepted()
                break
        refused = {name: why for name, place in self._places.items() if (why := self._refusal(place))}
        if self._confirmed() < quorum:
            self._raise_what_is_not_theirs()
            told = f"{self._confirmed()} of {quorum} places confirm the content; not {', '.join(refused)}"
            raise NotPublished(told, refused="; ".join(f"{name}: {why}" for name, why in refused.items()))
        return self._cid()

    def _pin(self, service: Service, node: Place | None) -> Cid:
        try:
            if node is None or not isinstance(node.store, Node):
                raise StorageError("there is no Kubo node that it could fetch from")
            cid = self._puts[node.name].result()
            left = max(0.0, self._deadline - time.monotonic())
            accepted = self._accepted[service.name].set
            origins, connect = node.store.addresses(), node.store.connect
            service.pin(cid, origins=origins, connect=connect, timeout_s=left, accepted=accepted)
            return cid
        finally:
            self._accepted[service.name].set()

    def _await_accepted(self) -> None:
        """Until every service took the request or failed: then it goes on whatever becomes of this process."""
        for accepted in self._accepted.values():
            accepted.wait(max(0.0, self._deadline - time.monotonic()))

    def _confirmed(self) -> int:
        places = [place for name, place in self._places.items() if name in self._confirming]
        return sum(place.done() and place.exception() is None for place in places)

    def _refusal(self, place: Future[Cid]) -> str:
        if not place.done():
            return f"no answer within {self._timeout_s:g} s"
        return str(place.exception() or "")

    def _raise_what_is_not_theirs(self) -> None:
        """A source that cannot be read, or a bug of ours."""
        for place in self._places.values():
            if place.done() and not isinstance(place.exception(), StorageError | TokenMissing | None):
                place.result()

    def _cid(self) -> Cid:
        found = {put.result() for put in self._puts.values() if put.done() and put.exception() is None}
        if len(found) > 1:
            raise CidMismatch(f"the source changed while it was read: {', '.join(sorted(found))}", cid=min(found))
        return found.pop()


def not_retrievable(store: BlobStore, cids: Sequence[Cid], *, timeout_s: float = LOOK_TIMEOUT_S) -> dict[Cid, str]:
    """Which of the contents cannot be had now, and why; all are looked for at the same time.

    One counts as retrievable once its first block is there and verified: no more is fetched.
    """
    looks = {cid: _started(_first_block, store, cid) for cid in cids}
    deadline = time.monotonic() + timeout_s
    found = {cid: _failure(look, deadline - time.monotonic()) for cid, look in looks.items()}
    return {cid: str(error) for cid, error in found.items() if error}


def _first_block(store: BlobStore, cid: Cid) -> None:
    with contextlib.suppress(PayloadTooLarge):  # said once the first block is known to be right
        store.get_bytes(cid, max_bytes=0)


# --- one place -----------------------------------------------------------------------------------


def _described(place: Place) -> str:
    try:
        return place.store.describe()
    except StorageError as error:
        return f"{place.name} ({error})"


def _has(place: Place, cid: Cid) -> bool:
    try:
        return place.store.has(cid)
    except ChainflError as error:
        log.debug("%s does not say whether it has %s: %s", place.name, cid, error)
        return False


def _prefetch(store: BlobStore, cid: Cid, max_bytes: int) -> None:
    assert isinstance(store, FarStore)
    store.prefetch(cid, max_bytes=max_bytes)


def _store_stand(store: BlobStore, cid: Cid) -> tuple[bool | None, str]:
    if isinstance(store, Node):
        if store.is_pinned(cid):
            return True, "pinned"
        return False, "there, but not pinned" if store.has(cid) else "not there"
    held = store.has(cid)
    if isinstance(store, FarStore):
        return (True, "in the cache") if held else (None, "not in the cache; gateways were not asked")
    return (held, "there" if held else "not there")


def _service_stand(service: Service, cid: Cid) -> tuple[bool, str]:
    told = service.stand(cid)
    return told == "pinned", told or "not there"


def _started(work: Callable[..., T], *arguments: object) -> Future[T]:
    """`work` in a thread of its own, which keeps no process from ending."""
    future: Future[T] = Future()
    threading.Thread(target=_run, args=(future, work, arguments), daemon=True).start()
    return future


def _run(future: Future[T], work: Callable[..., T], arguments: Sequence[object]) -> None:
    try:
        future.set_result(work(*arguments))
    except BaseException as error:  # noqa: BLE001  (it is raised where the result is asked for)
        future.set_exception(error)


def _failure(work: Future[T], timeout_s: float) -> ChainflError | None:
    """What kept a place from answering, or None. Raises what is no ChainflError: that is a bug of ours."""
    try:
        work.result(max(0.0, timeout_s))
    except ChainflError as error:
        return error
    except TimeoutError:
        return StoreUnreachable("no answer in time")
    return None


def _log_failure(name: str, place: Future[Cid]) -> None:
    if error := place.exception():
        log.warning("%s does not confirm the content: %s", name, error)


# What tells most about a content that no place gave: what is wrong with the content itself or with the target, then
# what may pass, then what one damaged place said, then what is amiss on this side.
_TELLING: Final = (
    PayloadTooLarge,
    InvalidCid,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    BlobNotFound,
    StorageError,
    ChainflError,
)


def _most_telling(told: str, failed: Sequence[tuple[str, ChainflError]]) -> ChainflError:
    rank = {id(error): next(at for at, kind in enumerate(_TELLING) if isinstance(error, kind)) for _, error in failed}
    chosen = min((error for _, error in failed), key=lambda error: rank[id(error)])
    said = "; ".join(f"{name}: {error}" for name, error in failed)
    result = type(chosen)(f"{told}: {said}", **chosen.evidence)
    result.__cause__ = chosen
    return result

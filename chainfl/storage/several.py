"""Several stores as one: reads from the first that has the content, writes to all, published when enough confirm.

A place is a store that writes, or a pinning service; each is asked in a thread of its own, so that none waits for
another. A put returns once `quorum` places have confirmed the content and the others have had a moment to do so, or
longer where bytes still move. What is under way then goes on beside the caller, and holds up no process that ends.

A read takes the content from the first place that says that it keeps it, else from the first that gives its first
block. Nobody is waited for while another could answer, and a place that did not answer is left alone for a while.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
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
GRACE_S: Final = 3.0
"""How long a put waits, once its outcome is known, for places at which nothing moves."""
OUTAGE_S: Final = 60.0
"""How long a service may fail without a break before a put that needs it is given up."""
LOOK_TIMEOUT_S: Final = 15.0
"""How long one place may take to say whether it has a content."""
_SAY_TIMEOUT_S: Final = 2.0
"""How long a place may take to say what it keeps, which it knows without a search, while others wait to be read."""
_HEAD_START_S: Final = 2.0
"""How long a place may search for a content before the next one is asked as well."""
_REST_S: Final = 60.0
"""How long a place that did not answer is left alone."""
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
        failing: Callable[[StorageError], None] | None,
    ) -> None:
        """Returns once the service says that it holds the content; calls `accepted` once it took the request, and
        `failing` with each failure that it tries again after."""
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

    services: pin what the node among the places has; quorum: how many places and services must confirm a put;
    timeout_s: how long each of them may take; grace_s: see GRACE_S.
    """

    def __init__(
        self,
        places: Sequence[Place],
        services: Sequence[Service] = (),
        *,
        quorum: int = 1,
        timeout_s: float = PLACE_TIMEOUT_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self.places = tuple(places)
        self.services = tuple(services)
        self._writers = tuple(place for place in places if place.writes)
        self._node = next((place for place in self._writers if isinstance(place.store, Node)), None)
        self._quorum = quorum
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._rests_until: dict[str, float] = {}

    @classmethod
    def of(cls, store: BlobStore) -> SeveralStores:
        """`store`, if it is several already; else the one place that it is."""
        if isinstance(store, SeveralStores):
            return store
        kind = type(store).__name__.removesuffix("Store").lower()
        return cls([Place(kind, store, writes=kind != "gateway")])

    # --- writing -----------------------------------------------------------------------------------

    def put_bytes(self, data: bytes) -> Cid:
        return self._published(lambda place, _: place.store.put_bytes(data))

    def put_file(self, path: Path, *, moved: Moved = unheard) -> Cid:
        slowest = Slowest(moved, [place.name for place in self._writers])
        returned = threading.Event()

        def put(place: Place, alive: Alive) -> Cid:
            with slowest.going(place.name) as heard:

                def moving(done: int, total: int) -> None:
                    alive()
                    if not returned.is_set():
                        heard(done, total)

                return place.store.put_file(path, moved=moving)

        try:
            return self._published(put)
        finally:
            returned.set()

    def keep(self, cid: Cid) -> None:
        """What a put does, for content that the network or one of the stores already has. Raises NotPublished."""
        cid_to_bytes(cid)
        self._published(lambda place, _: self._kept(place.store, cid))

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

    def _published(self, put: Put) -> Cid:
        if not self._writers:
            raise NoStoreWrites("none of the stores in `storage` takes content")
        publication = _Publication(put, self._writers, self._node, self.services, self._timeout_s)
        return publication.outcome(self._quorum, self._grace_s)

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
        return any(self._has(place, cid) for place in self.places)

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
        for place in self._nearest(cid, places, failed):
            try:
                return get(place.store)
            except (StorageError, PayloadTooLarge) as error:
                failed.append(_heard_of(place, cid, error))
        raise _most_telling(f"no store gives {cid}", failed)

    def _nearest(self, cid: Cid, places: Sequence[Place], failed: list[tuple[str, ChainflError]]) -> Iterator[Place]:
        """The places in the order in which they are to be read; `failed` gets those that cannot be, and why.

        First who keeps the content, then who gives its first block soonest, then who did not answer lately.
        """
        others = []
        for place in places:
            if self._keeps(place, cid):
                yield place
            else:
                others.append(place)
        yield from _giving(cid, [place for place in others if not self._rests(place)], failed)
        yield from [place for place in others if self._rests(place)]

    def _keeps(self, place: Place, cid: Cid) -> bool:
        """Whether the place says, without a search, that it keeps the content."""
        store = place.store
        return self._says(place, store.is_pinned if isinstance(store, Node) else store.has, cid, _SAY_TIMEOUT_S)

    def _has(self, place: Place, cid: Cid) -> bool:
        return self._keeps(place, cid) or (
            isinstance(place.store, Node) and self._says(place, place.store.has, cid, LOOK_TIMEOUT_S)
        )

    def _says(self, place: Place, ask: Callable[[Cid], bool], cid: Cid, timeout_s: float) -> bool:
        if self._rests(place):
            return False
        try:
            return _started(ask, cid).result(timeout_s)
        except TimeoutError:
            log.warning("%s did not answer within %g s; others are read first for %g s", place.name, timeout_s, _REST_S)
            self._rests_until[place.name] = time.monotonic() + _REST_S
        except ChainflError as error:
            log.debug("%s does not say whether it has %s: %s", place.name, cid, error)
        return False

    def _rests(self, place: Place) -> bool:
        return time.monotonic() < self._rests_until.get(place.name, 0.0)


Alive = Callable[[], None]
"""Called whenever something moves."""

Put = Callable[[Place, Alive], Cid]
"""Puts one content into a place."""


class _Publication:
    """One content on its way to all places."""

    def __init__(
        self, put: Put, writers: Sequence[Place], node: Place | None, services: Sequence[Service], timeout_s: float
    ) -> None:
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._moved_at: dict[str, float] = {}
        self._accepted: set[str] = set()
        self._trouble: dict[str, _Trouble] = {}
        self._puts = {place.name: _started(put, place, partial(self._alive, place.name)) for place in writers}
        self._pins = {service.name: _started(self._pin, service, node) for service in services}
        self._places = self._puts | self._pins
        self._confirming = {place.name for place in writers if place.confirms} | self._pins.keys()
        for name, place in self._places.items():
            place.add_done_callback(partial(self._ended, name))

    def outcome(self, quorum: int, grace_s: float) -> Cid:
        """The CID, once enough confirm. Raises NotPublished when they do not, UsageError for an unreadable source."""
        self._await(lambda: self._wanted_until(quorum))
        known_at = time.monotonic()
        self._await(lambda: self._spared_until(known_at, grace_s))
        if self._confirmed() < quorum:
            self._raise_what_is_not_theirs()
            refused = {name: why for name, place in self._places.items() if (why := self._refusal(name, place))}
            told = f"{self._confirmed()} of {quorum} places confirm the content; not {', '.join(refused)}"
            raise NotPublished(told, refused="; ".join(f"{name}: {why}" for name, why in refused.items()))
        self._tell_who_is_left()
        return self._cid()

    def _await(self, until: Callable[[], float]) -> None:
        """Returns at the time that `until` says, which is asked again whenever there is news."""
        while (left := min(until(), self._deadline) - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._news.get(timeout=left)

    def _wanted_until(self, quorum: int) -> float:
        """Until the quorum holds or is out of reach."""
        hopes = [name for name in self._confirming if not self._places[name].done() and not self._is_out(name)]
        missing = quorum - self._confirmed()
        return self._deadline if 0 < missing <= len(hopes) else 0.0

    def _spared_until(self, known_at: float, grace_s: float) -> float:
        """Until nothing has moved for a while at those that have neither ended nor taken a request nor failed."""
        open_ones = [name for name, place in self._places.items() if not place.done()]
        slow = [name for name in open_ones if name not in self._accepted and name not in self._trouble]
        return max((max(known_at, self._moved_at.get(name, 0.0)) + grace_s for name in slow), default=0.0)

    def _is_out(self, name: str) -> bool:
        trouble = self._trouble.get(name)
        return trouble is not None and time.monotonic() - trouble.since > OUTAGE_S

    def _pin(self, service: Service, node: Place | None) -> Cid:
        if node is None or not isinstance(node.store, Node):
            raise StorageError("there is no Kubo node that it could fetch from")
        cid = self._puts[node.name].result()
        service.pin(
            cid,
            origins=node.store.addresses(),
            connect=node.store.connect,
            timeout_s=max(0.0, self._deadline - time.monotonic()),
            accepted=partial(self._took, service.name),
            failing=partial(self._failed, service.name),
        )
        return cid

    def _alive(self, name: str) -> None:
        self._moved_at[name] = time.monotonic()

    def _took(self, name: str) -> None:
        """From here on the service goes on whatever becomes of this process."""
        self._accepted.add(name)
        self._trouble.pop(name, None)
        self._news.put(None)

    def _failed(self, name: str, error: StorageError) -> None:
        known = self._trouble.get(name)
        self._trouble[name] = _Trouble(known.since if known else time.monotonic(), error)
        self._news.put(None)

    def _ended(self, name: str, place: Future[Cid]) -> None:
        if error := place.exception():
            log.warning("%s does not confirm the content: %s", name, error)
        self._news.put(None)

    def _tell_who_is_left(self) -> None:
        for name, place in self._places.items():
            if not place.done() and name not in self._accepted:
                trouble = self._trouble.get(name)
                why = f": {trouble.error}" if trouble else ""
                log.warning("%s has not confirmed the content, and goes on in the background%s", name, why)

    def _confirmed(self) -> int:
        places = [place for name, place in self._places.items() if name in self._confirming]
        return sum(place.done() and place.exception() is None for place in places)

    def _refusal(self, name: str, place: Future[Cid]) -> str:
        if place.done():
            return str(place.exception() or "")
        if trouble := self._trouble.get(name):
            return str(trouble.error)
        return f"no answer within {self._timeout_s:g} s" if time.monotonic() >= self._deadline else "no answer yet"

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


@dataclass(frozen=True, slots=True)
class _Trouble:
    """What keeps a service from answering, and since when; of the monotonic clock."""

    since: float
    error: StorageError


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


def _giving(cid: Cid, places: Sequence[Place], failed: list[tuple[str, ChainflError]]) -> Iterator[Place]:
    """The places that give the content's first block, as they come: each is asked when those before it fail, or have
    had their head start. One that nobody competes with is not asked for a block by itself."""
    waiting, looks = deque(places), dict[Future[None], Place]()
    while waiting or looks:
        if len(waiting) == 1 and not looks:
            yield waiting.popleft()
            return
        if waiting:
            looks[_started(_first_block, waiting[0].store, cid)] = waiting.popleft()
        done, _ = wait(looks, timeout=_HEAD_START_S if waiting else None, return_when=FIRST_COMPLETED)
        for look in done:
            place = looks.pop(look)
            if error := _failure(look, 0):
                failed.append(_heard_of(place, cid, error))
            else:
                yield place


def _heard_of(place: Place, cid: Cid, error: ChainflError) -> tuple[str, ChainflError]:
    """The place's name and its failure, which is told."""
    level = logging.WARNING if isinstance(error, CidMismatch) else logging.DEBUG
    log.log(level, "%s does not give %s: %s", place.name, cid, error)
    return place.name, error


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

"""Content from IPFS gateways, none of which is trusted: every block is held against its CID before it is used.

A single block is asked for as raw bytes, from the gateway that answers soonest, and from the next one beside it when
that one is late (chainfl/storage/racing.py). A large file comes as one CAR stream from the gateway that had its root,
read exactly as far as `read_dag` asks; when the stream is cut, stalls, lies or is not to be had, or another gateway
gives a late block sooner, the rest comes as raw blocks, several at once. What came is in the cache, so a transfer that
was cut asks only for what is missing, and one process of a machine fetches a file while the others wait for it.
Source: https://specs.ipfs.tech/http-gateways/trustless-gateway/
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import io
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chainfl.errors import (
    BlobNotFound,
    CidMismatch,
    ConfigError,
    MalformedDag,
    NoStoreWrites,
    PayloadTooLarge,
    ServiceUnreachable,
    StorageError,
)
from chainfl.storage.cache import BlockCache
from chainfl.storage.car import read_car
from chainfl.storage.cid import cid_to_bytes, digest_of
from chainfl.storage.daemons import DaemonPool
from chainfl.storage.files import pending_file, remove_orphans, writing
from chainfl.storage.http import Answer, Deadline, HttpClient, Limits, parse_url
from chainfl.storage.moved import Moved, unheard
from chainfl.storage.racing import Attempt, Pace, Race, Server, Slack, Won, in_order, nobody_gave
from chainfl.storage.readahead import ReadAhead
from chainfl.storage.unixfs import MAX_BLOCK_BYTES, block_cids, read_dag
from chainfl.types import Cid

_log = logging.getLogger("chainfl.storage")
_WORKERS: Final = 8
_WINDOW: Final = 8
_STREAM_FROM: Final = 4
"""Children of the root from which on a stream is worth its request."""

_ATTEMPTS: Final = 32
_PIECE_BYTES: Final = 1 << 17
"""What of a block has to come for its answer to be one that moves."""
_NO_BOUND: Final = 1 << 62  # where the reader stops by itself
_MISSING: Final = {404, 410, 504}
_TOO_MANY: Final = 429
_OVERLOADED: Final = 503
_HUSH_S: Final = 30.0
_CAR_TYPE: Final = "application/vnd.ipld.car"
_WEB_PAGE: Final = "text/html"
_CAR_REFUSALS: Final = {400, 406, 415, 501}
_RAW: Final = {"Accept": "application/vnd.ipld.raw"}
_CAR: Final = {"Accept": f"{_CAR_TYPE}; version=1; order=dfs; dups=y"}
_CAR_QUERY: Final = "format=car&dag-scope=all&car-version=1&car-order=dfs&car-dups=y"


@dataclass(frozen=True)
class Patience:
    """How long gateways are waited for. block: for one raw block; stream: for each block of a CAR stream."""

    block: Limits = field(default_factory=lambda: Limits(connect_s=5, idle_s=30, total_s=120))
    stream: Limits = field(default_factory=lambda: Limits(connect_s=5, idle_s=10, total_s=60))
    pace: Pace = field(default_factory=Pace)


class GatewayStore:
    """A BlobStore that only reads, from `gateways` (such as https://example.org) by way of `cache`.

    A Kubo daemon's gateway on this machine is http://127.0.0.1:8080: under the name localhost it redirects to
    <CID>.ipfs.localhost, which nobody configured and which is therefore not followed to a private address.
    `has` asks the cache alone, which has nothing larger than itself. What is shown of an address is its origin.
    Raises ConfigError for an address that is none.
    """

    def __init__(self, gateways: Sequence[str], *, cache: BlockCache, patience: Patience = Patience()) -> None:
        if not gateways:
            raise ConfigError("the gateway store needs at least one gateway")
        self._cache = cache
        self._gateways = _Gateways(gateways, patience)

    def put_bytes(self, data: bytes) -> Cid:
        raise NoStoreWrites("gateways only read, nothing can be added to them")

    def put_file(self, path: Path, *, moved: Moved = unheard) -> Cid:
        raise NoStoreWrites("gateways only read, nothing can be added to them")

    def get_bytes(self, cid: Cid, *, max_bytes: int) -> bytes:
        out = io.BytesIO()
        with contextlib.closing(self._leaves(cid, max_bytes)) as leaves:
            out.writelines(leaves)
        return out.getvalue()

    def get_file(self, cid: Cid, target: Path, *, max_bytes: int, moved: Moved = unheard) -> None:
        cid_to_bytes(cid)
        folder, prefix = target.parent, f".{target.name}."
        with writing(folder):
            remove_orphans(folder, prefix)
            with (
                pending_file(folder, prefix) as pending,
                contextlib.closing(self._leaves(cid, max_bytes, moved)) as leaves,
            ):
                for leaf in leaves:
                    pending.write(leaf)
                pending.publish(target)

    def prefetch(self, cid: Cid, *, max_bytes: int) -> None:
        with contextlib.closing(self._leaves(cid, max_bytes)) as leaves:
            for _ in leaves:  # each is in the cache then
                pass

    def has(self, cid: Cid) -> bool:
        return self._holds(cid, self._cache.max_bytes)

    def drop(self, cid: Cid) -> None:
        cid_to_bytes(cid)

    def describe(self) -> str:
        now = time.monotonic()
        return (
            f"gateways {', '.join(server.describe(now) for server in self._gateways.servers)}; {self._cache.describe()}"
        )

    def _leaves(self, cid: Cid, max_bytes: int, moved: Moved = unheard) -> Generator[bytes, None, None]:
        # One transfer of a file at a time, on this machine; what is here needs none.
        here = self._holds(cid, max_bytes)
        turn = contextlib.nullcontext() if here else self._cache.alone(cid, "dag")
        with turn as goes_on, contextlib.closing(_Transfer(self._gateways, self._cache, cid)) as transfer:
            for leaf in read_dag(cid, transfer.fetch, max_bytes=max_bytes, expect=transfer.expect, moved=moved):
                if goes_on:
                    goes_on()
                yield leaf

    def _holds(self, cid: Cid, max_bytes: int) -> bool:
        """Whether all blocks of the content are in the cache and it states no more than `max_bytes`."""
        try:
            return all(self._cache.holds(block) for block in block_cids(cid, self._cached_only, max_bytes=max_bytes))
        except (BlobNotFound, MalformedDag, PayloadTooLarge):
            cid_to_bytes(cid)
            return False

    def _cached_only(self, cid: Cid) -> bytes:
        block = self._cache.get(cid)
        if block is None:
            raise BlobNotFound(f"{cid} is not in {self._cache.root}", cid=cid)
        return block


class _Gateways:
    """What gateways can be asked for: one block, raced, or a stream of one file's blocks."""

    def __init__(self, urls: Sequence[str], patience: Patience) -> None:
        self.servers = list(_servers(dict.fromkeys(map(_base, urls))))
        self.patience = patience
        self._client = HttpClient(urls, limits=patience.block)
        self._pool = DaemonPool(_ATTEMPTS, "gateway")

    def race(self, cid: Cid, *, without: Server | None = None) -> Race:
        """A race for one block among all that may be asked now, but one. Raises InvalidCid."""
        digest_of(cid)
        order = [server for server in in_order(self.servers, time.monotonic()) if server is not without]
        return Race(order, lambda attempt: self._block(attempt, cid), pool=self._pool, pace=self.patience.pace)

    def stream(self, server: Server, root: Cid) -> _Stream:
        """The blocks below `root` as `server` streams them."""
        deadline = Deadline(self.patience.stream)
        return _Stream(self._blocks_below(root, server, deadline), deadline)

    def _blocks_below(self, root: Cid, server: Server, deadline: Deadline) -> Generator[tuple[Cid, bytes], None, None]:
        url = f"{server.url}/ipfs/{root}?{_CAR_QUERY}"
        with self._client.request("GET", url, headers=_CAR, max_bytes=_NO_BOUND, deadline=deadline) as answer:
            kind = _media_type(answer)
            if answer.status in _CAR_REFUSALS or (answer.status == 200 and kind != _CAR_TYPE):
                raise StorageError(f"{server.name} has no CAR streams: {answer.status} {kind[:80]!r}")
            _check_status(answer, server.name, root)
            blocks = _each_in_time(read_car(answer.read, root), answer, self.patience.stream.total_s)
            _expect(root, next(blocks, None))
            yield from blocks

    def _block(self, attempt: Attempt, cid: Cid) -> bytes:
        deadline = Deadline(self.patience.block)
        attempt.on_cancel(deadline.cancel)
        name = attempt.server.name
        url = f"{attempt.server.url}/ipfs/{cid}?format=raw"
        with self._client.request("GET", url, headers=_RAW, max_bytes=_NO_BOUND, deadline=deadline) as answer:
            _check_status(answer, name, cid)
            attempt.began()
            block = _received(answer, attempt)
        if hashlib.sha256(block).digest() == digest_of(cid):
            return block
        told = f"{name} gave other bytes for {cid}"
        if not answer.framed and len(block) <= MAX_BLOCK_BYTES:
            raise ServiceUnreachable(f"{told}, or was cut", service=name, doubt="cut")
        if _media_type(answer) == _WEB_PAGE:
            told = f"{name} gave a web page for {cid}: it wants a login, or is no gateway"
            raise ServiceUnreachable(told, service=name, doubt="page")
        raise CidMismatch(told, cid=cid, gateway=name)


class _Stream:
    """One gateway's stream, read in a thread of its own, so that whoever waits for a block can look elsewhere."""

    def __init__(self, blocks: Generator[tuple[Cid, bytes], None, None], deadline: Deadline) -> None:
        self._blocks = blocks
        self._deadline = deadline
        self._thread = DaemonPool(1, "stream")

    def next(self, cid: Cid) -> Future[bytes]:
        """The block that comes next, verified. It fails with a StorageError if that is another one, or none."""
        return self._thread.submit(lambda: _expect(cid, next(self._blocks, None)))

    def close(self) -> None:
        """Ends the request, also in the middle of a block."""
        self._deadline.cancel()
        self._thread.submit(self._blocks.close)
        self._thread.shutdown()


class _Transfer:
    """The blocks of one file for `read_dag`, from the cache, one stream, or several requests at once; in one thread."""

    def __init__(self, gateways: _Gateways, cache: BlockCache, root: Cid) -> None:
        self._gateways = gateways
        self._cache = cache
        self._root = root
        self._through = cache.through(self._raced)
        self._expected: deque[Cid] = deque()
        self._holder: Server | None = None
        self._stream: _Stream | None = None
        self._slack = Slack(gateways.patience.pace.behind)
        self._beside = DaemonPool(1, "rival")
        self._ahead: ReadAhead | None = None
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._races: set[Race] = set()
        self._closed = False

    def fetch(self, cid: Cid) -> bytes:
        """The block, verified."""
        if self._expected and self._expected[0] == cid:
            self._expected.popleft()
        if self._stream:
            try:
                return self._streamed(cid)
            except StorageError as error:
                self._end_stream(error)
        return self._ahead.fetch(cid) if self._ahead else self._through(cid)

    def expect(self, cids: Sequence[Cid]) -> None:
        """These come next. The first time they are the root's children, and it is known who gave the root."""
        self._expected.extendleft(reversed(cids))
        if self._ahead:
            self._ahead.expect(cids)
        elif self._stream is None:
            self._begin(len(cids))

    def close(self) -> None:
        """Ends whatever is still under way."""
        with self._lock:
            self._closed = True
            races = list(self._races)
        for race in races:
            race.stop()
        self._stack.close()

    def _begin(self, children: int) -> None:
        # A root from the cache is what an earlier transfer left: a stream would send again what else it left.
        if self._holder is None or children < _STREAM_FROM or not self._holder.streams:
            self._read_ahead()
            return
        self._stream = self._gateways.stream(self._holder, self._root)
        self._stack.callback(self._stream.close)

    def _streamed(self, cid: Cid) -> bytes:
        """The stream's next block, or another gateway's if that is sooner; kept. Raises StorageError if the stream has
        another one or none."""
        assert self._stream is not None
        started, coming = time.monotonic(), self._stream.next(cid)
        wait([coming], self._slack.wait_s())
        block = coming.result() if coming.done() else self._contested(cid, coming, started)
        self._slack.spent(time.monotonic() - started, len(block))
        if not self._cache.holds(cid):
            self._cache.keep(cid, block)
        return block

    def _contested(self, cid: Cid, coming: Future[bytes], started: float) -> bytes:
        """A block that is late in the stream: from there, or from another gateway, which then gives the rest, too."""
        assert self._holder is not None
        race = self._gateways.race(cid, without=self._holder)
        rival = self._beside.submit(self._run, race)
        both: list[Future[Any]] = [coming, rival]
        wait(both, return_when=FIRST_COMPLETED)
        if not coming.done() and (won := rival.result()) is not None:
            now = time.monotonic()
            _log.info("%s streams %s too slowly: raw blocks from %s", self._holder.name, self._root, won.server.name)
            self._holder.late(now, now - started)
            self._leave_stream()
            return won.block
        race.stop()
        self._slack.outlasted()
        return coming.result()

    def _end_stream(self, error: StorageError) -> None:
        """Goes on with raw blocks, from other gateways where this one is to blame."""
        assert self._holder is not None
        _log.info("%s: raw blocks instead of a stream of %s: %s", self._holder.name, self._root, error)
        now = time.monotonic()
        self._holder.blamed(error, now, asked_at=now)
        # Neither cut nor late nor missing: what it streams is not what is needed here.
        if not isinstance(error, ServiceUnreachable | BlobNotFound):
            self._holder.streams = False
        self._leave_stream()

    def _leave_stream(self) -> None:
        self._stack.close()
        self._stream = None
        self._read_ahead()

    def _read_ahead(self) -> None:
        self._ahead = self._stack.enter_context(ReadAhead(self._through, workers=_WORKERS, window=_WINDOW))
        self._ahead.expect(list(self._expected))

    def _raced(self, cid: Cid) -> bytes:
        race = self._gateways.race(cid)
        won = self._run(race)
        if won is None:
            raise nobody_gave(cid, self._gateways.servers, race.said)
        if cid == self._root:
            self._holder = won.server
        return won.block

    def _run(self, race: Race) -> Won | None:
        with self._lock:
            if self._closed:
                raise ServiceUnreachable(f"{self._root} is not needed any more", service="the gateway")
            self._races.add(race)
        try:
            return race.run()
        finally:
            with self._lock:
                self._races.remove(race)


def _base(url: str) -> str:
    """`url` as what `/ipfs/` is appended to. Raises ConfigError."""
    try:
        parsed = parse_url(url)
    except ConfigError as error:
        raise ConfigError(f"a gateway is {error}") from error
    if "?" in parsed.target:
        raise ConfigError(f"the address of the gateway at {parsed.origin} has a query")
    return parsed.text.rstrip("/").removesuffix("/ipfs")


def _servers(bases: Iterable[str]) -> Iterator[Server]:
    """One for each address, named by its origin: the path may hold a key. Those of one origin are numbered."""
    seen: Counter[str] = Counter()
    for base in bases:
        origin = parse_url(base).origin
        seen[origin] += 1
        yield Server(origin if seen[origin] == 1 else f"{origin} ({seen[origin]})", base)


def _expect(cid: Cid, found: tuple[Cid, bytes] | None) -> bytes:
    """The block of `cid`. Raises StorageError if a stream has another one in its place, or none."""
    if found is None or found[0] != cid:
        raise StorageError(f"a CAR stream has {found and found[0]} where {cid} comes next", cid=cid)
    return found[1]


def _received(answer: Answer, attempt: Attempt) -> bytes:
    """The whole answer, and no more of it than tells that it is no block."""
    pieces, left = [], MAX_BLOCK_BYTES + 1
    while left and (piece := answer.read(min(_PIECE_BYTES, left))):
        pieces.append(piece)
        left -= len(piece)
        attempt.moved()
    return b"".join(pieces)


def _media_type(answer: Answer) -> str:
    return answer.header("Content-Type").partition(";")[0].strip().lower()


def _check_status(answer: Answer, name: str, cid: Cid) -> None:
    """Raises what an answer without the bytes means."""
    if answer.status == 200:
        return
    if answer.status in _MISSING:
        raise BlobNotFound(f"{name} does not have {cid} ({answer.status})", cid=cid)
    evidence = {}
    rest_s = retry_after_s(answer.header("Retry-After"), time.time())
    if answer.status == _TOO_MANY or (answer.status == _OVERLOADED and rest_s is not None):
        evidence["rest_s"] = _HUSH_S if rest_s is None else rest_s
    raise ServiceUnreachable(f"{name} answered {answer.status}", service=name, **evidence)


def retry_after_s(header: str, now: float) -> float | None:
    """The seconds that a Retry-After header asks for, given as such or as a date; None if it says neither.

    now: seconds since 1970.
    """
    if header.isascii() and header.isdigit():
        return float(header[:9])
    try:
        return email.utils.parsedate_to_datetime(header).timestamp() - now
    except (ValueError, OverflowError):
        return None


def _each_in_time(blocks: Iterator[tuple[Cid, bytes]], answer: Answer, each_s: float) -> Iterator[tuple[Cid, bytes]]:
    """The blocks, each with a time of its own: a long stream may last, one byte a second may not."""
    while True:
        answer.renew(each_s)
        item = next(blocks, None)
        if item is None:
            return
        yield item

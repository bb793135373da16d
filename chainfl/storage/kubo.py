"""The same store over a running Kubo daemon. Why through `ipfshttpclient`, and how: docs/decisions/002-kubo-client.md.

The daemon keeps and transports blocks; it is trusted with neither CIDs nor content. What is added is hashed here
while it is sent, and the daemon's CID has to be the same. What is read comes block by block, each verified; several
are under way at once, so that they come from several peers.

Published means pinned, and pinned means that the daemon was asked and said so: its answer to an `add` names the CID
before it pins, and what fails after that stands in a trailer that no client here reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import threading
import urllib.parse
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import ipfshttpclient
import ipfshttpclient.http_common
import urllib3.exceptions

from chainfl.errors import (
    BlobNotFound,
    CidMismatch,
    ConfigError,
    ContentDamaged,
    MalformedDag,
    PayloadTooLarge,
    StorageError,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    StoreUnsupported,
)
from chainfl.storage.cid import DAG_PB, cid_to_bytes, codec_of, digest_of
from chainfl.storage.daemons import DaemonPool
from chainfl.storage.files import (
    PIECE_BYTES,
    open_source,
    pending_file,
    pieces,
    reading,
    remove_orphans,
    size_of,
    writing,
)
from chainfl.storage.http import HttpClient, Limits
from chainfl.storage.moved import Moved, unheard
from chainfl.storage.readahead import ReadAhead
from chainfl.storage.unixfs import MAX_BLOCK_BYTES, UNIXFS_V1_2025, CidBuilder, block_cids, read_dag
from chainfl.types import Cid

Version = tuple[int, int, int]
NEEDED_VERSION: Final = (0, 35, 0)
"""The first Kubo whose `add` takes `max-file-links`; an older one ignores it, and large files get other CIDs."""
OLDEST_TESTED: Final = (0, 41, 0)
NEWEST_TESTED: Final = (0, 42, 0)
"""The range that the integration tests ran against; the decision record says with what outcome."""

FETCHES_AT_ONCE: Final = 8
WINDOW_BLOCKS: Final = 16
"""Blocks that are fetched ahead of the reader: 16 MiB at most."""

_CONNECT_TIMEOUT_S: Final = 5
_ANSWER_TIMEOUT_S: Final = 120
_SAY_TIMEOUT_S: Final = 15
"""How long the daemon may take for what it knows by itself: its version, or a block that it has or has not."""
_FETCH_TIMEOUT_S: Final = 30
"""How long the daemon may look for one block among its peers."""
# The second is longer than the daemon's own limit, so that it can say itself that it found nothing.
_SAY_LIMITS: Final = (_CONNECT_TIMEOUT_S, _SAY_TIMEOUT_S)
_FETCH_LIMITS: Final = (_CONNECT_TIMEOUT_S, _FETCH_TIMEOUT_S + _SAY_TIMEOUT_S)
_STALL_TIMEOUT_S: Final = 120
"""How long the daemon may take none of the bytes that are added."""
_HAS_MAX_BYTES: Final = 1 << 34
"""Up to which stated size content that is not pinned is looked for block by block."""
_PIN_TIMEOUT_S: Final = 600
"""How long the daemon may fetch what it is told to pin."""
_DIAL_TIMEOUT_S: Final = 15
_MAX_ANSWER_BYTES: Final = 1 << 16
_SHOWN_BYTES: Final = 200

# Every parameter that decides a CID, since the daemon's own `Import` configuration decides those left out.
_ADD: Final[dict[str, Any]] = {
    "cid_version": 1,
    "raw_leaves": True,
    "chunker": f"size-{UNIXFS_V1_2025.chunk_bytes}",
    "trickle": False,
    "nocopy": False,
    "wrap_with_directory": False,
    "only_hash": False,
    "pin": True,
}
_ADD_OPTIONS: Final = {"hash": "sha2-256", "max-file-links": str(UNIXFS_V1_2025.max_links), "inline": "false"}


class _NotPinned(StorageError):
    pass


class _Offline(StorageError):
    pass


# A daemon's errors are text; these are Go's own words for the system's error numbers, and Kubo's for a missing block.
_SAID: Final[tuple[tuple[str, type[StorageError]], ...]] = (
    ("no space left on device", StoreFull),
    ("disk quota exceeded", StoreFull),
    ("file too large", StoreFull),
    ("read-only file system", StoreReadOnly),
    ("permission denied", StoreReadOnly),
    ("different hash than requested", CidMismatch),  # it checks what it reads where `Datastore.HashOnRead` says so
    ("not pinned", _NotPinned),
    ("run in online mode", _Offline),
    ("could not find", BlobNotFound),
    ("not found", BlobNotFound),
    ("deadline exceeded", BlobNotFound),
)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node that the daemon is connected to. round_trip_s: None before the daemon has measured it."""

    address: str
    round_trip_s: float | None


class KuboStore:
    """A BlobStore and FarStore in the Kubo daemon at `api`, a multiaddr (/ip4/127.0.0.1/tcp/5001) or an http:// URL.

    Everything added is pinned when the put returns. Raises ConfigError for a malformed address, StoreUnreachable if
    nobody answers there, StoreUnsupported for a daemon before NEEDED_VERSION.
    at_once: whether to ask the daemon now; if not, the last two are raised by what needs it.
    """

    def __init__(self, api: str, *, at_once: bool = True) -> None:
        _silence_known_warnings()
        self._api = api
        self._address = _multiaddr(api)
        # Readers share these turns, and so the connections that the client keeps; more would be opened and thrown away.
        self._turns = threading.BoundedSemaphore(FETCHES_AT_ONCE)
        try:
            # Not connect(): that refuses every daemon newer than 0.8.0.
            self._client = ipfshttpclient.Client(
                self._address,
                chunk_size=PIECE_BYTES,
                session=True,
                timeout=(_CONNECT_TIMEOUT_S, _ANSWER_TIMEOUT_S),
            )
        except ipfshttpclient.exceptions.AddressError as error:
            raise ConfigError(f"`kubo_api` is no address of a daemon: {api!r}") from error
        if at_once:
            _refuse_too_old(self.version())

    def put_bytes(self, data: bytes) -> Cid:
        with _HashedStream(io.BytesIO(data)) as stream:
            return self._add(stream)

    def put_file(self, path: Path, *, moved: Moved = unheard) -> Cid:
        with open_source(path) as source, _HashedStream(source, path, moved) as stream:
            return self._add(stream)

    def get_bytes(self, cid: Cid, *, max_bytes: int) -> bytes:
        out = io.BytesIO()
        for leaf in self._leaves(cid, max_bytes):
            out.write(leaf)
        return out.getvalue()

    def get_file(self, cid: Cid, target: Path, *, max_bytes: int, moved: Moved = unheard) -> None:
        folder, prefix = target.parent, f".{target.name}."
        with writing(folder):
            remove_orphans(folder, prefix)
            with pending_file(folder, prefix) as pending:
                for leaf in self._leaves(cid, max_bytes, moved):
                    pending.write(leaf)
                pending.publish(target)

    def prefetch(self, cid: Cid, *, max_bytes: int) -> None:
        if not self._holds(cid, max_bytes):
            for _ in self._leaves(cid, max_bytes):
                pass  # the daemon keeps what it fetched, until its garbage collection

    def has(self, cid: Cid) -> bool:
        return self.is_pinned(cid) or self._holds(cid, _HAS_MAX_BYTES)

    def drop(self, cid: Cid) -> None:
        cid_to_bytes(cid)
        with contextlib.suppress(_NotPinned), self._translated(cid):
            self._client.pin.rm(cid)

    def describe(self) -> str:
        return f"Kubo {self.version()} at {self._api}"

    def mend(self, path: Path) -> Cid:
        """A put of a file that the daemon may have with damaged blocks, which an add would leave as they are.

        Until it returns the content is not pinned. Raises ContentDamaged where a damaged block is part of something
        else that is pinned.
        """
        # Nothing is removed before all of it could be read.
        blocks: list[Cid] = []
        with open_source(path) as source:
            builder = CidBuilder(lambda cid, _: blocks.append(cid))
            for piece in pieces(source, path):
                builder.update(piece)
        self.drop(cid := builder.finish())
        for block in blocks:
            if not self._is_whole(block):
                self._remove(block, cid)
        return self.put_file(path)

    def verify(self, cid: Cid) -> None:
        """Reads all of the content that the daemon has itself, and keeps nothing. Raises what reading it raises."""
        with self._blaming_the_disk(cid):
            for _ in read_dag(cid, self._fetch_offline, max_bytes=_HAS_MAX_BYTES):
                pass

    # --- what only a daemon has --------------------------------------------------------------------

    def pin(self, cid: Cid, *, timeout_s: int = _PIN_TIMEOUT_S) -> None:
        """Keeps the content, which the daemon fetches from its peers if it has to. Raises BlobNotFound in time."""
        cid_to_bytes(cid)
        limits = (_CONNECT_TIMEOUT_S, timeout_s + _ANSWER_TIMEOUT_S)
        with self._translated(cid):
            self._client.pin.add(cid, opts={"timeout": f"{timeout_s}s"}, timeout=limits)

    def is_pinned(self, cid: Cid) -> bool:
        """Whether the daemon keeps all of the content."""
        cid_to_bytes(cid)
        try:
            with self._translated(cid):
                return str(cid) in self._client.pin.ls(cid, type="recursive")["Keys"]
        except _NotPinned:
            return False

    def count_pins(self) -> int:
        """How many contents the daemon keeps."""
        return len(self.pins())

    def pins(self) -> tuple[str, ...]:
        """What the daemon keeps: CIDs of whatever kind."""
        with self._translated():
            return tuple(self._client.pin.ls(type="recursive")["Keys"])

    def version(self) -> str:
        """The daemon's, as it says it."""
        with self._translated():
            return str(self._client.version(timeout=_SAY_LIMITS)["Version"])

    def addresses(self) -> tuple[str, ...]:
        """Multiaddresses, with its peer id, under which other nodes reach this one; none while it is offline."""
        with self._translated():
            return tuple(map(str, self._client.id()["Addresses"] or ()))

    def peers(self) -> tuple[Peer, ...]:
        """The nodes that the daemon is connected to; none while it is offline."""
        try:
            with self._translated():
                found = self._client.swarm.peers(opts={"latency": "true"})["Peers"] or ()
                return tuple(Peer(f"{one['Addr']}/p2p/{one['Peer']}", _seconds(one["Latency"])) for one in found)
        except _Offline:
            return ()

    def connect(self, address: str) -> None:
        """Connects the daemon to another node. address: a multiaddress with a peer id. Raises StoreUnreachable."""
        # Not the client's `swarm.connect`: it sends every character of the address as one more address.
        status, body = self._ask("swarm/connect", address)
        if status != 200:
            raise StoreUnreachable(f"the daemon at {self._api} cannot connect to {address}: {_said(body)}")

    # --- internals ---------------------------------------------------------------------------------

    def _ask(self, command: str, argument: str) -> tuple[int, bytes]:
        """Status and body of a command that the client has not, or not right."""
        base, _, _, _ = ipfshttpclient.http_common.multiaddr_to_url_data(self._address, "api/v0")
        url = f"{base}{command}?{urllib.parse.urlencode({'arg': argument})}"
        limits = Limits(_CONNECT_TIMEOUT_S, _DIAL_TIMEOUT_S, _DIAL_TIMEOUT_S)
        with HttpClient([base]).post(url, max_bytes=_MAX_ANSWER_BYTES, limits=limits) as answer:
            return answer.status, answer.body()

    def _is_whole(self, block: Cid) -> bool:
        """Whether the daemon gives the block as it must be, or has none."""
        try:
            return hashlib.sha256(self._fetch_offline(block)).digest() == digest_of(block)
        except BlobNotFound:
            return True
        except (CidMismatch, MalformedDag):
            return False

    def _remove(self, block: Cid, root: Cid) -> None:
        status, body = self._ask("block/rm", block)
        # It answers 200 for a block that it keeps, too, with the reason beside its name.
        if status != 200 or (refused := _refused(body)):
            why = refused if status == 200 else _said(body)
            told = f"the damaged block {block} cannot be removed from the Kubo daemon at {self._api}: {why}"
            raise ContentDamaged(told, cid=root, block=block, repair=self._repair(root, block))

    @contextlib.contextmanager
    def _blaming_the_disk(self, root: Cid) -> Iterator[None]:
        """What does not match its CID is on the daemon's own disk: a block of a peer it checks before it keeps it."""
        try:
            yield
        except CidMismatch as error:
            block = error.evidence.get("cid") or root
            told = (
                f"the block {block} of {root} is damaged in the repository of the Kubo daemon at {self._api}: {error}"
            )
            raise ContentDamaged(told, cid=root, block=block, repair=self._repair(root, block)) from error

    def _repair(self, root: Cid, block: Cid) -> str:
        ipfs = f"ipfs --api {self._address}"
        return (
            f"Remove the block with `{ipfs} pin rm {root}` and `{ipfs} block rm {block}`; then put the file there anew "
            f"with `chainfl store add FILE`, or let the daemon fetch it from others with `chainfl store pin {root}`."
        )

    def _add(self, stream: _HashedStream) -> Cid:
        _refuse_too_old(self.version())
        # While a body is sent the client's time to connect is its time for each piece, so it must be long here; that
        # somebody answers at all was seen a moment ago.
        limits = (_STALL_TIMEOUT_S, _ANSWER_TIMEOUT_S)
        with self._translated():
            # `pin` in the same request: the daemon holds off its garbage collection from the first block on.
            found = self._client.add(stream, **_ADD, opts=dict(_ADD_OPTIONS), timeout=limits)["Hash"]
        cid = stream.cid()
        if found != cid:
            raise CidMismatch(f"the daemon stored {found} for content whose CID is {cid}", cid=cid, found=found)
        if not self.is_pinned(cid):
            self.pin(cid)  # says why it could not
        return cid

    def _leaves(self, cid: Cid, max_bytes: int, moved: Moved = unheard) -> Iterator[bytes]:
        with (
            self._blaming_the_disk(cid),
            ReadAhead(self._fetch, workers=FETCHES_AT_ONCE, window=WINDOW_BLOCKS) as ahead,
        ):
            yield from read_dag(cid, ahead.fetch, max_bytes=max_bytes, expect=ahead.expect, moved=moved)

    def _holds(self, cid: Cid, max_bytes: int) -> bool:
        """Whether the daemon has all blocks of the content itself and it states no more than `max_bytes`.

        Not `files/stat --with-local`: that follows every link, and four small blocks can have more than anybody counts.
        """
        try:
            for block in block_cids(cid, self._fetch_offline, max_bytes=max_bytes):
                if codec_of(block) != DAG_PB:  # a node is fetched
                    self._look_for(block)
        except (BlobNotFound, MalformedDag, PayloadTooLarge):
            cid_to_bytes(cid)
            return False
        return True

    def _look_for(self, cid: Cid) -> None:
        with self._turns, self._translated(cid):
            self._client.block.stat(cid, offline=True, timeout=_SAY_LIMITS)

    def _fetch_offline(self, cid: Cid) -> bytes:
        return self._fetch(cid, offline=True)

    def _fetch(self, cid: Cid, *, offline: bool = False) -> bytes:
        block = bytearray()
        options = {"timeout": f"{_FETCH_TIMEOUT_S}s"}
        limits = _SAY_LIMITS if offline else _FETCH_LIMITS
        get = partial(self._client.block.get, cid, stream=True, opts=options, offline=offline, timeout=limits)
        with self._turns, self._translated(cid), get() as parts:
            for part in parts:
                block += part
                if len(block) > MAX_BLOCK_BYTES:
                    raise MalformedDag(f"a block of more than {MAX_BLOCK_BYTES} bytes: {cid}", cid=cid)
        return bytes(block)

    @contextlib.contextmanager
    def _translated(self, cid: Cid | None = None) -> Iterator[None]:
        """The client's errors in chainfl's words; also those of the layers below it, which it lets through."""
        try:
            yield
        except ipfshttpclient.exceptions.ErrorResponse as error:
            raise self._refusal(str(error), cid) from error
        except (ipfshttpclient.exceptions.Error, urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreUnreachable(f"no Kubo daemon answers at {self._api}: {error}", kubo_api=self._api) from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            told = f"something else than a Kubo daemon answers at {self._api}: {type(error).__name__} {error}"
            raise StoreUnreachable(told, kubo_api=self._api) from error

    def _refusal(self, said: str, cid: Cid | None) -> StorageError:
        kind = next((kind for words, kind in _SAID if words in said), StorageError)
        return kind(f"the Kubo daemon at {self._api} said: {said}", cid=cid, path=f"the daemon at {self._api}")


class _HashedStream:
    """A file for the client to read, whose CID is known once it was. It has no name, so that no path is sent along.

    Each piece is hashed while it is sent, in a thread beside: together they would take as long as both.
    """

    def __init__(self, source: io.BytesIO | FileIO, path: Path | None = None, moved: Moved = unheard) -> None:
        self._source = source
        self._moved = moved
        self._sent = 0
        self._path = path or Path("memory")
        self._builder = CidBuilder()
        self._beside = DaemonPool(1, "hash")
        self._hashed: Future[None] | None = None

    def __enter__(self) -> _HashedStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._beside.shutdown()

    def read(self, size: int) -> bytes:
        with reading(self._path):
            data = self._source.read(size) or b""
        self._await()
        self._moved(self._sent, size_of(self._source) if isinstance(self._source, FileIO) else 0)
        self._sent += len(data)
        self._hashed = self._beside.submit(self._builder.update, data)
        return data

    def cid(self) -> Cid:
        """Of all that was read. Ends the stream."""
        self._await()
        return self._builder.finish()

    def _await(self) -> None:
        if self._hashed:
            self._hashed.result()


def untested(version: str) -> str:
    """What to tell about a daemon outside of the tested range; empty inside of it."""
    if OLDEST_TESTED <= _numbers(version) <= NEWEST_TESTED:
        return ""
    oldest, newest = (".".join(map(str, each)) for each in (OLDEST_TESTED, NEWEST_TESTED))
    return f"tested with Kubo {oldest} to {newest}; {version} will most likely work too"


def _refuse_too_old(version: str) -> None:
    if (0, 0, 0) < _numbers(version) < NEEDED_VERSION:
        needed = ".".join(map(str, NEEDED_VERSION))
        raise StoreUnsupported(f"Kubo {version} cannot add files with 1,024 links a node", needed=needed)


def _numbers(version: str) -> Version:
    """The three numbers of a version; zeros for a text that has none."""
    match = re.match(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", version, re.ASCII)
    return (int(match[1]), int(match[2]), int(match[3])) if match else (0, 0, 0)


_UNITS_S: Final = {"ns": 1e-9, "µs": 1e-6, "μs": 1e-6, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"([0-9.]{1,20})(ns|µs|μs|us|ms|s|m|h)")


def _seconds(duration: str) -> float | None:
    """A duration as Go writes it (1m2.5s, 350.1µs); None for anything else, such as n/a."""
    parts = _DURATION.findall(duration)
    if not parts or "".join(map("".join, parts)) != duration:
        return None
    with contextlib.suppress(ValueError):
        return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    return None


def _said(body: bytes) -> str:
    """The message in the daemon's answer; the answer itself where it is not the JSON that it should be."""
    try:
        return str(json.loads(body)["Message"])
    except (ValueError, KeyError, TypeError):
        return body[:_SHOWN_BYTES].decode("utf-8", "replace")


def _refused(body: bytes) -> str:
    """Why blocks were not removed: of lines of JSON, each about one block, what the first failure says."""
    with contextlib.suppress(ValueError, AttributeError):
        told = (json.loads(line).get("Error") for line in body.splitlines())
        return next((str(why) for why in told if why), "")
    return body[:_SHOWN_BYTES].decode("utf-8", "replace")


def _multiaddr(api: str) -> str:
    """`api` as a multiaddr: http://host:port is translated, anything else is left to the client to judge."""
    if not api.startswith(("http://", "https://")):
        return api
    try:
        url = urllib.parse.urlsplit(api)
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    except ValueError as error:
        raise ConfigError(f"`kubo_api` is no address of a daemon: {api!r}") from error
    kind = "ip6" if ":" in host else "ip4" if host.replace(".", "").isdigit() else "dns"
    return f"/{kind}/{host}/tcp/{port}/{url.scheme}"


def _silence_known_warnings() -> None:
    """ipfshttpclient 0.7 hands urllib3 a parameter that urllib3 2 ignores and says so at every request.

    Nobody can act on it: pyproject.toml keeps urllib3 below 3, where it becomes an error.
    """
    warnings.filterwarnings(
        "ignore", message="The 'strict' parameter is no longer needed", category=FutureWarning, module="urllib3"
    )

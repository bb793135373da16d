"""The same store over a running Kubo daemon. Why through `ipfshttpclient`, and how: docs/decisions/002-kubo-client.md.

The daemon keeps and transports blocks; it is trusted with neither CIDs nor content. What is added is hashed here
while it is sent, and the daemon's CID has to be the same. What is read comes block by block, each verified.
"""

from __future__ import annotations

import contextlib
import io
import urllib.parse
import warnings
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, Final

import ipfshttpclient
import urllib3.exceptions

from chainfl.errors import (
    BlobNotFound,
    CidMismatch,
    ConfigError,
    MalformedDag,
    StorageError,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
)
from chainfl.storage.cid import cid_to_bytes
from chainfl.storage.files import PIECE_BYTES, open_source, pending_file, reading, remove_orphans, writing
from chainfl.storage.unixfs import MAX_BLOCK_BYTES, UNIXFS_V1_2025, CidBuilder, read_dag
from chainfl.types import Cid

_CONNECT_TIMEOUT_S: Final = 5
_ANSWER_TIMEOUT_S: Final = 120
_FETCH_TIMEOUT_S: Final = 30
"""How long the daemon may look for one block among its peers."""

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

# A daemon's errors are text; these are Go's own words for the system's error numbers, and Kubo's for a missing block.
_SAID: Final[tuple[tuple[str, type[StorageError]], ...]] = (
    ("no space left on device", StoreFull),
    ("disk quota exceeded", StoreFull),
    ("read-only file system", StoreReadOnly),
    ("permission denied", StoreReadOnly),
    ("could not find", BlobNotFound),
    ("not found", BlobNotFound),
    ("deadline exceeded", BlobNotFound),
)


class KuboStore:
    """A BlobStore in the Kubo daemon at `api`, a multiaddr (/ip4/127.0.0.1/tcp/5001) or an http:// address.

    Everything added is pinned. Raises ConfigError for a malformed address, StoreUnreachable if nobody answers there.
    """

    def __init__(self, api: str) -> None:
        _silence_known_warnings()
        self._api = api
        try:
            # Not connect(): that refuses every daemon newer than 0.8.0.
            self._client = ipfshttpclient.Client(
                _multiaddr(api),
                chunk_size=PIECE_BYTES,
                session=True,
                timeout=(_CONNECT_TIMEOUT_S, _ANSWER_TIMEOUT_S),
            )
        except ipfshttpclient.exceptions.AddressError as error:
            raise ConfigError(f"`kubo_api` is no address of a daemon: {api!r}") from error
        self._version()

    def put_bytes(self, data: bytes) -> Cid:
        return self._add(_HashedStream(io.BytesIO(data)))

    def put_file(self, path: Path) -> Cid:
        with open_source(path) as source:
            return self._add(_HashedStream(source, path))

    def get_bytes(self, cid: Cid, *, max_bytes: int) -> bytes:
        out = io.BytesIO()
        for leaf in read_dag(cid, self._fetch, max_bytes=max_bytes):
            out.write(leaf)
        return out.getvalue()

    def get_file(self, cid: Cid, target: Path, *, max_bytes: int) -> None:
        folder, prefix = target.parent, f".{target.name}."
        with writing(folder):
            remove_orphans(folder, prefix)
            with pending_file(folder, prefix) as pending:
                for leaf in read_dag(cid, self._fetch, max_bytes=max_bytes):
                    pending.write(leaf)
                pending.publish(target)

    def has(self, cid: Cid) -> bool:
        cid_to_bytes(cid)
        try:
            with self._translated(cid):
                stat = self._client.files.stat(f"/ipfs/{cid}", opts={"with-local": "true"}, offline=True)
        except BlobNotFound:
            return False
        return bool(stat.get("Local"))  # left out when a block below is missing

    def describe(self) -> str:
        return f"Kubo {self._version()} at {self._api}"

    def _version(self) -> str:
        with self._translated():
            return str(self._client.version()["Version"])

    def _add(self, stream: _HashedStream) -> Cid:
        with self._translated():
            found = self._client.add(stream, **_ADD, opts=dict(_ADD_OPTIONS))["Hash"]
        cid = stream.builder.finish()
        if found != cid:
            raise CidMismatch(f"the daemon stored {found} for content whose CID is {cid}", cid=cid, found=found)
        return cid

    def _fetch(self, cid: Cid) -> bytes:
        block = bytearray()
        options = {"timeout": f"{_FETCH_TIMEOUT_S}s"}
        with self._translated(cid), self._client.block.get(cid, stream=True, opts=options) as parts:
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

    def _refusal(self, said: str, cid: Cid | None) -> StorageError:
        kind = next((kind for words, kind in _SAID if words in said), StorageError)
        return kind(f"the Kubo daemon at {self._api} said: {said}", cid=cid, path=f"the daemon at {self._api}")


class _HashedStream:
    """A file for the client to read, whose CID is known once it was. It has no name, so that no path is sent along."""

    def __init__(self, source: io.BytesIO | FileIO, path: Path | None = None) -> None:
        self.builder = CidBuilder()
        self._source = source
        self._path = path or Path("memory")

    def read(self, size: int) -> bytes:
        with reading(self._path):
            data = self._source.read(size) or b""
        self.builder.update(data)
        return data


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

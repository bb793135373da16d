"""The one HTTP client: bounded in bytes and in time, and careful about where a redirect leads.

Whoever answers may be hostile. A body is read only as far as was agreed, and every wait, down to a status line that
comes byte by byte, ends at the request's deadline. Redirects are followed by hand, and only by GET: at most three, to
http or https, never from https to http. The origins that the operator configured may live anywhere, a loopback or a
private network included. Every other one must be at a global address, and that is read from the connected socket
before anything is sent, so a name that resolves to another address at the second look-up gains nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import ipaddress
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, IncompleteRead, NewConnectionError, ProtocolError, ReadTimeoutError

from chainfl import __version__
from chainfl.errors import ConfigError, ServiceUnreachable, StorageError

MAX_REDIRECTS: Final = 3
PIECE_BYTES: Final = 1 << 18
_KEPT_CONNECTIONS: Final = 32
_REDIRECTS: Final = {301, 302, 303, 307, 308}
_PORTS: Final = {"http": 80, "https": 443}
_LATE: Final = "its time is over"
_URL: Final = re.compile(r"https?://[\x21-\x7e]+", re.ASCII | re.IGNORECASE)
_GLOBAL_UNICAST_6: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")

Body = bytes | Iterable[bytes] | None
"""What a request carries; pieces are sent as they come, so that a file need not fit into memory."""


@dataclass(frozen=True)
class Limits:
    """How long to wait. connect_s: for a connection; idle_s: for the next bytes to move; total_s: for everything.

    Only looking up a name is left to the system's own limits.
    """

    connect_s: float = 5
    idle_s: float = 30
    total_s: float = 120


# --- addresses -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Url:
    """An http(s) URL that can be asked. origin: scheme, host and port, the part that may be shown and logged."""

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)  # path and query, which may hold a secret

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    @property
    def text(self) -> str:
        return self.origin + self.target


def parse_url(text: str) -> Url:
    """`text` as a URL. Raises ConfigError, without showing it: it may hold a token."""
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError("not an http:// or https:// address: a host or a port that cannot be") from error
    if not _URL.fullmatch(text) or not host:
        raise ConfigError("not an http:// or https:// address in printable ASCII")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"the address of {host} holds a user name or a password")
    scheme = parts.scheme.lower()
    query = f"?{parts.query}" if parts.query else ""
    return Url(scheme, host, port or _PORTS[scheme], (parts.path or "/") + query)


def next_hop(url: Url, location: str) -> Url:
    """Where a redirect from `url` leads. Raises ServiceUnreachable if it must not be followed."""
    try:
        hop = parse_url(urllib.parse.urljoin(url.text, location))
    except (ConfigError, ValueError) as error:
        raise ServiceUnreachable(f"{url.origin} redirects to no http(s) address", service=url.origin) from error
    if (url.scheme, hop.scheme) == ("https", "http"):
        raise ServiceUnreachable(
            f"{url.origin} redirects from https to http ({hop.origin}); not followed", service=url.origin
        )
    return hop


def is_global_address(address: str) -> bool:
    """Whether `address`, an IPv4 or IPv6 address in text, is one that the whole internet reaches.

    An IPv4 address inside of an IPv6 one (mapped, NAT64, 6to4, Teredo) is judged as what it leads to.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = _inner_ipv4(ip)
        if inner is None:
            return ip.is_global and ip in _GLOBAL_UNICAST_6
        ip = inner
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _inner_ipv4(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if ip in _NAT64:
        return ipaddress.IPv4Address(ip.packed[12:])
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)


# --- connections that keep a deadline -------------------------------------------------------------


class Deadline:
    """When a request must have ended: every wait on its socket asks how long it may still be. Starts when it is made.

    One is given to a request by whoever may want to end it early, from any thread.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._cancelled = False
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self.renew(limits.total_s)

    def renew(self, total_s: float) -> None:
        """Sets the end anew, `total_s` from now."""
        self._at = time.monotonic() + total_s

    def cancel(self) -> None:
        """Ends the request at once: whoever waits for it gets ServiceUnreachable."""
        with self._lock:
            self._cancelled = True
            if self._sock is not None:
                self._shut(self._sock)

    def wait_s(self, most_s: float) -> float:
        """How long the next wait may be. Raises TimeoutError when the time is over."""
        left = 0.0 if self._cancelled else self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request's time is over")
        return min(most_s, left)

    def watch(self, sock: socket.socket | None) -> None:
        """Says which socket the request is on now; None when it has left it to the next one."""
        with self._lock:
            self._sock = sock
            if self._cancelled and sock is not None:
                self._shut(sock)

    @staticmethod
    def _shut(sock: socket.socket) -> None:
        # Not TLS's own shutdown: that would make the reader take what still arrives for plain text.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


# urllib3 hands none of a request's own values down to its connection; a request stays in the thread that made it.
_current: ContextVar[Deadline] = ContextVar("_current")


class _TimedReader(io.RawIOBase):
    """What arrives on a socket, each wait bounded by the deadline of the request that it answers."""

    def __init__(self, raw: Any, sock: socket.socket) -> None:
        self._raw, self._sock, self._deadline = raw, sock, _current.get()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._deadline.wait_s(self._deadline.limits.idle_s))
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._deadline.watch(None)  # at the end of its body a connection is the next request's
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        # The standard library reads whole lines and whole amounts, and would wait anew for each byte of them.
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock), PIECE_BYTES)


class _Refused(NewConnectionError):
    """The connection led to an address that a redirect must not lead to."""


class _Timed(HTTPConnection):
    """A connection whose every step ends at the deadline of the request that it serves."""

    response_class = _TimedResponse
    guarded = False

    def _new_conn(self) -> socket.socket:
        deadline = _current.get()
        fault: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(self._dns_host, self.port, 0, socket.SOCK_STREAM):
            sock = socket.socket(family, kind, protocol)
            try:
                for level, name, value in self.socket_options or ():
                    sock.setsockopt(level, name, value)
                sock.settimeout(deadline.wait_s(deadline.limits.connect_s))
                deadline.watch(sock)
                sock.connect(address)
                self._judge(sock)
                return sock
            except OSError as error:
                sock.close()
                fault = error
            except BaseException:
                sock.close()
                raise
        raise fault or OSError("the name has no address")

    def _judge(self, sock: socket.socket) -> None:
        if self.guarded and not is_global_address(sock.getpeername()[0]):
            raise _Refused(self, "not a global address")

    def send(self, data: Any) -> None:
        deadline = _current.get()
        if self.sock is None:
            self.connect()
        deadline.watch(self.sock)
        self.sock.settimeout(deadline.wait_s(deadline.limits.idle_s))
        super().send(data)


class _TimedTls(_Timed, HTTPSConnection):
    pass


class _Guarded(_Timed):
    guarded = True


class _GuardedTls(_TimedTls):
    guarded = True


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Timed


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TimedTls


class _GuardedPool(HTTPConnectionPool):
    ConnectionCls = _Guarded


class _GuardedTlsPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedTls


def _manager(plain: type[HTTPConnectionPool], tls: type[HTTPSConnectionPool]) -> urllib3.PoolManager:
    manager = urllib3.PoolManager(maxsize=_KEPT_CONNECTIONS, retries=False)
    manager.pool_classes_by_scheme = {"http": plain, "https": tls}
    return manager


# --- requests ------------------------------------------------------------------------------------


class Answer:
    """The answer to one request: its status and headers, and a body that is read as the caller goes.

    origin: who answered in the end, after redirects.
    """

    def __init__(self, url: Url, response: urllib3.BaseHTTPResponse, deadline: Deadline, max_bytes: int) -> None:
        self.status = response.status
        self.origin = url.origin
        self._response = response
        self._deadline = deadline
        self._left = max_bytes
        self._max_bytes = max_bytes

    def header(self, name: str) -> str:
        """The header's value; empty if there is none."""
        return self._response.headers.get(name, "")

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end. Raises ServiceUnreachable for a cut, a stall or a time-out,
        StorageError when the body goes on beyond its bound."""
        # One byte more than is left, to tell a body that ends there from one that goes on.
        data = self._received(min(size, self._left + 1))
        if len(data) > self._left:
            raise StorageError(f"{self.origin} sent more than {self._max_bytes} bytes", service=self.origin)
        self._left -= len(data)
        return data

    def pieces(self) -> Iterator[bytes]:
        """The rest of the body, piece by piece."""
        while piece := self.read(PIECE_BYTES):
            yield piece

    def body(self) -> bytes:
        """All of the rest of the body."""
        return b"".join(self.pieces())

    def renew(self, total_s: float) -> None:
        """Sets the deadline anew, `total_s` from now: for a stream whose every part has a time of its own."""
        self._deadline.renew(total_s)

    @property
    def framed(self) -> bool:
        """Whether the body says itself where it ends; if not, one that was cut looks like a whole one."""
        headers = self._response.headers
        return "Content-Length" in headers or "chunked" in headers.get("Transfer-Encoding", "").lower()

    def _received(self, size: int) -> bytes:
        data = b""
        try:
            # The library tells a cut from an end only when it is asked once more.
            while len(data) < size and (part := self._response.read(size - len(data), decode_content=False)):
                data = data + part if data else part
        except (HTTPError, http.client.HTTPException, OSError) as error:
            _unreachable(self.origin, error)
        return data


class HttpClient:
    """Asks over HTTP. `origins`: URLs that the operator configured, whose hosts may be anywhere. Safe among threads.

    Anything else that is asked, by the caller or by following a redirect, must be at a global address.
    """

    def __init__(self, origins: Iterable[str] = (), *, limits: Limits = Limits()) -> None:
        self._origins = {parse_url(url).origin for url in origins}
        self._limits = limits
        self._free = _manager(_Pool, _TlsPool)
        self._guarded = _manager(_GuardedPool, _GuardedTlsPool)

    def get(
        self, url: str, *, max_bytes: int, headers: Mapping[str, str] | None = None, limits: Limits | None = None
    ) -> contextlib.AbstractContextManager[Answer]:
        """The answer to a GET, redirects followed. See `request`."""
        return self.request("GET", url, max_bytes=max_bytes, headers=headers, limits=limits)

    def post(
        self,
        url: str,
        *,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        limits: Limits | None = None,
    ) -> contextlib.AbstractContextManager[Answer]:
        """The answer to a POST; a redirect is an answer like any other. See `request`."""
        return self.request("POST", url, max_bytes=max_bytes, headers=headers, body=body, limits=limits)

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        limits: Limits | None = None,
        deadline: Deadline | None = None,
    ) -> Iterator[Answer]:
        """Asks `url` and gives the answer while the `with` lasts; what was not read of it by then is thrown away.

        max_bytes: of the body. Any status is an answer. headers: as they are, but only to the URL's own origin: a
        redirect to another one gets `Accept` alone, and no credentials. limits: in place of the client's own;
        deadline: in place of both, for a request that somebody may cancel.
        Raises ConfigError for a URL that is none, ServiceUnreachable when nobody answers as HTTP in time.
        """
        deadline = deadline or Deadline(limits or self._limits)
        here, sent = parse_url(url), dict(headers or {})
        for _ in range(1 + MAX_REDIRECTS):
            response = self._ask(method, here, sent, body, deadline)
            with contextlib.closing(response):
                location = response.headers.get("Location", "")
                if method != "GET" or response.status not in _REDIRECTS or not location:
                    _refuse_encoded(here, response)
                    yield Answer(here, response, deadline, max_bytes)
                    return
            hop = next_hop(here, location)
            if hop.origin != here.origin:
                sent = {name: value for name, value in sent.items() if name.lower() == "accept"}
            here = hop
        raise ServiceUnreachable(f"{here.origin} redirects more than {MAX_REDIRECTS} times", service=here.origin)

    def _ask(
        self, method: str, url: Url, headers: Mapping[str, str], body: Body, deadline: Deadline
    ) -> urllib3.BaseHTTPResponse:
        manager = self._free if url.origin in self._origins else self._guarded
        token = _current.set(deadline)
        try:
            return _opened(manager, method, url, headers, body)
        except (HTTPError, http.client.HTTPException, OSError) as error:
            _unreachable(url.origin, error)
        finally:
            _current.reset(token)


def _opened(
    manager: urllib3.PoolManager, method: str, url: Url, headers: Mapping[str, str], body: Body
) -> urllib3.BaseHTTPResponse:
    sent = {"User-Agent": f"chainfl/{__version__}", **headers}
    pieces = body
    if isinstance(body, bytes):
        # In pieces, so that a slow line gets its idle time for each and not for all of it.
        sent["Content-Length"] = str(len(body))
        pieces = _cut(body)

    def ask() -> urllib3.BaseHTTPResponse:
        return manager.urlopen(
            method, url.text, headers=sent, body=pieces, redirect=False, preload_content=False, decode_content=False
        )

    try:
        return ask()
    except ProtocolError:
        # Most often a kept connection that the server had just closed; asking twice for the same thing is harmless.
        if method != "GET":
            raise
        return ask()


def _cut(body: bytes) -> Iterator[bytes]:
    return (body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES))


def _refuse_encoded(url: Url, response: urllib3.BaseHTTPResponse) -> None:
    # Never asked for, and unpacking it could make gigabytes of a few bytes.
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ServiceUnreachable(f"{url.origin} sent a compressed body unasked", service=url.origin)


def _unreachable(origin: str, error: Exception) -> NoReturn:
    """Raises ServiceUnreachable. late, in its evidence: whether it was time that ended it."""
    why = _why(error)
    raise ServiceUnreachable(f"{origin} does not answer: {why}", service=origin, late=why == _LATE) from error


def _why(error: BaseException) -> str:
    """What went wrong in a few words of ours: a library's own text could hold the URL, and so a token."""
    if isinstance(error, _Refused):
        return "it is at an address that is not global, and nobody configured it"
    if isinstance(error, TimeoutError | ReadTimeoutError):
        return _LATE
    if isinstance(error, http.client.IncompleteRead | IncompleteRead):
        return "its answer was cut"
    cause = error.__cause__ or error.__context__
    if isinstance(error, HTTPError) and isinstance(cause, OSError | HTTPError | http.client.HTTPException):
        return _why(cause)
    if isinstance(error, ConnectionError) and not error.strerror:
        return "it hung up"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__

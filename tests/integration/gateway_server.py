"""A real trustless gateway over a dictionary of blocks, that can be told to lie, stall, truncate and redirect."""

from __future__ import annotations

import http.server
import itertools
import ssl
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

from chainfl.storage.car import car_headers
from chainfl.storage.cid import RAW, cid_to_bytes, codec_of
from chainfl.storage.unixfs import CidBuilder, read_dag
from chainfl.types import Cid

Fault = Callable[["Request"], bool]
"""Answers a request in another way than a gateway should; False to let the gateway answer it."""

_DRIP_S = 0.05


def blocks_of(data: bytes) -> tuple[Cid, dict[str, bytes]]:
    """The CID of `data` and all of its blocks."""
    blocks: dict[str, bytes] = {}
    builder = CidBuilder(blocks.__setitem__)
    builder.update(data)
    return builder.finish(), blocks


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def car_section(cid: Cid, block: bytes) -> bytes:
    """One block as it stands in a CAR stream."""
    return varint(36 + len(block)) + cid_to_bytes(cid) + block


def car_parts(root: Cid, blocks: dict[str, bytes]) -> Iterator[bytes]:
    """The CAR stream of `root`: header, then every block depth first, repeated where the file repeats it."""
    header = car_headers(root)[0]
    yield varint(len(header)) + header
    asked: list[Cid] = []

    def fetch(cid: Cid) -> bytes:
        asked.append(cid)
        return blocks[cid]

    for _ in read_dag(root, fetch, max_bytes=1 << 62):
        yield from (car_section(cid, blocks[cid]) for cid in asked)
        asked.clear()


class Request(http.server.BaseHTTPRequestHandler):
    """One request to the gateway; a fault answers through it."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.cid = Cid(path.rpartition("/")[2])
        self.format = urllib.parse.parse_qs(query).get("format", [""])[0]
        gateway = self.server.gateway
        with gateway.lock:
            gateway.asked.append((self.format, self.cid))
        if not any(fault(self) for fault in list(gateway.faults)):
            self.answer()

    def answer(self) -> None:
        """What an honest gateway answers."""
        blocks = self.server.gateway.blocks
        if self.cid not in blocks:
            self.reply(404)
        elif self.format == "car":
            self.stream(car_parts(self.cid, blocks))
        else:
            self.reply(200, blocks[self.cid], {"Content-Type": "application/vnd.ipld.raw"})

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, length: int = -1) -> None:
        """length: what the header claims, where that is not the body's."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body) if length < 0 else length), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = 0 <= length != len(body)

    def stream(self, parts: Iterable[bytes], *, cut_after: int | None = None) -> None:
        """A chunked CAR answer; cut_after: the connection ends after so many parts."""
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.ipld.car; version=1; order=dfs; dups=y")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for count, part in enumerate(parts):
            if count == cut_after:
                self.close_connection = True
                return
            self.chunk(part)
        self.chunk(b"")

    def chunk(self, part: bytes) -> None:
        self.wfile.write(b"%x\r\n" % len(part) + part + b"\r\n")

    def stall(self) -> None:
        """Says nothing more until the gateway closes."""
        self.server.gateway.closing.wait()
        self.close_connection = True

    def drip(self, piece: bytes = b"x") -> None:
        """Sends `piece` again and again until the client has gone or the gateway closes."""
        while not self.server.gateway.closing.wait(_DRIP_S):
            self.wfile.write(piece)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    gateway: Gateway

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nothing to tell: many of the tests do."""


class Gateway:
    """`with Gateway(blocks) as gateway: GatewayStore([gateway.url], …)`; `gateway.faults` are asked first.

    asked: every request that came, as (format, CID). certificate: a file with one and its key, for https.
    """

    def __init__(self, blocks: dict[str, bytes], *faults: Fault, certificate: Path | None = None) -> None:
        self.blocks = blocks
        self.faults = list(faults)
        self.asked: list[tuple[str, Cid]] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), Request)
        self._server.gateway = self
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Gateway:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def times_asked(self) -> Counter[Cid]:
        """How often each block was asked for as raw."""
        return Counter(cid for kind, cid in self.asked if kind == "raw")


# --- faults --------------------------------------------------------------------------------------


def lies(request: Request) -> bool:
    """Other bytes, with status 200, for every raw block; for a stream, one bit of its last block."""
    block = request.server.gateway.blocks.get(request.cid, b"x")
    wrong = block[:-1] + bytes([block[-1] ^ 1])
    if request.format == "car":
        parts = list(car_parts(request.cid, request.server.gateway.blocks))
        request.stream([*parts[:-1], parts[-1][:-1] + bytes([parts[-1][-1] ^ 1])])
    else:
        request.reply(200, wrong)
    return True


def only_leaves(fault: Fault) -> Fault:
    """The same fault, for leaves alone."""
    return lambda request: codec_of(request.cid) == RAW and fault(request)


def only_streams(fault: Fault) -> Fault:
    """The same fault, for CAR streams alone."""
    return lambda request: request.format == "car" and fault(request)


def stalls(request: Request) -> bool:
    request.stall()
    return True


def drips_headers(request: Request) -> bool:
    request.drip()
    return True


def drips_body(request: Request) -> bool:
    request.send_response(200)
    request.send_header("Content-Type", "application/vnd.ipld.car")
    request.send_header("Content-Length", str(1 << 20))
    request.end_headers()
    request.drip()
    return True


def stalls_after_headers(request: Request) -> bool:
    request.send_response(200)
    request.send_header("Content-Length", str(1 << 20))
    request.end_headers()
    request.stall()
    return True


def drips_a_car(pieces_a_second: float) -> Fault:
    """A stream as it should be, a KiB at a time."""

    def fault(request: Request) -> bool:
        closing = request.server.gateway.closing
        parts = b"".join(car_parts(request.cid, request.server.gateway.blocks))
        pieces = (parts[at : at + 1024] for at in range(0, len(parts), 1024))
        request.stream(itertools.takewhile(lambda _: not closing.wait(1 / pieces_a_second), pieces))
        return True

    return only_streams(fault)


def streams_for_ever(request: Request) -> bool:
    request.send_response(200)
    request.end_headers()
    request.close_connection = True
    while not request.server.gateway.closing.is_set():
        request.wfile.write(bytes(1 << 16))
    return True


def streams_a_car_for_ever(request: Request) -> bool:
    """A stream that begins as it should, and then gives its first leaf again and again."""
    head = list(car_parts(request.cid, request.server.gateway.blocks))[:3]
    closing = request.server.gateway.closing
    request.stream(
        itertools.chain(head, itertools.takewhile(lambda _: not closing.is_set(), itertools.repeat(head[-1])))
    )
    return True


def lies_unframed(request: Request) -> bool:
    """Other bytes in an answer that ends with its connection."""
    request.send_response(200)
    request.end_headers()
    request.wfile.write(b"other bytes")
    request.close_connection = True
    return True


def lies_chunked(request: Request) -> bool:
    """Other bytes in an answer that says itself where it ends, and has no Content-Length."""
    request.stream([b"other bytes"])
    return True


def shows_a_login(request: Request) -> bool:
    """What a hotel's network answers in everybody's place."""
    request.reply(200, b"<html>Welcome! Your room number, please.</html>", {"Content-Type": "text/html; charset=utf-8"})
    return True


def truncates(request: Request) -> bool:
    block = request.server.gateway.blocks[request.cid]
    request.reply(200, block[: len(block) // 2], length=len(block))
    return True


def truncates_unframed(request: Request) -> bool:
    """Half a block in an answer that ends with its connection, so that nothing tells that there was more."""
    block = request.server.gateway.blocks[request.cid]
    request.send_response(200)
    request.end_headers()
    request.wfile.write(block[: len(block) // 2])
    request.close_connection = True
    return True


def cuts_stream_after(parts: int) -> Fault:
    def fault(request: Request) -> bool:
        request.stream(car_parts(request.cid, request.server.gateway.blocks), cut_after=parts)
        return True

    return only_streams(fault)


def answers(status: int, **headers: str) -> Fault:
    """This status to everything; underscores in a header's name are hyphens."""

    def fault(request: Request) -> bool:
        request.reply(status, b"no", {name.replace("_", "-"): value for name, value in headers.items()})
        return True

    return fault


def redirects(target: str) -> Fault:
    """To the same path below `target`; the empty string is itself."""

    def fault(request: Request) -> bool:
        request.reply(302, b"", {"Location": f"{target}{request.path}"})
        return True

    return fault


def once(fault: Fault) -> Fault:
    """The fault for the first request that it applies to, and none after that."""
    left = [1]

    def limited(request: Request) -> bool:
        with request.server.gateway.lock:
            if not left:
                return False
            left.pop()
        if fault(request):
            return True
        left.append(1)
        return False

    return limited

"""A pinning service built from the published specification, with a Kubo node of its own that really fetches.

Source: https://ipfs.github.io/pinning-services-api-spec/ (1.0.0).
"""

from __future__ import annotations

import itertools
import json
import threading
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from kubo import KuboDaemon

from chainfl.errors import StorageError
from chainfl.storage.kubo import KuboStore
from chainfl.types import Cid

TOKEN = "s3cret-of-the-tests"
MOMENTS = ("list", "create", "created", "look")
"""A list of pins is asked for; a pin is to be made; it is made and not answered yet; one pin is asked for."""
_FETCH_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """What the service does in place of one answer. status 0: closes the connection without a word."""

    status: int = 500
    body: bytes = b'{"error": {"reason": "INTERNAL", "details": "told to"}}'
    headers: dict[str, str] = field(default_factory=dict)


class _Pin:
    def __init__(self, request_id: str, created: str, pin: dict[str, Any]) -> None:
        self.request_id, self.created, self.pin = request_id, created, pin
        self.status = "queued"
        self.details = ""


class PinningServer:
    """`with PinningServer(node) as service: PinningService("it", service.endpoint, TOKEN)`.

    node: a running daemon of the swarm, or None for a service that only answers. faults: taken one a request, before
    anything else. hold: while set, requests stay queued. fail_all: every pin fails. page: at most so many results.
    at: called with each of MOMENTS, before the service goes on; it may halt it.
    """

    def __init__(self, node: KuboDaemon | None = None, *, token: str = TOKEN) -> None:
        self.token = token
        self.faults: list[Fault] = []
        self.hold = threading.Event()
        self.fail_all = False
        self.page = 1000
        self.at: Callable[[str], None] = lambda _: None
        self.requests: list[tuple[str, str]] = []
        self.pins: dict[str, _Pin] = {}
        self._store = KuboStore(node.api) if node else None
        self._lock = threading.Lock()
        self._fetches = ThreadPoolExecutor(4)
        self._numbers = itertools.count()
        self._clock = datetime(2026, 1, 1, tzinfo=UTC)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    def __enter__(self) -> PinningServer:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hold.clear()
        self._server.shutdown()
        self._server.server_close()
        self._fetches.shutdown()

    @property
    def endpoint(self) -> str:
        """Its URL, with a path of its own as some services have."""
        return f"http://127.0.0.1:{self._server.server_port}/api/v1"

    # --- the specification's operations --------------------------------------------------------------

    def create(self, pin: dict[str, Any]) -> _Pin:
        """POST /pins."""
        with self._lock:
            self._clock += timedelta(milliseconds=1)  # `created` is unique, as pagination needs
            new = _Pin(f"request/{next(self._numbers)}", self._clock.isoformat().replace("+00:00", "Z"), pin)
            self.pins[new.request_id] = new
        self._fetches.submit(self._fetch, new)
        return new

    def select(self, query: dict[str, str]) -> tuple[int, list[_Pin]]:
        """GET /pins. returns: how many match, and the newest of them."""
        statuses = query.get("status", "pinned").split(",")
        cids = query["cid"].split(",") if "cid" in query else None
        with self._lock:
            found = [
                each
                for each in self.pins.values()
                if each.status in statuses
                and (cids is None or each.pin["cid"] in cids)
                and each.created < query.get("before", "9")
            ]
        found.sort(key=lambda each: each.created, reverse=True)
        return len(found), found[: min(int(query.get("limit", "10")), self.page)]

    def remove(self, request_id: str) -> bool:
        """DELETE /pins/{requestid}."""
        with self._lock:
            gone = self.pins.pop(request_id, None)
        if gone and self._store:
            self._store.drop(Cid(gone.pin["cid"]))
        return gone is not None

    def shown(self, pin: _Pin) -> dict[str, Any]:
        """A PinStatus."""
        delegates = list(self._store.addresses()) if self._store else ["/ip4/127.0.0.1/tcp/1"]
        info = {"status_details": pin.details} if pin.details else {}
        return {
            "requestid": pin.request_id,
            "status": pin.status,
            "created": pin.created,
            "pin": pin.pin,
            "delegates": delegates,
            "info": info,
        }

    def _fetch(self, pin: _Pin) -> None:
        while self.hold.is_set():
            time.sleep(0.01)  # a queue that does not move
        if self.fail_all:
            pin.status, pin.details = "failed", "told to fail"
            return
        pin.status = "pinning"
        if self._store is None:
            pin.status = "pinned"
            return
        try:
            self._store.pin(Cid(pin.pin["cid"]), timeout_s=_FETCH_TIMEOUT_S)
            pin.status = "pinned"
        except StorageError as error:
            pin.status, pin.details = "failed", str(error)


def _handler(service: PinningServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve(lambda path, query: self._get(path, query))

        def do_POST(self) -> None:
            self._serve(lambda path, query: self._create())

        def do_DELETE(self) -> None:
            self._serve(lambda path, query: (202, None) if service.remove(_request_id(path)) else _NOT_FOUND)

        def _create(self) -> tuple[int, Any]:
            service.at("create")
            pin = service.create(json.loads(self._body))
            service.at("created")
            return 202, service.shown(pin)

        def _get(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
            is_list = path == "/api/v1/pins"
            service.at("list" if is_list else "look")
            if is_list:
                count, found = service.select(query)
                return 200, {"count": count, "results": [service.shown(each) for each in found]}
            pin = service.pins.get(_request_id(path))
            return (200, service.shown(pin)) if pin else _NOT_FOUND

        def _serve(self, answer: Any) -> None:
            parts = urllib.parse.urlsplit(self.path)
            self._body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            service.requests.append((self.command, self.path))
            if service.faults:
                self._fail(service.faults.pop(0))
            elif self.headers.get("Authorization") != f"Bearer {service.token}":
                self._send(401, json.dumps(_failure("UNAUTHORIZED", "the token is missing or wrong")).encode())
            else:
                status, value = answer(parts.path, dict(urllib.parse.parse_qsl(parts.query)))
                self._send(status, b"" if value is None else json.dumps(value).encode())

        def _fail(self, fault: Fault) -> None:
            if fault.status == 0:
                self.close_connection = True
                return
            self._send(fault.status, fault.body, fault.headers)

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler


def _request_id(path: str) -> str:
    return urllib.parse.unquote(path.removeprefix("/api/v1/pins/"))


def _failure(reason: str, details: str) -> dict[str, Any]:
    return {"error": {"reason": reason, "details": details}}


_NOT_FOUND = (404, _failure("NOT_FOUND", "no such pin"))

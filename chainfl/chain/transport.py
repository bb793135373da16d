"""How requests reach the endpoint: web3's HTTP provider, or a bare connection to a node on this machine.

Nine agents that wait for the blocks of a local chain ask it some thirty questions a second. web3's provider costs
0.9 to 1.3 ms of CPU for each (sessions, proxies, environment), a kept connection of the standard library 0.16 ms.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

import requests

BUSY_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

Request = tuple[str, Sequence[Any]]


class Transport(Protocol):
    """Sends JSON-RPC. Raises OSError, http.client.HTTPException or ValueError when no answer comes back."""

    def request(self, method: str, params: Sequence[Any]) -> Any:
        """The endpoint's response object."""
        ...

    def batch(self, wanted: Sequence[Request]) -> Any:
        """The endpoint's response objects in the order asked, or one object for the whole batch."""
        ...


def transport_for(rpc_url: str, timeout_s: float) -> Transport:
    """The cheapest transport that can serve the URL."""
    parts = urlsplit(rpc_url)
    if parts.scheme == "http" and parts.hostname in _LOOPBACK and parts.username is None:
        return LoopbackTransport(parts.hostname, parts.port or 80, parts.path or "/", timeout_s)
    return Web3Transport(rpc_url, timeout_s)


class Web3Transport:
    """web3's provider with its persistent session. Repeating is the client's business, so its own is off."""

    def __init__(self, rpc_url: str, timeout_s: float) -> None:
        # Imported here: it takes 1.2 s of CPU, and a process that serves a local chain has no use for it.
        from web3 import HTTPProvider

        self._provider: Any = HTTPProvider(
            rpc_url, request_kwargs={"timeout": timeout_s}, exception_retry_configuration=None
        )

    def request(self, method: str, params: Sequence[Any]) -> Any:
        return _answer(lambda: self._provider.make_request(method, list(params)))

    def batch(self, wanted: Sequence[Request]) -> Any:
        requests_ = [(method, list(params)) for method, params in wanted]
        return _answer(lambda: self._provider.make_batch_request(requests_))


def _answer(send: Callable[[], Any]) -> Any:
    """What came back. Hosted endpoints say with status 400 or 413 that a range of logs is too large."""
    try:
        return send()
    except requests.HTTPError as error:
        body = _error_body(error)
        if body is None:
            raise
        return body


def _error_body(error: requests.HTTPError) -> dict[str, Any] | None:
    """The JSON-RPC error in the body of a refusal; None for a busy endpoint, which is asked again."""
    if error.response is None or error.response.status_code in BUSY_STATUSES:
        return None
    try:
        body = error.response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) and "error" in body else None


class LoopbackTransport:
    """One kept HTTP connection a thread to a node on this machine."""

    def __init__(self, host: str, port: int, path: str, timeout_s: float) -> None:
        self._address = (host, port)
        self._path = path
        self._timeout_s = timeout_s
        self._local = threading.local()

    def request(self, method: str, params: Sequence[Any]) -> Any:
        return self._post({"jsonrpc": "2.0", "id": 0, "method": method, "params": list(params)})

    def batch(self, wanted: Sequence[Request]) -> Any:
        answers = self._post(
            [
                {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
                for number, (method, params) in enumerate(wanted)
            ]
        )
        if not isinstance(answers, list):
            return answers
        by_id = {answer["id"]: answer for answer in answers if isinstance(answer, dict) and "id" in answer}
        return [by_id[number] for number in range(len(wanted)) if number in by_id]

    def _post(self, body: Any) -> Any:
        connection = self._connection()
        try:
            connection.request("POST", self._path, json.dumps(body), {"content-type": "application/json"})
            return json.loads(connection.getresponse().read())
        except BaseException:
            # A half-read answer must not be taken for the next question's.
            connection.close()
            raise

    def _connection(self) -> http.client.HTTPConnection:
        """This thread's connection; it opens itself when it is closed."""
        if not hasattr(self._local, "connection"):
            host, port = self._address
            self._local.connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        return cast(http.client.HTTPConnection, self._local.connection)

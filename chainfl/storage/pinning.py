"""Services that keep content for others, by the IPFS Pinning Service API.

A service is asked to pin a CID, is told where the content is (`origins`: our own node) and says where its nodes are
(`delegates`: ours connects to them); then its own node fetches the content, and its word is `pinned`. That it holds
the content is its claim: nobody can check it but by fetching, and then every byte is verified as always.

Source: https://ipfs.github.io/pinning-services-api-spec/ (1.0.0).
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

from chainfl.encoding.hostile_json import decode_json
from chainfl.errors import ServiceRefused, ServiceUnreachable, StorageError, TokenMissing
from chainfl.storage.cid import cid_to_bytes
from chainfl.storage.http import Answer, HttpClient, Limits
from chainfl.types import Cid

Status = Literal["queued", "pinning", "pinned", "failed"]
T = TypeVar("T")
STATUSES: Final[tuple[Status, ...]] = get_args(Status)

TOKEN_VARIABLE: Final = "CHAINFL_PINNING_TOKEN_"
MAX_ADDRESSES: Final = 20
"""Of origins and of delegates in one message, by the specification."""
PIN_TIMEOUT_S: Final = 600.0

_PAGE: Final = 1000
_MAX_PAGES: Final = 100
_MAX_ANSWER_BYTES: Final = 4 << 20
_MAX_TEXT: Final = 512
_MIN_HIDDEN: Final = 8
"""Characters from which on a token is hidden in what a service says: no shorter one is a secret, or no word."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_LIMITS: Final = Limits(connect_s=5, idle_s=30, total_s=30)
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}", re.ASCII)
_MULTIADDRESS: Final = re.compile(r"/[\x21-\x7e]{1,511}", re.ASCII)

log = logging.getLogger(__name__)


# --- tokens --------------------------------------------------------------------------------------


def read_token(name: str, keys_dir: Path, environment: Mapping[str, str] = os.environ) -> str:
    """The access token of the service called `name`: from the environment, else from a file in `keys_dir`.

    It is never part of a configuration file, of a log or of an error. Raises TokenMissing.
    """
    variable, path = token_variable(name), keys_dir / f"pinning-{name}.token"
    token = environment.get(variable) or _token_in(path, variable)
    if not _TOKEN.fullmatch(token):
        raise TokenMissing(f"what stands as the token of {name} is no token", variable=variable, path=path)
    return token


def token_variable(name: str) -> str:
    """The environment variable of the token of the service called `name`."""
    return TOKEN_VARIABLE + name.upper().replace("-", "_")


def _token_in(path: Path, variable: str) -> str:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise TokenMissing(f"{path} can be read by others; `chmod 600` it", variable=variable, path=path)
            return file.read(_MAX_ANSWER_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        told = f"there is no token: {variable} is not set, and {path}: {error.strerror}"
        raise TokenMissing(told, variable=variable, path=path) from error


# --- messages ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PinStatus:
    """Where one pin request stands. details: the service's own words; delegates: multiaddresses of its nodes."""

    request_id: str
    status: Status
    created: str
    cid: str
    delegates: tuple[str, ...]
    details: str

    @classmethod
    def decode(cls, value: Any) -> PinStatus:
        """Of a decoded JSON value. Raises ValueError for anything but a PinStatus of the specification."""
        fields = _object(value)
        status = _text(fields, "status")
        if status not in STATUSES:
            raise ValueError(f"no status of a pin: {status!r}")
        delegates = fields.get("delegates")
        if not isinstance(delegates, list) or len(delegates) > MAX_ADDRESSES:
            raise ValueError(f"delegates that are no list of up to {MAX_ADDRESSES}")
        info = fields.get("info")
        details = info.get("status_details", "") if isinstance(info, dict) else ""
        return cls(
            _text(fields, "requestid"),
            status,
            _text(fields, "created"),
            _text(_object(fields.get("pin")), "cid"),
            tuple(each for each in delegates if isinstance(each, str) and _MULTIADDRESS.fullmatch(each)),
            _printable(str(details)),
        )


@dataclass(frozen=True, slots=True)
class _Page:
    count: int
    results: tuple[PinStatus, ...]

    @classmethod
    def decode(cls, value: Any) -> _Page:
        fields = _object(value)
        count, results = fields.get("count"), fields.get("results")
        if type(count) is not int or count < 0 or not isinstance(results, list) or len(results) > _PAGE:
            raise ValueError("no list of pins")
        return cls(count, tuple(map(PinStatus.decode, results)))


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("no JSON object where one belongs")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT or not value.isprintable():
        raise ValueError(f"no text as {name!r}")
    return value


def _printable(text: str) -> str:
    """A stranger's words for a person's terminal: one short line without control characters."""
    return "".join(each if each.isprintable() else " " for each in text[:_MAX_TEXT]).strip()


# --- the client ----------------------------------------------------------------------------------


class PinningService:
    """One account at one service. Safe among threads.

    name: what the operator calls it; endpoint: its URL, above `/pins`; token: sent there and shown nowhere.
    """

    def __init__(self, name: str, endpoint: str, token: str, *, limits: Limits = _LIMITS) -> None:
        self.name = name
        self.endpoint = endpoint.rstrip("/")
        self._token = token
        self._http = HttpClient([endpoint], limits=limits)
        self._closed = threading.Event()

    def pin(
        self,
        cid: Cid,
        *,
        origins: Sequence[str] = (),
        connect: Callable[[str], None] | None = None,
        timeout_s: float = PIN_TIMEOUT_S,
        accepted: Callable[[], None] | None = None,
        failing: Callable[[StorageError], None] | None = None,
    ) -> None:
        """Returns once the service says that it holds the content. Goes on with an earlier request for the same.

        origins: multiaddresses of nodes that have it; connect: makes one of those dial a delegate of the service;
        accepted: called, perhaps again and again, while the service has the request and works on it without us;
        failing: called with each failure after which it is tried again.
        Raises ServiceRefused when it will not, ServiceUnreachable when it has not within `timeout_s`.
        """
        cid_to_bytes(cid)
        wait = _Waiting(self._closed, time.monotonic() + timeout_s, failing)
        stand = wait.outlast(lambda: self.find(cid) or self._create(cid, origins))
        dialled: set[str] = set()
        while stand.status in ("queued", "pinning"):
            self._dial([each for each in stand.delegates if each not in dialled], connect)
            dialled.update(stand.delegates)
            if accepted:
                accepted()
            wait.pause(self._unreachable(f"has not pinned {cid} in time, but says {stand.status} {stand.details}"))
            stand = wait.outlast(partial(self._look, stand.request_id, cid))
        if stand.status == "failed":
            raise self._refused(f"could not pin {cid}: {stand.details or 'it gives no reason'}")

    def find(self, cid: Cid) -> PinStatus | None:
        """The account's request for the content that is best off: pinned before pinning before queued; not failed."""
        found = [each for each in self.pins(cid=cid, statuses=STATUSES[:3]) if each.cid == cid]
        return max(found, key=lambda each: STATUSES.index(each.status), default=None)

    def holds(self, cid: Cid) -> bool:
        """Whether the service says that it keeps the content."""
        found = self.find(cid)
        return found is not None and found.status == "pinned"

    def stand(self, cid: Cid) -> str:
        """Where the service stands with the content, in its own word; empty when it has no request that lives."""
        found = self.find(cid)
        return found.status if found else ""

    def drop(self, cid: Cid) -> None:
        """Ends every request for the content; does nothing where there is none."""
        cid_to_bytes(cid)
        for each in list(self.pins(cid=cid, statuses=STATUSES)):
            if each.cid == cid:
                self._ask("DELETE", f"/pins/{urllib.parse.quote(each.request_id, safe='')}", accept=(200, 202, 404))

    def count(self) -> int:
        """How many contents the account has pinned there. The cheapest question that needs a valid token."""
        return self._page({"limit": "1", "status": "pinned"}).count

    def pins(self, *, cid: Cid | None = None, statuses: Sequence[Status] = ("pinned",)) -> Iterator[PinStatus]:
        """The account's requests, newest first, page by page; of one content, or of all."""
        query = {"limit": str(_PAGE), "status": ",".join(statuses)} | ({"cid": cid} if cid else {})
        seen: set[str] = set()
        for _ in range(_MAX_PAGES):
            page = self._page(query)
            new = [each for each in page.results if each.request_id not in seen]
            yield from new
            seen.update(each.request_id for each in new)
            # A page that brings nothing new would come for ever.
            if not new or page.count <= len(page.results):
                return
            query["before"] = page.results[-1].created
        raise self._unreachable(f"lists more than {_MAX_PAGES * _PAGE} pins")

    def close(self) -> None:
        """Ends the waiting of `pin` in other threads."""
        self._closed.set()

    # --- requests ----------------------------------------------------------------------------------

    def _create(self, cid: Cid, origins: Sequence[str]) -> PinStatus:
        pin = {"cid": cid, "name": f"chainfl {cid}", "origins": list(origins[:MAX_ADDRESSES])}
        return self._of(cid, self._ask("POST", "/pins", body=pin, accept=(200, 202)))

    def _look(self, request_id: str, cid: Cid) -> PinStatus:
        path = f"/pins/{urllib.parse.quote(request_id, safe='')}"
        return self._of(cid, self._ask("GET", path))

    def _page(self, query: Mapping[str, str]) -> _Page:
        return self._decoded(_Page.decode, self._ask("GET", f"/pins?{urllib.parse.urlencode(query)}"))

    def _of(self, cid: Cid, body: bytes) -> PinStatus:
        found = self._decoded(PinStatus.decode, body)
        if found.cid != cid:
            raise self._unreachable(f"answers about another content than {cid}")
        return found

    def _decoded(self, decode: Callable[[Any], T], body: bytes) -> T:
        try:
            return decode(decode_json(body, max_bytes=_MAX_ANSWER_BYTES))
        except (ValueError, RecursionError) as error:
            raise self._unreachable(f"does not answer as a pinning service: {error}") from error

    def _ask(self, method: str, path: str, *, body: Any = None, accept: Sequence[int] = (200,)) -> bytes:
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        with self._http.request(
            method, self.endpoint + path, max_bytes=_MAX_ANSWER_BYTES, headers=headers, body=data
        ) as answer:
            if answer.status not in accept:
                raise self._failure(answer)
            return answer.body()

    def _failure(self, answer: Answer) -> StorageError:
        said = f"answers {answer.status} {_reason(answer.body())}"
        if answer.status in (401, 403):
            return self._refused(f"does not take the token: {said}")
        if answer.status == 429 or answer.status >= 500:
            return self._unreachable(said, retry_after_s=_seconds(answer.header("Retry-After")))
        return self._refused(said)

    def _dial(self, delegates: Sequence[str], connect: Callable[[str], None] | None) -> None:
        for delegate in delegates if connect else ():
            try:
                assert connect
                connect(delegate)
            except StorageError as error:
                # It may reach us by our origins, or over the network at large; only its status says.
                log.info("no connection to %s of %s: %s", delegate, self.name, error)

    def _unreachable(self, said: str, **evidence: Any) -> ServiceUnreachable:
        return ServiceUnreachable(self._told(said), service=self.name, **evidence)

    def _refused(self, said: str) -> ServiceRefused:
        variable = token_variable(self.name)
        return ServiceRefused(self._told(said), service=self.name, variable=variable)

    def _told(self, said: str) -> str:
        # A service may repeat what it was sent.
        shown = said.replace(self._token, "[token]") if len(self._token) >= _MIN_HIDDEN else said
        return f"{self.name} {_printable(shown)}"


class _Waiting:
    """Pauses that grow, until a deadline, or until `closed` is set. failing: hears of each failure before its pause."""

    def __init__(
        self, closed: threading.Event, deadline: float, failing: Callable[[StorageError], None] | None
    ) -> None:
        self._closed = closed
        self._deadline = deadline
        self._failing = failing
        self._next_s = _FIRST_PAUSE_S

    def outlast(self, ask: Callable[[], T]) -> T:
        """What `ask` gives once it gives something; what it raises that does not pass, or lasts too long."""
        while True:
            try:
                return ask()
            except ServiceUnreachable as error:
                if self._failing:
                    self._failing(error)
                self.pause(error)

    def pause(self, failure: ServiceUnreachable) -> None:
        """Waits a while, longer each time. Raises `failure` when the time is over."""
        left = self._deadline - time.monotonic()
        wished = max(self._next_s, failure.evidence.get("retry_after_s", 0))
        if left <= 0 or self._closed.wait(min(wished, left)):
            raise failure
        self._next_s = min(self._next_s * 1.5, _LONGEST_PAUSE_S)


def _reason(body: bytes) -> str:
    """The service's own words in a failure, as the specification places them; empty where it has others."""
    try:
        error = decode_json(body, max_bytes=_MAX_ANSWER_BYTES)["error"]
        return f"{error['reason']} {error.get('details', '')}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""


def _seconds(retry_after: str) -> int:
    return int(retry_after) if re.fullmatch("[0-9]{1,4}", retry_after) else 0

"""PinningService against a service built from the specification, over real HTTP; its node's fetching is in _swarm."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from pinning_service import MOMENTS, TOKEN, Fault, PinningServer

from chainfl.errors import ServiceRefused, ServiceUnreachable, StorageError
from chainfl.storage.pinning import PinningService
from chainfl.storage.unixfs import cid_of

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

CID = cid_of(b"content")
OTHER = cid_of(b"other content")


@pytest.fixture
def server() -> Iterator[PinningServer]:
    with PinningServer() as running:
        yield running


@pytest.fixture
def service(server: PinningServer) -> PinningService:
    return PinningService("cellar", server.endpoint, TOKEN)


def test_pin__unknown_content__is_asked_for_once_with_our_addresses(
    server: PinningServer, service: PinningService
) -> None:
    assert not service.holds(CID)
    service.pin(CID, origins=["/ip4/127.0.0.1/tcp/4001/p2p/us"])
    service.pin(CID)
    assert service.holds(CID)
    (pin,) = server.pins.values()
    assert pin.pin["origins"] == ["/ip4/127.0.0.1/tcp/4001/p2p/us"]
    assert service.count() == 1


def test_pin__queued__connects_to_the_delegates_and_waits(server: PinningServer, service: PinningService) -> None:
    server.hold.set()
    dialled: list[str] = []

    def connect(address: str) -> None:
        dialled.append(address)
        server.hold.clear()  # only a client that dials while it waits gets its content there

    service.pin(CID, connect=connect, timeout_s=20)
    assert dialled == ["/ip4/127.0.0.1/tcp/1"]


def test_pin__delegate_out_of_reach__is_not_the_end(server: PinningServer, service: PinningService) -> None:
    server.hold.set()

    def connect(address: str) -> None:
        server.hold.clear()
        raise StorageError("cannot dial")

    service.pin(CID, connect=connect, timeout_s=20)


def test_pin__never_pinned__ends_in_time_and_the_next_call_goes_on_with_the_same_request(
    server: PinningServer, service: PinningService
) -> None:
    server.hold.set()
    with pytest.raises(ServiceUnreachable, match="in time, but says queued") as caught:
        service.pin(CID, timeout_s=0.2)
    assert caught.value.retryable
    server.hold.clear()
    service.pin(CID)
    assert len(server.pins) == 1


def test_pin__closed_while_it_waits__ends_at_once(server: PinningServer, service: PinningService) -> None:
    server.hold.set()
    threading.Timer(0.1, service.close).start()
    with pytest.raises(ServiceUnreachable):
        service.pin(CID, timeout_s=600)


def test_pin__failed__says_why_and_the_next_call_asks_anew(server: PinningServer, service: PinningService) -> None:
    server.fail_all = True
    with pytest.raises(ServiceRefused, match="told to fail"):
        service.pin(CID)
    server.fail_all = False
    service.pin(CID)
    assert [pin.status for pin in server.pins.values()] == ["failed", "pinned"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500),
        Fault(503, b"", {"Retry-After": "0"}),
        Fault(429, b"slow down", {"Retry-After": "1"}),
        Fault(200, b"not JSON"),
        Fault(200, b"{" * 100_000),
        Fault(200, json.dumps({"count": -1, "results": []}).encode()),
        Fault(200, json.dumps({"count": 1, "results": [{"requestid": "1"}]}).encode()),
        Fault(0),
    ],
    ids=["500", "503", "429", "no-json", "deep", "no-page", "no-pin", "cut"],
)
def test_pin__one_bad_answer__is_tried_again(server: PinningServer, service: PinningService, fault: Fault) -> None:
    # Twice: a connection that is cut before the answer is tried again below us once.
    server.faults = [fault, fault]
    service.pin(CID, timeout_s=20)
    assert service.holds(CID)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 418, 302])
def test_pin__refused__is_not_tried_again(server: PinningServer, service: PinningService, status: int) -> None:
    server.faults = [Fault(status)]
    with pytest.raises(ServiceRefused, match=f"cellar .*{status}") as caught:
        service.pin(CID)
    assert not caught.value.retryable
    assert "CHAINFL_PINNING_TOKEN_CELLAR" in caught.value.hint
    assert len(server.requests) == 1


def test_pin__about_another_content__is_refused(server: PinningServer, service: PinningService) -> None:
    stranger = server.create({"cid": OTHER})
    nothing = {"count": 0, "results": []}
    answers = [Fault(200, json.dumps(nothing).encode()), Fault(202, json.dumps(server.shown(stranger)).encode())]
    server.faults = answers
    with pytest.raises(ServiceUnreachable, match="another content"):
        service.pin(CID, timeout_s=0)


def test_token__wrong_or_repeated_by_the_service__is_in_no_error_and_no_log(
    server: PinningServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = PinningService("cellar", server.endpoint, "wrong-token")
    echo = json.dumps({"error": {"reason": "BAD", "details": "got \x1b[31m wrong-token"}}).encode()
    server.faults = [Fault(400, echo)]
    said = []
    for _ in range(2):
        with pytest.raises(ServiceRefused) as caught:
            wrong.count()
        said.append(f"{caught.value} {caught.value.hint} {caught.value.evidence}")
    assert "does not take the token" in said[1]
    everything = " ".join([*said, caplog.text, repr(wrong)])
    assert "wrong-token" not in everything
    assert "\x1b" not in everything


def test_token__redirected_to_another_origin__is_not_sent_along(server: PinningServer, service: PinningService) -> None:
    with PinningServer() as other:
        server.faults = [Fault(302, b"", {"Location": f"{other.endpoint}/pins?limit=1"})]
        with pytest.raises(StorageError):
            service.count()
        assert other.requests == []


def test_pins__several_pages__come_once_each_and_newest_first(server: PinningServer, service: PinningService) -> None:
    for number in range(25):
        service.pin(cid_of(bytes([number])))
    server.page = 4
    found = list(service.pins())
    assert [pin.cid for pin in found] == [cid_of(bytes([number])) for number in reversed(range(25))]


def test_pins__pages_that_never_end__are_cut_off(server: PinningServer, service: PinningService) -> None:
    service.pin(CID)
    (pin,) = server.pins.values()
    page = json.dumps({"count": 10**6, "results": [server.shown(pin)]}).encode()
    server.faults = [Fault(200, page)] * 10
    assert len(list(service.pins())) == 1
    assert len(server.faults) == 8


def test_drop__two_requests_for_it_and_one_for_another__ends_the_two(
    server: PinningServer, service: PinningService
) -> None:
    server.create({"cid": CID})
    server.create({"cid": CID})
    service.pin(OTHER)
    service.drop(CID)
    service.drop(CID)
    assert [pin.pin["cid"] for pin in server.pins.values()] == [OTHER]


def test_pin__nobody_listens__is_unreachable_in_time() -> None:
    with PinningServer() as gone:
        endpoint = gone.endpoint
    with pytest.raises(ServiceUnreachable):
        PinningService("cellar", endpoint, TOKEN).pin(CID, timeout_s=0.2)


# --- our own end ---------------------------------------------------------------------------------

PIN = """
import sys
from chainfl.storage.pinning import PinningService
PinningService("cellar", *sys.argv[1:3]).pin(sys.argv[3], origins=["/ip4/127.0.0.1/tcp/4001/p2p/us"])
"""


@pytest.mark.parametrize("moment", MOMENTS)
def test_pin__killed_while_the_service_works_on_a_request__is_found_again_and_asked_for_once(
    server: PinningServer, service: PinningService, moment: str
) -> None:
    reached, gone = threading.Event(), threading.Event()
    server.hold.set()  # the pin is queued when it is looked at

    def halts(now: str) -> None:
        if now == moment and not gone.is_set():
            reached.set()
            assert gone.wait(30)

    server.at = halts
    process = subprocess.Popen([sys.executable, "-c", PIN, server.endpoint, TOKEN, CID])
    assert reached.wait(30)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    created = threading.Event()
    server.at = lambda now: created.set() if now == "created" else None
    gone.set()
    if moment == "create":  # what a service was sent it does, whether or not somebody waits for its answer
        assert created.wait(30)
    server.hold.clear()
    service.pin(CID)
    assert service.holds(CID)
    assert [pin.pin["cid"] for pin in server.pins.values()] == [CID]

"""Whom to ask first, whom next, when, and whom never again; with real threads and no sockets."""

from __future__ import annotations

import gc
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from chainfl.errors import BlobNotFound, CidMismatch, ServiceUnreachable, StorageError
from chainfl.storage.racing import STREAM_FLOOR, Attempt, Pace, Race, Server, Slack, Won, in_order, nobody_gave

WAIT_S = 10
HASTY = Pace(soonest=0, latest=0, unknown=0, finish=0)
NEVER = Pace(soonest=WAIT_S, latest=WAIT_S, unknown=WAIT_S, finish=WAIT_S)
Behaviour = Callable[[Attempt], bytes]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


class Field:
    """Servers that behave as told, and the order in which they were asked."""

    def __init__(self, pool: ThreadPoolExecutor, **behaviours: Behaviour) -> None:
        self.behaviours = behaviours
        self.servers = [Server(name) for name in behaviours]
        self.asked: list[str] = []
        self._pool = pool

    def race(self, pace: Pace) -> Race:
        return Race(in_order(self.servers, 0), self._ask, pool=self._pool, pace=pace)

    def __getitem__(self, name: str) -> Server:
        return next(server for server in self.servers if server.name == name)

    def _ask(self, attempt: Attempt) -> bytes:
        self.asked.append(attempt.server.name)
        return self.behaviours[attempt.server.name](attempt)


def gives(attempt: Attempt) -> bytes:
    attempt.began()
    return b"right"


def lies(attempt: Attempt) -> bytes:
    raise CidMismatch("other bytes")


def lacks(attempt: Attempt) -> bytes:
    raise BlobNotFound("404")


def fails(attempt: Attempt) -> bytes:
    raise ServiceUnreachable("refused")


def hushes(attempt: Attempt) -> bytes:
    raise ServiceUnreachable("429", rest_s=60)


def stalls(attempt: Attempt) -> bytes:
    cancelled = threading.Event()
    attempt.on_cancel(cancelled.set)
    assert cancelled.wait(WAIT_S)
    raise ServiceUnreachable("cancelled")


# --- races ---------------------------------------------------------------------------------------


def test_race__first_one_gives_it__nobody_else_is_asked(pool: ThreadPoolExecutor) -> None:
    field = Field(pool, a=gives, b=gives)
    assert field.race(NEVER).run() == Won(field["a"], b"right")
    assert field.asked == ["a"]
    assert field["a"].usual_s is not None


@pytest.mark.parametrize("behaviour", [lies, lacks, fails, hushes])
def test_race__first_one_does_not_give_it__next_one_is_asked_at_once(
    pool: ThreadPoolExecutor, behaviour: Behaviour
) -> None:
    field = Field(pool, a=behaviour, b=gives)
    won = field.race(NEVER).run()
    assert won is not None
    assert won.server.name == "b"
    assert field.asked == ["a", "b"]


def test_race__first_one_late__next_one_wins_and_the_late_one_is_ended_and_goes_to_the_back(
    pool: ThreadPoolExecutor,
) -> None:
    field = Field(pool, a=stalls, b=gives)
    won = field.race(HASTY).run()
    assert won is not None
    assert won.server.name == "b"
    assert field["a"].failures == 1
    pool.shutdown()  # returns, since nobody stalls any more
    assert field["a"].under_way == 0


def test_race__first_one_late_but_first__wins_all_the_same(pool: ThreadPoolExecutor) -> None:
    other_asked = threading.Event()

    def gives_late(attempt: Attempt) -> bytes:
        assert other_asked.wait(WAIT_S)
        return gives(attempt)

    def stalls_too(attempt: Attempt) -> bytes:
        other_asked.set()
        return stalls(attempt)

    field = Field(pool, a=gives_late, b=stalls_too)
    won = field.race(HASTY).run()
    assert won is not None
    assert won.server.name == "a"
    assert field["a"].failures == 0


def test_race__answer_has_begun__gets_its_time_to_finish(pool: ThreadPoolExecutor) -> None:
    def begins(attempt: Attempt) -> bytes:
        attempt.began()
        return b"right"

    field = Field(pool, a=begins, b=gives)
    won = field.race(Pace(soonest=WAIT_S, latest=WAIT_S, unknown=WAIT_S, finish=WAIT_S)).run()
    assert won is not None
    assert field.asked == ["a"]


def test_race__nobody_gives_it__says_what_each_said(pool: ThreadPoolExecutor) -> None:
    field = Field(pool, a=lies, b=lacks, c=fails, d=hushes)
    race = field.race(NEVER)
    assert race.run() is None
    assert {name: type(error) for name, error in race.said.items()} == {
        "a": CidMismatch,
        "b": BlobNotFound,
        "c": ServiceUnreachable,
        "d": ServiceUnreachable,
    }
    assert [server.usable(1e12) for server in field.servers] == [False, True, True, True]
    assert not field["d"].usable(0)


def test_race__answer_cut__is_asked_once_more_after_the_others(pool: ThreadPoolExecutor) -> None:
    def cut(attempt: Attempt) -> bytes:
        attempt.began()
        raise ServiceUnreachable("cut")

    field = Field(pool, a=cut, b=lacks)
    assert field.race(NEVER).run() is None
    assert field.asked == ["a", "b", "a"]


def test_race__answer_late_half_way__is_not_asked_again(pool: ThreadPoolExecutor) -> None:
    def drips(attempt: Attempt) -> bytes:
        attempt.began()
        raise ServiceUnreachable("its time is over", late=True)

    field = Field(pool, a=drips)
    assert field.race(NEVER).run() is None
    assert field.asked == ["a"]


def test_race__answer_stops_moving__next_one_is_asked(pool: ThreadPoolExecutor) -> None:
    def begins_and_stalls(attempt: Attempt) -> bytes:
        attempt.began()
        return stalls(attempt)

    field = Field(pool, a=begins_and_stalls, b=gives)
    won = field.race(replace(NEVER, piece=0.05)).run()
    assert won is not None
    assert won.server.name == "b"


def test_attempt__its_answer_moves__is_due_a_piece_later_but_not_after_its_end() -> None:
    attempt, pace = Attempt(Server("a"), queue.SimpleQueue()), Pace()
    attempt.began()
    assert attempt.began_at is not None
    assert attempt.due_at(pace) == attempt.began_at + pace.piece
    attempt.moved_at = attempt.began_at + 7
    assert attempt.due_at(pace) == attempt.began_at + 7 + pace.piece
    attempt.moved_at = attempt.began_at + 14.5
    assert attempt.due_at(pace) == attempt.began_at + pace.finish


def test_race__a_web_page__is_not_asked_for_again(pool: ThreadPoolExecutor) -> None:
    def shows_a_page(attempt: Attempt) -> bytes:
        attempt.began()
        raise ServiceUnreachable("a web page", doubt="page")

    field = Field(pool, a=shows_a_page)
    assert field.race(NEVER).run() is None
    assert field.asked == ["a"]
    assert not field["a"].lie


def test_race__other_bytes_that_may_have_been_cut__twice_are_a_lie(pool: ThreadPoolExecutor) -> None:
    def gives_other_bytes(attempt: Attempt) -> bytes:
        attempt.began()
        raise ServiceUnreachable("other bytes, or was cut", doubt="cut")

    field = Field(pool, a=gives_other_bytes)
    assert field.race(NEVER).run() is None
    assert field.asked == ["a", "a"]
    assert "second time" in field["a"].lie


def test_doubted__answers_that_were_under_way_at_the_same_time__are_one_doubt() -> None:
    server = Server("a")
    for _ in range(8):
        server.doubted("other bytes", asked_at=10, now=12)
    assert not server.lie
    server.doubted("other bytes", asked_at=12, now=13)
    assert server.lie


def test_late__who_was_overtaken__is_asked_after_who_is_sooner_even_when_it_has_rested() -> None:
    slow, _ = servers = servers_of("slow", "other")
    slow.answered(0.01)
    slow.late(100, 3.0)
    assert slow.failures == 1
    assert names(servers, 200) == ["other", "slow"]


def test_slack__stream_at_and_below_the_floor__runs_out_only_below() -> None:
    slack = Slack(3)
    for _ in range(100):
        slack.spent(1, STREAM_FLOOR)
        assert slack.wait_s() == 3
    for left in (2, 1):
        slack.spent(2, STREAM_FLOOR)
        assert slack.wait_s() == left
    slack.spent(2, STREAM_FLOOR)
    assert slack.wait_s() == 1  # a block gets the time that the floor allows for it
    slack.outlasted()
    assert slack.wait_s() == 6
    for _ in range(10):
        slack.outlasted()
    assert slack.wait_s() == 60


def test_race__over__nothing_holds_the_block_but_the_caller(pool: ThreadPoolExecutor) -> None:
    def gives_one(attempt: Attempt) -> bytes:
        return bytes(1 << 20)

    gc.disable()
    try:
        won = Field(pool, a=gives_one).race(NEVER).run()
        assert won is not None
        pool.shutdown()
        references = sys.getrefcount(won.block)
    finally:
        gc.enable()
    assert references == 2  # the tuple's, and the call's


def test_race__nobody_to_ask__ends(pool: ThreadPoolExecutor) -> None:
    assert Race([], gives, pool=pool, pace=NEVER).run() is None


def test_race__stopped_from_outside__ends_and_cancels(pool: ThreadPoolExecutor) -> None:
    asked = threading.Event()

    def stalls_visibly(attempt: Attempt) -> bytes:
        asked.set()
        return stalls(attempt)

    race = Field(pool, a=stalls_visibly).race(NEVER)
    running = pool.submit(race.run)
    assert asked.wait(WAIT_S)
    race.stop()
    assert running.result(WAIT_S) is None


def test_race__our_own_mistake__is_not_hidden(pool: ThreadPoolExecutor) -> None:
    def breaks(attempt: Attempt) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Field(pool, a=breaks, b=gives).race(NEVER).run()


def test_attempt__cancelled_before_it_can_be__is_told_when_it_can() -> None:
    attempt = Attempt(Server("a"), queue.SimpleQueue())
    attempt.cancel()
    told = threading.Event()
    attempt.on_cancel(told.set)
    assert told.is_set()


# --- order ---------------------------------------------------------------------------------------


def names(servers: list[Server], now: float) -> list[str]:
    return [server.name for server in in_order(servers, now)]


def servers_of(*wanted: str) -> list[Server]:
    return [Server(name) for name in wanted]


def test_in_order__nothing_known__is_as_configured() -> None:
    assert names(servers_of("c", "a", "b"), 0) == ["c", "a", "b"]


def test_in_order__soonest_answer_first_and_busy_ones_later() -> None:
    a, b = servers = servers_of("a", "b")
    a.answered(0.3)
    b.answered(0.1)
    assert names(servers, 0) == ["b", "a"]
    for _ in range(3):
        b.asked()
    assert names(servers, 0) == ["a", "b"]
    b.ended()
    b.ended()
    assert names(servers, 0) == ["b", "a"]


def test_in_order__failed_one__is_last_until_its_rest_is_over_and_longer_each_time() -> None:
    a, _ = servers = servers_of("a", "b")
    for failure, rest_s in enumerate([1, 2, 4, 8, 16, 32, 60, 60]):
        a.failed(100)
        assert a.failures == failure + 1
        assert names(servers, 100 + rest_s - 0.1) == ["b", "a"]
        assert names(servers, 100 + rest_s) == ["a", "b"]
    a.answered(0.1)
    assert (a.failures, names(servers, 100)) == (0, ["a", "b"])


def test_in_order__asked_for_peace__is_not_there_until_then_and_at_most_an_hour() -> None:
    a, _ = servers = servers_of("a", "b")
    a.hushed(100, 60)
    assert (names(servers, 159), names(servers, 160)) == (["b"], ["a", "b"])
    a.hushed(100, 1e9)
    assert (names(servers, 3699), names(servers, 3700)) == (["b"], ["a", "b"])
    a.hushed(100, -5)
    assert names(servers, 101) == ["a", "b"]


def test_in_order__liar__is_never_there_again_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    a, _ = servers = servers_of("a", "b")
    for _ in range(2):
        a.lied("other bytes for X")
    assert names(servers, 1e12) == ["b"]
    assert [record.getMessage() for record in caplog.records] == [
        "a is left out from now on, for it lied: other bytes for X"
    ]


def test_usual__is_smoothed_and_bounds_the_wait() -> None:
    server, pace = Server("a"), Pace()
    assert pace.hedge_s(server) == pace.unknown
    server.answered(1.0)
    server.answered(0.2)
    assert server.usual_s == pytest.approx(0.8)
    assert pace.hedge_s(server) == pytest.approx(2.4)
    server.usual_s = 0.001
    assert pace.hedge_s(server) == pace.soonest
    server.usual_s = 100
    assert pace.hedge_s(server) == pace.latest


def test_describe__each_state__in_a_few_words() -> None:
    new, good, bad, quiet, liar = servers_of("new", "good", "bad", "quiet", "liar")
    good.answered(0.25)
    bad.failed(0)
    quiet.hushed(0, 60)
    liar.lied("x")
    assert [server.describe(10) for server in (new, good, bad, quiet, liar)] == [
        "new",
        "good (250 ms)",
        "bad (failing, 1 in a row)",
        "quiet (asked for 50 s of peace)",
        "liar (lied, left out)",
    ]


# --- what it comes to ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "liars", "kind"),
    [
        ({"a": BlobNotFound("404"), "b": BlobNotFound("404")}, [], BlobNotFound),
        ({"a": BlobNotFound("404")}, [], ServiceUnreachable),
        ({"a": BlobNotFound("404"), "b": ServiceUnreachable("500")}, [], ServiceUnreachable),
        ({"a": BlobNotFound("404"), "b": CidMismatch("other")}, ["b"], BlobNotFound),
        ({"a": BlobNotFound("404")}, ["b"], BlobNotFound),
        ({"a": CidMismatch("other")}, ["a", "b"], CidMismatch),
        ({}, ["a", "b"], CidMismatch),
        ({}, [], ServiceUnreachable),
    ],
)
def test_nobody_gave__what_was_said__is_one_error(
    said: dict[str, StorageError], liars: list[str], kind: type[StorageError]
) -> None:
    servers = servers_of("a", "b")
    for server in servers:
        if server.name in liars:
            server.lied("x")
    error = nobody_gave("thing", servers, said)
    assert type(error) is kind
    assert all(str(reason) in str(error) for reason in said.values() if kind is not CidMismatch)

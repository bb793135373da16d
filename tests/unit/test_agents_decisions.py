"""Decisions as tables: phase × what the account has done × time, each deadline at −1, 0 and +1."""

from __future__ import annotations

from dataclasses import replace

import pytest
from agents_world import World
from fake_chain import NOBODY, TASK, account_of

from chainfl.agents import aggregator, chores, duties, validator, worker
from chainfl.agents.actions import Act, Do, Stop, Wait
from chainfl.agents.aggregator import AggregatorMemory
from chainfl.agents.chores import Standing, roster_of
from chainfl.agents.validator import ValidatorMemory
from chainfl.agents.worker import WorkerMemory
from chainfl.errors import NotEligible, StakeTooLow, UsageError
from chainfl.tasks.state import ENROLLED_ROLES, ZERO_ADDRESS, Phase, Role, Snapshot
from chainfl.types import Root

ME, OTHER, THIRD = account_of(1), account_of(2), account_of(3)
BASE = Root(b"\x01" * 32)
MINE = b"\x02" * 32
NOW, END = 5_000, 5_010
MEMBER = replace(NOBODY, stake=300 * 10**18, active_from=1, active_until=65_535)
COMMITTED = replace(MEMBER, last_round=3, commitment=MINE)
REVEALED = replace(COMMITTED, revealed=True)
READY = WorkerMemory(BASE, MINE, published=True)
VOTED = ValidatorMemory(BASE, MINE)
FIRST = Standing(ME, (ME, OTHER, THIRD), NOW)
THIRD_IN_LINE = Standing(ME, (OTHER, THIRD, ME), NOW)


@pytest.fixture(scope="module")
def blank(tmp_path_factory) -> Snapshot:
    world = World(tmp_path_factory.mktemp("world"), workers=1, validators=1, aggregators=3)
    return world.ports[account_of(100)].snapshot(TASK, Role.WORKER)


def at(blank: Snapshot, phase: Phase, me=MEMBER, *, number: int = 10, free=10**24, credit=0, **view) -> Snapshot:
    ends = 0 if phase in (Phase.TALLY, Phase.SETTLEMENT) or phase.is_terminal else END
    defaults = {"phase": phase, "phase_end": ends, "round": 3, "model_root": BASE, "num_aggregators": 2}
    return replace(
        blank,
        block=replace(blank.block, number=number),
        round=replace(blank.round, **defaults | view),
        me=me,
        free_stake=free,
        credit=credit,
    )


def do_of(action) -> object:
    return action.do if isinstance(action, Act) else type(action)


@pytest.mark.parametrize(
    ("phase", "me", "memory", "expected"),
    [
        (Phase.COMMIT, MEMBER, WorkerMemory(), Do.PREPARE_UPDATE),
        (Phase.COMMIT, MEMBER, READY, Do.COMMIT_UPDATE),
        (Phase.COMMIT, MEMBER, WorkerMemory(Root(bytes(32)), MINE), Do.PREPARE_UPDATE),
        (Phase.COMMIT, COMMITTED, READY, Wait),
        (Phase.COMMIT, COMMITTED, WorkerMemory(), Wait),
        (Phase.COMMIT, MEMBER, WorkerMemory(unresolved=True), Do.SETTLE_RESIDUAL),
        (Phase.COMMIT, MEMBER, WorkerMemory(sits_out=True), Wait),
        (Phase.COMMIT, replace(MEMBER, active_until=4), READY, Do.COMMIT_UPDATE),
        (Phase.COMMIT, replace(MEMBER, active_until=3), READY, Stop),
        (Phase.COMMIT, replace(MEMBER, active_from=4), READY, Wait),
        (Phase.REVEAL, COMMITTED, READY, Do.REVEAL_UPDATE),
        (Phase.REVEAL, COMMITTED, WorkerMemory(BASE, bytes(32)), Wait),
        (Phase.REVEAL, COMMITTED, WorkerMemory(), Wait),
        (Phase.REVEAL, REVEALED, READY, Wait),
        (Phase.REVEAL, MEMBER, READY, Wait),
        (Phase.REVEAL, replace(COMMITTED, active_until=3), READY, Do.REVEAL_UPDATE),
        (Phase.SCORE_COMMIT, REVEALED, READY, Wait),
        (Phase.SCORE_REVEAL, REVEALED, READY, Wait),
        (Phase.TALLY, REVEALED, READY, Do.TALLY),
        (Phase.AGGREGATE, REVEALED, READY, Wait),
        (Phase.CHALLENGE, REVEALED, READY, Wait),
        (Phase.SETTLEMENT, REVEALED, READY, Do.SETTLE),
        (Phase.COMPLETED, REVEALED, READY, Stop),
        (Phase.CANCELLED, MEMBER, READY, Stop),
        (Phase.COMMIT, NOBODY, WorkerMemory(), Stop),
        (Phase.NONE, NOBODY, WorkerMemory(), Stop),
    ],
)
def test_worker__each_phase_and_state__does_the_one_thing(blank, phase, me, memory, expected):
    assert do_of(worker.decide(at(blank, phase, me), memory, FIRST, NOW)) == expected


@pytest.mark.parametrize(
    ("phase", "me", "memory", "expected"),
    [
        (Phase.COMMIT, MEMBER, ValidatorMemory(), Wait),
        (Phase.COMMIT, replace(MEMBER, active_until=3), ValidatorMemory(), Stop),
        (Phase.REVEAL, MEMBER, ValidatorMemory(), Do.FETCH_UPDATES),
        (Phase.REVEAL, MEMBER, ValidatorMemory(looked=NOW), Wait),
        (Phase.REVEAL, MEMBER, ValidatorMemory(looked=NOW - 1), Do.FETCH_UPDATES),
        (Phase.REVEAL, replace(MEMBER, active_from=4), ValidatorMemory(), Wait),
        (Phase.SCORE_COMMIT, MEMBER, ValidatorMemory(sits_out=True), Wait),
        (Phase.SCORE_COMMIT, MEMBER, ValidatorMemory(), Do.PREPARE_SCORES),
        (Phase.SCORE_COMMIT, MEMBER, VOTED, Do.COMMIT_SCORES),
        (Phase.SCORE_COMMIT, MEMBER, ValidatorMemory(Root(bytes(32)), MINE), Do.PREPARE_SCORES),
        (Phase.SCORE_COMMIT, COMMITTED, VOTED, Wait),
        (Phase.SCORE_COMMIT, replace(MEMBER, active_from=4), VOTED, Wait),
        (Phase.SCORE_REVEAL, COMMITTED, VOTED, Do.REVEAL_SCORES),
        (Phase.SCORE_REVEAL, COMMITTED, ValidatorMemory(), Wait),
        (Phase.SCORE_REVEAL, REVEALED, VOTED, Wait),
        (Phase.SCORE_REVEAL, MEMBER, VOTED, Wait),
        (Phase.TALLY, REVEALED, VOTED, Do.TALLY),
        (Phase.AGGREGATE, REVEALED, VOTED, Wait),
        (Phase.CHALLENGE, REVEALED, VOTED, Wait),
        (Phase.SETTLEMENT, REVEALED, VOTED, Do.SETTLE),
        (Phase.COMPLETED, REVEALED, VOTED, Stop),
        (Phase.COMMIT, NOBODY, ValidatorMemory(), Stop),
    ],
)
def test_validator__each_phase_and_state__does_the_one_thing(blank, phase, me, memory, expected):
    assert do_of(validator.decide(at(blank, phase, me), memory, FIRST, NOW)) == expected


def aggregate(blank, *, start=NOW, drawn=(ME, OTHER, ZERO_ADDRESS), **view) -> Snapshot:
    order = drawn or (ZERO_ADDRESS,) * 3
    defaults = {"aggregate_start": start, "num_slots": 2, "order_drawn": bool(drawn), "order": order, "seed_block": 9}
    return at(blank, Phase.AGGREGATE, **defaults | {"phase_end": start + 50} | view)


HAVE = AggregatorMemory(BASE)


@pytest.mark.parametrize(
    ("now", "order", "memory", "expected"),
    [
        (NOW, (ME, OTHER), AggregatorMemory(), Do.PREPARE_AGGREGATE),
        (NOW, (ME, OTHER), HAVE, Do.POST_AGGREGATE),
        (NOW + 9, (ME, OTHER), HAVE, Do.POST_AGGREGATE),
        (NOW + 10, (ME, OTHER), HAVE, Wait),
        (NOW + 11, (ME, OTHER), HAVE, Wait),
        (NOW + 9, (OTHER, ME), HAVE, Wait),
        (NOW + 10, (OTHER, ME), HAVE, Do.POST_AGGREGATE),
        (NOW + 11, (OTHER, ME), AggregatorMemory(), Do.PREPARE_AGGREGATE),
        (NOW + 19, (OTHER, ME), HAVE, Do.POST_AGGREGATE),
        (NOW + 20, (OTHER, ME), HAVE, Do.COMMIT_AGGREGATE),
        (NOW + 20, (OTHER, ME), AggregatorMemory(), Do.PREPARE_AGGREGATE),
        (NOW + 20, (OTHER, ME), AggregatorMemory(BASE, 9), Do.POST_AGGREGATE),
        (NOW + 20, (OTHER, ME), AggregatorMemory(BASE, 10), Wait),
        (NOW + 9, (OTHER, ZERO_ADDRESS), HAVE, Wait),
        (NOW + 10, (OTHER, ZERO_ADDRESS), HAVE, Do.COMMIT_AGGREGATE),
        (NOW + 11, (OTHER, ZERO_ADDRESS), AggregatorMemory(BASE, 9), Do.POST_AGGREGATE),
        (NOW + 49, (OTHER, THIRD), HAVE, Do.COMMIT_AGGREGATE),
        (NOW + 50, (OTHER, THIRD), HAVE, Wait),
        (NOW + 51, (OTHER, THIRD), HAVE, Wait),
    ],
)
def test_aggregator__slots_and_open_window__posts_when_it_may(blank, now, order, memory, expected):
    snapshot = aggregate(blank, drawn=(*order, ZERO_ADDRESS))
    assert do_of(aggregator.decide(snapshot, memory, FIRST, now)) == expected


def test_aggregator__second_slot__waits_exactly_for_it(blank):
    action = aggregator.decide(aggregate(blank, drawn=(OTHER, ME, ZERO_ADDRESS)), HAVE, FIRST, NOW)
    assert action == Wait("for another's slot to end", until=NOW + 10)


@pytest.mark.parametrize(
    ("number", "aggregators", "expected"),
    [(9, 2, Wait), (10, 2, Do.DRAW_ORDER), (9, 1, Wait), (10, 1, Do.POST_AGGREGATE)],
)
def test_aggregator__before_the_draw__waits_for_the_seed(blank, number, aggregators, expected):
    snapshot = aggregate(blank, drawn=(), number=number, num_aggregators=aggregators)
    assert do_of(aggregator.decide(snapshot, HAVE, FIRST, NOW)) == expected


def test_aggregator__alone_before_the_seed__computes_meanwhile(blank):
    snapshot = aggregate(blank, drawn=(), number=9, num_aggregators=1)
    assert aggregator.decide(snapshot, AggregatorMemory(), FIRST, NOW) == Act(Do.PREPARE_AGGREGATE)


def test_aggregator__third_in_line_in_the_open_window__leaves_it_to_the_first(blank):
    snapshot = aggregate(blank)
    assert aggregator.decide(snapshot, HAVE, THIRD_IN_LINE, NOW + 23) == Wait(
        "for another to commit aggregate", until=NOW + 24
    )
    assert aggregator.decide(snapshot, HAVE, THIRD_IN_LINE, NOW + 24) == Act(Do.COMMIT_AGGREGATE)


def test_aggregator__too_little_free_stake_for_the_bond__waits_for_more(blank):
    bond = blank.task.economics.aggregator_bond
    short = aggregate(blank, free=bond - 1)
    assert isinstance(aggregator.decide(short, HAVE, FIRST, NOW), Wait)
    assert aggregator.decide(aggregate(blank, free=bond), HAVE, FIRST, NOW) == Act(Do.POST_AGGREGATE)


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (Phase.COMMIT, Wait),
        (Phase.TALLY, Do.TALLY),
        (Phase.CHALLENGE, Wait),
        (Phase.SETTLEMENT, Do.SETTLE),
        (Phase.COMPLETED, Stop),
    ],
)
def test_aggregator__other_phases__does_the_chores(blank, phase, expected):
    assert do_of(aggregator.decide(at(blank, phase), HAVE, FIRST, NOW)) == expected


@pytest.mark.parametrize(("now", "acts"), [(END - 1, True), (END, False), (END + 1, False)])
@pytest.mark.parametrize(
    ("decide", "phase", "me", "memory"),
    [
        (worker.decide, Phase.COMMIT, MEMBER, READY),
        (worker.decide, Phase.REVEAL, COMMITTED, READY),
        (validator.decide, Phase.SCORE_COMMIT, MEMBER, VOTED),
        (validator.decide, Phase.SCORE_REVEAL, COMMITTED, VOTED),
    ],
)
def test_decide__at_the_deadline__acts_only_before_it(blank, decide, phase, me, memory, now, acts):
    action = decide(at(blank, phase, me), memory, FIRST, now)
    assert isinstance(action, Act) == acts
    assert acts or action.every_block


@pytest.mark.parametrize(("now", "expected"), [(NOW + 7, Wait), (NOW + 8, Do.SETTLE)])
def test_chores__fifty_dead_accounts_first__wait_no_longer_than_four(blank, now, expected):
    standing = Standing(ME, (*(account_of(100 + i) for i in range(50)), ME), NOW)
    assert do_of(chores.decide(at(blank, Phase.SETTLEMENT), standing, now)) == expected


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (WorkerMemory(BASE, MINE), Do.REVEAL_UPDATE),
        (WorkerMemory(BASE, MINE, publish_due=NOW + 1, reveal_by=NOW + 5), Wait),
        (WorkerMemory(BASE, MINE, publish_due=NOW, reveal_by=NOW + 5), Do.REVEAL_UPDATE),
        (WorkerMemory(BASE, MINE, publish_due=NOW + 4, reveal_by=NOW + 1), Wait),
        (WorkerMemory(BASE, MINE, publish_due=NOW + 4, reveal_by=NOW), Do.REVEAL_UPDATE),
    ],
)
def test_worker__upload_under_way__reveals_with_it_or_when_time_is_short(blank, memory, expected):
    assert do_of(worker.decide(at(blank, Phase.REVEAL, COMMITTED), memory, FIRST, NOW)) == expected


@pytest.mark.parametrize("phase", [Phase.REVEAL, Phase.SCORE_COMMIT, Phase.SCORE_REVEAL, Phase.AGGREGATE])
def test_worker__revealed_without_its_bytes__keeps_publishing(blank, phase):
    due = WorkerMemory(BASE, MINE, publish_due=NOW)
    assert worker.decide(at(blank, phase, REVEALED), due, FIRST, NOW) == Act(Do.PUBLISH_UPDATE)
    later = worker.decide(at(blank, phase, REVEALED), replace(due, publish_due=NOW + 2), FIRST, NOW)
    assert (type(later), later.until) == (Wait, NOW + 2)


@pytest.mark.parametrize(
    ("gathered", "deadline", "expected"),
    [
        (3, NOW + 5, Do.PREPARE_SCORES),
        (2, NOW + 5, Wait),
        (2, NOW + 1, Wait),
        (2, NOW, Do.PREPARE_SCORES),
        (2, NOW - 1, Do.PREPARE_SCORES),
    ],
)
def test_validator__updates_are_missing__waits_until_its_deadline(blank, gathered, deadline, expected):
    memory = ValidatorMemory(gathered=gathered, looked=NOW, deadline=deadline)
    assert do_of(validator.decide(at(blank, Phase.SCORE_COMMIT, revealed=3), memory, FIRST, NOW)) == expected


@pytest.mark.parametrize("standing", [FIRST, THIRD_IN_LINE])
def test_aggregator__seed_is_readable__draws_whatever_its_turn(blank, standing):
    snapshot = aggregate(blank, drawn=(), number=10)
    assert aggregator.decide(snapshot, HAVE, standing, NOW) == Act(Do.DRAW_ORDER)


@pytest.mark.parametrize(("number", "expected"), [(208, Do.POST_AGGREGATE), (209, Do.DRAW_ORDER), (400, Do.DRAW_ORDER)])
def test_aggregator__alone_with_an_old_seed__draws_or_rolls_it(blank, number, expected):
    snapshot = aggregate(blank, drawn=(), number=number, num_aggregators=1)
    assert do_of(aggregator.decide(snapshot, HAVE, FIRST, NOW)) == expected


def test_aggregator__sits_out__waits_for_the_next_round(blank):
    snapshot = aggregate(blank)
    action = aggregator.decide(snapshot, AggregatorMemory(sits_out=True), FIRST, NOW)
    assert (type(action), action.until) == (Wait, snapshot.round.phase_end)


@pytest.mark.parametrize(
    ("now", "drawn", "memory", "expected"),
    [
        (NOW, (), HAVE, Wait),
        (NOW + 19, (OTHER, THIRD, ZERO_ADDRESS), HAVE, Wait),
        (NOW + 20, (OTHER, THIRD, ZERO_ADDRESS), AggregatorMemory(), Do.PREPARE_AGGREGATE),
        (NOW + 20, (OTHER, THIRD, ZERO_ADDRESS), HAVE, Do.COMMIT_AGGREGATE),
        (NOW + 21, (OTHER, THIRD, ZERO_ADDRESS), AggregatorMemory(BASE, 9), Do.POST_AGGREGATE),
    ],
)
def test_aggregator__no_room_for_it__plays_the_open_window_alone(blank, now, drawn, memory, expected):
    snapshot = replace(aggregate(blank, drawn=drawn, num_aggregators=3), me=NOBODY)
    assert do_of(aggregator.decide(snapshot, memory, FIRST, now)) == expected


def test_aggregator__late_for_a_task_with_room__stops(blank):
    snapshot = replace(aggregate(blank, num_aggregators=2), me=NOBODY)
    assert isinstance(aggregator.decide(snapshot, HAVE, FIRST, NOW).error, NotEligible)


@pytest.mark.parametrize(("now", "expected"), [(NOW + 3, Wait), (NOW + 4, Do.SETTLE), (NOW + 5, Do.SETTLE)])
def test_chores__third_in_line__waits_two_turns(blank, now, expected):
    action = chores.decide(at(blank, Phase.SETTLEMENT), THIRD_IN_LINE, now)
    assert do_of(action) == expected
    assert not isinstance(action, Wait) or action.until == NOW + 4


def test_chores__settlement__the_poster_goes_first(blank):
    snapshot = at(blank, Phase.SETTLEMENT, aggregator=ME)
    assert chores.decide(snapshot, THIRD_IN_LINE, NOW) == Act(Do.SETTLE)
    assert isinstance(chores.decide(snapshot, replace(FIRST, me=OTHER), NOW), Wait)


@pytest.mark.parametrize("first", [ZERO_ADDRESS, OTHER, account_of(77)])
def test_standing__ranks__are_each_given_once(first):
    roster = (ME, OTHER, THIRD)
    assert sorted(Standing(account, roster, 0).rank(first) for account in roster) == [0, 1, 2]


def test_roster__one_account_in_two_roles__stands_in_it_once():
    assert roster_of([OTHER], [OTHER, ME], [THIRD]) == (OTHER, ME, THIRD)


@pytest.mark.parametrize(("now", "expected"), [(1_999, Wait), (2_000, Do.START_TASK), (2_001, Do.START_TASK)])
def test_chores__enrolment_ends_with_the_minima__is_started(blank, now, expected):
    view = {"num_workers": 1, "num_validators": 1, "num_aggregators": 0, "phase_end": 2_000, "round": 0}
    assert do_of(chores.decide(at(blank, Phase.ENROLMENT, **view), FIRST, now)) == expected


def test_chores__enrolment_ends_without_the_minima__is_cancelled(blank):
    view = {"num_workers": 0, "num_validators": 1, "num_aggregators": 0, "phase_end": 2_000, "round": 0}
    assert chores.decide(at(blank, Phase.ENROLMENT, **view), FIRST, 2_000) == Act(Do.CANCEL_TASK)


@pytest.mark.parametrize("role", ENROLLED_ROLES)
@pytest.mark.parametrize(
    ("now", "missing", "taken", "error"),
    [
        (1_999, 0, 0, None),
        (2_000, 0, 0, NotEligible),
        (2_001, 0, 0, NotEligible),
        (1_999, 1, 0, StakeTooLow),
        (1_999, 0, 99, NotEligible),
    ],
)
def test_enrolment__each_reason__enrols_or_says_why_not(blank, role, now, missing, taken, error):
    required = duties.required_stake(blank.task, role)
    counts = {"num_workers": taken, "num_validators": taken, "num_aggregators": taken}
    snapshot = at(blank, Phase.ENROLMENT, NOBODY, free=required - missing, phase_end=2_000, round=0, **counts)
    action = duties.before_the_rounds(snapshot, role, FIRST, now)
    if error is None:
        assert action == Act(Do.ENROL)
    elif role is Role.AGGREGATOR and taken:
        assert action == Wait("for others to enrol", until=2_000)  # and plays the open windows
        assert duties.may_join(snapshot, role, now) is False
    else:
        assert isinstance(action.error, error)
        assert duties.may_join(snapshot, role, now) is False


def test_enrolment__stake_too_low__says_how_much_is_missing(blank):
    required = duties.required_stake(blank.task, Role.WORKER)
    snapshot = at(blank, Phase.ENROLMENT, NOBODY, free=required - 7, phase_end=2_000, round=0)
    action = duties.before_the_rounds(snapshot, Role.WORKER, FIRST, 1_500)
    assert "`chainfl stake deposit 7`" in action.error.hint


def test_task__unknown__is_a_usage_error(blank):
    action = worker.decide(at(blank, Phase.NONE, NOBODY, round=0), WorkerMemory(), FIRST, NOW)
    assert isinstance(action.error, UsageError)


@pytest.mark.parametrize(("claim", "credit", "expected"), [(True, 5, Do.CLAIM), (True, 0, Stop), (False, 5, Stop)])
def test_task__over__claims_if_asked_to(blank, claim, credit, expected):
    snapshot = at(blank, Phase.COMPLETED, credit=credit)
    assert do_of(worker.decide(snapshot, READY, FIRST, NOW, claim=claim)) == expected


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("me", [NOBODY, MEMBER, COMMITTED, REVEALED, replace(MEMBER, active_until=2)])
@pytest.mark.parametrize("now", [0, END - 1, END, END + 1, 2**40])
def test_decide__any_state__is_total(blank, phase, me, now):
    snapshot = at(blank, phase, me)
    for action in (
        worker.decide(snapshot, WorkerMemory(), FIRST, now),
        validator.decide(snapshot, ValidatorMemory(), FIRST, now),
        aggregator.decide(snapshot, AggregatorMemory(), FIRST, now),
    ):
        assert isinstance(action, Act | Wait | Stop)

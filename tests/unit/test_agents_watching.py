"""What a watcher does next, as tables over what it sees and found; each deadline at −1, 0 and +1."""

from __future__ import annotations

from dataclasses import replace

import pytest
from agents_world import World
from fake_chain import NO_CID, TASK, account_of

from chainfl.agents.cases import Against, Case, CaseFile
from chainfl.agents.journal import Journal
from chainfl.agents.ports import AnsweredDemand
from chainfl.agents.watching import (
    AggregateFinding,
    Announce,
    AnswerDemand,
    AnswerGame,
    Bytes,
    DemandChunk,
    Drop,
    EndChallenge,
    EndDemand,
    EndGame,
    Findings,
    GameFinding,
    LookAtAggregate,
    LookAtAnswers,
    LookAtGame,
    LookAtUpdates,
    OpenCase,
    OpenGame,
    OwnChallenge,
    PointAt,
    Prove,
    Rest,
    StartGame,
    UpdateFinding,
    Watch,
    next_move,
)
from chainfl.errors import JournalDamaged
from chainfl.tasks.spec import TOKEN
from chainfl.tasks.state import (
    ZERO_ADDRESS,
    Challenge,
    Claim,
    Demand,
    Game,
    GameRecord,
    Phase,
    PostedAggregate,
    Role,
    Target,
    Verdict,
)
from chainfl.types import Root, Wei

ME, OTHER = account_of(1), account_of(2)
SALT = b"\x07" * 32
NOW, POSTED_AT = 5_000, 4_999
RIGHT = Claim(Root(b"\x01" * 32), Root(bytes(32)), ())
WRONG = Claim(Root(b"\x02" * 32), Root(bytes(32)), ())
POSTED = PostedAggregate(3, 1, OTHER, WRONG, NO_CID, NO_CID, 9)
POSTED_RIGHT = replace(POSTED, claim=RIGHT)
GAME = Game(ME, 3, 1, Target.MODEL, 0, 3, 0, True, True, NOW + 5, bytes(32), ZERO_ADDRESS, Wei(50), RIGHT.model_root)
RECORD = GameRecord(0, ME, 3, 1, Target.MODEL, 0, RIGHT.model_root, (), None)
DEMAND = Demand(ME, Wei(2), 3, 4, 4, NOW + 5, False, True)
BOND = OwnChallenge(Challenge(ME, b"\x09" * 32, 3, 1, Wei(50), 8), Verdict.OPEN)
AGAINST_AGGREGATE = Case(Against.AGGREGATE, 3, 1, 0, b"proof", SALT)
AGAINST_UPDATE = Case(Against.UPDATE, 3, 0, 4, b"proof", SALT)
IN_GAME = Case(Against.GAME, 3, 1, 0, b"proof", SALT)
SUSPECT = UpdateFinding(4, Bytes.WRONG, b"proof", "value out of range")
MISSING = UpdateFinding(4, Bytes.MISSING, why="nobody has it")
SOUND = UpdateFinding(4, Bytes.SOUND)
LEADS = UpdateFinding(4, Bytes.WRONG, why="another root", num_answers=1, suspect=7, leads=True)


@pytest.fixture(scope="module")
def blank(tmp_path_factory) -> Watch:
    world = World(tmp_path_factory.mktemp("world"), workers=1, validators=1, aggregators=1)
    seen = world.ports[account_of(100)].snapshot(TASK, Role.WORKER)
    block = replace(seen.block, number=10, timestamp=NOW)
    view = replace(seen.round, round=3, attempt=1, revealed=1, posted_at=POSTED_AT)
    return Watch(block, TASK, seen.task, view, ME, 10**24, None, (), (), ())


def seen(blank: Watch, phase: Phase, *, now: int = NOW, ends: int = NOW + 2, **changes) -> Watch:
    view = replace(blank.round, phase=phase, phase_end=ends)
    return replace(blank, round=view, block=replace(blank.block, timestamp=now), **changes)


def move_of(watch: Watch, findings: Findings | None = None, *cases: Case, answers: bool = False):
    found = Findings() if findings is None else findings
    return next_move(watch, found, {case.key: case for case in cases}, salt=SALT, answers=answers)


def looked(*updates: UpdateFinding, **changes) -> Findings:
    return Findings(updates={u.index: u for u in updates}, looked_at=NOW, recomputed_at=NOW, **changes)


# --- updates -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "phase",
    [
        *(Phase.REVEAL, Phase.SCORE_COMMIT, Phase.SCORE_REVEAL, Phase.ANSWER, Phase.TALLY),
        *(Phase.AGGREGATE, Phase.CHALLENGE, Phase.DISPUTE),
    ],
)
def test_updates__not_looked_at_yet__are_looked_at(blank, phase):
    assert move_of(seen(blank, phase)) == LookAtUpdates()


def test_updates__not_looked_at_in_challenge__come_after_the_aggregate_and_are_still_slashed(blank):
    watch = seen(blank, Phase.CHALLENGE, posted=POSTED_RIGHT)
    assert move_of(watch) == LookAtAggregate()
    judged = Findings(recomputed_at=NOW, aggregate=AggregateFinding(1))
    assert move_of(watch, judged) == LookAtUpdates()
    assert isinstance(move_of(watch, replace(judged, looked_at=NOW)), Rest)
    assert isinstance(move_of(watch, looked(SUSPECT, aggregate=AggregateFinding(1))), OpenCase)


@pytest.mark.parametrize("phase", [Phase.ENROLMENT, Phase.COMMIT, Phase.SETTLEMENT, Phase.COMPLETED])
def test_updates__other_phase__nothing_to_look_at(blank, phase):
    assert isinstance(move_of(seen(blank, phase)), Rest)


def test_updates__all_sound__rests(blank):
    assert isinstance(move_of(seen(blank, Phase.SCORE_COMMIT), looked(SOUND)), Rest)


@pytest.mark.parametrize(("now", "expected"), [(NOW, Rest), (NOW + 1, LookAtUpdates)])
def test_updates__one_is_missing__is_looked_for_again_each_second(blank, now, expected):
    watch = seen(blank, Phase.REVEAL, now=now)
    assert isinstance(move_of(watch, looked(MISSING)), expected)


@pytest.mark.parametrize(("left", "expected"), [(12, Rest), (11, DemandChunk), (10, DemandChunk)])
def test_updates__missing_after_a_quarter_of_the_window__a_chunk_is_demanded(blank, left, expected):
    watch = seen(blank, Phase.SCORE_COMMIT, ends=NOW + left)  # the local window has 15 s
    assert isinstance(move_of(watch, looked(MISSING)), expected)


def test_updates__demanded_already__not_again(blank):
    watch = seen(blank, Phase.SCORE_COMMIT, demands=(DEMAND,))
    assert isinstance(move_of(watch, looked(MISSING)), Rest)


def test_updates__no_money_for_the_fee__no_demand(blank):
    watch = seen(blank, Phase.SCORE_COMMIT, free_stake=0)
    assert isinstance(move_of(watch, looked(MISSING)), Rest)


def test_updates__accepted_and_gone_in_challenge__are_demanded_late(blank):
    found = looked(MISSING, unavailable=frozenset({4}))
    assert isinstance(move_of(seen(blank, Phase.CHALLENGE, posted=POSTED), found), DemandChunk)


def answered(*fees: int, late: bool = False, challenger=OTHER) -> tuple[AnsweredDemand, ...]:
    """As many answered demands for the suspect update, with these fees in tokens."""
    return tuple(
        AnsweredDemand(
            replace(
                DEMAND, fee=Wei(fee * TOKEN), chunk_index=place, is_late=late, is_open=False, challenger=challenger
            ),
            OTHER,
            b"opening",
        )
        for place, fee in enumerate(fees)
    )


def test_updates__wrong_bytes__a_chunk_is_demanded_at_once(blank):
    assert move_of(seen(blank, Phase.REVEAL), looked(replace(LEADS, leads=False, num_answers=0))) == DemandChunk(4, 7)


@pytest.mark.parametrize(("state", "asked"), [(MISSING, Rest), (replace(MISSING, num_answers=1), LookAtAnswers)])
def test_updates__answers_and_what_was_read_of_them__are_read_when_they_differ(blank, state, asked):
    watch = seen(blank, Phase.SCORE_COMMIT, ends=NOW + 12)
    assert isinstance(move_of(watch, looked(state)), asked)
    assert isinstance(move_of(replace(watch, answered=answered(2)), looked(MISSING)), LookAtAnswers)


def test_updates__sound_or_proven__answers_are_not_read(blank):
    watch = seen(blank, Phase.SCORE_COMMIT, answered=answered(2))
    assert isinstance(move_of(watch, looked(SOUND)), Rest)
    assert isinstance(move_of(watch, looked(SUSPECT)), OpenCase)


def test_updates__missing_and_answered_without_fault__is_not_asked_for_again_before_the_tally(blank):
    found = looked(replace(MISSING, num_answers=1), unavailable=frozenset({4}))
    watch = seen(blank, Phase.SCORE_COMMIT, answered=answered(2))
    assert isinstance(move_of(watch, found), Rest)
    late = seen(blank, Phase.CHALLENGE, posted=POSTED, answered=answered(2))
    assert isinstance(move_of(late, found), DemandChunk)
    again = replace(late, answered=answered(2, late=True))
    assert isinstance(move_of(again, found), Rest)


@pytest.mark.parametrize(
    ("fees", "mine", "expected"),
    [
        ((2,), True, DemandChunk),  # 2 + 4 tokens
        ((2, 4), True, DemandChunk),  # 14
        ((2, 4, 8), True, DemandChunk),  # 30, and half of a whole stake is 50
        ((2, 4, 8, 16), True, Rest),  # 62
        ((2, 4, 8, 16), False, DemandChunk),  # 32
        ((2, 4, 8, 16, 32), False, Rest),  # 64
    ],
)
def test_updates__answers_lead_on__are_followed_while_the_fees_stay_below_the_prize(blank, fees, mine, expected):
    told = answered(*fees, challenger=ME if mine else OTHER)
    watch = seen(blank, Phase.SCORE_COMMIT, answered=told)
    assert isinstance(move_of(watch, looked(replace(LEADS, num_answers=len(fees)))), expected)


def test_updates__answers_lead_on_but_did_so_in_vain_before__are_not_followed(blank):
    watch = seen(blank, Phase.SCORE_COMMIT, answered=answered(2))
    assert isinstance(move_of(watch, looked(LEADS, in_vain=frozenset({4}))), Rest)


@pytest.mark.parametrize(("tokens", "expected"), [(4, DemandChunk), (3, Rest)])
def test_updates__next_fee__is_the_doubled_one(blank, tokens, expected):
    watch = seen(blank, Phase.SCORE_COMMIT, answered=answered(2), free_stake=tokens * TOKEN)
    assert isinstance(move_of(watch, looked(LEADS)), expected)


def test_findings__next_round__remember_whose_answers_showed_nothing():
    shown = replace(SUSPECT, index=5, num_answers=2)
    found = looked(LEADS, shown, replace(MISSING, index=6), in_vain=frozenset({9}))
    assert found.next_round() == Findings(in_vain=frozenset({4, 9}))


@pytest.mark.parametrize("phase", [Phase.REVEAL, Phase.TALLY, Phase.AGGREGATE, Phase.DISPUTE])
def test_updates__wrong__a_case_is_opened(blank, phase):
    assert move_of(seen(blank, phase), looked(SUSPECT)) == OpenCase(AGAINST_UPDATE)


def test_updates__wrong_and_round_in_settlement__too_late(blank):
    assert isinstance(move_of(seen(blank, Phase.SETTLEMENT), looked(SUSPECT)), Rest)


# --- cases ---------------------------------------------------------------------------------------


def test_case__not_announced__is_announced(blank):
    watch = seen(blank, Phase.CHALLENGE, posted=POSTED)
    assert move_of(watch, looked(), AGAINST_AGGREGATE) == Announce(AGAINST_AGGREGATE)


def test_case__no_money_for_the_bond__waits(blank):
    watch = seen(blank, Phase.CHALLENGE, posted=POSTED, free_stake=0)
    found = looked(aggregate=AggregateFinding(1, b"proof"))
    assert isinstance(move_of(watch, found, AGAINST_AGGREGATE), Rest)


@pytest.mark.parametrize(("announced", "expected"), [(10, Rest), (9, Prove)])
def test_case__announced__is_proven_a_block_later(blank, announced, expected):
    watch = seen(blank, Phase.CHALLENGE, posted=POSTED, challenges=(BOND,))
    found = looked(aggregate=AggregateFinding(1, b"proof"), announced={AGAINST_AGGREGATE.key: announced})
    assert isinstance(move_of(watch, found, AGAINST_AGGREGATE), expected)


@pytest.mark.parametrize(("left", "expected"), [(1, Prove), (0, Rest), (-1, Rest)])
def test_case__proof_window__ends_where_the_contract_ends_it(blank, left, expected):
    windows = blank.task.windows
    now = POSTED_AT + windows.challenge + windows.proof - left
    watch = seen(blank, Phase.DISPUTE, now=now, ends=now + left, posted=POSTED, challenges=(BOND,))
    found = looked(SOUND, announced={AGAINST_AGGREGATE.key: 8})
    assert isinstance(move_of(watch, found, AGAINST_AGGREGATE), expected)


def test_case__attempt_fell_to_another__is_dropped_once_the_bond_is_back(blank):
    watch = seen(replace(blank, round=replace(blank.round, attempt=2)), Phase.AGGREGATE)
    assert move_of(watch, looked(), AGAINST_AGGREGATE) == Drop(AGAINST_AGGREGATE)
    owed = replace(watch, challenges=(replace(BOND, verdict=Verdict.REFUTED),))
    assert move_of(owed, looked(), AGAINST_AGGREGATE) == EndChallenge(BOND.challenge)


def test_case__against_an_update_of_the_last_round__is_dropped(blank):
    old = replace(AGAINST_UPDATE, round=2)
    assert move_of(seen(blank, Phase.REVEAL), looked(SOUND), old) == Drop(old)


# --- the aggregate -------------------------------------------------------------------------------


def test_aggregate__posted__is_looked_at(blank):
    assert move_of(seen(blank, Phase.CHALLENGE, posted=POSTED)) == LookAtAggregate()


def test_aggregate__right__rests(blank):
    found = looked(aggregate=AggregateFinding(1))
    assert isinstance(move_of(seen(blank, Phase.CHALLENGE, posted=POSTED_RIGHT), found), Rest)


def test_aggregate__next_attempt__is_looked_at_again(blank):
    found = replace(looked(aggregate=AggregateFinding(1)), recomputed_at=NOW - 1)
    watch = seen(replace(blank, round=replace(blank.round, attempt=2)), Phase.CHALLENGE, posted=POSTED)
    assert move_of(watch, found) == LookAtAggregate()


def test_aggregate__wrong_with_bytes__a_case_is_opened(blank):
    found = looked(aggregate=AggregateFinding(1, b"proof"))
    assert move_of(seen(blank, Phase.CHALLENGE, posted=POSTED), found) == OpenCase(AGAINST_AGGREGATE)


def test_aggregate__wrong_without_bytes__a_game_is_started_once(blank):
    withheld = (Target.MODEL, 0, RIGHT.model_root)
    found = looked(aggregate=AggregateFinding(1, None, withheld))
    watch = seen(blank, Phase.CHALLENGE, posted=POSTED)
    assert move_of(watch, found) == StartGame(*withheld)
    playing = replace(watch, games=(OpenGame(RECORD, GAME),))
    assert isinstance(move_of(playing, found), Rest)


@pytest.mark.parametrize(
    ("others", "bonds", "expected"),
    [(15, 1, StartGame), (16, 1, Rest), (16, 2, StartGame), (48, 7, Rest), (48, 8, StartGame), (272, 1 << 20, Rest)],
)
def test_aggregate__other_games_are_open__costs_what_the_chain_asks(blank, others, bonds, expected):
    found = looked(aggregate=AggregateFinding(1, None, (Target.MODEL, 0, RIGHT.model_root)))
    crowded = replace(blank, round=replace(blank.round, games=others))
    free = bonds * blank.task.economics.challenger_bond
    assert isinstance(move_of(seen(crowded, Phase.CHALLENGE, posted=POSTED, free_stake=free), found), expected)


def test_aggregate__wrong_in_dispute__too_late_to_start(blank):
    found = looked(aggregate=AggregateFinding(1, b"proof"))
    assert isinstance(move_of(seen(blank, Phase.DISPUTE, posted=POSTED), found), Rest)


# --- games ---------------------------------------------------------------------------------------

ASKED = replace(GAME, answers_turn=False)


@pytest.mark.parametrize(("left", "expected"), [(1, Rest), (0, EndGame), (-1, EndGame)])
def test_game__poster_is_silent__is_ended_at_the_deadline(blank, left, expected):
    game = OpenGame(RECORD, replace(GAME, deadline=NOW + left))
    assert isinstance(move_of(seen(blank, Phase.DISPUTE, posted=POSTED, games=(game,)), looked(SOUND)), expected)


def test_game__answered__is_looked_at_then_pointed_then_proven(blank):
    watch = seen(blank, Phase.DISPUTE, posted=POSTED, games=(OpenGame(RECORD, ASKED),))
    assert move_of(watch) == LookAtGame(watch.games[0])
    pointer = looked(games={0: GameFinding(0, 0, (1, b"node", (b"sibling",)))})
    assert move_of(watch, pointer) == PointAt(0, 1, b"node", (b"sibling",))
    shown = looked(games={0: GameFinding(0, 0, proof=b"proof")})
    assert move_of(watch, shown) == OpenCase(IN_GAME)
    assert move_of(watch, shown, IN_GAME) == Announce(IN_GAME)


def test_game__answered_again__the_last_finding_is_stale(blank):
    record = replace(RECORD, moves=("nodes",))
    watch = seen(blank, Phase.DISPUTE, posted=POSTED, games=(OpenGame(record, ASKED),))
    assert isinstance(move_of(watch, looked(games={0: GameFinding(0, 0, (1, b"node", ()))})), LookAtGame)


def test_game__attempt_fell__gives_its_bond_back(blank):
    watch = seen(
        replace(blank, round=replace(blank.round, attempt=2)), Phase.AGGREGATE, games=(OpenGame(RECORD, GAME),)
    )
    assert move_of(watch, looked(SOUND)) == EndGame(0)


def test_game__of_another_who_is_silent__anybody_ends_it(blank):
    game = OpenGame(RECORD, replace(ASKED, challenger=OTHER, deadline=NOW))
    assert move_of(seen(blank, Phase.DISPUTE, posted=POSTED_RIGHT, games=(game,))) == EndGame(0)


# --- what was refused -----------------------------------------------------------------------------


def test_refused__move_that_the_chain_did_not_take__the_next_one_is_made(blank):
    watch = seen(blank, Phase.CHALLENGE, posted=POSTED, challenges=(BOND,))
    found = looked(aggregate=AggregateFinding(1, b"proof"), announced={AGAINST_UPDATE.key: 9})
    cases = {AGAINST_UPDATE.key: AGAINST_UPDATE}
    first = next_move(watch, found, cases, salt=SALT)
    assert first == Prove(AGAINST_UPDATE)
    assert next_move(watch, found, cases, salt=SALT, refused={first}) == OpenCase(AGAINST_AGGREGATE)


# --- serving others ------------------------------------------------------------------------------


@pytest.mark.parametrize(("answers", "expected"), [(False, Rest), (True, AnswerDemand)])
def test_answers__demand_for_what_is_held__only_if_asked_to(blank, answers, expected):
    demand = replace(DEMAND, challenger=OTHER)
    watch = seen(blank, Phase.SCORE_COMMIT, demands=(demand,))
    assert isinstance(move_of(watch, looked(SOUND), answers=answers), expected)


@pytest.mark.parametrize(("posted", "expected"), [(POSTED, Rest), (POSTED_RIGHT, AnswerGame)])
def test_answers__game_about_a_right_aggregate__is_answered(blank, posted, expected):
    game = OpenGame(RECORD, replace(GAME, challenger=OTHER))
    watch = seen(blank, Phase.DISPUTE, posted=posted, games=(game,))
    assert isinstance(move_of(watch, looked(expected=RIGHT), answers=True), expected)


@pytest.mark.parametrize(("left", "expected"), [(1, Rest), (0, EndDemand), (-1, EndDemand)])
def test_demand__own_and_unanswered__is_closed_at_the_deadline(blank, left, expected):
    watch = seen(blank, Phase.ANSWER, demands=(replace(DEMAND, deadline=NOW + left),))
    assert isinstance(move_of(watch, looked(MISSING)), expected)


# --- the journal ---------------------------------------------------------------------------------


def test_cases__written_and_read_again__are_the_same(tmp_path):
    journal = Journal(tmp_path)
    cases = CaseFile(journal)
    for case in (AGAINST_UPDATE, IN_GAME, AGAINST_AGGREGATE):
        cases.open(case)
    assert sorted(case.key for case in cases.all()) == sorted(
        c.key for c in (AGAINST_AGGREGATE, AGAINST_UPDATE, IN_GAME)
    )
    cases.close(IN_GAME)
    assert set(cases.all()) == {AGAINST_AGGREGATE, AGAINST_UPDATE}


def test_cases__proof_is_damaged__says_so(tmp_path):
    cases = CaseFile(Journal(tmp_path))
    cases.open(AGAINST_UPDATE)
    next(tmp_path.glob("proof-*.bin")).write_bytes(b"another")
    with pytest.raises(JournalDamaged, match="not the one that was announced"):
        list(cases.all())


def test_cases__killed_before_the_record__the_case_does_not_exist(tmp_path):
    journal = Journal(tmp_path)
    journal.keep(f"proof-{AGAINST_UPDATE.key}.bin", b"proof")
    assert list(CaseFile(journal).all()) == []

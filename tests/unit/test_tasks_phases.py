"""The phase derivation at each deadline, and the early ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chainfl.tasks import phases
from chainfl.tasks.phases import Clock, Docket, Progress
from chainfl.tasks.spec import DEFAULT_ECONOMICS, TOKEN
from chainfl.tasks.state import Outcome, Phase, Windows

W = Windows(commit=20, reveal=10, score_commit=15, score_reveal=15, slot=10, challenge=3, answer=5, proof=5)
OPEN = phases.open_round(W, 1, 1000, workers=2, validators=2)
ACTED = replace(OPEN, committed=2, revealed=2, scores_committed=2)
NO_PROGRESS = Progress()
NO_DOCKET = Docket()
POSTED = Progress(aggregate_start=2000, posted_at=2005, num_slots=1)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (1000, (Phase.COMMIT, 1020)),
        (1019, (Phase.COMMIT, 1020)),
        (1020, (Phase.REVEAL, 1030)),
        (1029, (Phase.REVEAL, 1030)),
        (1030, (Phase.SCORE_COMMIT, 1045)),
        (1044, (Phase.SCORE_COMMIT, 1045)),
        (1045, (Phase.SCORE_REVEAL, 1060)),
        (1059, (Phase.SCORE_REVEAL, 1060)),
        (1060, (Phase.TALLY, 0)),
        (1061, (Phase.TALLY, 0)),
    ],
)
def test_phase_at__each_deadline__is_half_open(now, expected):
    assert phases.phase_at(ACTED, NO_PROGRESS, NO_DOCKET, W, now) == expected


@pytest.mark.parametrize(
    ("progress", "now", "expected"),
    [
        (Progress(aggregate_start=2000, num_slots=2), 2049, (Phase.AGGREGATE, 2050)),
        (Progress(aggregate_start=2000, num_slots=2), 2050, (Phase.SETTLEMENT, 0)),
        (Progress(aggregate_start=2000, num_slots=0), 2029, (Phase.AGGREGATE, 2030)),
        (Progress(aggregate_start=2000, num_slots=0), 2030, (Phase.SETTLEMENT, 0)),
        (Progress(aggregate_start=2000, posted_at=2005, num_slots=1), 2007, (Phase.CHALLENGE, 2008)),
        (Progress(aggregate_start=2000, posted_at=2005, num_slots=1), 2008, (Phase.SETTLEMENT, 0)),
        (Progress(outcome=Outcome.NOTHING_ACCEPTED), 1060, (Phase.SETTLEMENT, 0)),
    ],
)
def test_phase_at__after_the_tally__follows_the_posting(progress, now, expected):
    assert phases.phase_at(ACTED, progress, NO_DOCKET, W, now) == expected


@pytest.mark.parametrize(
    ("docket", "now", "expected"),
    [
        (Docket(demands=1, demand_end=1070), 1069, (Phase.ANSWER, 1070)),
        (Docket(demands=1, demand_end=1070), 1070, (Phase.TALLY, 0)),
        (Docket(demands=0, demand_end=1070), 1069, (Phase.TALLY, 0)),
    ],
)
def test_phase_at__early_demands__wait_for_their_clock(docket, now, expected):
    assert phases.phase_at(ACTED, NO_PROGRESS, docket, W, now) == expected


def test_phase_at__tally_has_begun__waits_for_no_demand():
    docket = Docket(demands=1, demand_end=1070)
    assert phases.phase_at(ACTED, Progress(tallied=8), docket, W, 1069) == (Phase.TALLY, 0)


@pytest.mark.parametrize(
    ("docket", "now", "expected"),
    [
        (Docket(challenges=1), 2007, (Phase.CHALLENGE, 2008)),
        (Docket(challenges=1), 2008, (Phase.DISPUTE, 2013)),
        (Docket(challenges=1), 2012, (Phase.DISPUTE, 2013)),
        (Docket(challenges=1), 2013, (Phase.SETTLEMENT, 0)),
        (Docket(challenges=1, games=1), 2013, (Phase.DISPUTE, 0)),
        (Docket(games=1), 2008, (Phase.DISPUTE, 0)),
        (Docket(demands=1, demand_end=2010), 2020, (Phase.DISPUTE, 0)),
        (NO_DOCKET, 2008, (Phase.SETTLEMENT, 0)),
    ],
)
def test_phase_at__something_disputed__waits_for_its_end(docket, now, expected):
    assert phases.phase_at(ACTED, POSTED, docket, W, now) == expected


def test_bond_of__each_attempt__doubles():
    assert [phases.bond_of(DEFAULT_ECONOMICS, attempt) for attempt in (1, 2, 3)] == [
        200 * TOKEN,
        400 * TOKEN,
        800 * TOKEN,
    ]


def test_phase_at__nobody_committed__goes_to_settlement():
    assert phases.phase_at(OPEN, NO_PROGRESS, NO_DOCKET, W, 1020) == (Phase.SETTLEMENT, 0)


def test_phase_at__nobody_revealed__goes_to_settlement():
    assert phases.phase_at(replace(OPEN, committed=1), NO_PROGRESS, NO_DOCKET, W, 1030) == (Phase.SETTLEMENT, 0)


def test_phase_at__no_scores__goes_to_tally():
    clock = replace(OPEN, committed=1, revealed=1)
    assert phases.phase_at(clock, NO_PROGRESS, NO_DOCKET, W, 1045) == (Phase.TALLY, 0)


def test_after__last_one_acts__next_phase_begins_at_once():
    clock = phases.after_commit(phases.after_commit(OPEN, W, 1003), W, 1005)
    assert phases.phase_at(clock, NO_PROGRESS, NO_DOCKET, W, 1005) == (Phase.REVEAL, 1015)
    clock = phases.after_reveal(phases.after_reveal(clock, W, 1006), W, 1007)
    assert phases.phase_at(clock, NO_PROGRESS, NO_DOCKET, W, 1007) == (Phase.SCORE_COMMIT, 1022)
    clock = phases.after_score_commit(phases.after_score_commit(clock, W, 1008), W, 1009)
    assert phases.phase_at(clock, NO_PROGRESS, NO_DOCKET, W, 1009) == (Phase.SCORE_REVEAL, 1024)
    clock = phases.after_score_reveal(phases.after_score_reveal(clock, 1010), 1011)
    assert phases.phase_at(clock, NO_PROGRESS, NO_DOCKET, W, 1011) == (Phase.TALLY, 0)


def test_after__one_still_misses__deadlines_stay():
    assert phases.after_commit(OPEN, W, 1003) == replace(OPEN, committed=1)


@pytest.mark.parametrize(
    ("clock", "progress", "expected"),
    [
        (OPEN, NO_PROGRESS, Outcome.NO_UPDATES),
        (ACTED, NO_PROGRESS, Outcome.NO_AGGREGATE),
        (ACTED, Progress(posted_at=5), Outcome.FINAL),
        (ACTED, Progress(outcome=Outcome.QUORUM_MISSED), Outcome.QUORUM_MISSED),
    ],
)
def test_outcome_of__each_case(clock: Clock, progress: Progress, expected: Outcome):
    assert phases.outcome_of(clock, progress) is expected

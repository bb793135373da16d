"""Money: every row of the table of cases, to the wei."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainfl.tasks import payouts
from chainfl.tasks.payouts import ValidatorRecord, WorkerRecord
from chainfl.tasks.spec import DEFAULT_ECONOMICS as ECONOMICS
from chainfl.tasks.state import ABSTAIN, Outcome
from chainfl.types import Address, Wei

A, B, V, U, P = (Address(f"0x{digit * 40}") for digit in "abcde")
WORKERS = [WorkerRecord(A, Wei(100), True, 10_000, 3_000), WorkerRecord(B, Wei(300), True, 5_000, 1_000)]
VALIDATORS = [ValidatorRecord(V, Wei(300), True, 2), ValidatorRecord(U, Wei(300), True, 1)]


def settle(outcome, *, workers=WORKERS, validators=VALIDATORS, carry=0, budget=10_000, is_last=False):
    return payouts.settle_round(
        outcome,
        budget=Wei(budget),
        carry=Wei(carry),
        economics=ECONOMICS,
        workers=workers,
        validators=validators,
        poster=P if outcome is Outcome.FINAL else None,
        is_last=is_last,
    )


def test_settle__final__base_by_stake_rest_by_score():
    done = settle(Outcome.FINAL)
    assert done.paid == {A: 525 + 3675, B: 1575 + 1225, V: 1333, U: 666, P: 1000}
    assert (done.refunded, done.burned, done.carry) == (0, 0, 0)


def test_settle__no_aggregate__pays_all_but_the_aggregator():
    done = settle(Outcome.NO_AGGREGATE)
    assert done.paid == {A: 4200, B: 2800, V: 1333, U: 666}
    assert done.burned == 1000


def test_settle__quorum_missed__by_stake():
    done = settle(Outcome.QUORUM_MISSED, validators=[VALIDATORS[0]])
    assert done.paid == {A: 1750, B: 5250, V: 2000}
    assert done.burned == 1000


def test_settle__quorum_missed_and_one_refuted__is_not_paid():
    workers = [replace(WORKERS[0], is_refuted=True), WORKERS[1]]
    done = settle(Outcome.QUORUM_MISSED, workers=workers)
    assert (A in done.paid, done.paid[B]) == (False, 7000)


@pytest.mark.parametrize("outcome", [Outcome.REFUTED, Outcome.WITHHELD])
def test_settle__refuted_or_withheld__pays_all_but_the_aggregator(outcome):
    done = settle(outcome)
    assert done.paid == {A: 4200, B: 2800, V: 1333, U: 666}
    assert done.burned == 1000


def test_settle__quorum_missed_and_no_scores__validators_part_is_burned():
    assert settle(Outcome.QUORUM_MISSED, validators=[]).burned == 3000


def test_settle__nothing_accepted__pot_is_carried():
    rejected = [WorkerRecord(A, Wei(100), True, 0, 0)]
    done = settle(Outcome.NOTHING_ACCEPTED, workers=rejected, carry=50)
    assert (done.carry, done.burned, done.paid) == (7050, 1000, {V: 1333, U: 666})


def test_settle__nothing_accepted_in_the_last_round__pot_is_burned():
    done = settle(Outcome.NOTHING_ACCEPTED, workers=[], carry=50, is_last=True)
    assert (done.carry, done.burned) == (0, 8050)


def test_settle__only_the_requesters_worker_accepted__pot_is_carried():
    own = [WorkerRecord(A, Wei(100), True, 10_000, 10_000, is_requester=True)]
    done = settle(Outcome.FINAL, workers=own)
    assert done.carry == 7000
    assert A not in done.paid


def test_settle__no_updates__refunds_the_whole_budget_and_keeps_the_carry():
    done = settle(Outcome.NO_UPDATES, workers=[], validators=[], carry=9)
    assert done == payouts.Settlement({}, Wei(10_000), Wei(0), Wei(9))


def test_settle__nobody_agreed__validators_by_stake():
    done = settle(
        Outcome.FINAL, validators=[ValidatorRecord(V, Wei(300), True, 0), ValidatorRecord(U, Wei(100), True, 0)]
    )
    assert (done.paid[V], done.paid[U]) == (1500, 500)


@pytest.mark.parametrize(
    ("vote", "median", "expected"),
    [
        ((5, 100), (9, 600), True),
        ((5, 100), (9, 601), False),
        ((5, 7_500), (9, 10_000), True),
        ((5, 7_499), (9, 10_000), False),
        ((0, 0), (0, 0), True),
        ((0, 0), (1, 1), False),
        ((1, 1), (0, 0), False),
        ((ABSTAIN, 0), (0, 0), False),
    ],
)
def test_agrees__around_the_tolerance(vote, median, expected):
    assert payouts.agrees(*vote, *median) is expected


@pytest.mark.parametrize(("left", "expected"), [(1000, 200), (200, 200), (199, 199), (0, 0)])
def test_slash_amount__is_capped_at_what_is_left(left, expected):
    assert payouts.slash_amount(Wei(1000), 2000, Wei(left)) == expected


_WORKER = st.builds(
    lambda i, stake, revealed, weight, score: WorkerRecord(
        Address(f"0x{i:040x}"), Wei(stake), revealed, weight, score if weight else 0
    ),
    st.integers(0, 2**32),
    st.integers(1, 2**96 - 1),
    st.booleans(),
    st.integers(0, 10_000),
    st.integers(1, 65_535),
)
_VALIDATOR = st.builds(
    lambda i, stake, revealed, agreements: ValidatorRecord(Address(f"0x{i:040x}"), Wei(stake), revealed, agreements),
    st.integers(2**33, 2**34),
    st.integers(1, 2**96 - 1),
    st.booleans(),
    st.integers(0, 1024),
)


@settings(max_examples=100, deadline=None)
@given(
    outcome=st.sampled_from([o for o in Outcome if o is not Outcome.PENDING]),
    budget=st.integers(0, 2**100),
    carry=st.integers(0, 2**100),
    workers=st.lists(_WORKER, max_size=6),
    validators=st.lists(_VALIDATOR, max_size=4),
    is_last=st.booleans(),
)
def test_settle__any_round__never_spends_more_than_it_has(outcome, budget, carry, workers, validators, is_last):
    done = settle(outcome, workers=workers, validators=validators, carry=carry, budget=budget, is_last=is_last)
    spent = sum(done.paid.values()) + done.refunded + done.burned + done.carry
    dust = budget + carry - spent
    assert 0 <= dust <= 3 + 2 * len(workers) + len(validators)
    assert not (is_last and done.carry)

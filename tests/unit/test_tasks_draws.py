"""Who is drawn for a round: the vectors that Solidity has, and what every draw promises."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainfl.tasks.draws import Candidate, draw_workers, max_trials, next_reputation
from chainfl.tasks.state import Draw, DrawBy

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "draws.json"
CASES = json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
STAKE = 100 * 10**18


def drawn(draw: Draw, candidates: list[Candidate], round_number: int = 1, seed: bytes = bytes(32)) -> tuple[int, ...]:
    return draw_workers(draw, candidates, seed=seed, task_id=1, round_number=round_number, worker_stake=STAKE)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_draw_workers__vectors__are_whom_solidity_draws(case):
    candidates = [
        Candidate(bool(waits), int(stake), reputation)
        for waits, stake, reputation in zip(case["waiting"], case["stakes"], case["reputations"], strict=True)
    ]
    found = draw_workers(
        Draw(case["clients_per_round"], DrawBy(case["by"])),
        candidates,
        seed=bytes.fromhex(case["seed"][2:]),
        task_id=case["task_id"],
        round_number=case["round"],
        worker_stake=int(case["worker_stake"]),
    )
    assert list(found) == case["drawn"]


@settings(max_examples=200, deadline=None)
@given(
    by=st.sampled_from(DrawBy),
    wanted=st.integers(1, 30),
    waiting=st.lists(st.booleans(), min_size=1, max_size=30),
    seed=st.binary(min_size=32, max_size=32),
)
def test_draw_workers__any_pool__the_smaller_number_of_different_members(by, wanted, waiting, seed):
    found = drawn(Draw(wanted, by), [Candidate(waits, STAKE) for waits in waiting], seed=seed)
    assert len(set(found)) == len(found) == min(wanted, sum(waiting))
    assert all(waiting[index] for index in found)


def shares(by: DrawBy, candidates: list[Candidate]) -> list[float]:
    rounds = 4_000
    counts = Counter(drawn(Draw(1, by), candidates, number)[0] for number in range(1, rounds + 1))
    return [counts[index] / rounds for index in range(len(candidates))]


def test_draw_workers__by_stake__in_proportion_up_to_four_times_the_required():
    candidates = [Candidate(stake=STAKE * times // 2) for times in (2, 3, 8, 2_000)]
    assert shares(DrawBy.STAKE, candidates) == pytest.approx([2 / 21, 3 / 21, 8 / 21, 8 / 21], rel=0.2)


def test_draw_workers__by_reputation__in_proportion_down_to_the_floor():
    candidates = [Candidate(reputation=value) for value in (0, 1_000, 2_000, 6_000)]
    assert shares(DrawBy.REPUTATION, candidates) == pytest.approx([0.1, 0.1, 0.2, 0.6], rel=0.2)


def test_draw_workers__uniform__whatever_the_stake():
    candidates = [Candidate(stake=STAKE * times) for times in (1, 2, 3, 4)]
    assert shares(DrawBy.UNIFORM, candidates) == pytest.approx([0.25] * 4, rel=0.2)


def test_draw_workers__no_trial_accepts__takes_the_rest_in_order():
    first, second, third = drawn(Draw(3, DrawBy.STAKE), [Candidate(stake=0)] * 10)
    assert (second, third) == ((first + 1) % 10, (first + 2) % 10)


def test_draw_workers__nobody_waits__is_nobody():
    assert drawn(Draw(2), [Candidate(waits=False)] * 3) == ()


@pytest.mark.parametrize(("before", "weight", "after"), [(5_000, 9_999, 6_249), (5_000, 0, 3_750), (0, 0, 0)])
def test_next_reputation__goes_a_quarter_of_the_way(before, weight, after):
    assert next_reputation(before, weight) == after


def test_max_trials__largest_task__fits_a_transaction():
    assert max_trials(1_024) == 3_136

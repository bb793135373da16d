"""A draw told by its task's events: what of them it goes by, and what not."""

from __future__ import annotations

from typing import Any

import pytest

from chainfl.chain.draws import replay_draw
from chainfl.chain.events import Log
from chainfl.tasks.state import DrawBy, PoolMember, Role, WorkerDraw
from chainfl.types import Address

A, B, C = (Address("0x" + letter * 40) for letter in "abc")


def told(name: str, block: int, **values: Any) -> tuple[str, Log, dict[str, Any]]:
    return name, Log(A, (), b"", block, bytes(32), "0x", 0), values


ENROLLED = [told("Enrolled", 1, role=int(Role.WORKER), account=account, stake=100) for account in (B, A, C)]
OPENED = told("RoundOpened", 7, round=2)
DRAWN = told("WorkersDrawn", 9, round=2, workers=(C, A))


def pool(*events, by=DrawBy.UNIFORM) -> dict[str, PoolMember]:
    found = replay_draw([*ENROLLED, *events, DRAWN], 2, by)
    assert found is not None
    return {member.account: member for member in found.pool}


def test_replay_draw__nothing_else__is_the_list_and_the_block_of_the_opening():
    found = replay_draw([*ENROLLED, told("RoundOpened", 3, round=1), OPENED, DRAWN], 2, DrawBy.REPUTATION)
    members = tuple(PoolMember(account, True, 100, 5_000) for account in (B, A, C))
    assert found == WorkerDraw(7, b"", (C, A), members, 9)


def test_replay_draw__of_another_round__is_none():
    assert replay_draw([*ENROLLED, OPENED, DRAWN], 3, DrawBy.UNIFORM) is None


def test_replay_draw__rolled_seed__is_the_last_one_before_the_draw():
    rolls = [told("SeedRolled", 300, round=2, seed_block=300), told("SeedRolled", 5, round=1, seed_block=5)]
    found = replay_draw(
        [*ENROLLED, OPENED, *rolls, DRAWN, told("SeedRolled", 900, round=2, seed_block=900)], 2, DrawBy(0)
    )
    assert found is not None
    assert found.seed_block == 300


@pytest.mark.parametrize(("from_round", "waits"), [(1, False), (2, False), (3, True)])
def test_replay_draw__left__waits_no_more_from_that_round_on(from_round, waits):
    assert pool(told("MemberLeft", 2, role=0, account=A, from_round=from_round))[A].waits is waits


@pytest.mark.parametrize(("from_round", "waits"), [(2, True), (3, False)])
def test_replay_draw__rejoined__waits_again_from_that_round_on(from_round, waits):
    left = told("MemberLeft", 2, role=0, account=A, from_round=2)
    assert pool(left, told("MemberRejoined", 3, role=0, account=A, from_round=from_round))[A].waits is waits


@pytest.mark.parametrize(("number", "stake"), [(1, 80), (2, 100)])
def test_replay_draw__slashed__counts_from_the_next_round_on(number, stake):
    assert pool(told("Slashed", 2, role=0, round=number, account=A, amount=20))[A].stake == stake


def test_replay_draw__reputation__is_the_newest():
    changes = [told("ReputationChanged", 2, round=1, worker=A, reputation=value) for value in (6_000, 4_500)]
    assert pool(*changes, by=DrawBy.REPUTATION)[A].reputation == 4_500


def test_replay_draw__other_roles__are_no_workers():
    others = [
        told("Enrolled", 1, role=int(Role.VALIDATOR), account=Address("0x" + "d" * 40), stake=5),
        told("MemberLeft", 2, role=int(Role.AGGREGATOR), account=A, from_round=1),
        told("Slashed", 2, role=int(Role.CHALLENGER), round=1, account=A, amount=20),
    ]
    assert list(pool(*others)) == [B, A, C]
    assert pool(*others)[A] == PoolMember(A, True, 100, 0)

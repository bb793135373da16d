"""Draws on a real chain: Python draws whom Solidity drew, out of the pool that events alone tell."""

from __future__ import annotations

import pytest
from anvil import LocalChain, expect_sent
from rounds import create

from chainfl.agents.ports import WouldRevert
from chainfl.chain.deployment import TOKEN
from chainfl.chain.operator import Operator
from chainfl.errors import AlreadyDone, NotEligible
from chainfl.tasks.draws import Candidate, draw_workers
from chainfl.tasks.state import IDLE, Bounds, Draw, DrawBy, Phase, Role
from chainfl.types import TaskId, Wei

pytestmark = pytest.mark.integration

STAKES = (100, 150, 200, 400, 900)
ROUNDS = 4


class DrawnTask:
    """Five workers with different stakes, three a round; nobody ever reveals."""

    def __init__(self, chain: LocalChain, by: DrawBy) -> None:
        self.chain = chain
        self.requester = chain.operator(stake=1_000)
        bounds = {"workers": Bounds(5, 5), "validators": Bounds(1, 1), "aggregators": Bounds(0, 1)}
        end = chain.now() + 60
        self.task_id: TaskId = create(
            chain, self.requester, **bounds, rounds=ROUNDS, enrolment_end=end, draw=Draw(3, by)
        )
        self.workers = [chain.operator(stake=stake) for stake in STAKES]
        for worker, stake in zip(self.workers, STAKES, strict=True):
            expect_sent(worker.enrol(self.task_id, Role.WORKER, Wei(stake * TOKEN)))
        expect_sent(chain.operator(stake=300).enrol(self.task_id, Role.VALIDATOR, Wei(300 * TOKEN)))
        chain.advance(61)
        expect_sent(self.requester.start_task(self.task_id))

    def draw(self) -> None:
        self.chain.advance(1)
        expect_sent(self.requester.draw_workers(self.task_id))

    def commit(self, worker: Operator) -> object:
        number = worker.round(self.task_id).round
        return worker.commit_update(self.task_id, number, b"\x01" * 32)

    def end_round(self) -> None:
        """Whoever has committed is slashed; whoever was drawn and has not, misses."""
        view = self.requester.round(self.task_id)
        while view.phase is not Phase.SETTLEMENT:
            self.chain.advance(max(1, view.phase_end - self.chain.now()))
            view = self.requester.round(self.task_id)
        expect_sent(self.requester.settle(self.task_id, 8))

    def check(self, number: int) -> tuple[str, ...]:
        """The draw as events tell it against the contract's own state a block before, and against the mirror."""
        found = self.requester.worker_draw(self.task_id, number)
        assert found is not None
        before = self.requester.client.block(found.block_number - 1)
        members = self.requester.all_members(self.task_id, Role.WORKER, before)
        told = {member.account: (member.waits, member.stake) for member in found.pool}
        assert told == {
            account: (member.active_from == IDLE and number < member.active_until, member.stake)
            for account, member in members.items()
        }
        for member in found.pool:
            call = self.requester.contract.reputation(self.task_id, member.account)
            assert self.requester.client.read(call, before) == member.reputation
        task = self.requester.task(self.task_id)
        indices = draw_workers(
            task.draw,
            [Candidate(member.waits, member.stake, member.reputation) for member in found.pool],
            seed=found.seed,
            task_id=self.task_id,
            round_number=number,
            worker_stake=task.economics.worker_stake,
        )
        assert tuple(found.pool[index].account for index in indices) == found.drawn
        return found.drawn


@pytest.mark.parametrize("by", DrawBy)
def test_worker_draw__slashes_departures_and_returns__is_what_the_mirror_draws(chain: LocalChain, by: DrawBy):
    game = DrawnTask(chain, by)
    first, second = game.workers[:2]
    assert game.requester.worker_draw(game.task_id, 1) is None
    for number in range(1, ROUNDS):
        if number == 2:
            expect_sent(first.leave(game.task_id, Role.WORKER))
        if number == 3:
            expect_sent(first.rejoin(game.task_id, Role.WORKER))
        game.draw()
        drawn = game.check(number)
        again = game.requester.draw_workers(game.task_id)
        assert isinstance(again, WouldRevert)
        assert isinstance(again.error, AlreadyDone)
        for worker in sorted(game.workers, key=lambda worker: worker.account in drawn):  # the last one ends Commit
            result = game.commit(worker)
            if worker.account in drawn:
                expect_sent(result)
            else:
                assert isinstance(result, WouldRevert)
                assert isinstance(result.error, NotEligible)
        game.end_round()
    game.draw()
    game.check(ROUNDS)
    assert second.member(game.task_id, Role.WORKER, second.account).is_enrolled

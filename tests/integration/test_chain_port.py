"""The port against the real contracts: a whole task from its creation to the last claim, and the ways to be refused."""

from __future__ import annotations

import pytest
from anvil import DEFAULT_ECONOMICS, LocalChain, expect_sent, task_params
from rounds import CID, NEXT_ROOT, Round, create

from chainfl.agents.ports import ChainPort, DryRun, WouldRevert
from chainfl.chain.deployment import TOKEN
from chainfl.errors import (
    AlreadyDone,
    InsufficientTokens,
    KeyfileError,
    NodeBehind,
    NotEligible,
    RegistryError,
    StakeTooLow,
    TransactionReverted,
    UnexpectedPhase,
    UsageError,
)
from chainfl.tasks.state import Bounds, Outcome, Phase, Role
from chainfl.types import ModelId, TaskId, Wei

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def played(chain: LocalChain) -> Round:
    """A task of one round, played to its end."""
    game = Round(chain)
    game.play()
    return game


def test_port__is_a_chain_port(chain: LocalChain):
    port: ChainPort = chain.operator()
    assert port.chain_id == 31_337
    port.check()  # type: ignore[attr-defined]


def test_round__played__ends_final_with_the_new_model(played: Round):
    port = played.worker
    snapshot = port.snapshot(played.task_id, Role.WORKER)
    assert snapshot.round.phase is Phase.COMPLETED
    assert snapshot.round.outcome is Outcome.FINAL
    assert snapshot.task.requester == played.requester.account
    assert snapshot.me.is_enrolled
    assert port.model_location(played.task_id, 5) == (NEXT_ROOT, CID)
    assert port.model_location(played.task_id, 0)[0] == bytes([2]) * 32
    genesis = port.task_params(played.task_id)
    files = port.model_files(played.task_id, 0)
    assert {genesis.genesis_cid, genesis.genesis_float_cid, CID} <= files
    assert len(files) <= 4


def test_round__played__pays_to_the_wei(played: Round):
    port = played.requester
    escrow = port.escrow(played.task_id)
    paid = port.paid_amounts(played.task_id)
    assert escrow.funded == escrow.paid + escrow.refunded + escrow.burned == 1_000 * TOKEN
    assert sum(paid.values()) == escrow.paid
    assert paid[played.worker.account] == played.worker.stake_status().credit
    assert set(paid) == {played.worker.account, played.validator.account, played.aggregator.account}


def test_events__of_a_round__carry_update_and_medians(played: Round):
    port, view = played.aggregator, played.aggregator.round(played.task_id)
    (revealed,) = port.revealed_updates(played.task_id, 1, view.opened_block)
    assert (revealed.worker, revealed.root, revealed.cid, revealed.squared_norm, revealed.num_examples) == (
        played.worker.account,
        played.root,
        CID,
        5,
        100,
    )
    (tallied,) = port.tallied_updates(played.task_id, 1, view.opened_block)
    assert (tallied.root, tallied.weight, tallied.score) == (played.root, 10_000, 10_000)
    assert port.revealed_updates(played.task_id, 2, view.opened_block) == ()


def test_last_commit_hash__of_a_round__is_its_commitments_block(played: Round):
    port = played.aggregator
    [committed] = [event.log for event in port.task_events(played.task_id) if event.name == "UpdateCommitted"]
    found = port.last_commit_hash(played.task_id, 1)
    assert found == port.client.block(committed.block_number).hash
    assert len(found) == 32
    assert port.last_commit_hash(played.task_id, 2) == b""


def test_last_commit_hash__node_that_hides_a_commitment__is_behind(chain, monkeypatch):
    round_ = Round(chain)
    round_.enrol()
    round_.commit()
    port = round_.aggregator
    assert len(port.last_commit_hash(round_.task_id, 1)) == 32
    monkeypatch.setattr(port, "_dispute_events", lambda *a, **k: [])
    with pytest.raises(NodeBehind, match="shows 0 of 1 commitments of round 1"):
        port.last_commit_hash(round_.task_id, 1)


def test_events__of_a_task__tell_its_story_in_order(played: Round):
    names = [event.name for event in played.requester.task_events(played.task_id)]
    story = ["TaskCreated", "Enrolled", "RoundOpened", "UpdateCommitted", "UpdateRevealed", "ScoresCommitted"]
    story += ["ScoresRevealed", "UpdateTallied", "AggregateOpened", "AggregatePosted", "RoundClosed"]
    assert [names.index(name) for name in story] == sorted(names.index(name) for name in story)
    assert names.count("ModelRegistered") == 2


def test_follow_task__polled_twice__tells_each_event_once(played: Round):
    follower = played.requester.follow_task(played.task_id, played.requester.task(played.task_id).created_block)
    first, gone = follower.poll()
    assert [event.name for event in first] == [e.name for e in played.requester.task_events(played.task_id)]
    assert gone == ()
    assert follower.poll() == ((), ())


def test_registry__after_a_final_round__has_two_versions(played: Round):
    port = played.requester
    (latest_id, latest), (genesis_id, genesis) = port.versions(played.task_id)
    assert (latest.round, latest.model_root, latest.parent) == (1, NEXT_ROOT, genesis_id)
    assert (genesis.round, genesis.model_root) == (0, bytes([2]) * 32)
    assert port.model(latest_id) == latest
    assert port.line(played.task_id).latest == latest_id
    assert (latest_id, latest) in port.models(0, port.num_models())


def test_access__restricted_and_granted__is_what_the_owner_says(played: Round):
    owner, reader = played.requester, played.worker.account
    model_id = ModelId(owner.line(played.task_id).latest)
    assert owner.has_access(model_id, reader)
    expect_sent(owner.restrict(played.task_id, True))
    assert not owner.has_access(model_id, reader)
    expect_sent(owner.grant(played.task_id, reader))
    assert owner.has_access(model_id, reader)
    expect_sent(owner.revoke(played.task_id, reader))
    expect_sent(owner.restrict(played.task_id, False))


def test_gas_by_kind__after_a_round__names_every_function(played: Round):
    gas = played.requester.gas_by_kind()
    assert {"createTask", "enrol", "commitUpdate", "revealUpdate", "tally", "settle", "postAggregate"} <= set(gas)
    assert gas["commitUpdate"].count >= 1
    assert 21_000 < gas["commitUpdate"].median <= gas["commitUpdate"].maximum


def test_claim_and_unlock__after_the_task__free_everything(chain: LocalChain):
    game = Round(chain)
    game.play()
    worker = game.worker
    status = worker.stake_status()
    (lock,) = status.locks
    assert (lock.task_id, lock.role, lock.amount) == (game.task_id, Role.WORKER, DEFAULT_ECONOMICS.worker_stake)
    assert isinstance(worker.unlock(game.task_id, Role.WORKER), WouldRevert)
    expect_sent(worker.claim())
    assert worker.token_balance() == status.credit
    assert lock.unlockable_at is not None
    chain.advance(lock.unlockable_at - chain.now())
    expect_sent(worker.unlock(game.task_id, Role.WORKER))
    expect_sent(worker.withdraw(Wei(1_000 * TOKEN)))
    assert worker.stake_status().locks == ()
    again = worker.claim()
    assert isinstance(again, WouldRevert)
    assert isinstance(again.error, AlreadyDone)


def test_commit__twice__answers_already_done(chain: LocalChain):
    game = Round(chain, workers=Bounds(1, 2))
    expect_sent(game.aggregator.enrol(game.task_id, Role.AGGREGATOR, Wei(0)))
    expect_sent(game.validator.enrol(game.task_id, Role.VALIDATOR, DEFAULT_ECONOMICS.validator_stake))
    expect_sent(game.worker.enrol(game.task_id, Role.WORKER, DEFAULT_ECONOMICS.worker_stake))
    other = chain.operator(stake=100)
    expect_sent(other.enrol(game.task_id, Role.WORKER, DEFAULT_ECONOMICS.worker_stake))
    game.commit()
    again = game.worker.commit_update(game.task_id, 1, bytes([1]) * 32)
    assert isinstance(again, WouldRevert)
    assert isinstance(again.error, AlreadyDone)


def test_reveal__late__answers_unexpected_phase_and_loses_nothing(chain: LocalChain):
    game = Round(chain)
    game.enrol()
    game.commit()
    chain.advance(31)
    before = game.worker.native_balance()
    late = game.reveal()
    assert isinstance(late, WouldRevert)
    assert isinstance(late.error, UnexpectedPhase)
    assert late.error.exit_code == 31
    assert game.worker.native_balance() == before


def test_commit__of_a_stranger__answers_not_eligible(chain: LocalChain):
    game = Round(chain)
    game.enrol()
    answer = chain.operator().commit_update(game.task_id, 1, bytes([1]) * 32)
    assert isinstance(answer, WouldRevert)
    assert isinstance(answer.error, NotEligible)


def test_enrol__without_stake__names_what_is_missing(chain: LocalChain):
    task_id = create(chain, chain.operator(stake=1_000))
    answer = chain.operator(stake=40).enrol(task_id, Role.WORKER, DEFAULT_ECONOMICS.worker_stake)
    assert isinstance(answer, WouldRevert)
    assert isinstance(answer.error, StakeTooLow)
    assert answer.error.evidence["missing"] == 60 * TOKEN


def test_task_params__created__are_those_that_were_sent(chain: LocalChain):
    params = task_params(chain)
    requester = chain.operator(stake=1_000)
    task_id = requester.created_task(expect_sent(requester.create_task(params)))
    assert chain.open(None).task_params(task_id) == params


def test_create_task__wrong_field__names_it(chain: LocalChain):
    answer = chain.operator(stake=1_000).create_task(task_params(chain, rounds=0))
    assert isinstance(answer, WouldRevert)
    assert isinstance(answer.error, TransactionReverted)
    assert "InvalidParams" in str(answer.error)
    assert "rounds" in str(answer.error)


def test_cancel__before_the_start__refunds(chain: LocalChain):
    requester = chain.operator(stake=1_000)
    task_id = create(chain, requester)
    expect_sent(requester.cancel_task(task_id))
    assert requester.round(task_id).phase is Phase.CANCELLED
    assert requester.escrow(task_id).refunded == 1_000 * TOKEN
    assert requester.stake_status().credit == 1_000 * TOKEN


def test_deposit__more_than_held__raises_insufficient_tokens(chain: LocalChain):
    operator = chain.operator(tokens=5)
    with pytest.raises(InsufficientTokens) as caught:
        operator.deposit(Wei(6 * TOKEN))
    assert caught.value.exit_code == 26


def test_deposit__by_permit__leaves_no_allowance(chain: LocalChain):
    operator = chain.operator(tokens=5)
    expect_sent(operator.deposit(Wei(3 * TOKEN)))
    status = operator.stake_status()
    assert (status.free, status.token_balance, status.allowance) == (3 * TOKEN, 2 * TOKEN, 0)


def test_deposit__without_permit__approves_exactly(chain: LocalChain, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("chainfl.chain.operator.sign_permit", lambda *_: None)
    operator = chain.operator(tokens=5)
    estimate = operator.dry_run().deposit(Wei(3 * TOKEN))
    assert isinstance(estimate, DryRun)
    expect_sent(operator.deposit(Wei(3 * TOKEN)))
    assert operator.stake_status().free == 3 * TOKEN
    assert operator.allowance() == 0


def test_faucet__dripped__gives_once(chain: LocalChain):
    operator = chain.operator()
    expect_sent(operator.drip())
    assert operator.token_balance() == operator.drip_amount()
    assert operator.next_drip_at() > chain.now()
    assert isinstance(operator.drip(), WouldRevert)


def test_reading__without_a_key__works_and_sending_says_why_not(chain: LocalChain, played: Round):
    reader = chain.open(None)
    assert reader.num_tasks() >= 1
    assert reader.round(played.task_id).phase is Phase.COMPLETED
    assert reader.token_info().symbol == "CFL"
    with pytest.raises(KeyfileError):
        reader.claim()


def test_dry_run__for_an_address_without_its_key__estimates(chain: LocalChain, played: Round):
    reader = chain.open(None, account=played.worker.account).dry_run()
    assert isinstance(reader.claim(), DryRun)


def test_unknown__task_and_model__have_their_own_errors(chain: LocalChain):
    reader = chain.open(None, account=chain.deployer.address)
    with pytest.raises(UsageError):
        reader.task(TaskId(10_000))
    with pytest.raises(UsageError):
        reader.snapshot(TaskId(10_000), Role.WORKER)
    with pytest.raises(RegistryError):
        reader.model(ModelId(bytes([3]) * 32))


def test_snapshot__of_an_old_block__shows_the_state_there(chain: LocalChain):
    requester = chain.operator(stake=1_000)
    task_id = create(chain, requester)
    before = requester.latest_block()
    expect_sent(requester.cancel_task(task_id))
    assert requester.snapshot(task_id, Role.WORKER, before).round.phase is Phase.ENROLMENT
    assert requester.snapshot(task_id, Role.WORKER).round.phase is Phase.CANCELLED

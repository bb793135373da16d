"""The audit of a round: of one that runs, of a past one, of the last of a finished task, with every kind of cheat.

Everybody is honest in round 1; who cheats does so in round 2.
"""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from agents_world import World
from audit_port import AUDITOR, audit_port
from cheats import ADAM, FORM, GROUPS, MOMENTUM, enter, index_of, publishes_others
from fake_chain import TASK, account_of

from chainfl.agents.audit import Check, ContractCall, RoundRecord, audit_round, read_record, round_as_opened
from chainfl.agents.ports import Sent
from chainfl.agents.validator import Validator
from chainfl.chain.abi import contract_abi
from chainfl.errors import UsageError
from chainfl.simulation.attackers import (
    NormWorker,
    OutOfRangeWorker,
    SilentWorker,
    WithholdingAggregator,
    WithholdingWorker,
    WrongAggregator,
    WrongGroupAggregator,
    WrongStateAggregator,
)
from chainfl.tasks.cids import cid_text
from chainfl.tasks.state import Outcome, Phase, Role, Target, Verdict
from chainfl.tasks.votes import Vote

CHEAT, LIAR = account_of(300), account_of(100)


def world_of(tmp_path, cheat=None, account: str = CHEAT, **changes) -> World:
    world = World(tmp_path, aggregators=2, **{"rounds": 2, "format": FORM, **changes})
    if cheat is not None:
        enter(world, account, cheat)
    return world


def in_phase(phase: Phase, number: int = 2):
    return lambda world: world.chain.phase()[0] is phase and world.chain.clock.round == number


def record_of(world: World, number: int) -> RoundRecord:
    port = audit_port(world)
    outcome = world.chain.outcomes.get(number, Outcome.PENDING)
    return read_record(port, port.round(TASK), TASK, number, outcome)


def audit(world: World, number: int, *, record: RoundRecord | None = None, sender=AUDITOR) -> list[Check]:
    world.events[AUDITOR], world.ports[AUDITOR] = io.StringIO(), audit_port(world)
    context = world.context(Role.CHALLENGER, AUDITOR)
    try:
        return list(audit_round(context, record or record_of(world, number), sender))
    finally:
        context.journal.close()


def only(checks: list[Check], start: str) -> Check:
    [found] = [check for check in checks if check.what.startswith(start)]
    return found


def send(world: World, call: ContractCall) -> None:
    """As anybody would, by the names that are printed."""
    names = [piece["name"] for piece in contract_abi("TaskCoordinator").functions[call.function].inputs]
    assert list(call.arguments) == names
    port = audit_port(world)
    sends = {
        "commitChallenge": port.commit_challenge,
        "proveAggregate": port.prove_aggregate,
        "commitProof": port.commit_proof,
        "proveUpdate": port.prove_update,
        "openGame": port.open_game,
        "demandChunk": port.demand_chunk,
    }
    arguments = call.arguments | ({"target": Target(call.arguments["target"])} if "target" in names else {})
    assert isinstance(sends[call.function](*arguments.values()), Sent)


def send_all(world: World, check: Check) -> None:
    [dispute] = check.disputes
    for call in dispute.calls:
        assert call.is_complete
        send(world, call)


# --- rounds that are right -----------------------------------------------------------------------


@pytest.mark.parametrize("form", [FORM, MOMENTUM, ADAM, GROUPS])
@pytest.mark.parametrize("number", [1, 2])
def test_audit__a_finished_task__every_round_is_right(tmp_path, form, number):
    world = world_of(tmp_path, format=form)
    world.run()
    checks = audit(world, number)
    assert {check.is_right for check in checks} == {True}
    assert sum(check.what.startswith("update of") for check in checks) == 3
    assert only(checks, "attempt 1 by").detail == "it is what the accepted updates make"
    assert any(check.what == "server state" for check in checks) is form.has_state


@pytest.mark.parametrize("form", [FORM, MOMENTUM])
def test_round_as_opened__the_last_of_a_finished_task__is_what_it_was_while_it_ran(tmp_path, form):
    world = world_of(tmp_path, format=form)
    world.run(until=in_phase(Phase.CHALLENGE))
    running = world.chain.view()
    world.run()
    opened = round_as_opened(audit_port(world), world.chain.view(), TASK, 2)
    assert (opened.round, opened.model_root, opened.state_root) == (2, running.model_root, running.state_root)
    assert world.chain.view().model_root != running.model_root


def test_round_as_opened__a_void_round_before_it__keeps_the_model_and_the_state(tmp_path):
    world = world_of(tmp_path, WrongStateAggregator, format=MOMENTUM, rounds=3, workers=2)
    world.watch()
    world.run(until=in_phase(Phase.CHALLENGE, 3))
    running = world.chain.view()
    world.run()
    opened = round_as_opened(audit_port(world), world.chain.view(), TASK, 3)
    assert (opened.model_root, opened.state_root) == (running.model_root, running.state_root)


def test_round_as_opened__a_round_to_come__is_told(tmp_path):
    world = world_of(tmp_path)
    world.run(until=in_phase(Phase.COMMIT, 1))
    with pytest.raises(UsageError, match="not come to round 2"):
        round_as_opened(audit_port(world), world.chain.view(), TASK, 2)


def test_audit__before_anything_is_revealed__says_so(tmp_path):
    world = world_of(tmp_path)
    world.run(until=in_phase(Phase.COMMIT))
    assert [(check.what, check.is_right) for check in audit(world, 2)] == [("updates", None), ("aggregate", None)]


def test_audit__nobody_reveals__has_nothing_to_check_and_nothing_fails(tmp_path):
    world = world_of(tmp_path)
    for worker in world.accounts[Role.WORKER]:
        enter(world, worker, SilentWorker)
    world.run()
    assert world.chain.outcomes[2] is Outcome.NO_UPDATES
    assert {check.detail for check in audit(world, 2)} == {"none was revealed", "none was posted"}


def test_audit__a_void_round__has_updates_and_no_aggregate(tmp_path):
    world = world_of(tmp_path)
    world.run(until=in_phase(Phase.SCORE_COMMIT))
    world.run(without=world.accounts[Role.VALIDATOR])
    assert world.chain.outcomes[2] is Outcome.QUORUM_MISSED
    checks = audit(world, 2)
    assert only(checks, "aggregate").detail == "none was posted"
    assert not any(check.fails for check in checks)


# --- aggregates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cheat", "form"), [(WrongAggregator, FORM), (WrongAggregator, GROUPS), (WrongStateAggregator, ADAM)]
)
def test_audit__a_caught_aggregate__is_shown_next_to_the_one_that_stands(tmp_path, cheat, form):
    world = world_of(tmp_path, cheat, format=form)
    world.watch()
    world.run()
    checks = audit(world, 2)
    caught = only(checks, "attempt 1 by")
    assert (caught.what, caught.is_right, caught.is_settled) == (f"attempt 1 by {CHEAT}", False, True)
    assert caught.detail.startswith("refuted in block")
    assert caught.detail.endswith("wrong coordinate")
    assert only(checks, "attempt 2 by").is_right
    assert not any(check.fails for check in checks)


@pytest.mark.parametrize(
    ("cheat", "form"), [(WrongAggregator, FORM), (WrongAggregator, GROUPS), (WrongStateAggregator, ADAM)]
)
def test_audit__a_wrong_aggregate_that_stands__names_calls_that_refute_it(tmp_path, cheat, form):
    world = world_of(tmp_path, cheat, format=form)
    world.run(until=in_phase(Phase.CHALLENGE))
    checks = audit(world, 2)
    wrong = only(checks, "attempt 1 by")
    assert wrong.fails
    assert [call.function for call in wrong.disputes[0].calls] == ["commitChallenge", "proveAggregate"]
    send_all(world, wrong)
    assert world.chain.verdicts == {(2, 1): Verdict.REFUTED}


@pytest.mark.parametrize(("cheat", "form"), [(WithholdingAggregator, FORM), (WrongGroupAggregator, GROUPS)])
def test_audit__a_withheld_aggregate__names_the_game_that_would_be_opened(tmp_path, cheat, form):
    world = world_of(tmp_path, cheat, format=form)
    world.run(until=in_phase(Phase.CHALLENGE))
    send_all(world, only(audit(world, 2), "attempt 1 by"))
    assert world.chain.games[0].challenger == AUDITOR


def test_audit__a_wrong_aggregate_that_became_the_model__is_too_late_to_dispute(tmp_path):
    world = world_of(tmp_path, WrongAggregator)
    world.run()
    checks = audit(world, 2)
    wrong = only(checks, "attempt 1 by")
    assert (wrong.fails, wrong.disputes, wrong.note) == (True, (), "too late to dispute")
    assert only(checks, "model").fails
    assert "computed" in only(checks, "model").detail


def test_audit__a_wrong_aggregate_of_a_void_round__did_no_harm(tmp_path):
    world = world_of(tmp_path, WrongAggregator)
    world.run()
    void = replace(record_of(world, 2), outcome=Outcome.WITHHELD)
    assert not any(check.fails for check in audit(world, 2, record=void))


def test_audit__nobody_to_bind_a_proof_to__leaves_the_announcement_open(tmp_path):
    world = world_of(tmp_path, WrongAggregator)
    world.run(until=in_phase(Phase.CHALLENGE))
    [dispute] = only(audit(world, 2, sender=None), "attempt 1 by").disputes
    assert [call.is_complete for call in dispute.calls] == [False, True]
    assert str(dispute.calls[0]) == "commitChallenge(taskId 1, round 2, attempt 1, commitment of its sender)"
    assert f"proof of {len(dispute.proof):,} bytes" in str(dispute.calls[1])


# --- updates -------------------------------------------------------------------------------------


class GenerousScorer:
    """Full weight for everybody, whatever came."""

    def worsening(self, model, previous):
        """Whatever came."""

    def score(self, model, updates, round_number, previous):
        return [Vote(10_000, 1) for _ in updates]


def generous(world: World) -> World:
    for validator in world.accounts[Role.VALIDATOR]:
        enter(world, validator, lambda context: Validator(context, GenerousScorer()))
    return world


def test_audit__a_wrong_update_before_the_tally__names_calls_that_refute_it(tmp_path):
    world = world_of(tmp_path, OutOfRangeWorker, LIAR)
    world.run(until=in_phase(Phase.SCORE_COMMIT))
    wrong = only(audit(world, 2), f"update of {LIAR}")
    assert wrong.what == f"update of {LIAR} (worker {index_of(world, LIAR)})"
    assert wrong.fails
    assert "no weight yet" in wrong.detail
    send_all(world, wrong)
    assert [refuted.worker for refuted in world.chain.refuted] == [LIAR]
    assert not only(audit(world, 2), f"update of {LIAR}").fails


def test_audit__a_wrong_update_that_was_rejected__did_no_harm(tmp_path):
    world = world_of(tmp_path, OutOfRangeWorker, LIAR)
    world.run()
    checks = audit(world, 2)
    wrong = only(checks, f"update of {LIAR}")
    assert (wrong.is_right, wrong.is_settled, wrong.note) == (False, True, "")
    assert "it weighs 0" in wrong.detail
    assert not any(check.fails for check in checks)


def test_audit__a_wrong_update_that_was_refuted__says_when_and_for_what(tmp_path):
    world = world_of(tmp_path, OutOfRangeWorker, LIAR)
    world.watch()
    world.run()
    wrong = only(audit(world, 2), f"update of {LIAR}")
    assert wrong.is_settled
    assert "refuted in block" in wrong.detail
    assert wrong.detail.endswith("value out of range")


def test_audit__a_wrong_update_that_was_accepted__fails_and_can_be_proven(tmp_path):
    world = generous(world_of(tmp_path, NormWorker, LIAR))
    world.run(until=in_phase(Phase.AGGREGATE))
    wrong = only(audit(world, 2), f"update of {LIAR}")
    assert wrong.fails
    assert "it weighs 10,000" in wrong.detail
    send_all(world, wrong)
    assert [refuted.worker for refuted in world.chain.refuted] == [LIAR]


def test_audit__a_wrong_update_that_went_into_the_model__is_too_late_to_dispute(tmp_path):
    world = generous(world_of(tmp_path, NormWorker, LIAR))
    world.run()
    final = replace(record_of(world, 2), outcome=Outcome.FINAL)
    wrong = only(audit(world, 2, record=final), f"update of {LIAR}")
    assert (wrong.fails, wrong.disputes, wrong.note) == (True, (), "too late to dispute")


@pytest.mark.parametrize("cheat", [WithholdingWorker, publishes_others(3)])
def test_audit__an_update_whose_bytes_are_not_there__names_the_demand(tmp_path, cheat):
    world = world_of(tmp_path, cheat, LIAR)
    world.run(until=in_phase(Phase.SCORE_COMMIT))
    send_all(world, only(audit(world, 2), f"update of {LIAR}"))
    assert [demand.worker_index for demand in world.chain.demands] == [index_of(world, LIAR)]


@pytest.mark.parametrize("cheat", [WithholdingWorker, publishes_others(3)])
def test_audit__such_an_update_in_a_past_round__has_no_demand_any_more(tmp_path, cheat):
    world = world_of(tmp_path, cheat, LIAR)
    world.run()
    wrong = only(audit(world, 2), f"update of {LIAR}")
    assert (wrong.is_right, wrong.fails, wrong.disputes) == (False, False, ())


def without_an_accepted_update(world: World) -> None:
    update = world.chain.update_of(index_of(world, LIAR))
    del world.store.blobs[cid_text(update.cid)]


def test_audit__an_accepted_update_is_gone__names_the_late_demand(tmp_path):
    world = world_of(tmp_path)
    world.run(until=in_phase(Phase.CHALLENGE))
    without_an_accepted_update(world)
    unknown = only(audit(world, 2), "attempt 1 by")
    assert unknown.fails
    assert f"without the update of {LIAR} (worker {index_of(world, LIAR)})" in unknown.detail
    assert only(audit(world, 2), f"update of {LIAR}").disputes
    send_all(world, unknown)
    assert [demand.is_late for demand in world.chain.demands] == [True]


def test_audit__an_accepted_update_of_a_past_round_is_gone__is_too_late_to_ask(tmp_path):
    world = world_of(tmp_path)
    world.run()
    without_an_accepted_update(world)
    unknown = only(audit(world, 2), "attempt 1 by")
    assert (unknown.fails, unknown.disputes, unknown.note) == (True, (), "too late to dispute")

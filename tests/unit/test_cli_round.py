"""`chainfl round` over a whole task in memory: what a person sees, what a program reads, and the exit codes."""

from __future__ import annotations

import json

import pytest
from agents_world import World
from audit_port import AUDITOR, audit_port
from cheats import FORM, MOMENTUM, enter
from cli_fakes import Shell, shell_with_chain
from fake_chain import account_of

from chainfl.chain.abi import contract_abi
from chainfl.cli.context import App
from chainfl.simulation.attackers import OutOfRangeWorker, WithholdingWorker, WrongAggregator
from chainfl.tasks.cids import cid_text
from chainfl.tasks.commitments import challenge_commitment, proof_hash_of
from chainfl.tasks.state import Draw, Phase

CHEAT, LIAR = account_of(300), account_of(100)


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path) -> Shell:
    return shell_with_chain(monkeypatch, capsys, tmp_path)


def world_for(shell: Shell, tmp_path, cheat=None, account: str = CHEAT, **changes) -> World:
    """A task with this cheat in it, which the shell's commands read."""
    world = World(tmp_path / "world", aggregators=2, **{"rounds": 2, "format": FORM, **changes})
    if cheat is not None:
        enter(world, account, cheat)
    shell.operator, shell.store = audit_port(world), world.store
    return world


def in_phase(phase: Phase):
    return lambda world: world.chain.phase()[0] is phase and world.chain.clock.round == 2


def line_of(shell: Shell, start: str) -> str:
    [line] = [line for line in shell.out.splitlines() if line.startswith(start)]
    return line


# --- audit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["1", "2"])
@pytest.mark.parametrize("form", [FORM, MOMENTUM])
def test_audit__a_finished_task__every_line_has_its_mark(shell, tmp_path, form, number):
    world_for(shell, tmp_path, format=form).run()
    assert shell("round", "audit", "1", number) == 0
    assert shell.out.startswith(f"– round {number}: final: the model moved on\n")
    assert {line[0] for line in shell.out.splitlines()[1:]} == {"✓"}


def test_audit__a_caught_cheat__is_seen_and_does_not_fail(shell, tmp_path):
    world = world_for(shell, tmp_path, WrongAggregator)
    world.watch()
    world.run()
    assert shell("round", "audit", "1", "2") == 0
    assert "refuted in block" in line_of(shell, f"✗ attempt 1 by {CHEAT}")
    assert line_of(shell, f"✓ attempt 2 by {account_of(301)}")


def test_audit__a_wrong_model__fails_with_a_hint_of_its_own(shell, tmp_path):
    world_for(shell, tmp_path, WrongAggregator).run()
    assert shell("round", "audit", "1", "2") == 82
    assert "  too late to dispute" in shell.out
    assert "chainfl watch --task 1" in shell.err


def test_audit__a_rejected_update__is_named_by_its_workers_address(shell, tmp_path):
    world_for(shell, tmp_path, WithholdingWorker, LIAR).run()
    assert shell("round", "audit", "1", "2") == 0
    assert "it weighs 0" in line_of(shell, f"✗ update of {LIAR} (worker 0)")
    assert "demandChunk" not in shell.out


def test_audit__a_missing_update__has_the_demand_with_its_arguments(shell, tmp_path):
    world_for(shell, tmp_path, WithholdingWorker, LIAR).run(until=in_phase(Phase.SCORE_COMMIT))
    assert shell("round", "audit", "1", "2") == 82
    assert shell.out.startswith("– round 2: running: score commit")
    assert "disputed by demandChunk(taskId 1, round 2, workerIndex 0, chunkIndex " in shell.out


def test_audit__out__writes_proofs_and_calldata_for_any_wallet(shell, tmp_path):
    world = world_for(shell, tmp_path, WrongAggregator)
    world.run(until=in_phase(Phase.CHALLENGE))
    assert shell("round", "audit", "1", "2", "--out", "d.json", "--account", AUDITOR) == 82
    [dispute] = json.loads((tmp_path / "d.json").read_text())
    announced, proven = dispute["calls"]
    functions = contract_abi("TaskCoordinator").functions
    assert announced["to"] == proven["to"] == world.scope.coordinator
    assert proven["data"].startswith("0x" + functions["proveAggregate"].selector.hex())
    assert proven["arguments"]["proof"] == dispute["proof"]
    commitment = challenge_commitment(
        chain_id=world.scope.chain_id,
        coordinator=world.scope.coordinator,
        task_id=world.scope.task_id,
        round_number=2,
        attempt=1,
        challenger=AUDITOR,
        proof_hash=proof_hash_of(bytes.fromhex(dispute["proof"][2:])),
        salt=bytes.fromhex(proven["arguments"]["salt"][2:]),
    )
    encoded = functions["commitChallenge"].encode(1, 2, 1, commitment)
    assert announced["data"] == "0x" + encoded.hex()


def test_audit__out__an_update_and_an_attempt_that_need_the_same_demand__has_it_once(shell, tmp_path):
    world = world_for(shell, tmp_path)
    world.run(until=in_phase(Phase.CHALLENGE))
    del world.store.blobs[cid_text(world.chain.update_of(0).cid)]
    assert shell("round", "audit", "1", "2", "--out", "d.json") == 82
    assert shell.out.count("disputed by demandChunk(") == 2
    [demand] = json.loads((tmp_path / "d.json").read_text())
    assert demand["what"].startswith("update of")


def test_audit__json__is_complete(shell, tmp_path):
    world_for(shell, tmp_path, OutOfRangeWorker, LIAR).run(until=in_phase(Phase.SCORE_COMMIT))
    assert shell("round", "audit", "1", "2", "--json") == 82
    document = json.loads(shell.out)
    assert (document["round"], document["outcome"], document["is_over"]) == (2, "pending", False)
    [wrong] = [check for check in document["checks"] if check["is_right"] is False]
    [dispute] = wrong["disputes"]
    assert [call["function"] for call in dispute["calls"]] == ["commitProof", "proveUpdate"]
    assert all(call["data"].startswith("0x") for call in dispute["calls"])
    assert dispute["proof"].startswith("0x")


def test_audit__no_key__binds_no_proof_and_says_whose_it_would_be(shell, tmp_path, monkeypatch):
    world_for(shell, tmp_path, WrongAggregator).run(until=in_phase(Phase.CHALLENGE))
    monkeypatch.setattr(App, "known_account", property(lambda _: None))
    assert shell("round", "audit", "1", "2") == 82
    assert "commitment of its sender" in shell.out
    assert shell("round", "audit", "1", "2", "--out", "d.json") == 12
    assert not (tmp_path / "d.json").exists()


def test_audit__out_and_nothing_to_dispute__writes_nothing(shell, tmp_path):
    world_for(shell, tmp_path).run()
    assert shell("round", "audit", "1", "2", "--out", "d.json") == 0
    assert "nothing to dispute" in shell.err
    assert not (tmp_path / "d.json").exists()


def test_audit__out_that_cannot_be_written__is_told(shell, tmp_path):
    world_for(shell, tmp_path, WithholdingWorker, LIAR).run(until=in_phase(Phase.SCORE_COMMIT))
    assert shell("round", "audit", "1", "2", "--out", "no/such/d.json") == 11


def test_audit__a_void_round__says_why(shell, tmp_path):
    world = world_for(shell, tmp_path)
    world.run(until=in_phase(Phase.COMMIT))
    world.run(without=list(world.players)[:3])
    assert shell("round", "audit", "1", "2") == 0
    assert shell.out.splitlines() == [
        "– round 2: void: nobody revealed an update",
        "– updates: none was revealed",
        "– aggregate: none was posted",
    ]


@pytest.mark.parametrize("command", ["audit", "replay"])
@pytest.mark.parametrize(("task", "number", "told"), [("9", "1", "task 9 does not"), ("1", "3", "to round 3 yet")])
def test_round__nothing_of_that_number__says_what_is_not_there(shell, tmp_path, command, task, number, told):
    world_for(shell, tmp_path).run()
    assert shell("round", command, task, number) == 11
    assert told in shell.err


def test_audit__help__says_what_is_not_checked(shell):
    assert shell("round", "audit", "--help") == 0
    assert "Not checked are votes" in shell.out


# --- replay --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["1", "2"])
@pytest.mark.parametrize("form", [FORM, MOMENTUM])
def test_replay__a_finished_task__computes_to_the_root_on_chain(shell, tmp_path, form, number):
    world_for(shell, tmp_path, format=form).run()
    assert shell("round", "replay", "1", number, "--json") == 0
    assert json.loads(shell.out)["matches"]


def test_replay__a_round_that_may_still_be_challenged__is_compared_with_what_is_posted(shell, tmp_path):
    world_for(shell, tmp_path, WrongAggregator).run(until=in_phase(Phase.CHALLENGE))
    assert shell("round", "replay", "1", "2") == 81
    assert "the same          NO" in shell.out


def test_replay__a_wrong_model__has_an_exit_code(shell, tmp_path):
    world_for(shell, tmp_path, WrongAggregator).run()
    assert shell("round", "replay", "1", "2") == 81


# --- show ----------------------------------------------------------------------------------------


def test_show__drawn_round__tells_who_was_drawn_and_what_counts(shell, tmp_path):
    world = world_for(shell, tmp_path, workers=5, draw=Draw(3))
    world.run()
    assert shell("round", "show", "1", "1") == 0
    assert line_of(shell, "drawn").split(maxsplit=1)[1].startswith("3 of 5 in block ")
    for account in world.chain.draws[1].drawn:
        assert line_of(shell, account).split() == [account, "revealed", "10000"]
    assert shell("round", "show", "1", "1", "--json") == 0
    document = json.loads(shell.out)
    assert document["draw"]["drawn"] == [worker["account"] for worker in document["workers"]]
    assert {worker["weight"] for worker in document["workers"]} == {10_000}


def test_show__everybody_takes_part__says_so(shell, tmp_path):
    world_for(shell, tmp_path).run()
    assert shell("round", "show", "1", "2") == 0
    assert "nobody: everybody takes part" in line_of(shell, "drawn")


def test_audit__drawn_round__begins_with_the_draw(shell, tmp_path):
    world_for(shell, tmp_path, workers=5, draw=Draw(3)).run()
    assert shell("round", "audit", "1", "2") == 0
    assert shell.out.splitlines()[1].startswith("✓ draw of the workers: it is what the seed draws: 3 of 5")

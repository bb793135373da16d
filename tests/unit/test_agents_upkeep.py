"""What agents do while they wait: fetch ahead, and drop what is past dispute."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from agents_world import World
from data_sets import published
from fake_chain import TASK, MemoryStore, account_of

from chainfl.agents.journal import journalled_tasks
from chainfl.agents.prefetch import Prefetch
from chainfl.agents.retention import AGAIN_S, Retention, droppable, past_dispute, protected
from chainfl.errors import JournalDamaged, StoreUnreachable, UsageError
from chainfl.tasks.cids import cid_on_chain, cid_text
from chainfl.tasks.state import CidOnChain, Phase, Role

WORKER, VALIDATOR, AGGREGATOR = account_of(100), account_of(200), account_of(300)
WAIT_S = 10


class FarMemory(MemoryStore):
    """Remembers what was fetched ahead. gate: closed while a far store does not answer."""

    def __init__(self, blobs) -> None:
        super().__init__(blobs)
        self.fetched: list = []
        self.arrived = threading.Condition()
        self.gate = threading.Event()
        self.gate.set()

    def prefetch(self, cid, *, max_bytes):
        self.gate.wait(WAIT_S)
        data = self.get_bytes(cid, max_bytes=max_bytes)
        assert len(data) <= max_bytes
        with self.arrived:
            self.fetched.append(cid)
            self.arrived.notify_all()

    def wait_for(self, count: int) -> set:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.fetched) >= count, WAIT_S)
        return set(self.fetched)


def reached(phase: Phase, round_number: int = 1):
    return lambda world: world.chain.clock.round == round_number and world.chain.phase()[0] is phase


def world_with(tmp_path, store_of=FarMemory) -> tuple[World, FarMemory]:
    world = World(tmp_path)
    store = store_of(world.store.blobs)
    return world, store


def prefetch_of(world: World, store, role: Role, account: str) -> Prefetch:
    return Prefetch(replace(world.players[account].context, store=store), role)


def look(world: World, prefetch: Prefetch, role: Role, account: str) -> None:
    prefetch.look(world.ports[account].snapshot(TASK, role))


# --- fetching ahead ------------------------------------------------------------------------------


def test_prefetch__updates_are_revealed__the_aggregator_fetches_each_once(tmp_path) -> None:
    world, store = world_with(tmp_path)
    world.run(until=reached(Phase.SCORE_COMMIT))
    prefetch = prefetch_of(world, store, Role.AGGREGATOR, AGGREGATOR)
    look(world, prefetch, Role.AGGREGATOR, AGGREGATOR)
    revealed = {cid_text(update.cid) for update in world.chain.reveals[1]}
    assert store.wait_for(3) == revealed
    look(world, prefetch, Role.AGGREGATOR, AGGREGATOR)
    assert len(store.fetched) == 3


@pytest.mark.parametrize(("role", "account"), [(Role.WORKER, WORKER), (Role.VALIDATOR, VALIDATOR)])
def test_prefetch__aggregate_is_posted__the_next_rounds_model_is_fetched(tmp_path, role, account) -> None:
    world, store = world_with(tmp_path)
    world.run(until=reached(Phase.CHALLENGE))
    look(world, prefetch_of(world, store, role, account), role, account)
    assert store.wait_for(1) == {cid_text(world.chain.posted[1][0].cid)}


def test_prefetch__one_cid_is_none__the_others_are_fetched(tmp_path) -> None:
    world, store = world_with(tmp_path)
    world.run(until=reached(Phase.SCORE_COMMIT))
    world.chain.reveals[1][0] = replace(world.chain.reveals[1][0], cid=CidOnChain(bytes(32), 7))
    look(world, prefetch_of(world, store, Role.AGGREGATOR, AGGREGATOR), Role.AGGREGATOR, AGGREGATOR)
    assert len(store.wait_for(2)) == 2


def test_prefetch__own_aggregate__is_not_fetched_back(tmp_path) -> None:
    world, store = world_with(tmp_path)
    world.run(until=reached(Phase.CHALLENGE))
    prefetch = prefetch_of(world, store, Role.AGGREGATOR, AGGREGATOR)
    assert list(prefetch._wanted(world.ports[AGGREGATOR].snapshot(TASK, Role.AGGREGATOR))) == []


def test_prefetch__store_does_not_answer__the_agent_is_not_held_up(tmp_path) -> None:
    world, store = world_with(tmp_path)
    world.run(until=reached(Phase.SCORE_COMMIT))
    store.gate.clear()
    look(world, prefetch_of(world, store, Role.AGGREGATOR, AGGREGATOR), Role.AGGREGATOR, AGGREGATOR)
    assert store.fetched == []
    store.gate.set()
    store.wait_for(3)


def test_prefetch__everything_is_at_hand__asks_the_chain_nothing(tmp_path) -> None:
    world = World(tmp_path)
    world.run(until=reached(Phase.SCORE_COMMIT))
    prefetch = Prefetch(world.players[AGGREGATOR].context, Role.AGGREGATOR)
    world.ports[AGGREGATOR].revealed_updates = None  # type: ignore[method-assign]
    look(world, prefetch, Role.AGGREGATOR, AGGREGATOR)


# --- dropping ------------------------------------------------------------------------------------


def dropped_of(world: World, account: str | None = None) -> frozenset:
    """What of the first round need not be kept."""
    port = world.ports[WORKER]
    kept = protected(port, world.store, [TASK])
    return droppable(port, TASK, world.chain.task, 1, kept, account=account)


def test_droppable__a_stranger_names_what_the_task_is_about__it_stays(tmp_path) -> None:
    described, told = published(world_store := MemoryStore())
    dataset = {"name": "tiny", "input_shape": [1, 3, 2], "num_classes": 4, "description_cid": described}
    world = World(tmp_path, dataset=dataset)
    world.store.blobs |= world_store.blobs
    world.run(until=lambda world: world.chain.over)
    posted = world.chain.posted[2][0]
    shard = cid_on_chain(told.shards[1].cid)
    for cid in (
        world.chain.params.genesis_cid,
        world.chain.params.genesis_float_cid,
        CidOnChain(world.chain.task.spec_hash, 0x55),
        posted.cid,
        posted.float_cid,
        cid_on_chain(described),
        shard,
    ):
        world.chain.reveals[1][0] = replace(world.chain.reveals[1][0], cid=cid)
        assert cid_text(cid) not in dropped_of(world)
        assert len(dropped_of(world)) == 2
    own = replace(world.chain.posted[1][0], cid=shard, claim=replace(posted.claim, model_root=b"\x08" * 32))
    world.chain.posted[1].insert(0, own)
    assert cid_text(shard) not in dropped_of(world), "nor as an aggregate that fell"


def test_protected__specification_is_not_to_be_had__the_models_are_and_a_warning_says_the_rest(
    tmp_path, caplog
) -> None:
    world = World(tmp_path)
    world.run(until=lambda world: world.chain.over)
    kept = protected(world.ports[WORKER], MemoryStore(), [TASK])
    assert {cid_text(cid) for _, cid in world.chain.models.values()} < kept
    assert "what task 1 is about is not known" in caplog.text


def test_protected__a_task_that_is_not_on_this_chain__is_passed_over(tmp_path, monkeypatch) -> None:
    world = World(tmp_path)
    port = world.ports[WORKER]

    def unknown(task_id):
        raise UsageError(f"task {task_id} does not exist")

    monkeypatch.setattr(port, "task", unknown)
    assert protected(port, world.store, [TASK]) == frozenset()


def test_journalled_tasks__what_else_is_in_the_folder__is_no_task(tmp_path) -> None:
    for name in ("task-7", "task-12", "task-", "task-x", "other"):
        (tmp_path / name).mkdir()
    assert journalled_tasks(tmp_path) == {7, 12}
    assert journalled_tasks(tmp_path / "nowhere") == frozenset()


def test_droppable__finished_round__its_updates_and_never_its_model(tmp_path) -> None:
    world = World(tmp_path)
    world.run(until=lambda world: world.chain.over)
    found = dropped_of(world)
    assert found == {cid_text(update.cid) for update in world.chain.reveals[1]}
    assert cid_text(world.chain.models[1][1]) not in found
    mine = dropped_of(world, account=WORKER)
    assert mine == {cid_text(u.cid) for u in world.chain.reveals[1] if u.worker == WORKER}


def test_droppable__cid_that_is_none__is_left_out(tmp_path) -> None:
    world = World(tmp_path)
    world.run(until=lambda world: world.chain.over)
    world.chain.reveals[1][0] = replace(world.chain.reveals[1][0], cid=CidOnChain(bytes(32), 7))
    assert len(dropped_of(world)) == 2


def test_droppable__aggregate_that_fell__goes_and_the_final_one_stays(tmp_path) -> None:
    world = World(tmp_path)
    world.run(until=lambda world: world.chain.over)
    final = world.chain.posted[1][0]
    fallen_cid = replace(final.cid, digest=b"\x07" * 32)
    claim = replace(final.claim, model_root=b"\x08" * 32)
    fallen = replace(final, claim=claim, cid=fallen_cid, float_cid=final.float_cid, poster=account_of(301))
    world.chain.posted[1].insert(0, fallen)
    found = dropped_of(world)
    assert cid_text(fallen_cid) in found
    assert not {cid_text(final.cid), cid_text(final.float_cid)} & found, "a shared CID is a final model's, too"


def _retention(world: World, rule: str) -> Retention:
    return Retention(replace(world.players[WORKER].context, retention=rule))


def _waited(retention: Retention, *rounds: int) -> None:
    retention._drops.wait(rounds, WAIT_S)


def test_retention__models__own_updates_go_one_round_after_theirs(tmp_path) -> None:
    world = World(tmp_path, rounds=3)
    world.run(until=reached(Phase.COMMIT, 2))
    retention = _retention(world, "models")
    retention.look(world.ports[WORKER].snapshot(TASK, Role.WORKER))
    own = [{cid_text(u.cid) for u in world.chain.reveals[1] if u.worker == WORKER}]
    assert own[0] <= world.store.blobs.keys(), "round 1's may still be needed to compute its model again"
    world.run(until=reached(Phase.COMMIT, 3))
    retention.look(world.ports[WORKER].snapshot(TASK, Role.WORKER))
    _waited(retention, 1)
    assert not own[0] & world.store.blobs.keys()
    others = {cid_text(u.cid) for u in world.chain.reveals[1] if u.worker != WORKER}
    assert others <= world.store.blobs.keys()


def test_past_dispute__the_task_is_over__is_every_round(tmp_path) -> None:
    world = World(tmp_path, rounds=3)
    world.run(until=reached(Phase.COMMIT, 3))
    assert list(past_dispute(world.chain.view())) == [1]
    world.run(until=lambda world: world.chain.over)
    assert list(past_dispute(world.chain.view())) == [1, 2, 3]


def test_retention__the_task_is_over__all_own_updates_are_gone_before_the_agent_ends(tmp_path) -> None:
    world = World(tmp_path, rounds=3)
    world.run(until=lambda world: world.chain.over)
    retention = _retention(world, "models")
    retention.finish(world.ports[WORKER].snapshot(TASK, Role.WORKER))
    own = {cid_text(u.cid) for number in (1, 2, 3) for u in world.chain.reveals[number] if u.worker == WORKER}
    assert len(own) == 3
    assert not own & world.store.blobs.keys()
    assert {cid_text(cid) for _, cid in world.chain.models.values()} <= world.store.blobs.keys()


def test_retention__all__nothing_goes(tmp_path) -> None:
    world = World(tmp_path)
    world.run(until=lambda world: world.chain.over)
    before = dict(world.store.blobs)
    retention = _retention(world, "all")
    retention.look(world.ports[WORKER].snapshot(TASK, Role.WORKER))
    assert world.store.blobs == before


def test_retention__restart__goes_on_where_it_was(tmp_path) -> None:
    world = World(tmp_path, rounds=3)
    world.run(until=reached(Phase.COMMIT, 3))
    first = _retention(world, "models")
    snapshot = world.ports[WORKER].snapshot(TASK, Role.WORKER)
    first.look(snapshot)
    _waited(first, 1)
    first.look(snapshot)
    again = _retention(world, "models")
    assert again._next == first._next == 2


def test_retention__store_fails__is_told_and_the_agent_goes_on(tmp_path) -> None:
    world = World(tmp_path, rounds=3)
    world.run(until=reached(Phase.COMMIT, 3))

    def fail(cid):
        raise StoreUnreachable("nobody there")

    world.store.drop = fail  # type: ignore[method-assign]
    retention = _retention(world, "models")
    retention.look(world.ports[WORKER].snapshot(TASK, Role.WORKER))
    _waited(retention, 1)
    assert [told["of_round"] for told in world.told(WORKER, "not_dropped")] == [1]


def _later(snapshot, seconds: int):
    block = replace(snapshot.block, timestamp=snapshot.block.timestamp + seconds)
    return replace(snapshot, block=block)


def test_retention__one_payload_fails__the_others_go_and_it_is_tried_again_after_a_while(tmp_path) -> None:
    world = World(tmp_path, rounds=3)
    world.run(until=reached(Phase.COMMIT, 3))
    retention = _retention(world, "models")
    own = {cid_text(u.cid) for u in world.chain.reveals[1] if u.worker == WORKER}
    other = world.store.put_bytes(b"another payload of the round")
    retention._droppable = lambda _: [*sorted(own), other]  # type: ignore[method-assign]
    drop, asked, faults = world.store.drop, [], [StoreUnreachable("nobody there")]

    def fail_first(cid):
        asked.append(cid)
        if faults:
            raise faults.pop()
        drop(cid)

    world.store.drop = fail_first  # type: ignore[method-assign]
    snapshot = world.ports[WORKER].snapshot(TASK, Role.WORKER)
    for _ in range(3):  # looks that follow one another try nothing again
        retention.look(snapshot)
        _waited(retention, 1)
    assert own <= world.store.blobs.keys()
    assert other not in world.store.blobs
    assert len(asked) == 2
    assert _retention(world, "models")._next == 1, "a restart tries it again, too"
    retention.look(_later(snapshot, AGAIN_S))
    _waited(retention, 1)
    assert not own & world.store.blobs.keys()
    retention.look(_later(snapshot, AGAIN_S))
    assert _retention(world, "models")._next == 2
    assert len(world.told(WORKER, "not_dropped")) == 1


def test_retention__damaged_record__says_which_file(tmp_path) -> None:
    world = World(tmp_path)
    (world.players[WORKER].context.journal.folder / "retention.json").write_text("{")
    with pytest.raises(JournalDamaged, match=r"retention\.json"):
        _retention(world, "models")

"""Rounds in which somebody lies, stalls, or runs out of something: no agent's process may end over them."""

from __future__ import annotations

import math
import threading
from collections import Counter
from dataclasses import replace

import pytest
from agents_world import World
from fake_chain import MemoryStore, account_of

from chainfl.agents import validator as validators
from chainfl.agents import worker as workers
from chainfl.agents.actions import Do
from chainfl.agents.background import Background
from chainfl.agents.events import EventLog
from chainfl.agents.loop import AgentLoop
from chainfl.errors import (
    BlobNotFound,
    DatasetError,
    LineageBroken,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    TrainingDiverged,
)
from chainfl.tasks.cids import cid_text
from chainfl.tasks.state import CidOnChain, Outcome, Phase, Role
from chainfl.tasks.votes import ABSTENTION, REJECTION
from chainfl.types import Root

WORKER, VALIDATOR, AGGREGATOR, OUTSIDER = account_of(100), account_of(200), account_of(300), account_of(301)


@pytest.fixture(autouse=True)
def _short_looks(monkeypatch):
    """Real time that a look at a stalled fetch or upload takes."""
    monkeypatch.setattr(validators, "FETCH_LOOK_S", 0.02)
    monkeypatch.setattr(workers, "UPLOAD_LOOK_S", 0.02)


def post_nonsense(world: World, number: int = 1) -> None:
    """The round's aggregate is a root of nothing, under a CID of nothing."""
    post = world.ports[AGGREGATOR].post_aggregate

    def posted(task_id, round_number, claim, cid, float_cid, salt):
        if round_number != number:
            return post(task_id, round_number, claim, cid, float_cid, salt)
        nothing = CidOnChain(b"\x07" * 32, 0x55)
        return post(task_id, round_number, replace(claim, model_root=Root(b"\x08" * 32)), nothing, nothing, salt)

    world.ports[AGGREGATOR].post_aggregate = posted


# --- (a) models that nobody can derive or use ------------------------------------------------------


def test_bogus_root__everybody__sits_the_rounds_out_and_lives(tmp_path):
    world = World(tmp_path, rounds=3)
    post_nonsense(world)
    world.run()
    assert world.chain.outcomes == {1: Outcome.FINAL, 2: Outcome.NO_UPDATES, 3: Outcome.NO_UPDATES}
    assert [event["error"] for event in world.told(WORKER, "sits_out")] == ["LineageBroken"] * 2  # once a round
    assert {stop.error for stop in world.stopped.values()} <= {None}


def test_bogus_root__loop__does_not_end_with_it(tmp_path):
    world = World(tmp_path, rounds=2)
    post_nonsense(world)
    stop = threading.Event()

    def wait(after, timeout_s):
        for account in [a for a in world.players if a != WORKER]:
            world.look(account)
        world.chain.tick()
        return world.chain.block()

    world.ports[WORKER].wait_for_block = wait
    AgentLoop(world.players[WORKER], stop).run()
    assert world.chain.over


def test_bogus_root__update_made_from_it__validators_abstain_and_are_not_silent(tmp_path):
    world = World(tmp_path, rounds=2)
    post_nonsense(world)
    insider = world.players[WORKER].models
    at_round = insider.at_round
    insider.at_round = lambda number, root: world.genesis if number == 2 else at_round(number, root)
    world.run(until=lambda w: w.chain.clock.round == 2 and w.chain.phase()[0] is Phase.TALLY)
    assert world.chain.votes[VALIDATOR] == [ABSTENTION, REJECTION, REJECTION]
    assert "LineageBroken" in world.told(VALIDATOR, "cannot_judge")[0]["why"]
    world.run()
    sent = Counter(what for who, what in world.chain.sent if who == VALIDATOR)
    assert (sent["commit_scores"], sent["reveal_scores"]) == (2, 2)


@pytest.mark.parametrize(
    "error", [TrainingDiverged("inf"), ValueError("nan"), OverflowError("inf"), LineageBroken("x")]
)
def test_model_that_cannot_be_evaluated__validator__abstains_for_all(tmp_path, error):
    world = World(tmp_path, rounds=1)

    def fail(*_args):
        raise error

    world.players[VALIDATOR]._scorer.score = fail
    world.run()
    assert world.chain.votes[VALIDATOR] == [ABSTENTION] * 3
    assert len(world.told(VALIDATOR, "cannot_judge")) == 1


def test_model_that_got_worse__validator__tells_it_and_votes(tmp_path):
    world = World(tmp_path, rounds=2)
    world.players[VALIDATOR]._scorer.worsening = lambda model, previous: (1.23456, math.inf)
    world.run()
    [told] = world.told(VALIDATOR, "diverging")
    assert (told["loss_before"], told["loss_after"]) == (1.2346, None)
    assert ABSTENTION not in world.chain.votes[VALIDATOR]


def test_wrong_data__validator__ends_with_the_operators_error(tmp_path):
    world = World(tmp_path, rounds=1)

    def fail(*_args):
        raise DatasetError("no examples")

    world.players[VALIDATOR]._scorer.score = fail
    with pytest.raises(DatasetError):
        world.run()


@pytest.mark.parametrize("error", [TrainingDiverged("inf"), FloatingPointError("inf"), RuntimeError("torch")])
def test_training_diverges__worker__sits_the_round_out_and_trains_in_the_next(tmp_path, error):
    world = World(tmp_path, rounds=2)
    trainer = world.players[WORKER]._trainer
    train = trainer.train

    def diverging(model, number, **known):
        if number == 1:
            raise error
        return train(model, number, **known)

    trainer.train = diverging
    world.run()
    assert [u.worker for u in world.chain.reveals[1]] == world.accounts[Role.WORKER][1:]
    assert len(world.chain.reveals[2]) == 3
    assert world.told(WORKER, "sits_out")[0]["error"] == "TrainingDiverged"


def test_previous_model_is_gone__validator__scores_without_it(tmp_path):
    world = World(tmp_path, rounds=2)
    world.run(until=lambda w: w.chain.clock.round == 2)
    player = world.start(Role.VALIDATOR, VALIDATOR)

    def gone(*_args):
        raise LineageBroken("no")

    player.models.before = gone
    world.run()
    assert world.chain.outcomes[2] is Outcome.FINAL
    assert world.told(VALIDATOR, "previous_model_missing")


# --- (b) updates that come late, slowly, or never --------------------------------------------------


class StallingStore(MemoryStore):
    """Never delivers what is in `stalled`, until it is released; counts what it is asked for."""

    def __init__(self, blobs) -> None:
        super().__init__(blobs)
        self.stalled = set()
        self.hidden = set()
        self.released = threading.Event()
        self.asked = Counter()

    def get_bytes(self, cid, *, max_bytes):
        self.asked[cid] += 1
        if cid in self.stalled:
            self.released.wait(20)
        if cid in self.hidden:
            raise BlobNotFound("not yet")
        return super().get_bytes(cid, max_bytes=max_bytes)


def with_store(world: World, account: str, store) -> None:
    player = world.players[account]
    player.context = replace(player.context, store=store)
    player.models._context = player.context


def test_update_that_drips__validator__votes_in_time_without_it(tmp_path):
    world = World(tmp_path, rounds=1)
    store = StallingStore(world.store.blobs)
    with_store(world, VALIDATOR, store)
    world.run(until=lambda w: w.chain.clock.committed == 3)
    for account in world.accounts[Role.WORKER]:
        update = world.players[account].context.journal.update(1)
        if account == WORKER:
            store.stalled.add(update.cid)
    world.run(until=lambda w: w.chain.phase()[0] is Phase.SCORE_COMMIT)
    start, end = world.chain.now, world.chain.phase()[1]
    world.run(until=lambda w: bool(w.told(VALIDATOR, "scored")))
    assert start + 6 <= world.chain.now <= start + (end - start) // 2
    world.run()
    store.released.set()
    assert world.chain.votes[VALIDATOR][0] == ABSTENTION
    assert world.chain.votes[VALIDATOR][1] != ABSTENTION
    assert "in time" in world.told(VALIDATOR, "update_not_delivered")[0]["why"]


def test_update_that_is_late__validator__waits_for_it_and_fetches_the_others_once(tmp_path):
    world = World(tmp_path, rounds=1)
    store = StallingStore(world.store.blobs)
    with_store(world, VALIDATOR, store)
    world.run(until=lambda w: w.chain.clock.committed == 3)
    late, *others = [world.players[account].context.journal.update(1).cid for account in world.accounts[Role.WORKER]]
    store.hidden = {late}
    world.run(until=lambda w: w.chain.phase()[0] is Phase.SCORE_COMMIT)
    world.run(until=lambda w: w.chain.now >= w.chain.clock.reveal_end + 3)
    store.hidden = set()
    world.run()
    assert ABSTENTION not in world.chain.votes[VALIDATOR]
    assert store.asked[late] > 3
    assert [store.asked[cid] for cid in others] == [1, 1]


def test_updates_revealed_early__validator__fetches_them_in_reveal(tmp_path):
    world = World(tmp_path, rounds=1)
    store = StallingStore(world.store.blobs)
    with_store(world, VALIDATOR, store)
    late = world.accounts[Role.WORKER][2]
    world.run(until=lambda w: w.chain.clock.committed == 3)
    world.run(until=lambda w: w.chain.clock.revealed == 2, without=[late])
    world.chain.tick()
    assert world.look(VALIDATOR) is Do.FETCH_UPDATES
    world.players[VALIDATOR]._gathering.fetches.wait(world.chain.reveals[1], 5)
    assert all(store.asked[cid_text(update.cid)] == 1 for update in world.chain.reveals[1])


def test_store_away__validator__abstains_and_commits(tmp_path):
    world = World(tmp_path, rounds=1)

    class Away(MemoryStore):
        def get_bytes(self, cid, *, max_bytes):
            raise StoreUnreachable("no daemon")

    with_store(world, VALIDATOR, Away())
    world.run()
    assert world.chain.votes[VALIDATOR] == [ABSTENTION] * 3
    assert "StoreUnreachable" in world.told(VALIDATOR, "cannot_judge")[0]["why"]


def test_node_that_hides_an_update__validator__abstains_for_who_it_may_be(tmp_path):
    world = World(tmp_path, rounds=1)
    port = world.ports[VALIDATOR]
    shown = port.revealed_updates
    port.revealed_updates = lambda *args: shown(*args)[1:]
    world.run()
    assert world.chain.votes[VALIDATOR][0] == ABSTENTION
    assert ABSTENTION not in world.chain.votes[VALIDATOR][1:]


def test_background__job_that_stalls__keeps_one_place_only():
    jobs, release = Background(at_once=2), threading.Event()
    jobs.start("stalls", lambda: release.wait(20))
    for number in range(5):
        jobs.start(number, lambda number=number: 10 * number)
    jobs.wait(range(5), 5)
    assert [jobs.result(number) for number in range(5)] == [0, 10, 20, 30, 40]
    assert not jobs.is_done("stalls")
    assert jobs.failure("stalls") is None
    release.set()


def test_background__failed_job__can_be_started_again():
    jobs, answers = Background(at_once=1), iter([BlobNotFound("x"), 5])

    def work():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    jobs.start("a", work)
    jobs.wait(["a"], 5)
    assert isinstance(jobs.failure("a"), BlobNotFound)
    for _ in range(2):  # the second has nothing to do
        jobs.start("a", work)
        jobs.wait(["a"], 5)
    assert (jobs.is_done("a"), jobs.result("a"), jobs.failure("a")) == (True, 5, None)


# --- (c) uploads that fail -------------------------------------------------------------------------


class BrokenStore(MemoryStore):
    """Takes nothing until it is mended."""

    def __init__(self, blobs, error) -> None:
        super().__init__(blobs)
        self.error = error

    def put_file(self, path, **options):
        if self.error is not None:
            raise self.error
        return super().put_file(path)


@pytest.mark.parametrize("error", [StoreFull("full"), StoreReadOnly("ro"), StoreUnreachable("away")])
def test_upload_fails__worker__reveals_all_the_same_and_goes_on_publishing(tmp_path, error):
    world = World(tmp_path, rounds=1)
    store = BrokenStore(world.store.blobs, error)
    with_store(world, WORKER, store)
    world.run(until=lambda w: w.chain.phase()[0] is Phase.REVEAL)
    start, end = world.chain.now, world.chain.phase()[1]
    world.run(until=lambda w: w.chain.members[Role.WORKER][WORKER].revealed)
    assert world.chain.now == start + (end - start) // 2
    assert [len(world.told(WORKER, what)) for what in ("publishing_failed", "revealing_unpublished", "published")] == [
        1,
        1,
        0,
    ]
    store.error = None
    world.run()
    assert len(world.told(WORKER, "published")) == 1
    assert world.chain.slashed == []


def test_upload_stalls__worker__reveals_all_the_same(tmp_path):
    world = World(tmp_path, rounds=1)
    release = threading.Event()

    class Stalling(MemoryStore):
        def put_file(self, path, **options):
            release.wait(20)
            return super().put_file(path)

    with_store(world, WORKER, Stalling(world.store.blobs))
    world.run()
    release.set()
    assert world.chain.slashed == []
    assert "too long" in world.told(WORKER, "revealing_unpublished")[0]["why"]


def test_upload_fails_and_the_worker_restarts__goes_on_publishing(tmp_path):
    world = World(tmp_path, rounds=1)
    with_store(world, WORKER, BrokenStore(world.store.blobs, StoreFull("full")))
    world.run(until=lambda w: w.chain.phase()[0] is Phase.SCORE_COMMIT)
    world.start(Role.WORKER, WORKER)
    world.run()
    assert world.told(WORKER, "published")


def test_disk_full_between_upload_and_reveal__worker__reveals(tmp_path, monkeypatch):
    world = World(tmp_path, rounds=1)

    def full(number):
        raise StoreFull("full")

    monkeypatch.setattr(world.players[WORKER].context.journal, "mark_published", full)
    world.run()
    assert len(world.told(WORKER, "published")) == 1
    assert len(world.chain.reveals[1]) == 3


def test_disk_full_while_journalling__worker__sits_the_round_out(tmp_path, monkeypatch):
    world = World(tmp_path, rounds=2)
    journal = world.players[WORKER].context.journal
    save = journal.save_update

    def full(update, *rest):
        if update.round == 1:
            raise StoreFull("full")
        return save(update, *rest)

    monkeypatch.setattr(journal, "save_update", full)
    world.run()
    assert len(world.chain.reveals[2]) == 3


# --- (d) aggregates that cannot be computed, and seats that are taken -------------------------------


def test_accepted_update_is_rubbish__aggregator__waits_for_the_next_round(tmp_path):
    world = World(tmp_path, rounds=2)
    world.run(until=lambda w: w.chain.phase()[0] is Phase.AGGREGATE)
    cid = cid_text(world.chain.reveals[1][0].cid)
    kept = world.store.blobs[cid]
    world.store.blobs[cid] = b"rubbish"
    world.run(until=lambda w: w.chain.clock.round == 2)
    world.store.blobs[cid] = kept
    world.run()
    assert world.chain.outcomes == {1: Outcome.NO_AGGREGATE, 2: Outcome.FINAL}
    assert len(world.told(AGGREGATOR, "sits_out")) == 1


def test_store_is_full__aggregator__waits_for_the_next_round(tmp_path):
    world = World(tmp_path, rounds=2)

    class Full(MemoryStore):
        def put_bytes(self, data):
            if world.chain.clock.round == 1:
                raise StoreFull("full")
            return super().put_bytes(data)

    with_store(world, AGGREGATOR, Full(world.store.blobs))
    world.run()
    assert world.chain.outcomes == {1: Outcome.NO_AGGREGATE, 2: Outcome.FINAL}


def add_outsider(world: World) -> None:
    import io

    world.events[OUTSIDER] = io.StringIO()
    world.ports[OUTSIDER] = world.chain.port(OUTSIDER)
    world.start(Role.AGGREGATOR, OUTSIDER)


def test_no_room_for_another_aggregator__slots_pass__it_posts_in_the_open_window(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=lambda w: w.chain.clock.round == 1)
    add_outsider(world)
    done = world.run(without=[AGGREGATOR])
    assert world.chain.outcomes == {1: Outcome.FINAL}
    assert [do for who, do in done if who == OUTSIDER][:3] == [
        Do.PREPARE_AGGREGATE,
        Do.COMMIT_AGGREGATE,
        Do.POST_AGGREGATE,
    ]


def test_no_room_for_another_aggregator__the_slot_is_used__it_leaves_it_alone(tmp_path):
    world = World(tmp_path, rounds=2)
    world.run(until=lambda w: w.chain.clock.round == 1)
    add_outsider(world)
    world.run()
    assert world.chain.outcomes == {1: Outcome.FINAL, 2: Outcome.FINAL}
    assert not [what for who, what in world.chain.sent if who == OUTSIDER]


def test_no_room_and_no_bond__it_waits_and_lives(tmp_path):
    world = World(tmp_path, rounds=1)
    world.run(until=lambda w: w.chain.clock.round == 1)
    add_outsider(world)
    world.ports[OUTSIDER].free_stake = 0
    world.run(without=[AGGREGATOR])
    assert world.chain.outcomes == {1: Outcome.NO_AGGREGATE}
    world.look(OUTSIDER)
    assert world.stopped[OUTSIDER].error is None


def test_event_log__from_many_threads__keeps_lines_whole():
    import io
    import json

    sink = io.StringIO()
    log = EventLog("a", Role.VALIDATOR, sink)
    threads = [threading.Thread(target=lambda: [log.emit("x", n=i) for i in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([json.loads(line) for line in sink.getvalue().splitlines()]) == 200

"""A worker's shard of its task's data set: which one, fetched once, checked, and trained on."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from agents_world import TargetTrainer, World
from data_sets import pixels, published
from fake_chain import CHAIN_ID, COORDINATOR, TASK, MemoryStore

from chainfl.agents import wiring
from chainfl.agents.shards import AssignedShard, ShardLearning, TaskShard
from chainfl.agents.worker import Worker
from chainfl.encoding.lossy import lossy_values
from chainfl.encoding.payload import max_update_bytes
from chainfl.errors import BlobNotFound, DatasetError, DescriptionInvalid, NodeBehind, NoShards, UsageError
from chainfl.registry.material import fetch_update, spool_update
from chainfl.storage.unixfs import cid_of
from chainfl.tasks.cids import cid_text
from chainfl.tasks.state import Role
from chainfl.types import Compression


def world_with_shards(tmp_path, *, shards: int = 2, shape=(1, 3, 2), classes: int = 4, **changes) -> World:
    cid, _ = published(MemoryStore(), shards=shards)
    dataset = {"name": "tiny", "input_shape": list(shape), "num_classes": classes, "description_cid": cid}
    world = World(tmp_path, dataset=dataset, **changes)
    published(world.store, shards=shards)
    return world


def shard_of(world: World, account: str, number: int | None = None) -> AssignedShard:
    return AssignedShard(world.players[account].context, TaskShard(number))


class Remembering:
    """Keeps what the trainers were made for."""

    def __init__(self) -> None:
        self.datasets = []

    def __call__(self, dataset):
        self.datasets.append(dataset)
        return TargetTrainer(len(self.datasets))


@pytest.mark.parametrize(("text", "number"), [("auto", None), ("1", 1), ("12", 12)])
def test_task_shard__as_people_write_it__that_one(text, number):
    assert TaskShard.parse(text) == TaskShard(number)


@pytest.mark.parametrize("text", ["", "0", "-1", "Auto", "²", "1234567", "1.0"])
def test_task_shard__anything_else__refused(text):
    with pytest.raises(UsageError):
        TaskShard.parse(text)


def test_number__auto__is_the_place_among_the_workers_modulo_the_shards(tmp_path):
    world = world_with_shards(tmp_path)
    workers = world.accounts[Role.WORKER]
    with pytest.raises(NodeBehind):
        shard_of(world, workers[0]).number()
    world.run(until=lambda w: len(w.chain.members[Role.WORKER]) == 3)
    places = list(world.chain.members[Role.WORKER])
    assert [shard_of(world, account).number() for account in places] == [1, 2, 1]
    assert shard_of(world, workers[0], 2).number() == 2


def test_make__task_without_shards__refused(tmp_path):
    world = World(tmp_path)
    with pytest.raises(NoShards, match="task 1"):
        shard_of(world, world.accounts[Role.WORKER][0])


def test_make__number_too_large__refused(tmp_path):
    world = world_with_shards(tmp_path)
    with pytest.raises(UsageError, match="has 2"):
        shard_of(world, world.accounts[Role.WORKER][0], 3)


@pytest.mark.parametrize("wrong", [{"shape": (1, 2, 3)}, {"classes": 3}])
def test_make__other_examples_than_the_tasks__refused(tmp_path, wrong):
    world = world_with_shards(tmp_path, **wrong)
    with pytest.raises(DatasetError):
        shard_of(world, world.accounts[Role.WORKER][0])


def test_make__no_description_where_the_task_says__refused(tmp_path):
    cid = cid_of(b"{}")
    dataset = {"name": "tiny", "input_shape": [1], "num_classes": 2, "description_cid": cid}
    world = World(tmp_path, dataset=dataset)
    with pytest.raises(BlobNotFound):
        shard_of(world, world.accounts[Role.WORKER][0])
    world.store.put_bytes(b"{}")
    with pytest.raises(DescriptionInvalid):
        shard_of(world, world.accounts[Role.WORKER][0])


def test_train__first_round__fetches_the_shard_and_later_rounds_do_not(tmp_path):
    world, made = world_with_shards(tmp_path), Remembering()
    account = world.accounts[Role.WORKER][0]
    shard = shard_of(world, account, 2)
    learning = ShardLearning(shard, made)
    learning.train(world.genesis, 1)
    world.store.blobs.clear()
    learning.train(world.genesis, 2)
    (dataset,) = made.datasets
    assert len(dataset) == published(MemoryStore(), shards=2)[1].shards[1].num_examples
    again = ShardLearning(shard, made)
    again.train(world.genesis, 3)
    assert np.array_equal(made.datasets[0].values, made.datasets[1].values), "from the journal's folder"


def test_train__shard_that_nobody_serves__is_tried_again(tmp_path):
    world, made = world_with_shards(tmp_path), Remembering()
    _, told = published(MemoryStore(), shards=2)
    content = world.store.blobs.pop(told.shards[0].cid)
    learning = ShardLearning(shard_of(world, world.accounts[Role.WORKER][0], 1), made)
    with pytest.raises(BlobNotFound):
        learning.train(world.genesis, 1)
    world.store.put_bytes(content)
    learning.train(world.genesis, 1)
    assert len(made.datasets) == 1


def test_worker__on_its_place__fetches_while_it_waits_and_trains_on_its_own_shard(tmp_path):
    world, made = world_with_shards(tmp_path), Remembering()
    for account in world.accounts[Role.WORKER]:
        context = world.players[account].context
        learning = ShardLearning(AssignedShard(context, TaskShard()), made)
        world.players[account] = Worker(context, learning, on_duty=learning.prefetch)
    world.run(until=lambda w: w.chain.over)
    told = published(MemoryStore(), shards=2)[1]
    sizes = [told.shards[i].num_examples for i in (0, 1, 0)]
    assert sorted(map(len, made.datasets)) == sorted(sizes)
    assert pixels().num_classes == 4


LOSSY = [{"compression": "int8"}, {"compression": "int4"}, {"compression": "topk", "keep": "0.1"}]


@pytest.mark.parametrize(
    "payload", [{}, {"compression": "deflate"}, *LOSSY], ids=lambda entry: entry.get("compression")
)
def test_world__compressed_payloads__a_whole_task_in_that_form(tmp_path, payload):
    world = World(tmp_path, payload=payload, rounds=2)
    world.run()
    revealed = world.ports[world.accounts[Role.WORKER][0]].revealed_updates(TASK, 2, 0)
    updates = [world.store.blobs[cid_text(update.cid)] for update in revealed]
    tensor = f'"{payload.get("compression", "update")}":'.encode()
    assert [tensor in data for data in updates] == [True] * 3
    assert all(len(data) <= max_update_bytes(300, world.scope.compression) for data in updates)
    base_root, _ = world.chain.models[1]
    for update in revealed:
        fetched = fetch_update(world.store, world.scope, 2, base_root, update)
        spooled = spool_update(world.store, world.scope, 2, base_root, update)
        assert np.array_equal(spooled.read(0, 300), fetched)
        assert np.array_equal(lossy_values(fetched, world.scope.compression), fetched)


def test_world__deflated_payloads__the_models_of_plain_ones(tmp_path):
    models = []
    for compression in ("none", "deflate"):
        world = World(tmp_path / compression, payload={"compression": compression}, rounds=2)
        world.run()
        models.append(world.model(2).tobytes())
    assert models[0] == models[1]


def test_scope__of_a_specification__has_its_compression(tmp_path):
    world = World(tmp_path, payload={"compression": "deflate"})
    port = world.ports[world.accounts[Role.WORKER][0]]
    assert (port.chain_id, port.coordinator) == (CHAIN_ID, COORDINATOR)
    assert wiring.scope_of(port, TASK, world.spec) == world.scope
    assert world.scope.compression == Compression("deflate")


def test_needs_the_past__shard_has_not_arrived__told_at_once_and_not_waited_for(tmp_path, monkeypatch):
    world, made = world_with_shards(tmp_path), Remembering()
    learning = ShardLearning(shard_of(world, world.accounts[Role.WORKER][0], 1), made)
    asked, goes_on, get_file = threading.Event(), threading.Event(), world.store.get_file

    def slowly(*args, **options):
        asked.set()
        assert goes_on.wait(30)
        get_file(*args, **options)

    monkeypatch.setattr(world.store, "get_file", slowly)
    learning.prefetch()
    assert asked.wait(30)
    assert learning.needs_the_past
    goes_on.set()
    learning.train(world.genesis, 1)
    assert not learning.needs_the_past

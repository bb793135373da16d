"""Lineage: what a whole task in memory leaves behind, verified, and each way in which a link can be broken."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from agents_world import LAYOUT_HASH, NUM_PARAMS, World
from dispute_rounds import SERVERS
from fake_chain import CHAIN_ID, COORDINATOR, TASK, account_of

from chainfl.encoding.chunk_tree import model_root, zero_state_root
from chainfl.encoding.payload import ModelMetadata, write_model
from chainfl.errors import CidMismatch, LineageBroken, RegistryError
from chainfl.registry import lineage as lineages
from chainfl.registry.lineage import UpdateLink, model_id_of, read_lineage, updates_hash, verify_lineage
from chainfl.storage.unixfs import cid_of
from chainfl.tasks import spec as specs
from chainfl.tasks.cids import cid_on_chain, cid_text
from chainfl.tasks.state import CidOnChain, Outcome, Rule
from chainfl.types import Address, Root


@dataclass(frozen=True)
class Record:
    parent: bytes
    round: int
    attempt: int
    accepted: int
    opened_block: int
    registered_block: int
    registered_at: int
    aggregator: Address
    model_root: Root
    updates_hash: bytes
    cid: CidOnChain
    float_cid: CidOnChain


@dataclass(frozen=True)
class Line:
    owner: Address
    restricted: bool
    spec_hash: bytes
    licence: str


class Reader:
    """A registry over the fake chain's past."""

    chain_id = CHAIN_ID
    coordinator = COORDINATOR

    def __init__(self, world: World, float_cids: dict[int, CidOnChain]) -> None:
        self.world = world
        self.port = world.chain.port(account_of(1))
        self.revealed_updates = self.port.revealed_updates
        self.tallied_updates = self.port.tallied_updates
        self.records = {}
        parent = bytes(32)
        for number, (root, cid) in world.chain.models.items():
            tallied = world.chain.tallies.get(number, [])
            links = [UpdateLink(t.worker, t.root, "", 0, 0, t.weight, t.score) for t in tallied]
            digest = updates_hash(links) if number else bytes(32)
            accepted = sum(t.weight > 0 for t in tallied)
            record = Record(
                parent, number, 1, accepted, 0, 0, 0, account_of(300), root, digest, cid, float_cids[number]
            )
            self.records[number] = record
            parent = model_id_of(CHAIN_ID, COORDINATOR, TASK, number)
        self.ids = {number: model_id_of(CHAIN_ID, COORDINATOR, TASK, number) for number in self.records}

    def task(self, task_id):
        return self.world.chain.task

    def line(self, task_id):
        return Line(account_of(999), True, self.world.spec.spec_hash(), "")

    def versions(self, task_id):
        return [(self.ids[number], record) for number, record in reversed(self.records.items())]

    def change(self, number: int, **values) -> None:
        self.records[number] = replace(self.records[number], **values)


@pytest.fixture
def reader(tmp_path) -> Reader:
    """Two final rounds with a void one between them."""
    world = World(tmp_path, rounds=3)
    float_cids = {0: publish_float_genesis(world)}

    def note(w: World) -> bool:
        if w.chain.posting is not None:
            float_cids[w.chain.clock.round] = w.chain.posting[3]
        return w.chain.over

    world.run(until=lambda w: note(w) or w.chain.clock.round == 2)
    world.run(until=lambda w: w.chain.clock.round == 3, without=[account_of(300)])
    world.run(until=note)
    assert list(world.chain.outcomes.values()) == [Outcome.FINAL, Outcome.NO_AGGREGATE, Outcome.FINAL]
    return Reader(world, float_cids)


def publish_float_genesis(world: World) -> CidOnChain:
    import io

    from chainfl.encoding.layout import Layout
    from chainfl.encoding.payload import write_float_model

    stream = io.BytesIO()
    write_float_model(
        stream, Layout.from_json(world.spec.layout.to_json()), world.genesis, 20, world.spec.architecture()
    )
    return cid_on_chain(world.store.put_bytes(stream.getvalue()))


def verify(reader: Reader):
    return verify_lineage(reader, reader.world.store, TASK)


def test_lineage__untouched__every_link_holds(reader):
    found = verify(reader)
    assert found.is_valid
    assert [link.what for link in found.links] == ["specification", "genesis", "round 1", "round 3"]
    found.require()


def test_lineage__model_bytes_are_gone__still_derives(reader):
    for number in (1, 3):
        del reader.world.store.blobs[cid_text(reader.records[number].cid)]
    assert verify(reader).is_valid


@pytest.mark.parametrize(
    ("number", "change", "what", "says"),
    [
        (1, {"model_root": Root(b"\x09" * 32)}, "round 1", "root"),
        (1, {"updates_hash": bytes(32)}, "round 1", "hash"),
        (1, {"accepted": 2}, "round 1", "2 were registered"),
        (3, {"parent": bytes(31) + b"\x01"}, "round 3", "parent"),
        (3, {"cid": CidOnChain(bytes(32), 0x55)}, "round 3", "CID"),
        (3, {"float_cid": CidOnChain(bytes(32), 0x55)}, "round 3", "float32"),
        (0, {"model_root": Root(bytes(32))}, "genesis", "specification names"),
        (0, {"parent": b"\x01" * 32}, "genesis", "parent"),
    ],
)
def test_lineage__record_changed__names_the_first_link_that_fails(reader, number, change, what, says):
    reader.change(number, **change)
    found = verify(reader)
    assert not found.is_valid
    assert found.first_failure.what == what
    assert says in found.first_failure.problem
    with pytest.raises(LineageBroken, match=what):
        found.require()


def test_lineage__another_id__fails(reader):
    reader.ids[1] = bytes(32)
    assert "id" in verify(reader).first_failure.problem


def test_lineage__update_bytes_are_gone__fails_at_its_round(reader):
    update = reader.world.chain.reveals[3][0]
    del reader.world.store.blobs[cid_text(update.cid)]
    found = verify(reader)
    assert (found.first_failure.what, len(found.links)) == ("round 3", 4)
    assert "BlobNotFound" in found.first_failure.problem


def test_lineage__update_bytes_are_another_update__fails(reader):
    first, second = (cid_text(update.cid) for update in reader.world.chain.reveals[1][:2])
    reader.world.store.blobs[first] = reader.world.store.blobs[second]
    assert "PayloadBindingMismatch" in verify(reader).first_failure.problem


def test_lineage__stored_model_is_damaged__fails(reader, monkeypatch):
    damaged = cid_text(reader.records[3].cid)
    whole = reader.world.store.get_bytes

    def get_bytes(cid, *, max_bytes):
        if cid == damaged:
            raise CidMismatch("damaged", cid=cid)
        return whole(cid, max_bytes=max_bytes)

    monkeypatch.setattr(reader.world.store, "get_bytes", get_bytes)
    assert "CidMismatch" in verify(reader).first_failure.problem


def test_lineage__weight_changed__fails_at_the_hash(reader):
    tallies = reader.world.chain.tallies[1]
    tallies[0] = replace(tallies[0], weight=5_000)
    assert verify(reader).first_failure.what == "round 1"


def test_lineage__specification_is_gone__fails_first(reader):
    reader.world.store.blobs = {}
    assert verify(reader).first_failure.what == "specification"


def test_lineage__up_to_a_round__checks_no_further(reader):
    reader.change(3, model_root=Root(bytes(32)))
    assert verify_lineage(reader, reader.world.store, TASK, up_to_round=1).is_valid


def test_lineage__no_model__is_a_registry_error(reader):
    reader.records = {}
    with pytest.raises(RegistryError):
        verify(reader)


def test_export__json__has_everything_of_a_version(reader):
    document = json.loads(lineages.to_json(read_lineage(reader, TASK), reader.world.spec))
    assert [version["round"] for version in document["versions"]] == [0, 1, 3]
    assert document["versions"][1]["updates"][0]["weight"] == 10_000
    assert document["access"].startswith("restricted (a signal")
    assert document["code_version"] == "0"


def test_export__dot__draws_models_and_accepted_updates(reader):
    text = lineages.to_dot(read_lineage(reader, TASK))
    assert text.startswith("digraph")
    assert text.count("->") == 2 + 6


def test_model_id_of__any__is_keccak_of_abi_encode():
    from eth_abi.abi import encode
    from eth_hash.auto import keccak

    expected = keccak(encode(["uint256", "address", "uint256", "uint16"], [CHAIN_ID, COORDINATOR, 7, 3]))
    assert model_id_of(CHAIN_ID, COORDINATOR, 7, 3) == expected


def test_updates_hash__two_updates__is_the_coordinators_chain():
    from eth_abi.abi import encode
    from eth_hash.auto import keccak

    digest = bytes(32)
    links = []
    for i in (1, 2):
        worker, root = account_of(i), bytes([i]) * 32
        links.append(UpdateLink(worker, Root(root), "", 0, 0, 10_000, i))
        types = ["bytes32", "address", "bytes32", "uint16", "uint16"]
        digest = keccak(encode(types, [digest, worker, root, 10_000, i]))
    assert updates_hash(links) == digest


# --- other rules ---------------------------------------------------------------------------------


def world_with(tmp_path, **changes) -> World:
    """Two rounds under another format, whose genesis file holds a state where the server keeps one."""
    form = replace(specs.default_format(NUM_PARAMS), chunk_params=16, **changes)
    genesis, stream = np.zeros(NUM_PARAMS, np.int32), io.BytesIO()
    state = np.zeros(form.state_params, np.int32) if form.has_state else None
    write_model(stream, genesis, ModelMetadata(LAYOUT_HASH, 20), state)
    cid = cid_of(stream.getvalue())
    entry = {"root": model_root(genesis, 16).hex(), "cid": cid, "float_cid": cid}
    if form.has_state:
        entry["state_root"] = zero_state_root(form).hex()
    world = World(tmp_path, rounds=2, format=form, genesis=entry)
    world.store.put_bytes(stream.getvalue())
    return world


@pytest.fixture(
    params=[
        SERVERS["momentum"],
        SERVERS["adam"],
        {"rule": Rule.MEDIAN, **SERVERS["nesterov"]},
        {"rule": Rule.TRIMMED_MEAN, "trim_num": 1, "trim_den": 3},
        {"group_size": 2, **SERVERS["yogi"]},
    ],
    ids=["momentum", "adam", "median with nesterov", "trimmed mean", "groups with yogi"],
)
def other(request, tmp_path) -> Reader:
    world = world_with(tmp_path, **request.param)
    float_cids = {0: publish_float_genesis(world)}

    def note(w: World) -> bool:
        if w.chain.posting is not None:
            float_cids[w.chain.clock.round] = w.chain.posting[3]
        return w.chain.over

    world.run(until=note)
    assert list(world.chain.outcomes.values()) == [Outcome.FINAL, Outcome.FINAL]
    return Reader(world, float_cids)


def test_lineage__other_rules_and_momentum__the_state_is_carried_from_genesis(other):
    found = verify(other)
    assert [link.problem for link in found.links] == [None] * 4
    assert found.is_valid


def test_lineage__task_that_starts_from_another_state__fails_at_genesis(other):
    if other.world.spec.format.has_state:
        other.world.chain.task = replace(other.world.chain.task, genesis_state_root=Root(b"\x07" * 32))
        assert verify(other).first_failure is not None

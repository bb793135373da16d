"""Disputes against the real contracts: what the port sends, reads back, and finds again in events."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
from anvil import LocalChain, expect_sent, task_params
from dispute_rounds import lying_vector
from rounds import CID, CLAIM, Round

from chainfl.agents.aggregator import Aggregator
from chainfl.agents.context import AgentContext
from chainfl.agents.events import AgentReport, EventLog
from chainfl.agents.journal import Journal
from chainfl.agents.loop import AgentLoop
from chainfl.agents.player import Player
from chainfl.agents.ports import ChunkDemand, Sent, WouldRevert
from chainfl.agents.watcher import Watcher
from chainfl.chain.deployment import TOKEN
from chainfl.chain.networks import LOCAL
from chainfl.chain.operator import Operator
from chainfl.disputes.games import nodes_below, pointer
from chainfl.disputes.openings import CommittedVector, update_opening
from chainfl.encoding.chunk_tree import VectorKind, model_root
from chainfl.encoding.payload import ModelMetadata, write_model, write_update
from chainfl.encoding.sources import as_source
from chainfl.errors import AlreadyDone, Interrupted, NotEligible, ProofRefused, UnexpectedPhase
from chainfl.registry.material import TaskScope
from chainfl.registry.replay import replay_round
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.port import BlobStore
from chainfl.tasks.cids import cid_on_chain
from chainfl.tasks.commitments import challenge_commitment, proof_commitment, proof_hash_of
from chainfl.tasks.spec import DEFAULT_ECONOMICS
from chainfl.tasks.state import (
    ZERO_ADDRESS,
    ZERO_ROOT,
    ChunkAnswered,
    CidOnChain,
    Claim,
    Format,
    NodePointed,
    NodesAnswered,
    Outcome,
    Phase,
    Role,
    Target,
    Verdict,
    Windows,
)
from chainfl.types import Root

pytestmark = pytest.mark.integration

LONG = replace(LOCAL.windows, challenge=60, answer=30, proof=30)
SALT = bytes([5]) * 32


class Disputed(Round):
    """A round whose update is a real one, and a stranger with money who disputes it.

    lies: where the update's tree is off, (height, index) → by how much. store: where the update is published.
    """

    def __init__(
        self,
        chain: LocalChain,
        lies: Mapping[tuple[int, int], int] = MappingProxyType({}),
        store: BlobStore | None = None,
        **changes: object,
    ) -> None:
        params = task_params(chain, **{"windows": LONG, **changes})
        super().__init__(chain, **{"windows": LONG, **changes})
        self.form = params.format
        self.update = np.arange(self.form.num_params, dtype=np.int16)
        self.committed = lying_vector(self.update, self.form, lies)
        self.root, self.squared_norm = (
            self.committed.root,
            self.committed.tree.node(self.committed.tree.shape.depth, 0)[1],
        )
        self.challenger = chain.operator(stake=1_000)
        self.scope = TaskScope(31_337, self.worker.coordinator, self.task_id, self.form, bytes(32))
        if store is not None:
            payload = io.BytesIO()
            metadata = self.scope.update_metadata(1, self.worker.account, params.genesis_root)
            write_update(payload, self.update, metadata)
            self.cid = cid_on_chain(store.put_bytes(payload.getvalue()))
        self.enrol()
        self.commit()
        expect_sent(self.reveal())

    @property
    def opened(self) -> int:
        return self.worker.round(self.task_id).opened_block


def test_demand__early__is_seen_answered_and_paid(chain: LocalChain):
    game = Disputed(chain)
    expect_sent(game.challenger.demand_chunk(game.task_id, 1, 0, 2))
    (demand,) = game.worker.open_demands(game.task_id, 1, game.opened)
    assert (demand.challenger, demand.chunk_index, demand.is_late) == (game.challenger.account, 2, False)
    assert game.worker.demand(game.task_id, 1, 0, 2) == demand
    assert game.worker.pulse(game.task_id).demands == 1
    again = game.challenger.demand_chunk(game.task_id, 1, 0, 2)
    assert isinstance(again, WouldRevert)
    assert isinstance(again.error, AlreadyDone)
    wrong = game.worker.answer_demand(game.task_id, 1, 0, 2, update_opening(game.update, game.form, 1))
    assert isinstance(wrong, WouldRevert)
    assert isinstance(wrong.error, ProofRefused)
    expect_sent(game.worker.answer_demand(game.task_id, 1, 0, 2, update_opening(game.update, game.form, 2)))
    assert game.worker.open_demands(game.task_id, 1, game.opened) == ()
    (answer,) = game.challenger.answered_demands(game.task_id, 1, game.opened)
    assert answer.demand == replace(demand, is_open=False)
    assert (answer.answerer, answer.opening) == (game.worker.account, update_opening(game.update, game.form, 2))
    assert game.worker.stake_status().credit == demand.fee // 2  # the other half burns


def test_sums_that_lie__watcher_follows_the_answers_down__the_worker_loses_all(
    chain: LocalChain, tmp_path: Path
) -> None:
    store = EmbeddedStore(tmp_path / "store")
    game = Disputed(
        chain,
        {(0, 3): -100, (0, 40): -100},  # two of 63 chunks, and little of either
        store,
        format=replace(task_params(chain).format, chunk_params=16),
        windows=replace(LONG, score_commit=600),
        economics=replace(DEFAULT_ECONOMICS, demand_fee=TOKEN // 100),
    )
    port = game.challenger
    log, report = EventLog("watcher", Role.CHALLENGER), AgentReport(Role.CHALLENGER)
    # The specification is for those who train: a watcher has no use for it.
    context = AgentContext(port, store, game.scope, port.task(game.task_id), None, Journal(tmp_path), log, report)
    watcher, asked = Watcher(context), []
    while not (refuted := game.worker.refuted_updates(game.task_id, game.opened, 1)):
        if watcher.step(chain.client.block()) is not None:
            chain.advance(1)
        for demand in game.worker.open_demands(game.task_id, 1, game.opened):
            asked.append(demand.chunk_index)
            opening = game.committed.stated_opening(demand.chunk_index)
            expect_sent(game.worker.answer_demand(game.task_id, 1, 0, demand.chunk_index, opening))
        assert len(asked) <= 7, "the tree has no more levels"
    assert [(found.worker, found.reason) for found in refuted] == [(game.worker.account, "wrong sum")]
    assert asked[-1] in (3, 40)
    (slash,) = game.requester.slashes(game.task_id, game.worker.account, game.opened)
    assert slash.amount == DEFAULT_ECONOMICS.worker_stake
    assert port.stake_status().credit == slash.amount // 2
    context.journal.close()


def test_demand__early_and_unanswered__costs_the_worker_and_voids_its_weight(chain: LocalChain):
    game = Disputed(chain)
    expect_sent(game.challenger.demand_chunk(game.task_id, 1, 0, 0))
    early = game.requester.close_demand(game.task_id, 1, 0, 0)
    assert isinstance(early, WouldRevert)
    assert isinstance(early.error, UnexpectedPhase)
    game.score()
    assert game.worker.phase(game.task_id)[0] is Phase.ANSWER
    chain.advance(31)
    assert game.worker.phase(game.task_id)[0] is Phase.TALLY
    expect_sent(game.requester.close_demand(game.task_id, 1, 0, 0))
    assert game.worker.is_refuted(game.task_id, 1, 0)
    (refutation,) = game.worker.refuted_updates(game.task_id, game.opened, 1)
    assert (refutation.worker, refutation.challenger) == (game.worker.account, game.challenger.account)
    assert refutation.reason == "withheld"
    (slash,) = game.requester.slashes(game.task_id, None, game.opened)
    assert (slash.account, slash.role, slash.reason) == (game.worker.account, Role.WORKER, "withheld")
    assert game.challenger.stake_status().credit == slash.amount // 2
    expect_sent(game.aggregator.tally(game.task_id, 8))
    assert game.worker.round(game.task_id).outcome is Outcome.NOTHING_ACCEPTED


@contextmanager
def block_a_second(chain: LocalChain) -> Iterator[None]:
    """As on a public chain: what is sent waits for the next block."""
    chain.anvil.rpc("evm_setAutomine", False)
    chain.anvil.rpc("evm_setIntervalMining", 1)
    try:
        yield
    finally:
        chain.anvil.rpc("evm_setIntervalMining", 0)
        chain.anvil.rpc("evm_setAutomine", True)


@contextmanager
def playing(player: Player) -> Iterator[None]:
    """The player's loop in a thread of its own. Raises what ended it, unless it was stopped here."""
    stop, ended = threading.Event(), Future()

    def run() -> None:
        try:
            ended.set_result(AgentLoop(player, stop).run())
        except BaseException as error:  # noqa: BLE001  # the thread's boundary: asserted below
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    yield
    stop.set()
    assert isinstance(ended.exception(timeout=30), Interrupted)


def with_honest_aggregate(chain: LocalChain, store: EmbeddedStore, windows: Windows) -> Disputed:
    """A task of 63 chunks, whose aggregate of round 1 is right and posted, and whose bytes all are in the store."""
    params = task_params(chain)
    genesis, form = np.zeros(params.format.num_params, np.int32), replace(params.format, chunk_params=16)
    cid = publish_model(store, genesis, form)
    root = model_root(genesis, form.chunk_params)
    game = Disputed(chain, {}, store, format=form, windows=windows, genesis_root=root, genesis_cid=cid)
    game.score()
    expect_sent(game.aggregator.tally(game.task_id, 8))
    chain.advance(1)
    made = replay_round(genesis, [(as_source(game.update), 10_000)], form, state=None)
    cid = publish_model(store, made.model, form)
    expect_sent(game.aggregator.post_aggregate(game.task_id, 1, made.claim(), cid, cid, bytes(32)))
    return game


def publish_model(store: EmbeddedStore, model: np.ndarray, form: Format) -> CidOnChain:
    payload = io.BytesIO()
    write_model(payload, model, ModelMetadata(bytes(32), form.model_scale_bits), None)
    return cid_on_chain(store.put_bytes(payload.getvalue()))


def context_of(game: Disputed, port: Operator, store: EmbeddedStore, folder: Path, role: Role) -> AgentContext:
    """What an agent works with; of the specification it needs the layout alone."""
    tensors = json.dumps([{"name": "w", "shape": [game.form.num_params], "dtype": "float32"}])
    spec = SimpleNamespace(layout=SimpleNamespace(to_json=lambda: tensors))
    journal, log = Journal(folder), EventLog(role.name.lower(), role)
    return AgentContext(port, store, game.scope, port.task(game.task_id), spec, journal, log, AgentReport(role))


def open_many_games(game: Disputed, count: int) -> None:
    """From one rich account, all on their way before any is mined."""
    rich = game.chain.operator(stake=900_000)
    roots = [Root(bytes([1]) * 31 + bytes([number])) for number in range(count)]
    contract, task_id = rich.contract, game.task_id
    results = rich.send_all([contract.open_game(task_id, 1, 1, Target.MODEL, 0, (), root) for root in roots])
    assert [type(result) for result in results] == [Sent] * count, results


def wait_until(chain: LocalChain, is_so: Callable[[], bool], timeout_s: float) -> None:
    """Looks at each new block. Fails at the timeout."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it never came true"
        chain.client.wait_for_block(chain.client.block_number(), 2)


def test_games__thirty_at_once_and_a_block_a_second__all_are_answered_and_the_aggregate_stands(
    chain: LocalChain, tmp_path: Path
) -> None:
    store = EmbeddedStore(tmp_path / "store")
    game = with_honest_aggregate(chain, store, replace(LONG, challenge=40, answer=25, proof=25))
    context = context_of(game, game.aggregator, store, tmp_path / "journal", Role.AGGREGATOR)
    with block_a_second(chain), playing(Aggregator(context)):
        open_many_games(game, 30)
        opened = game.worker.open_games(game.task_id)
        assert len(opened) == 30
        wait_until(chain, lambda: not any(g.answers_turn for _, g in game.worker.open_games(game.task_id)), 25)
    context.journal.close()
    answered = game.worker.games(game.task_id, 1, game.opened)
    assert all(len(record.moves) == 1 for record in answered)
    chain.advance(60)
    for record in answered:
        expect_sent(game.requester.close_game(game.task_id, record.game_id))
    assert not game.worker.is_excluded(game.task_id, 1, game.aggregator.account)
    assert game.worker.refuted_aggregates(game.task_id, game.opened) == ()
    assert game.worker.phase(game.task_id)[0] is Phase.SETTLEMENT
    expect_sent(game.aggregator.settle(game.task_id, 8))
    assert game.worker.round(game.task_id).outcome is Outcome.FINAL


def test_demands__sixteen_at_once_and_a_block_a_second__a_watcher_answers_all(
    chain: LocalChain, tmp_path: Path
) -> None:
    store = EmbeddedStore(tmp_path / "store")
    windows = replace(LONG, answer=20, score_commit=600)
    game = Disputed(chain, {}, store, format=replace(task_params(chain).format, chunk_params=16), windows=windows)
    rich, helper = chain.operator(stake=900_000), chain.operator()
    context = context_of(game, helper, store, tmp_path / "journal", Role.CHALLENGER)
    watcher = Watcher(context, answers=True)
    with block_a_second(chain):
        asked = [ChunkDemand(1, 0, chunk) for chunk in range(16)]
        results = rich.dispute_all(game.task_id, asked)
        assert [type(result) for result in results] == [Sent] * 16, results
        last = max(demand.deadline for demand in game.worker.open_demands(game.task_id, 1, game.opened))
        while game.worker.open_demands(game.task_id, 1, game.opened):
            block = chain.client.block()
            assert block.timestamp < last
            if watcher.step(block) is not None:
                chain.client.wait_for_block(block.number, 2)
    context.journal.close()
    assert len(game.worker.answered_demands(game.task_id, 1, game.opened)) == 16


def test_game__nodes_pointer_and_chunk__are_in_its_record(chain: LocalChain):
    game = Disputed(chain)
    posted = CommittedVector.of(np.full(game.form.num_params, 3, np.int32), game.form, VectorKind.MODEL)
    own = CommittedVector.of(np.full(game.form.num_params, 4, np.int32), game.form, VectorKind.MODEL)
    game.score()
    game.post(Claim(posted.root, ZERO_ROOT, ()))
    expect_sent(game.challenger.open_game(game.task_id, 1, 1, Target.MODEL, 0, (), own.root))
    ((number, opened),) = game.worker.open_games(game.task_id)
    assert (opened.answers_turn, opened.height, opened.node) == (True, 2, posted.root)
    nodes = nodes_below(posted.tree, 2, 0)
    expect_sent(game.aggregator.answer_nodes(game.task_id, number, nodes))
    move = pointer(nodes, 1)
    expect_sent(game.challenger.point_at(game.task_id, number, move.child, move.node, move.siblings))
    expect_sent(game.worker.answer_chunk(game.task_id, number, posted.chunk(1)))
    (record,) = game.worker.games(game.task_id, 1, game.opened)
    assert record.moves == (
        NodesAnswered(game.aggregator.account, nodes),
        NodePointed(0, 1),
        ChunkAnswered(game.worker.account, posted.chunk(1)),
    )
    assert (record.challenger, record.own_root, record.is_lost) == (game.challenger.account, own.root, None)
    chain.advance(61)
    assert game.worker.phase(game.task_id) == (Phase.DISPUTE, 0)
    expect_sent(game.requester.close_game(game.task_id, number))
    assert game.worker.games(game.task_id, 1, game.opened)[0].is_lost is True
    assert game.worker.open_games(game.task_id) == ()
    assert not game.worker.game(game.task_id, number).is_open
    assert game.worker.phase(game.task_id)[0] is Phase.SETTLEMENT


def test_game__silence_of_the_poster__refutes_and_excludes_it(chain: LocalChain):
    game = Disputed(chain)
    game.score()
    game.post()
    (posted,) = game.worker.posted_aggregates(game.task_id, 1, game.opened)
    assert (posted.attempt, posted.poster, posted.claim, posted.cid) == (1, game.aggregator.account, CLAIM, CID)
    expect_sent(game.challenger.open_game(game.task_id, 1, 1, Target.MODEL, 0, (), bytes([9]) * 32))
    chain.advance(31)
    expect_sent(game.worker.close_game(game.task_id, 0))
    (fallen,) = game.worker.refuted_aggregates(game.task_id, game.opened)
    assert (fallen.attempt, fallen.aggregator, fallen.reason) == (1, game.aggregator.account, "bytes withheld")
    assert game.worker.verdict(game.task_id, 1, 1) is Verdict.REFUTED
    assert game.worker.is_excluded(game.task_id, 1, game.aggregator.account)
    assert not game.worker.is_excluded(game.task_id, 1, game.worker.account)
    view = game.worker.round(game.task_id)
    assert (view.attempt, view.num_slots, view.aggregator) == (2, 0, ZERO_ADDRESS)
    refused = game.aggregator.post_aggregate(game.task_id, 1, CLAIM, CID, CID, bytes(32))
    assert isinstance(refused, WouldRevert)
    assert isinstance(refused.error, NotEligible)


def test_challenge__of_a_bad_proof__is_refused_and_its_bond_burns(chain: LocalChain):
    game = Disputed(chain)
    game.score()
    game.post()
    me = game.challenger.account
    scope = {"chain_id": 31_337, "coordinator": game.worker.coordinator, "task_id": game.task_id, "round_number": 1}
    proof = b"\x09nothing"
    commitment = challenge_commitment(**scope, attempt=1, challenger=me, proof_hash=proof_hash_of(proof), salt=SALT)
    expect_sent(game.challenger.commit_challenge(game.task_id, 1, 1, commitment))
    chain.advance(1)
    (found,) = game.worker.challenges(game.task_id, game.opened)
    assert (found.challenger, found.commitment, found.attempt) == (me, commitment, 1)
    assert game.worker.challenges(game.task_id, game.opened, game.worker.account) == ()
    refused = game.challenger.prove_aggregate(game.task_id, 1, 1, proof, SALT)
    assert isinstance(refused, WouldRevert)
    assert isinstance(refused.error, ProofRefused)
    chain.advance(95)
    expect_sent(game.aggregator.settle(game.task_id, 8))
    assert game.worker.verdict(game.task_id, 1, 1) is Verdict.STOOD
    expect_sent(game.requester.close_challenge(game.task_id, me, commitment))
    assert game.worker.challenges(game.task_id, game.opened) == ()
    assert game.worker.challenge(game.task_id, me, commitment).bond == 0


def test_proof_of_an_update__nothing_wrong__is_refused(chain: LocalChain):
    game = Disputed(chain)
    me = game.challenger.account
    opening = update_opening(game.update, game.form, 0, stated=True)
    proof = (0).to_bytes(2, "big") + (0).to_bytes(8, "big") + opening
    scope = {"chain_id": 31_337, "coordinator": game.worker.coordinator, "task_id": game.task_id, "round_number": 1}
    commitment = proof_commitment(**scope, challenger=me, proof_hash=proof_hash_of(proof), salt=SALT)
    expect_sent(game.challenger.commit_proof(game.task_id, commitment))
    chain.advance(1)
    refused = game.challenger.prove_update(game.task_id, 1, proof, SALT)
    assert isinstance(refused, WouldRevert)
    assert "nothing wrong" in str(refused.error)


def test_reads__nothing_disputed__are_empty(chain: LocalChain):
    game = Disputed(chain)
    reader = game.worker
    assert reader.game(game.task_id, 0).challenger == ZERO_ADDRESS
    assert reader.demand(game.task_id, 1, 0, 0).challenger == ZERO_ADDRESS
    assert reader.verdict(game.task_id, 1, 1) is Verdict.OPEN
    assert reader.games(game.task_id, 1, game.opened) == ()
    assert reader.posted_aggregates(game.task_id, 1, game.opened) == ()
    assert reader.accepted_hash(game.task_id, 0) == bytes(32)
    assert reader.gas_price_wei() > 0

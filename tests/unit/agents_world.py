"""A whole task in memory: real players, real journals, a numpy trainer and scorer, and a fake chain."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from fake_chain import CHAIN_ID, COORDINATOR, TASK, FakeChain, FakePort, MemoryStore, account_of

from chainfl.agents.actions import Act, Do, Stop
from chainfl.agents.aggregator import Aggregator
from chainfl.agents.chores import Standing, next_closing, roster_of
from chainfl.agents.context import AgentContext
from chainfl.agents.events import AgentReport, EventLog
from chainfl.agents.journal import Journal
from chainfl.agents.player import Player
from chainfl.agents.ports import Sent
from chainfl.agents.validator import Validator
from chainfl.agents.watcher import Watcher
from chainfl.agents.watching import Rest
from chainfl.agents.worker import TrainedUpdate, Worker
from chainfl.encoding.chunk_tree import model_root, zero_state_root
from chainfl.encoding.fixed_point import dequantize_model
from chainfl.encoding.payload import ModelMetadata, write_model
from chainfl.registry.material import TaskScope
from chainfl.tasks import spec as specs
from chainfl.tasks.cids import cid_text
from chainfl.tasks.spec import LOCAL_WINDOWS
from chainfl.tasks.state import Bounds, Role
from chainfl.tasks.votes import ABSTENTION, REJECTION, Vote

NUM_PARAMS = 300
WATCHER = account_of(400)
TENSORS = [{"name": "w", "shape": [NUM_PARAMS], "dtype": "float32"}]
LAYOUT_HASH = specs.layout_hash([specs.TensorEntry(**TENSORS[0])])


class TargetTrainer:
    """Moves the model half of the way to a target of its own."""

    uses_previous = False
    needs_the_past = False

    def __init__(self, seed: int) -> None:
        self.target = np.random.default_rng(seed).normal(0, 0.3, NUM_PARAMS).astype(np.float32)
        self.calls = 0

    def train(self, model, round_number, *, memory, previous, stop=None):
        self.calls += 1
        return TrainedUpdate((self.target - dequantize_model(model, 20)) * np.float32(0.5), 10, 2.0, 1.0)


class EqualScorer:
    """Full weight and equal score for everything that arrived."""

    def look_ahead(self, model, round_number, stop):
        """Nothing to do without data."""

    def worsening(self, model, previous):
        """Nothing to see without data."""

    def score(self, model, updates, round_number, previous):
        def vote(update):
            if update.values is None:
                return REJECTION if update.rejected else ABSTENTION
            return Vote(10_000, 1)

        return [vote(update) for update in updates]


class World:
    """`workers`, `validators`, `aggregators` players of one task, driven one look at a time."""

    def __init__(self, tmp_path: Path, *, workers=3, validators=2, aggregators=1, rounds=2, **changes) -> None:
        self.tmp_path = tmp_path
        self.store = MemoryStore()
        self.genesis = np.zeros(NUM_PARAMS, np.int32)
        form = changes.pop("format", replace(specs.default_format(NUM_PARAMS), chunk_params=16))
        stream = io.BytesIO()
        state = np.zeros(form.state_params, np.int32) if form.has_state else None
        write_model(stream, self.genesis, ModelMetadata(LAYOUT_HASH, 20), state)
        cid = self.store.put_bytes(stream.getvalue())
        genesis = {"root": model_root(self.genesis, 16).hex(), "cid": cid, "float_cid": cid}
        if form.has_state:
            genesis["state_root"] = zero_state_root(form).hex()
        fields = {
            "name": "test",
            "licence": "",
            "code_version": "0",
            "model": {"kind": "registered", "name": "mlp", "params": {}, "seed": 0},
            "layout": {"hash": LAYOUT_HASH.hex(), "tensors": TENSORS},
            "format": form,
            "training": {"steps": 1, "batch_size": 1, "learning_rate": "0.1"},
            "dataset": {"name": "none", "input_shape": [1], "num_classes": 2},
            "rounds": rounds,
            "enrolment_end": 2_000,
            "reward": 10**20,
            "workers": Bounds(1, workers),
            "validators": Bounds(1, validators),
            "aggregators": Bounds(0, aggregators),
            "windows": LOCAL_WINDOWS,
            "economics": specs.DEFAULT_ECONOMICS,
            "genesis": genesis,
        }
        self.spec = specs.build(**fields | changes)
        self.store.put_bytes(self.spec.to_bytes())
        self.chain = FakeChain(self.spec.to_params())
        compression = self.spec.payload.form()
        self.scope = TaskScope(CHAIN_ID, COORDINATOR, TASK, self.spec.format, LAYOUT_HASH, compression)
        self.accounts = {
            Role.WORKER: [account_of(100 + i) for i in range(workers)],
            Role.VALIDATOR: [account_of(200 + i) for i in range(validators)],
            Role.AGGREGATOR: [account_of(300 + i) for i in range(aggregators)],
        }
        self.events = {account: io.StringIO() for group in self.accounts.values() for account in group}
        self.ports = {account: self.chain.port(account) for account in self.events}
        self.players: dict[str, Player] = {}
        self.watchers: dict[str, Watcher] = {}
        self.stopped: dict[str, Stop] = {}
        self.since: dict[str, tuple[tuple, int]] = {}
        for role, group in self.accounts.items():
            for account in group:
                self.start(role, account)

    def start(self, role: Role, account: str) -> Player:
        """A fresh process: nothing but the journal on disk is known to it."""
        if account in self.players:
            self.players[account].context.journal.close()
        context = self.context(role, account)
        number = int(account, 16)
        if role is Role.WORKER:
            player: Player = Worker(context, TargetTrainer(number))
        elif role is Role.VALIDATOR:
            player = Validator(context, EqualScorer())
        else:
            player = Aggregator(context)
        self.players[account] = player
        return player

    def watch(self, account: str = WATCHER, **options) -> Watcher:
        """A fresh watcher, which takes its steps after the players."""
        if account in self.watchers:
            self.watchers[account].context.journal.close()
        self.events.setdefault(account, io.StringIO())
        self.ports.setdefault(account, self.chain.port(account))
        self.watchers[account] = Watcher(self.context(Role.CHALLENGER, account), **options)
        return self.watchers[account]

    def step(self, account: str = WATCHER) -> bool:
        """One step of a watcher. returns: whether it wants to look again at once."""
        rest = self.watchers[account].step(self.chain.block())
        assert rest is None or isinstance(rest, Rest)
        return rest is None

    def settle_watcher(self, account: str = WATCHER, until=lambda world: False) -> bool:
        """Lets a watcher do all that it wants to do at once. returns: whether it did anything."""
        for steps in range(200):
            if until(self) or not self.step(account):
                return steps > 0
        raise AssertionError("the watcher finds no rest")

    def context(self, role: Role, account: str) -> AgentContext:
        port: FakePort = self.ports[account]
        return AgentContext(
            chain=port,
            store=self.store,
            scope=self.scope,
            task=self.chain.task,
            spec=self.spec,
            journal=Journal(self.tmp_path / account),
            log=EventLog(account, role, self.events[account], clock=lambda: 0.0),
            report=AgentReport(role),
        )

    def standing(self, account: str, snapshot) -> Standing:
        view = snapshot.round
        stage = (view.round, view.phase, view.tallied, view.settled, view.order_drawn)
        if self.since.get(account, (None, 0))[0] != stage:
            self.since[account] = (stage, self.chain.now)
        roster = roster_of(*(list(self.chain.members[r]) for r in (Role.AGGREGATOR, Role.VALIDATOR, Role.WORKER)))
        closing = next_closing(self.ports[account], snapshot)
        return Standing(account, roster, self.since[account][1], closing)

    def look(self, account: str) -> Do | None:
        """One look of one player; what it did, or None if it waits or has stopped."""
        player = self.players[account]
        snapshot = self.ports[account].snapshot(TASK, player.role)
        action = player.decide(snapshot, self.standing(account, snapshot), self.chain.now)
        if isinstance(action, Stop):
            self.stopped[account] = action
        if not isinstance(action, Act):
            return None
        result = player.act(action.do, snapshot)
        results = result if isinstance(result, tuple) else () if result is None else (result,)
        assert all(isinstance(one, Sent) for one in results), f"{account} {action.do}: {result}"
        return action.do

    def run(self, *, until=lambda world: world.chain.over, without=(), max_ticks: int = 500) -> list[tuple[str, Do]]:
        """Everybody looks until all wait, then a second passes; until the condition holds."""
        done: list[tuple[str, Do]] = []
        for _ in range(max_ticks):
            busy = True
            while busy and not until(self):
                busy = False
                for account in [a for a in self.players if a not in without]:
                    did = None if until(self) else self.look(account)
                    if did is not None:
                        done.append((account, did))
                        busy = busy or did is not Do.FETCH_UPDATES  # which goes on beside the loop
                for account in [w for w in self.watchers if w not in without]:
                    busy = self.settle_watcher(account, until) or busy
            if until(self):
                return done
            self.chain.tick()
        raise AssertionError(f"not there after {max_ticks} seconds: {self.chain.phase()}")

    def model(self, round_number: int) -> np.ndarray:
        from chainfl.registry.material import fetch_model

        root, cid = self.chain.models[round_number]
        return fetch_model(self.store, self.scope, root, cid)

    def told(self, account: str, what: str) -> list[dict]:
        lines = [json.loads(line) for line in self.events[account].getvalue().splitlines()]
        return [line for line in lines if line["what"] == what]

    def forget_model(self, round_number: int) -> None:
        del self.store.blobs[cid_text(self.chain.models[round_number][1])]

"""Workers and aggregators that cheat, for the demo and the tests: the real ones with one thing changed each.

`python -m chainfl.simulation.attackers NAME …` runs the command of an operator that follows NAME (such as
`worker run --task 1 …`) with the attacker in the place of the honest player. Up to `FROM_ROUND` all are honest.
"""

from __future__ import annotations

import math
import sys
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from chainfl.agents import wiring, worker
from chainfl.agents.actions import Action, Wait
from chainfl.agents.aggregator import Aggregator, Unpublished
from chainfl.agents.chores import Standing
from chainfl.agents.context import AgentContext
from chainfl.agents.evidence import Evidence
from chainfl.agents.player import Player
from chainfl.agents.ports import ChunkAnswer, NodesAnswer
from chainfl.agents.worker import Material, TrainedUpdate, Worker, WorkerMemory
from chainfl.disputes.games import nodes_below
from chainfl.disputes.openings import CommittedVector
from chainfl.encoding.arrays import AnyArray, Float32Array, Int16Array
from chainfl.encoding.chunk_tree import (
    Level,
    Tree,
    UpdateCommitment,
    VectorKind,
    build_tree,
    model_root,
    update_root,
    vector_root,
)
from chainfl.encoding.fixed_point import UPDATE_LIMIT, dequantize_model
from chainfl.errors import NodeBehind, UsageError
from chainfl.registry.material import fetch_update
from chainfl.registry.replay import ReplayedRound
from chainfl.simulation.attacks import FROM_ROUND
from chainfl.storage.unixfs import cid_of
from chainfl.tasks.state import Format, Game, Phase, Snapshot, Target
from chainfl.types import Cid

# --- aggregators ---------------------------------------------------------------------------------


class WrongAggregator(Aggregator):
    """Changes one coordinate of the model in the first attempt that it gets, and publishes what it posts."""

    def __init__(self, context: AgentContext) -> None:
        super().__init__(context)
        self._has_cheated = False

    def cheats(self, snapshot: Snapshot) -> bool:
        """Once in its life: its bond is gone afterwards."""
        return snapshot.round.round >= FROM_ROUND and not self._has_cheated

    def forge(self, snapshot: Snapshot, replayed: ReplayedRound) -> ReplayedRound:
        """What it posts instead of the honest result."""
        model = _with_one_changed(replayed.model)
        return replace(replayed, model=model, root=model_root(model, self.context.scope.format.chunk_params))

    def _replay(self, snapshot: Snapshot) -> ReplayedRound:
        replayed = super()._replay(snapshot)
        if not self.cheats(snapshot):
            return replayed
        self._has_cheated = True
        return self.forge(snapshot, replayed)


class WrongStateAggregator(WrongAggregator):
    """The same with the server's state, where it keeps one. The model is right."""

    def forge(self, snapshot: Snapshot, replayed: ReplayedRound) -> ReplayedRound:
        """The last moment of one parameter changed. Raises UsageError in a task without a state."""
        if replayed.state is None:
            raise UsageError("the task's server keeps no state, so there is none to change")
        form, state = self.context.scope.format, replayed.state.copy()
        state[form.num_moments * (form.num_params // 2) + form.num_moments - 1] ^= 1 << 10
        root = vector_root(state, form.chunk_params, VectorKind.STATE)
        return replace(replayed, state=state, state_root=root)


class WrongGroupAggregator(WrongAggregator):
    """The same with the sum of the first group, which nobody publishes. It answers the game about it from its own."""

    def __init__(self, context: AgentContext) -> None:
        super().__init__(context)
        self._lie: CommittedVector | None = None

    def forge(self, snapshot: Snapshot, replayed: ReplayedRound) -> ReplayedRound:
        """Another root for the first group; model and state are right. Raises UsageError where there are no groups."""
        if not replayed.group_roots:
            raise UsageError("no more updates were accepted than one group takes")
        evidence, form = Evidence(self.context), self.context.scope.format
        evidence.enter(snapshot.round)
        if evidence.recompute(snapshot.round):
            raise NodeBehind("an accepted update cannot be fetched any more")
        sums = evidence.vector(Target.GROUP, 0).source.read(0, form.num_params)
        self._lie = CommittedVector.of(_with_one_changed(sums), form, VectorKind.GROUP_SUM)
        return replace(replayed, group_roots=(self._lie.root, *replayed.group_roots[1:]))

    def _reply(self, evidence: Evidence, number: int, game: Game) -> NodesAnswer | ChunkAnswer:
        if self._lie is None:
            return super()._reply(evidence, number, game)
        if game.height > 0:
            return NodesAnswer(number, nodes_below(self._lie.tree, game.height, game.index))
        return ChunkAnswer(number, self._lie.chunk(game.index))


def _with_one_changed(values: AnyArray) -> AnyArray:
    changed = values.copy()
    changed[len(changed) // 2] ^= 1 << 10
    return changed


class WithholdingAggregator(WrongAggregator):
    """Publishes nothing of the changed model. The games that follow ask it for nodes, and it stays silent."""

    def _compute(self, snapshot: Snapshot) -> Unpublished:
        cheats = self.cheats(snapshot)
        work = super()._compute(snapshot)
        return replace(work, payloads={}) if cheats else work

    def _questions(self, snapshot: Snapshot) -> list[tuple[int, Game]]:
        return [] if self._has_cheated else super()._questions(snapshot)


# --- workers that break a rule -------------------------------------------------------------------


class _Forger(Worker):
    """Trains honestly, and forges the result before it commits to it."""

    @abstractmethod
    def forge(self, values: Int16Array, form: Format) -> tuple[Int16Array, UpdateCommitment]:
        """What to publish, and what to commit to. values: (P,) int16, the honest update."""

    def _prepare(self, snapshot: Snapshot) -> None:
        super()._prepare(snapshot)
        journal, update = self.context.journal, self.context.journal.update(snapshot.round.round)
        if update is None or update.round != FROM_ROUND:
            return
        honest = journal.update_payload(update.round).read_bytes()
        start = 8 + int.from_bytes(honest[:8], "little")  # safetensors: the header's length, the header, the values
        values = np.frombuffer(honest, "<i2", offset=start).astype(np.int16)
        values, commitment = self.forge(values, self.context.scope.format)
        payload = honest[:start] + values.astype("<i2").tobytes()
        forged = replace(update, root=commitment.root, cid=cid_of(payload), squared_norm=commitment.sum_of_squares)
        journal.save_update(forged, payload, np.zeros(values.size, np.float32))


class OutOfRangeWorker(_Forger):
    """Puts -32768 into its update; root and sum are those of what it publishes."""

    def forge(self, values: Int16Array, form: Format) -> tuple[Int16Array, UpdateCommitment]:
        values[len(values) // 2] = -UPDATE_LIMIT - 1
        return values, update_root(values, form.chunk_params)


class NormWorker(_Forger):
    """Sends a multiple of what it trained, twice as long as the task allows. Its tree's top states a sum that fits."""

    def forge(self, values: Int16Array, form: Format) -> tuple[Int16Array, UpdateCommitment]:
        honest = max(1, update_root(values, form.chunk_params).sum_of_squares)
        factor = 2 * (math.isqrt(form.max_squared_norm // honest) + 1)
        large = np.clip(factor * values.astype(np.int64), -UPDATE_LIMIT, UPDATE_LIMIT).astype(np.int16)
        tree = build_tree(large, form.chunk_params, VectorKind.UPDATE)
        stated = Level(tree.levels[-1].digests, np.array([form.max_squared_norm], np.uint64))
        return large, UpdateCommitment(Tree(tree.shape, (*tree.levels[:-1], stated)).root, form.max_squared_norm)


class WithholdingWorker(Worker):
    """Says that it published, and did not; answers no demand."""

    def _memory(self, snapshot: Snapshot) -> WorkerMemory:
        return replace(super()._memory(snapshot), answer_due=None)

    def _put(self, path: Path, cid: Cid) -> int:
        if path != self.context.journal.update_payload(FROM_ROUND):
            return super()._put(path, cid)
        return path.stat().st_size


class SilentWorker(Worker):
    """Commits, looks at what the others reveal, and leaves it at that."""

    def decide(self, snapshot: Snapshot, standing: Standing, now: int) -> Action:
        """Waits where an honest worker reveals."""
        view = snapshot.round
        if view.round == FROM_ROUND and view.phase is Phase.REVEAL:
            return Wait("for a reason to reveal", until=view.phase_end)
        return super().decide(snapshot, standing, now)


# --- workers that do no work ---------------------------------------------------------------------


class _Idler(Worker):
    """Sends something else than the result of training."""

    @abstractmethod
    def pretend(self, snapshot: Snapshot) -> Float32Array:
        """What it passes off as trained. returns: (P,) float32."""

    def while_waiting(self, snapshot: Snapshot) -> None:
        """Trains nothing ahead."""
        super(Worker, self).while_waiting(snapshot)

    def _material(self, snapshot: Snapshot) -> Material:
        self._seen = snapshot
        return super()._material(snapshot)

    def _train(self, material: Material, stop: threading.Event) -> TrainedUpdate:
        if material.round < FROM_ROUND:
            return super()._train(material, stop)
        return TrainedUpdate(self.pretend(self._seen), num_examples=1, loss_first=0.0, loss_last=0.0)


class CopyingWorker(_Idler):
    """Sends another worker's update as its own.

    One of the same round it cannot have: commitments show nothing, and when the bytes appear nobody can commit any
    more. The commitment itself is bound to its sender, so that sending it again commits to nothing. What is left, and
    what this attacker tries, is the update that scored highest in the round before, under its own name.
    """

    def pretend(self, snapshot: Snapshot) -> Float32Array:
        """The last round's best update but its own; zeros if nobody's was accepted."""
        context, number = self.context, snapshot.round.round - 1
        chain, scope, start = context.chain, context.scope, snapshot.task.created_block
        tallied = [t for t in chain.tallied_updates(scope.task_id, number, start) if t.worker != chain.account]
        best = max(tallied, key=lambda tally: tally.score)
        revealed = chain.revealed_updates(scope.task_id, number, start)
        victim = next(update for update in revealed if update.worker == best.worker)
        base_root, _ = chain.model_location(scope.task_id, number - 1)
        values = fetch_update(context.store, scope, number, base_root, victim)
        return values.astype(np.float32) * np.float32(2.0**-scope.format.update_scale_bits)


class FreeRidingWorker(_Idler):
    """Sends the last global step again: it points where everybody went, and costs nothing to compute."""

    def pretend(self, snapshot: Snapshot) -> Float32Array:
        """The difference of the last two global models; zeros when the last round was void."""
        view, scale_bits = snapshot.round, self.context.scope.format.model_scale_bits
        model = dequantize_model(self.models.at_round(view.round, view.model_root), scale_bits)
        before = self.models.before(view.round, view.model_root)
        return np.zeros_like(model) if before is None else model - dequantize_model(before, scale_bits)


# --- as processes --------------------------------------------------------------------------------

ATTACKERS: Mapping[str, type[Player]] = {
    "wrong-aggregate": WrongAggregator,
    "withheld-aggregate": WithholdingAggregator,
    "out-of-range": OutOfRangeWorker,
    "norm": NormWorker,
    "withheld-update": WithholdingWorker,
    "no-reveal": SilentWorker,
    "copy": CopyingWorker,
    "free-ride": FreeRidingWorker,
}
"""Of the attacks that the demo stages, by their names."""

VARIANTS: Mapping[str, type[Player]] = {
    "wrong-state": WrongStateAggregator,
    "wrong-group": WrongGroupAggregator,
}
"""Of attacks on tasks that the demo does not have: with momentum, with groups."""


def run(name: str, arguments: Sequence[str]) -> int:
    """Runs an operator's command with the attacker `name` in it. returns: its exit code. Raises UsageError.

    arguments: what would follow `chainfl`. Nothing else is replaced, so that keys, options, journal and events are
    those of the command.
    """
    from chainfl.cli import main as command_line

    known = {**ATTACKERS, **VARIANTS}
    if name not in known:
        raise UsageError(f"there is no attacker {name!r}; there are {', '.join(known)}")
    attacker = known[name]
    place, honest = (worker, "Worker") if issubclass(attacker, Worker) else (wiring, "Aggregator")
    setattr(place, honest, attacker)
    return command_line.run(arguments)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))

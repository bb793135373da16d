"""Players that cheat from round 2 on, for a `World`: workers whose trees lie, and aggregators that serve their lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agents_world import NUM_PARAMS, TargetTrainer, World
from dispute_rounds import lying_vector

from chainfl.agents.ports import ChunkAnswer, DemandAnswer, NodesAnswer
from chainfl.agents.worker import Worker
from chainfl.disputes.games import nodes_below
from chainfl.disputes.openings import CommittedVector
from chainfl.encoding.chunk_tree import UpdateCommitment, VectorKind
from chainfl.simulation.attackers import NormWorker, WithholdingAggregator
from chainfl.tasks import spec as specs
from chainfl.tasks.state import Role, ServerKind, Target

FORM = replace(specs.default_format(NUM_PARAMS), chunk_params=16)
MOMENTUM = replace(FORM, server=ServerKind.MOMENTUM, momentum_num=9, momentum_den=10)
ADAM = replace(MOMENTUM, server=ServerKind.ADAM, second_num=99, second_den=100, tau=16_777, step_den=10)
GROUPS = replace(FORM, group_size=2)
DEPTH = 5  # 19 chunks


def enter(world: World, account: str, make) -> None:
    """Puts a cheat in the place of an honest player."""
    honest = world.players[account]
    honest.context.journal.close()
    context = world.context(honest.role, account)
    args = (TargetTrainer(int(account, 16)),) if honest.role is Role.WORKER else ()
    world.players[account] = make(context, *args)


class LyingWorker(NormWorker):
    """Publishes its update, and commits to a tree that is another at some nodes. It answers every demand from that."""

    lies: Mapping[tuple[int, int], int] = {}
    committed: CommittedVector

    def forge(self, values, form):
        self.committed = lying_vector(values, form, self.lies)
        depth = self.committed.tree.shape.depth
        return values, UpdateCommitment(self.committed.root, self.committed.tree.node(depth, 0)[1])

    def _answer(self, snapshot):
        if not hasattr(self, "committed"):
            return super()._answer(snapshot)
        demands = [asked.demand for asked in self._answers.own(snapshot)]
        steps = [
            DemandAnswer(d.round, d.worker_index, d.chunk_index, self.committed.stated_opening(d.chunk_index))
            for d in demands
        ]
        return self.context.chain.dispute_all(snapshot.task_id, steps)


def lies_at(*nodes: tuple[int, int], by: int = -1) -> type[Worker]:
    """A worker whose tree is off at these nodes."""
    return type("LyingWorker", (LyingWorker,), {"lies": dict.fromkeys(nodes, by)})


class OtherBytesWorker(LyingWorker):
    """Publishes other values than it committed to, in some chunks, and has an honest tree of what it committed to."""

    chunks: tuple[int, ...] = ()

    def forge(self, values, form):
        super().forge(values, form)
        published = values.copy()
        for chunk in self.chunks:
            published[chunk * form.chunk_params] += 5
        depth = self.committed.tree.shape.depth
        return published, UpdateCommitment(self.committed.root, self.committed.tree.node(depth, 0)[1])


def publishes_others(*chunks: int) -> type[Worker]:
    """A worker who publishes something else in these chunks."""
    return type("OtherBytesWorker", (OtherBytesWorker,), {"chunks": chunks})


class ServingAggregator(WithholdingAggregator):
    """Publishes nothing of its wrong model, but answers the game about it, node by node."""

    def forge(self, snapshot, replayed):
        forged = super().forge(snapshot, replayed)
        self.lie = CommittedVector.of(forged.model, self.context.scope.format, VectorKind.MODEL)
        return forged

    def _questions(self, snapshot):
        return super(WithholdingAggregator, self)._questions(snapshot)

    def _reply(self, evidence, number, game):
        assert game.target is Target.MODEL
        if game.height > 0:
            return NodesAnswer(number, nodes_below(self.lie.tree, game.height, game.index))
        return ChunkAnswer(number, self.lie.chunk(game.index))


def index_of(world: World, account: str) -> int:
    """A worker's place among the workers."""
    return list(world.chain.members[Role.WORKER]).index(account)

"""The chain in memory as `chainfl round` reads it: with what a finished task's events still tell."""

from __future__ import annotations

from types import SimpleNamespace

from agents_world import World
from fake_chain import FakePort, account_of

from chainfl.errors import UsageError
from chainfl.tasks.state import AggregateRefutation, Verdict

AUDITOR = account_of(500)
CHALLENGER = account_of(501)


class AuditPort(FakePort):
    """A FakePort with the reads of an operator that an audit and a replay take."""

    def task(self, task_id):
        if task_id != 1:
            raise UsageError(f"task {task_id} does not exist", task_id=task_id)
        return super().task(task_id)

    def refuted_aggregates(self, task_id, from_block, round_number=None):
        fallen = [place for place, verdict in self.chain.verdicts.items() if verdict is Verdict.REFUTED]
        return tuple(
            AggregateRefutation(number, one.attempt, one.poster, CHALLENGER, "wrong coordinate", one.block_number + 2)
            for number, posted in self.chain.posted.items()
            for one in posted
            if (number, one.attempt) in fallen and round_number in (None, number)
        )

    def task_events(self, task_id, from_block=None):
        return tuple(
            SimpleNamespace(name="RoundClosed", arguments={"round": number, "outcome": int(outcome)})
            for number, outcome in self.chain.outcomes.items()
        )

    def versions(self, task_id):
        newest_first = sorted(self.chain.models.items(), reverse=True)
        return tuple((bytes(32), SimpleNamespace(round=n, model_root=root)) for n, (root, _) in newest_first)


def audit_port(world: World) -> AuditPort:
    """A stranger's view of the world."""
    return AuditPort(world.chain, AUDITOR)

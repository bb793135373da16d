"""Whole tasks as processes, with something going wrong in each: the model and the money must come out right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from theatre import Theatre, poison, theatre

from chainfl.registry.lineage import verify_lineage
from chainfl.simulation.demo import DemoConfig
from chainfl.tasks.spec import LOCAL_WINDOWS
from chainfl.tasks.state import Outcome, Role

# Phases end when everybody has acted, so long windows cost nothing, and a busy machine does not decide a test.
# A slot is what agents wait for one another by, before they do what another has left undone.
PATIENT = replace(LOCAL_WINDOWS, commit=300, reveal=300, score_commit=300, score_reveal=300, slot=40)
# Who deserts is waited for once in each of these.
BRISK = replace(PATIENT, commit=30, reveal=15)

pytestmark = [pytest.mark.e2e, pytest.mark.enable_socket]


def assert_money_is_whole(scene: Theatre) -> None:
    escrow = scene.stage.reader.escrow(scene.stage.task_id)
    paid = scene.stage.reader.paid_amounts(scene.stage.task_id)
    assert sum(paid.values()) == escrow.paid
    assert (escrow.balance, escrow.paid + escrow.refunded + escrow.burned) == (0, scene.stage.spec.reward)


def assert_lineage_holds(scene: Theatre) -> None:
    assert verify_lineage(scene.stage.reader, scene.stage.store, scene.stage.task_id).is_valid


def test_task__worker_deserts_after_its_commit__is_slashed_and_the_others_finish(tmp_path: Path) -> None:
    with theatre(DemoConfig(tmp_path / "run", rounds=3, workers=4, windows=BRISK)) as scene:
        scene.enter()
        scene.await_event("worker-4", "committed", 1)
        scene.kill("worker-4")
        scene.play_to_the_end()

        reader, task_id = scene.stage.reader, scene.stage.task_id
        deserter = reader.member(task_id, Role.WORKER, scene.account("worker-4"))
        required = scene.stage.spec.economics.worker_stake
        # Its reveal may have been on its way when it died.
        if scene.account("worker-4") not in {update.worker for update in reader.revealed_updates(task_id, 1, 0)}:
            slashes = reader.slashes(task_id, scene.account("worker-4"), 0)
            assert [s.reason for s in slashes] == ["no reveal"]
            assert deserter.stake == required - required // 5
        assert deserter.active_until <= 4, "two missed rounds count as leaving"
        assert scene.outcomes() == [Outcome.FINAL] * 3
        assert_money_is_whole(scene)
        assert_lineage_holds(scene)


def test_task__worker_trains_on_poisoned_labels__others_reject_it_and_it_earns_less(tmp_path: Path) -> None:
    with theatre(DemoConfig(tmp_path / "run", rounds=4, windows=PATIENT)) as scene:
        poison(scene.stage.config.folder / "data" / "worker-1")
        scene.enter()
        scene.play_to_the_end()

        reader, task_id = scene.stage.reader, scene.stage.task_id
        weights = {
            number: {u.worker: u.weight for u in reader.tallied_updates(task_id, number, 0)} for number in (2, 3, 4)
        }
        rejected = [number for number, by_worker in weights.items() if by_worker[scene.account("worker-1")] == 0]
        assert rejected, "a worker whose labels are all wrong is rejected in some round"
        paid = reader.paid_amounts(task_id)
        honest = sorted(paid.get(scene.account(f"worker-{i}"), 0) for i in range(2, 6))
        assert paid.get(scene.account("worker-1"), 0) < honest[len(honest) // 2]
        assert scene.outcomes() == [Outcome.FINAL] * 4
        assert_money_is_whole(scene)
        assert_lineage_holds(scene)


def test_task__aggregator_is_killed_and_restarted__carries_on_where_it_was(tmp_path: Path) -> None:
    with theatre(DemoConfig(tmp_path / "run", rounds=3, workers=3, windows=PATIENT)) as scene:
        scene.enter()
        scene.await_event("aggregator", "posted", 1)
        scene.kill("aggregator")
        scene.await_event("worker-1", "committed", 2)
        scene.enter("aggregator")
        scene.play_to_the_end()

        assert scene.outcomes() == [Outcome.FINAL] * 3
        posted = [e for e in scene.stage.reader.task_events(scene.stage.task_id) if e.name == "AggregatePosted"]
        assert [e.arguments["round"] for e in posted] == [1, 2, 3], "one post a round, none twice"
        assert_money_is_whole(scene)
        assert_lineage_holds(scene)


def test_task__worker_is_killed_between_commit_and_reveal_and_restarted__reveals_from_its_journal(
    tmp_path: Path,
) -> None:
    with theatre(DemoConfig(tmp_path / "run", rounds=2, workers=3, windows=PATIENT)) as scene:
        scene.enter()
        scene.await_event("worker-1", "committed", 1)
        scene.kill("worker-1")
        scene.enter("worker-1")
        scene.play_to_the_end()

        reader, task_id = scene.stage.reader, scene.stage.task_id
        assert reader.slashes(task_id, scene.account("worker-1"), 0) == ()
        assert len(reader.revealed_updates(task_id, 1, 0)) == 3
        assert scene.outcomes() == [Outcome.FINAL] * 2
        assert_money_is_whole(scene)

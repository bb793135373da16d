"""The part of a decision that every role shares: joining a task, leaving it, and its end."""

from __future__ import annotations

from chainfl.agents import chores
from chainfl.agents.actions import Act, Action, Do, Stop
from chainfl.agents.chores import Standing
from chainfl.errors import NotEligible, StakeTooLow, UsageError
from chainfl.tasks.state import Bounds, Phase, Role, Snapshot, TaskView
from chainfl.types import Wei


def required_stake(task: TaskView, role: Role) -> Wei:
    """What enrolling takes from the free stake: locked at once, but an aggregator's bond only when it posts."""
    stakes = {
        Role.WORKER: task.economics.worker_stake,
        Role.VALIDATOR: task.economics.validator_stake,
        Role.AGGREGATOR: task.economics.aggregator_bond,
    }
    return stakes[role]


def stake_to_lock(task: TaskView, role: Role, wanted: Wei | None) -> Wei:
    """What enrolling locks: as much as the operator wants to, and at least what the task asks for."""
    return Wei(0) if role is Role.AGGREGATOR else max(required_stake(task, role), wanted or Wei(0))


def before_the_rounds(snapshot: Snapshot, role: Role, standing: Standing, now: int) -> Action | None:
    """What to do while the task has not started; None once it has."""
    phase = snapshot.round.phase
    if phase is Phase.NONE:
        return Stop("no such task", UsageError(f"there is no task {snapshot.task_id}", task_id=snapshot.task_id))
    outside = stands_outside(snapshot, role)
    if phase is Phase.ENROLMENT and not snapshot.me.is_enrolled and not outside:
        return _enrolment(snapshot, role, now)
    if phase is Phase.ENROLMENT:
        return chores.decide(snapshot, standing, now)
    if not snapshot.me.is_enrolled and not outside and not phase.is_terminal:
        return Stop("not enrolled", NotEligible(f"task {snapshot.task_id} started without {standing.me}"))
    return None


def stands_outside(snapshot: Snapshot, role: Role) -> bool:
    """An aggregator for whom there was no room: it may still post where nobody has an exclusive right to."""
    if role is not Role.AGGREGATOR or snapshot.me.is_enrolled:
        return False
    return _enrolled(snapshot, role) >= _bounds(snapshot.task, role).max


def after_the_rounds(snapshot: Snapshot, *, claim: bool) -> Action | None:
    """What to do once the task is over; None while it is not."""
    phase = snapshot.round.phase
    if not phase.is_terminal:
        return None
    if claim and snapshot.credit > 0:
        return Act(Do.CLAIM)
    return Stop("the task was cancelled" if phase is Phase.CANCELLED else "the task is complete")


def departure(snapshot: Snapshot, role: Role) -> Stop | None:
    """Stops an agent that takes no part any more and has nothing left to reveal."""
    me, view = snapshot.me, snapshot.round
    if view.round < me.active_until or view.phase is not Phase.COMMIT or not me.is_enrolled:
        return None
    error = NotEligible(
        f"this account takes no part in task {snapshot.task_id} since round {me.active_until}: it left, missed two "
        "rounds, or holds less than half of the required stake",
        task_id=snapshot.task_id,
        role=role.name.lower(),
    )
    return Stop("it takes no part any more", error)


def may_join(snapshot: Snapshot, role: Role, now: int) -> bool:
    """Whether enrolling would work, as far as the snapshot shows."""
    return isinstance(_enrolment(snapshot, role, now), Act)


def _enrolment(snapshot: Snapshot, role: Role, now: int) -> Action:
    task = snapshot.task
    required = required_stake(task, role)
    if now >= task.enrolment_end:
        return Stop("enrolment is over", NotEligible(f"enrolment for task {snapshot.task_id} is over"))
    if _enrolled(snapshot, role) >= _bounds(task, role).max:
        return Stop(
            "the role is full", NotEligible(f"task {snapshot.task_id} has all the {role.name.lower()}s it takes")
        )
    if snapshot.free_stake < required:
        missing = required - snapshot.free_stake
        error = StakeTooLow(
            f"the free stake is {snapshot.free_stake} wei, the task asks for {required}",
            free=snapshot.free_stake,
            required=required,
            missing=missing,
        )
        return Stop("too little stake", error)
    return Act(Do.ENROL)


def _enrolled(snapshot: Snapshot, role: Role) -> int:
    view = snapshot.round
    return {Role.WORKER: view.num_workers, Role.VALIDATOR: view.num_validators, Role.AGGREGATOR: view.num_aggregators}[
        role
    ]


def _bounds(task: TaskView, role: Role) -> Bounds:
    return {Role.WORKER: task.workers, Role.VALIDATOR: task.validators, Role.AGGREGATOR: task.aggregators}[role]

"""The attacks that the demo can stage: who tries what, and what the protocol does about it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chainfl.tasks.state import Role

FROM_ROUND = 2
"""Everybody is honest in the first round, so that there is something to copy, and a model to spoil."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack. tries: what the attacker does, for people.

    reason: of the slash that answers it, as the contract words it; None where nothing is slashed and the scores have to
    do. slash_bps: the share of the worker's stake, or of the aggregator's bond, that it costs. evidence: the event of
    the attacker's own transaction from which on it can be disputed. bounds_norm: the task needs a norm bound.
    """

    name: str
    role: Role
    tries: str
    reason: str | None
    slash_bps: int
    evidence: str
    bounds_norm: bool = False

    @property
    def is_slashed(self) -> bool:
        """Whether the attack can be proven, and not only be rewarded badly."""
        return self.reason is not None


_ALL = (
    Attack(
        "wrong-aggregate",
        Role.AGGREGATOR,
        "posts and publishes a model with one coordinate changed",
        "wrong coordinate",
        10_000,
        "AggregatePosted",
    ),
    Attack(
        "withheld-aggregate",
        Role.AGGREGATOR,
        "posts the root of a changed model and publishes nothing",
        "bytes withheld",
        10_000,
        "AggregatePosted",
    ),
    Attack(
        "out-of-range",
        Role.WORKER,
        "hides -32768, which has no negative, in its update",
        "value out of range",
        10_000,
        "UpdateRevealed",
    ),
    Attack(
        "norm",
        Role.WORKER,
        "sends an update over the task's norm bound, and lies about its sum of squares",
        "wrong sum",
        10_000,
        "UpdateRevealed",
        bounds_norm=True,
    ),
    Attack(
        "withheld-update",
        Role.WORKER,
        "reveals an update and never publishes its bytes",
        "withheld",
        5_000,
        "UpdateRevealed",
    ),
    Attack(
        "no-reveal",
        Role.WORKER,
        "commits to an update and does not reveal it",
        "no reveal",
        2_000,
        "UpdateCommitted",
    ),
    Attack(
        "copy",
        Role.WORKER,
        "sends the update that earned most in the round before as its own",
        None,
        0,
        "UpdateRevealed",
    ),
    Attack(
        "free-ride",
        Role.WORKER,
        "sends the last global step instead of training",
        None,
        0,
        "UpdateRevealed",
    ),
)

ATTACKS: Mapping[str, Attack] = {attack.name: attack for attack in _ALL}

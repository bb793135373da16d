"""What an attack came to, measured from the chain's events and the participants' own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chainfl.chain.events import Event
from chainfl.errors import ChainflError
from chainfl.simulation.attacks import FROM_ROUND, Attack
from chainfl.tasks.state import ZERO_ADDRESS
from chainfl.types import Address


class AttackUnanswered(ChainflError):
    """The attack did not happen, or nothing happened to the attacker."""

    exit_code = 76
    hint_template = "The logs of all participants are in {logs}."


@dataclass(frozen=True, slots=True)
class Answer:
    """What the chain did about an attack. Amounts in wei of the token.

    round: in which it happened. slashed_wei: what the attacker lost to slashes; of it, burned_wei was burned, and the
    rest received_wei by others. blocks_to_settle: from the attacker's transaction that could first be disputed to the
    slash; where nothing is slashed, to the end of the round, whose pay is all the answer.
    """

    round: int
    slashed_wei: int
    burned_wei: int
    received_wei: Mapping[Address, int]
    blocks_to_settle: int


@dataclass(frozen=True, slots=True)
class AttackReport:
    """`attack` in report.json. Changes are of all tokens of an account, over the whole task, in wei.

    honest_change_wei: the median honest worker's. accuracy_without_attack: of the last model, with everybody honest.
    earned_if_honest_wei: by the attacker in that case; None for an aggregator, which a block's hash may pass over.
    """

    name: str
    round: int
    attacker: Address
    attacker_change_wei: int
    attacker_gas: int
    honest_change_wei: int
    watcher: Address
    watcher_change_wei: int
    watcher_gas: int
    slashed_wei: int
    burned_wei: int
    received_wei: Mapping[Address, int]
    blocks_to_settle: int
    accuracy_without_attack: float
    earned_if_honest_wei: int | None


def answer_to(attack: Attack, attacker: Address, events: Sequence[Event], logs: str) -> Answer:
    """What the task's events say. logs: where a person looks when they say too little.

    Raises AttackUnanswered when the attacker never came to attack, or was not slashed for it.
    """
    crime = _crime(attack, attacker, events)
    if crime is None:
        raise AttackUnanswered(f"{attack.name}: the attacker had no turn until the last round", logs=logs)
    number = crime.arguments["round"]
    end = _first(events, _slash_of(attack, attacker, number) if attack.is_slashed else _end_of(number))
    if end is None:
        raise AttackUnanswered(f"{attack.name}: nobody answered it in round {number}", logs=logs)
    slashes = [e.arguments for e in events if _is(e, "StakeVault", "Slashed") and e.arguments["account"] == attacker]
    received: defaultdict[Address, int] = defaultdict(int)
    for slash in slashes:
        if slash["beneficiary"] != ZERO_ADDRESS:
            received[slash["beneficiary"]] += slash["amount"] - slash["burned"]
    return Answer(
        round=number,
        slashed_wei=sum(slash["amount"] for slash in slashes),
        burned_wei=sum(slash["burned"] for slash in slashes),
        received_wei=dict(received),
        blocks_to_settle=end.log.block_number - crime.log.block_number,
    )


def gas_used(told: Iterable[Mapping[str, Any]], name: str) -> int:
    """Gas of the transactions of one participant, each once, however many of its own events tell of it."""
    sent = (event for event in told if event["agent"] == name and {"tx", "gas"} <= event.keys())
    return sum({event["tx"]: event["gas"] for event in sent}.values())


_Match = Mapping[str, Any]


def _crime(attack: Attack, attacker: Address, events: Sequence[Event]) -> Event | None:
    """The attacker's own transaction, from which on it can be disputed."""
    who = "aggregator" if attack.evidence == "AggregatePosted" else "worker"
    mine = (e for e in events if e.name == attack.evidence and e.arguments[who] == attacker)
    return next((e for e in mine if e.arguments["round"] >= FROM_ROUND), None)


def _slash_of(attack: Attack, attacker: Address, number: int) -> _Match:
    return {"name": "Slashed", "round": number, "account": attacker, "reason": attack.reason}


def _end_of(number: int) -> _Match:
    return {"name": "RoundClosed", "round": number}


def _first(events: Sequence[Event], wanted: _Match) -> Event | None:
    """The coordinator's first event of that name with these arguments."""
    arguments = {key: value for key, value in wanted.items() if key != "name"}
    ours = (e for e in events if _is(e, "TaskCoordinator", wanted["name"]))
    return next((e for e in ours if all(_plain(e.arguments[k]) == v for k, v in arguments.items())), None)


def _is(event: Event, contract: str, name: str) -> bool:
    return (event.contract, event.name) == (contract, name)


def _plain(value: object) -> object:
    """A word that the chain holds as 32 bytes, as text."""
    return value.rstrip(b"\0").decode("ascii", "replace") if isinstance(value, bytes) else value

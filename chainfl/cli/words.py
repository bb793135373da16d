"""A task in words: phases, deadlines, roles and events, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chainfl.cli.output import Money, duration
from chainfl.tasks.state import ABSTAIN, Bounds, Outcome, Phase, Role, RoundView, Target, TaskView

ACCESS_IS_A_SIGNAL = (
    "Access is a signal of what the owner permits, not a lock: the bytes of every update and model are public to "
    "whoever has the CID."
)

_PHASES: Mapping[Phase, str] = {
    Phase.NONE: "there is no such task",
    Phase.ENROLMENT: "enrolment: participants join and lock stake",
    Phase.COMMIT: "commit: workers train and commit to their updates",
    Phase.REVEAL: "reveal: workers disclose and publish their updates",
    Phase.SCORE_COMMIT: "score commit: validators fetch, check and score the updates",
    Phase.SCORE_REVEAL: "score reveal: validators disclose their scores",
    Phase.ANSWER: "answer: demands for updates wait for their bytes",
    Phase.TALLY: "tally: the medians of the scores are settled, by anybody",
    Phase.AGGREGATE: "aggregate: the next global model is computed and posted",
    Phase.CHALLENGE: "challenge: the posted model waits to become final, unless somebody proves it wrong",
    Phase.DISPUTE: "dispute: what was committed or asked for in time is proven or answered",
    Phase.SETTLEMENT: "settlement: pay and stakes are settled, by anybody",
    Phase.COMPLETED: "completed: every round is over",
    Phase.CANCELLED: "cancelled before it started; the escrow went back",
}

_OUTCOMES: Mapping[Outcome, str] = {
    Outcome.PENDING: "not decided yet",
    Outcome.FINAL: "final: the model moved on",
    Outcome.NO_UPDATES: "void: nobody revealed an update",
    Outcome.QUORUM_MISSED: "void: too few validators revealed their scores",
    Outcome.NOTHING_ACCEPTED: "void: no update was accepted",
    Outcome.NO_AGGREGATE: "void: nobody posted an aggregate",
    Outcome.REFUTED: "void: three aggregates were proven wrong",
    Outcome.WITHHELD: "void: nobody served an update that validators had vouched for",
}


def phase_words(phase: Phase) -> str:
    """What happens in the phase."""
    return _PHASES[phase]


def outcome_words(outcome: Outcome) -> str:
    """How a round ended."""
    return _OUTCOMES[outcome]


def deadline_words(view: RoundView, task: TaskView, now: int) -> str:
    """When the phase ends. now: chain time."""
    end = task.enrolment_end if view.phase is Phase.ENROLMENT else view.phase_end
    if view.phase.is_terminal or view.phase is Phase.NONE:
        return "over"
    if not end:
        return "as soon as anybody sends the transaction that is due"
    if end > now:
        return f"in {duration(end - now)} at the latest"
    return f"passed {duration(now - end)} ago; anybody may move the task on"


def bounds_words(enrolled: int, bounds: Bounds) -> str:
    """How full a role is: 3 enrolled (2 to 5)."""
    return f"{enrolled} enrolled ({bounds.min} to {bounds.max})"


def percent(basis_points: int) -> str:
    """Basis points for people: 7000 is 70%."""
    whole, part = divmod(basis_points, 100)
    return f"{whole}{f'.{part:02d}'.rstrip('0') if part else ''}%"


def short(address: str) -> str:
    """An address or hash as a column of a table shows it."""
    return f"{address[:8]}…{address[-4:]}" if len(address) > 16 else address


_SHOWN_BYTES = 32
"""What is longer, as an opened chunk, is no text for people."""

ECHOES = frozenset({"EscrowPaid"})
"""Events that say again what another event of the same transaction says."""


def event_words(name: str, arguments: Mapping[str, Any], money: Money) -> str:
    """One event of a task in one line: who did what. An event that this version does not know shows its values."""
    spoken = {key: _spoken(key, value, money) for key, value in arguments.items()}
    template = _EVENTS.get(name)
    if template is None:
        return f"{name} " + " ".join(f"{key}={value}" for key, value in spoken.items() if key != "task_id")
    told = template.format_map(spoken | _derived(name, arguments))
    return f"{told}: {spoken['reason']}" if "reason" in spoken else told


def _spoken(key: str, value: Any, money: Money) -> str:
    """One value of an event. Text from a stranger shows printable characters only."""
    match key, value:
        case (("amount" | "stake" | "refund" | "carry" | "bond"), int()):
            return money.show(value)
        case "role", int():
            return Role(value).name.lower()
        case "target", int():
            return Target(value).name.lower()
        case "outcome", int():
            return outcome_words(Outcome(value))
        case "reason", bytes():
            return _printable(value.rstrip(b"\0").decode("ascii", errors="replace"))
        case _, bytes():
            return "0x" + value.hex() if len(value) <= _SHOWN_BYTES else f"{len(value)} bytes"
        case _, str() if value.startswith("0x"):
            return short(value)
        case _:
            return _printable(str(value))


def _derived(name: str, a: Mapping[str, Any]) -> dict[str, str]:
    """What a line says that is not one value of its event."""
    if name == "UpdateTallied":
        return {"vote": _vote(a["weight"], a["score"])}
    if name == "RoundOpened":
        return {"workers": f"{a['eligible_workers']} workers" if a["eligible_workers"] else "no workers yet"}
    if name == "WorkersDrawn":
        return {"drawn": ", ".join(short(account) for account in a["workers"])}
    if name == "OrderDrawn":
        return {"holders": ", ".join(short(account) for account in a["order"][: a["num_slots"]]) or "nobody"}
    if name == "ChallengeClosed":
        return {"fate": "burned" if a["is_burned"] else "returned"}
    if name == "GameClosed":
        return {"winner": "the aggregate" if a["is_lost"] else "the challenger"}
    if name == "ChunkDemanded":
        return {"half": "those who vouched for it" if a["is_late"] else "its worker"}
    if name == "DemandClosed":
        return {"fate": "nobody answered" if a["is_unanswered"] else "answered"}
    if name == "AccessRestricted":
        return {"access": "restricted" if a["restricted"] else "public"}
    return {}


def _vote(weight: int, score: int) -> str:
    if weight == 0:
        return "rejected"
    return "abstained" if weight == ABSTAIN else f"weight {weight}, score {score}"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


_EVENTS: Mapping[str, str] = {
    "TaskCreated": "created by {requester}",
    "TaskCancelled": "cancelled; {refund} refunded",
    "TaskCompleted": "completed; {refund} refunded",
    "Enrolled": "{role} {account} enrolled with {stake}",
    "MemberLeft": "{role} {account} takes no part from round {from_round} on",
    "MemberRejoined": "{role} {account} takes part again from round {from_round} on",
    "RoundOpened": "round {round} opened for {workers} and {eligible_validators} validators",
    "WorkersDrawn": "workers drawn for round {round}: {drawn}",
    "ReputationChanged": "the reputation of {worker} is {reputation} after round {round}",
    "UpdateCommitted": "worker {worker} committed its update",
    "UpdateRevealed": "worker {worker} revealed its update (of {num_examples} examples, by its own account)",
    "ScoresCommitted": "validator {validator} committed its scores",
    "ScoresRevealed": "validator {validator} revealed its scores",
    "UpdateTallied": "update of {worker}: {vote}",
    "AggregateOpened": "{accepted} updates accepted; aggregation is open",
    "OrderDrawn": "aggregators drawn: {holders}",
    "SeedRolled": "the draw waits for block {seed_block}",
    "AggregateCommitted": "aggregator {aggregator} committed an aggregate",
    "AggregatePosted": "aggregator {aggregator} posted the next model",
    "ChallengeCommitted": "{challenger} announced a proof against attempt {attempt}",
    "ChallengeClosed": "the challenge bond of {challenger} was {fate}: {bond}",
    "AggregateRefuted": "attempt {attempt} of {aggregator} is refuted by {challenger}",
    "AttemptOpened": "attempt {attempt} is open; its bond is {bond}",
    "GameOpened": "{challenger} disputes the {target} of attempt {attempt} (game {game_id})",
    "NodesAnswered": "{answerer} answered in game {game_id}",
    "NodePointed": "the challenger of game {game_id} points at node {index}",
    "ChunkAnswered": "{answerer} opened the chunk of game {game_id}",
    "GameClosed": "game {game_id} is over; {winner} won",
    "UpdateRefuted": "update of {worker} is refuted",
    "ChunkDemanded": "{challenger} asks {half} for chunk {chunk_index} of the update of {worker}",
    "DemandAnswered": "{answerer} answered for chunk {chunk_index} of the update of {worker}",
    "DemandClosed": "demand for chunk {chunk_index} of the update of {worker}: {fate}",
    "Awarded": "{amount} of {account} went to {beneficiary}",
    "Paid": "{role} {account} earned {amount}",
    "RoundClosed": "round {round} is {outcome}",
    "LineOpened": "line of models opened under licence {licence}",
    "ModelRegistered": "model {model_id} registered (round {round})",
    "Locked": "{amount} of {account} locked",
    "Unlocked": "{amount} of {account} unlocked",
    "Slashed": "{role} {account} was slashed {amount}",
    "EscrowFunded": "{amount} escrowed",
    "EscrowPaid": "{amount} credited to {account}",
    "EscrowRefunded": "{amount} refunded to {requester}",
    "EscrowBurned": "{amount} burned",
    "OwnershipTransferred": "models of {from} are now owned by {to}",
    "AccessRestricted": "access is now {access} (a signal)",
    "AccessGranted": "access granted to {account} (a signal)",
    "AccessRevoked": "access revoked for {account} (a signal)",
}

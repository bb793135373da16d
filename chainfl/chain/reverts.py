"""Solidity's errors in Python's tree: decoded from the selector, with the contract's own evidence.

An error that has no class of its own stays a TransactionReverted that names it and its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from chainfl.chain.abi import known_errors
from chainfl.errors import (
    AlreadyDone,
    ChainError,
    ChainflError,
    InsufficientAllowance,
    InsufficientFunds,
    InsufficientTokens,
    NotEligible,
    ProofRefused,
    RpcRefused,
    StakeTooLow,
    TransactionReverted,
    UnexpectedPhase,
)
from chainfl.tasks.state import Phase, Role

Arguments = Mapping[str, Any]

ERROR_STRING: Final = bytes.fromhex("08c379a0")
PANIC: Final = bytes.fromhex("4e487b71")
_PANICS: Final = {
    0x01: "assertion failed",
    0x11: "arithmetic overflow",
    0x12: "division by zero",
    0x21: "no such enum member",
    0x32: "index out of bounds",
}


@dataclass(frozen=True, slots=True)
class RpcError:
    """A JSON-RPC error object. data: the revert data, if the endpoint sent any."""

    code: int
    message: str
    data: bytes | None

    def raise_refused(self, method: str) -> None:
        """Raises RpcRefused with what the endpoint said."""
        raise RpcRefused(f"the endpoint refused {method}: {self.message}", code=self.code, method=method)


def _phase(a: Arguments) -> ChainflError:
    current, expected = Phase(a["current"]), Phase(a["expected"])
    message = f"task {a['task_id']} is in {current.name}, and the call needs {expected.name}"
    return UnexpectedPhase(message, **{**a, "current": current, "expected": expected})


def _round(a: Arguments) -> ChainflError:
    message = f"task {a['task_id']} is in round {a['current']}, and the call is for round {a['given']}"
    return UnexpectedPhase(message, **a)


def _stake(a: Arguments) -> ChainflError:
    missing = a["required"] - a["free"]
    message = f"{a['account']} has {a['free']} wei of free stake, and the call needs {a['required']}"
    return StakeTooLow(message, missing=missing, **a)


def _stake_required(a: Arguments) -> ChainflError:
    message = f"a stake of {a['given']} wei is below the required {a['required']}"
    return StakeTooLow(message, missing=a["required"] - a["given"], **a)


def _tokens(a: Arguments) -> ChainflError:
    message = f"{a['sender']} holds {a['balance']} wei of the token, and the call needs {a['needed']}"
    return InsufficientTokens(message, **a)


def _allowance(a: Arguments) -> ChainflError:
    message = f"{a['spender']} may take {a['allowance']} wei of the token, and the call needs {a['needed']}"
    return InsufficientAllowance(message, **a)


def _eligible(text: str) -> Callable[[Arguments], ChainflError]:
    return lambda a: NotEligible(f"{a['account']} {text} task {a['task_id']}", **a)


def _attempt(a: Arguments) -> ChainflError:
    message = f"task {a['task_id']} is in attempt {a['current']}, and the call is for attempt {a['given']}"
    return UnexpectedPhase(message, **a)


def _still_open(a: Arguments) -> ChainflError:
    until = f"until {a['until']}" if a["until"] else "until its attempt stands or falls"
    return UnexpectedPhase(f"a dispute of task {a['task_id']} is open {until}", **a)


def _refused(text: str) -> Callable[[Arguments], ChainflError]:
    return lambda a: ProofRefused(text.format(**{key: _shown("", value) for key, value in a.items()}), **a)


def _done(text: str) -> Callable[[Arguments], ChainflError]:
    return lambda a: AlreadyDone(text.format(**a), **a)


_TREE: Final[Mapping[str, Callable[[Arguments], ChainflError]]] = {
    "UnexpectedPhase": _phase,
    "UnexpectedRound": _round,
    "StakeTooLow": _stake,
    "StakeBelowRequired": _stake_required,
    "ERC20InsufficientBalance": _tokens,
    "ERC20InsufficientAllowance": _allowance,
    "UnexpectedAttempt": _attempt,
    "StillOpen": _still_open,
    "NotEligible": _eligible("takes no part in this round of"),
    "NotEnrolled": _eligible("is not enrolled for"),
    "NotAdmitted": _eligible("is not admitted to"),
    "Excluded": _eligible("had an aggregate refuted in this round of"),
    "AlreadyEnrolled": _done("{account} is already enrolled for task {task_id}"),
    "AlreadyCommitted": _done("{account} has already committed in this round of task {task_id}"),
    "AlreadyRevealed": _done("{account} has already revealed in this round of task {task_id}"),
    "OrderAlreadyDrawn": _done("the order of slots of task {task_id} is already drawn"),
    "AlreadyDrawn": _done("the workers of round {round} of task {task_id} are already drawn"),
    "AlreadyChallenged": _done("this challenge of task {task_id} is already committed"),
    "AlreadyRefuted": _done("the update of {worker} is already refuted in this round of task {task_id}"),
    "AlreadyDemanded": _done("chunk {chunk_index} of this update was already asked for in task {task_id}"),
    "NoChallenge": _done("{challenger} has no such challenge in task {task_id}, or it is over"),
    "NoGame": _done("game {game_id} of task {task_id} is over"),
    "NoDemand": _done("chunk {chunk_index} of this update is not asked for in task {task_id}, or no more"),
    "NotYourMove": _done("another's move is due in game {game_id}"),
    "TooLate": _refused("the clock of this dispute ran out at {deadline}"),
    "NothingWrong": _refused("the proof shows nothing wrong"),
    "ProofLength": _refused("the proof has {length} bytes or nodes, and the task's has {expected}"),
    "UnknownProof": _refused("there is no proof of kind {kind}"),
    "CoordinateOutOfRange": _refused("there is no coordinate {coordinate} among {num_params}"),
    "IndexOutOfRange": _refused("there is no chunk {index} among {num_chunks}"),
    "InvalidRank": _refused("the proof names values that do not have the ranks they should"),
    "NotPosted": _refused("what the proof opens as posted has the root {opened}, and {posted} is posted"),
    "NotAccepted": _refused("the updates that the proof opens are not those that were accepted, in their order"),
    "NotRevealed": _refused("what the proof opens has the root {opened}, and {worker} revealed {revealed}"),
    "NodeMismatch": _refused("the nodes lead to {found}, and {expected} is in question"),
    "PaddingNotConstant": _refused("node {node} covers nothing but padding, and is not its constant"),
    "InvalidTarget": _refused("the aggregate has no such root to dispute"),
    "SameRoot": _refused("{root} is the root that is posted"),
    "TooManyGames": _refused("{open} games are open against the aggregate of task {task_id}, as many as can be"),
    "NotDemandable": _refused("nothing can be asked for of worker {worker_index} in task {task_id} now"),
    "TooManyDemands": _refused("as many chunks as can be were asked for of worker {worker_index} in task {task_id}"),
    "AlreadyRegistered": _done("the model is already registered"),
    "NothingToClaim": _done("{account} has nothing to claim"),
}


def decode_revert(data: bytes, call: str) -> ChainflError:
    """The error that revert data say, for a call of the function `call`."""
    selector = data[:4]
    if selector == ERROR_STRING:
        return _from_text(_string(data[4:]), call)
    if selector == PANIC and len(data) >= 36:
        code = int.from_bytes(data[4:36], "big")
        return TransactionReverted(f"{call} panicked: {_PANICS.get(code, hex(code))}", call=call, error="Panic")
    known = known_errors().get(selector)
    if known is None:
        shown = f"with unknown error 0x{selector.hex()}" if selector else "without a reason"
        return TransactionReverted(f"{call} reverted {shown}", call=call, data=data.hex())
    try:
        return _from_error(known.name, known.decode(data[4:]), call)
    except (ChainError, ValueError) as error:
        return TransactionReverted(
            f"{call} reverted with a malformed {known.name}: {error}", call=call, data=data.hex()
        )


def _from_error(name: str, arguments: Arguments, call: str) -> ChainflError:
    build = _TREE.get(name)
    if build is None:
        shown = ", ".join(f"{key}={_shown(key, value)}" for key, value in arguments.items())
        return TransactionReverted(
            f"{call} reverted: {name}({shown})", call=call, error=name, arguments=dict(arguments)
        )
    built = build(arguments)
    built.evidence.update(call=call, error=name)
    return built


def _shown(key: str, value: Any) -> str:
    """An argument for people: names of fields as text, roles by name, hashes in hex."""
    if isinstance(value, bytes):
        text = value.rstrip(b"\0")
        return text.decode() if text.isascii() and text.decode().isprintable() and text else "0x" + value.hex()
    if key == "role" and value in set(Role):
        return Role(value).name
    if key in ("current", "expected") and value in set(Phase):
        return Phase(value).name
    return str(value)


def _string(data: bytes) -> str:
    """The argument of Error(string); what is cut off is left out."""
    length = int.from_bytes(data[32:64], "big")
    return data[64 : 64 + min(length, 500)].decode("utf-8", errors="replace")


def _from_text(text: str, call: str) -> ChainflError:
    """Tokens from before custom errors revert with strings."""
    lowered = text.lower()
    if "exceeds balance" in lowered:
        return InsufficientTokens(f"{call} reverted: {text}", call=call)
    if "allowance" in lowered:
        return InsufficientAllowance(f"{call} reverted: {text}", call=call)
    return TransactionReverted(f"{call} reverted: {text}", call=call)


def is_revert(error: RpcError) -> bool:
    """Whether the endpoint says that the call itself reverted (and not that it refused to run it)."""
    return error.code == 3 or error.data is not None or "revert" in error.message.lower()


def is_out_of_funds(error: RpcError) -> bool:
    """Whether the endpoint says that the sender cannot pay for the gas."""
    return "insufficient funds" in error.message.lower()


def decode_rpc_error(error: RpcError, call: str, account: str | None = None) -> ChainflError:
    """The error of the tree for what the endpoint answered to a call, an estimate or a transaction."""
    if is_out_of_funds(error):
        return InsufficientFunds(f"{account or 'the account'} cannot pay for the gas of {call}", account=account)
    if is_revert(error):
        return decode_revert(error.data or b"", call) if error.data is not None else _from_text(error.message, call)
    return RpcRefused(f"the endpoint refused {call}: {error.message}", code=error.code, call=call)

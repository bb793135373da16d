"""Every Solidity error becomes one of Python's tree, with its evidence."""

from __future__ import annotations

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from chainfl import errors
from chainfl.chain.abi import ErrorAbi, canonical_type, known_errors
from chainfl.chain.reverts import _TREE, RpcError, decode_revert, decode_rpc_error
from chainfl.tasks.state import Phase

ALICE = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


def revert(signature: str, *values: object) -> bytes:
    types = signature[signature.index("(") + 1 : -1]
    return keccak(text=signature)[:4] + encode(types.split(",") if types else [], values)


@pytest.mark.parametrize(
    ("data", "kind", "exit_code"),
    [
        (revert("UnexpectedPhase(uint256,uint8,uint8)", 7, 4, 3), errors.UnexpectedPhase, 31),
        (revert("UnexpectedRound(uint256,uint16,uint16)", 7, 4, 3), errors.UnexpectedPhase, 31),
        (revert("StakeTooLow(address,uint256,uint256)", ALICE, 1, 5), errors.StakeTooLow, 32),
        (revert("StakeBelowRequired(uint256,uint256)", 1, 5), errors.StakeTooLow, 32),
        (revert("ERC20InsufficientBalance(address,uint256,uint256)", ALICE, 1, 5), errors.InsufficientTokens, 26),
        (revert("ERC20InsufficientAllowance(address,uint256,uint256)", ALICE, 1, 5), errors.InsufficientAllowance, 27),
        (revert("NotEligible(uint256,address,uint16)", 7, ALICE, 2), errors.NotEligible, 33),
        (revert("NotEnrolled(uint256,address)", 7, ALICE), errors.NotEligible, 33),
        (revert("NotAdmitted(uint256,address)", 7, ALICE), errors.NotEligible, 33),
        (revert("AlreadyCommitted(uint256,address)", 7, ALICE), errors.AlreadyDone, 34),
        (revert("AlreadyRevealed(uint256,address)", 7, ALICE), errors.AlreadyDone, 34),
        (revert("NothingToClaim(address)", ALICE), errors.AlreadyDone, 34),
        (revert("Excluded(uint256,address)", 7, ALICE), errors.NotEligible, 33),
        (revert("UnexpectedAttempt(uint256,uint8,uint8)", 7, 2, 1), errors.UnexpectedPhase, 31),
        (revert("StillOpen(uint256,uint256)", 7, 0), errors.UnexpectedPhase, 31),
        (revert("NoGame(uint256,uint32)", 7, 3), errors.AlreadyDone, 34),
        (revert("NoDemand(uint256,uint16,uint64)", 7, 3, 1), errors.AlreadyDone, 34),
        (revert("NoChallenge(uint256,address,bytes32)", 7, ALICE, bytes(32)), errors.AlreadyDone, 34),
        (revert("TooManyGames(uint256,uint32)", 7, 272), errors.ProofRefused, 39),
        (revert("NothingWrong()"), errors.ProofRefused, 39),
        (revert("TooLate(uint256)", 9), errors.ProofRefused, 39),
        (revert("IndexOutOfRange(uint256,uint256)", 9, 4), errors.ProofRefused, 39),
        (revert("InvalidRank(uint256)", 2), errors.ProofRefused, 39),
        (revert("NotRevealed(address,bytes32,bytes32)", ALICE, bytes(32), bytes(32)), errors.ProofRefused, 39),
        (revert("NormTooLarge(uint64,uint64)", 9, 4), errors.TransactionReverted, 30),
        (revert("Error(string)", "ERC20: transfer amount exceeds balance"), errors.InsufficientTokens, 26),
        (revert("Error(string)", "ERC20: insufficient allowance"), errors.InsufficientAllowance, 27),
        (revert("Error(string)", "no"), errors.TransactionReverted, 30),
        (revert("Panic(uint256)", 17), errors.TransactionReverted, 30),
        (b"", errors.TransactionReverted, 30),
        (b"\x01\x02\x03\x04", errors.TransactionReverted, 30),
        (keccak(text="StakeTooLow(address,uint256,uint256)")[:4] + b"\x01", errors.TransactionReverted, 30),
        (revert("UnexpectedPhase(uint256,uint8,uint8)", 7, 200, 3), errors.TransactionReverted, 30),
    ],
)
def test_decode__each_error__has_its_class(data: bytes, kind: type[errors.ChainflError], exit_code: int):
    error = decode_revert(data, "call")
    assert type(error) is kind
    assert error.exit_code == exit_code


def test_unexpected_phase__decoded__carries_phases_and_hint():
    error = decode_revert(revert("UnexpectedPhase(uint256,uint8,uint8)", 7, 4, 3), "revealUpdate")
    assert error.evidence["current"] is Phase.SCORE_COMMIT
    assert error.evidence["expected"] is Phase.REVEAL
    assert "task show 7" in error.hint


def test_stake_too_low__decoded__says_what_is_missing():
    error = decode_revert(revert("StakeTooLow(address,uint256,uint256)", ALICE, 40, 100), "enrol")
    assert error.hint == "Top up with `chainfl stake deposit 60`."


def test_unknown_class__decoded__names_error_and_arguments():
    error = decode_revert(revert("InvalidParams(bytes32)", b"rounds".ljust(32, b"\0")), "createTask")
    assert str(error) == "createTask reverted: InvalidParams(what=rounds)"
    assert error.evidence["error"] == "InvalidParams"


@pytest.mark.parametrize("error", known_errors().values(), ids=lambda error: error.name)
def test_decode__every_error_of_every_contract__is_never_unnamed(error: ErrorAbi):
    zeros = bytes(32) * 8
    decoded = decode_revert(error.selector + zeros, "call")
    assert isinstance(decoded, errors.ChainError)
    assert decoded.evidence.get("error") == error.name or not error.inputs or "malformed" in str(decoded)


def test_tree__each_name__exists_in_an_abi():
    assert set(_TREE) <= {error.name for error in known_errors().values()}
    assert canonical_type({"type": "tuple[]", "components": [{"type": "uint8"}]}) == "(uint8)[]"


@pytest.mark.parametrize(
    ("rpc", "kind"),
    [
        (RpcError(-32003, "Insufficient funds for gas * price + value", None), errors.InsufficientFunds),
        (RpcError(3, "execution reverted", b""), errors.TransactionReverted),
        (RpcError(-32000, "execution reverted: no", None), errors.TransactionReverted),
        (RpcError(-32601, "method not found", None), errors.RpcRefused),
    ],
)
def test_rpc_error__each_kind__has_its_class(rpc: RpcError, kind: type[errors.ChainError]):
    assert type(decode_rpc_error(rpc, "call", ALICE)) is kind

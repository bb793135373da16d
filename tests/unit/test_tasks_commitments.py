"""Commitments against an independent abi.encode, and the votes' bytes."""

from __future__ import annotations

import pytest
from eth_abi.abi import encode
from eth_hash.auto import keccak

from chainfl.errors import EncodingError
from chainfl.tasks import commitments, votes
from chainfl.tasks.state import ABSTAIN, CidOnChain, Claim
from chainfl.types import Address, Root, TaskId

COORDINATOR = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
ACCOUNT = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
SCOPE = {"chain_id": 31337, "coordinator": COORDINATOR, "task_id": TaskId(7), "round_number": 65_533}
SALT = bytes(range(32))
SCOPE_TYPES = ["uint256", "address", "uint256", "uint16"]


def test_update_commitment__any__is_keccak_of_abi_encode():
    cid = CidOnChain(b"\x11" * 32, 0x70)
    expected = keccak(
        encode(
            [*SCOPE_TYPES, "address", "bytes32", "bytes32", "uint8", "uint64", "uint32", "bytes32"],
            [31337, COORDINATOR, 7, 65_533, ACCOUNT, b"\x22" * 32, cid.digest, 0x70, 2**64 - 1, 2**32 - 1, SALT],
        )
    )
    seen = commitments.update_commitment(
        **SCOPE,
        worker=ACCOUNT,
        root=Root(b"\x22" * 32),
        cid=cid,
        squared_norm=2**64 - 1,
        num_examples=2**32 - 1,
        salt=SALT,
    )
    assert seen == expected


def test_scores_commitment__any__is_keccak_of_abi_encode():
    data = b"\x00\x01\x00\x02"
    expected = keccak(
        encode(
            ["uint256", "address", "uint256", "uint16", "address", "bytes32", "bytes32"],
            [31337, COORDINATOR, 7, 65_533, ACCOUNT, keccak(data), SALT],
        )
    )
    assert commitments.scores_commitment(**SCOPE, validator=ACCOUNT, votes=data, salt=SALT) == expected


@pytest.mark.parametrize("num_groups", [0, 1, 3])
def test_aggregate_commitment__any_claim__is_keccak_of_abi_encode(num_groups: int):
    groups = tuple(Root(bytes([number]) * 32) for number in range(num_groups))
    claim = Claim(Root(b"\x33" * 32), Root(b"\x44" * 32), groups)
    hashed = keccak(encode(["(bytes32,bytes32,bytes32[])"], [(claim.model_root, claim.state_root, groups)]))
    assert commitments.claim_hash(claim) == hashed
    expected = keccak(
        encode(
            ["uint256", "address", "uint256", "uint16", "uint8", "address", "bytes32", "bytes32"],
            [31337, COORDINATOR, 7, 65_533, 3, ACCOUNT, hashed, SALT],
        )
    )
    assert expected == commitments.aggregate_commitment(**SCOPE, attempt=3, aggregator=ACCOUNT, claim=claim, salt=SALT)


def test_challenge_commitment__any__is_keccak_of_abi_encode():
    proof_hash = commitments.proof_hash_of(b"proof")
    assert proof_hash == keccak(b"proof")
    expected = keccak(
        encode(
            ["uint256", "address", "uint256", "uint16", "uint8", "address", "bytes32", "bytes32"],
            [31337, COORDINATOR, 7, 65_533, 2, ACCOUNT, proof_hash, SALT],
        )
    )
    assert expected == commitments.challenge_commitment(
        **SCOPE, attempt=2, challenger=ACCOUNT, proof_hash=proof_hash, salt=SALT
    )


def test_proof_commitment__any__is_keccak_of_abi_encode():
    expected = keccak(
        encode(
            ["uint256", "address", "uint256", "uint16", "address", "bytes32", "bytes32"],
            [31337, COORDINATOR, 7, 65_533, ACCOUNT, b"\x55" * 32, SALT],
        )
    )
    assert expected == commitments.proof_commitment(**SCOPE, challenger=ACCOUNT, proof_hash=b"\x55" * 32, salt=SALT)


def test_update_commitment__value_beyond_its_type__is_our_bug():
    with pytest.raises(AssertionError):
        commitments.scores_commitment(**SCOPE | {"round_number": 65_536}, validator=ACCOUNT, votes=b"", salt=SALT)


def test_pack_votes__all_kinds__come_back():
    given = [votes.Vote(10_000, 65_535), votes.REJECTION, votes.ABSTENTION, votes.Vote(1, 1)]
    data = votes.pack_votes(given)
    assert data.hex() == "2710ffff00000000ffff000000010001"
    assert votes.unpack_votes(data) == given


@pytest.mark.parametrize(
    ("weight", "score"),
    [(0, 1), (1, 0), (10_001, 1), (ABSTAIN, 1), (ABSTAIN - 1, 0), (-1, 1), (1, 65_536), (1, -1), (0, -1)],
)
def test_vote__refused_by_the_contract__is_refused_here(weight, score):
    with pytest.raises(EncodingError):
        votes.Vote(weight, score)


def test_unpack_votes__cut__is_refused():
    with pytest.raises(EncodingError, match="whole number"):
        votes.unpack_votes(b"\0\0\0")

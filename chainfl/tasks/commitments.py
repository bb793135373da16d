"""The hashes that a contract opens later: what a sender binds itself to before it shows it.

Each is keccak256(abi.encode(...)) as ITaskCoordinator.sol and IDisputes.sol state it. Every component but a claim's
group roots is a static type, so abi.encode is one 32-byte word a component, in order; no ABI library is needed.
"""

from __future__ import annotations

from eth_hash.auto import keccak

from chainfl.tasks.state import CidOnChain, Claim
from chainfl.types import Address, Root, TaskId

SALT_BYTES = 32


def update_commitment(
    *,
    chain_id: int,
    coordinator: Address,
    task_id: TaskId,
    round_number: int,
    worker: Address,
    root: Root,
    cid: CidOnChain,
    squared_norm: int,
    num_examples: int,
    salt: bytes,
) -> bytes:
    """What `commitUpdate` takes and `revealUpdate` opens. 32 bytes."""
    return _hash(
        [
            *_scope(chain_id, coordinator, task_id, round_number),
            _address(worker),
            _bytes32(root),
            _bytes32(cid.digest),
            _uint(cid.codec, 8),
            _uint(squared_norm, 64),
            _uint(num_examples, 32),
            _bytes32(salt),
        ]
    )


def scores_commitment(
    *,
    chain_id: int,
    coordinator: Address,
    task_id: TaskId,
    round_number: int,
    validator: Address,
    votes: bytes,
    salt: bytes,
) -> bytes:
    """What `commitScores` takes and `revealScores` opens. votes: as `pack_votes` gives them. 32 bytes."""
    return _hash(
        [*_scope(chain_id, coordinator, task_id, round_number), _address(validator), votes_hash(votes), _bytes32(salt)]
    )


def aggregate_commitment(
    *,
    chain_id: int,
    coordinator: Address,
    task_id: TaskId,
    round_number: int,
    attempt: int,
    aggregator: Address,
    claim: Claim,
    salt: bytes,
) -> bytes:
    """What `commitAggregate` takes and `postAggregate` opens in the open window. 32 bytes."""
    scope = _scope(chain_id, coordinator, task_id, round_number)
    return _hash([*scope, _uint(attempt, 8), _address(aggregator), claim_hash(claim), _bytes32(salt)])


def challenge_commitment(
    *,
    chain_id: int,
    coordinator: Address,
    task_id: TaskId,
    round_number: int,
    attempt: int,
    challenger: Address,
    proof_hash: bytes,
    salt: bytes,
) -> bytes:
    """What `commitChallenge` takes and `proveAggregate` opens. proof_hash: keccak256 of the proof. 32 bytes."""
    scope = _scope(chain_id, coordinator, task_id, round_number)
    return _hash([*scope, _uint(attempt, 8), _address(challenger), _bytes32(proof_hash), _bytes32(salt)])


def proof_commitment(
    *,
    chain_id: int,
    coordinator: Address,
    task_id: TaskId,
    round_number: int,
    challenger: Address,
    proof_hash: bytes,
    salt: bytes,
) -> bytes:
    """What `commitProof` takes and `proveUpdate` or `proveInGame` opens. proof_hash: keccak256 of it. 32 bytes."""
    scope = _scope(chain_id, coordinator, task_id, round_number)
    return _hash([*scope, _address(challenger), _bytes32(proof_hash), _bytes32(salt)])


def claim_hash(claim: Claim) -> bytes:
    """keccak256(abi.encode(claim)): a dynamic struct, so its offset and that of the group roots are words, too."""
    fixed = [_uint(32, 256), _bytes32(claim.model_root), _bytes32(claim.state_root), _uint(96, 256)]
    return _hash([*fixed, _uint(len(claim.group_roots), 256), *(_bytes32(root) for root in claim.group_roots)])


def proof_hash_of(proof: bytes) -> bytes:
    """keccak256 of a proof: what a challenger commits to."""
    return keccak(proof)


def votes_hash(votes: bytes) -> bytes:
    """keccak256 of the votes: what the member's slot holds once they are revealed."""
    return keccak(votes)


def _scope(chain_id: int, coordinator: Address, task_id: TaskId, round_number: int) -> list[bytes]:
    return [_uint(chain_id, 256), _address(coordinator), _uint(task_id, 256), _uint(round_number, 16)]


def _hash(words: list[bytes]) -> bytes:
    return keccak(b"".join(words))


def _uint(value: int, bits: int) -> bytes:
    # A value that Solidity would refuse must not become a commitment that can never be opened.
    assert 0 <= value < 1 << bits, f"{value} is not a uint{bits}"
    return value.to_bytes(32, "big")


def _address(address: Address) -> bytes:
    raw = bytes.fromhex(address.removeprefix("0x"))
    assert len(raw) == 20, f"{address} is not an address"
    return raw.rjust(32, b"\0")


def _bytes32(value: bytes) -> bytes:
    assert len(value) == 32, f"{len(value)} bytes are not a bytes32"
    return bytes(value)

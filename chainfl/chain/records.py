"""What the vault and the registry answer: frozen values with the ABI's component names in snake case."""

from __future__ import annotations

from dataclasses import dataclass

from chainfl.tasks.state import CidOnChain, Role
from chainfl.types import Address, Root, TaskId, Wei


@dataclass(frozen=True, slots=True)
class Escrow:
    """Where a task's escrow went: funded = balance + paid + refunded + burned, always."""

    balance: Wei
    paid: Wei
    refunded: Wei
    burned: Wei

    @property
    def funded(self) -> Wei:
        """What the requester put in."""
        return Wei(self.balance + self.paid + self.refunded + self.burned)


@dataclass(frozen=True, slots=True)
class VaultTotals:
    """The vault's ledgers, summed over all accounts and tasks."""

    free: Wei
    locked: Wei
    escrow: Wei
    credit: Wei
    burn_pending: Wei


@dataclass(frozen=True, slots=True)
class Model:
    """One version of a model, as the registry holds it. Times in seconds of chain time."""

    parent: bytes
    task_id: TaskId
    round: int
    attempt: int
    accepted: int
    opened_block: int
    registered_block: int
    registered_at: int
    aggregator: Address
    model_root: Root
    updates_hash: bytes
    cid: CidOnChain
    float_cid: CidOnChain


@dataclass(frozen=True, slots=True)
class Line:
    """What all versions of a task share. `restricted` is a signal: the bytes are public to whoever has the CID."""

    owner: Address
    restricted: bool
    versions: int
    spec_hash: bytes
    genesis: bytes
    latest: bytes
    licence: str


@dataclass(frozen=True, slots=True)
class Lock:
    """One account's stake in one task. unlockable_at: chain time, or None while the task is not over."""

    task_id: TaskId
    role: Role
    amount: Wei
    unlockable_at: int | None


@dataclass(frozen=True, slots=True)
class StakeStatus:
    """Everything that an account has in the vault, and beside it. native_wei: what pays for gas."""

    account: Address
    free: Wei
    credit: Wei
    locks: tuple[Lock, ...]
    token_balance: Wei
    allowance: Wei
    native_wei: int


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """How to show amounts of the token."""

    address: Address
    name: str
    symbol: str
    decimals: int


@dataclass(frozen=True, slots=True)
class GasStats:
    """Gas of one kind of transaction over a range of blocks."""

    count: int
    median: int
    maximum: int
    total: int
    cost_wei: int

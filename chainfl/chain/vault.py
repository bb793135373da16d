"""The StakeVault's functions with Python's types."""

from __future__ import annotations

from chainfl.chain.client import Call
from chainfl.chain.contracts import Contract, Transaction
from chainfl.chain.records import Escrow, VaultTotals
from chainfl.tasks.state import Role
from chainfl.types import Address, TaskId, Wei

NOT_OVER = 2**256 - 1
"""What `unlockableAt` answers while the task is not over."""


class Vault(Contract):
    """Reads and transactions of the vault at an address. Amounts in the token's wei."""

    __slots__ = ()

    def __init__(self, address: Address) -> None:
        super().__init__("StakeVault", address)

    def free_of(self, account: Address) -> Call:
        return self.call("freeOf", account, target=int)

    def credit_of(self, account: Address) -> Call:
        return self.call("creditOf", account, target=int)

    def lock_of(self, task_id: TaskId, role: Role, account: Address) -> Call:
        return self.call("lockOf", task_id, int(role), account, target=int)

    def escrow_of(self, task_id: TaskId) -> Call:
        return self.call("escrowOf", task_id, target=Escrow)

    def totals(self) -> Call:
        return self.call("totals", target=VaultTotals)

    def unlockable_at(self, task_id: TaskId) -> Call:
        return self.call("unlockableAt", task_id, target=int)

    def deposit(self, amount: Wei) -> Transaction:
        return self.transaction("deposit", amount)

    def deposit_with_permit(self, amount: Wei, deadline: int, v: int, r: bytes, s: bytes) -> Transaction:
        return self.transaction("depositWithPermit", amount, deadline, v, r, s)

    def withdraw(self, amount: Wei) -> Transaction:
        return self.transaction("withdraw", amount)

    def claim(self) -> Transaction:
        return self.transaction("claim")

    def unlock(self, task_id: TaskId, role: Role, account: Address) -> Transaction:
        return self.transaction("unlock", task_id, int(role), account)

    def flush_burn(self) -> Transaction:
        return self.transaction("flushBurn")

"""The ModelRegistry's functions with Python's types."""

from __future__ import annotations

from chainfl.chain.client import Call
from chainfl.chain.contracts import Contract, Transaction
from chainfl.chain.records import Line, Model
from chainfl.types import Address, ModelId, TaskId


class Registry(Contract):
    """Reads and transactions of the registry at an address."""

    __slots__ = ()

    def __init__(self, address: Address) -> None:
        super().__init__("ModelRegistry", address)

    def model(self, model_id: ModelId) -> Call:
        return self.call("modelOf", model_id, target=Model)

    def line(self, task_id: TaskId) -> Call:
        return self.call("lineOf", task_id, target=Line)

    def model_id(self, task_id: TaskId, round_number: int) -> Call:
        return self.call("modelIdOf", task_id, round_number, target=bytes)

    def exists(self, model_id: ModelId) -> Call:
        return self.call("exists", model_id, target=bool)

    def num_models(self) -> Call:
        return self.call("numModels", target=int)

    def models(self, start: int, count: int) -> Call:
        return self.call("models", start, count)

    def has_access(self, model_id: ModelId, account: Address) -> Call:
        return self.call("hasAccess", model_id, account, target=bool)

    def is_granted(self, task_id: TaskId, account: Address) -> Call:
        return self.call("isGranted", task_id, account, target=bool)

    def grant(self, task_id: TaskId, account: Address) -> Transaction:
        return self.transaction("grantAccess", task_id, account)

    def revoke(self, task_id: TaskId, account: Address) -> Transaction:
        return self.transaction("revokeAccess", task_id, account)

    def restrict(self, task_id: TaskId, restricted: bool) -> Transaction:
        return self.transaction("setRestricted", task_id, restricted)

    def transfer_ownership(self, task_id: TaskId, to: Address) -> Transaction:
        return self.transaction("transferOwnership", task_id, to)

"""One contract at one address: reads as `Call`, writes as `Transaction`, built from the compiler's ABI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chainfl.chain.abi import ContractAbi, EventAbi, contract_abi
from chainfl.chain.client import Call
from chainfl.types import Address


@dataclass(frozen=True, slots=True)
class Transaction:
    """What to send, before fees and a nonce. kind: the function's name; to: None for a deployment."""

    kind: str
    to: Address | None
    data: bytes
    value_wei: int = 0


@dataclass(frozen=True, slots=True)
class Contract:
    """A contract of ours at an address. Holds no connection: a value like any other."""

    name: str
    address: Address

    @property
    def abi(self) -> ContractAbi:
        """The ABI that ships with the package."""
        return contract_abi(self.name)

    def event(self, name: str) -> EventAbi:
        """One of its events."""
        return self.abi.events[name]

    def call(self, function: str, *arguments: Any, target: Any = Any) -> Call:
        """A read of one function."""
        return Call(self.address, self.abi.functions[function], arguments, target)

    def transaction(self, function: str, *arguments: Any) -> Transaction:
        """A write through one function."""
        return Transaction(function, self.address, self.abi.functions[function].encode(*arguments))

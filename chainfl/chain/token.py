"""Any ERC-20 with Python's types, and the faucet and permit of those that have them."""

from __future__ import annotations

from typing import Any

from chainfl.chain.client import Call, ChainClient
from chainfl.chain.contracts import Contract, Transaction
from chainfl.chain.keys import Signer
from chainfl.errors import ChainError
from chainfl.types import Address, Wei

_ALL_DOMAIN_FIELDS = b"\x0f"  # name, version, chainId and verifyingContract, no salt (EIP-5267)

_PERMIT_TYPES = {
    "EIP712Domain": [
        {"name": "name", "type": "string"},
        {"name": "version", "type": "string"},
        {"name": "chainId", "type": "uint256"},
        {"name": "verifyingContract", "type": "address"},
    ],
    "Permit": [
        {"name": "owner", "type": "address"},
        {"name": "spender", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "nonce", "type": "uint256"},
        {"name": "deadline", "type": "uint256"},
    ],
}


class Token(Contract):
    """Reads and transactions of the deployment's token. Amounts in its wei."""

    __slots__ = ()

    def __init__(self, address: Address) -> None:
        super().__init__("TrainingToken", address)

    def balance_of(self, account: Address) -> Call:
        return self.call("balanceOf", account, target=int)

    def allowance(self, owner: Address, spender: Address) -> Call:
        return self.call("allowance", owner, spender, target=int)

    def name_of_token(self) -> Call:
        return self.call("name", target=str)

    def symbol(self) -> Call:
        return self.call("symbol", target=str)

    def decimals(self) -> Call:
        return self.call("decimals", target=int)

    def next_drip_at(self, account: Address) -> Call:
        return self.call("nextDripAt", account, target=int)

    def drip_amount(self) -> Call:
        return self.call("dripAmount", target=int)

    def approve(self, spender: Address, amount: Wei) -> Transaction:
        return self.transaction("approve", spender, amount)

    def transfer(self, to: Address, amount: Wei) -> Transaction:
        return self.transaction("transfer", to, amount)

    def drip(self) -> Transaction:
        return self.transaction("drip")


def sign_permit(
    client: ChainClient, token: Token, signer: Signer, spender: Address, amount: Wei, deadline: int
) -> tuple[int, bytes, bytes] | None:
    """An EIP-2612 signature (v, r, s) for `spender` to take `amount`; None for a token without a usable permit."""
    try:
        nonce, domain = client.read_all([token.call("nonces", signer.address), token.call("eip712Domain")])
    except ChainError as error:
        if error.retryable:
            raise
        return None
    if domain["fields"] != _ALL_DOMAIN_FIELDS or domain["verifying_contract"] != token.address:
        return None
    return signer.sign_typed_data(_permit(domain, signer.address, spender, amount, nonce, deadline))


def _permit(
    domain: dict[str, Any], owner: Address, spender: Address, amount: Wei, nonce: int, deadline: int
) -> dict[str, Any]:
    return {
        "types": _PERMIT_TYPES,
        "primaryType": "Permit",
        "domain": {
            "name": domain["name"],
            "version": domain["version"],
            "chainId": domain["chain_id"],
            "verifyingContract": domain["verifying_contract"],
        },
        "message": {"owner": owner, "spender": spender, "value": amount, "nonce": nonce, "deadline": deadline},
    }

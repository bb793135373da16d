"""ABI, bytecode and compiler of each contract, as scripts/build_contracts.py wrote them. Never edited by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

CONTRACTS: Final = ("TaskCoordinator", "StakeVault", "ModelRegistry", "TrainingToken")
LIBRARIES: Final = ("Proofs", "Disputes", "Demands", "Lifecycle", "Tally", "Aggregates", "Settlement", "Draws")
"""Code that the coordinator delegates to, in an order of deployment: a library comes after those that it links."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One compiled contract. bytecode: creation code without constructor arguments, zeros where links go.

    links: for each linked library, the byte offsets of its address in the creation code.
    """

    name: str
    abi: tuple[dict[str, Any], ...]
    bytecode: bytes
    compiler: str
    settings: dict[str, Any]
    links: dict[str, list[int]]

    def linked(self, addresses: Mapping[str, str]) -> bytes:
        """The creation code with the libraries' addresses in place. addresses: library → 0x-address."""
        code = bytearray(self.bytecode)
        for library, starts in self.links.items():
            for start in starts:
                code[start : start + 20] = bytes.fromhex(addresses[library].removeprefix("0x"))
        return bytes(code)


@cache
def load_artifact(name: str) -> Artifact:
    """The artifact of one of CONTRACTS or LIBRARIES, out of the package."""
    document = json.loads(files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return Artifact(
        name=document["contractName"],
        abi=tuple(document["abi"]),
        bytecode=bytes.fromhex(document["bytecode"].removeprefix("0x")),
        compiler=document["compiler"],
        settings=document["settings"],
        links=document["links"],
    )

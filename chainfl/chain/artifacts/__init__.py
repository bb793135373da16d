"""ABI, bytecode and compiler of each contract, as scripts/build_contracts.py wrote them. Never edited by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

CONTRACTS: Final = ("TaskCoordinator", "StakeVault", "ModelRegistry", "TrainingToken")


@dataclass(frozen=True, slots=True)
class Artifact:
    """One compiled contract. bytecode: creation code without constructor arguments."""

    name: str
    abi: tuple[dict[str, Any], ...]
    bytecode: bytes
    compiler: str
    settings: dict[str, Any]


@cache
def load_artifact(name: str) -> Artifact:
    """The artifact of one of CONTRACTS, out of the package."""
    document = json.loads(files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return Artifact(
        name=document["contractName"],
        abi=tuple(document["abi"]),
        bytecode=bytes.fromhex(document["bytecode"].removeprefix("0x")),
        compiler=document["compiler"],
        settings=document["settings"],
    )

"""Solidity that runs next to Python: libraries compiled with the project's compiler, called through Anvil.

Harness contracts exist only for the length of a call (a state override), so nothing is deployed and no block is mined.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from eth_abi import decode, encode
from eth_utils import function_signature_to_4byte_selector

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "0x" + "c0de" * 10
FORMAT = (
    "(uint64,uint32,uint8,uint8,uint32,uint32,uint64,uint16,uint8,uint16,uint16,"
    "uint32,uint32,uint8,uint32,uint32,uint32)"
)
"""A task's format as the ABI writes it, field by field."""
PROOFS_ADDRESS = "0x" + "11b1" * 10


class CallReverted(Exception):
    """The contract refused. `selector`: the first four bytes of its error, in hex."""

    def __init__(self, error: Mapping[str, object]) -> None:
        super().__init__(error)
        self.selector = str(error.get("data", ""))[2:10]


class Harness:
    """Calls functions of one harness contract by their signature. libraries: address to code, for what it links."""

    def __init__(self, rpc_url: str, code: str, libraries: Mapping[str, str] | None = None) -> None:
        codes = {ADDRESS: code, **(libraries or {})}
        self._rpc_url, self._overrides = rpc_url, {address: {"code": text} for address, text in codes.items()}

    def call(self, name: str, takes: list[str], gives: list[str], *arguments):
        values = decode(gives, self.raw(name, takes, *arguments))
        return values[0] if len(values) == 1 else values

    def raw(self, name: str, takes: list[str], *arguments) -> bytes:
        """The bytes that come back; decoding many values is the caller's."""
        selector = function_signature_to_4byte_selector(f"{name}({','.join(takes)})")
        data = "0x" + (selector + encode(takes, arguments)).hex()
        params = [{"to": ADDRESS, "data": data, "gas": "0x7fffffff"}, "latest", self._overrides]
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": params}).encode()
        request = urllib.request.Request(self._rpc_url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        if "error" in answer:
            raise CallReverted(answer["error"])
        return bytes.fromhex(answer["result"][2:])


def compile_contracts(
    path: str, names: Sequence[str], libraries: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, str]:
    """The runtime code of contracts of one file, and of what `libraries` (path to name to address) links, by name."""
    sources = _closure(path)
    wanted = {path: {name: ["evm.deployedBytecode.object"] for name in names}}
    for linked, found in (libraries or {}).items():
        wanted[linked] = {name: ["evm.deployedBytecode.object"] for name in found}
    settings = {
        "evmVersion": "cancun",
        "optimizer": {"enabled": True, "runs": 200},
        "outputSelection": wanted,
        "libraries": libraries or {},
    }
    request = {"language": "Solidity", "sources": sources, "settings": settings}
    compiler = [ROOT / "scripts" / "solc", "--standard-json"]
    done = subprocess.run(compiler, input=json.dumps(request), capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    problems = [e["formattedMessage"] for e in answer.get("errors", []) if e["severity"] == "error"]
    assert not problems, "\n".join(problems)
    compiled = {name: unit for file in answer["contracts"].values() for name, unit in file.items()}
    return {name: "0x" + unit["evm"]["deployedBytecode"]["object"] for name, unit in compiled.items()}


def _closure(path: str) -> dict[str, dict[str, str]]:
    """The file and all that it imports, packages included, by the names that the compiler knows them by."""
    found: dict[str, dict[str, str]] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        text = (ROOT / "node_modules" / file if file.startswith("@") else ROOT / file).read_text()
        found[file] = {"content": text}
        folder = os.path.dirname(file)  # noqa: PTH120  (a source's name, not a path of this machine)
        for name in re.findall(r'(?:from|import) "([^"]+)"', text):
            waiting.append(os.path.normpath(f"{folder}/{name}") if name.startswith(".") else name)
    return found

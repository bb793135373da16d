#!/usr/bin/env python3
"""Compiles the contracts and writes their artifacts into the package, so that no user needs a compiler.

    python scripts/build_contracts.py           writes chainfl/chain/artifacts/*.json
    python scripts/build_contracts.py --check   rebuilds, and fails when a committed artifact differs

An artifact holds the ABI, the creation code, the compiler and its settings: the same bytes on every machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONTRACTS = ("TaskCoordinator", "StakeVault", "ModelRegistry", "TrainingToken")
LIBRARIES = ("Proofs", "Disputes", "Demands", "Lifecycle", "Tally", "Aggregates", "Settlement", "Draws")
ROOT = Path(__file__).resolve().parents[1]
ARTIFACTS = ROOT / "chainfl" / "chain" / "artifacts"
OUT = ROOT / "contracts" / "out"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed artifacts; write nothing")
    check = parser.parse_args().check
    built = build_artifacts()
    stale = [name for name, text in built.items() if _committed(name) != text]
    if check:
        return _report(stale)
    for name in stale:
        (ARTIFACTS / f"{name}.json").write_text(built[name], encoding="utf-8")
    print(f"{len(built)} artifacts, {len(stale)} of them changed")
    return 0


def build_artifacts() -> dict[str, str]:
    """The text of each contract's artifact, compiled from the sources in the repository."""
    forge_build()
    return {name: _artifact(OUT / f"{name}.sol" / f"{name}.json", name) for name in CONTRACTS + LIBRARIES}


def forge_build() -> None:
    """Compiles what has changed since the last build. The compiler is slow, so every build shares one cache."""
    forge = ROOT / "node_modules" / ".bin" / "forge"
    if not forge.exists():
        raise SystemExit("forge is missing: run `make setup` first")
    command = [str(forge), "build", "contracts/src", "--color", "never"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"forge build failed:\n{result.stdout}{result.stderr}")


def _artifact(path: Path, name: str) -> str:
    compiled = json.loads(path.read_text(encoding="utf-8"))
    return json.dumps(_document(compiled, name), indent=1, sort_keys=True) + "\n"


def _document(compiled: dict[str, Any], name: str) -> dict[str, Any]:
    settings = compiled["metadata"]["settings"]
    links = _links(compiled["bytecode"]["linkReferences"])
    return {
        "contractName": name,
        "compiler": "solc " + compiled["metadata"]["compiler"]["version"],
        "settings": {
            "evmVersion": settings["evmVersion"],
            "optimizer": settings["optimizer"],
            "viaIR": settings.get("viaIR", False),
            "bytecodeHash": settings["metadata"]["bytecodeHash"],
        },
        # A library is only ever called by the coordinator that links it, but its errors reach the caller.
        "abi": [entry for entry in compiled["abi"] if name in CONTRACTS or entry["type"] == "error"],
        "links": links,
        "bytecode": _without_placeholders(compiled["bytecode"]["object"], links),
    }


def _links(references: dict[str, Any]) -> dict[str, list[int]]:
    """Where in the creation code the address of each linked library goes, in bytes."""
    return {
        library: sorted(place["start"] for place in places)
        for libraries in references.values()
        for library, places in libraries.items()
    }


def _without_placeholders(code: str, links: dict[str, list[int]]) -> str:
    """The creation code with zeros where addresses go: valid hexadecimal before it is linked."""
    for start in (start for starts in links.values() for start in starts):
        at = 2 + 2 * start
        code = code[:at] + 40 * "0" + code[at + 40 :]
    return code


def _committed(name: str) -> str | None:
    path = ARTIFACTS / f"{name}.json"
    return path.read_text(encoding="utf-8") if path.exists() else None


def _report(stale: list[str]) -> int:
    if stale:
        print(f"stale artifacts: {', '.join(stale)}; run `python scripts/build_contracts.py`", file=sys.stderr)
        return 1
    print("the artifacts match the sources")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Holds slither's report against the explained findings: `python scripts/analyse_triage.py REPORT.json TRIAGE.toml`.

Exits with 1 when a finding has no explanation, when a function has more of a kind than were explained, and when an
explanation has no finding any more. Exits with 2 when slither did not get through.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

Key = tuple[str, str]


def main(report_path: Path, triage_path: Path) -> int:
    report: dict[str, Any] = json.loads(report_path.read_text())
    if not report["success"]:
        print(f"slither failed: {report['error']}", file=sys.stderr)
        return 2
    findings: list[dict[str, Any]] = report["results"].get("detectors", [])
    triage: dict[str, Any] = tomllib.loads(triage_path.read_text())
    kinds: dict[str, str] = triage["detector"]
    explained: Counter[Key] = Counter()
    for entry in triage["finding"]:
        explained[(entry["check"], entry["where"])] += entry.get("count", 1)

    found = Counter((f["check"], place_of(f)) for f in findings if f["check"] not in kinds)
    new = found - explained
    for f in findings:
        if (f["check"], place_of(f)) in new:
            print(f"UNEXPLAINED {f['impact']} {f['check']} in {place_of(f)}\n{f['description']}", file=sys.stderr)
    stale = sorted(explained - found) + sorted((k, "anywhere") for k in kinds.keys() - {f["check"] for f in findings})
    for check, where in stale:
        print(f"STALE explanation of {check} in {where}: slither no longer finds it", file=sys.stderr)
    print(f"{len(findings)} findings of medium severity or above, {sum(new.values())} unexplained, {len(stale)} stale")
    return 1 if new or stale else 0


def place_of(finding: dict[str, Any]) -> str:
    """`Contract.function` of the finding's first element, which survives a change of lines and of signatures."""
    element: dict[str, Any] = finding["elements"][0]
    names = [element["name"]] if element["type"] == "function" else []
    while (element := element.get("type_specific_fields", {}).get("parent", {})) and element["type"] != "file":
        if element["type"] in ("function", "contract"):
            names.append(element["name"])
    return ".".join(reversed(names))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

"""Makes tests/vectors/weighted_median.json, payouts.json and draws.json from their definitions.

The arithmetic here is written a second time, from docs/protocol.md and on unbounded integers, so that neither the
Solidity libraries nor their Python mirrors are compared with themselves. Amounts are decimal strings, since JSON
readers round integers above 2^53.

    python scripts/vectors_contracts.py            # writes the files
    python scripts/vectors_contracts.py --check    # fails when they are not what this script makes
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from eth_hash.auto import keccak

VECTORS = Path(__file__).resolve().parent.parent / "tests" / "vectors"
BPS = 10_000
ABSTAIN = 65_535
TOKEN = 10**18
UINT96 = 2**96 - 1
UINT128 = 2**128 - 1

Case = dict[str, Any]


def lower_median(values: list[int], stakes: list[int]) -> int:
    """The smallest value whose cumulative stake reaches half of the total; 0 without any stake."""
    total = sum(stakes)
    if total == 0:
        return 0

    def cumulative(value: int) -> int:
        return sum(stake for other, stake in zip(values, stakes, strict=True) if other <= value)

    return min(value for value in values if 2 * cumulative(value) >= total)


def pro_rata(pot: int, part: int, whole: int) -> int:
    """`pot * part / whole` rounded down; 0 when the whole is 0."""
    return pot * part // whole if whole else 0


def worker_pay(pot: int, base_bps: int, stake: int, total_stake: int, score: int, total_score: int) -> int:
    """The base by stake, the rest by score, each rounded down."""
    base = pot * base_bps // BPS
    return pro_rata(base, stake, total_stake) + pro_rata(pot - base, score, total_score)


def agrees(weight: int, score: int, median_weight: int, median_score: int) -> bool:
    """Accepts or rejects like the median, and scores within max(a quarter of the median's score, 500) of it."""
    if weight == ABSTAIN:
        return False
    same_verdict = (weight > 0) == (median_weight > 0)
    return same_verdict and abs(score - median_score) <= max(median_score // 4, 500)


def median_case(name: str, values: list[int], stakes: list[int]) -> Case:
    """One entry of weighted_median.json."""
    return {
        "name": name,
        "values": values,
        "stakes": [str(stake) for stake in stakes],
        "median": lower_median(values, stakes),
    }


def median_cases(rng: random.Random) -> list[Case]:
    """Named edges first, then seeded votes of 1 to 16 validators."""
    cases = [
        median_case("no votes", [], []),
        median_case("one vote", [7], [1]),
        median_case("one vote without stake", [7], [0]),
        median_case("no stake at all", [1, 2, 3], [0, 0, 0]),
        median_case("lower of an even count", [10, 20], [1, 1]),
        median_case("lower of four, unsorted", [40, 10, 30, 20], [5, 5, 5, 5]),
        median_case("middle of three", [9000, 0, 10_000], [3, 3, 3]),
        median_case("exactly half is enough", [0, 10_000], [300, 300]),
        median_case("one wei below half", [0, 10_000], [300 * TOKEN - 1, 300 * TOKEN]),
        median_case("one wei above half", [0, 10_000], [300 * TOKEN + 1, 300 * TOKEN]),
        median_case("odd total, half rounds up", [1, 2, 3], [2, 1, 2]),
        median_case("a third colludes low", [0, 8000, 8100], [100, 100, 100]),
        median_case("more than half colludes", [0, 0, 8000, 8100], [100, 100, 100, 99]),
        median_case("votes without stake are skipped", [0, 5, 65_535], [0, 1, 0]),
        median_case("smallest value has no stake", [0, 0, 7, 9], [0, 0, 2, 2]),
        median_case("all equal", [5000] * 16, [300 * TOKEN] * 16),
        median_case("descending, sixteen", list(range(16, 0, -1)), [1] * 16),
        median_case("ascending, fifteen", list(range(1, 16)), [1] * 15),
        median_case("one holds everything", [1, 2, 3, 4], [1, 1, 1, UINT96]),
        median_case("largest stakes", [65_535, 0, 65_535, 0], [UINT96] * 4),
        median_case("equal values, unequal stakes", [7, 3, 7, 3], [1, 2, 3, 4]),
    ]
    for index in range(40):
        count = rng.randint(1, 16)
        values = [rng.choice([0, rng.randint(1, 10_000)]) for _ in range(count)]
        stakes = [rng.randint(300, 900) * TOKEN + rng.randint(0, TOKEN - 1) for _ in range(count)]
        cases.append(median_case(f"seeded {index}", values, stakes))
    return cases


def split_cases(rng: random.Random) -> list[Case]:
    """A round's budget by role."""
    edges = [
        (0, 7000, 2000, 1000),
        (1, 7000, 2000, 1000),
        (9, 7000, 2000, 1000),
        (10_000, 7000, 2000, 1000),
        (9_999, 3333, 3333, 3334),
        (100 * TOKEN, 10_000, 0, 0),
        (100 * TOKEN, 0, 0, 0),
        (UINT128, 7000, 2000, 1000),
        (UINT128, 10_000, 0, 0),
    ]
    seeded = []
    for _ in range(12):
        workers = rng.randint(0, BPS)
        validators = rng.randint(0, BPS - workers)
        seeded.append((rng.randint(0, 10**24), workers, validators, BPS - workers - validators))
    return [
        {
            "budget": str(budget),
            "workers_bps": workers,
            "validators_bps": validators,
            "aggregator_bps": aggregator,
            "workers": str(budget * workers // BPS),
            "validators": str(budget * validators // BPS),
            "aggregator": str(budget * aggregator // BPS),
        }
        for budget, workers, validators, aggregator in edges + seeded
    ]


def worker_pay_cases(rng: random.Random) -> list[Case]:
    """One worker's pay."""
    edges = [
        (0, 3000, 100, 500, 2000, 10_000),
        (70 * TOKEN, 3000, 100 * TOKEN, 500 * TOKEN, 2000, 10_000),
        (70 * TOKEN, 3000, 0, 500, 0, 10_000),
        (70 * TOKEN, 3000, 100, 100, 1, 1),
        (70 * TOKEN, 3000, 0, 0, 1, 1),
        (70 * TOKEN, 3000, 1, 1, 0, 0),
        (70 * TOKEN, 3000, 0, 0, 0, 0),
        (100, 3000, 1, 3, 1, 3),
        (1, 3000, 1, 1, 1, 1),
        (70 * TOKEN, 0, 1, 2, 1, 4),
        (70 * TOKEN, 10_000, 1, 2, 1, 4),
        (UINT128, 3000, UINT96, UINT96, 10_000, 10_000),
        (UINT128, 3000, UINT96 - 1, UINT96, 9_999, 10_000),
    ]
    seeded = []
    for _ in range(20):
        total_stake, total_score = rng.randint(1, 10**22), rng.randint(1, 10**6)
        stake, score = rng.randint(0, total_stake), rng.randint(0, min(total_score, ABSTAIN))
        seeded.append((rng.randint(0, 10**24), rng.randint(0, BPS), stake, total_stake, score, total_score))
    return [
        {
            "pot": str(pot),
            "base_bps": base_bps,
            "stake": str(stake),
            "total_stake": str(total_stake),
            "score": score,
            "total_score": total_score,
            "pay": str(worker_pay(pot, base_bps, stake, total_stake, score, total_score)),
        }
        for pot, base_bps, stake, total_stake, score, total_score in edges + seeded
    ]


def pro_rata_cases(rng: random.Random) -> list[Case]:
    """A part of a pot, with products beyond 2^256 among them."""
    edges = [
        (0, 1, 2),
        (100, 0, 2),
        (100, 1, 0),
        (0, 0, 0),
        (100, 1, 3),
        (100, 3, 3),
        (1, 1, 2),
        (UINT128, UINT128 - 1, UINT128),
        (2**256 - 1, 2**256 - 1, 2**256 - 1),
        (2**256 - 1, 2**255, 2**256 - 1),
        (2**256 - 1, 1, 2**256 - 1),
    ]
    seeded = []
    for _ in range(12):
        whole = rng.randint(1, 10**30)
        seeded.append((rng.randint(0, 10**26), rng.randint(0, whole), whole))
    return [
        {"pot": str(pot), "part": str(part), "whole": str(whole), "share": str(pro_rata(pot, part, whole))}
        for pot, part, whole in edges + seeded
    ]


def agrees_cases(rng: random.Random) -> list[Case]:
    """A vote against the median: both verdicts, both tolerances at -1, 0 and +1, and abstention."""
    edges = [
        (0, 0, 0, 0),
        (1, 1, 0, 0),
        (0, 0, 1, 1),
        (1, 1, 10_000, 1),
        (10_000, 1, 1, 501),
        (10_000, 1, 1, 502),
        (10_000, 501, 1, 1),
        (10_000, 502, 1, 1),
        (1, 1500, 1, 2000),
        (1, 1499, 1, 2000),
        (1, 2500, 1, 2000),
        (1, 2501, 1, 2000),
        (1, 1503, 1, 2003),
        (1, 1502, 1, 2003),
        (1, 1503, 1, 2004),
        (1, 1502, 1, 2004),
        (1, 7500, 1, 10_000),
        (1, 7499, 1, 10_000),
        (1, 12_500, 1, 10_000),
        (1, 12_501, 1, 10_000),
        (1, 65_535, 1, 65_535),
        (1, 49_152, 1, 65_535),
        (1, 49_151, 1, 65_535),
        (ABSTAIN, 0, 1, 1),
        (ABSTAIN, 0, 0, 0),
    ]
    seeded = []
    for _ in range(20):
        vote, median = rng.randint(0, BPS), rng.randint(0, BPS)
        seeded.append((vote, rng.randint(1, BPS) if vote else 0, median, rng.randint(1, BPS) if median else 0))
    return [
        {
            "weight": weight,
            "score": score,
            "median_weight": median_weight,
            "median_score": median_score,
            "agrees": agrees(weight, score, median_weight, median_score),
        }
        for weight, score, median_weight, median_score in edges + seeded
    ]


def slash_cases() -> list[Case]:
    """A share of the required stake, capped at what is left."""
    edges = [
        (100 * TOKEN, 2000, 100 * TOKEN),
        (100 * TOKEN, 2000, 20 * TOKEN),
        (100 * TOKEN, 2000, 20 * TOKEN - 1),
        (100 * TOKEN, 2000, 20 * TOKEN + 1),
        (100 * TOKEN, 2000, 0),
        (100 * TOKEN, 0, 100 * TOKEN),
        (100 * TOKEN, 10_000, 100 * TOKEN),
        (0, 10_000, 100),
        (4, 2000, 100),
        (5, 2000, 100),
        (UINT96, 10_000, UINT96),
        (UINT128, 10_000, UINT96),
    ]
    return [
        {"required": str(required), "bps": bps, "left": str(left), "slash": str(min(required * bps // BPS, left))}
        for required, bps, left in edges
    ]


def whole_of(by: int, worker_stake: int) -> int:
    """Out of what a chance is."""
    return (1, 4 * worker_stake, 10_000)[by]


def chance_of(by: int, stake: int, reputation: int) -> int:
    """Uniform, by stake, by reputation."""
    return (1, stake, max(reputation, 1_000))[by]


def drawn(case: Case) -> list[int]:
    """Whom docs/protocol.md draws: trial by trial, and then in order."""
    words = [bytes.fromhex(case["seed"][2:]), *(case[name].to_bytes(32, "big") for name in ("task_id", "round"))]
    base, by, left = keccak(b"".join(words)), case["by"], {i for i, waits in enumerate(case["waiting"]) if waits}
    size, whole = len(case["stakes"]), whole_of(by, int(case["worker_stake"]))
    wanted = min(case["clients_per_round"], len(left))
    found: list[int] = []
    trials = 64 + 3 * size if wanted < len(left) else 0
    for k in range(trials):
        digest = keccak(base + k.to_bytes(32, "big"))
        index, part = int.from_bytes(digest[16:], "big") % size, int.from_bytes(digest[:16], "big")
        chance = chance_of(by, int(case["stakes"][index]), case["reputations"][index])
        if len(found) < wanted and index in left and part % whole < chance:
            left.remove(index)
            found.append(index)
    start = int.from_bytes(keccak(base + trials.to_bytes(32, "big"))[16:], "big")
    in_order = [index for i in range(size) if (index := (start + i) % size) in left]
    return found + in_order[: wanted - len(found)]


def draw_case(rng: random.Random, by: int, size: int, wanted: int, **changed: Any) -> Case:
    """One entry of draws.json."""
    case: Case = {
        "seed": "0x" + rng.randbytes(32).hex(),
        "task_id": rng.randrange(1, 100),
        "round": rng.randrange(1, 1_000),
        "by": by,
        "clients_per_round": wanted,
        "worker_stake": str(100 * TOKEN),
        "stakes": [str(rng.randrange(50 * TOKEN, 900 * TOKEN)) for _ in range(size)],
        "reputations": [rng.randrange(BPS + 1) for _ in range(size)],
        "waiting": [int(rng.random() < 0.8) for _ in range(size)],
        **changed,
    }
    return {**case, "drawn": drawn(case)}


def draw_cases(rng: random.Random) -> list[Case]:
    """Every way to draw at several sizes; then small pools, chances that run out, and the largest stake."""
    sizes = [(1, 1), (2, 1), (3, 2), (5, 3), (8, 8), (13, 5), (40, 12)]
    found = [draw_case(rng, by, size, wanted) for by in range(3) for size, wanted in sizes]
    for by in range(3):
        found.append(draw_case(rng, by, 6, 4, waiting=[1, 0, 1, 0, 0, 1]))
        found.append(draw_case(rng, by, 6, 6, waiting=[1] * 6))
        found.append(draw_case(rng, by, 9, 8, stakes=["1"] * 9, reputations=[0] * 9, waiting=[1] * 9))
    most = [str(UINT96)] * 4
    found.append(draw_case(rng, 1, 4, 2, worker_stake=str(UINT96), stakes=most, waiting=[1] * 4))
    return found


def documents() -> dict[str, dict[str, list[Case]]]:
    """File name to content."""
    rng = random.Random(20_261_121)
    return {
        "weighted_median.json": {"cases": median_cases(rng)},
        "payouts.json": {
            "split": split_cases(rng),
            "worker_pay": worker_pay_cases(rng),
            "pro_rata": pro_rata_cases(rng),
            "agrees": agrees_cases(rng),
            "slash_amount": slash_cases(),
        },
        "draws.json": {"cases": draw_cases(random.Random(20_261_122))},
    }


def render(document: dict[str, list[Case]]) -> str:
    """A case a line, so that a changed case is a changed line."""
    sections = []
    for name, cases in document.items():
        lines = ",\n".join(f"    {json.dumps(case)}" for case in cases)
        sections.append(f'  "{name}": [\n{lines}\n  ]')
    return "{\n" + ",\n".join(sections) + "\n}\n"


def main() -> int:
    """Writes the vectors, or with --check compares them; returns the exit code."""
    parser = argparse.ArgumentParser(description="Makes the vectors of the median, the payouts and the draws.")
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    check = parser.parse_args().check
    stale = []
    for name, document in documents().items():
        path, text = VECTORS / name, render(document)
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"not what this script makes: {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The mirrors of phases and payouts against the Solidity libraries themselves, on random facts.

A harness is compiled with the project's compiler and lent to Anvil for the length of a call, so nothing is deployed.
"""

from __future__ import annotations

import json
import posixpath
import random
import re
import subprocess
from pathlib import Path

import pytest
from eth_abi import decode, encode
from eth_utils import function_signature_to_4byte_selector

from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.client import ChainClient
from chainfl.tasks import payouts, phases
from chainfl.tasks.phases import Clock, Progress
from chainfl.tasks.state import ABSTAIN, Outcome, Phase, Windows

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "0x" + "c0de" * 10
CLOCK = "(uint16,uint8,uint40,uint40,uint40,uint40,uint16,uint16,uint16,uint8,uint8,uint8)"
PROGRESS = "(uint16,uint16,uint16,uint40,uint40,uint40,uint40,uint8,bool,uint8)"
WINDOWS = "(uint32,uint32,uint32,uint32,uint32,uint32)"

HARNESS = """
// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;
import { Clock, Phases, Progress } from "contracts/src/libraries/Phases.sol";
import { Payouts } from "contracts/src/libraries/Payouts.sol";
import { Phase, Windows } from "contracts/src/interfaces/Types.sol";

contract Harness {
    function current(Clock[] calldata c, Progress[] calldata p, Windows calldata w)
        external view returns (uint256 time, uint256[] memory facts)
    {
        time = block.timestamp;
        facts = new uint256[](3 * c.length);
        for (uint256 i; i < c.length; ++i) {
            (facts[3 * i], facts[3 * i + 1]) = _current(c[i], p[i], w);
            facts[3 * i + 2] = uint256(Phases.outcome(c[i], p[i]));
        }
    }

    function _current(Clock memory c, Progress memory p, Windows memory w) private view returns (uint256, uint256) {
        (Phase phase, uint40 end) = Phases.current(c, p, w);
        return (uint256(phase), end);
    }

    function pay(uint256[7][] calldata cases) external pure returns (uint256[] memory amounts) {
        amounts = new uint256[](cases.length);
        for (uint256 i; i < cases.length; ++i) {
            uint256[7] memory a = cases[i];
            amounts[i] = Payouts.workerPay(a[0], a[1], a[2], a[3], a[4], a[5]);
        }
    }

    function agree(uint16[4][] calldata cases) external pure returns (bool[] memory found) {
        found = new bool[](cases.length);
        for (uint256 i; i < cases.length; ++i) {
            found[i] = Payouts.agrees(cases[i][0], cases[i][1], cases[i][2], cases[i][3]);
        }
    }

    function slash(uint256[3][] calldata cases) external pure returns (uint256[] memory amounts) {
        amounts = new uint256[](cases.length);
        for (uint256 i; i < cases.length; ++i) {
            amounts[i] = Payouts.slashAmount(cases[i][0], cases[i][1], cases[i][2]);
        }
    }
}
"""


class Harness:
    """Calls the harness by signature."""

    def __init__(self, client: ChainClient, code: str) -> None:
        self._client, self._code = client, code

    def call(self, name, takes, gives, *arguments):
        selector = function_signature_to_4byte_selector(f"{name}({','.join(takes)})")
        transaction = {"to": ADDRESS, "data": "0x" + (selector + encode(takes, arguments)).hex(), "gas": "0x7fffffff"}
        answer = self._client.request("eth_call", [transaction, "latest", {ADDRESS: {"code": self._code}}])
        values = decode(gives, bytes.fromhex(answer[2:]))
        return values[0] if len(values) == 1 else values


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    sources = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "contracts/src").rglob("*.sol")}
    math = "node_modules/@openzeppelin/contracts/utils"
    sources |= {path.relative_to(ROOT / "node_modules").as_posix(): path for path in (ROOT / math).rglob("*.sol")}
    contents = {name: {"content": path.read_text()} for name, path in sources.items()}
    contents["Harness.sol"] = {"content": HARNESS}
    needed = {name: contents[name] for name in _closure("Harness.sol", contents)}
    settings = {
        "evmVersion": "cancun",
        "optimizer": {"enabled": True},
        "outputSelection": {"Harness.sol": {"Harness": ["evm.deployedBytecode.object"]}},
    }
    request = json.dumps({"language": "Solidity", "sources": needed, "settings": settings})
    compiler = [ROOT / "scripts" / "solc", "--standard-json"]
    done = subprocess.run(compiler, input=request, capture_output=True, text=True, check=True)
    compiled = json.loads(done.stdout)
    assert "contracts" in compiled, compiled
    code = "0x" + compiled["contracts"]["Harness.sol"]["Harness"]["evm"]["deployedBytecode"]["object"]
    with AnvilProcess(tmp_path_factory.mktemp("anvil"), accounts=1) as anvil:
        anvil.advance(1_000)  # a genesis block has no time to speak of
        yield Harness(ChainClient(anvil.rpc_url), code)


def _closure(name: str, contents: dict) -> set[str]:
    """The sources that `name` imports, directly or not."""
    found, todo = set(), [name]
    while todo:
        source = todo.pop()
        if source in found:
            continue
        found.add(source)
        for target in re.findall(r'from "([^"]+)"', contents[source]["content"]):
            base = posixpath.dirname(source)
            todo.append(posixpath.normpath(posixpath.join(base, target)) if target.startswith(".") else target)
    return found


def test_phase__random_facts__are_the_same_phase_end_and_outcome(harness):
    rng = random.Random(7)
    windows = Windows(20, 10, 15, 15, 10, 3)
    now = harness.call("current", [f"{CLOCK}[]", f"{PROGRESS}[]", WINDOWS], ["uint256", "uint256[]"], [], [], (1,) * 6)[
        0
    ]
    clocks, progresses, mirrored = [], [], []
    for _ in range(600):
        clock, progress = _facts(rng, now)
        mirrored.append((clock, progress))
        ends = (clock.commit_end, clock.reveal_end, clock.score_commit_end, clock.score_reveal_end)
        workers = (clock.eligible_workers, clock.committed, clock.revealed)
        scores = (clock.eligible_validators, clock.scores_committed, clock.scores_revealed)
        clocks.append((1, 1, *ends, *workers, *scores))
        times = (progress.aggregate_start, progress.posted_at, 0)
        progresses.append((0, 0, 0, 0, *times, progress.num_slots, False, int(progress.outcome)))
    fields = (
        windows.commit,
        windows.reveal,
        windows.score_commit,
        windows.score_reveal,
        windows.slot,
        windows.challenge,
    )
    time, facts = harness.call(
        "current", [f"{CLOCK}[]", f"{PROGRESS}[]", WINDOWS], ["uint256", "uint256[]"], clocks, progresses, fields
    )
    seen = set()
    for i, (clock, progress) in enumerate(mirrored):
        phase, end = phases.phase_at(clock, progress, windows, time)
        outcome = phases.outcome_of(clock, progress)
        assert (phase, end, outcome) == tuple(facts[3 * i : 3 * i + 3]), (clock, progress)
        seen.add(phase)
    assert len(seen) == 8  # every phase of a round


def _facts(rng: random.Random, now: int) -> tuple[Clock, Progress]:
    """Deadlines around `now`, often exactly at it, in their order."""
    ends, end = [], now + rng.choice([-60, -45, -30, -20, -1, 0, 1])
    for _ in range(4):
        ends.append(end)
        end += rng.choice([0, 1, 5, 10, 15, 20])
    committed = rng.choice([0, 1, 5])
    revealed = rng.choice([0, committed])
    scores = rng.choice([0, 1, 3])
    clock = Clock(1, *ends, 5, 3, committed, revealed, scores, rng.choice([0, scores]))
    start = rng.choice([0, now - rng.choice([0, 1, 29, 30, 31, 59, 60, 61])])
    posted = rng.choice([0, now - rng.choice([0, 1, 2, 3, 4])]) if start else 0
    outcome = rng.choice([Outcome.PENDING] * 4 + [Outcome.QUORUM_MISSED, Outcome.NOTHING_ACCEPTED])
    return clock, Progress(start, posted, rng.choice([0, 1, 3]), outcome)


def test_worker_pay__random_amounts__are_the_same_to_the_wei(harness):
    rng = random.Random(11)
    cases = []
    for _ in range(500):
        stake, score = rng.randrange(1, 2**96), rng.randrange(0, 65_536)
        total_stake, total_score = stake + rng.randrange(2**100), score + rng.randrange(2**26)
        cases.append([rng.randrange(2**128), rng.randrange(10_001), stake, total_stake, score, total_score, 0])
    expected = harness.call("pay", ["uint256[7][]"], ["uint256[]"], cases)
    mirrored = [
        payouts.worker_pay(pot, bps, stake=stake, total_stake=total, score=score, total_score=all_scores)
        for pot, bps, stake, total, score, all_scores, _ in cases
    ]
    assert mirrored == list(expected)


def test_agrees__random_and_borderline_votes__are_the_same(harness):
    rng = random.Random(13)
    cases = []
    for _ in range(2_000):
        median = rng.choice([0, 1, 499, 500, 501, 2_000, 10_000, 65_535])
        score = max(0, min(65_535, median + rng.choice([-1, 1]) * (max(median // 4, 500) + rng.choice([-1, 0, 1]))))
        cases.append([rng.choice([0, 1, 10_000, ABSTAIN]), score, rng.choice([0, 1, 10_000]), median])
    expected = harness.call("agree", ["uint16[4][]"], ["bool[]"], cases)
    assert [payouts.agrees(*case) for case in cases] == list(expected)
    assert {True, False} == set(expected)


def test_slash_amount__random_stakes__are_the_same(harness):
    rng = random.Random(17)
    cases = [[rng.randrange(2**96), rng.randrange(10_001), rng.randrange(2**96)] for _ in range(300)]
    expected = harness.call("slash", ["uint256[3][]"], ["uint256[]"], cases)
    assert [payouts.slash_amount(*case) for case in cases] == list(expected)


def test_phases__enum__has_the_contracts_order():
    source = (ROOT / "contracts/src/interfaces/Types.sol").read_text()
    names = source.split("enum Phase {")[1].split("}")[0].replace(",", "").split()
    assert [name.lower() for name in names] == [phase.name.replace("_", "").lower() for phase in Phase]

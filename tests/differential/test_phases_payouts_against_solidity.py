"""The mirrors of phases and payouts against the Solidity libraries themselves, on random facts.

A harness is compiled with the project's compiler and lent to Anvil for the length of a call, so nothing is deployed.
"""

from __future__ import annotations

import json
import posixpath
import random
import re
import subprocess
from dataclasses import asdict, astuple, fields, replace
from pathlib import Path

import pytest
from eth_abi import decode, encode
from eth_utils import function_signature_to_4byte_selector
from harness import FORMAT

from chainfl.chain.abi import canonical_type, contract_abi
from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.client import ChainClient
from chainfl.chain.reverts import RpcError
from chainfl.tasks import payouts, phases, rules
from chainfl.tasks.phases import Clock, Docket, Progress
from chainfl.tasks.spec import DEFAULT_ECONOMICS, LOCAL_WINDOWS
from chainfl.tasks.state import (
    ABSTAIN,
    Bounds,
    CidOnChain,
    Format,
    Outcome,
    Phase,
    Rule,
    ServerKind,
    TaskParams,
    Windows,
)
from chainfl.types import Root, Wei

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

ROOT = Path(__file__).resolve().parents[2]
WINDOW_NAMES = [field.name for field in fields(Windows)]
ADDRESS = "0x" + "c0de" * 10
CLOCK = "(uint16,uint8,uint40,uint40,uint40,uint40,uint16,uint16,uint16,uint8,uint8,uint8)"
PROGRESS = "(uint16,uint16,uint16,uint40,uint40,uint40,uint40,uint8,bool,uint8,uint16)"
DOCKET = "(uint32,uint32,uint32,uint40,bool,bool,uint32)"
WINDOWS = f"({','.join(['uint32'] * 8)})"

HARNESS = """
// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;
import { Clock, Docket, Phases, Progress } from "contracts/src/libraries/Phases.sol";
import { Payouts } from "contracts/src/libraries/Payouts.sol";
import { TaskRules } from "contracts/src/libraries/TaskRules.sol";
import { Format, Phase, TaskParams, Windows } from "contracts/src/interfaces/Types.sol";

contract Harness {
    function current(Clock[] calldata c, Progress[] calldata p, Docket[] calldata d, Windows calldata w)
        external view returns (uint256 time, uint256[] memory facts)
    {
        time = block.timestamp;
        facts = new uint256[](3 * c.length);
        for (uint256 i; i < c.length; ++i) {
            (facts[3 * i], facts[3 * i + 1]) = _current(c[i], p[i], d[i], w);
            facts[3 * i + 2] = uint256(Phases.outcome(c[i], p[i]));
        }
    }

    function _current(Clock memory c, Progress memory p, Docket memory d, Windows memory w)
        private view returns (uint256, uint256)
    {
        (Phase phase, uint40 end) = Phases.current(c, p, d, w);
        return (uint256(phase), end);
    }

    function check(TaskParams calldata p) external view {
        TaskRules.check(p);
    }

    function bounds(Format[] calldata f, uint256[] calldata workers, Windows calldata w)
        external pure returns (uint256[] memory found)
    {
        found = new uint256[](2 * f.length);
        for (uint256 i; i < f.length; ++i) {
            found[2 * i] = TaskRules.largestProof(f[i], workers[i]);
            found[2 * i + 1] = TaskRules.longestGame(w, f[i]);
        }
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
        answer = self.try_raw(selector + encode(takes, arguments))
        assert isinstance(answer, str), answer
        values = decode(gives, bytes.fromhex(answer[2:]))
        return values[0] if len(values) == 1 else values

    def time(self) -> int:
        return self._client.block().timestamp

    def try_raw(self, data: bytes) -> str | RpcError:
        transaction = {"to": ADDRESS, "data": "0x" + data.hex(), "gas": "0x7fffffff"}
        return self._client.try_request("eth_call", [transaction, "latest", {ADDRESS: {"code": self._code}}])


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
    windows = Windows(20, 10, 15, 15, 10, 3, 5, 4)
    takes, gives = [f"{CLOCK}[]", f"{PROGRESS}[]", f"{DOCKET}[]", WINDOWS], ["uint256", "uint256[]"]
    now = harness.call("current", takes, gives, [], [], [], astuple(windows))[0]
    clocks, progresses, dockets, mirrored = [], [], [], []
    for _ in range(700):
        clock, progress, docket = _facts(rng, now)
        mirrored.append((clock, progress, docket))
        ends = (clock.commit_end, clock.reveal_end, clock.score_commit_end, clock.score_reveal_end)
        workers = (clock.eligible_workers, clock.committed, clock.revealed)
        scores = (clock.eligible_validators, clock.scores_committed, clock.scores_revealed)
        clocks.append((1, 1, *ends, *workers, *scores))
        times = (progress.aggregate_start, progress.posted_at, 0)
        progresses.append(
            (progress.tallied, progress.settled, 0, 0, *times, progress.num_slots, False, int(progress.outcome), 0)
        )
        dockets.append((docket.challenges, docket.games, docket.demands, docket.demand_end, False, False, 7))
    time, facts = harness.call("current", takes, gives, clocks, progresses, dockets, astuple(windows))
    seen = set()
    for i, (clock, progress, docket) in enumerate(mirrored):
        phase, end = phases.phase_at(clock, progress, docket, windows, time)
        outcome = phases.outcome_of(clock, progress)
        assert (phase, end, outcome) == tuple(facts[3 * i : 3 * i + 3]), (clock, progress, docket)
        seen.add(phase)
    assert len(seen) == 10  # every phase of a round


def _facts(rng: random.Random, now: int) -> tuple[Clock, Progress, Docket]:
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
    posted = rng.choice([0, now - rng.choice([0, 1, 2, 3, 4, 6, 7, 8])]) if start else 0
    outcome = rng.choice([Outcome.PENDING] * 4 + [Outcome.QUORUM_MISSED, Outcome.NOTHING_ACCEPTED, Outcome.REFUTED])
    counts = [rng.choice([0, 0, 1, 2]) for _ in range(3)]
    docket = Docket(*counts, now + rng.choice([-1, 0, 1, 5]))
    return (
        clock,
        Progress(start, posted, rng.choice([0, 1, 3]), outcome, rng.choice([0, 0, 8]), rng.choice([0, 0, 8])),
        docket,
    )


def test_bounds__random_formats__are_the_same(harness):
    rng = random.Random(19)
    windows, forms, workers = Windows(20, 10, 15, 15, 10, 3, 5, 7), [], []
    for _ in range(500):
        size = rng.choice([1, 16, 17, rng.randrange(1, 1 << 40)])
        forms.append(_format(rng, num_params=size, group_size=rng.choice([1, 5, 64, 65_535])))
        workers.append(rng.choice([1, 2, 63, 64, 65, 128, 129, 1024]))
    values = [tuple(int(value) for value in astuple(form)) for form in forms]
    takes = [f"{FORMAT}[]", "uint256[]", WINDOWS]
    found = harness.call("bounds", takes, ["uint256[]"], values, workers, astuple(windows))
    mirrored = [
        value
        for form, count in zip(forms, workers, strict=True)
        for value in (rules.largest_proof(form, count), rules.longest_game_s(windows, form))
    ]
    assert mirrored == list(found)


def _format(rng: random.Random, **changes) -> Format:
    """Often one that is taken, often on an edge."""
    values = {
        "num_params": rng.choice([0, 1, 1_000, 10**7, 1 << 40, (1 << 40) + 1]),
        "chunk_params": rng.choice([16, 128, 256, 512, 4096]),
        "model_scale_bits": rng.choice([20, 20, 14, 31]),  # the mirror refuses more than 31, the contract need not
        "update_scale_bits": rng.choice([14, 14, 0, 21]),
        "step_num": rng.choice([1, 1, 0, 3, 2**32 - 1]),
        "step_den": rng.choice([1, 1, 0, 7]),
        "max_squared_norm": rng.choice([1, 0, 2**64 - 1]),
        "group_size": rng.choice([64, 64, 0, 1, 5, 1024]),
        "rule": rng.choice(list(Rule)),
        "trim_num": rng.choice([0, 1, 2]),
        "trim_den": rng.choice([0, 5, 4, 2]),
        "momentum_num": rng.choice([0, 0, 9, 2**31 - 2, 2**31]),
        "momentum_den": rng.choice([0, 0, 10, 2**31]),
        "server": rng.choice(list(ServerKind)),
        "second_num": rng.choice([0, 0, 99]),
        "second_den": rng.choice([0, 0, 100, 2**15]),
        "tau": rng.choice([0, 1, 16_777, 2**32 - 1]),
    }
    return Format(**values | changes)


GOOD = {
    "num_params": 1_000,
    "chunk_params": 256,
    "model_scale_bits": 20,
    "update_scale_bits": 14,
    "step_num": 1,
    "step_den": 1,
    "max_squared_norm": 1,
    "group_size": 64,
    "rule": Rule.MEAN,
    "trim_num": 0,
    "trim_den": 0,
    "momentum_num": 0,
    "momentum_den": 0,
    "server": ServerKind.PLAIN,
    "second_num": 0,
    "second_den": 0,
    "tau": 0,
}
SERVERS = [
    {"server": kind, "momentum_num": 9, "momentum_den": 10, **more}
    for kind, more in (
        (ServerKind.MOMENTUM, {}),
        (ServerKind.NESTEROV, {}),
        (ServerKind.ADAGRAD, {"tau": 16_777}),
        (ServerKind.ADAM, {"tau": 16_777, "second_num": 99, "second_den": 100}),
        (ServerKind.YOGI, {"tau": 16_777, "second_num": 99, "second_den": 100}),
    )
]


def test_rules__random_tasks__are_taken_and_refused_alike(harness):
    rng = random.Random(23)
    create = contract_abi("TaskCoordinator").functions["createTask"]
    takes = ",".join(canonical_type(part) for part in create.inputs)
    selector = function_signature_to_4byte_selector(f"check({takes})")
    taken = 0
    for _ in range(700):
        params = replace(_params(rng), enrolment_end=harness.time() + 1_000)
        answer = harness.try_raw(selector + create.encode(params)[4:])
        problems = rules.problems_of(params)
        assert isinstance(answer, RpcError) == bool(problems), (params, problems, answer)
        taken += not problems
    assert 50 < taken < 650


def _params(rng: random.Random) -> TaskParams:
    """A task that is taken, with a few of its fields changed; times are the mirror's own to leave out."""
    odd = _format(rng)
    names = rng.sample(sorted(GOOD), rng.choice([0, 0, 1, 1, 2, 4]))
    server = rng.choice([{}, *SERVERS])
    form = Format(**GOOD | server | {name: getattr(odd, name) for name in names})
    window = {
        name: rng.choice([0, 1, 7 * 86_400, 7 * 86_400 + 1]) for name in rng.sample(WINDOW_NAMES, rng.choice([0, 0, 1]))
    }
    money = {
        name: rng.choice([0, 1, 10_000, 10_001])
        for name in rng.sample(sorted(asdict(DEFAULT_ECONOMICS)), rng.choice([0, 0, 1]))
    }
    most = rng.choice([1, 5, 64, 65, 1024, 1025])
    cid = CidOnChain(bytes([7]) * 32, rng.choice([0x55] * 19 + [0x56]))
    return TaskParams(
        spec_hash=bytes([1]) * 32,
        genesis_root=Root(bytes([2]) * 32),
        genesis_state_root=Root(bytes([rng.choice([form.has_state] * 9 + [True])]) * 32),
        genesis_cid=cid,
        genesis_float_cid=CidOnChain(bytes(32), 0x70),
        parent_model=bytes(32),
        rounds=rng.choice([1, 10, 3_000, 65_533, 65_534]),
        enrolment_end=0,
        reward=Wei(1),
        workers=Bounds(1, most),
        validators=Bounds(1, 3),
        aggregators=Bounds(0, 1),
        format=form,
        windows=replace(LOCAL_WINDOWS, **window),
        economics=replace(DEFAULT_ECONOMICS, **money),
        named_validators=(),
        licence="",
    )


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

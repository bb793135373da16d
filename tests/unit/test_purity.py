"""What may import what, checked in fresh processes: a pure module must not bring torch, web3 or an HTTP client."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

TORCH, WEB3 = {"torch"}, {"web3"}
HTTP = {"requests", "urllib3", "ipfshttpclient", "aiohttp", "http.client"}

PURE = [
    "chainfl.types",
    "chainfl.errors",
    "chainfl.tasks.state",
    "chainfl.tasks.spec",
    "chainfl.tasks.commitments",
    "chainfl.tasks.votes",
    "chainfl.tasks.phases",
    "chainfl.tasks.payouts",
    "chainfl.tasks.rules",
]
NUMERIC = [
    "chainfl.encoding.payload",
    "chainfl.encoding.chunk_tree",
    "chainfl.aggregation.mean",
    "chainfl.storage.cid",
    "chainfl.data.fetching",
]
DECISIONS = [
    "chainfl.agents.worker",
    "chainfl.agents.validator",
    "chainfl.agents.aggregator",
    "chainfl.agents.chores",
    "chainfl.agents.loop",
    "chainfl.agents.wiring",
    "chainfl.agents.shards",
    "chainfl.registry.lineage",
    "chainfl.registry.replay",
    "chainfl.validation.checks",
    "chainfl.storage.embedded",
]


def imported_with(modules: list[str]) -> set[str]:
    """The names of everything that a fresh interpreter has imported after these modules."""
    script = "import sys, json; " + "; ".join(f"import {name}" for name in modules)
    script += "; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("modules", "banned"),
    [
        (PURE, TORCH | WEB3 | HTTP | {"numpy"}),
        (NUMERIC, TORCH | WEB3 | HTTP),
        (DECISIONS, TORCH | WEB3 | HTTP),
        (["chainfl.training.trainer", "chainfl.validation.scoring", "chainfl.agents.learning"], WEB3),
        # torch itself brings the standard library's client.
        (["chainfl.simulation.simulate"], WEB3 | HTTP - {"http.client"}),
        (["chainfl.chain.port"], TORCH),
        (["chainfl", "chainfl.cli.main", "chainfl.cli.simulate"], TORCH | WEB3),
    ],
    ids=["pure", "numeric", "decisions", "training", "simulate", "chain", "cli"],
)
def test_imports__in_a_fresh_process__bring_nothing_heavier(modules, banned):
    assert imported_with(modules) & banned == set()

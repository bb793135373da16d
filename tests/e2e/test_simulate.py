"""A task on a real chain, played by processes, and the same task simulated: one model, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import chainfl
from chainfl.chain.deployment import Deployment
from chainfl.simulation.experiment import Participants
from chainfl.training.presets import DIGITS
from chainfl.training.state import vector_of
from chainfl.types import Address, TaskId

pytestmark = [pytest.mark.e2e, pytest.mark.enable_socket]

ROUNDS, WORKERS, VALIDATORS, SEED = 2, 3, 2, 4
ENDS_WITHIN_S = 300


def test_simulate__accounts_of_a_demo__has_its_models(tmp_path: Path) -> None:
    numbers = ("--rounds", str(ROUNDS), "--workers", str(WORKERS), "--validators", str(VALIDATORS), "--seed", str(SEED))
    command = (sys.executable, "-m", "chainfl.cli.main", "demo", *numbers, "--folder", str(tmp_path / "demo"))
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=ENDS_WITHIN_S)
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    accounts = {name: Address(account) for account, name in report["roles"].items()}
    deployment = Deployment.load(tmp_path / "demo" / "deployment.json")
    found = chainfl.simulate(
        DIGITS.model,
        DIGITS.dataset,
        model_params=DIGITS.model_params,
        clients=WORKERS,
        validators=VALIDATORS,
        partition="dirichlet",
        rounds=ROUNDS,
        steps=DIGITS.steps,
        batch_size=DIGITS.batch_size,
        learning_rate=DIGITS.learning_rate,
        momentum=DIGITS.momentum,
        seed=SEED,
        participants=Participants(
            tuple(accounts[f"worker-{i}"] for i in range(1, WORKERS + 1)),
            tuple(accounts[f"validator-{i}"] for i in range(1, VALIDATORS + 1)),
            deployment.chain_id,
            deployment.coordinator,
            TaskId(1),
        ),
    )
    assert list(found.accuracies) == report["accuracy_by_round"]
    on_chain = chainfl.load_model(tmp_path / "demo" / "model.safetensors")
    assert (vector_of(on_chain) == vector_of(found.module)).all()

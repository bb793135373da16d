"""An ape user deploys the same contracts, and opens a console on them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.client import ChainClient
from chainfl.chain.deployment import Deployment
from chainfl.chain.keys import Signer
from chainfl.chain.operator import Operator

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(importlib.util.find_spec("ape") is None, reason='ape is not installed: pip install ".[ape]"'),
]

ROOT = Path(__file__).resolve().parents[2]
APE = Path(sys.executable).with_name("ape")


def test_ape__run_deploy_and_console__work_on_the_recorded_contracts(tmp_path: Path):
    path = tmp_path / "local.json"
    # ape keeps its accounts and caches below HOME.
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "CHAINFL_DEPLOYMENT": str(path)}

    def ape(*arguments: str) -> str:
        command = [str(APE), *arguments, "--network", anvil.rpc_url]
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    with AnvilProcess(tmp_path / "anvil", block_time_s=1) as anvil:
        ape("run", "deploy", "--account", "TEST::0", "--out", str(path))
        signer = Signer.from_private_key(anvil.private_keys[0])
        operator = Operator(ChainClient(anvil.rpc_url), Deployment.load(path), signer)
        operator.check()
        assert operator.token_info().symbol == "CFL"
        assert "chainfl-2 60" in ape("console", "-c", "print(coordinator.version(), vault.unbonding())")

"""A demo's folder, opened again. (That its chain starts again is tested with a real one.)"""

from __future__ import annotations

import fcntl

import pytest
from cli_fakes import Shell, shell_with_chain
from fake_chain import account_of

from chainfl.chain.deployment import Deployment
from chainfl.cli.local import DemoFolder
from chainfl.errors import DeploymentInvalid, UsageError


@pytest.fixture
def demo(tmp_path, monkeypatch):
    monkeypatch.setenv("CHAINFL_RPC", "http://elsewhere:1")
    folder = tmp_path / "demo"
    (folder / "chain").mkdir(parents=True)
    (folder / "chain" / "anvil-state.json").write_text("{}")
    (folder / "chainfl.toml").write_text('rpc = "http://127.0.0.1:4711"\ndeployment = "deployment.json"\n')
    addresses = {
        name: account_of(n + 1) for n, name in enumerate(("token", "vault", "coordinator", "registry", "deployer"))
    }
    Deployment(31_337, **addresses, block=1, unbonding_s=60, token_params=None, compiler="solc").save(
        folder / "deployment.json"
    )
    return folder


def test_open__a_demos_folder__has_its_chain_and_its_port(demo):
    opened = DemoFolder.open(demo)
    assert opened.recorded_port == 4711
    assert opened.chain_folder == demo / "chain"
    assert opened.environment("http://127.0.0.1:5")["CHAINFL_CONFIG"] == str(demo / "chainfl.toml")


def test_open__the_state_beside_the_configuration__is_found_too(demo):
    (demo / "chain" / "anvil-state.json").rename(demo / "anvil-state.json")
    assert DemoFolder.open(demo).chain_folder == demo


@pytest.mark.parametrize("missing", ["chainfl.toml", "chain/anvil-state.json"])
def test_open__not_a_demos_folder__is_told(demo, missing):
    (demo / missing).unlink()
    with pytest.raises(UsageError, match="chainfl demo"):
        DemoFolder.open(demo)


def test_open__damaged_deployment__is_told(demo):
    (demo / "deployment.json").write_text("{")
    with pytest.raises(DeploymentInvalid):
        DemoFolder.open(demo)


def test_up__running_already__is_refused(demo, monkeypatch, capsys, tmp_path):
    shell: Shell = shell_with_chain(monkeypatch, capsys, tmp_path)
    with (demo / "chain" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert shell("local", "up", str(demo)) == 11
    assert "runs already" in shell.err


def test_up__no_such_folder__is_a_usage_error(monkeypatch, capsys, tmp_path):
    assert shell_with_chain(monkeypatch, capsys, tmp_path)("local", "up", "nothing") == 2

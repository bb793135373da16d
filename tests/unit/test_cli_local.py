"""A local chain's folder, new or opened again. (That its chain starts is tested with a real one.)"""

from __future__ import annotations

import fcntl
import shlex
from pathlib import Path

import pytest
from cli_fakes import Shell, shell_with_chain
from click import Context
from fake_chain import account_of

from chainfl.chain import anvil
from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.deployment import Deployment
from chainfl.cli import local
from chainfl.cli.local import Account, ChainFolder
from chainfl.cli.main import cli
from chainfl.errors import DeploymentInvalid, PrerequisiteMissing, UsageError


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
    opened = ChainFolder.open(demo)
    assert opened.recorded_port == 4711
    assert opened.chain_folder == demo / "chain"
    assert opened.environment("http://127.0.0.1:5")["CHAINFL_CONFIG"] == str(demo / "chainfl.toml")


def test_open__the_state_beside_the_configuration__is_found_too(demo):
    (demo / "chain" / "anvil-state.json").rename(demo / "anvil-state.json")
    assert ChainFolder.open(demo).chain_folder == demo


@pytest.mark.parametrize("missing", ["chainfl.toml", "chain/anvil-state.json"])
def test_open__a_folder_without_a_chain__names_the_command_that_makes_one(demo, missing):
    (demo / missing).unlink()
    with pytest.raises(UsageError, match="`chainfl local new` makes one"):
        ChainFolder.open(demo)


def test_open__damaged_deployment__is_told(demo):
    (demo / "deployment.json").write_text("{")
    with pytest.raises(DeploymentInvalid):
        ChainFolder.open(demo)


def test_up__running_already__is_refused(demo, monkeypatch, capsys, tmp_path):
    shell: Shell = shell_with_chain(monkeypatch, capsys, tmp_path)
    with (demo / "chain" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert shell("local", "up", str(demo)) == 11
    assert "runs already" in shell.err


def test_up__an_empty_folder__names_the_command_that_makes_a_chain(monkeypatch, capsys, tmp_path):
    shell = shell_with_chain(monkeypatch, capsys, tmp_path)
    assert shell("local", "up") == 11
    assert "chainfl local new" in shell.err


def test_up__no_such_folder__is_a_usage_error(monkeypatch, capsys, tmp_path):
    assert shell_with_chain(monkeypatch, capsys, tmp_path)("local", "up", "nothing") == 2


@pytest.fixture
def no_anvil(monkeypatch) -> None:
    """A chain that starts fails the test."""
    monkeypatch.setattr(anvil, "find_anvil", lambda: Path("anvil"))
    monkeypatch.setattr(anvil, "AnvilProcess", lambda *_, **__: pytest.fail("a chain started"))


def test_new__a_chain_is_there__is_left_alone_and_told_how_to_start(no_anvil, demo, monkeypatch, capsys, tmp_path):
    shell = shell_with_chain(monkeypatch, capsys, tmp_path)
    before = sorted(demo.rglob("*"))
    assert shell("local", "new", str(demo)) == 11
    assert f"`chainfl local up {demo}` starts it" in shell.err
    assert sorted(demo.rglob("*")) == before


def test_new__files_are_there__are_left_alone(no_anvil, monkeypatch, capsys, tmp_path):
    shell = shell_with_chain(monkeypatch, capsys, tmp_path)
    (tmp_path / "chainfl-local").mkdir()
    (tmp_path / "chainfl-local" / "thesis.txt").write_text("mine")
    assert shell("local", "new") == 11
    assert "name a new folder" in shell.err
    assert [path.name for path in (tmp_path / "chainfl-local").iterdir()] == ["thesis.txt"]


def test_new__a_file_of_that_name__is_told(no_anvil, monkeypatch, capsys, tmp_path):
    shell = shell_with_chain(monkeypatch, capsys, tmp_path)
    (tmp_path / "chain").write_text("mine")
    assert shell("local", "new", "chain") == 11
    assert "name another folder" in shell.err
    assert (tmp_path / "chain").read_text() == "mine"


def test_new__no_anvil__makes_no_folder(monkeypatch, capsys, tmp_path):
    def missing() -> Path:
        raise PrerequisiteMissing("Anvil is not installed")

    shell = shell_with_chain(monkeypatch, capsys, tmp_path)
    monkeypatch.setattr(anvil, "find_anvil", missing)
    assert shell("local", "new") == 14
    assert list(tmp_path.iterdir()) == []


def test_tell_new__commands__are_of_this_program_and_each_have_a_key(demo, capsys):
    accounts = tuple(Account(account_of(n), f"0x{n:064x}") for n in range(10))
    process = AnvilProcess(demo / "chain", port=4711)
    local._tell_new(ChainFolder.open(demo), process, accounts)
    told = capsys.readouterr()
    assert "http://127.0.0.1:4711" in told.err
    assert f"cd {demo}" in told.out
    commands = [shlex.split(line) for line in told.out.splitlines() if " chainfl " in line]
    assert [command[0] for command in commands] == [f"CHAINFL_PRIVATE_KEY=0x{n:064x}" for n in range(1, 6)]
    for _, _, *arguments in commands:
        group, verb = cli.get_command(Context(cli), arguments[0]), arguments[1]
        # Parsing refuses an option that is not there.
        group.commands[verb].make_context(verb, arguments[2:])

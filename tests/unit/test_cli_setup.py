"""Configuration files and shell completion."""

from __future__ import annotations

import json
import tomllib

import pytest
from cli_fakes import Shell, shell_with_chain

from chainfl.config import load_settings


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path) -> Shell:
    return shell_with_chain(monkeypatch, capsys, tmp_path)


def test_init__empty_folder__writes_what_loads(shell, tmp_path):
    assert shell("init") == 0
    assert load_settings(config=tmp_path / "chainfl.toml", environment={}).network == "local"


def test_init__network_and_rpc__are_written(shell, tmp_path):
    assert shell("--network", "sepolia", "--rpc", "https://node.example/key", "init", "--json") == 0
    written = tomllib.loads((tmp_path / "chainfl.toml").read_text())
    assert (written["network"], written["rpc"]) == ("sepolia", "https://node.example/key")
    assert json.loads(shell.out) == {"path": "chainfl.toml"}


def test_init__the_file_is_there__is_not_overwritten_without_force(shell, tmp_path):
    (tmp_path / "chainfl.toml").write_text("mine")
    assert shell("init") == 11
    assert (tmp_path / "chainfl.toml").read_text() == "mine"
    assert "--force" in shell.err
    assert shell("init", "--force") == 0
    assert (tmp_path / "chainfl.toml").read_text() != "mine"


@pytest.mark.parametrize("flags", [["--network", "mars"], ["--network", "sepolia"], ["--rpc", "node"]])
def test_init__flags_that_cannot_be__write_nothing(shell, tmp_path, flags):
    assert shell(*flags, "init") == 10
    assert not (tmp_path / "chainfl.toml").exists()


def test_init__user__writes_where_every_folder_finds_it(shell, tmp_path):
    assert shell("init", "--user") == 0
    assert load_settings(folder=tmp_path / "elsewhere", environment={"XDG_CONFIG_HOME": str(tmp_path)})
    assert (tmp_path / "chainfl" / "chainfl.toml").is_file()


def test_init__no_such_folder_can_be__is_told(shell, tmp_path):
    (tmp_path / "file").write_text("")
    assert shell("init", "--path", str(tmp_path / "file" / "chainfl.toml")) == 10


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion__each_shell__prints_its_script(shell, name):
    assert shell("completion", name) == 0
    assert "_CHAINFL_COMPLETE" in shell.out


def test_completion__another_shell__is_refused(shell):
    assert shell("completion", "tcsh") == 2

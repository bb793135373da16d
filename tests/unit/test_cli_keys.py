"""Keys: made, imported and listed, and never shown."""

from __future__ import annotations

import io
import json
import stat

import pytest
from cli_fakes import Shell, isolate, shell_with_chain

from chainfl.chain.keys import Keystore
from chainfl.cli.context import App

PRIVATE_KEY = "0x" + "11" * 32
ADDRESS = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path) -> Shell:
    # The real format with a cheap key derivation: what is tested here is not its strength.
    monkeypatch.setattr("chainfl.chain.keys.THROWAWAY_SCRYPT_N", 4_096)
    make = Keystore._write
    monkeypatch.setattr(
        Keystore, "_write", lambda self, name, account, password, _: make(self, name, account, password, True)
    )
    shell = shell_with_chain(monkeypatch, capsys, tmp_path)
    monkeypatch.setenv("CHAINFL_KEY_PASSWORD", "correct horse")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    return shell


def test_new__a_password__stores_a_file_for_its_owner_alone(shell, tmp_path):
    assert shell("keys", "new", "bob") == 0
    path = tmp_path / "chainfl" / "keys" / "bob.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert shell.out.strip() == Keystore(path.parent).find("bob").address


def test_new__the_name_is_taken__keeps_the_old_key(shell, tmp_path):
    shell("keys", "new", "bob")
    before = (tmp_path / "chainfl" / "keys" / "bob.json").read_bytes()
    assert shell("keys", "new", "bob") == 12
    assert (tmp_path / "chainfl" / "keys" / "bob.json").read_bytes() == before


def test_new__a_name_that_is_a_path__is_refused(shell):
    assert shell("keys", "new", "../bob") == 12


def test_new__no_terminal_and_no_password__says_which_variable(shell, monkeypatch):
    monkeypatch.delenv("CHAINFL_KEY_PASSWORD")
    assert shell("keys", "new", "bob") == 12
    assert "CHAINFL_KEY_PASSWORD" in shell.err


def test_new__at_a_terminal__asks_twice(shell, monkeypatch):
    asked: list[dict[str, object]] = []
    monkeypatch.delenv("CHAINFL_KEY_PASSWORD")
    monkeypatch.setattr("click.prompt", lambda _, **how: asked.append(how) or "secret")
    shell.at_terminal()
    assert shell("keys", "new", "bob") == 0
    assert asked[0]["hide_input"]
    assert asked[0]["confirmation_prompt"]


def test_import__from_standard_input__gives_its_address_and_never_the_key(shell, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(PRIVATE_KEY + "\n"))
    assert shell("keys", "import", "bob", "--json") == 0
    assert json.loads(shell.out)["address"] == ADDRESS
    assert "11" * 32 not in shell.out + shell.err


@pytest.mark.parametrize("text", ["", "0x12", "zz" * 32, "00" * 32])
def test_import__no_key__is_refused_without_repeating_it(shell, monkeypatch, text):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert shell("keys", "import", "bob") == 12
    assert not text or text not in shell.err


def test_import__as_an_argument__is_not_possible(shell):
    assert shell("keys", "import", "bob", PRIVATE_KEY) == 2


def test_import__another_wallets_file__needs_its_password(shell, monkeypatch, tmp_path):
    other = Keystore(tmp_path / "other").import_key("theirs", PRIVATE_KEY, "theirs", throwaway=True)
    answers = iter(["wrong", "theirs"])
    monkeypatch.setattr("click.prompt", lambda *_, **__: next(answers))
    shell.at_terminal()
    assert shell("keys", "import", "bob", "--keyfile", str(other.path)) == 13
    assert shell("keys", "import", "bob", "--keyfile", str(other.path)) == 0
    assert shell.out.strip() == ADDRESS


def test_list__no_keys__says_how_to_make_one(shell):
    assert shell("keys", "list") == 0
    assert "keys new" in shell.err
    assert shell.out == ""


def test_list__json__has_names_and_addresses(shell):
    shell("keys", "new", "bob")
    shell("keys", "list", "--json")
    assert [key["name"] for key in json.loads(shell.out)] == ["bob"]


def test_signer__wrong_password__has_its_own_exit_code(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)
    Keystore(tmp_path / "chainfl" / "keys").import_key("bob", PRIVATE_KEY, "right", throwaway=True)
    monkeypatch.setenv("CHAINFL_KEY_PASSWORD", "wrong")
    with pytest.raises(Exception, match="password") as caught:
        _ = App({}).signer
    assert caught.value.exit_code == 13


def test_signer__no_terminal_for_its_password__does_not_hang(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)
    Keystore(tmp_path / "chainfl" / "keys").import_key("bob", PRIVATE_KEY, "right", throwaway=True)
    with pytest.raises(Exception, match="CHAINFL_KEY_PASSWORD") as caught:
        _ = App({}).signer
    assert caught.value.exit_code == 12


def test_known_account__a_key_file__needs_no_password(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)
    Keystore(tmp_path / "chainfl" / "keys").import_key("bob", PRIVATE_KEY, "right", throwaway=True)
    assert App({}).known_account == ADDRESS
    assert App({"key": "bob"}).known_account == ADDRESS


def test_known_account__several_keys__is_nobodys(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)
    for number in (1, 2):
        Keystore(tmp_path / "chainfl" / "keys").import_key(f"k{number}", "0x" + f"{number:064x}", "x", throwaway=True)
    assert App({}).known_account is None


def test_known_account__from_the_environment__wins(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("CHAINFL_PRIVATE_KEY", PRIVATE_KEY)
    assert App({}).known_account == ADDRESS

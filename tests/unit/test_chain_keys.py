"""Keystore files, the environment, and a private key that never shows."""

from __future__ import annotations

import copy
import json
import pickle
import stat
import traceback
from pathlib import Path

import pytest

from chainfl.chain.keys import Keystore, Signer, open_signer, signer_from_environment
from chainfl.errors import KeyfileError, WrongPassword

KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
ADDRESS = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


@pytest.fixture
def keystore(tmp_path: Path) -> Keystore:
    store = Keystore(tmp_path / "keys")
    store.import_key("alice", KEY, "right", throwaway=True)
    return store


def test_import_and_load__right_password__signs_for_the_address(keystore: Keystore):
    signer = keystore.load("alice", "right")
    assert signer.address == ADDRESS
    assert keystore.load(ADDRESS.lower(), "right").address == ADDRESS


def test_files__written__are_readable_by_the_owner_alone(keystore: Keystore):
    (info,) = keystore.list()
    assert (info.name, info.address) == ("alice", ADDRESS)
    assert stat.S_IMODE(info.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keystore.folder.stat().st_mode) == 0o700
    assert json.loads(info.path.read_text())["version"] == 3
    assert KEY[2:] not in info.path.read_text()


def test_load__wrong_password__raises_wrong_password(keystore: Keystore):
    with pytest.raises(WrongPassword) as caught:
        keystore.load("alice", "wrong")
    assert caught.value.exit_code == 13


def test_new__two_keys__differ_and_never_overwrite(keystore: Keystore):
    bob = keystore.new("bob", "x", throwaway=True)
    carol = keystore.new("carol", "x", throwaway=True)
    assert bob.address != carol.address
    before = bob.path.read_text()
    with pytest.raises(KeyfileError, match="already"):
        keystore.new("bob", "y", throwaway=True)
    assert bob.path.read_text() == before


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 65, "ä"])
def test_new__name_that_is_no_name__raises(keystore: Keystore, name: str):
    with pytest.raises(KeyfileError):
        keystore.new(name, "x", throwaway=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 3}', '{"version":3,"address":"0x12"}', "x" * 20_000])
def test_list__file_that_is_no_key__names_it(keystore: Keystore, text: str):
    (keystore.folder / "bad.json").write_text(text)
    with pytest.raises(KeyfileError, match=r"bad\.json"):
        keystore.list()


@pytest.mark.parametrize("change", [{"crypto": {}}, {"crypto": 5}, {"crypto": {"kdf": "none"}}])
def test_load__damaged_file__raises_keyfile_error(keystore: Keystore, change: dict[str, object]):
    path = keystore.folder / "alice.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(KeyfileError):
        keystore.load("alice", "right")


def test_import_keyfile__from_another_wallet__opens_with_the_new_password(keystore: Keystore, tmp_path: Path):
    info = Keystore(tmp_path / "other").import_keyfile("a", keystore.folder / "alice.json", "right", "new")
    assert info.address == ADDRESS


def test_signer__shown_copied_or_pickled__keeps_its_key(keystore: Keystore):
    signer = Signer.from_private_key(KEY)
    assert repr(signer) == str(signer) == f"Signer({ADDRESS})"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(signer)


@pytest.mark.parametrize("text", ["0x12", "not a key", KEY + "00", "0x" + "00" * 32, "0x" + "ff" * 32])
def test_private_key__malformed__is_not_repeated(text: str):
    try:
        Signer.from_private_key(text)
    except KeyfileError as error:
        shown = "".join(traceback.format_exception(error))
        assert text.removeprefix("0x") not in shown.replace("from_private_key", "")
    else:
        pytest.fail("accepted")


def test_environment__private_key__comes_first(keystore: Keystore):
    def never(_: object) -> str:
        raise AssertionError("asked for a password")

    assert open_signer("nobody", keystore.folder, never, {"CHAINFL_PRIVATE_KEY": KEY}).address == ADDRESS
    assert signer_from_environment({}) is None
    with pytest.raises(KeyfileError, match="CHAINFL_PRIVATE_KEY"):
        signer_from_environment({"CHAINFL_PRIVATE_KEY": "secret"})


def test_open__only_key__needs_no_name(keystore: Keystore):
    assert open_signer(None, keystore.folder, lambda _: "right", {}).address == ADDRESS
    assert open_signer(None, keystore.folder, lambda _: "", {"CHAINFL_KEY_PASSWORD": "right"}).address == ADDRESS


def test_open__none_or_several__says_what_to_choose(keystore: Keystore, tmp_path: Path):
    with pytest.raises(KeyfileError, match="no key"):
        open_signer(None, tmp_path / "empty", lambda _: "", {})
    keystore.new("bob", "x", throwaway=True)
    with pytest.raises(KeyfileError, match="alice, bob"):
        open_signer(None, keystore.folder, lambda _: "", {})

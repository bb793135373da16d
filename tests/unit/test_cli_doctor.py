"""The doctor: one line a check, and an exit code that a script can use."""

from __future__ import annotations

import importlib.metadata
import json

import pytest
from cli_fakes import Shell, shell_with_chain

from chainfl.cli import doctor
from chainfl.cli.context import App
from chainfl.cli.doctor import CHECKS, Check, examine
from chainfl.errors import NoContract, StoreFull
from chainfl.storage.embedded import EmbeddedStore


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path) -> Shell:
    return shell_with_chain(monkeypatch, capsys, tmp_path)


def found(checks, monkeypatch) -> dict[str, bool | None]:
    monkeypatch.setattr(doctor, "CHECKS", checks)
    return {finding.what: finding.ok for finding in examine(App({}))}


def good(_: App) -> str:
    return "fine"


def bad(_: App) -> str:
    raise NoContract("nothing there")


def test_examine__a_failure__stops_only_what_needs_it(monkeypatch):
    checks = (Check("a", bad), Check("b", good, ("a",)), Check("c", good, ("b",)), Check("d", good))
    assert found(checks, monkeypatch) == {"a": False, "b": None, "c": None, "d": True}


def test_examine__checks__need_only_earlier_ones():
    names = [check.what for check in CHECKS]
    assert all(names.index(need) < names.index(check.what) for check in CHECKS for need in check.needs)


@pytest.mark.parametrize(("check", "code"), [(good, 0), (bad, 1)])
def test_doctor__any_check__decides_the_exit_code(shell, monkeypatch, check, code):
    monkeypatch.setattr(doctor, "CHECKS", (Check("a", check),))
    assert shell("doctor") == code
    assert ("✓ a: fine" in shell.out) == (code == 0)
    assert ("✗ a: nothing there" in shell.out) == (code == 1)
    assert ("chainfl deploy" in shell.out) == (code == 1)


def test_doctor__json__has_every_check(shell, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", (Check("a", bad), Check("b", good, ("a",))))
    assert shell("doctor", "--json") == 1
    document = json.loads(shell.out)
    assert document["ok"] is False
    assert [check["ok"] for check in document["checks"]] == [False, None]


def test_doctor__wrong_configuration__is_told_with_its_problems(shell, tmp_path):
    (tmp_path / "chainfl.toml").write_text('storage = "tape"\nnetwork = "mars"\n')
    assert shell("doctor") == 1
    assert "storage" in shell.out
    assert "network" in shell.out


def test_store__round_trip__says_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(App, "store", property(lambda _: EmbeddedStore(tmp_path / "store")))
    assert str(tmp_path / "store") in doctor._store(App({}))


def test_store__full__fails_with_its_hint(monkeypatch, tmp_path):
    def refuse(self, data):
        raise StoreFull("no space", path="/stores/here")

    monkeypatch.setattr(EmbeddedStore, "put_bytes", refuse)
    monkeypatch.setattr(App, "store", property(lambda _: EmbeddedStore(tmp_path)))
    monkeypatch.setattr(doctor, "CHECKS", (Check("store", doctor._store),))
    (finding,) = examine(App({}))
    assert not finding.ok
    assert "/stores/here" in finding.hint


def test_torch__not_installed__is_told(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(doctor, "CHECKS", (Check("torch", doctor._torch),))
    (finding,) = examine(App({}))
    assert not finding.ok


def test_tokens__none_at_all__is_a_failure_with_the_faucet_as_hint(shell, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", (Check("tokens", doctor._tokens),))
    (finding,) = examine(App({}))
    assert not finding.ok
    assert "faucet" in finding.hint


def test_key__none_or_several__says_how_to_choose(shell, monkeypatch):
    monkeypatch.setattr(App, "known_account", property(lambda _: None))
    monkeypatch.setattr(doctor, "CHECKS", (Check("key", doctor._key),))
    (finding,) = examine(App({}))
    assert not finding.ok
    assert "keys new" in finding.hint

"""Content by what it is."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest
from cli_fakes import Shell, isolate, shell_with_chain

from chainfl.errors import StoreFull, StoreReadOnly
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.unixfs import cid_of

CONTENT = b"hello\n"


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path) -> Shell:
    """With the real embedded store in the folder."""
    shell = shell_with_chain(monkeypatch, capsys, tmp_path)
    monkeypatch.undo()
    isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("CHAINFL_STORE_DIR", str(tmp_path / "store"))
    (tmp_path / "file").write_bytes(CONTENT)
    return shell


def test_add__a_file__prints_the_cid_that_cid_prints(shell):
    assert shell("store", "add", "file") == 0
    added = shell.out.strip()
    assert shell("store", "cid", "file") == 0
    assert shell.out.strip() == added == cid_of(CONTENT)


def test_cid__of_a_file__stores_nothing(shell, tmp_path):
    shell("store", "cid", "file")
    assert not (tmp_path / "store").exists()


def test_cid__of_standard_input__is_that_of_its_bytes(shell, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(CONTENT)))
    assert shell("store", "cid", "-", "--json") == 0
    assert json.loads(shell.out) == {"cid": cid_of(CONTENT), "bytes": len(CONTENT)}


def test_get__what_was_added__is_the_same(shell, tmp_path):
    shell("store", "add", "file")
    assert shell("store", "get", cid_of(CONTENT), "--out", "copy") == 0
    assert (tmp_path / "copy").read_bytes() == CONTENT


def test_get__the_file_is_there__is_not_overwritten_without_force(shell, tmp_path):
    shell("store", "add", "file")
    (tmp_path / "copy").write_bytes(b"mine")
    assert shell("store", "get", cid_of(CONTENT), "--out", "copy") == 11
    assert (tmp_path / "copy").read_bytes() == b"mine"
    assert shell("store", "get", cid_of(CONTENT), "--out", "copy", "--force") == 0


def test_get__not_there__has_its_own_exit_code_and_a_hint(shell):
    assert shell("store", "get", cid_of(b"other"), "--out", "copy") == 63
    assert "hint:" in shell.err


@pytest.mark.parametrize("text", ["x", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", "/ipfs/bafy"])
def test_get__no_cid__has_its_own_exit_code(shell, text):
    assert shell("store", "get", text, "--out", "copy") == 61


def test_get__damaged__is_not_delivered(shell, tmp_path):
    shell("store", "add", "file")
    stored = next(path for path in (tmp_path / "store" / "objects").rglob("*") if path.is_file())
    stored.chmod(0o600)
    stored.write_bytes(b"other\n")
    assert shell("store", "get", cid_of(CONTENT), "--out", "copy") == 62
    assert not (tmp_path / "copy").exists()


def test_get__larger_than_allowed__is_refused(shell):
    shell("store", "add", "file")
    assert shell("store", "get", cid_of(CONTENT), "--out", "copy", "--max-bytes", "3") == 53


@pytest.mark.parametrize(("error", "code"), [(StoreFull, 64), (StoreReadOnly, 65)])
def test_add__the_store_cannot_take_it__names_the_folder(shell, monkeypatch, error, code):
    def refuse(self, path):
        raise error("cannot", path="/stores/here")

    monkeypatch.setattr(EmbeddedStore, "put_file", refuse)
    assert shell("store", "add", "file") == code
    assert "/stores/here" in shell.err


def test_add__no_such_file__is_a_usage_error(shell):
    assert shell("store", "add", "nothing") == 2

"""Models: which one is meant, its history as text, and whether it holds."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from cli_fakes import ME, MY_LINE, ROUND_VIEW, Shell, shell_with_chain
from fake_chain import account_of

from chainfl.chain.records import Model
from chainfl.cli import round as round_commands
from chainfl.cli.model import tree
from chainfl.errors import RegistryError
from chainfl.registry import lineage as lineage_module
from chainfl.registry.lineage import Lineage, LinkResult, UpdateLink, Verification, Version
from chainfl.registry.replay import ReplayedRound
from chainfl.storage.unixfs import cid_of
from chainfl.tasks.cids import cid_on_chain
from chainfl.tasks.state import Phase
from chainfl.types import Cid, ModelId, Root, TaskId

IDS = [ModelId(bytes([n]) * 32) for n in range(1, 4)]
CID = cid_on_chain(cid_of(b"exact"))


def record(number: int) -> Model:
    parent = IDS[number - 1] if number else bytes(32)
    root = Root(bytes([9]) * 32)
    return Model(parent, 1, number, 1, 2, 5, 6, 7, account_of(3), root, bytes(32), CID, CID)


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path) -> Shell:
    shell = shell_with_chain(monkeypatch, capsys, tmp_path)
    operator = shell.operator
    pairs = [(IDS[n], record(n)) for n in (2, 1, 0)]

    def one(model_id: ModelId) -> Model:
        found = dict(pairs).get(model_id)
        if found is None:
            raise RegistryError("the registry has no such model")
        return found

    operator.versions = lambda task_id: pairs  # type: ignore[attr-defined]
    operator.model = one  # type: ignore[attr-defined]
    operator.num_models = lambda: 3  # type: ignore[attr-defined]
    operator.models = lambda start, count: tuple(reversed(pairs))[start : start + count]  # type: ignore[attr-defined]
    operator.has_access = lambda model_id, account: account == ME  # type: ignore[attr-defined]
    operator.grant = lambda task_id, account: operator._send("grant")  # type: ignore[attr-defined]
    operator.revoke = lambda task_id, account: operator._send("revoke")  # type: ignore[attr-defined]
    operator.dry_run = lambda: operator  # type: ignore[method-assign]
    return shell


@pytest.mark.parametrize(
    ("reference", "round_number"), [("1", 2), ("1/0", 0), ("1/1", 1), ("0x" + "01" * 32, 0), ("03" * 32, 2)]
)
def test_show__each_way_to_name_a_model__finds_it(shell, reference, round_number):
    assert shell("model", "show", reference, "--json") == 0
    assert json.loads(shell.out)["model"]["round"] == round_number


@pytest.mark.parametrize(
    ("reference", "code"), [("ab" * 32, 80), ("1/7", 80), ("2", 11), ("x", 11), ("0x12", 11), ("1/", 11)]
)
def test_show__no_such_model__is_told(shell, reference, code):
    assert shell("model", "show", reference) == code
    assert "hint:" in shell.err


@pytest.mark.parametrize(("account", "permitted"), [(ME, "yes"), (account_of(4), "no")])
def test_show__access__is_called_a_signal(shell, account, permitted):
    shell.operator.line_view = replace(MY_LINE, restricted=True)
    assert shell("model", "show", "1", "--account", account) == 0
    assert f"{permitted}, for {account} (a signal)" in shell.out
    assert "public to whoever has the CID" in shell.err


def test_list__limit__shows_the_newest(shell):
    assert shell("model", "list", "--limit", "2", "--json") == 0
    assert [entry["model"]["round"] for entry in json.loads(shell.out)] == [2, 1]
    assert shell("model", "list", "--task", "1") == 0
    assert "genesis" in shell.out


def history() -> Lineage:
    update = UpdateLink(account_of(7), Root(bytes(32)), Cid("b"), 1, 50, 9_000, 4_000)
    genesis = Version(
        IDS[0], None, 0, 0, 0, 1, 1, 1, account_of(0), Root(bytes(32)), bytes(32), Cid("b0"), Cid("f0"), ()
    )
    made = replace(
        genesis,
        model_id=IDS[1],
        parent=IDS[0],
        round=1,
        float_cid=Cid("f1"),
        updates=(update, replace(update, weight=0)),
    )
    return Lineage(1, ME, TaskId(1), ME, ME, False, "MIT", bytes(32), (genesis, made))


def test_tree__a_lineage__names_everything_that_made_it():
    lines = list(tree(history()))
    assert lines[0].startswith("task 1: owner 0x")
    assert "a signal" in lines[0]
    assert lines[1] == "genesis  0x" + "01" * 32
    assert lines[3] == "round 1  0x" + "02" * 32
    assert "weight 9000, score 4000" in lines[5]
    assert "rejected" in lines[6]
    assert lines[7] == "└─ float32 f1"


def test_lineage__dot__is_written(shell, monkeypatch, tmp_path):
    monkeypatch.setattr(lineage_module, "read_lineage", lambda reader, task_id: history())
    assert shell("model", "lineage", "1", "--dot", "l.dot", "--json") == 0
    assert json.loads(shell.out)["task_id"] == 1
    assert (tmp_path / "l.dot").read_text().startswith("digraph")
    assert shell("model", "lineage", "1/0") == 0
    assert "round 1" not in shell.out


def verified(*links: LinkResult):
    return lambda reader, store, task_id, *, up_to_round=None: Verification(links, 2)


def test_verify__every_link_holds__says_so(shell, monkeypatch):
    links = (LinkResult("specification", None, None), LinkResult("genesis", IDS[0], None))
    monkeypatch.setattr(lineage_module, "verify_lineage", verified(*links))
    assert shell("model", "verify", "1") == 0
    assert shell.out.startswith("✓ specification\n✓ genesis\nverified:")


def test_verify__a_link_fails__names_it_and_has_its_exit_code(shell, monkeypatch):
    links = (LinkResult("specification", None, None), LinkResult("genesis", IDS[0], "its root is another"))
    monkeypatch.setattr(lineage_module, "verify_lineage", verified(*links))
    assert shell("model", "verify", "1", "--json") == 81
    assert json.loads(shell.out)["verified"] is False
    assert shell("model", "verify", "1") == 81
    assert "✗ genesis: its root is another" in shell.out
    assert "verified:" not in shell.out


def test_pull__specification_is_not_there__has_its_exit_code(shell):
    assert shell("model", "pull", "1") == 63


def test_pull__the_file_is_there__is_not_overwritten(shell, tmp_path):
    (tmp_path / "m").write_text("mine")
    assert shell("model", "pull", "1", "--out", "m") == 11
    assert (tmp_path / "m").read_text() == "mine"


def test_grant__to_public_models__says_that_it_shows_later(shell):
    shell.operator.is_dry = True
    assert shell("model", "grant", "1", account_of(9), "--dry-run") == 0
    assert "model restrict" in shell.err
    assert "a signal of what the owner permits" in shell.err


def test_grant__anothers_models__is_refused(shell):
    shell.operator.line_view = replace(MY_LINE, owner=account_of(8))
    assert shell("model", "grant", "1", account_of(9), "--yes") == 33


@pytest.mark.parametrize(("arguments", "code"), [(("2", "1"), 11), (("1", "0"), 2), (("1", "7"), 11), (("1", "x"), 2)])
def test_replay__no_such_round__is_told(shell, arguments, code):
    assert shell("round", "replay", *arguments) == code


@pytest.mark.parametrize(("computed", "code"), [(9, 0), (8, 81)])
def test_replay__roots__decide_the_exit_code(shell, monkeypatch, computed, code):
    shell.operator.round_view = replace(ROUND_VIEW, phase=Phase.COMPLETED, round=2)
    replayed = ReplayedRound(np.zeros(1, np.int32), Root(bytes([computed]) * 32), 2, 20_000, 0)
    monkeypatch.setattr(round_commands, "_replay", lambda app, task_id, number: replayed)
    assert shell("round", "replay", "1", "2", "--json") == code
    assert json.loads(shell.out)["matches"] is (code == 0)


def test_replay__posted_and_not_yet_final__is_compared_with_what_is_posted(shell, monkeypatch):
    posted = Root(bytes([7]) * 32)
    shell.operator.round_view = replace(ROUND_VIEW, phase=Phase.CHALLENGE, round=3, posted_at=1, aggregate_root=posted)
    monkeypatch.setattr(round_commands, "_replay", lambda *_: ReplayedRound(np.zeros(1, np.int32), posted, 2, 1, 0))
    assert shell("round", "replay", "1", "3") == 0
    assert posted.hex() in shell.out

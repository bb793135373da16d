"""Content by what it is."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from agents_world import World
from cli_fakes import Shell, isolate, shell_with_chain
from fake_chain import MemoryStore, account_of

from chainfl.agents.journal import deployment_folder
from chainfl.cli import store as store_command
from chainfl.cli.context import App
from chainfl.cli.main import run
from chainfl.errors import StoreFull, StoreReadOnly
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.files import PendingFile
from chainfl.storage.gateway import GatewayStore
from chainfl.storage.several import Place, SeveralStores
from chainfl.storage.unixfs import cid_of
from chainfl.tasks.cids import cid_on_chain, cid_text

CONTENT = b"hello\n"
WORKER = account_of(100)


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
    def refuse(self, path, **options):
        raise error("cannot", path="/stores/here")

    monkeypatch.setattr(EmbeddedStore, "put_file", refuse)
    assert shell("store", "add", "file") == code
    assert "/stores/here" in shell.err


def test_add__no_such_file__is_a_usage_error(shell):
    assert shell("store", "add", "nothing") == 2


def test_get__no_such_folder__says_to_make_it(shell, tmp_path):
    shell("store", "add", "file")
    assert shell("store", "get", cid_of(CONTENT), "--out", "nowhere/copy") == 11
    assert "make the folder first" in shell.err


def test_get__to_standard_output__is_the_content_and_takes_no_memory_for_it(shell, monkeypatch):
    shell("store", "add", "file")
    out = SimpleNamespace(buffer=io.BytesIO(), isatty=lambda: False, flush=lambda: None)
    monkeypatch.setattr(EmbeddedStore, "get_bytes", None)
    monkeypatch.setattr(sys, "stdout", out)
    assert run(["store", "get", cid_of(CONTENT)]) == 0
    assert out.buffer.getvalue() == CONTENT


def test_add_and_get__on_a_terminal__show_bytes_and_elsewhere_nothing_more(shell, monkeypatch):
    commands = (("store", "add", "file"), ("store", "get", cid_of(CONTENT), "--out", "copy", "--force"))
    for command in commands:
        shell(*command)
        assert len(shell.err.splitlines()) == 1
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True, raising=False)
    for command, doing in zip(commands, ("adding", "fetching"), strict=True):
        assert shell(*command) == 0
        assert doing in shell.err
        assert "6/6 bytes" in shell.err


@pytest.mark.parametrize("command", ["get", "pin"])
def test_get_and_pin__what_is_not_near__say_on_a_terminal_how_long_they_look(shell, monkeypatch, command):
    options = ("--out", "copy") if command == "get" else ()
    shell("store", command, cid_of(b"other"), *options)
    assert "looking for" not in shell.err
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True, raising=False)
    shell("store", command, cid_of(b"other"), *options)
    assert f"looking for {cid_of(b'other')} for up to {120 if command == 'get' else 600} s" in shell.err
    shell("store", "add", "file")
    shell("store", command, cid_of(CONTENT), *options)
    assert "looking for" not in shell.err


class Pinner(MemoryStore):
    """A node: what it drops is there until its garbage collection, or never was where `is_collected`."""

    is_collected = False

    def __init__(self, blobs: dict | None = None) -> None:
        super().__init__(blobs or {})
        self.pinned = set(self.blobs)

    def put_bytes(self, data):
        cid = super().put_bytes(data)
        self.pinned.add(cid)
        return cid

    def has(self, cid):
        return not self.is_collected and super().has(cid)

    def pin(self, cid):
        self.pinned.add(cid)

    def is_pinned(self, cid):
        return cid in self.pinned and not self.is_collected

    def drop(self, cid):
        self.pinned.discard(cid)

    def addresses(self):
        return ()

    def connect(self, address): ...


class Cellar:
    """A pinning service that says the same of everything that was not dropped."""

    name = "cellar"

    def __init__(self, says: str) -> None:
        self.says = says
        self.dropped: set = set()

    def pin(self, cid, *, accepted, **_):
        accepted()

    def stand(self, cid):
        return "" if cid in self.dropped else self.says

    def drop(self, cid):
        self.dropped.add(cid)


# --- pin, unpin, status --------------------------------------------------------------------------


def test_status__before_and_after_add_and_unpin__says_where_it_is(shell):
    cid = cid_of(CONTENT)
    assert shell("store", "status", cid) == 1
    assert "✗ embedded  not there" in shell.out
    shell("store", "add", "file")
    assert shell("store", "status", cid) == 0
    assert "✓ embedded  there" in shell.out
    assert shell("store", "unpin", cid) == 0
    assert "✗ embedded" in shell.out
    assert shell("store", "status", cid, "--json") == 1
    assert json.loads(shell.out) == {
        "cid": cid,
        "held": False,
        "places": [{"place": "embedded", "holds": False, "told": "not there"}],
    }


def test_pin__in_one_of_two_stores__is_then_in_both(shell, tmp_path, monkeypatch):
    two = [Place(name, EmbeddedStore(tmp_path / name)) for name in ("near", "far")]
    cid = two[1].store.put_bytes(CONTENT)
    monkeypatch.setattr(App, "store", property(lambda _: SeveralStores(two, quorum=2)))
    assert shell("store", "pin", cid) == 0
    assert "✓ near  there" in shell.out
    assert "✓ far   there" in shell.out


def test_pin__nowhere__is_not_published_and_says_why(shell):
    assert shell("store", "pin", cid_of(b"other")) == 68
    assert "embedded" in shell.err
    assert "not in" in shell.err


@pytest.mark.parametrize("command", ["pin", "unpin", "status"])
def test_pin_unpin_status__no_cid__has_its_own_exit_code(shell, command):
    assert shell("store", command, "x") == 61


def test_status__gateways_alone__says_that_they_were_not_asked(shell, monkeypatch):
    monkeypatch.setenv("CHAINFL_STORAGE", "gateway")
    monkeypatch.setenv("CHAINFL_GATEWAYS", "https://gateway.example")
    assert shell("store", "status", cid_of(CONTENT)) == 1
    assert "– gateway  not in the cache; gateways were not asked" in shell.out


def test_add__with_a_service__says_where_each_place_is_with_it(shell, monkeypatch):
    several = SeveralStores([Place("kubo", Pinner())], [Cellar("queued")])
    monkeypatch.setattr(App, "store", property(lambda _: several))
    assert shell("store", "add", "file") == 0
    assert shell.out.strip() == cid_of(CONTENT), "a script takes the CID alone"
    assert "✓ kubo: pinned" in shell.err
    assert "✗ cellar: queued" in shell.err
    assert shell("store", "add", "file", "--json") == 0
    assert [place["told"] for place in json.loads(shell.out)["places"]] == ["pinned", "queued"]


def test_store__gateway_alone__reads_only_and_says_which_store_writes(shell, monkeypatch):
    monkeypatch.setenv("CHAINFL_STORAGE", "gateway")
    monkeypatch.setenv("CHAINFL_GATEWAYS", "https://gateway.example")
    assert isinstance(App({}).store, GatewayStore)
    assert shell("store", "add", "file") == 65
    assert '"embedded" or "kubo"' in shell.err


def test_store__service_without_its_token__says_where_to_put_it(shell, monkeypatch):
    monkeypatch.setattr("chainfl.storage.factory._open", lambda *_, **__: EmbeddedStore(Path("store")))
    monkeypatch.setenv("CHAINFL_STORAGE", "kubo")
    monkeypatch.setenv("CHAINFL_PINNING", "cellar=https://cellar.example")
    assert shell("store", "add", "file") == 0
    assert "– cellar: there is no token: CHAINFL_PINNING_TOKEN_CELLAR is not set" in shell.err


# --- dropping what is past dispute ---------------------------------------------------------------


class PlayedTask:
    """A chain on which a task's three rounds are over, as commands read it."""

    def __init__(self, world: World) -> None:
        self.chain, self.port = world.chain, world.ports[WORKER]

    def __getattr__(self, name):
        return getattr(self.port, name)

    def round(self, task_id):
        return self.chain.view()


@pytest.fixture
def played(monkeypatch, capsys, tmp_path) -> tuple[Shell, World]:
    world = World(tmp_path / "world", rounds=3)
    world.run()
    shell = shell_with_chain(monkeypatch, capsys, tmp_path)
    shell.store.blobs = world.store.blobs
    monkeypatch.setattr(App, "reader", property(lambda _: PlayedTask(world)))
    monkeypatch.setattr(App, "known_account", property(lambda _: WORKER))
    return shell, world


def updates_of(world: World, round_number: int, worker: str | None = None) -> set:
    return {cid_text(u.cid) for u in world.chain.reveals[round_number] if worker in (None, u.worker)}


def test_prune__finished_task__drops_own_updates_of_all_rounds(played):
    shell, world = played
    assert shell("store", "prune", "1", "--json") == 0
    assert json.loads(shell.out) == {"task": 1, "payloads": 3, "dry_run": False}
    kept = world.store.blobs.keys()
    for number in (1, 2, 3):
        assert not updates_of(world, number, WORKER) & kept
        assert len(updates_of(world, number) & kept) == 2, "the others' stay"
    assert {cid_text(cid) for _, cid in world.chain.models.values()} <= kept, "models stay"


def test_prune__dry_run__says_and_drops_nothing(played):
    shell, world = played
    before = dict(world.store.blobs)
    assert shell("store", "prune", "1", "--everybody", "--dry-run") == 0
    assert "round 1: 3 payloads would go" in shell.err
    assert world.store.blobs == before


@pytest.mark.parametrize("options", [(), ("--everybody",)])
def test_prune__a_worker_named_the_genesis_as_its_update__it_stays(played, options):
    shell, world = played
    genesis = world.chain.params.genesis_cid
    mine = next(at for at, update in enumerate(world.chain.reveals[1]) if update.worker == WORKER)
    world.chain.reveals[1][mine] = replace(world.chain.reveals[1][mine], cid=genesis)
    assert shell("store", "prune", "1", *options) == 0
    assert cid_text(genesis) in world.store.blobs


def test_prune__a_worker_named_what_another_known_task_is_about__it_stays(played, monkeypatch):
    shell, world = played
    other = shell.store.put_bytes(b"a model of task 2")
    world.chain.reveals[1][0] = replace(world.chain.reveals[1][0], cid=cid_on_chain(other))
    reader = App({}).reader
    folder = deployment_folder(App({}).settings.state_dir, chain_id=reader.chain_id, coordinator=reader.coordinator)
    (folder / "task-2").mkdir(parents=True)
    files = type(world.ports[WORKER]).model_files

    def model_files(port, task_id, from_block):
        return files(port, task_id, from_block) if task_id == 1 else frozenset({cid_on_chain(other)})

    monkeypatch.setattr(type(world.ports[WORKER]), "model_files", model_files)
    assert shell("store", "prune", "1", "--everybody") == 0
    assert other in world.store.blobs


def test_prune__again__finds_nothing(played):
    shell, _ = played
    shell("store", "prune", "1", "--everybody")
    assert shell("store", "prune", "1", "--everybody", "--json") == 0
    assert json.loads(shell.out)["payloads"] == 0


def test_prune__a_daemon_that_collects_later__counts_what_is_pinned(played, monkeypatch):
    shell, world = played
    node = Pinner(world.store.blobs)
    monkeypatch.setattr(App, "store", property(lambda _: node))
    assert shell("store", "prune", "1", "--json") == 0
    assert json.loads(shell.out)["payloads"] == 3
    assert shell("store", "prune", "1", "--json") == 0
    assert json.loads(shell.out)["payloads"] == 0, "its blocks are still there, and nobody keeps them"


@pytest.mark.parametrize("says", ["pinned", "queued"])
def test_prune__only_a_service_keeps_it__is_dropped_there(played, monkeypatch, says):
    shell, world = played
    node, cellar = Pinner(world.store.blobs), Cellar(says)
    node.is_collected = True
    gateway = Place("gateway", MemoryStore(world.store.blobs), writes=False)
    several = SeveralStores([Place("kubo", node), gateway], [cellar])
    monkeypatch.setattr(App, "store", property(lambda _: several))
    monkeypatch.setattr(gateway.store, "drop", lambda _: None)
    assert shell("store", "prune", "1", "--json") == 0
    assert json.loads(shell.out)["payloads"] == 3
    assert cellar.dropped == {cid for number in (1, 2, 3) for cid in updates_of(world, number, WORKER)}
    assert shell("store", "prune", "1", "--json") == 0
    assert json.loads(shell.out)["payloads"] == 0


# --- what is no file, and no place for a store ---------------------------------------------------


@pytest.mark.parametrize("command", ["add", "cid"])
def test_add_and_cid__a_pipe_or_a_device__is_refused_at_once(shell, tmp_path, command):
    os.mkfifo(tmp_path / "pipe")
    for path in ("pipe", "/dev/zero"):
        assert shell("store", command, path) == 11
        assert "no ordinary file" in shell.err


def test_cid__standard_input_without_an_end__is_refused_at_its_bound(shell, monkeypatch):
    monkeypatch.setattr(store_command, "MAX_GET_BYTES", 10)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(bytes(11))))
    assert shell("store", "cid", "-") == 11


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/chainfl"])
def test_add__store_dir_cannot_be_a_folder__says_which_setting(shell, monkeypatch, folder):
    monkeypatch.setenv("CHAINFL_STORE_DIR", folder)
    assert shell("store", "add", "file") == 60
    assert "hint:" in shell.err
    assert "store_dir" in shell.err


def test_get__temporary_folder_full__the_hint_names_tmpdir(shell, tmp_path, monkeypatch, capsys):
    shell("store", "add", "file")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(PendingFile, "write", full)
    out = SimpleNamespace(buffer=io.BytesIO(), isatty=lambda: False, flush=lambda: None)
    monkeypatch.setattr(sys, "stdout", out)
    assert run(["store", "get", cid_of(CONTENT)]) == 64
    err = capsys.readouterr().err
    assert "TMPDIR" in err
    assert "store_dir" not in err


def test_get__no_temporary_folder_can_be_made__the_hint_names_tmpdir(shell, tmp_path, monkeypatch, capsys):
    shell("store", "add", "file")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    out = SimpleNamespace(buffer=io.BytesIO(), isatty=lambda: False, flush=lambda: None)
    monkeypatch.setattr(sys, "stdout", out)
    assert run(["store", "get", cid_of(CONTENT)]) == 64
    assert "TMPDIR" in capsys.readouterr().err

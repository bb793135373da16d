"""The doctor: one line a check, and an exit code that a script can use."""

from __future__ import annotations

import importlib.metadata
import json
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import pytest
from agents_world import World
from cli_fakes import TASK_VIEW, FakeOperator, Shell, shell_with_chain
from data_sets import published
from fake_chain import MemoryStore, account_of

from chainfl.cli import doctor
from chainfl.cli.context import App
from chainfl.cli.doctor import Check, Told, checks_of, examine
from chainfl.errors import CidMismatch, NoContract, NotPublished, PinNotServed, ServiceUnreachable, StoreFull
from chainfl.storage.cid import digest_of
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.kubo import Peer
from chainfl.storage.several import Place, SeveralStores
from chainfl.storage.unixfs import cid_of
from chainfl.tasks.cids import cid_on_chain
from chainfl.types import Cid


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path) -> Shell:
    return shell_with_chain(monkeypatch, capsys, tmp_path)


def found(checks, monkeypatch) -> dict[str, bool | None]:
    monkeypatch.setattr(doctor, "checks_of", lambda *_: checks)
    return {finding.what: finding.ok for finding in examine(App({}))}


def good(_: App) -> str:
    return "fine"


def bad(_: App) -> str:
    raise NoContract("nothing there")


def test_examine__a_failure__stops_only_what_needs_it(monkeypatch):
    checks = (Check("a", bad), Check("b", good, ("a",)), Check("c", good, ("b",)), Check("d", good))
    assert found(checks, monkeypatch) == {"a": False, "b": None, "c": None, "d": True}


def test_checks__all_places__stand_before_what_needs_them(shell, monkeypatch):
    monkeypatch.setenv("CHAINFL_STORAGE", "kubo,gateway")
    monkeypatch.setenv("CHAINFL_GATEWAYS", "https://one.example,https://two.example/with-a-key")
    monkeypatch.setenv("CHAINFL_PINNING", "cellar=https://cellar.example")
    checks = checks_of(App({}))
    names = [check.what for check in checks]
    assert all(names.index(need) < names.index(check.what) for check in checks for need in check.needs)
    assert names[7:13] == [
        "Kubo daemon",
        "gateway one.example",
        "gateway two.example",
        "pinning service cellar",
        "pins of the daemon",
        "store",
    ]


@pytest.mark.parametrize(("check", "code"), [(good, 0), (bad, 1)])
def test_doctor__any_check__decides_the_exit_code(shell, monkeypatch, check, code):
    monkeypatch.setattr(doctor, "checks_of", lambda *_: (Check("a", check),))
    assert shell("doctor") == code
    assert ("✓ a: fine" in shell.out) == (code == 0)
    assert ("✗ a: nothing there" in shell.out) == (code == 1)
    assert ("chainfl deploy" in shell.out) == (code == 1)


def test_doctor__json__has_every_check(shell, monkeypatch):
    monkeypatch.setattr(doctor, "checks_of", lambda *_: (Check("a", bad), Check("b", good, ("a",))))
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
    monkeypatch.setattr(doctor, "checks_of", lambda *_: (Check("store", doctor._store),))
    (finding,) = examine(App({}))
    assert not finding.ok
    assert "/stores/here" in finding.hint


def test_torch__not_installed__is_told(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(doctor, "checks_of", lambda *_: (Check("torch", doctor._torch),))
    (finding,) = examine(App({}))
    assert not finding.ok


def test_tokens__none_at_all__is_a_failure_with_the_faucet_as_hint(shell, monkeypatch):
    monkeypatch.setattr(doctor, "checks_of", lambda *_: (Check("tokens", doctor._tokens),))
    (finding,) = examine(App({}))
    assert not finding.ok
    assert "faucet" in finding.hint


def test_key__none_or_several__says_how_to_choose(shell, monkeypatch):
    monkeypatch.setattr(App, "known_account", property(lambda _: None))
    monkeypatch.setattr(doctor, "checks_of", lambda *_: (Check("key", doctor._key),))
    (finding,) = examine(App({}))
    assert not finding.ok
    assert "keys new" in finding.hint


# --- stores and content --------------------------------------------------------------------------


def test_examine__told_with_a_hint__is_right_and_shows_it(shell, monkeypatch):
    monkeypatch.setattr(doctor, "checks_of", lambda *_: (Check("a", lambda _: Told("old", "get a newer one")),))
    assert shell("doctor") == 0
    assert "✓ a: old\n    get a newer one" in shell.out


@pytest.mark.parametrize(
    ("trips", "words"),
    [
        ([], "no peers: others reach what it keeps only once it is connected"),
        ([None, None], "2 peers, none measured yet"),
        ([0.0123, None, 0.0005], "3 peers, 0.5 to 12.3 ms away"),
    ],
)
def test_peers_words__measured_or_not__say_how_far(trips, words):
    assert doctor._peers_words([Peer(f"/ip4/127.0.0.1/tcp/{at}", trip) for at, trip in enumerate(trips)]) == words


@pytest.mark.parametrize("answering", [{"one.example"}, {"two.example"}, set()])
def test_store__only_gateways__is_right_while_one_of_them_answers(monkeypatch, answering):
    def ask(_app, url):
        if doctor._host(url) not in answering:
            raise ServiceUnreachable("no answer", service=url)

    monkeypatch.setenv("CHAINFL_STORAGE", "gateway")
    monkeypatch.setenv("CHAINFL_GATEWAYS", "https://one.example,https://two.example/with-a-key")
    monkeypatch.setattr(doctor, "_gateway", ask)
    monkeypatch.setattr(App, "store", property(lambda _: SimpleNamespace(describe=lambda: "gateways")))
    monkeypatch.setattr(doctor, "checks_of", lambda *_: (Check("store", doctor._store),))
    (finding,) = examine(App({}))
    assert finding.ok is bool(answering)
    assert finding.told == "gateways" if answering else "one.example, two.example" in finding.told
    assert "with-a-key" not in finding.told + finding.hint


def test_store__round_trip__leaves_nothing_behind(tmp_path, monkeypatch):
    store = EmbeddedStore(tmp_path / "store")
    monkeypatch.setattr(App, "store", property(lambda _: store))
    doctor._store(App({}))
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


class Unreliable(MemoryStore):
    """Gives other bytes than it took, or refuses to drop."""

    refuses_to_drop = False

    def get_bytes(self, cid: Cid, *, max_bytes: int) -> bytes:
        return b"other"

    def drop(self, cid: Cid) -> None:
        if self.refuses_to_drop:
            raise StoreFull("cannot", path="/stores/here")
        super().drop(cid)


def test_store__gives_other_bytes__keeps_no_probe(monkeypatch):
    store = Unreliable()
    monkeypatch.setattr(App, "store", property(lambda _: store))
    with pytest.raises(CidMismatch):
        doctor._store(App({}))
    assert store.blobs == {}


def test_store__too_few_places_confirm__keeps_no_probe_in_those_that_did(tmp_path, monkeypatch):
    def refuse(self, data):
        raise StoreFull("no space", path="/stores/here")

    near, full = MemoryStore(), type("Full", (MemoryStore,), {"put_bytes": refuse})()
    several = SeveralStores([Place("near", near), Place("full", full)], quorum=2)
    monkeypatch.setattr(App, "store", property(lambda _: several))
    with pytest.raises(NotPublished):
        doctor._store(App({}))
    assert near.blobs == {}


def test_store__the_probe_cannot_be_dropped_either__tells_what_failed_first(monkeypatch, caplog):
    store = Unreliable()
    store.refuses_to_drop = True
    monkeypatch.setattr(App, "store", property(lambda _: store))
    with pytest.raises(CidMismatch):
        doctor._store(App({}))
    assert "may stay" in caplog.text


MODEL = cid_of(b"model")


@dataclass
class OperatorWithModels(FakeOperator):
    """Its tasks' current model has the CID `model`."""

    model: Cid = MODEL

    def model_location(self, task_id, round_number):
        return bytes(32), cid_on_chain(self.model)


@pytest.fixture
def content(shell, monkeypatch):
    """The check for content alone, over a store in memory."""
    shell.operator = OperatorWithModels()
    check = lambda app, task_id=None: (Check("content", partial(doctor._content, task_id=task_id)),)  # noqa: E731
    monkeypatch.setattr(doctor, "checks_of", check)
    return shell


def test_content__specification_and_model_are_there__says_so(content):
    spec = content.store.put_bytes(b"specification")
    content.use(model=content.store.put_bytes(b"model"))
    content.use(task_view=replace(TASK_VIEW, spec_hash=digest_of(spec)))
    assert content("doctor") == 0
    assert "2 contents of 1 tasks can be had" in content.out


def test_content__model_missing__is_named_with_its_cid(content):
    spec = content.store.put_bytes(b"specification")
    content.use(task_view=replace(TASK_VIEW, spec_hash=digest_of(spec)))
    assert content("doctor") == 1
    assert f"1 of 2 cannot be had: the current model of task 1 ({MODEL})" in content.out


def test_content__nobodys_task__is_looked_at_only_when_named(content):
    content.use(account=account_of(0x99))
    assert content("doctor") == 0
    assert "takes part in no task" in content.out
    assert content("doctor", "--task", "1") == 1
    assert "2 of 2 cannot be had" in content.out


def test_content__data_set_of_the_task__description_and_shards_are_looked_for(content, tmp_path):
    description, told = published(content.store)
    dataset = {"name": "tiny", "input_shape": [1, 3, 2], "num_classes": 4, "description_cid": description}
    world = World(tmp_path / "world", dataset=dataset)
    content.store.blobs |= world.store.blobs
    content.use(task_view=world.chain.task, model=content.store.put_bytes(b"model"))
    assert content("doctor", "--task", "1") == 0
    assert "6 contents of 1 tasks can be had" in content.out
    content.store.drop(told.shards[1].cid)
    assert content("doctor", "--task", "1") == 1
    assert f"1 of 6 cannot be had: shard 2 of the data set of task 1 ({told.shards[1].cid})" in content.out
    content.store.drop(description)
    assert content("doctor", "--task", "1") == 1
    assert f"the description of the data set of task 1 ({description})" in content.out


def test_examine__places_that_never_answer__are_given_up_side_by_side(monkeypatch):
    never = threading.Event()
    slow = [Check(f"place {number}", lambda _: str(never.wait(60)), (), 0.2) for number in range(8)]
    monkeypatch.setattr(doctor, "checks_of", lambda *_: (Check("a", good), *slow, Check("b", good, ("place 1",))))
    began = time.monotonic()
    findings = list(examine(App({})))
    assert time.monotonic() - began < 10
    never.set()
    assert [finding.ok for finding in findings] == [True, *[False] * 8, None]
    assert findings[1].told == "no answer within 0.2 s"
    assert "`pinning`" in findings[1].hint


class Claiming:
    """A pinning service's list of pins."""

    name = "cellar"

    def __init__(self, *cids: Cid) -> None:
        self._cids = cids

    def pins(self):
        return (SimpleNamespace(cid=cid) for cid in (*self._cids, "QmNotOurs"))


def test_served__a_pin_that_nobody_gives__is_named_with_what_to_do(monkeypatch):
    store = MemoryStore()
    there, gone = store.put_bytes(b"there"), cid_of(b"gone")
    monkeypatch.setattr(App, "store", property(lambda _: store))
    assert doctor._served(App({}), Claiming(there)) == "a sample of 1 can be had"
    with pytest.raises(PinNotServed, match="1 contents that nobody gives") as caught:
        doctor._served(App({}), Claiming(there, gone))
    assert f"chainfl store unpin {gone}" in caught.value.hint

"""The journal: whole or absent, whenever the process dies."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from chainfl.agents.journal import Journal, PreparedAggregate, PreparedScores, PreparedUpdate, journal_folder
from chainfl.errors import JournalDamaged, StoreFull, StoreReadOnly, UsageError
from chainfl.types import Cid, Root

UPDATE = PreparedUpdate(
    round=4,
    opened_block=7,
    base_root=Root(b"\x01" * 32),
    root=Root(b"\x02" * 32),
    cid=Cid("bafkrei"),
    squared_norm=2**63,
    num_examples=10,
    salt=b"\x03" * 32,
)
RESIDUAL = np.arange(5, dtype=np.float32)


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path / "agent")
    yield opened
    opened.close()


def test_update__saved__comes_back_with_its_bytes(journal):
    journal.save_update(UPDATE, b"payload", RESIDUAL)
    assert journal.update(4) == UPDATE
    assert journal.update_payload(4).read_bytes() == b"payload"
    assert journal.update(5) is None


def test_residual__round_counted__replaces_the_one_before(journal):
    journal.save_update(UPDATE, b"payload", RESIDUAL)
    assert journal.residual(5) is None
    journal.resolve_update(4, counted=True)
    assert np.array_equal(journal.residual(5), RESIDUAL)
    assert journal.unresolved_updates(99) == []


def test_residual__round_void__keeps_the_one_before(journal):
    journal.save_update(UPDATE, b"payload", RESIDUAL)
    journal.resolve_update(4, counted=True)
    later = PreparedUpdate(**{name: getattr(UPDATE, name) for name in UPDATE.__slots__} | {"round": 5})
    journal.save_update(later, b"payload", RESIDUAL * 2)
    journal.resolve_update(5, counted=False)
    assert np.array_equal(journal.residual(5), RESIDUAL)
    assert sorted(path.name for path in journal.folder.iterdir()) == ["lock", "residual.f32"]


def test_residual__resolved_twice__is_the_same(journal):
    journal.save_update(UPDATE, b"payload", RESIDUAL)
    journal.resolve_update(4, counted=True)
    journal.resolve_update(4, counted=True)
    assert np.array_equal(journal.residual(5), RESIDUAL)


def test_residual__of_another_model__is_damage(journal):
    journal.save_update(UPDATE, b"payload", RESIDUAL)
    journal.resolve_update(4, counted=True)
    with pytest.raises(JournalDamaged):
        journal.residual(6)


def test_memory__round_counted__is_what_was_settled(journal):
    kept, settled = {"drift": RESIDUAL}, {"drift": RESIDUAL * 3}
    journal.save_update(UPDATE, b"payload", RESIDUAL, kept)
    assert journal.memory(5) == {}
    assert np.array_equal(journal.kept_with(4, 5)["drift"], RESIDUAL)
    journal.resolve_update(4, counted=True, memory=settled)
    journal.resolve_update(4, counted=True, memory=settled)
    assert np.array_equal(journal.memory(5)["drift"], RESIDUAL * 3)
    assert journal.kept_with(4, 5) == {}
    assert sorted(p.name for p in journal.folder.iterdir()) == ["lock", "memory.safetensors", "residual.f32"]


@pytest.mark.parametrize(("counted", "memory"), [(False, {"drift": RESIDUAL * 9}), (True, {})])
def test_memory__round_void_or_not_to_be_settled__keeps_the_one_before(journal, counted, memory):
    journal.save_update(UPDATE, b"payload", RESIDUAL, {"drift": RESIDUAL})
    journal.resolve_update(4, counted=True, memory={"drift": RESIDUAL})
    later = PreparedUpdate(**{name: getattr(UPDATE, name) for name in UPDATE.__slots__} | {"round": 5})
    journal.save_update(later, b"payload", RESIDUAL, {"drift": RESIDUAL * 2})
    journal.resolve_update(5, counted=counted, memory=memory)
    assert np.array_equal(journal.memory(5)["drift"], RESIDUAL)


def test_memory__of_another_model_or_rubbish__is_damage(journal):
    journal.save_update(UPDATE, b"payload", RESIDUAL, {"drift": RESIDUAL})
    with pytest.raises(JournalDamaged):
        journal.kept_with(4, 6)
    for content in (b"", b"rubbish", b"\xff" * 20):
        (journal.folder / "memory.safetensors").write_bytes(content)
        with pytest.raises(JournalDamaged):
            journal.memory(5)


def test_unresolved__only_earlier_rounds__oldest_first(journal):
    for number in (10, 9, 4):
        values = {name: getattr(UPDATE, name) for name in UPDATE.__slots__} | {"round": number}
        journal.save_update(PreparedUpdate(**values), b"", RESIDUAL)
    assert [update.round for update in journal.unresolved_updates(10)] == [4, 9]


def test_scores_and_aggregate__saved__come_back(journal):
    scores = PreparedScores(2, Root(b"\x01" * 32), b"\x00\x01\x00\x02", b"\x05" * 32)
    aggregate = PreparedAggregate(2, 1, Root(b"\1" * 32), Root(b"\2" * 32), Cid("a"), Cid("b"), b"\x06" * 32, 77)
    journal.save_scores(scores)
    journal.save_aggregate(aggregate)
    assert journal.scores(2) == scores
    assert journal.aggregate(2, 1) == aggregate
    assert journal.aggregate(2, 2) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"round": 2}', b"\xff"])
def test_record__not_what_was_written__is_damage(journal, content):
    (journal.folder / "scores-2.json").write_bytes(content)
    with pytest.raises(JournalDamaged):
        journal.scores(2)


def test_journal__second_process__is_refused(journal):
    with pytest.raises(UsageError, match="another process"):
        Journal(journal.folder)


def test_journal__closed__may_be_opened_again(tmp_path):
    Journal(tmp_path).close()
    Journal(tmp_path).close()


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.ENOSPC, StoreFull), (errno.EROFS, StoreReadOnly), (errno.EACCES, StoreReadOnly)]
)
def test_journal__disk_refuses__says_which_and_keeps_the_old_record(journal, monkeypatch, number, expected):
    scores = PreparedScores(2, Root(b"\x01" * 32), b"", b"\x05" * 32)
    journal.save_scores(scores)

    def refuse(_descriptor: int) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(expected):
        journal.save_scores(PreparedScores(2, Root(b"\x01" * 32), b"other", b"\x06" * 32))
    monkeypatch.undo()
    assert journal.scores(2) == scores


def test_journal_folder__each_deployment_task_role_and_account__has_its_own():
    common = {"chain_id": 1, "coordinator": "0xC0", "task_id": 1, "role": "worker", "account": "0xA0"}
    others = [{"chain_id": 2}, {"coordinator": "0xC1"}, {"task_id": 2}, {"role": "validator"}, {"account": "0xA1"}]
    folders = {journal_folder(Path("s"), **common | other) for other in [{}, *others]}
    assert len(folders) == 6


# The whole life of three rounds, again and again, each time in a child that kills itself (SIGKILL) at the next system
# call; until one lives to the end. (A fresh interpreter for each would take half a second for every call.)
LIVES = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    from chainfl.agents.journal import Journal, PreparedUpdate

    def counted(real, die_at, calls=[0]):
        def call(*args, **kwargs):
            calls[0] += 1
            if calls[0] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call

    def live(folder, die_at):
        journal = Journal(folder)
        said = (folder.parent / f"{folder.name}.said").open("w", buffering=1)
        os.fsync = counted(os.fsync, die_at)
        for name in ("replace", "unlink", "open"):
            setattr(Path, name, counted(getattr(Path, name), die_at))
        for number in (1, 2, 3):
            update = PreparedUpdate(number, 1, b"1" * 32, b"2" * 32, "cid", 3, 4, bytes([number]) * 32)
            # What is kept is the memory as it is, so that settling can only add to it.
            kept = {"drift": journal.memory(3).get("drift", np.zeros(3, np.float32))}
            journal.save_update(update, b"payload %d" % number, np.full(3, number, np.float32), kept)
            print("committed", number, file=said)  # from here on the salt must be there
            settled = {"drift": journal.kept_with(number, 3)["drift"] + number}
            journal.resolve_update(number, counted=number != 2, memory=settled)
            print("resolved", number, file=said)

    for die_at in range(1, 120):
        if (child := os.fork()) == 0:
            live(Path(sys.argv[1], str(die_at)), die_at)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))
    sys.exit("no life came to its end")
    """
)


def test_journal__killed_before_every_system_call__loses_nothing_and_counts_nothing_twice(tmp_path):
    script, lives = tmp_path / "lives.py", tmp_path / "lives"
    script.write_text(LIVES)
    lives.mkdir()
    subprocess.run([sys.executable, script, lives], check=True)
    folders = [path for path in lives.iterdir() if path.is_dir()]
    for folder in folders:
        _check_state(folder, (lives / f"{folder.name}.said").read_text().splitlines())
    assert len(folders) > 40


COUNTED = (1, 3)


def _check_state(folder: Path, said: list[str]) -> None:
    journal = Journal(folder)
    try:
        last = max((number for number in (1, 2, 3) if f"committed {number}" in said), default=0)
        for number in (1, 2, 3):
            update = journal.update(number)
            if update is None:
                continue
            assert update.salt == bytes([number]) * 32
            assert journal.update_payload(number).read_bytes() == b"payload %d" % number
            # Found after a kill, it may be resolved for the second time.
            settled = {"drift": journal.kept_with(number, 3)["drift"] + number}
            journal.resolve_update(number, counted=number in COUNTED, memory=settled)
            last = max(last, number)
        counted = [number for number in COUNTED if number <= last]
        if counted:
            assert np.array_equal(journal.residual(3), np.full(3, counted[-1], np.float32))
            assert np.array_equal(journal.memory(3)["drift"], np.full(3, sum(counted), np.float32))
        else:
            assert journal.residual(3) is None
            assert journal.memory(3) == {}
    finally:
        journal.close()

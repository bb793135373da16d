"""A task whose data set is published: its workers take their shards by themselves, and send compressed updates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from theatre import theatre

from chainfl.cli.main import run
from chainfl.data.fetching import fetch_description
from chainfl.encoding.payload import max_update_bytes
from chainfl.registry.lineage import verify_lineage
from chainfl.simulation.demo import DemoConfig, participant_command, start_participant
from chainfl.tasks.cids import cid_text
from chainfl.tasks.state import Outcome, Role
from chainfl.training.datasets import load_dataset, save_folder
from chainfl.types import Cid, TaskId

pytestmark = [pytest.mark.e2e, pytest.mark.enable_socket]

# Phases end when everybody has acted, so long windows cost nothing, and a busy machine does not decide a test.
TASK = """
preset = "digits"
reward = "10"
rounds = 1
workers = 2
validators = 1
aggregators = 1
[dataset]
description_cid = "{cid}"
[payload]
compression = "deflate"
[windows]
commit = 300
reveal = 300
score_commit = 300
score_reveal = 300
slot = 300
"""


def chainfl_command(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints, with the scene's configuration."""
    capsys.readouterr()
    code = run(("--config", str(folder / "chainfl.toml"), *arguments))
    out, err = capsys.readouterr()
    assert code == 0, err
    return out.strip()


def with_shard(command: tuple[str, ...]) -> tuple[str, ...]:
    """A worker's command with its task's shard in place of data of its own."""
    at = command.index("--data")
    return (*command[:at], "--shard", "auto", *command[at + 2 :])


def test_task__names_shards__each_worker_trains_on_its_own_and_the_lineage_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with theatre(DemoConfig(folder, workers=2, validators=1)) as scene:
        stage = scene.stage
        save_folder(load_dataset("digits").train, folder / "digits")
        publish = ("data", "publish", str(folder / "digits"), "--licence", "CC-BY-4.0", "--shards", "2")
        cid = chainfl_command(folder, capsys, *publish)
        (folder / "task.toml").write_text(TASK.format(cid=cid))
        monkeypatch.setenv("CHAINFL_PRIVATE_KEY", stage.anvil.private_keys[1])
        create = ("task", "create", "--file", str(folder / "task.toml"), "--yes", "--json")
        task_id = TaskId(json.loads(chainfl_command(folder, capsys, *create))["task_id"])
        scene.stage = stage = replace(stage, task_id=task_id)
        for part in stage.cast.parts:
            if part.role is Role.WORKER:
                env = {"CHAINFL_PRIVATE_KEY": part.private_key}
                command = with_shard(participant_command(stage, part))
                scene.running[part.name] = scene.group.start(part.name, command, env)
            else:
                scene.running[part.name] = start_participant(stage, scene.group, part)
        scene.play_to_the_end()

        assert scene.outcomes() == [Outcome.FINAL]
        workers = [scene.account(name) for name in ("worker-1", "worker-2")]
        places = [stage.reader.members(task_id, Role.WORKER).index(account) for account in workers]
        loaded = [scene.await_event(name, "shard_loaded", 1) for name in ("worker-1", "worker-2")]
        told = fetch_description(stage.store, Cid(cid))
        assert [event["shard"] for event in loaded] == [place % 2 + 1 for place in places]
        assert [event["cid"] for event in loaded] == [told.shards[place].cid for place in places]
        for update in stage.reader.revealed_updates(task_id, 1, 0):
            num_params = stage.spec.format.num_params
            assert b'"deflate"' in stage.store.get_bytes(cid_text(update.cid), max_bytes=max_update_bytes(num_params))
        assert verify_lineage(stage.reader, stage.store, task_id).is_valid

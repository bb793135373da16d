"""A task whose model is the requester's own: published by command, trained by processes, and used at the end."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from theatre import Theatre, theatre
from torch import nn

import chainfl
from chainfl.cli.main import run
from chainfl.registry.lineage import verify_lineage
from chainfl.simulation.demo import DemoConfig, participant_command
from chainfl.tasks.state import Outcome, Role
from chainfl.training.datasets import load_folder
from chainfl.training.exported import load_exported
from chainfl.types import TaskId

pytestmark = [pytest.mark.e2e, pytest.mark.enable_socket]

# Phases end when everybody has acted, so long windows cost nothing, and a busy machine does not decide a test.
TASK = """
preset = "digits"
program = "model.pt2"
reward = "10"
rounds = 1
workers = 2
validators = 1
aggregators = 1
[windows]
commit = 300
reveal = 300
score_commit = 300
score_reveal = 300
slot = 300
"""


class Net(nn.Module):
    """None of the registered models: it has a batch norm and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.mix, self.head = (
            nn.Linear(64, 32),
            nn.BatchNorm1d(32),
            nn.Linear(32, 32),
            nn.Linear(32, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.stem(images.flatten(1))))
        logits: torch.Tensor = self.head(hidden + torch.relu(self.mix(hidden)))
        return logits


APP = """
from pathlib import Path
import chainfl, torch
from torch import nn
from chainfl.training.datasets import load_folder

{net}

def app():
    share = load_folder(Path("data/{share}"))
    return chainfl.App(Net(), (share.features, share.labels), nn.CrossEntropyLoss(label_smoothing=0.1))
"""


def enter_with_app(scene: Theatre, name: str) -> None:
    """Starts a worker with code of its own from the current folder, instead of with a folder of data."""
    part = next(part for part in scene.stage.cast.parts if part.name == name)
    Path("my_app.py").write_text(APP.format(net=inspect.getsource(Net), share=part.share))
    command = participant_command(scene.stage, part)
    at = command.index("--data")
    command = (*command[:at], "--app", "my_app:app", *command[at + 2 :])
    env = {"CHAINFL_PRIVATE_KEY": part.private_key, "OMP_NUM_THREADS": "1"}
    scene.running[name] = scene.group.start(name, command, env)


def export(path: Path) -> None:
    torch.manual_seed(0)
    batch = torch.export.Dim("batch")
    program = torch.export.export(Net(), (torch.zeros(4, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)


def chainfl_command(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints, with the scene's configuration."""
    capsys.readouterr()
    code = run(("--config", str(folder / "chainfl.toml"), *arguments))
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def test_task__program__is_trained_by_processes_and_its_lineage_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with theatre(DemoConfig(folder, workers=2, validators=1)) as scene:
        export(folder / "model.pt2")
        (folder / "task.toml").write_text(TASK)
        monkeypatch.setenv("CHAINFL_PRIVATE_KEY", scene.stage.anvil.private_keys[1])
        created = chainfl_command(
            folder, capsys, "task", "create", "--file", str(folder / "task.toml"), "--yes", "--json"
        )
        task_id = TaskId(json.loads(created)["task_id"])
        # The same cast, in this task instead of the one that the stage was set with.
        scene.stage = replace(scene.stage, task_id=task_id)
        monkeypatch.chdir(folder)
        names = [part.name for part in scene.stage.cast.parts]
        with_app = next(part.name for part in scene.stage.cast.parts if part.role is Role.WORKER)
        scene.enter(*(name for name in names if name != with_app))
        enter_with_app(scene, with_app)
        scene.play_to_the_end()

        assert scene.outcomes() == [Outcome.FINAL]
        assert [event for event in scene.events(with_app) if event["what"] == "published"], scene.logs()
        assert verify_lineage(scene.stage.reader, scene.stage.store, task_id).is_valid
        target = folder / "model.safetensors"
        chainfl_command(folder, capsys, "model", "pull", str(task_id), "--out", str(target))

    module = chainfl.load_model(target, load_exported(folder / "model.pt2"))
    test = load_folder(folder / "data" / "test")
    with torch.no_grad():
        guesses = module(torch.from_numpy(test.features)).argmax(dim=1)
    assert (guesses == torch.from_numpy(test.labels)).float().mean() > 0.5, "one round teaches it most digits"

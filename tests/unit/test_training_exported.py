"""Programs that a task brings along: real archives run as the original does, hostile ones run nothing."""

from __future__ import annotations

import copy
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from chainfl.errors import TrainingError
from chainfl.training import exported
from chainfl.training.datasets import Dataset
from chainfl.training.exported import OPERATORS, load_exported
from chainfl.training.settings import LocalTraining
from chainfl.training.state import state_layout, vector_of
from chainfl.training.trainer import LocalTrainer

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


class Net(nn.Module):
    """What image models are made of: convolution, batch norm, dropout, a tied layer, buffers, a split, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.drop = nn.Dropout(0.5)
        self.mix = nn.Linear(64, 64, bias=False)
        self.again = self.mix
        self.head = nn.Linear(32, 10)
        self.register_buffer("scale", torch.tensor([2.0]))
        self.offset = torch.full((1,), 0.25)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.max_pool2d(self.stem(images), 2).reshape(images.shape[0], -1)
        hidden = self.again(torch.tanh(self.mix(self.drop(hidden)))) * self.scale + self.offset
        left, right = hidden.split(32, dim=1)
        logits: torch.Tensor = self.head(torch.cat([left + right], dim=1))
        return logits


@pytest.fixture(scope="module")
def original() -> nn.Module:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def archive(original: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    batch = torch.export.Dim("batch", min=2, max=4096)
    program = torch.export.export(
        copy.deepcopy(original).train(), (torch.zeros(4, 1, 8, 8),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, path)
    return path


def rewritten(archive: Path, folder: Path, change: Callable[[dict[str, bytes]], None], **options: Any) -> Path:
    """A copy of the archive after `change` had its members, by their names below the archive's folder."""
    with zipfile.ZipFile(archive) as source:
        members = {name.partition("/")[2]: source.read(name) for name in source.namelist()}
    change(members)
    path = folder / "changed.pt2"
    with zipfile.ZipFile(path, "w", **options) as target:
        for name, data in members.items():
            target.writestr(f"net/{name}", data)
    return path


def edit_json(member: str, change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    def apply(members: dict[str, bytes]) -> None:
        value = json.loads(members[member])
        change(value)
        members[member] = json.dumps(value).encode()

    return apply


# --- real archives -------------------------------------------------------------------------------


def test_load_exported__real_archive__has_the_originals_state(archive, original):
    module = load_exported(archive)
    assert state_layout(module).hash() == state_layout(original).hash()
    np.testing.assert_array_equal(vector_of(module), vector_of(original))
    assert dict(module.state_dict()).keys() == dict(original.state_dict()).keys()
    assert module.get_parameter("again.weight") is module.get_parameter("mix.weight")


def test_load_exported__evaluation_mode__computes_what_the_original_does(archive, original):
    module, images = load_exported(archive).eval(), torch.randn(7, 1, 8, 8)
    torch.testing.assert_close(module(images), copy.deepcopy(original).eval()(images))


def test_load_exported__training_mode__updates_statistics_and_drops_out(archive, original):
    module, reference, images = load_exported(archive).train(), copy.deepcopy(original).train(), torch.randn(7, 1, 8, 8)
    torch.manual_seed(3)
    expected = reference(images)
    torch.manual_seed(3)
    torch.testing.assert_close(module(images), expected)
    torch.testing.assert_close(vector_of(module), vector_of(reference))


def test_load_exported__trained__is_the_same_as_training_the_original(archive, original):
    data = Dataset("d", np.random.default_rng(0).random((20, 1, 8, 8), np.float32), np.arange(20) % 10, 10)
    training = LocalTraining(steps=5, batch_size=8, learning_rate=0.1, momentum=0.9)
    trainers = [LocalTrainer(load_exported(archive)), LocalTrainer(copy.deepcopy(original))]
    ours, theirs = (trainer.train(trainer.initial_vector, data, training, seed=0).delta for trainer in trainers)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_load_exported__in_place_operator__leaves_the_callers_images(archive):
    images = torch.randn(2, 1, 8, 8)
    before = images.clone()
    load_exported(archive)(images)
    assert torch.equal(images, before)


# --- hostile archives ----------------------------------------------------------------------------


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_load_exported__pickle_in_members_that_are_not_needed__is_never_opened(archive, tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))

    def plant(members: dict[str, bytes]) -> None:
        members["data/sample_inputs/model.pt"] = bomb
        members["data/constants/model.pt"] = bomb
        members["extra/anything"] = bomb

    load_exported(rewritten(archive, tmp_path, plant))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(("member", "folder"), [(WEIGHTS, "weights"), (CONSTANTS, "constants")])
def test_load_exported__tensor_marked_as_pickled__is_refused_unopened(archive, tmp_path, member, folder):
    def plant(members: dict[str, bytes]) -> None:
        config = json.loads(members[member])
        name = next(iter(config["config"]))
        config["config"][name]["use_pickle"] = True
        members[f"data/{folder}/{config['config'][name]['path_name']}"] = pickle.dumps(Bomb(tmp_path / "exploded"))
        members[member] = json.dumps(config).encode()

    with pytest.raises(TrainingError, match="pickled"):
        load_exported(rewritten(archive, tmp_path, plant))
    assert not (tmp_path / "exploded").exists()


def test_load_exported__code_in_guards__is_not_run(archive, tmp_path):
    code = f"__import__('pathlib').Path({str(tmp_path / 'exploded')!r}).touch()"
    path = rewritten(archive, tmp_path, edit_json(GRAPH, lambda program: program.update(guards_code=[code])))
    load_exported(path)(torch.zeros(2, 1, 8, 8))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "_operator.setitem",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__",
        "torch.load",
        "",
    ],
)
def test_load_exported__operator_outside_the_list__is_refused(archive, tmp_path, target):
    def change(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"][0]["target"] = target

    with pytest.raises(TrainingError, match="not among the operators"):
        load_exported(rewritten(archive, tmp_path, edit_json(GRAPH, change)))


def test_operators__every_name__exists_in_torch():
    for name in OPERATORS:
        packet, _, overload = name.partition(".")
        assert callable(getattr(getattr(torch.ops.aten, packet), overload))


def node(place: int, **changes: Any) -> Callable[[Any], None]:
    return lambda program: program["graph_module"]["graph"]["nodes"][place].update(changes)


def signature(key: str, value: Any) -> Callable[[Any], None]:
    return lambda program: program["graph_module"]["signature"].__setitem__(key, value)


def argument(kind: str, value: Any) -> Callable[[Any], None]:
    return lambda program: program["graph_module"]["graph"]["nodes"][0]["inputs"][0].update(arg={kind: value})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda program: program.clear(), "well-formed"),
        (lambda program: program["schema_version"].update(major=9), "schema 9"),
        (lambda program: program["graph_module"].update(graph=[]), "well-formed"),
        (node(0, outputs=[]), "well-formed"),
        (node(0, outputs=[{"as_graph": {}}]), "as_graph"),
        (node(0, outputs=[{"as_tensor": {"name": "elsewhere"}}]), "before it exists"),
        (argument("as_tensor", {"name": "nowhere"}), "before it exists"),
        (argument("as_operator", "os.system"), "as_operator"),
        (argument("as_string_to_argument", {}), "as_string_to_argument"),
        (argument("as_ints", [1.5]), "well-formed"),
        (argument("as_int", True), "well-formed"),
        (signature("output_specs", []), "one tensor"),
        (signature("output_specs", [{"buffer_mutation": {}}]), "run_decompositions"),
        (signature("output_specs", [{"user_output": {"arg": {"as_tensor": {"name": "nowhere"}}}}]), "does not exist"),
        (signature("input_specs", []), "takes 0 inputs"),
        (signature("input_specs", [{"custom_obj": {}}]), "custom_obj"),
        (signature("input_specs", [{"parameter": {"arg": {"name": "a"}, "parameter_name": "a b"}}]), "name"),
    ],
)
def test_load_exported__malformed_graph__is_refused(archive, tmp_path, change, problem):
    with pytest.raises(TrainingError, match=problem):
        load_exported(rewritten(archive, tmp_path, edit_json(GRAPH, change)))


@pytest.mark.parametrize("name", ["forward", "training", "_graph", "state_dict.x", "__class__.y", "_parameters.z"])
def test_load_exported__parameter_named_like_an_attribute__is_refused(archive, tmp_path, name):
    def rename(members: dict[str, bytes]) -> None:
        for member in (GRAPH, WEIGHTS):
            members[member] = members[member].replace(b'"head.bias"', json.dumps(name).encode())

    with pytest.raises(TrainingError):
        load_exported(rewritten(archive, tmp_path, rename))


def weight(**changes: Any) -> Callable[[Any], None]:
    return lambda config: config["config"]["head.weight"]["tensor_meta"].update(changes)


def ints(*values: int) -> list[dict[str, int]]:
    return [{"as_int": value} for value in values]


@pytest.mark.parametrize(
    "change",
    [
        weight(sizes=ints(1 << 40, 32)),
        weight(sizes=ints(11, 32)),
        weight(sizes=ints(-1, 32)),
        weight(sizes=[{"as_expr": {"expr_str": "__import__('os')"}}] * 2),
        weight(strides=ints(0, 0)),
        weight(strides=ints(1, 10)),
        weight(storage_offset={"as_int": 1}),
        weight(storage_offset={"as_int": -1}),
        weight(dtype=9),
        weight(dtype=5),
        lambda config: config["config"]["head.weight"].update(path_name="../../../models/model.json"),
        lambda config: config["config"].pop("head.weight"),
    ],
)
def test_load_exported__weight_outside_of_its_file__is_refused(archive, tmp_path, change):
    with pytest.raises(TrainingError):
        load_exported(rewritten(archive, tmp_path, edit_json(WEIGHTS, change)))


def test_load_exported__compressed_members__are_refused_before_reading(archive, tmp_path):
    with pytest.raises(TrainingError, match="compressed"):
        load_exported(rewritten(archive, tmp_path, lambda _: None, compression=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_ARCHIVE_BYTES", 1000), ("MAX_MEMBERS", 3), ("MAX_GRAPH_BYTES", 99), ("MAX_NODES", 2)]
)
def test_load_exported__larger_than_a_limit__is_refused(archive, monkeypatch, limit, value):
    monkeypatch.setattr(exported, limit, value)
    with pytest.raises(TrainingError, match="than"):
        load_exported(archive)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04."])
def test_load_exported__not_an_archive__is_refused(tmp_path, data):
    (tmp_path / "x.pt2").write_bytes(data)
    with pytest.raises(TrainingError, match=r"not a torch\.export archive"):
        load_exported(tmp_path / "x.pt2")


def test_load_exported__cut_archive__is_refused(archive, tmp_path):
    (tmp_path / "x.pt2").write_bytes(archive.read_bytes()[:-50])
    with pytest.raises(TrainingError):
        load_exported(tmp_path / "x.pt2")


def test_load_exported__other_byte_order_or_missing_member__is_refused(archive, tmp_path):
    with pytest.raises(TrainingError, match="little-endian"):
        load_exported(rewritten(archive, tmp_path, lambda members: members.update(byteorder=b"big")))
    with pytest.raises(TrainingError, match="well-formed"):
        load_exported(rewritten(archive, tmp_path, lambda members: members.pop(GRAPH)))


def test_forward__operator_that_fails__is_a_training_error(archive):
    with pytest.raises(TrainingError, match=r"aten\.conv2d"):
        load_exported(archive)(torch.zeros(2, 3, 8, 8))

"""What a requester publishes: a registered model or a program of its own, and what is wrong with either."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_chain import MemoryStore
from torch import nn

import chainfl
from chainfl.agents import requester
from chainfl.agents.genesis import check_genesis_state
from chainfl.agents.learning import make_trainer
from chainfl.agents.requester import ProgramFile, TaskDraft, publish_task
from chainfl.encoding.chunk_tree import zero_state_root
from chainfl.encoding.fixed_point import dequantize_model
from chainfl.encoding.payload import FLOAT_ARCHITECTURE, ModelMetadata, read_checkpoint, read_model
from chainfl.errors import ProgramRefused, SpecificationError, TrainingError, UsageError
from chainfl.storage.unixfs import cid_of
from chainfl.tasks.spec import LOCAL_WINDOWS, DatasetEntry, ProgramModel, RegisteredModel, TaskSpec, architecture_of
from chainfl.tasks.state import EVERYBODY, Bounds, Draw, Rule, ServerKind
from chainfl.training.exported import load_exported
from chainfl.training.state import vector_of

DATA = DatasetEntry(name="tiny", input_shape=[2, 3], num_classes=4)
DRAFT = TaskDraft(
    name="t",
    dataset=DATA,
    model="mlp",
    model_params={"in_features": 6, "num_classes": 4, "hidden": 5},
    model_seed=3,
    rounds=2,
    steps=1,
    batch_size=4,
    learning_rate="0.1",
    reward=10**18,
    enrolment_end=1_800_000_000,
    workers=Bounds(1, 2),
    validators=Bounds(1, 1),
    aggregators=Bounds(1, 1),
    windows=LOCAL_WINDOWS,
)


class Net(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.hidden, self.norm, self.head = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(self.norm(self.hidden(x.view(x.shape[0], 6)))))
        return logits


class Sine(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.sin(x))


def export(module: nn.Module, path: Path, *, dynamic: bool = True) -> Path:
    batch = torch.export.Dim("batch")
    shapes = ({0: batch},) if dynamic else None
    torch.export.save(torch.export.export(module, (torch.zeros(4, 2, 3),), dynamic_shapes=shapes), path)
    return path


def with_program(path: Path) -> TaskDraft:
    return replace(DRAFT, model=ProgramFile(path), model_params={}, model_seed=0)


def float_labels(store: MemoryStore, spec: TaskSpec) -> dict[str, str]:
    blob = store.blobs[spec.genesis.float_cid]
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    labels: dict[str, str] = header["__metadata__"]
    return labels


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def program(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(net, tmp_path_factory.mktemp("program") / "model.pt2")


# --- what is published ---------------------------------------------------------------------------


def test_publish__registered_model__is_named_in_specification_and_file():
    store = MemoryStore()
    spec = publish_task(DRAFT, store)
    assert spec.model == RegisteredModel(name="mlp", params=dict(DRAFT.model_params), seed=3)
    assert float_labels(store, spec)[FLOAT_ARCHITECTURE] == architecture_of(spec.model)
    assert len(store.blobs) == 3


def test_publish__program__is_in_the_store_as_the_specification_says(program):
    store = MemoryStore()
    spec = publish_task(with_program(program), store)
    data = program.read_bytes()
    assert spec.model == ProgramModel(cid=cid_of(data), sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))
    assert store.blobs[spec.model.cid] == data
    assert float_labels(store, spec)[FLOAT_ARCHITECTURE] == architecture_of(spec.model)


def test_publish__program__genesis_is_its_own_weights(program, net):
    store = MemoryStore()
    spec = publish_task(with_program(program), store)
    metadata = ModelMetadata(bytes.fromhex(spec.layout.hash), DRAFT.model_scale_bits)
    values = read_model(store.blobs[spec.genesis.cid], num_params=spec.format.num_params, expected=metadata)
    exact = dequantize_model(values, DRAFT.model_scale_bits)
    np.testing.assert_allclose(exact, vector_of(net), atol=2**-20)
    assert "norm.running_var" in [tensor.name for tensor in spec.layout.tensors]


def test_publish__program__is_what_a_worker_loads(program, tmp_path):
    store = MemoryStore()
    spec = publish_task(with_program(program), store)
    trainer = make_trainer(spec, store, tmp_path)
    assert trainer.layout.hash().hex() == spec.layout.hash


def test_load_model__file_of_a_programs_task__goes_into_the_program(program, net, tmp_path):
    store = MemoryStore()
    spec = publish_task(with_program(program), store)
    path = tmp_path / "model.safetensors"
    path.write_bytes(store.blobs[spec.genesis.float_cid])
    module, examples = chainfl.load_model(path, load_exported(program)), torch.randn(7, 2, 3)
    torch.testing.assert_close(module(examples), net.eval()(examples), atol=1e-4, rtol=1e-4)
    with pytest.raises(TrainingError, match=r"load_model\(path, module\)"):
        chainfl.load_model(path)


# --- what cannot be published --------------------------------------------------------------------


def test_publish__program_with_an_operator_that_is_not_allowed__names_it_and_stores_nothing(tmp_path):
    store = MemoryStore()
    with pytest.raises(ProgramRefused, match=r"aten\.sin") as caught:
        publish_task(with_program(export(Sine(), tmp_path / "sine.pt2")), store)
    assert "Bringing your own model" in caught.value.hint
    assert store.blobs == {}


def test_publish__file_that_is_no_program__is_refused(tmp_path):
    (tmp_path / "junk").write_bytes(b"junk")
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    for name in ("junk", "weights.pt"):
        with pytest.raises(ProgramRefused, match=r"torch\.export archive"):
            publish_task(with_program(tmp_path / name), MemoryStore())


def test_publish__program_that_is_not_there__is_told(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        publish_task(with_program(tmp_path / "absent"), MemoryStore())


def test_publish__program_changes_meanwhile__is_refused(program, tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"
    path.write_bytes(program.read_bytes())

    def load_and_save_again(source):
        module = load_exported(source)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("model/extra/epoch", "2")
        return module

    monkeypatch.setattr(requester, "load_exported", load_and_save_again)
    with pytest.raises(ProgramRefused, match="changed"):
        publish_task(with_program(path), MemoryStore())


@pytest.mark.parametrize("changes", [{"model_seed": 1}, {"model_params": {"hidden": 1}}])
def test_publish__program_with_a_registered_models_settings__is_refused(program, changes):
    with pytest.raises(SpecificationError, match="no parameters and no seed"):
        publish_task(replace(with_program(program), **changes), MemoryStore())


def test_publish__program_for_one_batch_size__says_what_it_needs(tmp_path):
    with pytest.raises(SpecificationError, match="dynamic_shapes"):
        publish_task(with_program(export(Net(), tmp_path / "fixed.pt2", dynamic=False)), MemoryStore())


@pytest.mark.parametrize("changes", [{"input_shape": [2, 4]}, {"num_classes": 5}, {"input_shape": [1 << 24] * 3}])
def test_publish__model_that_does_not_fit_the_data__is_told_before_money_moves(program, changes):
    dataset = DATA.model_copy(update=changes)
    for draft in (with_program(program), DRAFT):
        with pytest.raises(SpecificationError, match="cannot tell"):
            publish_task(replace(draft, dataset=dataset), MemoryStore())


def test_publish__several_wrong_settings__are_all_told():
    with pytest.raises(SpecificationError) as caught:
        publish_task(replace(DRAFT, steps=0, learning_rate="fast", rounds=0), MemoryStore())
    for word in ("training.steps", "training.learning_rate", "rounds"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("server", "more", "moments"),
    [
        (ServerKind.MOMENTUM, {}, 1),
        (ServerKind.YOGI, {"second_num": 99, "second_den": 100, "tau": 16_777}, 2),
    ],
)
def test_publish__server_with_a_state__puts_one_of_zeros_next_to_the_model(server, more, moments):
    store = MemoryStore()
    spec = publish_task(replace(DRAFT, server=server, momentum_num=9, momentum_den=10, **more), store)
    check_genesis_state(spec)
    metadata = ModelMetadata(bytes.fromhex(spec.layout.hash), 20)
    num_params = spec.format.num_params
    state_params = moments * num_params
    found = read_checkpoint(
        store.blobs[spec.genesis.cid], num_params=num_params, state_params=state_params, expected=metadata
    )
    assert found.state is not None
    assert not found.state.any()
    assert spec.to_params().genesis_state_root == zero_state_root(spec.format)


@pytest.mark.parametrize(("server", "warned"), [(ServerKind.NESTEROV, True), (ServerKind.PLAIN, False)])
def test_publish__program_with_running_statistics__is_warned_of_where_the_server_has_a_state(program, server, warned):
    momentum = {"momentum_num": 9, "momentum_den": 10} if warned else {}
    warnings: list[str] = []
    publish_task(replace(with_program(program), server=server, **momentum), MemoryStore(), warnings.append)
    assert [text.partition(",")[0] for text in warnings] == ["running_statistics: norm.running_mean"] * warned


@pytest.mark.parametrize(
    ("num_workers", "draw", "warned"),
    [(4, EVERYBODY, True), (5, EVERYBODY, False), (9, Draw(4), True), (9, Draw(5), False)],
)
def test_publish__trimmed_mean_of_fewer_than_it_drops_one_of__is_warned_of(num_workers, draw, warned):
    trimmed = {"rule": Rule.TRIMMED_MEAN, "trim_num": 1, "trim_den": 5}
    warnings: list[str] = []
    draft = replace(DRAFT, workers=Bounds(1, num_workers), draw=draw, **trimmed)
    publish_task(draft, MemoryStore(), warnings.append)
    assert [text.partition(":")[0] for text in warnings] == ["nothing_trimmed"] * warned


def test_publish__rule_that_a_task_cannot_have__is_told_with_all_else():
    draft = replace(DRAFT, rule=Rule.MEDIAN, group_size=1, trim_num=1, trim_den=5, rounds=0)
    with pytest.raises(SpecificationError) as caught:
        publish_task(draft, MemoryStore())
    assert "rounds" in str(caught.value)
    with pytest.raises(SpecificationError) as caught:
        publish_task(replace(draft, rounds=1), MemoryStore())
    assert all(word in str(caught.value) for word in ("trims nothing", "one group"))

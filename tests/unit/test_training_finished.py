"""Given a registry's float32 file, when it is loaded, then it is a module that answers, or a clear error."""

import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import chainfl
from chainfl.encoding.fixed_point import quantize_model
from chainfl.encoding.payload import FLOAT_ARCHITECTURE, write_float_model
from chainfl.errors import TrainingError
from chainfl.tasks.spec import RegisteredModel, architecture_of
from chainfl.training.models import build_model
from chainfl.training.state import state_layout, vector_of

PARAMS = {"in_features": 6, "num_classes": 3, "hidden": 4, "layers": 1}
ARCHITECTURE = architecture_of(RegisteredModel(name="mlp", params=PARAMS, seed=7))


def written(path: Path, module: nn.Module, architecture: str | None) -> Path:
    stream = io.BytesIO()
    quantized = quantize_model(vector_of(module), 20)
    write_float_model(stream, state_layout(module), quantized.values, 20, architecture)
    path.write_bytes(stream.getvalue())
    return path


def test_load_model__file_that_names_its_model__answers_as_the_model_did(tmp_path):
    module = build_model("mlp", PARAMS, seed=1)
    loaded = chainfl.load_model(written(tmp_path / "m.safetensors", module, ARCHITECTURE))
    examples = torch.randn(5, 6)
    torch.testing.assert_close(loaded(examples), module(examples), atol=1e-5, rtol=1e-5)
    assert not loaded.training


def test_load_model__module_given__its_tensors_are_replaced(tmp_path):
    module = build_model("mlp", PARAMS, seed=1)
    into = build_model("mlp", PARAMS, seed=2)
    assert chainfl.load_model(written(tmp_path / "m.safetensors", module, None), into) is into
    torch.testing.assert_close(vector_torch(into), vector_torch(module), atol=1e-6, rtol=0)


def test_load_model__module_with_integer_buffers__they_stay(tmp_path):
    module = nn.BatchNorm1d(4)
    loaded = chainfl.load_model(written(tmp_path / "m.safetensors", module, None), nn.BatchNorm1d(4))
    assert loaded.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        (None, "does not say which model"),
        ("not json", "does not say which model"),
        ("[1]", "does not say which model"),
        (json.dumps({"kind": "program", "cid": "x"}), "has no name for"),
        (json.dumps({"kind": "registered", "name": "mlp", "params": [], "seed": 0}), "has no name for"),
        (json.dumps({"kind": "registered", "name": "nothing", "params": {}, "seed": 0}), "no model is registered"),
        (ARCHITECTURE.replace('"hidden":4', '"hidden":60000'), "larger model than it holds"),
        (ARCHITECTURE.replace('"hidden":4', '"hidden":3'), "shape"),
    ],
)
def test_load_model__file_that_names_no_known_model__refused(tmp_path, architecture, says):
    path = written(tmp_path / "m.safetensors", build_model("mlp", PARAMS, seed=1), architecture)
    with pytest.raises(TrainingError, match=says):
        chainfl.load_model(path)


def test_load_model__other_tensors__named(tmp_path):
    save_file({"other": torch.zeros(100)}, tmp_path / "m.safetensors", {FLOAT_ARCHITECTURE: ARCHITECTURE})
    with pytest.raises(TrainingError, match="only one of them has"):
        chainfl.load_model(tmp_path / "m.safetensors")


def test_load_model__no_safetensors__refused(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(TrainingError, match="cannot read"):
        chainfl.load_model(tmp_path / "m.safetensors")
    with pytest.raises(TrainingError, match="cannot read"):
        chainfl.load_model(tmp_path / "absent.safetensors")


def vector_torch(module: nn.Module) -> torch.Tensor:
    return torch.from_numpy(vector_of(module))

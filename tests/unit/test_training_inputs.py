"""What users have: modules, names, archives, arrays, tensors, torch data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

from chainfl.errors import DatasetError, DatasetMissing, UsageError
from chainfl.training.datasets import Dataset, DatasetSplits, load_npz, save_folder
from chainfl.training.inputs import as_dataset, as_model, as_splits
from chainfl.training.models import build_model
from chainfl.training.prediction import predict
from chainfl.training.state import vector_of
from chainfl.training.trainer import LocalTrainer

FEATURES = np.linspace(0, 1, 24, dtype=np.float32).reshape(6, 4)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def test_as_dataset__arrays_tensors_and_torch_sets__are_the_same_examples():
    pair = as_dataset((FEATURES, LABELS), "data")
    tensors = as_dataset((torch.from_numpy(FEATURES), torch.from_numpy(LABELS)), "data")
    torches = as_dataset(TensorDataset(torch.from_numpy(FEATURES), torch.from_numpy(LABELS)), "data")
    for dataset in (pair, tensors, torches):
        assert (dataset.features == FEATURES).all()
        assert dataset.labels.tolist() == LABELS.tolist()
        assert dataset.num_classes == 3
        assert dataset.features.dtype == np.float32


PIXELS = np.arange(24, dtype=np.uint8).reshape(6, 4) * 11


@pytest.mark.parametrize(
    "given",
    [
        (PIXELS, LABELS),
        (torch.from_numpy(PIXELS), LABELS),
        TensorDataset(torch.from_numpy(PIXELS), torch.from_numpy(LABELS)),
    ],
    ids=["arrays", "tensors", "torch set"],
)
def test_as_dataset__pixels__are_what_a_folder_with_the_same_bytes_gives(tmp_path, given):
    dataset = as_dataset(given, "data")
    np.savez(tmp_path / "dataset.npz", features=PIXELS, labels=LABELS)
    assert (dataset.features == load_npz(tmp_path / "dataset.npz").features).all()
    assert dataset.features.max() == pytest.approx(253 / 255)
    assert (load_npz(save_folder(dataset, tmp_path / "saved")).features == dataset.features).all()


def test_as_dataset__other_integers__are_taken_as_they_are():
    assert as_dataset((PIXELS.astype(np.int32), LABELS), "data").features.max() == PIXELS.max()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((FEATURES, LABELS[:2]), "labels"),
        ((FEATURES[:0], LABELS[:0]), "no examples"),
        ((FEATURES, LABELS - 1), "from 0"),
        ((FEATURES, LABELS.astype(float)), "classes counted from 0"),
        ((FEATURES * np.nan, LABELS), "finite"),
        ((LABELS, LABELS), "no examples"),
        ((["a"] * 6, LABELS), "transform"),
    ],
)
def test_as_dataset__not_examples__is_told(given, told):
    with pytest.raises(DatasetError, match=told):
        as_dataset(given, "data")


TORCH = TensorDataset(torch.from_numpy(FEATURES), torch.from_numpy(LABELS))
PAIRS = list(zip(FEATURES, LABELS, strict=True))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(PAIRS)


def halved(batch):
    features, labels = zip(*batch, strict=True)
    return torch.stack(features) / 2, torch.tensor(labels)


@pytest.mark.parametrize(
    "given",
    [
        DataLoader(TORCH, batch_size=4, shuffle=True),
        DataLoader(TORCH, batch_size=4, drop_last=True),
        DataLoader(TORCH, batch_size=None),
        DataLoader(Stream(), batch_size=4),
        Stream(),
        PAIRS,
        (FEATURES, LABELS[:, None]),
        [(features, np.array([label])) for features, label in PAIRS],
    ],
)
def test_as_dataset__loader_stream_pairs_or_column_of_labels__is_the_set_in_its_order(given):
    dataset = as_dataset(given, "data")
    assert (dataset.features == FEATURES).all()
    assert dataset.labels.tolist() == LABELS.tolist()


def test_as_dataset__loader_with_a_collate_function__has_what_it_makes():
    dataset = as_dataset(DataLoader(TORCH, batch_size=4, collate_fn=halved), "data")
    assert (dataset.features == FEATURES / 2).all()
    assert dataset.labels.tolist() == LABELS.tolist()


def test_as_dataset__loader_with_a_sampler__has_its_examples_or_is_refused():
    chosen = as_dataset(DataLoader(TORCH, sampler=SubsetRandomSampler([4, 1])), "data")
    assert (chosen.features == FEATURES[[1, 4]]).all()
    with pytest.raises(UsageError, match="Subset"):
        as_dataset(DataLoader(TORCH, sampler=WeightedRandomSampler([1.0] * 6, 3)), "data")


def with_value(index: int, value: float):
    changed = FEATURES.copy()
    changed[index, 1] = value
    return changed


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((with_value(3, np.nan), LABELS), r"example 3 has nan at \[1\]"),
        ((FEATURES.astype(float) * 1e300, LABELS), "example 0 has .*e.* float32"),
        ((FEATURES, np.array([0, 1, 2, -1, 0, 1])), "example 3 has label -1"),
        ((FEATURES, LABELS / 2), "regression is not supported"),
        ([(features, 0.5) for features in FEATURES], "regression is not supported"),
        ((FEATURES, np.eye(3)[LABELS].astype(int)), "argmax"),
        ((FEATURES[:0], LABELS[:0]), "is empty"),
        (TensorDataset(torch.zeros(0, 4), torch.zeros(0)), "is empty"),
        (([[1, 2], [3]], [0, 1]), "no array"),
        ([({"x": 1},), *PAIRS], "pair"),
        (DataLoader([{"x": 1}], collate_fn=lambda batch: {"x": 1}), "dict"),
    ],
)
def test_as_dataset__wrong_example__is_told_with_its_place(given, told):
    with pytest.raises((DatasetError, UsageError), match=told):
        as_dataset(given, "data")


@pytest.mark.parametrize(("which", "labels"), [("training", LABELS), ("test", LABELS % 2)])
def test_as_splits__label_beyond_the_classes__is_told_with_set_and_place(which, labels):
    with pytest.raises(DatasetError, match=rf"the {which} set: example 2 has label 2, .* num_classes=3"):
        as_splits((FEATURES, labels), (FEATURES, LABELS), num_classes=2)


def test_as_splits__datasets_with_num_classes__have_so_many():
    assert as_splits(Dataset("d", FEATURES, LABELS, 3), num_classes=5).train.num_classes == 5
    with pytest.raises(DatasetError, match="example 1 has label 1"):
        as_splits(Dataset("d", FEATURES, LABELS, 3), num_classes=1)
    with pytest.raises(UsageError, match="num_classes"):
        as_splits((FEATURES, LABELS), num_classes="three")  # type: ignore[arg-type]


def test_as_splits__folder_as_text__is_a_path(tmp_path):
    with pytest.raises(DatasetMissing):
        as_splits("mnist", data_dir=str(tmp_path))


@pytest.mark.parametrize("given", [42, None, [FEATURES, LABELS]])
def test_as_dataset__something_else__is_a_usage_error(given):
    with pytest.raises(UsageError, match="pair"):
        as_dataset(given, "data")


def test_as_splits__test_with_more_classes__gives_both_the_same_number():
    splits = as_splits((FEATURES, LABELS % 2), (FEATURES, LABELS), num_classes=3)
    assert splits.test is not None
    assert splits.train.num_classes == splits.test.num_classes == 3


def test_as_splits__own_test_set__is_kept_unless_another_is_given():
    train, test = as_dataset((FEATURES, LABELS), "a"), as_dataset((FEATURES, LABELS), "b")
    kept = as_splits(DatasetSplits(train, test)).test
    assert kept is not None
    assert kept.name == "b"
    given = as_splits(DatasetSplits(train, test), (FEATURES[:3], LABELS[:3])).test
    assert given is not None
    assert len(given) == 3


def test_as_splits__shapes_or_labels_that_differ__are_refused():
    with pytest.raises(DatasetError, match="shape"):
        as_splits((FEATURES, LABELS), (FEATURES[:, :2], LABELS))
    with pytest.raises(DatasetError, match="label"):
        as_splits((FEATURES, LABELS), (FEATURES, LABELS), num_classes=2)
    with pytest.raises(UsageError, match="digits"):
        as_splits("imagenet")


def test_as_model__name__takes_what_it_can_from_the_data():
    given = as_model("cnn", (1, 8, 8), 10, {"hidden": 4}, seed=3)
    assert given.params == {"in_channels": 1, "height": 8, "width": 8, "num_classes": 10, "hidden": 4}
    assert (vector_of(given.module) == vector_of(build_model("cnn", given.params, 3))).all()
    assert as_model("mlp", (1, 8, 8), 10, None, seed=0).params == {"in_features": 64, "num_classes": 10}


def test_as_model__module__is_copied():
    module = nn.Linear(4, 3)
    given = as_model(module, (4,), 3, None, seed=0)
    with torch.no_grad():
        module.weight.zero_()
    assert given.module.weight.abs().sum() > 0  # type: ignore[union-attr, operator]
    assert (given.name, given.title) == (None, "Linear")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, examples):
        return self.layer(examples)


def test_as_model__exported_program_or_its_archive__is_the_module_that_a_worker_runs(tmp_path):
    module = Net()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(module, (torch.zeros(2, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    archive, loaded = as_model(tmp_path / "net.pt2", (4,), 3, None, 0), as_model(program, (4,), 3, None, 0)
    examples = torch.rand(5, 4)
    assert (archive.title, archive.archive) == ("net", tmp_path / "net.pt2")
    assert torch.equal(archive.module(examples), module(examples))
    assert torch.equal(loaded.module(examples), module(examples))


@pytest.mark.parametrize("given", ["resnet9000", 7, Path("weights.bin")])
def test_as_model__something_else__is_a_usage_error(given):
    with pytest.raises(UsageError):
        as_model(given, (4,), 3, None, seed=0)


def test_as_model__params_beside_a_module__is_a_usage_error():
    with pytest.raises(UsageError, match="registered"):
        as_model(nn.Linear(4, 3), (4,), 3, {"hidden": 2}, seed=0)


def test_predict__any_set__has_the_bits_of_the_trainers_evaluation():
    rng = np.random.default_rng(0)
    dataset = Dataset("d", rng.normal(size=(700, 4)).astype(np.float32), rng.integers(0, 3, 700), 3)
    module = nn.Linear(4, 3)
    trainer = LocalTrainer(module)
    found = predict(module, trainer.initial_vector, dataset, functional.cross_entropy)
    expected = trainer.evaluate(trainer.initial_vector, dataset)
    assert float((found.classes == dataset.labels).mean()) == expected.accuracy
    assert found.loss == expected.loss

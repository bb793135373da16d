"""A PyTorch user's own objects as chainfl's: models, data sets, pairs of arrays, torch data sets."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from chainfl.errors import DatasetError, UsageError
from chainfl.scratch import scratch_folder
from chainfl.training.datasets import BUILT_IN, Dataset, DatasetSplits, load_dataset
from chainfl.training.exported import load_exported
from chainfl.training.models import MODELS, build_model

_IMAGE_SIDES = ("in_channels", "height", "width")


@dataclass(frozen=True, slots=True, eq=False)
class GivenModel:
    """A module of our own to train, and what it came from: a registered name, an archive, or neither.

    The caller's module is copied, and stays as it was.
    """

    module: nn.Module
    title: str
    name: str | None = None
    params: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    archive: Path | None = None


def as_model(
    given: object, example_shape: tuple[int, ...], num_classes: int, params: Mapping[str, int] | None, seed: int
) -> GivenModel:
    """From a registered name, a module, a `.pt2` archive's path or an ExportedProgram.

    params: of a registered model; what follows from the data may be left out. seed: of its weights.
    Raises UsageError for anything else, and what `build_model` and `load_exported` raise.
    """
    if isinstance(given, str) and given in MODELS:
        known = {**_params_of_data(given, example_shape, num_classes), **(params or {})}
        return GivenModel(build_model(given, known, seed), given, given, known, seed)
    if params:
        raise UsageError("model_params go with a registered model's name")
    if isinstance(given, nn.Module):
        return GivenModel(copy.deepcopy(given), type(given).__name__)
    if isinstance(given, str | Path) and Path(given).suffix == ".pt2":
        return GivenModel(load_exported(Path(given)), Path(given).stem, archive=Path(given))
    if isinstance(given, str):
        raise UsageError(f"no model is registered as {given!r}; there are {', '.join(MODELS)}, or the path of a .pt2")
    return GivenModel(_loaded(given), "program")


def _loaded(given: object) -> nn.Module:
    """An ExportedProgram as it would run on a worker's machine."""
    from torch.export import ExportedProgram, save

    if not isinstance(given, ExportedProgram):
        raise UsageError(f"a model is a module, a registered name or an exported program, not {type(given).__name__}")
    with scratch_folder() as folder:
        path = folder / "model.pt2"
        save(given, path)
        return load_exported(path)


def _params_of_data(name: str, shape: tuple[int, ...], num_classes: int) -> dict[str, int]:
    if name == "mlp":
        return {"in_features": math.prod(shape), "num_classes": num_classes}
    sides = dict(zip(_IMAGE_SIDES, shape, strict=True)) if len(shape) == len(_IMAGE_SIDES) else {}
    return {**sides, "num_classes": num_classes}


def as_splits(
    given: object, test: object | None = None, *, data_dir: Path | None = None, num_classes: int | None = None
) -> DatasetSplits:
    """A training set with the test set that goes with it, None where there is none.

    given, test: a built-in name (given alone), Dataset, DatasetSplits (given alone), a (features, labels) pair of
    arrays or tensors, or a torch Dataset of such examples. num_classes: where the labels do not show all.
    Raises UsageError for anything else, and DatasetError for data that cannot be trained on.
    """
    if isinstance(given, str):
        if given not in BUILT_IN:
            raise UsageError(f"no data set is called {given!r}; there are {', '.join(BUILT_IN)}")
        given = load_dataset(given, data_dir)
    if isinstance(given, DatasetSplits):
        train, own_test = given.train, given.test
    else:
        train, own_test = as_dataset(given, "data", num_classes), None
    held_out = own_test if test is None else as_dataset(test, "test data", num_classes or train.num_classes)
    return _agreeing(train, held_out)


def as_dataset(given: object, name: str, num_classes: int | None = None) -> Dataset:
    """One set. Raises as `as_splits`."""
    if isinstance(given, Dataset):
        return given
    if isinstance(given, tuple) and len(given) == 2:
        return _from_pair(given[0], given[1], name, num_classes)
    if isinstance(given, TorchDataset):
        return _from_pair(*_stacked(given, name), name, num_classes)
    raise UsageError(
        f"{name}: a data set is a chainfl Dataset, a (features, labels) pair or a torch Dataset, "
        f"not {type(given).__name__}"
    )


def _from_pair(features: Any, labels: Any, name: str, num_classes: int | None) -> Dataset:
    values, targets = _array(features, name), _array(labels, name)
    if values.ndim < 2 or targets.ndim != 1 or not len(targets):
        raise DatasetError(f"{name}: features of {values.shape} with labels of {targets.shape} are no examples")
    if targets.dtype.kind not in "iu" or targets.min() < 0:
        raise DatasetError(f"{name}: labels are classes counted from 0, not {targets.dtype}")
    if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise DatasetError(f"{name}: features are finite numbers, not {values.dtype}")
    return Dataset(
        name,
        values.astype(np.float32, copy=False),
        targets.astype(np.int64, copy=False),
        int(targets.max()) + 1 if num_classes is None else num_classes,
    )


def _stacked(given: TorchDataset[Any], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Every example of a map-style set, once."""
    if not isinstance(given, Sized) or not len(given):
        raise DatasetError(f"{name}: a torch Dataset here has a length and examples")
    features, labels = [], []
    for i in range(len(given)):
        example = given[i]
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise DatasetError(f"{name}: example {i} is not a pair of features and a label")
        features.append(_array(example[0], name))
        labels.append(int(example[1]))
    if len({values.shape for values in features}) != 1:
        raise DatasetError(f"{name}: its examples have different shapes")
    return np.stack(features), np.asarray(labels)


def _array(given: Any, name: str) -> NDArray[Any]:
    if isinstance(given, Tensor):
        return given.detach().cpu().numpy()
    array = np.asarray(given)
    if array.dtype.kind not in "fiub":
        raise DatasetError(f"{name}: {type(given).__name__} is not numbers; give the set a transform to tensors")
    return array


def _agreeing(train: Dataset, test: Dataset | None) -> DatasetSplits:
    """The two with the same number of classes, that of the one with more."""
    if test is None:
        return DatasetSplits(train, None)
    if train.shape != test.shape:
        raise DatasetError(f"training examples have shape {train.shape}, test examples {test.shape}")
    most = max(train.num_classes, test.num_classes)
    return DatasetSplits(_with_classes(train, most), _with_classes(test, most))


def _with_classes(dataset: Dataset, count: int) -> Dataset:
    if dataset.labels.max(initial=0) >= count:
        raise DatasetError(f"{dataset.name}: a label is {int(dataset.labels.max())}, with {count} classes")
    return Dataset(dataset.name, dataset.values, dataset.labels, count, dataset.scale)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on one thread, which is what makes the same bits everywhere on a machine; afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def versions() -> dict[str, str]:
    """Of what training computes with."""
    return {"torch": str(torch.__version__), "numpy": np.__version__}

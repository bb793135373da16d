"""A PyTorch user's own objects as chainfl's: models, data sets, pairs of arrays, torch data sets and loaders."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    default_collate,
    default_convert,
)
from torch.utils.data import Dataset as TorchDataset

from chainfl.errors import DatasetError, UsageError
from chainfl.scratch import scratch_folder
from chainfl.training.datasets import (
    BUILT_IN,
    PIXEL_SCALE,
    Dataset,
    DatasetSplits,
    FloatArray,
    check_finite,
    load_dataset,
    not_finite,
    not_finite_told,
)
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
        _check_materialized(given)
        return GivenModel(copy.deepcopy(given), type(given).__name__)
    if isinstance(given, str | Path) and Path(given).suffix == ".pt2":
        return GivenModel(load_exported(Path(given)), Path(given).stem, archive=Path(given))
    if isinstance(given, str):
        raise UsageError(f"no model is registered as {given!r}; there are {', '.join(MODELS)}, or the path of a .pt2")
    return GivenModel(_loaded(given), "program")


def _check_materialized(module: nn.Module) -> None:
    """Raises UsageError for lazy layers that have not seen an example yet."""
    waiting = [name for name, layer in module.named_modules() if _is_lazy(layer)]
    if waiting:
        raise UsageError(
            f"{', '.join(name or 'the model' for name in waiting)}: a lazy layer has no weights before a first forward "
            "pass; run some examples through the model before you give it"
        )


def _is_lazy(layer: nn.Module) -> bool:
    own = chain(layer.parameters(recurse=False), layer.buffers(recurse=False))
    return any(nn.parameter.is_lazy(tensor) for tensor in own)


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


def check_outputs(module: nn.Module, examples: Dataset, num_classes: int) -> None:
    """Raises UsageError unless the module gives num_classes numbers an example, and whatever the module raises."""
    module.eval()
    with torch.no_grad():
        outputs = module(torch.from_numpy(examples.features))
    if not isinstance(outputs, Tensor):
        raise UsageError(
            f"the model gives a {type(outputs).__name__}; its forward has to return one tensor, a row of "
            f"{num_classes} numbers an example"
        )
    if outputs.ndim != 2 or len(outputs) != len(examples):
        raise UsageError(
            f"the model gives {tuple(outputs.shape)} for {len(examples)} examples; it has to give "
            f"{(len(examples), num_classes)}, a number a class"
        )
    if outputs.shape[1] != num_classes:
        raise UsageError(_width_told(outputs.shape[1], num_classes))


def _width_told(width: int, num_classes: int) -> str:
    told = f"the model has {width} outputs, but the data {num_classes} classes"
    if width < num_classes:
        return f"{told}: give its last layer {num_classes} outputs"
    return f"{told}: give num_classes={width}, which may have classes without examples, or its last layer {num_classes}"


# --- data ----------------------------------------------------------------------------------------


def as_splits(
    given: object, test: object | None = None, *, data_dir: str | Path | None = None, num_classes: int | None = None
) -> DatasetSplits:
    """A training set with the test set that goes with it, None where there is none; all labels below their classes.

    given, test: a built-in name or DatasetSplits (both as given alone), or what `as_dataset` takes. num_classes: where
    the labels do not show all. Raises as `as_dataset`, and DatasetError for a label beyond num_classes.
    """
    if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 1):
        raise UsageError(f"num_classes is a whole number of at least 1, not {num_classes!r}")
    if isinstance(given, str):
        if given not in BUILT_IN:
            raise UsageError(f"no data set is called {given!r}; there are {', '.join(BUILT_IN)}")
        given = load_dataset(given, None if data_dir is None else Path(data_dir))
    if isinstance(given, DatasetSplits):
        train, own_test = given.train, given.test
        for which, each in (("data", train), ("test data", own_test)):
            if each is not None:
                check_finite(each, which)
    else:
        train, own_test = as_dataset(given, "data", num_classes), None
    held_out = own_test if test is None else as_dataset(test, "test data", num_classes or train.num_classes)
    return _agreeing(train, held_out, num_classes)


def as_dataset(given: object, name: str, num_classes: int | None = None) -> Dataset:
    """One set; whether its labels are below num_classes is for `check_labels`.

    given: a Dataset, a (features, labels) pair of arrays or tensors, or examples that are such pairs: a torch Dataset,
    a list, or a DataLoader, whose set is then read once and in its order, whatever the loader's. Features of uint8 are
    pixels, of 0 to 255, which a model sees as 0 to 1, as `load_npz` reads them.
    Raises UsageError for anything else, and DatasetError for data that cannot be trained on.
    """
    if isinstance(given, Dataset):
        check_finite(given, name)
        return given
    if isinstance(given, tuple) and len(given) == 2:
        return _from_pair(given[0], given[1], name, num_classes)
    if isinstance(given, TorchDataset | DataLoader) or is_examples(given):
        return _from_pair(*_stacked(_examples(given, name), name), name, num_classes)
    raise UsageError(
        f"{name}: a data set is a chainfl Dataset, a (features, labels) pair, a torch Dataset or DataLoader, or a list "
        f"of (features, label) pairs, not {type(given).__name__}"
    )


def is_examples(given: object) -> bool:
    """Whether it is a list of (features, label) pairs, by the first."""
    return isinstance(given, list) and bool(given) and isinstance(given[0], tuple) and len(given[0]) == 2


def check_labels(dataset: Dataset, num_classes: int, which: str) -> None:
    """Raises DatasetError that names the set and the first example whose label is not in [0, num_classes)."""
    labels = dataset.labels
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DatasetError(_labels_told(labels, which))
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        label = int(labels[wrong[0]])
        more = f", or give num_classes={int(labels.max()) + 1}" if label >= 0 else ""
        raise DatasetError(
            f"{which}: example {wrong[0]} has label {label}, but {num_classes} classes are counted from 0 to "
            f"{num_classes - 1}; correct the label{more}"
        )


def _from_pair(features: Any, labels: Any, name: str, num_classes: int | None) -> Dataset:
    values, targets = _array(features, name), _array(labels, name)
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if not values.size and not targets.size:
        raise DatasetError(f"{name} is empty: no examples; give it some, or leave it out")
    if targets.ndim != 1 or targets.dtype.kind not in "iub":
        raise DatasetError(_labels_told(targets, name))
    if values.ndim < 2 or len(values) != len(targets):
        raise DatasetError(f"{name}: features of {values.shape} with labels of {targets.shape} are no examples")
    _check_counted(targets, name)
    is_pixels = values.dtype == np.uint8
    return Dataset(
        name,
        values if is_pixels else _finite(values, name),
        targets.astype(np.int64, copy=False),
        int(targets.max()) + 1 if num_classes is None else num_classes,
        PIXEL_SCALE if is_pixels else 1.0,
    )


def _labels_told(labels: NDArray[Any], name: str) -> str:
    told = f"{name}: labels are classes counted from 0, one whole number an example"
    if labels.dtype.kind not in "iub":
        return f"{told}, not {labels.dtype}; regression is not supported, and classes are given as integers"
    return f"{told}, not of shape {labels.shape}; of one-hot rows give the argmax"


def _check_counted(labels: NDArray[Any], name: str) -> None:
    below = np.flatnonzero(labels < 0)
    if len(below):
        raise DatasetError(
            f"{name}: example {below[0]} has label {labels[below[0]]}, but labels are classes counted from 0; "
            "leave it out, or count anew"
        )


def _finite(values: NDArray[Any], name: str) -> FloatArray:
    """As float32. Raises DatasetError, which names the first example with something else."""
    if values.dtype.kind not in "fiu":
        raise DatasetError(f"{name}: features are finite numbers, not {values.dtype}")
    with np.errstate(over="ignore"):  # judged on the next line
        found: FloatArray = values.astype(np.float32, copy=False)
    if (place := not_finite(found)) is not None:
        raise DatasetError(f"{name}: {not_finite_told(values, place)}")
    return found


def _stacked(examples: Iterable[Any], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The features and the labels of all."""
    features: list[NDArray[Any]] = []
    labels: list[NDArray[Any]] = []
    for i, example in enumerate(examples):
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise DatasetError(
                f"{name}: example {i} is not a pair of features and a label, but {_kind(example)}; map it to one"
            )
        features.append(_array(example[0], name))
        labels.append(_array(example[1], name))
    if not features:
        raise DatasetError(f"{name} is empty: no examples; give it some, or leave it out")
    if len({values.shape for values in features}) != 1:
        raise DatasetError(f"{name}: its examples have different shapes; bring them to one")
    if len({label.shape for label in labels}) != 1:
        raise DatasetError(f"{name}: its labels have different shapes; give one whole number an example")
    return np.stack(features), np.stack(labels)


def _kind(example: Any) -> str:
    return f"{len(example)} things" if isinstance(example, tuple | list) else type(example).__name__


def _examples(given: Any, name: str) -> Iterator[Any]:
    """All, one by one, in order."""
    if isinstance(given, DataLoader):
        given = _Collated(given, name)
    if isinstance(given, IterableDataset | list | _Collated):
        return iter(given)
    if not hasattr(given, "__len__"):
        raise DatasetError(f"{name}: a torch Dataset here has a length, or is an IterableDataset")
    return (given[i] for i in range(len(given)))


class _Collated:
    """The examples that a loader reads, each once, in the order of its set and as its own collate_fn makes them."""

    def __init__(self, loader: DataLoader[Any], name: str) -> None:
        """Raises UsageError for a loader that does not say which examples are its own."""
        self._collate = loader.collate_fn
        self._examples = _examples(loader.dataset, name)
        if isinstance(loader.dataset, IterableDataset):
            return
        if not isinstance(loader.batch_sampler, BatchSampler | None):
            raise UsageError(_sampler_told(loader.batch_sampler, name))
        sampler: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler.sampler
        if isinstance(sampler, SubsetRandomSampler):
            self._examples = (loader.dataset[int(i)] for i in sorted(sampler.indices))
        elif not isinstance(sampler, RandomSampler | SequentialSampler):
            raise UsageError(_sampler_told(sampler, name))

    def __iter__(self) -> Iterator[Any]:
        if self._collate in (default_collate, default_convert):
            return self._examples
        return map(self._own, self._examples)

    def _own(self, example: Any) -> Any:
        """As the loader's collate_fn makes it: a batch of one, of which the only one is taken."""
        batch = self._collate([example])
        return [part[0] for part in batch] if isinstance(batch, tuple | list) else batch


def _sampler_told(sampler: object, name: str) -> str:
    return (
        f"{name}: which examples a {type(sampler).__name__} takes is not known before it draws; "
        "give torch.utils.data.Subset(dataset, indices) in place of the loader"
    )


def _array(given: Any, name: str) -> NDArray[Any]:
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        return (given.float() if given.dtype == torch.bfloat16 else given).numpy()  # type: ignore[no-any-return]
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise DatasetError(f"{name}: {type(given).__name__} is no array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise DatasetError(f"{name}: {type(given).__name__} is not numbers; give the set a transform to tensors")
    return array


def _agreeing(train: Dataset, test: Dataset | None, num_classes: int | None) -> DatasetSplits:
    """The two with the same number of classes: the one given, or that of the one with more."""
    if test is not None and train.shape != test.shape:
        raise DatasetError(f"training examples have shape {train.shape}, test examples {test.shape}")
    most = num_classes or max(train.num_classes, 0 if test is None else test.num_classes)
    ours = _with_classes(train, most, "the training set")
    return DatasetSplits(ours, None if test is None else _with_classes(test, most, "the test set"))


def _with_classes(dataset: Dataset, count: int, which: str) -> Dataset:
    check_labels(dataset, count, which)
    if dataset.num_classes == count:
        return dataset
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

"""An experiment before it runs: everything that its numbers follow from, made from what a PyTorch user has."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from chainfl import __version__
from chainfl.encoding.arrays import Int32Array
from chainfl.encoding.chunk_tree import model_root
from chainfl.encoding.fixed_point import quantize_model
from chainfl.encoding.layout import Layout
from chainfl.errors import DatasetError, TrainingError, UsageError
from chainfl.registry.material import TaskScope
from chainfl.simulation.strategy import Number, Strategy
from chainfl.simulation.tampering import Tampering
from chainfl.tasks.draws import REPUTATION_START, Candidate, draw_workers
from chainfl.tasks.optimizer_names import optimizer_called
from chainfl.tasks.rules import rule_warnings
from chainfl.tasks.server_rules import server_warnings
from chainfl.tasks.spec import DatasetEntry, PayloadEntry, RegisteredModel, TrainingEntry, ValidationEntry
from chainfl.tasks.state import ZERO_ADDRESS, Format
from chainfl.tasks.training_rules import training_problems
from chainfl.tasks.validation_rules import validation_problems
from chainfl.training.datasets import Dataset, DatasetSplits
from chainfl.training.inputs import GivenModel, as_dataset, check_labels, check_outputs, is_examples, versions
from chainfl.training.optimizers import MakeOptimizer, check_optimizer
from chainfl.training.partition import FederatedSplit, Partition, federated_split, label_counts
from chainfl.training.prediction import predict
from chainfl.training.settings import local_training
from chainfl.training.state import floating_buffers, state_layout, vector_of
from chainfl.types import Address, Root, TaskId

DEFAULT_CLIENTS = 10
MIN_DIRICHLET_EXAMPLES = 32
"""As in the demo, where the set is large enough."""
_FIRST_VALIDATOR = 1_000_000
_RATES_OF_OPTIMIZERS = ("learning_rate", "momentum", "weight_decay")

Parts = str | Partition | Sequence[Any]


@dataclass(frozen=True, slots=True)
class RecordedRound:
    """A round as a chain has it. workers: whose updates were revealed.

    commit_hash: of the block of its last commitment, by which sampled scores go; empty where nobody committed.
    void: it left the model as it was, because nobody's aggregate came to stand, or there was nothing to aggregate.
    """

    workers: tuple[Address, ...]
    commit_hash: bytes = b""
    void: bool = False

    def to_json(self) -> dict[str, Any]:
        """The fields by name; `void` where it is."""
        told = {"workers": list(self.workers), "commit_hash": self.commit_hash.hex()}
        return {**told, "void": True} if self.void else told


@dataclass(frozen=True, slots=True)
class Participants:
    """Who takes part, and in which task: training and scoring draw their randomness from it, as on chain.

    The accounts in the order in which they enrolled. With those of a real task, an experiment has its bits. rounds:
    what a chain has recorded of each (`recorded.participants_of`), to be played with the same workers; empty where the
    experiment draws them itself, and none goes missing.
    """

    workers: tuple[Address, ...]
    validators: tuple[Address, ...]
    chain_id: int
    coordinator: Address
    task_id: TaskId
    rounds: tuple[RecordedRound, ...] = ()

    @classmethod
    def numbered(cls, num_workers: int, num_validators: int, seed: int) -> Participants:
        """Of no chain: another seed is another task."""
        return cls(
            tuple(_account(1 + i) for i in range(num_workers)),
            tuple(_account(_FIRST_VALIDATOR + i) for i in range(num_validators)),
            0,
            ZERO_ADDRESS,
            TaskId(seed),
        )

    def to_json(self) -> dict[str, Any]:
        """The fields by name; the rounds where they are recorded."""
        told = {**asdict(self), "workers": list(self.workers), "validators": list(self.validators)}
        del told["rounds"]
        return {**told, "rounds": [played.to_json() for played in self.rounds]} if self.rounds else told


@dataclass(frozen=True, slots=True)
class LearningRecipe:
    """The entries of a task's specification that say how to learn; implements Recipe."""

    format: Format
    training: TrainingEntry
    dataset: DatasetEntry
    validation: ValidationEntry
    payload: PayloadEntry = field(default_factory=PayloadEntry)


@dataclass(frozen=True, slots=True, eq=False)
class Experiment:
    """What `simulate` runs. genesis: (P,) int32. loss: compares outputs with labels. tampering: None is honesty.

    optimizer: makes one in place of the one that the recipe names, and of its rates. device: where training computes.
    """

    strategy: Strategy
    recipe: LearningRecipe
    participants: Participants
    model: GivenModel
    layout: Layout
    genesis: Int32Array
    split: FederatedSplit
    partition: str
    seed: int
    loss: Callable[..., Any]
    tampering: Tampering | None = None
    optimizer: MakeOptimizer | None = None
    device: str = "cpu"

    @classmethod
    def of(
        cls,
        strategy: Strategy,
        model: GivenModel,
        split: FederatedSplit,
        *,
        local: Mapping[str, Number | None],
        loss: Callable[..., Any],
        partition: str = "given",
        seed: int = 0,
        participants: Participants | None = None,
        tampering: Tampering | None = None,
        optimizer: MakeOptimizer | None = None,
        device: str = "cpu",
    ) -> Experiment:
        """local: steps, batch_size, learning_rate and what else `Strategy.training` takes.

        Raises UsageError for what no task can have, or a model that does not fit the data, and DatasetError for a set
        that does not fit the test set.
        """
        seed = _whole_seed(seed)
        _check_sets(split)
        layout = state_layout(model.module)
        recipe = _recipe(strategy, layout, split, local)
        if participants is None:
            _check_draw(strategy, len(split.workers))
        accounts = participants or Participants.numbered(len(split.workers), len(split.validators), seed)
        _check_accounts(accounts, split)
        genesis = quantize_model(vector_of(model.module), recipe.format.model_scale_bits)
        if genesis.num_saturated:
            raise UsageError(
                f"{genesis.num_saturated} of the model's values do not fit "
                f"model_scale_bits={recipe.format.model_scale_bits}"
            )
        _check_fits(model, split.test, loss)
        _check_optimizer(model, recipe, optimizer)
        return cls(
            *(strategy, recipe, accounts, model, layout, genesis.values, split, partition, seed, loss, tampering),
            optimizer=optimizer,
            device=device,
        )

    def check_rounds(self, count: int) -> None:
        """Raises UsageError unless so many rounds are on record, where they are played from a record."""
        recorded = len(self.participants.rounds)
        if 0 < recorded < count:
            raise UsageError(
                f"there are {recorded} recorded rounds, and {count} are to be played: give rounds={recorded}, "
                "or read the record again once more rounds are over"
            )

    def warnings(self) -> Iterator[str]:
        """What is known before anything runs, each as `kind: what`."""
        form = self.recipe.format
        yield from server_warnings(form, floating_buffers(self.model.module))
        yield from rule_warnings(form, self.strategy.draw.most_of(len(self.split.workers)))

    def commit_hash(self, number: int) -> bytes:
        """Of the block of a round's last commitment, as recorded; empty in an experiment of its own."""
        recorded = self.participants.rounds
        return recorded[number - 1].commit_hash if recorded else b""

    def is_void(self, number: int) -> bool:
        """Whether a round is on record as one that left the model as it was."""
        recorded = self.participants.rounds
        return bool(recorded) and recorded[number - 1].void

    @property
    def scope(self) -> TaskScope:
        """What seeds and payloads are bound to."""
        who, form, sent = self.participants, self.recipe.format, self.recipe.payload.form()
        return TaskScope(who.chain_id, who.coordinator, who.task_id, form, self.layout.hash(), sent)

    @property
    def shares(self) -> dict[Address, Dataset]:
        """Each worker's data."""
        return dict(zip(self.participants.workers, self.split.workers, strict=True))

    @property
    def root_data(self) -> dict[Address, Dataset]:
        """Each validator's data."""
        return dict(zip(self.participants.validators, self.split.validators, strict=True))

    @property
    def genesis_root(self) -> Root:
        """Of the model before training."""
        return model_root(self.genesis, self.recipe.format.chunk_params)

    @property
    def registered(self) -> RegisteredModel | None:
        """The model as a specification names it; None for one that has no name."""
        model = self.model
        return (
            None if model.name is None else RegisteredModel(name=model.name, params=dict(model.params), seed=model.seed)
        )

    def drawn(self, number: int, reputations: Mapping[Address, int] | None = None) -> tuple[Address, ...]:
        """The clients that take part in a round, in the order of all: as recorded, or by the rule that a task draws by.

        reputations: of those that were drawn before.
        """
        everybody, draw, known = self.participants.workers, self.strategy.draw, reputations or {}
        if recorded := self.participants.rounds:
            return tuple(client for client in everybody if client in recorded[number - 1].workers)
        if not draw.is_on:
            return everybody
        chosen = draw_workers(
            draw,
            [Candidate(stake=1, reputation=known.get(client, REPUTATION_START)) for client in everybody],
            seed=hashlib.sha256(f"chainfl: draws of an experiment, seed {self.seed}".encode()).digest(),
            task_id=self.participants.task_id,
            round_number=number,
            worker_stake=1,
        )
        return tuple(everybody[i] for i in sorted(chosen))

    def to_json(self) -> dict[str, Any]:
        """Everything that the numbers follow from: two runs that agree in it have the same bits on one machine.

        What a module or a loss computes is not in it, only their names and the weights.
        """
        recipe = self.recipe
        return {
            "seed": self.seed,
            "strategy": self.strategy.to_json(),
            "training": self._training_to_json(),
            "validation": recipe.validation.model_dump(mode="json"),
            "format": {**asdict(recipe.format), "rule": recipe.format.rule.name.lower()},
            "dataset": recipe.dataset.model_dump(mode="json"),
            "partition": self.partition,
            "labels_by_client": [label_counts(share).tolist() for share in self.split.workers],
            "test": self.split.test_origin,
            "data_sha256": _digest([self.split.test, *self.split.validators, *self.split.workers]),
            "model": {"name": self.model.title, "params": dict(self.model.params)},
            "num_params": self.layout.num_params,
            "genesis_root": self.genesis_root.hex(),
            "loss": getattr(self.loss, "__qualname__", type(self.loss).__qualname__),
            "participants": self.participants.to_json(),
            "tampering": None if self.tampering is None else self.tampering.name,
            "versions": {"chainfl": __version__, "python": platform.python_version(), **versions()},
            **({} if self.device == "cpu" else {"device": self.device}),
        }

    def _training_to_json(self) -> dict[str, Any]:
        """An optimiser of one's own by its qualified name, in place of the rates that it does not follow."""
        entry = self.recipe.training.model_dump(mode="json")
        if self.optimizer is None:
            return entry
        kept = {name: value for name, value in entry.items() if name not in _RATES_OF_OPTIMIZERS}
        return {**kept, "optimizer": optimizer_called(self.optimizer)}


def split_for(
    splits: DatasetSplits,
    partition: Parts,
    *,
    clients: int | None,
    validators: int,
    root_examples: int,
    root_data: Sequence[Any] | None,
    seed: int,
) -> tuple[FederatedSplit, str]:
    """Everybody's data, and what the partition is called.

    partition: a name such as `dirichlet:0.3`, or one set or array of indices a client. clients: None for all parts, or
    DEFAULT_CLIENTS. root_data: one set a validator; without it they get `root_examples` each of the training set.
    Raises UsageError and DatasetError.
    """
    seed = _whole_seed(seed)
    if root_data is not None and validators not in (0, len(root_data)):
        raise UsageError(
            f"validators is {validators}, but root_data has {len(root_data)} sets: one each, so leave validators out"
        )
    if isinstance(partition, str | Partition):
        cut = Partition.parse(partition) if isinstance(partition, str) else partition
        count = DEFAULT_CLIENTS if clients is None else clients
        split = federated_split(
            splits,
            seed=seed,
            num_workers=count,
            num_validators=0 if root_data is not None else validators,
            partition=cut,
            validator_examples=root_examples,
            min_per_worker=min(MIN_DIRICHLET_EXAMPLES, max(1, len(splits.train) // (4 * count))),
        )
        if root_data is not None:
            split = replace(split, validators=_sets(root_data, splits.train, "root data"))
        return split, str(cut)
    if clients not in (None, len(partition)):
        raise UsageError(f"clients is {clients}, but the partition has {len(partition)} parts")
    if splits.test is None:
        raise UsageError("clients with data of their own need a test set: test=…")
    if validators and root_data is None:
        raise UsageError("validators beside clients with data of their own need root data: root_data=[…]")
    roots = _sets(root_data or [], splits.train, "root data")
    workers = _sets(partition, splits.train, "client")
    return FederatedSplit(splits.test, roots, workers, f"the test set given, {len(splits.test)} examples"), "given"


def _sets(given: Iterable[Any], whole: Dataset, what: str) -> tuple[Dataset, ...]:
    """Data sets as they are, indices as parts of the whole."""
    return tuple(_set(item, f"{what} {i}", whole) for i, item in enumerate(given, 1))


def _set(item: Any, which: str, whole: Dataset) -> Dataset:
    if isinstance(item, np.ndarray | list | range) and not is_examples(item):
        return whole.subset(_indices(item, which, len(whole)))
    return as_dataset(item, which, whole.num_classes)


def _indices(item: Any, which: str, count: int) -> Any:
    indices = np.asarray(item)
    if not indices.size:
        raise DatasetError(f"{which} is empty: no examples; give it some, or leave it out")
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise UsageError(f"{which} is neither a data set nor indices of examples")
    if indices.min() < 0 or indices.max() >= count:
        raise DatasetError(f"{which} names examples that the set does not have; it has {count}, counted from 0")
    return indices


def _recipe(
    strategy: Strategy, layout: Layout, split: FederatedSplit, local: Mapping[str, Number | None]
) -> LearningRecipe:
    if strategy.judging and not split.validators:
        raise UsageError("the strategy says how validators judge, but there are none: validators=1 or more")
    test = split.test
    entry = DatasetEntry(name=test.name, input_shape=list(test.shape), num_classes=max(2, test.num_classes))
    training, judging = strategy.training(**local), strategy.validation()
    form, most = strategy.format(layout.num_params), strategy.draw.most_of(len(split.workers))
    problems = [*training_problems(training, form), *validation_problems(judging, form, most)]
    if problems:
        raise UsageError(f"no task can have this: {'; '.join(problems)}", problems=problems)
    return LearningRecipe(form, training, entry, judging, strategy.payload())


def _check_draw(strategy: Strategy, num_clients: int) -> None:
    if strategy.clients_per_round is not None and strategy.clients_per_round > num_clients:
        raise UsageError(
            f"clients_per_round is {strategy.clients_per_round}, but there are {num_clients} clients: take fewer a "
            "round, or leave it out, and all take part"
        )


def _check_accounts(accounts: Participants, split: FederatedSplit) -> None:
    for what, named, sets in (
        ("workers", accounts.workers, split.workers),
        ("validators", accounts.validators, split.validators),
    ):
        if len(named) != len(sets) or len(set(named)) != len(named):
            raise UsageError(f"{len(named)} accounts of {what} for {len(sets)} data sets, each account once")
    for number, played in enumerate(accounts.rounds, 1):
        if strangers := [worker for worker in played.workers if worker not in accounts.workers]:
            raise UsageError(f"round {number} was recorded with {strangers[0]}, who is none of the accounts of workers")


def _whole_seed(seed: object) -> int:
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 1 << 64:
        raise UsageError(f"a seed is a whole number from 0 to 2^64 - 1, not {seed!r}")
    return int(seed)


def _check_sets(split: FederatedSplit) -> None:
    """Every set has examples like those of the test set, with labels below its number of classes."""
    test = split.test
    for which, dataset in _named(split):
        if not len(dataset):
            raise DatasetError(f"{which} is empty: no examples; give it some, or leave it out")
        if dataset.shape != test.shape:
            raise DatasetError(f"{which}: its examples have shape {dataset.shape}, test examples {test.shape}")
        check_labels(dataset, test.num_classes, which)


def _named(split: FederatedSplit) -> Iterator[tuple[str, Dataset]]:
    yield "the test set", split.test
    yield from ((f"client {i}", dataset) for i, dataset in enumerate(split.workers, 1))
    yield from ((f"root data {i}", dataset) for i, dataset in enumerate(split.validators, 1))


def _check_fits(model: GivenModel, test: Dataset, loss: Callable[..., Any]) -> None:
    """Told before anything runs, rather than by every client in every round."""
    few = test.subset(np.arange(min(2, len(test))))
    try:
        check_outputs(model.module, few, test.num_classes)
        predict(model.module, vector_of(model.module), few, loss)
    except (TrainingError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        shape = "×".join(map(str, test.shape))
        raise UsageError(
            f"the model or the loss does not take examples of {shape} with {test.num_classes} classes: "
            f"{error}{_cast_told(str(error))}"
        ) from error


def _check_optimizer(model: GivenModel, recipe: LearningRecipe, own: MakeOptimizer | None) -> None:
    """The same of the optimiser; one's own may raise anything."""
    try:
        check_optimizer(model.module, local_training(recipe.training), own)
    except TrainingError as error:
        raise UsageError(str(error)) from error
    except Exception as error:
        if own is None:
            raise
        raise UsageError(f"{optimizer_called(own)} failed on the model: {type(error).__name__}: {error}") from error


def _cast_told(error: str) -> str:
    """What to do, where the model looks for integers."""
    if not re.search(r"\b(long|int|index tensor)\b", error, re.IGNORECASE):
        return ""
    return "; features arrive as float32: a model that wants integers calls .long() on them in forward"


def _account(number: int) -> Address:
    """Of digits alone, so that its checksum is itself."""
    return Address(f"0x{number:040d}")


def _digest(sets: Iterable[Dataset]) -> str:
    digest = hashlib.sha256()
    for dataset in sets:
        digest.update(f"{dataset.values.dtype} {dataset.values.shape} {dataset.scale!r};".encode())
        digest.update(np.ascontiguousarray(dataset.values).data.cast("B"))
        digest.update(np.ascontiguousarray(dataset.labels).data.cast("B"))
    return digest.hexdigest()

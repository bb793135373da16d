"""The demo: a local chain, a task, and its participants as processes that run an operator's own commands.

What is here arranges and watches; every step of the protocol is taken by the processes. What it leaves in its folder
is enough to start the chain again and to check everything later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chainfl.agents.ports import DryRun, SendResult, Sent, TimedOut, WouldRevert
from chainfl.agents.requester import TaskDraft, decimal_text, publish_task
from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.client import ChainClient
from chainfl.chain.deployment import Deployment, deploy
from chainfl.chain.keys import Signer
from chainfl.chain.networks import LOCAL
from chainfl.chain.operator import Operator
from chainfl.errors import ChainError, TransactionTimedOut, UsageError
from chainfl.simulation.processes import ProcessGroup
from chainfl.storage.embedded import EmbeddedStore
from chainfl.tasks.spec import DEFAULT_ECONOMICS, LOCAL_WINDOWS, TOKEN, DatasetEntry, TaskSpec
from chainfl.tasks.state import Bounds, Role, Windows
from chainfl.training.datasets import Dataset, load_dataset, save_folder
from chainfl.training.partition import DemoSplit, demo_split
from chainfl.training.presets import PRESETS, Preset
from chainfl.types import Address, TaskId, Wei

REWARD = Wei(1_000 * TOKEN)
POCKET_MONEY = Wei(25 * TOKEN)
"""Beyond its stake, so that an aggregator can pay a fee and keep its bond."""
ENROLMENT_S = 600
POLL_S = 0.2
"""How often everybody looks for a new block: six times a round somebody waits for the next phase to begin."""


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """What a demo is made of. data_dir: where MNIST or CIFAR-10 lie; digits come with scikit-learn."""

    folder: Path
    rounds: int = 10
    workers: int = 5
    validators: int = 3
    seed: int = 0
    data: str = "digits"
    data_dir: Path | None = None
    windows: Windows = LOCAL_WINDOWS

    def check(self) -> None:
        """Raises UsageError with the first thing that cannot be, and what loading the data raises."""
        if self.data not in PRESETS:
            raise UsageError(f"no preset for {self.data!r}; there are {', '.join(PRESETS)}")
        for name, value, most in (("rounds", self.rounds, 1000), ("workers", self.workers, 64)):
            if not 1 <= value <= most:
                raise UsageError(f"--{name} is between 1 and {most}, not {value}")
        if not 1 <= self.validators <= 16:
            raise UsageError(f"--validators is between 1 and 16, not {self.validators}")
        # Twice, so that bad data are told before anything has started.
        load_dataset(self.data, self.data_dir)


@dataclass(frozen=True, slots=True)
class Part:
    """One participant: the name of its process, its role, and its key (one of Anvil's public development keys)."""

    name: str
    role: Role
    private_key: str = field(repr=False)

    @property
    def signer(self) -> Signer:
        """Signs for it."""
        return Signer.from_private_key(self.private_key)


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part."""

    deployer: Signer
    requester: Signer
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, private_keys: Sequence[str], workers: int, validators: int) -> Cast:
        """private_keys: at least workers + validators + 3 of them."""
        names = [
            *((f"worker-{i}", Role.WORKER) for i in range(1, workers + 1)),
            *((f"validator-{i}", Role.VALIDATOR) for i in range(1, validators + 1)),
            ("aggregator", Role.AGGREGATOR),
        ]
        parts = tuple(Part(name, role, key) for (name, role), key in zip(names, private_keys[2:], strict=False))
        return cls(Signer.from_private_key(private_keys[0]), Signer.from_private_key(private_keys[1]), parts)

    def names(self) -> dict[Address, str]:
        """The process name of each account."""
        return {part.signer.address: part.name for part in self.parts}


def new_folder(parent: Path, name: str = "chainfl-demo") -> Path:
    """Makes `name`, or `name-2`, `name-3`, … : an earlier run is never touched."""
    for number in range(1, 10_000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise UsageError(f"{parent} is full of demo folders; remove some")


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that stands before the first process starts."""

    config: DemoConfig
    anvil: AnvilProcess
    cast: Cast
    deployment: Deployment
    store: EmbeddedStore
    split: DemoSplit
    spec: TaskSpec
    task_id: TaskId
    reader: Operator

    @property
    def events(self) -> Path:
        """The folder of the participants' event files."""
        return self.config.folder / "events"


def set_stage(config: DemoConfig, anvil: AnvilProcess) -> Stage:
    """Deploys, hands out tokens, shares out the data and publishes the task."""
    cast = Cast.of(anvil.private_keys, config.workers, config.validators)
    client = ChainClient(anvil.rpc_url, expected_chain_id=anvil.chain_id, poll_interval_s=POLL_S)
    folder = config.folder
    deployment = deploy(client, cast.deployer, unbonding_s=LOCAL.unbonding_s, path=folder / "deployment.json")
    _hand_out(client, deployment, cast)
    split = demo_split(
        load_dataset(config.data, config.data_dir),
        seed=config.seed,
        num_workers=config.workers,
        num_validators=config.validators,
    )
    for name, dataset in _shares(split).items():
        save_folder(dataset, folder / "data" / name)
    save_folder(split.test, folder / "data" / "test")
    store = EmbeddedStore(folder / "store")
    requester = Operator(client, deployment, cast.requester)
    spec = publish_task(_draft(config, split, client.block().timestamp), store)
    done(requester.deposit(REWARD))
    task_id = requester.created_task(done(requester.create_task(spec.to_params())))
    reader = Operator(client, deployment)
    for child in ("events", "logs", "state"):
        (folder / child).mkdir()
    (folder / "chainfl.toml").write_text(configuration(anvil.port), encoding="utf-8")
    return Stage(config, anvil, cast, deployment, store, split, spec, task_id, reader)


def start_participants(stage: Stage, group: ProcessGroup) -> None:
    """One process each: the commands that an operator would run, with the key in the environment."""
    for part in stage.cast.parts:
        group.start(part.name, *participant_command(stage, part))


def participant_command(stage: Stage, part: Part) -> tuple[tuple[str, ...], dict[str, str]]:
    """What follows `chainfl` on a participant's command line, and its environment."""
    folder = stage.config.folder
    data = () if part.role is Role.AGGREGATOR else ("--data", str(folder / "data" / part.name))
    arguments = (
        *("--config", str(folder / "chainfl.toml"), part.role.name.lower(), "run", "--task", str(stage.task_id)),
        *data,
        *("--once", "--name", part.name, "--events", str(stage.events / f"{part.name}.jsonl")),
    )
    # Nine processes on two cores: threads that fight for them are slower than one.
    return arguments, {"CHAINFL_PRIVATE_KEY": part.private_key, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def configuration(port: int) -> str:
    """The demo folder's chainfl.toml: commands that run inside the folder need no flags."""
    return (
        "# Written by `chainfl demo`. `chainfl local up` in this folder starts its chain again.\n"
        'network = "local"\n'
        f'rpc = "http://127.0.0.1:{port}"\n'
        'deployment = "deployment.json"\n'
        'storage = "embedded"\n'
        'store_dir = "store"\n'
        'state_dir = "state"\n'
        f"poll_interval_s = {POLL_S}\n"
    )


def done(result: SendResult) -> Sent:
    """The transaction, which must have gone through. Raises what kept it."""
    match result:
        case Sent():
            return result
        case WouldRevert(error=error):
            raise error
        case TimedOut(tx_hash=tx_hash):
            raise TransactionTimedOut("the local chain did not mine a transaction in time", tx_hash=tx_hash)
        case DryRun():
            raise ChainError("a dry run sends nothing")


def _hand_out(client: ChainClient, deployment: Deployment, cast: Cast) -> None:
    """Tokens to everybody, and what each role needs into the vault, as each would deposit it."""
    bank = Operator(client, deployment, cast.deployer)
    stakes = {
        Role.WORKER: DEFAULT_ECONOMICS.worker_stake,
        Role.VALIDATOR: DEFAULT_ECONOMICS.validator_stake,
        Role.AGGREGATOR: Wei(DEFAULT_ECONOMICS.aggregator_bond + POCKET_MONEY),
    }
    done(bank.transfer(cast.requester.address, Wei(REWARD + POCKET_MONEY)))
    for part in cast.parts:
        done(bank.transfer(part.signer.address, Wei(stakes[part.role] + POCKET_MONEY)))
        done(Operator(client, deployment, part.signer).deposit(stakes[part.role]))


def _shares(split: DemoSplit) -> Mapping[str, Dataset]:
    workers = {f"worker-{i}": dataset for i, dataset in enumerate(split.workers, 1)}
    return workers | {f"validator-{i}": dataset for i, dataset in enumerate(split.validators, 1)}


def _draft(config: DemoConfig, split: DemoSplit, now: int) -> TaskDraft:
    preset: Preset = PRESETS[config.data]
    return TaskDraft(
        name=f"demo: {config.data}",
        description=f"{config.workers} workers train one model on shares of {config.data} (Dirichlet 0.5).",
        dataset=DatasetEntry(
            name=config.data,
            input_shape=list(split.test.shape),
            num_classes=split.test.num_classes,
            description=split.test_origin,
        ),
        model=preset.model,
        model_params=preset.model_params,
        model_seed=config.seed,
        rounds=config.rounds,
        steps=preset.steps,
        batch_size=preset.batch_size,
        learning_rate=decimal_text(preset.learning_rate),
        momentum=decimal_text(preset.momentum),
        weight_decay=decimal_text(preset.weight_decay),
        model_scale_bits=preset.model_scale_bits,
        update_scale_bits=preset.update_scale_bits,
        step_num=preset.server_step_num,
        step_den=preset.server_step_den,
        reward=REWARD,
        enrolment_end=now + ENROLMENT_S,
        workers=Bounds(config.workers, config.workers),
        validators=Bounds(config.validators, config.validators),
        aggregators=Bounds(1, 1),
        windows=config.windows,
    )

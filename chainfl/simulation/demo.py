"""The demo: a local chain, a task, and its participants as processes that run an operator's own commands.

What is here arranges and watches; every step of the protocol is taken by the processes. What it leaves in its folder
is enough to start the chain again and to check everything later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from chainfl.agents.ports import DryRun, SendResult, Sent, TimedOut, WouldRevert
from chainfl.agents.requester import TaskDraft, publish_task
from chainfl.chain.anvil import AnvilProcess
from chainfl.chain.client import ChainClient
from chainfl.chain.deployment import Deployment, deploy
from chainfl.chain.keys import Signer
from chainfl.chain.networks import LOCAL
from chainfl.chain.operator import Operator
from chainfl.config import LOCAL_POLL_S, local_template
from chainfl.errors import ChainError, TransactionTimedOut, UsageError
from chainfl.simulation.attacks import ATTACKS, FROM_ROUND, Attack
from chainfl.simulation.baseline import usual_squared_norm
from chainfl.simulation.processes import ONE_THREAD, Participant, ProcessGroup
from chainfl.storage.embedded import EmbeddedStore
from chainfl.tasks.decimals import decimal_text
from chainfl.tasks.spec import DEFAULT_ECONOMICS, LOCAL_WINDOWS, TOKEN, DatasetEntry, TaskSpec, ValidationEntry
from chainfl.tasks.state import Bounds, Draw, Role, Windows
from chainfl.training.datasets import Dataset, load_dataset, save_folder
from chainfl.training.partition import DemoSplit, demo_split
from chainfl.training.presets import PRESETS, Preset
from chainfl.types import Address, TaskId, Wei

REWARD = Wei(1_000 * TOKEN)
POCKET_MONEY = Wei(25 * TOKEN)
"""Beyond its stake, so that an aggregator can pay a fee and keep its bond."""
WATCHER_STAKE = Wei(4 * DEFAULT_ECONOMICS.challenger_bond)
"""A bond for each of several disputes at once, and fees for demands."""
MIN_HONEST = 2
NORM_MARGIN = 4
"""Where the norm attack is staged, a squared norm may be this many times the usual one."""
ENROLMENT_S = 600
POLL_S = LOCAL_POLL_S


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """What a demo is made of. data_dir: where MNIST or CIFAR-10 lie; digits come with scikit-learn.

    steps: local ones a round; None for the preset's. validation: what every validator does.
    attacks: names of what is staged from round `FROM_ROUND` on; each has an attacker of its own among the participants.
    clients_per_round: so many workers, drawn on chain anew for each round; None is all.
    """

    folder: Path
    rounds: int = 10
    workers: int = 5
    validators: int = 3
    seed: int = 0
    data: str = "digits"
    data_dir: Path | None = None
    windows: Windows = LOCAL_WINDOWS
    attacks: tuple[str, ...] = ()
    clients_per_round: int | None = None
    steps: int | None = None
    validation: ValidationEntry = field(default_factory=ValidationEntry)

    @property
    def preset(self) -> Preset:
        """The data's, with the steps asked for."""
        preset = PRESETS[self.data]
        return preset if self.steps is None else replace(preset, steps=self.steps)

    @property
    def num_accounts(self) -> int:
        """Deployer, requester, and everybody who takes part."""
        return 2 + len(list(_parts(self)))

    def check(self) -> None:
        """Raises UsageError with the first thing that cannot be, and what loading the data raises."""
        if self.data not in PRESETS:
            raise UsageError(f"no preset for {self.data!r}; there are {', '.join(PRESETS)}")
        for name, value, most in (("rounds", self.rounds, 1000), ("workers", self.workers, 64)):
            if not 1 <= value <= most:
                raise UsageError(f"--{name} is between 1 and {most}, not {value}")
        if not 1 <= self.validators <= 16:
            raise UsageError(f"--validators is between 1 and 16, not {self.validators}")
        self._check_draw()
        self._check_attacks()
        # Twice, so that bad data are told before anything has started.
        load_dataset(self.data, self.data_dir)

    def _check_draw(self) -> None:
        if self.clients_per_round is None:
            return
        if not 1 <= self.clients_per_round <= self.workers:
            raise UsageError(f"--clients-per-round is between 1 and the {self.workers} workers")
        if self.attacks:
            raise UsageError("an attacker that is not drawn attacks nothing: --attack goes without --clients-per-round")

    def _check_attacks(self) -> None:
        for name in self.attacks:
            if name not in ATTACKS:
                raise UsageError(f"there is no attack {name!r}; there are {', '.join(ATTACKS)}")
        roles = [ATTACKS[name].role for name in self.attacks]
        if roles.count(Role.AGGREGATOR) > 1:
            raise UsageError("only one attacker can hold the first slot of a round")
        if self.attacks and self.rounds < FROM_ROUND:
            raise UsageError(f"an attack comes in round {FROM_ROUND}, so it needs --rounds {FROM_ROUND} at least")
        if self.attacks and self.workers - roles.count(Role.WORKER) < MIN_HONEST:
            raise UsageError(f"with an attack among them, at least {MIN_HONEST} of the --workers must be honest")


@dataclass(frozen=True, slots=True)
class Part:
    """One participant: the name of its process, its role, and its key (one of Anvil's public development keys).

    share: the folder of its data, where it has any. attack: what it does instead of its duty. The role of who only
    watches is CHALLENGER.
    """

    name: str
    role: Role
    private_key: str = field(repr=False)
    share: str | None = None
    attack: Attack | None = None

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
    def of(cls, private_keys: Sequence[str], config: DemoConfig) -> Cast:
        """private_keys: at least `config.num_accounts` of them."""
        deployer, requester, *others = (private_keys[i] for i in range(config.num_accounts))
        parts = tuple(replace(part, private_key=key) for part, key in zip(_parts(config), others, strict=True))
        return cls(Signer.from_private_key(deployer), Signer.from_private_key(requester), parts)

    @property
    def attackers(self) -> tuple[Part, ...]:
        """Those who attack, in the order of the configuration's roles."""
        return tuple(part for part in self.parts if part.attack is not None)

    def honest(self, role: Role) -> tuple[Part, ...]:
        """Those of a role who do their duty."""
        return tuple(part for part in self.parts if part.role is role and part.attack is None)

    def names(self) -> dict[Address, str]:
        """The process name of each account."""
        return {part.signer.address: part.name for part in self.parts}


def _parts(config: DemoConfig) -> Iterator[Part]:
    """Everybody who takes part, still without keys. Attacking workers hold the last shares."""
    attacks = [ATTACKS[name] for name in config.attacks]
    attackers = [attack for attack in attacks if attack.role is Role.WORKER]
    honest = config.workers - len(attackers)
    for i in range(1, config.workers + 1):
        attack = attackers[i - honest - 1] if i > honest else None
        yield Part(_name(attack) or f"worker-{i}", Role.WORKER, "", f"worker-{i}", attack)
    for i in range(1, config.validators + 1):
        yield Part(f"validator-{i}", Role.VALIDATOR, "", f"validator-{i}")
    yield Part("aggregator", Role.AGGREGATOR, "")
    yield from (Part(_name(a), Role.AGGREGATOR, "", None, a) for a in attacks if a.role is Role.AGGREGATOR)
    if attacks:
        yield Part("watcher", Role.CHALLENGER, "")


def _name(attack: Attack | None) -> str:
    return f"attacker-{attack.name}" if attack is not None else ""


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
    """Everything that stands before the first process starts. worth_wei: all tokens of each participant then."""

    config: DemoConfig
    anvil: AnvilProcess
    cast: Cast
    deployment: Deployment
    store: EmbeddedStore
    split: DemoSplit
    spec: TaskSpec
    task_id: TaskId
    reader: Operator
    worth_wei: Mapping[Address, int]

    @property
    def events(self) -> Path:
        """The folder of the participants' event files."""
        return self.config.folder / "events"


def set_stage(config: DemoConfig, anvil: AnvilProcess) -> Stage:
    """Deploys, hands out tokens, shares out the data and publishes the task."""
    cast = Cast.of(anvil.private_keys, config)
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
        (folder / child).mkdir(exist_ok=True)
    (folder / "chainfl.toml").write_text(local_template(anvil.port, "chainfl demo"), encoding="utf-8")
    worth = {account: worth_wei(reader, account) for account in cast.names()}
    return Stage(config, anvil, cast, deployment, store, split, spec, task_id, reader, worth)


def worth_wei(reader: Operator, account: Address) -> int:
    """All tokens of an account: in its wallet, free, locked, and earned."""
    status = reader.stake_status(account)
    return status.token_balance + status.free + status.credit + sum(lock.amount for lock in status.locks)


def start_participants(stage: Stage, group: ProcessGroup) -> dict[str, Participant]:
    """One process each, by name."""
    return {part.name: start_participant(stage, group, part) for part in stage.cast.parts}


def start_participant(stage: Stage, group: ProcessGroup, part: Part) -> Participant:
    """The command that an operator would run, with the key in the environment; an attacker's has a cheat in it."""
    env = {"CHAINFL_PRIVATE_KEY": part.private_key, **ONE_THREAD}
    command = participant_command(stage, part)
    if part.attack is None:
        return group.start(part.name, command, env)
    module = "chainfl.simulation.attackers"
    # A slash that takes the whole stake ends an agent with an error, as it should.
    return group.start(part.name, (part.attack.name, *command), env, module=module, may_fail=True)


def participant_command(stage: Stage, part: Part) -> tuple[str, ...]:
    """What follows `chainfl` on a participant's command line."""
    folder = stage.config.folder
    command = ("watch",) if part.role is Role.CHALLENGER else (part.role.name.lower(), "run", "--once")
    return (
        *("--config", str(folder / "chainfl.toml"), *command, "--task", str(stage.task_id)),
        *(() if part.share is None else ("--data", str(folder / "data" / part.share))),
        *("--name", part.name, "--events", str(stage.events / f"{part.name}.jsonl")),
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
    done(bank.transfer(cast.requester.address, Wei(REWARD + POCKET_MONEY)))
    for part in cast.parts:
        stake = _stake(part, cast)
        done(bank.transfer(part.signer.address, Wei(stake + POCKET_MONEY)))
        done(Operator(client, deployment, part.signer).deposit(stake))


def _stake(part: Part, cast: Cast) -> Wei:
    """What it deposits. An aggregator that is to take over from a cheat bonds twice as much in the second attempt."""
    bond = DEFAULT_ECONOMICS.aggregator_bond
    takes_over = part.attack is None and any(other.role is Role.AGGREGATOR for other in cast.attackers)
    stakes = {
        Role.WORKER: DEFAULT_ECONOMICS.worker_stake,
        Role.VALIDATOR: DEFAULT_ECONOMICS.validator_stake,
        Role.AGGREGATOR: Wei((2 * bond if takes_over else bond) + POCKET_MONEY),
        Role.CHALLENGER: WATCHER_STAKE,
    }
    return stakes[part.role]


def _shares(split: DemoSplit) -> Mapping[str, Dataset]:
    workers = {f"worker-{i}": dataset for i, dataset in enumerate(split.workers, 1)}
    return workers | {f"validator-{i}": dataset for i, dataset in enumerate(split.validators, 1)}


def _draft(config: DemoConfig, split: DemoSplit, now: int) -> TaskDraft:
    preset = config.preset
    aggregators = sum(part.role is Role.AGGREGATOR for part in _parts(config))
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
        aggregators=Bounds(aggregators, aggregators),
        windows=config.windows,
        validation=config.validation,
        max_squared_norm=_norm_bound(config, split),
        draw=Draw(config.clients_per_round or 0),
    )


def _norm_bound(config: DemoConfig, split: DemoSplit) -> int | None:
    """A bound that honest updates keep and the norm attack does not, from a trial on root data; None without one."""
    if not any(ATTACKS[name].bounds_norm for name in config.attacks):
        return None
    return NORM_MARGIN * usual_squared_norm(config.preset, split.validators[0], config.seed)

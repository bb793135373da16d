"""A task as its requester writes it down: preset, TOML file, flags; the later wins. All problems are told at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from chainfl.cli.output import Money
from chainfl.errors import SpecificationError, UsageError
from chainfl.storage.cid import parse_cid
from chainfl.tasks.decimals import plain_decimal, plain_decimals
from chainfl.tasks.server_settings import ServerSettings, exact
from chainfl.tasks.spec import (
    DEFAULT_CHUNK_PARAMS,
    DEFAULT_ECONOMICS,
    DEFAULT_GROUP_SIZE,
    DatasetEntry,
    PayloadEntry,
    ValidationEntry,
)
from chainfl.tasks.state import Bounds, Draw, DrawBy, Economics, Rule, Windows
from chainfl.training.presets import PRESETS, Preset
from chainfl.types import Cid

if TYPE_CHECKING:
    from chainfl.agents.requester import TaskDraft
    from chainfl.data.croissant import Description

MAX_FILE_BYTES: Final = 1 << 20

_UNITS: Final = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
_TOKEN_FIELDS: Final = (
    "worker_stake",
    "validator_stake",
    "aggregator_bond",
    "slot_fee",
    "challenger_bond",
    "demand_fee",
)

_RATES: Final = (
    "gate_cosine",
    "duplicate_cosine",
    "clipping_norm",
    "smoothing",
    "between_round_truncation",
    "within_round_truncation",
    "keep",
)

Rate = Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,18})?$")]
Share = Annotated[str, Field(max_length=64)]
Amount = str


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelTable(_Table):
    """[model]: a registered model and its parameters."""

    name: str
    params: dict[str, int] = {}
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0


class OptimizerTable(_Table):
    """[training] optimizer: one of torch's. params: decimals, pairs of decimals, or true and false."""

    name: str
    params: dict[str, Rate | bool | list[Rate]] = {}

    @field_validator("params", mode="before")
    @classmethod
    def _as_decimals(cls, value: Any) -> Any:
        return plain_decimals(value)


class TrainingTable(_Table):
    """[training]: what every worker does in a round."""

    algorithm: Literal["fedavg", "fedprox", "scaffold", "fednova", "feddyn"] = "fedavg"
    steps: int
    batch_size: int
    learning_rate: Rate
    momentum: Rate = "0"
    weight_decay: Rate = "0"
    proximal_mu: Rate | None = None
    alpha: Rate | None = None
    local_epochs: int | None = None
    optimizer: OptimizerTable | None = None
    accumulation: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"

    @field_validator("learning_rate", "momentum", "weight_decay", "proximal_mu", "alpha", mode="before")
    @classmethod
    def _decimal(cls, value: Any) -> Any:
        return plain_decimal(value)


class ParticipantsTable(_Table):
    """[participants]: who takes part in a round. clients_per_round: so many, drawn anew for each; None is everybody."""

    clients_per_round: Annotated[int, Field(ge=1, le=1_024)] | None = None
    selection: Literal["uniform", "stake", "reputation"] = "uniform"

    def draw(self) -> Draw:
        """The table as a draft takes it."""
        return Draw(self.clients_per_round or 0, DrawBy[self.selection.upper()])


class FormatTable(_Table):
    """[format]: the integers, and how updates become a step.

    server, momentum, second, tau: of the server's step, not of a worker's. Numbers are exact, "9/10" or 0.9, and what
    is not said is what such a server usually has. momentum_num and momentum_den say the same as momentum.
    """

    model_scale_bits: int = 20
    update_scale_bits: int = 14
    chunk_params: int = DEFAULT_CHUNK_PARAMS
    step_num: int | None = None
    step_den: int | None = None
    rule: Literal["mean", "trimmed_mean", "median"] = "mean"
    trim_num: int = 0
    trim_den: int = 0
    server: Literal["plain", "momentum", "nesterov", "adagrad", "adam", "yogi"] | None = None
    momentum: Share | None = None
    momentum_num: int | None = None
    momentum_den: int | None = None
    second: Share | None = None
    tau: Share | None = None
    group_size: int = DEFAULT_GROUP_SIZE

    @field_validator("momentum", "second", "tau", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return plain_decimal(value)

    def settings(self) -> dict[str, Any]:
        """The table as a draft takes it. Raises UsageError for what contradicts itself or is no fraction."""
        said = {"server", "momentum", "second", "tau"}
        plain = {name: value for name, value in self.model_dump(exclude=said).items() if value is not None}
        given = {
            name: exact(f"format.{name}", getattr(self, name)) for name in ("second", "tau") if getattr(self, name)
        }
        server = ServerSettings(self.server, self._rate(), self._momentum(), **given)
        return {**plain, "rule": Rule[self.rule.upper()], **server.to_fields(self.model_scale_bits)}

    def _rate(self) -> Fraction | None:
        if self.step_num is None and self.step_den is None:
            return None
        return _quotient("format.step", 1 if self.step_num is None else self.step_num, self.step_den or 1)

    def _momentum(self) -> Fraction | None:
        num, den = self.momentum_num or 0, self.momentum_den or 0
        if self.momentum is None:
            return None if num == den == 0 else _quotient("format.momentum", num, den)
        if num or den:
            raise UsageError("format says momentum twice: leave out momentum_num and momentum_den")
        return exact("format.momentum", self.momentum)


def _quotient(name: str, num: int, den: int) -> Fraction:
    if den < 1:
        raise UsageError(f"{name} is {num}/{den}: {name}_den is at least 1", num=num, den=den)
    return Fraction(num, den)


class TaskFile(_Table):
    """The whole file. reward and stakes in tokens as text; enrolment a length of time such as "2h".

    One of model and program is there; program: a `torch.export` archive.
    """

    preset: str | None = None
    name: str
    description: str = ""
    licence: str = "CC-BY-4.0"
    reward: Amount
    rounds: int
    enrolment: str = "1h"
    workers: str | int = "2-16"
    validators: str | int = "1-5"
    aggregators: str | int = "1-3"
    named_validators: list[str] = []
    parent_model: str | None = None
    participants: ParticipantsTable = ParticipantsTable()
    model: ModelTable | None = None
    program: Path | None = None
    training: TrainingTable
    validation: ValidationEntry = ValidationEntry()
    dataset: DatasetEntry
    format: FormatTable = FormatTable()
    payload: PayloadEntry = PayloadEntry()
    windows: dict[
        Literal["commit", "reveal", "score_commit", "score_reveal", "slot", "challenge", "answer", "proof"], int
    ] = {}
    economics: dict[str, Amount | int] = {}

    @field_validator("validation", "payload", mode="before")
    @classmethod
    def _rates(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: plain_decimal(given) if name in _RATES else given for name, given in value.items()}


TEMPLATE: Final = """\
# A task for `chainfl task create --file`. What a preset or the defaults say may be left out.
preset = "digits"               # digits, mnist or cifar10: model, data and training; none unless said
name = "digits, trained by strangers"   # what people see; the preset's data set unless said
description = ""                # more for people
licence = "CC-BY-4.0"           # of the models, as an SPDX name
reward = "1000"                 # tokens, escrowed for all rounds together; must be said
rounds = 10                     # how many; the preset's
enrolment = "1h"                # from the moment it is published: 90s, 10min, 2h, 1d
workers = "3-5"                 # one number, or minimum-maximum; 2-16 unless said
validators = "1-3"              # the same; 1-5 unless said
aggregators = "1-2"             # the same; 1-3 unless said
named_validators = []           # addresses; when there are any, only they may validate
# parent_model = "…"            # id of the model that this task continues
# program = "model.pt2"         # a torch.export archive beside this file, instead of [model]

[participants]                  # who takes part in a round; by default everybody
# clients_per_round = 5         # so many workers, drawn on chain anew for each round
# selection = "uniform"         # or stake (up to four times what is required), or reputation (past weights)

[model]                         # a registered model and its parameters; the preset's, unless a name or program is said
name = "cnn"                    # cnn, resnet, mlp or paper_cnn
params = { in_channels = 1, height = 8, width = 8, num_classes = 10, channels = 32, blocks = 2, hidden = 64 }
seed = 0                        # of its initial weights

[dataset]                       # for people, and for a check of shapes; the preset's
name = "digits"                 # what people see
description = "scikit-learn's handwritten digits"   # more for people; empty unless said
licence = ""                    # of the data, as an SPDX name
input_shape = [1, 8, 8]         # of one example
num_classes = 10                # labels are from 0 to one less
# description_cid = "bafk…"     # a published set (`chainfl data publish`): says the rest, and workers take its shards

[training]                      # what a worker does in a round; the preset's
steps = 40                      # of its optimizer; with local_epochs the most
batch_size = 64                 # examples a step
learning_rate = "0.05"          # a decimal, as text or as a number, like all rates here
momentum = "0.9"                # of sgd; 0 without a preset
weight_decay = "0"              # at each step
algorithm = "fedavg"            # or fedprox, scaffold, fednova, feddyn
# proximal_mu = "0.01"          # fedprox, which needs it: how strongly a local model is drawn back to the global one
# alpha = "0.01"                # feddyn, which needs it: the same, for its dynamic regulariser
# local_epochs = 1              # as many steps as so many passes over one's own data take; `steps` unless said
# optimizer = { name = "adam", params = { betas = ["0.9", "0.999"] } }   # one of torch's, in lower case; plain sgd
accumulation = 1                # parts that a batch's gradient is summed up from, to save memory
precision = "float32"           # or bfloat16, for the forward pass

[validation]                    # how validators come to weights and scores: docs/protocol.md
rule = "gate_clip"              # or root_fit, krum, multi_krum, bulyan, rfa, centred_clipping, fltrust, norm_bound
gate_cosine = "0"               # an update counts when its cosine with root data's is above; for root_fit, 0.05 less
duplicate_cosine = "0.99"       # updates closer to one another than this share one score
contribution = "leave_one_out"  # what scores follow; or shapley (up to 8 workers), gtg_shapley
before = []                     # what mixes updates before the rule looks: bucketing, nearest_neighbour_mixing
# root_set_cid = "bafk…"        # root data that the requester publishes, for validators who bring none
# num_malicious_clients = 1     # krum, multi_krum, bulyan, nearest_neighbour_mixing need it: liars that they bear
# num_clients_to_keep = 3       # multi_krum: how many count; by default all but num_malicious_clients and 2
# bucket_size = 2               # bucketing, which needs it: how many updates are averaged
# clipping_norm = "0.5"         # centred_clipping, norm_bound: a real length; by default the round's median
# iterations = 8                # rfa (8), centred_clipping (1)
# smoothing = "0.000001"        # rfa (0.000001): the distance below which an update is no closer
# max_sweeps = 50               # gtg_shapley (50): sweeps of one order a worker, unless the values settle earlier
# between_round_truncation = "0.001"   # gtg_shapley (0.001): a round is worth nothing that moves the loss by less
# within_round_truncation = "0.01"     # gtg_shapley (0.01): an order ends when less of the gain is missing

[format]                        # the integers: docs/protocol.md, Numbers
model_scale_bits = 20           # a model's integer is so many halvings of a unit
update_scale_bits = 14          # the same of an update's
chunk_params = 256              # values of one leaf of the tree that is committed to; a multiple of 16
rule = "mean"                   # mean, trimmed_mean or median, coordinate by coordinate
trim_num = 0                    # trimmed_mean drops trim_num / trim_den of the updates at each end, and needs both
trim_den = 0
server = "plain"                # or momentum, nesterov (DiLoCo's), adagrad, adam, yogi: how the server uses the step
# step_num = 1                  # step_num / step_den: of the mean; of an adaptive server's rate, 1/10, of yogi's 1/100
# step_den = 1
# momentum = "9/10"             # the share of the server's momentum, or first moment, that a round keeps; adagrad: 0
# momentum_num = 9              # the same as momentum_num / momentum_den, in place of momentum
# momentum_den = 10
# second = "99/100"             # adam, yogi (99/100): the same of the second moment
# tau = "0.001"                 # adagrad, adam, yogi (0.001): added to its root; small is bold
group_size = 64                 # above so many updates the mean is a sum of group sums

[payload]                       # the form of the updates' files
compression = "none"            # deflate: half the bytes; int8, int4, topk: fewer, and what they lose is sent later
# keep = "0.01"                 # topk: the share of an update's values that is sent

[windows]                       # seconds; by default the network's own: on public ones those here
# commit = 600                  # training, and committing to an update
# reveal = 300                  # publishing and revealing it
# score_commit = 600            # judging the updates, and committing to a vote
# score_reveal = 300            # revealing it
# slot = 300                    # of each drawn aggregator alone; then anybody with the bond may post, for three more
# challenge = 900               # how long a posted aggregate can be disputed
# answer = 300                  # the clock of every demand and of every move in a dispute
# proof = 600                   # what a committed challenger has after challenge

[economics]                     # tokens as text, shares in basis points
worker_stake = "100"            # that a worker locks
validator_stake = "300"         # that a validator locks
aggregator_bond = "200"         # that an aggregator locks while what it posted can be disputed
slot_fee = "5"                  # that a drawn aggregator loses if it does not post in its slot
workers_bps = 7000              # the workers' share of a round's reward; the three come to 10,000
validators_bps = 2000           # the validators'
aggregator_bps = 1000           # the aggregator's
base_bps = 3000                 # of the workers' part, by stake; the rest by score
worker_slash_bps = 2000         # of the stake: an update that is committed and not revealed
validator_slash_bps = 1000      # the same of a vote
challenger_bond = "50"          # that whoever disputes locks
demand_fee = "2"                # for a chunk of an update; every further demand for the same update doubles it
range_slash_bps = 10000         # an update that is proven wrong
withheld_slash_bps = 5000       # an update that nobody serves
vouch_slash_bps = 5000          # a validator that vouched for one
"""


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML document. Raises UsageError for a file that cannot be read, SpecificationError for one that is no TOML."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    if len(raw) > MAX_FILE_BYTES:
        raise SpecificationError(f"{path} is too large for a task file", path=str(path))
    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecificationError(f"{path} is not TOML: {error}", path=str(path)) from error


Describe = Callable[[Cid], "Description"]
"""Fetches the description of a published data set."""


def task_file(
    document: Mapping[str, Any],
    flags: Mapping[str, Any],
    folder: Path = Path(),
    describe: Describe | None = None,
) -> TaskFile:
    """Preset, file and flags together. folder: where the document lies, and what it names beside itself.

    describe: what a published data set that is named says of itself stands above the preset; what the file or the
    flags say of it beside that must be the same. Without it nothing is looked up.
    Raises SpecificationError with every problem, UsageError for no such preset, InvalidCid, what `describe` raises.
    """
    preset = flags.get("preset") or document.get("preset")
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"no preset is called {preset!r}; there are {', '.join(PRESETS)}")
    given = _merged(_located(document, folder), {k: v for k, v in flags.items() if v not in (None, ())})
    settings = _from_preset(PRESETS[preset]) if preset else {}
    if "program" in given:
        settings.pop("model", None)
    if describe is not None and (cid := _description_cid(given)) is not None:
        settings = _merged(settings, {"dataset": _described(describe(cid), given["dataset"])})
    return _validated(_merged(settings, given))


def _description_cid(given: Mapping[str, Any]) -> Cid | None:
    dataset = given.get("dataset")
    cid = dataset.get("description_cid") if isinstance(dataset, Mapping) else None
    return parse_cid(cid) if isinstance(cid, str) else None


def _described(told: Description, given: Mapping[str, Any]) -> dict[str, Any]:
    """The published set as a [dataset] table. Raises SpecificationError where the requester says otherwise."""
    form = {"input_shape": list(told.input_shape), "num_classes": told.num_classes}
    problems = [
        f"dataset.{name} is {given[name]!r}, but the published data set says {value!r}"
        for name, value in form.items()
        if name in given and given[name] != value
    ]
    if problems:
        raise SpecificationError(f"the task is not right: {'; '.join(problems)}", problems=problems)
    words = told.words
    return {**form, "name": words.name, "description": words.description, "licence": words.licence}


def _located(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The document with its program's path as seen from here."""
    program = document.get("program")
    return {**document, "program": folder / Path(program).expanduser()} if isinstance(program, str) else {**document}


def _validated(settings: Mapping[str, Any]) -> TaskFile:
    problems = list(_model_problems(settings))
    try:
        file = TaskFile.model_validate(settings)
    except ValidationError as error:
        problems += [_told(item) for item in error.errors(include_url=False, include_input=False)]
    if problems:
        raise SpecificationError(f"the task is not complete or not right: {'; '.join(problems)}", problems=problems)
    return file


def _model_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """Unless there is exactly one model."""
    model, has_program = settings.get("model"), "program" in settings
    if model is None and not has_program:
        yield "model is missing: [model], a program or a preset"
    elif has_program and isinstance(model, Mapping) and set(model) == {"seed"}:
        yield "a seed and a program contradict one another: a program brings its weights along"
    elif has_program and model is not None:
        yield "model and program contradict one another: a task has one model, a registered one or a program"


def draft_of(file: TaskFile, *, now: int, windows: Windows, money: Money) -> TaskDraft:
    """What a requester publishes. now: chain time; windows: the network's own. Raises UsageError."""
    from chainfl.agents.requester import TaskDraft

    return TaskDraft(
        name=file.name,
        description=file.description,
        licence=file.licence,
        dataset=file.dataset,
        **_model_of(file),
        rounds=file.rounds,
        reward=money.parse(file.reward),
        enrolment_end=now + seconds_of(file.enrolment),
        workers=bounds_of(file.workers),
        validators=bounds_of(file.validators),
        aggregators=bounds_of(file.aggregators),
        named_validators=tuple(file.named_validators),
        parent_model=file.parent_model,
        draw=file.participants.draw(),
        windows=replace(windows, **file.windows),
        economics=_economics(file.economics, money),
        validation=file.validation,
        **file.training.model_dump(),
        **file.format.settings(),
        payload=file.payload,
    )


def _model_of(file: TaskFile) -> dict[str, Any]:
    from chainfl.agents.requester import ProgramFile

    if file.program is not None:
        return {"model": ProgramFile(file.program)}
    assert file.model is not None, "task_file lets no task through that has no model"
    return {"model": file.model.name, "model_params": file.model.params, "model_seed": file.model.seed}


def seconds_of(text: str) -> int:
    """Seconds of a length of time: "90s", "10min", "2h", "1d" or a bare number. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,9})\s*(s|min|h|d)?", text.strip(), re.ASCII)
    if match is None:
        raise UsageError(f"{text!r} is not a length of time, such as 90s, 10min, 2h or 1d")
    return int(match[1]) * _UNITS[match[2] or "s"]


def bounds_of(text: str | int) -> Bounds:
    """How many: "5", or "2-16" for a minimum and a maximum. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", str(text).strip(), re.ASCII)
    if match is None:
        raise UsageError(f"{text!r} is not a number of participants, such as 5 or 2-16")
    least = int(match[1])
    return Bounds(least, int(match[2]) if match[2] else least)


FORMAT_FLAGS: Final = ("rule", "trim", "server", "server_rate", "momentum", "second", "tau", "group_size")


def format_flags(flags: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the flags about rule and server say of [format]; None when they say nothing. Raises UsageError.

    flags: those that FORMAT_FLAGS names; None for one that was not given.
    """
    found = {name: value for name, value in flags.items() if value is not None}
    if (trim := found.pop("trim", None)) is not None:
        found["trim_num"], found["trim_den"] = fraction_of(trim)
    if (rate := found.pop("server_rate", None)) is not None:
        found["step_num"], found["step_den"] = exact("--server-rate", rate).as_integer_ratio()
    if "momentum" in found:
        found |= {"momentum_num": None, "momentum_den": None}  # a flag wins over either spelling in a file
    return found or None


def fraction_of(text: str) -> tuple[int, int]:
    """A share of integers: "9/10"; "0" is 0/0, without. Raises UsageError."""
    if text.strip() == "0":
        return 0, 0
    match = re.fullmatch(r"([0-9]{1,10})/([1-9][0-9]{0,9})", text.strip(), re.ASCII)
    if match is None:
        raise UsageError(f"{text!r} is not a fraction, such as 9/10, or 0 for none")
    return int(match[1]), int(match[2])


def _economics(given: Mapping[str, Amount | int], money: Money) -> Economics:
    """The defaults with what is given; stakes and fees in tokens, shares in basis points."""
    known = asdict(DEFAULT_ECONOMICS)
    if unknown := sorted(set(given) - set(known)):
        raise SpecificationError(f"economics has no {', '.join(unknown)}; there are {', '.join(known)}")
    values: dict[str, Any] = {
        name: money.parse(str(value)) if name in _TOKEN_FIELDS else _basis_points(name, value)
        for name, value in given.items()
    }
    return replace(DEFAULT_ECONOMICS, **values)


def _basis_points(name: str, value: Amount | int) -> int:
    if isinstance(value, int):
        return value
    raise SpecificationError(f"economics.{name} is a number of basis points, such as 2000 for 20%, not {value!r}")


def _from_preset(preset: Preset) -> dict[str, Any]:
    params = dict(preset.model_params)
    shape = [params["in_channels"], params["height"], params["width"]]
    return {
        "name": preset.dataset,
        "rounds": preset.rounds,
        "model": {"name": preset.model, "params": params},
        "dataset": {"name": preset.dataset, "input_shape": shape, "num_classes": params["num_classes"]},
        "training": {
            "steps": preset.steps,
            "batch_size": preset.batch_size,
            "learning_rate": preset.learning_rate,
            "momentum": preset.momentum,
            "weight_decay": preset.weight_decay,
        },
        "format": {
            "model_scale_bits": preset.model_scale_bits,
            "update_scale_bits": preset.update_scale_bits,
            **_step_of(preset),
        },
    }


def _step_of(preset: Preset) -> dict[str, int]:
    """Nothing where it is what every server has that is not adaptive: those have rates of their own."""
    step = (preset.server_step_num, preset.server_step_den)
    return {} if step == (1, 1) else {"step_num": step[0], "step_den": step[1]}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged, except a model's parameters, which belong to one model; all else is replaced."""
    result = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping) and name != "params"
        result[name] = _merged(result[name], value) if both else value
    return result


def _told(entry: Any) -> str:
    where = ".".join(str(part) for part in entry["loc"]) or "the file"
    if entry["type"] == "missing":
        return f"{where} is missing"
    if entry["type"] == "extra_forbidden":
        return f"{where} is not a setting of a task"
    return f"{where}: {entry['msg'][0].lower()}{entry['msg'][1:]}"

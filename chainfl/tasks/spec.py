"""The task specification: everything that a stranger must know before it takes part.

It is published as canonical JSON (sorted keys, no spaces, ASCII, no floats), and the chain holds the SHA-256 of
those bytes. At most 1 MiB, one block, so the same hash is the digest of its CID. Integers may exceed 2^53; rates
are decimal strings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from chainfl.errors import InvalidCid, SpecificationError, SpecificationMismatch
from chainfl.storage.cid import RAW, make_cid, parse_cid
from chainfl.tasks.cids import cid_on_chain
from chainfl.tasks.payload_rules import payload_problems
from chainfl.tasks.rules import problems_of
from chainfl.tasks.state import EVERYBODY, ZERO_ROOT, Bounds, Draw, Economics, Format, TaskParams, TaskView, Windows
from chainfl.tasks.training_rules import training_problems
from chainfl.tasks.validation_rules import validation_problems
from chainfl.types import Address, Cid, Compression, CompressionName, Root, Wei

MAX_SPEC_BYTES = 1 << 20
TOKEN = 10**18
"""Wei of one token of 18 decimals."""

LOCAL_WINDOWS = Windows(commit=20, reveal=10, score_commit=15, score_reveal=15, slot=10, challenge=3, answer=5, proof=5)
PUBLIC_WINDOWS = Windows(
    commit=600, reveal=300, score_commit=600, score_reveal=300, slot=300, challenge=900, answer=300, proof=600
)
DEFAULT_ECONOMICS = Economics(
    worker_stake=Wei(100 * TOKEN),
    validator_stake=Wei(300 * TOKEN),
    aggregator_bond=Wei(200 * TOKEN),
    slot_fee=Wei(5 * TOKEN),
    workers_bps=7_000,
    validators_bps=2_000,
    aggregator_bps=1_000,
    base_bps=3_000,
    worker_slash_bps=2_000,
    validator_slash_bps=1_000,
    challenger_bond=Wei(50 * TOKEN),
    demand_fee=Wei(2 * TOKEN),
    range_slash_bps=10_000,
    withheld_slash_bps=5_000,
    vouch_slash_bps=5_000,
)
DEFAULT_CHUNK_PARAMS = 256
DEFAULT_MODEL_SCALE_BITS = 20
DEFAULT_UPDATE_SCALE_BITS = 14
DEFAULT_GROUP_SIZE = 64

_UPDATE_LIMIT = 32_767

Name = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(max_length=20_000)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
CidText = Annotated[str, Field(pattern=r"^b[a-z2-7]{58}$")]
Rate = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,18})?$")]
AddressText = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]
Count = Annotated[int, Field(ge=1, le=1 << 40)]


class _Strict(BaseModel):
    # Text that a rule forgets must not be able to hold what the next reader takes for something else.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())

    left_out_by_default: ClassVar[frozenset[str]] = frozenset()
    """Fields that a specification has only when they say something: what was written before them keeps its hash."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        silent = {name for name in self.left_out_by_default if getattr(self, name) == fields[name].default}
        return {name: value for name, value in handler(self).items() if name not in silent}


class RegisteredModel(_Strict):
    """A model that chainfl itself can build: a registered name, its parameters, and the seed of its initial weights."""

    kind: Literal["registered"] = "registered"
    name: Name
    params: dict[Name, int]
    seed: Annotated[int, Field(ge=0, lt=1 << 63)]


class ProgramModel(_Strict):
    """A `torch.export` program: its CID, the SHA-256 of the file, and its size in bytes."""

    kind: Literal["program"] = "program"
    cid: CidText
    sha256: Hash
    num_bytes: Annotated[int, Field(ge=1, le=1 << 34)]


class TensorEntry(_Strict):
    """A floating tensor of the model."""

    name: Annotated[str, Field(min_length=1, max_length=512)]
    shape: list[Annotated[int, Field(ge=1, le=1 << 33)]]
    dtype: Literal["float16", "float32", "float64"]


class LayoutEntry(_Strict):
    """The order in which tensors become one vector. hash: of names and shapes, as `encoding.layout` computes it."""

    hash: Hash
    tensors: Annotated[list[TensorEntry], Field(min_length=1, max_length=65_536)]

    def to_json(self) -> str:
        """What `Layout.from_json` reads."""
        return _canonical([tensor.model_dump(mode="json") for tensor in self.tensors]).decode()

    def num_params(self) -> int:
        """The number of values over all tensors."""
        return sum(_product(tensor.shape) for tensor in self.tensors)


class OptimizerEntry(_Strict):
    """One of torch's optimisers, by its name in lower case, and what is set of it beside learning rate and decay."""

    name: Name
    params: dict[Name, Rate | bool | Annotated[list[Rate], Field(min_length=2, max_length=2)]] = {}


class TrainingEntry(_Strict):
    """How a worker trains. Rates are decimals as text: they steer training, the chain never sees them.

    steps: of the optimiser, the most that a round has if local_epochs is given: then it is so many passes over one's
    own data. proximal_mu: of fedprox; alpha: of feddyn. momentum: of sgd, which trains if no optimizer is named.
    accumulation: parts that a batch's gradient is summed up from. precision: of the forward pass.
    """

    algorithm: Literal["fedavg", "fedprox", "scaffold", "fednova", "feddyn"] = "fedavg"
    steps: Annotated[int, Field(ge=1, le=1_000_000)]
    batch_size: Annotated[int, Field(ge=1, le=1 << 20)]
    learning_rate: Rate
    momentum: Rate = "0"
    weight_decay: Rate = "0"
    proximal_mu: Rate | None = None
    alpha: Rate | None = None
    local_epochs: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    optimizer: OptimizerEntry | None = None
    accumulation: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_serializer(mode="wrap")
    def _as_first_published(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What the first version did not have is written only where it says something: older hashes stay.
        later = {name: type(self).model_fields[name].default for name in _LATER_TRAINING_FIELDS}
        return {name: value for name, value in dump(self).items() if name not in later or value != later[name]}


_LATER_TRAINING_FIELDS = ("proximal_mu", "alpha", "local_epochs", "optimizer", "accumulation", "precision")


class DatasetEntry(_Strict):
    """What the data are, for people and for a shape check; the data themselves stay with their owners.

    description_cid: of a published set (`chainfl data publish`), whose shards are there for the workers to take.
    """

    left_out_by_default = frozenset({"description_cid"})

    name: Name
    description: Text = ""
    licence: Annotated[str, Field(max_length=128)] = ""
    input_shape: Annotated[list[Annotated[int, Field(ge=1, le=1 << 24)]], Field(min_length=1, max_length=8)]
    num_classes: Annotated[int, Field(ge=2, le=1 << 20)]
    description_cid: CidText | None = None


class PayloadEntry(_Strict):
    """The form of the updates' files (docs/protocol.md, Files). compression: `deflate` loses nothing, the others do.

    keep: of `topk`, the share of an update's values that is sent.
    """

    left_out_by_default = frozenset({"keep"})

    compression: CompressionName = "none"
    keep: Rate | None = None

    def form(self) -> Compression:
        """As readers and writers of updates take it."""
        return Compression(self.compression, Fraction(self.keep or 1))


class ValidationEntry(_Strict):
    """How validators come to their integers (docs/protocol.md): a selection rule's weights, a contribution's scores.

    before: what mixes the updates before the rule looks at them, in order. root_set_cid: a root set that the requester
    publishes; None when each validator has its own. duplicate_cosine: updates closer to one another than this share one
    score. The rest are parameters of rules, steps before them and contributions (`tasks.validation_rules`): f of Krum,
    Multi-Krum, Bulyan and the mixing; how many Multi-Krum keeps; a radius or bound as a real length; how often a rule
    iterates; RFA's smoothing; a bucket's size; and when GTG-Shapley stops.
    """

    rule: Literal[
        "gate_clip", "root_fit", "krum", "multi_krum", "bulyan", "rfa", "centred_clipping", "fltrust", "norm_bound"
    ] = "gate_clip"
    before: list[Literal["bucketing", "nearest_neighbour_mixing"]] = []
    gate_cosine: Rate = "0"
    duplicate_cosine: Rate = "0.99"
    root_set_cid: CidText | None = None
    num_malicious_clients: Annotated[int, Field(ge=0, le=1_024)] | None = None
    num_clients_to_keep: Annotated[int, Field(ge=1, le=1_024)] | None = None
    clipping_norm: Rate | None = None
    iterations: Annotated[int, Field(ge=1, le=100)] | None = None
    smoothing: Rate | None = None
    bucket_size: Annotated[int, Field(ge=1, le=1_024)] | None = None
    contribution: Literal["leave_one_out", "shapley", "gtg_shapley"] = "leave_one_out"
    between_round_truncation: Rate | None = None
    within_round_truncation: Rate | None = None
    max_sweeps: Annotated[int, Field(ge=1, le=1_000)] | None = None

    @model_serializer(mode="wrap")
    def _as_first_published(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What the first version did not have is written only where it says something: older hashes stay.
        fields = type(self).model_fields
        return {
            name: value
            for name, value in dump(self).items()
            if name in _FIRST_VALIDATION_FIELDS or value != fields[name].default
        }


_FIRST_VALIDATION_FIELDS = ("rule", "gate_cosine", "duplicate_cosine", "root_set_cid")


class GenesisEntry(_Strict):
    """The model that round 1 starts from: its root, and where its exact and its float32 bytes are.

    state_root: of the server's state, which starts at zero; None where it keeps none.
    """

    root: Hash
    cid: CidText
    float_cid: CidText
    state_root: Hash | None = None


class TaskSpec(_Strict):
    """A task as its requester published it. Make one with `parse`, or with `build` for one's own."""

    left_out_by_default = frozenset({"payload", "draw"})

    version: Literal[1] = 1
    name: Name
    description: Text = ""
    requester_notes: Text = ""
    licence: Annotated[str, Field(max_length=128)]
    code_version: Name
    model: Annotated[RegisteredModel | ProgramModel, Field(discriminator="kind")]
    layout: LayoutEntry
    format: Format
    training: TrainingEntry
    dataset: DatasetEntry
    privacy: None = None
    payload: PayloadEntry = PayloadEntry()
    validation: ValidationEntry = ValidationEntry()
    rounds: Annotated[int, Field(ge=1, le=65_533)]
    enrolment_end: Annotated[int, Field(ge=1, lt=1 << 40)]
    reward: Annotated[int, Field(ge=0, lt=1 << 128)]
    workers: Bounds
    validators: Bounds
    aggregators: Bounds
    named_validators: Annotated[list[AddressText], Field(max_length=16)] = []
    windows: Windows
    economics: Economics
    genesis: GenesisEntry
    parent_model: Hash | None = None
    draw: Draw = EVERYBODY

    def to_bytes(self) -> bytes:
        """The canonical JSON: the same bytes from whatever machine."""
        return _canonical(self.model_dump(mode="json"))

    def architecture(self) -> str:
        """The model entry as canonical JSON: what a float32 file says about the module that its tensors fit."""
        return architecture_of(self.model)

    def spec_hash(self) -> bytes:
        """SHA-256 of the bytes, as the chain holds it."""
        return hashlib.sha256(self.to_bytes()).digest()

    def to_params(self) -> TaskParams:
        """What createTask takes. Raises InvalidCid."""
        return TaskParams(
            spec_hash=self.spec_hash(),
            genesis_root=Root(bytes.fromhex(self.genesis.root)),
            genesis_state_root=Root(bytes.fromhex(self.genesis.state_root)) if self.genesis.state_root else ZERO_ROOT,
            genesis_cid=cid_on_chain(Cid(self.genesis.cid)),
            genesis_float_cid=cid_on_chain(Cid(self.genesis.float_cid)),
            parent_model=bytes.fromhex(self.parent_model) if self.parent_model else bytes(32),
            rounds=self.rounds,
            enrolment_end=self.enrolment_end,
            reward=Wei(self.reward),
            workers=self.workers,
            validators=self.validators,
            aggregators=self.aggregators,
            format=self.format,
            windows=self.windows,
            economics=self.economics,
            named_validators=tuple(Address(name) for name in self.named_validators),
            licence=self.licence,
            draw=self.draw,
        )

    def check_against(self, task: TaskView) -> None:
        """Raises SpecificationMismatch that names everything in which the chain holds something else."""
        _refuse(list(_differences(self.to_params(), task)))

    def check_created(self, created: TaskParams) -> None:
        """The same for all that createTask was given, named validators, CIDs and licence included."""
        ours = self.to_params()
        names = [field.name for field in fields(TaskParams)]
        _refuse(
            [told for name in names for told in _field_differences(name, getattr(ours, name), getattr(created, name))]
        )


class Recipe(Protocol):
    """The entries of a specification that say how to learn; a simulated experiment has these and no others."""

    @property
    def format(self) -> Format:
        """The integers, the rule, and the server's step."""
        ...

    @property
    def training(self) -> TrainingEntry:
        """What a worker does."""
        ...

    @property
    def dataset(self) -> DatasetEntry:
        """What the data are."""
        ...

    @property
    def validation(self) -> ValidationEntry:
        """What a validator does."""
        ...

    @property
    def payload(self) -> PayloadEntry:
        """The form of the updates' files, and what of an update they hold."""
        ...


def build(**fields: Any) -> TaskSpec:
    """A specification of one's own. Raises SpecificationError with every problem found."""
    return _validated(lambda: TaskSpec.model_validate(fields))


def parse(data: bytes, expected_hash: bytes) -> TaskSpec:
    """The specification that a stranger published.

    Raises SpecificationMismatch when the bytes are not those the task committed to, and SpecificationError with
    every problem found when they are malformed or not canonical.
    """
    seen = hashlib.sha256(data).digest()
    if seen != expected_hash:
        raise SpecificationMismatch(
            f"the specification hashes to {seen.hex()}, the task committed to {expected_hash.hex()}",
            seen=seen.hex(),
            expected=expected_hash.hex(),
        )
    return parse_own(data)


def parse_own(data: bytes) -> TaskSpec:
    """A specification whose hash nobody has committed to yet (a requester's own file)."""
    if len(data) > MAX_SPEC_BYTES:
        raise SpecificationError(f"a specification has at most {MAX_SPEC_BYTES} bytes, not {len(data)}")
    spec = _validated(lambda: TaskSpec.model_validate_json(data))
    # Two spellings of one specification, or a key given twice, would read differently elsewhere.
    if spec.to_bytes() != data:
        raise SpecificationError("the specification is not canonical JSON: keys sorted, no spaces, each once")
    return spec


def spec_cid(spec_hash: bytes) -> Cid:
    """Where the specification is: one raw block whose digest is the hash on chain."""
    return make_cid(RAW, spec_hash)


def default_format(num_params: int) -> Format:
    """The defaults of docs/protocol.md: the plain mean, and no norm bound but the one that the range itself sets."""
    return Format(
        num_params=num_params,
        chunk_params=DEFAULT_CHUNK_PARAMS,
        model_scale_bits=DEFAULT_MODEL_SCALE_BITS,
        update_scale_bits=DEFAULT_UPDATE_SCALE_BITS,
        step_num=1,
        step_den=1,
        max_squared_norm=min((1 << 64) - 1, num_params * _UPDATE_LIMIT**2),
        group_size=DEFAULT_GROUP_SIZE,
    )


def layout_hash(tensors: list[TensorEntry]) -> bytes:
    """The same 32 bytes as `Layout.hash`: SHA-256 over the canonical JSON of names and shapes."""
    return hashlib.sha256(_canonical([[tensor.name, tensor.shape] for tensor in tensors])).digest()


def _validated(make: Callable[[], TaskSpec]) -> TaskSpec:
    try:
        spec = make()
    except ValidationError as error:
        problems = [_told(entry) for entry in error.errors(include_url=False, include_input=False)]
        raise SpecificationError(f"the specification is malformed: {'; '.join(problems)}", problems=problems) from None
    if problems := list(_problems(spec)):
        raise SpecificationError(f"the specification is malformed: {'; '.join(problems)}", problems=problems)
    return spec


def _told(entry: Any) -> str:
    where = ".".join(str(part) for part in entry["loc"]) or "the document"
    return f"{where}: {entry['msg'][0].lower()}{entry['msg'][1:]}"


def _problems(spec: TaskSpec) -> Iterator[str]:
    """Everything that types alone do not catch."""
    broken = False
    for what, cid in (("genesis.cid", spec.genesis.cid), ("genesis.float_cid", spec.genesis.float_cid)):
        try:
            parse_cid(cid)
        except InvalidCid as error:
            broken = True
            yield f"{what}: {error}"
    if spec.dataset.description_cid is not None:
        try:
            parse_cid(spec.dataset.description_cid)
        except InvalidCid as error:
            yield f"dataset.description_cid: {error}"
    if not broken:
        yield from problems_of(spec.to_params())
    yield from _layout_problems(spec)
    yield from payload_problems(spec.payload)
    yield from training_problems(spec.training, spec.format)
    yield from validation_problems(spec.validation, spec.format, spec.draw.most_of(spec.workers.max))
    if len(spec.to_bytes()) > MAX_SPEC_BYTES:
        yield f"the specification is longer than {MAX_SPEC_BYTES} bytes"


def _layout_problems(spec: TaskSpec) -> Iterator[str]:
    names = [tensor.name for tensor in spec.layout.tensors]
    if names != sorted(set(names)):
        yield "layout.tensors are not sorted by name, each once"
    if spec.layout.num_params() != spec.format.num_params:
        yield f"layout has {spec.layout.num_params()} values, format.num_params says {spec.format.num_params}"
    if spec.layout.hash != layout_hash(spec.layout.tensors).hex():
        yield "layout.hash is not the hash of its names and shapes"


_COMPARED = (
    "spec_hash",
    "genesis_root",
    "genesis_state_root",
    "rounds",
    "enrolment_end",
    "reward",
    "workers",
    "validators",
    "aggregators",
    "format",
    "windows",
    "economics",
    "draw",
)


def _differences(params: TaskParams, task: TaskView) -> Iterator[str]:
    for name in _COMPARED:
        yield from _field_differences(name, getattr(params, name), getattr(task, name))
    if bool(params.named_validators) != task.validators_named:
        yield f"named_validators: {len(params.named_validators)} here, {task.validators_named} on chain"


def _refuse(differences: list[str]) -> None:
    if differences:
        raise SpecificationMismatch(
            f"the specification contradicts the task on chain: {'; '.join(differences)}", differences=differences
        )


def _field_differences(name: str, here: Any, there: Any) -> Iterator[str]:
    if here == there:
        return
    if isinstance(here, Bounds | Format | Windows | Economics | Draw):
        ours, theirs = asdict(here), asdict(there)
        yield from (
            f"{name}.{key}: {ours[key]} here, {theirs[key]} on chain" for key in ours if ours[key] != theirs[key]
        )
        return
    yield f"{name}: {_shown(here)} here, {_shown(there)} on chain"


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _product(shape: list[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def architecture_of(model: RegisteredModel | ProgramModel) -> str:
    """A model entry as canonical JSON."""
    return _canonical(model.model_dump(mode="json")).decode("ascii")


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")

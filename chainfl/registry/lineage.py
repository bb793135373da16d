"""Where a model came from, read from the registry, and derived again from the stored bytes, link by link."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from eth_hash.auto import keccak

from chainfl.encoding.chunk_tree import zero_state_root
from chainfl.encoding.layout import Layout
from chainfl.encoding.payload import Checkpoint, write_float_model, write_model
from chainfl.errors import (
    AggregationError,
    BlobNotFound,
    EncodingError,
    LineageBroken,
    RegistryError,
    SpecificationError,
    StorageError,
)
from chainfl.registry.material import TaskScope, fetch_checkpoint, fetch_spec
from chainfl.registry.replay import accepted_updates, replay_round
from chainfl.storage.port import BlobStore
from chainfl.storage.unixfs import cid_of
from chainfl.tasks.cids import cid_on_chain, cid_text
from chainfl.tasks.spec import TaskSpec
from chainfl.tasks.state import CidOnChain, RevealedUpdate, TalliedUpdate, TaskView
from chainfl.types import Address, Cid, ModelId, Root, TaskId


class VersionRecord(Protocol):
    """One version as the registry holds it."""

    @property
    def parent(self) -> bytes: ...
    @property
    def round(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def accepted(self) -> int: ...
    @property
    def opened_block(self) -> int: ...
    @property
    def registered_block(self) -> int: ...
    @property
    def registered_at(self) -> int: ...
    @property
    def aggregator(self) -> Address: ...
    @property
    def model_root(self) -> Root: ...
    @property
    def updates_hash(self) -> bytes: ...
    @property
    def cid(self) -> CidOnChain: ...
    @property
    def float_cid(self) -> CidOnChain: ...


class LineRecord(Protocol):
    """What all versions of a task share, as the registry holds it."""

    @property
    def owner(self) -> Address: ...
    @property
    def restricted(self) -> bool: ...
    @property
    def spec_hash(self) -> bytes: ...
    @property
    def licence(self) -> str: ...


class LineageReader(Protocol):
    """What a reader asks the chain."""

    @property
    def chain_id(self) -> int: ...
    @property
    def coordinator(self) -> Address: ...

    def task(self, task_id: TaskId) -> TaskView: ...
    def line(self, task_id: TaskId) -> LineRecord: ...
    def versions(self, task_id: TaskId) -> Sequence[tuple[ModelId, VersionRecord]]: ...
    def revealed_updates(self, task_id: TaskId, round_number: int, from_block: int) -> tuple[RevealedUpdate, ...]: ...
    def tallied_updates(self, task_id: TaskId, round_number: int, from_block: int) -> tuple[TalliedUpdate, ...]: ...


@dataclass(frozen=True, slots=True)
class UpdateLink:
    """One update that a version was made from, with the medians that the validators gave it."""

    worker: Address
    root: Root
    cid: Cid
    squared_norm: int
    num_examples: int
    weight: int
    score: int


@dataclass(frozen=True, slots=True)
class Version:
    """One model and what it was made from. Times in seconds of chain time."""

    model_id: ModelId
    parent: ModelId | None
    round: int
    attempt: int
    accepted: int
    opened_block: int
    registered_block: int
    registered_at: int
    aggregator: Address
    model_root: Root
    updates_hash: bytes
    cid: Cid
    float_cid: Cid
    updates: tuple[UpdateLink, ...]


@dataclass(frozen=True, slots=True)
class Lineage:
    """All versions of a task's model, genesis first. `restricted` is a signal: the bytes are public."""

    chain_id: int
    coordinator: Address
    task_id: TaskId
    requester: Address
    owner: Address
    restricted: bool
    licence: str
    spec_hash: bytes
    versions: tuple[Version, ...]


@dataclass(frozen=True, slots=True)
class LinkResult:
    """One link checked. what: `specification`, `genesis`, or `round N`. problem: None when it holds."""

    what: str
    model_id: ModelId | None
    problem: str | None

    @property
    def holds(self) -> bool:
        """Nothing is wrong with it."""
        return self.problem is None


@dataclass(frozen=True, slots=True)
class Verification:
    """Links in order, up to the first that fails: nothing after it can be derived. num_links: of the whole lineage."""

    links: tuple[LinkResult, ...]
    num_links: int

    @property
    def is_valid(self) -> bool:
        """Every link was checked, and holds."""
        return len(self.links) == self.num_links and all(link.holds for link in self.links)

    @property
    def first_failure(self) -> LinkResult | None:
        """The link that fails; None when all hold."""
        return next((link for link in self.links if not link.holds), None)

    def require(self) -> None:
        """Raises LineageBroken naming the first link that fails."""
        if failure := self.first_failure:
            raise LineageBroken(f"{failure.what}: {failure.problem}", link=failure.what)


def read_lineage(reader: LineageReader, task_id: TaskId) -> Lineage:
    """The lineage as the chain tells it; nothing is verified. Raises RegistryError for a task without models."""
    task, line = reader.task(task_id), reader.line(task_id)
    records = sorted(reader.versions(task_id), key=lambda pair: pair[1].round)
    if not records:
        raise RegistryError(f"task {task_id} has no model", task_id=task_id)
    return Lineage(
        chain_id=reader.chain_id,
        coordinator=reader.coordinator,
        task_id=task_id,
        requester=task.requester,
        owner=line.owner,
        restricted=line.restricted,
        licence=line.licence,
        spec_hash=line.spec_hash,
        versions=tuple(_read_version(reader, task_id, model_id, record) for model_id, record in records),
    )


def verify_lineage(
    reader: LineageReader, store: BlobStore, task_id: TaskId, *, up_to_round: int | None = None
) -> Verification:
    """Derives every model again from genesis and the stored updates, and compares ids, roots, hashes and both CIDs.

    Needs the bytes of specification, genesis and accepted updates. The models are computed; a stored one must be the
    same bytes, and may be missing. up_to_round: stop there.
    Raises RegistryError for a task without models, and what the reader raises when the chain does not answer.
    """
    lineage = read_lineage(reader, task_id)
    if up_to_round is not None:
        lineage = replace(lineage, versions=tuple(v for v in lineage.versions if v.round <= up_to_round))
    links: list[LinkResult] = []
    for link in _Verifier(lineage, reader.task(task_id), store).links():
        links.append(link)
        if not link.holds:
            break
    return Verification(tuple(links), 1 + len(lineage.versions))


def model_id_of(chain_id: int, coordinator: Address, task_id: TaskId, round_number: int) -> ModelId:
    """keccak256(abi.encode(chainid, coordinator, taskId, round)), as the registry computes it."""
    words = (chain_id, int(coordinator, 16), task_id, round_number)
    return ModelId(keccak(b"".join(word.to_bytes(32, "big") for word in words)))


def updates_hash(updates: Sequence[UpdateLink]) -> bytes:
    """The hash chain over a round's tallied updates, in the coordinator's order of workers."""
    digest = bytes(32)
    for update in updates:
        worker = int(update.worker, 16).to_bytes(32, "big")
        weight, score = update.weight.to_bytes(32, "big"), update.score.to_bytes(32, "big")
        digest = keccak(digest + worker + update.root + weight + score)
    return digest


# --- export --------------------------------------------------------------------------------------


def to_json(lineage: Lineage, spec: TaskSpec | None = None) -> str:
    """The whole lineage as sorted JSON. spec: adds what the specification says of code, data and privacy."""
    document: dict[str, Any] = {
        "chain_id": lineage.chain_id,
        "coordinator": lineage.coordinator,
        "task_id": lineage.task_id,
        "requester": lineage.requester,
        "owner": lineage.owner,
        "access": "restricted (a signal: the bytes are public)" if lineage.restricted else "public",
        "licence": lineage.licence,
        "spec_hash": lineage.spec_hash.hex(),
        "versions": [_plain(version) for version in lineage.versions],
    }
    if spec is not None:
        document["code_version"] = spec.code_version
        document["dataset"] = spec.dataset.model_dump(mode="json")
        document["privacy"] = spec.privacy
    return json.dumps(document, sort_keys=True, indent=2) + "\n"


def to_graph(lineage: Lineage) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]]]:
    """Nodes (id, label) and edges (from, to, label): models, and the accepted updates that moved them."""
    nodes: list[tuple[str, str]] = []
    edges: list[tuple[str, str, str]] = []
    for version in lineage.versions:
        name = "0x" + version.model_id.hex()
        nodes.append((name, f"round {version.round}" if version.round else "genesis"))
        if version.parent is not None:
            edges.append(("0x" + version.parent.hex(), name, ""))
        for update in version.updates:
            if update.weight:
                source = f"{version.round}/{update.worker}"
                nodes.append((source, f"{update.worker[:8]}…"))
                edges.append((source, name, str(update.weight)))
    return nodes, edges


def to_dot(lineage: Lineage) -> str:
    """The graph for Graphviz."""
    nodes, edges = to_graph(lineage)
    lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box];"]
    lines += [f"  {_quoted(name)} [label={_quoted(label)}];" for name, label in nodes]
    lines += [f"  {_quoted(source)} -> {_quoted(to)} [label={_quoted(label)}];" for source, to, label in edges]
    return "\n".join([*lines, "}"]) + "\n"


def _plain(version: Version) -> dict[str, Any]:
    fields = {name: getattr(version, name) for name in Version.__slots__}
    fields["updates"] = [{name: getattr(u, name) for name in UpdateLink.__slots__} for u in version.updates]
    return _hexed(fields)  # type: ignore[no-any-return]


def _hexed(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Mapping):
        return {key: _hexed(item) for key, item in value.items()}
    return [_hexed(item) for item in value] if isinstance(value, list) else value


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# --- reading -------------------------------------------------------------------------------------


def _read_version(reader: LineageReader, task_id: TaskId, model_id: ModelId, record: VersionRecord) -> Version:
    return Version(
        model_id=model_id,
        parent=ModelId(record.parent) if any(record.parent) else None,
        round=record.round,
        attempt=record.attempt,
        accepted=record.accepted,
        opened_block=record.opened_block,
        registered_block=record.registered_block,
        registered_at=record.registered_at,
        aggregator=record.aggregator,
        model_root=record.model_root,
        updates_hash=record.updates_hash,
        cid=cid_text(record.cid),
        float_cid=cid_text(record.float_cid),
        updates=() if record.round == 0 else tuple(_read_updates(reader, task_id, record)),
    )


def _read_updates(reader: LineageReader, task_id: TaskId, record: VersionRecord) -> Iterator[UpdateLink]:
    revealed = {u.worker: u for u in reader.revealed_updates(task_id, record.round, record.opened_block)}
    for tally in reader.tallied_updates(task_id, record.round, record.opened_block):
        update = revealed.get(tally.worker)
        if update is None:
            raise LineageBroken(f"round {record.round} tallied {tally.worker}, which revealed nothing")
        yield UpdateLink(
            worker=tally.worker,
            root=tally.root,
            cid=cid_text(update.cid),
            squared_norm=update.squared_norm,
            num_examples=update.num_examples,
            weight=tally.weight,
            score=tally.score,
        )


# --- verifying -----------------------------------------------------------------------------------


class _Broken(Exception):
    """A link does not hold; the message says why."""


class _Verifier:
    """Walks from the specification to the newest version, holding one model and the server's state next to it."""

    def __init__(self, lineage: Lineage, task: TaskView, store: BlobStore) -> None:
        self._lineage = lineage
        self._task = task
        self._store = store
        self._spec: TaskSpec | None = None
        self._held: Checkpoint | None = None

    def links(self) -> Iterator[LinkResult]:
        yield self._checked("specification", None, self._check_spec)
        before: Version | None = None
        for version in self._lineage.versions:
            what = f"round {version.round}" if version.round else "genesis"
            yield self._checked(what, version.model_id, partial(self._check_version, version, before))
            before = version

    def _checked(self, what: str, model_id: ModelId | None, check: Callable[[], None]) -> LinkResult:
        try:
            check()
        except _Broken as broken:
            return LinkResult(what, model_id, str(broken))
        except (StorageError, EncodingError, AggregationError, SpecificationError, LineageBroken) as error:
            return LinkResult(what, model_id, f"{type(error).__name__}: {error}")
        return LinkResult(what, model_id, None)

    def _check_spec(self) -> None:
        _require(self._lineage.spec_hash == self._task.spec_hash, "the registry and the task name two specifications")
        self._spec = fetch_spec(self._store, self._task)
        _require(self._lineage.licence == self._spec.licence, "the registry and the specification name two licences")

    def _check_version(self, version: Version, before: Version | None) -> None:
        lineage = self._lineage
        expected = model_id_of(lineage.chain_id, lineage.coordinator, lineage.task_id, version.round)
        _require(version.model_id == expected, "its id is not that of its task and round")
        if before is None:
            self._held = self._genesis(version)
        else:
            _require(version.parent == before.model_id, "its parent is not the version before it")
            self._held = self._replayed(version, before)
        self._check_published(version)

    def _genesis(self, version: Version) -> Checkpoint:
        spec = self._known_spec()
        parent = ModelId(bytes.fromhex(spec.parent_model)) if spec.parent_model else None
        _require(version.round == 0, "there is no genesis")
        _require(version.parent == parent, "its parent is not the one that the specification names")
        _require(version.model_root.hex() == spec.genesis.root, "its root is not the one that the specification names")
        state_root = zero_state_root(spec.format)
        _require(self._task.genesis_state_root == state_root, "the task does not start from a state of zeros")
        return fetch_checkpoint(self._store, self._scope(), version.model_root, state_root, cid_on_chain(version.cid))

    def _replayed(self, version: Version, before: Version) -> Checkpoint:
        assert self._held is not None, "the link before holds"
        _require(
            updates_hash(version.updates) == version.updates_hash, "its updates do not hash to what was registered"
        )
        accepted = sum(u.weight > 0 for u in version.updates)
        _require(accepted == version.accepted, f"{accepted} of its updates count, {version.accepted} were registered")
        revealed = [
            RevealedUpdate(u.worker, u.root, cid_on_chain(u.cid), u.squared_norm, u.num_examples)
            for u in version.updates
        ]
        tallied = [TalliedUpdate(u.worker, u.root, u.weight, u.score) for u in version.updates]
        scope = self._scope()
        updates = accepted_updates(self._store, scope, version.round, before.model_root, revealed, tallied)
        replayed = replay_round(self._held.model, updates, scope.format, state=self._held.state)
        _require(
            replayed.root == version.model_root,
            f"its updates give the root {replayed.root.hex()}, registered is {version.model_root.hex()}",
        )
        return Checkpoint(replayed.model, replayed.state)

    def _check_published(self, version: Version) -> None:
        """Both files are functions of the integers. Whoever still serves them must serve exactly these bytes."""
        assert self._held is not None
        scope = self._scope()
        exact, floats = io.BytesIO(), io.BytesIO()
        write_model(exact, self._held.model, scope.model_metadata(), self._held.state)
        _require(cid_of(exact.getbuffer()) == version.cid, "its CID is not that of its exact bytes")
        spec = self._known_spec()
        layout = Layout.from_json(spec.layout.to_json())
        write_float_model(floats, layout, self._held.model, scope.format.model_scale_bits, spec.architecture())
        _require(cid_of(floats.getbuffer()) == version.float_cid, "its float32 file is not the same model")
        for cid, made in ((version.cid, exact), (version.float_cid, floats)):
            with suppress(BlobNotFound):  # nobody need serve what everybody can compute
                self._store.get_bytes(cid, max_bytes=made.tell())

    def _scope(self) -> TaskScope:
        lineage, spec = self._lineage, self._known_spec()
        layout_hash = bytes.fromhex(spec.layout.hash)
        compression = spec.payload.form()
        return TaskScope(lineage.chain_id, lineage.coordinator, lineage.task_id, spec.format, layout_hash, compression)

    def _known_spec(self) -> TaskSpec:
        assert self._spec is not None, "the specification is the first link"
        return self._spec


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise _Broken(problem)

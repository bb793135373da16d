"""`chainfl doctor`: everything that must be right before work starts, one line each."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

import click

from chainfl.cli.context import App, own_tasks, pass_app
from chainfl.cli.options import TASK, json_option
from chainfl.cli.output import MARKS, ether, hint_of, say, show, show_json
from chainfl.errors import (
    BlobNotFound,
    ChainflError,
    CidMismatch,
    ConfigError,
    GatewayLied,
    InsufficientFunds,
    InsufficientTokens,
    InvalidCid,
    KeyfileError,
    MalformedDag,
    PayloadTooLarge,
    PinNotServed,
    PrerequisiteMissing,
    ServiceUnreachable,
    StorageError,
)
from chainfl.types import Cid, TaskId

if TYPE_CHECKING:
    from chainfl.chain.operator import Operator
    from chainfl.config import PinningEntry
    from chainfl.storage.kubo import Peer
    from chainfl.storage.pinning import PinningService
    from chainfl.storage.port import BlobStore

LOW_NATIVE_WEI: Final = 10**15
"""Below this a round's transactions may not be paid for on a public network."""
PROBE_BYTES: Final = 64
PLACE_S: Final = 5.0
"""How long one place may take for one answer."""
WITHIN_S: Final = 3 * PLACE_S
"""How long all that is asked of a place may take."""
LOOKS_AT_ONCE: Final = 32
SAMPLE: Final = 8
"""So many of the contents that a place keeps, or of a data set's shards, are looked at."""
NEWEST_PINS: Final = 256
SHOWN: Final = 5
EMPTY_CID: Final = "bafkqaaa"
"""The empty content inside of its own CID, which every gateway gives without asking anybody."""
FAILED_EXIT: Final = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. ok: None when it could not be made, because one that it needs failed."""

    what: str
    ok: bool | None
    told: str
    hint: str = ""

    @property
    def mark(self) -> str:
        """✓, ✗, or – for what could not be checked."""
        return MARKS[self.ok]


class Told(NamedTuple):
    """What a check found, and a hint although it is in order."""

    told: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at. make: says what it found, or raises. needs: what must be right for it to mean anything.

    within_s: how long it may take, for what is looked at beside the others; None for what is looked at in its turn.
    """

    what: str
    make: Callable[[App], str | Told]
    needs: tuple[str, ...] = ()
    within_s: float | None = None


@click.command(epilog="Example: chainfl doctor --json")
@click.option("--task", "task_id", type=TASK, help="Look for this task's content; default: the account's tasks.")
@json_option
@pass_app
def doctor(app: App, task_id: TaskId | None, as_json: bool) -> int:
    """Check chain, contracts, balance, stake, store and torch. Ends with exit code 1 if something is wrong.

    Of the stores that are configured: the daemon's version, peers and pins, gateways and pinning services; whether a
    sample of what they keep can be read; and whether the specifications, models and data sets of your tasks can be
    had. Each place has a few seconds to answer.
    """
    findings = []
    for finding in examine(app, task_id):
        findings.append(finding)
        if not as_json:
            show(f"{finding.mark} {finding.what}: {finding.told}")
            if finding.hint:
                show(f"    {finding.hint}")
    failed = sum(finding.ok is False for finding in findings)
    if as_json:
        show_json({"ok": not failed, "checks": findings})
    else:
        say("everything is in order" if not failed else f"{failed} of {len(findings)} checks failed")
    return FAILED_EXIT if failed else 0


def examine(app: App, task_id: TaskId | None = None) -> Iterator[Finding]:
    """The findings in their order; one whose ground is missing says so instead of failing in its own way."""
    from chainfl.storage.daemons import DaemonPool

    passed: set[str] = set()
    checks, beside, pool = checks_of(app, task_id), dict[str, Future[Finding]](), DaemonPool(LOOKS_AT_ONCE, "doctor")
    for check in checks:
        missing = next((name for name in check.needs if name not in passed), None)
        if missing is not None:
            yield Finding(check.what, None, f"not checked without {missing}")
            continue
        if check.within_s is None:
            finding = _made(check, app)
        else:
            ready = [one for one in checks if one.within_s and one.what not in beside and passed.issuperset(one.needs)]
            beside |= {one.what: pool.submit(_made, one, app) for one in ready}
            finding = _in_time(check, beside[check.what])
        if finding.ok:
            passed.add(check.what)
        yield finding


def _in_time(check: Check, made: Future[Finding]) -> Finding:
    try:
        return made.result(check.within_s)
    except TimeoutError:
        hint = "See that it runs and has little to do; else take it out of `storage`, `gateways` or `pinning`."
        return Finding(check.what, False, f"no answer within {check.within_s:g} s", hint)


def _made(check: Check, app: App) -> Finding:
    try:
        made = check.make(app)
        return Finding(check.what, True, *(made if isinstance(made, Told) else (made,)))
    except ChainflError as error:
        return Finding(check.what, False, str(error), hint_of(error))


def _configuration(app: App) -> str:
    settings = app.settings
    return f"network {settings.network}, deployment {settings.effective_deployment}"


def _endpoint(app: App) -> str:
    return f"answers; the newest block is {app.client.block_number():,}"


def _chain_id(app: App) -> str:
    return str(app.client.chain_id)


def _contracts(app: App) -> str:
    deployment = app.deployment
    app.reader.check()
    return f"{deployment.version}, coordinator at {deployment.coordinator}"


def _key(app: App) -> str:
    """Its address; nothing is decrypted."""
    if app.known_account is None:
        raise KeyfileError(f"none is chosen, and {app.settings.keys_dir} has not exactly one; reading needs none")
    return app.known_account


def _native_balance(app: App) -> str:
    account = app.account(None)
    wei = app.client.balance(account)
    if wei < LOW_NATIVE_WEI:
        raise InsufficientFunds(f"{account} holds {ether(wei)} for gas, which is little", account=account, balance=wei)
    return ether(wei)


def _tokens(app: App) -> str:
    status = app.reader.stake_status(app.account(None))
    locked = sum(lock.amount for lock in status.locks)
    if not status.token_balance + status.free + status.credit + locked:
        raise InsufficientTokens(f"{status.account} has no tokens and no stake", account=status.account)
    show_tokens = app.money.show
    return (
        f"{show_tokens(status.token_balance)} in the wallet, {show_tokens(status.free)} of free stake, "
        f"{show_tokens(locked)} locked, {show_tokens(status.credit)} to claim"
    )


# --- stores --------------------------------------------------------------------------------------


def _kubo(app: App) -> Told:
    from chainfl.storage.kubo import KuboStore, untested

    daemon = KuboStore(app.settings.kubo_api)
    peers = _peers_words(daemon.peers())
    return Told(f"{daemon.describe()}; {daemon.count_pins():,} pins; {peers}", untested(daemon.version()))


def _kubo_pins(app: App) -> str:
    """Reads a sample of what the daemon keeps from its own disk, to the end where there is time."""
    from chainfl.storage.kubo import KuboStore

    daemon = KuboStore(app.settings.kubo_api)
    sample = _sample(daemon.pins())
    looks = _looked_at([partial(daemon.verify, cid) for cid in sample])
    # What is no file under our profile is another program's; nothing here says how to read that.
    failed = [error for error in looks.failed if not isinstance(error, MalformedDag | PayloadTooLarge)]
    if failed:
        damaged = next((error for error in failed if isinstance(error, CidMismatch)), failed[0])
        told = "; ".join(map(str, failed[:SHOWN]))
        kind = PinNotServed if isinstance(damaged, BlobNotFound) else type(damaged)
        raise kind(f"{len(failed)} of {len(sample)} pins looked at cannot be read: {told}", **damaged.evidence)
    late = f", {looks.late} of them not to the end for want of time" if looks.late else ""
    return f"a sample of {len(sample)} can be read{late}"


class Looks(NamedTuple):
    """What became of looks at several contents. late: how many had not ended in time."""

    failed: tuple[ChainflError, ...]
    late: int


def _looked_at(looks: Sequence[Callable[[], object]]) -> Looks:
    """Looks at all of them at the same time, for as long as one place may take."""
    from chainfl.storage.daemons import DaemonPool

    pool = DaemonPool(LOOKS_AT_ONCE, "doctor-look")
    done, late = wait([pool.submit(look) for look in looks], timeout=PLACE_S)
    errors = [error for look in done if (error := look.exception())]
    for error in errors:
        if not isinstance(error, ChainflError):
            raise error
    return Looks(tuple(error for error in errors if isinstance(error, ChainflError)), len(late))


def _sample(cids: Iterable[str]) -> list[Cid]:
    """Some of those that are CIDs of ours."""
    from chainfl.storage.cid import parse_cid

    ours = []
    for cid in cids:
        with suppress(InvalidCid):
            ours.append(parse_cid(cid))
    return random.sample(ours, min(SAMPLE, len(ours)))


def _peers_words(peers: Iterable[Peer]) -> str:
    trips = [peer.round_trip_s for peer in peers]
    if not trips:
        return "no peers: others reach what it keeps only once it is connected"
    measured = sorted(trip * 1000 for trip in trips if trip is not None)
    told = f", {measured[0]:.1f} to {measured[-1]:.1f} ms away" if measured else ", none measured yet"
    return f"{len(trips):,} peers{told}"


def _gateway(_app: App, url: str) -> str:
    from chainfl.storage.http import HttpClient, Limits, parse_url

    began, name = time.monotonic(), _host(url)
    base = url.rstrip("/").removesuffix("/ipfs")
    client = HttpClient([url], limits=Limits(connect_s=PLACE_S / 2, idle_s=PLACE_S, total_s=PLACE_S))
    try:
        with client.get(f"{base}/ipfs/{EMPTY_CID}?format=raw", max_bytes=PROBE_BYTES) as answer:
            status, body = answer.status, answer.body()
    except ServiceUnreachable as error:  # who did not answer may be whom it redirects to
        raise ServiceUnreachable(f"{name} is of no use: {error}", service=name) from error
    except StorageError as error:
        raise GatewayLied(
            f"{name} gave something else than the content that was asked for: {error}", service=name
        ) from error
    led = "" if answer.origin == parse_url(url).origin else f", after a redirect to {answer.origin}"
    if status != 200:
        raise ServiceUnreachable(f"{name} answers {status}, not as a trustless gateway{led}", service=name)
    if body:
        raise GatewayLied(f"{name} gave {len(body)} bytes for a content that has none{led}", service=name)
    return f"answers in {(time.monotonic() - began) * 1000:.0f} ms{led}"


def _pinning_service(app: App, entry: PinningEntry) -> str:
    from chainfl.storage.http import Limits
    from chainfl.storage.pinning import PinningService, read_token

    limits = Limits(connect_s=PLACE_S / 2, idle_s=PLACE_S, total_s=PLACE_S)
    service = PinningService(entry.name, entry.endpoint, read_token(entry.name, app.settings.keys_dir), limits=limits)
    began = time.monotonic()
    count = service.count()
    took_ms = (time.monotonic() - began) * 1000
    return f"takes the token, {count:,} pins, {_served(app, service)}; answers in {took_ms:.0f} ms"


def _served(app: App, service: PinningService) -> str:
    """Whether a sample of what the service says that it keeps can be had. Raises PinNotServed."""
    from chainfl.storage.several import not_retrievable

    sample = _sample(pin.cid for pin in islice(service.pins(), NEWEST_PINS))
    missing = not_retrievable(app.store, sample, timeout_s=PLACE_S)
    if missing:
        told = "; ".join(f"{cid}: {why}" for cid, why in islice(missing.items(), SHOWN))
        said = f"{service.name} says that it keeps {len(missing)} contents that nobody gives within {PLACE_S:g} s"
        raise PinNotServed(f"{said}, of {len(sample)} looked at: {told}", cid=next(iter(missing)))
    return f"a sample of {len(sample)} can be had"


def _store(app: App) -> str:
    """A round trip of random bytes, which no store can have by chance; where all only read, whether one answers."""
    if set(app.settings.stores) == {"gateway"}:
        _any_gateway(app)
        return app.store.describe()
    from chainfl.storage.several import SeveralStores
    from chainfl.storage.unixfs import cid_of

    store = app.store
    if isinstance(store, SeveralStores):
        # Services have checks of their own; of the stores each one that writes must take it.
        places = [replace(place, confirms=True) if place.writes else place for place in store.places]
        store = SeveralStores(places, quorum=sum(place.writes for place in places), timeout_s=PLACE_S)
    probe = b"chainfl doctor " + secrets.token_bytes(PROBE_BYTES)
    cid = cid_of(probe)
    with _dropping(store, cid):
        if store.put_bytes(probe) != cid or not store.has(cid):
            raise BlobNotFound(f"the store does not have {cid}, which was just put there", cid=cid)
        if store.get_bytes(cid, max_bytes=len(probe)) != probe:
            raise CidMismatch(f"the store gave other bytes for {cid} than it took", cid=cid)
    return app.store.describe()


@contextmanager
def _dropping(store: BlobStore, cid: Cid) -> Iterator[None]:
    """Drops the content however this ends: places that took it keep it also when too few others did."""
    try:
        yield
    except BaseException:
        try:
            store.drop(cid)
        except ChainflError as error:  # what failed first tells more
            log.warning("%s may stay where it was put: %s", cid, error)
        raise
    store.drop(cid)


def _any_gateway(app: App) -> None:
    """Raises ServiceUnreachable unless one of them answers as a gateway does."""
    gateways = app.settings.gateways
    for url in gateways:
        try:
            _gateway(app, url)
        except ChainflError as error:
            log.debug("%s: %s", _host(url), error)
        else:
            return
    names = ", ".join(map(_host, gateways))
    raise ServiceUnreachable(f"no gateway answers, and nothing else is in `storage`: {names}", service=names)


def _content(app: App, task_id: TaskId | None) -> str:
    """Whether what the tasks are about can be had: specifications, current models, data sets (of many shards some)."""
    from chainfl.storage.several import not_retrievable

    tasks = [task_id] if task_id else list(own_tasks(app))
    wanted = {cid: words for task in tasks for cid, words in _cids_of(app.reader, task)} | _data_sets(app, tasks)
    missing = not_retrievable(app.store, list(wanted), timeout_s=PLACE_S)
    if missing:
        told = "; ".join(f"{wanted[cid]} ({cid}): {why}" for cid, why in islice(missing.items(), SHOWN))
        raise BlobNotFound(f"{len(missing)} of {len(wanted)} cannot be had: {told}", cid=next(iter(missing)))
    if not tasks:
        return "the account takes part in no task"
    return f"{len(wanted)} contents of {len(tasks)} tasks can be had: specifications, current models, data sets"


def _cids_of(reader: Operator, task: TaskId) -> Iterator[tuple[Cid, str]]:
    from chainfl.tasks.cids import cid_text
    from chainfl.tasks.spec import spec_cid

    _, model = reader.model_location(task, reader.round(task).round)
    yield spec_cid(reader.task(task).spec_hash), f"the specification of task {task}"
    yield cid_text(model), f"the current model of task {task}"


def _data_sets(app: App, tasks: Sequence[TaskId]) -> dict[Cid, str]:
    """The descriptions that the tasks' specifications name, and some of the shards, as far as they can be had soon."""
    found: dict[Cid, str] = {}
    _looked_at([partial(_find_data_set, app, task, found) for task in tasks])
    return dict(found)


def _find_data_set(app: App, task: TaskId, found: dict[Cid, str]) -> None:
    from chainfl.data.fetching import fetch_description
    from chainfl.registry.material import fetch_spec

    description = fetch_spec(app.store, app.reader.task(task)).dataset.description_cid
    if description is None:
        return
    found[Cid(description)] = f"the description of the data set of task {task}"
    shards = fetch_description(app.store, Cid(description)).shards
    for number, shard in random.sample(list(enumerate(shards, 1)), min(SAMPLE, len(shards))):
        found[shard.cid] = f"shard {number} of the data set of task {task}"


def _torch(_app: App) -> str:
    """Its version and the cores, without the seconds that importing it takes."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise PrerequisiteMissing("torch is not installed, and training needs it") from None
    return f"{version}, on {os.cpu_count()} cores"


CHAIN_CHECKS: Final = (
    Check("configuration", _configuration),
    Check("RPC endpoint", _endpoint, ("configuration",)),
    Check("chain id", _chain_id, ("RPC endpoint",)),
    Check("contracts", _contracts, ("chain id",)),
    Check("key", _key, ("configuration",)),
    Check("balance for gas", _native_balance, ("chain id", "key")),
    Check("tokens and stake", _tokens, ("contracts", "key")),
)
KUBO_CHECK: Final = Check("Kubo daemon", _kubo, ("configuration",), WITHIN_S)
PINS_CHECK: Final = Check("pins of the daemon", _kubo_pins, ("configuration", "Kubo daemon"), WITHIN_S)


def checks_of(app: App, task_id: TaskId | None = None) -> tuple[Check, ...]:
    """What is to be looked at under the configuration, in its order; the stores' part where that can be read."""
    places = _place_checks(app)
    needs = ("configuration", *(check.what for check in places if check is KUBO_CHECK))
    return (
        *CHAIN_CHECKS,
        *places,
        Check("store", _store, needs, WITHIN_S),
        Check("content of tasks", partial(_content, task_id=task_id), ("contracts", "store"), 2 * WITHIN_S),
        Check("torch", _torch),
    )


def _place_checks(app: App) -> tuple[Check, ...]:
    try:
        settings = app.settings
    except ConfigError:
        return ()  # the first check tells it
    has_kubo = "kubo" in settings.stores
    gateways = settings.gateways if "gateway" in settings.stores else ()
    return (
        *((KUBO_CHECK,) if has_kubo else ()),
        *(Check(f"gateway {_host(url)}", partial(_gateway, url=url), ("configuration",), WITHIN_S) for url in gateways),
        *(
            Check(f"pinning service {entry.name}", partial(_pinning_service, entry=entry), ("configuration",), WITHIN_S)
            for entry in settings.pinning
        ),
        *((PINS_CHECK,) if has_kubo else ()),
    )


def _host(url: str) -> str:
    """What of a URL may be shown: its path may hold a key."""
    return urlsplit(url).netloc

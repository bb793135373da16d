"""`chainfl store`: content by what it is."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from chainfl.cli.context import App, own_tasks, pass_app
from chainfl.cli.options import CID, TASK, json_option
from chainfl.cli.output import MARKS, say, show, show_facts, show_json
from chainfl.cli.progress import showing, working
from chainfl.errors import UsageError
from chainfl.scratch import scratch_folder
from chainfl.types import Cid, TaskId

if TYPE_CHECKING:
    from typing import BinaryIO

    from chainfl.storage.port import BlobStore
    from chainfl.storage.several import SeveralStores

NOWHERE_EXIT: Final = 1
MAX_GET_BYTES: Final = 1 << 40
GATEWAY_SECONDS: Final = 120
"""The longest that a store looks for one block: a gateway's patience; a daemon has less."""
UNDER_WAY: Final = ("queued", "pinning")
"""A service's word for what it was asked to keep and does not keep yet."""
_PIECE: Final = 1 << 20


@click.group()
def store() -> None:
    """Add, fetch and identify content by its CID.

    The store is a folder of this machine, a running Kubo daemon, IPFS gateways, or several of them, as the
    configuration says; the CID of some content is the same in all.
    """


@store.command(epilog="Example: chainfl store add model.safetensors")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
@pass_app
def add(app: App, path: Path, as_json: bool) -> None:
    """Keep a file's content and print its CID; with pinning services, also say where each of them is with it."""
    from chainfl.storage.several import SeveralStores

    size = _size_of_file(path)
    places = SeveralStores.of(app.store)
    with showing("adding") as moved:
        cid = app.store.put_file(path, moved=moved)
    standings = list(places.standings(cid)) if places.services else []
    if as_json:
        show_json({"cid": cid, "bytes": size, "store": app.store.describe(), "places": standings})
        return
    show(cid)
    say(f"{size:,} bytes in the {app.store.describe()}")
    for standing in standings:
        say(f"{MARKS[standing.holds]} {standing.place}: {standing.told}")


@store.command(epilog="Example: chainfl store get bafkrei… --out model.safetensors")
@click.argument("cid", type=CID)
@click.option("--out", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Where to write it.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.option("--max-bytes", type=click.IntRange(0), default=MAX_GET_BYTES, help="Refuse content larger than this.")
@pass_app
def get(app: App, cid: Cid, out: Path | None, force: bool, max_bytes: int) -> None:
    """Fetch content and check it against its CID; without --out to standard output."""
    if out is None:
        _to_stdout(app, cid, max_bytes)
        return
    if out.exists() and not force:
        raise UsageError(f"{out} is already there; replace it with --force")
    in_a_folder(out)
    _get_file(app.store, cid, out, max_bytes)
    say(f"{out.stat().st_size:,} bytes in {out}, verified")


@store.command(epilog="Example: chainfl store cid model.safetensors")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@json_option
def cid(path: Path, as_json: bool) -> None:
    """Print the CID that a file's content has, without storing it ("-": standard input)."""
    if str(path) == "-":
        found, size = _cid_of(sys.stdin.buffer)
    else:
        _size_of_file(path)
        try:
            with path.open("rb") as source:
                found, size = _cid_of(source)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if as_json:
        show_json({"cid": found, "bytes": size})
    else:
        show(found)


@store.command(epilog="Example: chainfl store pin bafkrei…")
@click.argument("cid", type=CID)
@json_option
@pass_app
def pin(app: App, cid: Cid, as_json: bool) -> None:
    """Keep content that others published: in every store that writes, and at every pinning service."""
    from chainfl.storage.several import PLACE_TIMEOUT_S, SeveralStores

    places = SeveralStores.of(app.store)
    _say_if_far(places, cid, round(PLACE_TIMEOUT_S))
    with working("fetching"):
        places.keep(cid)
    _show_standings(places, cid, as_json)


@store.command(epilog="Example: chainfl store unpin bafkrei…")
@click.argument("cid", type=CID)
@json_option
@pass_app
def unpin(app: App, cid: Cid, as_json: bool) -> None:
    """Keep content no longer, in no store and at no service; its bytes may go at any time."""
    from chainfl.storage.several import SeveralStores

    places = SeveralStores.of(app.store)
    places.drop(cid)
    _show_standings(places, cid, as_json)


@store.command(epilog="Example: chainfl store status bafkrei…")
@click.argument("cid", type=CID)
@json_option
@pass_app
def status(app: App, cid: Cid, as_json: bool) -> int:
    """Say where content is kept, place by place. Ends with exit code 1 if it is nowhere."""
    from chainfl.storage.several import SeveralStores

    return 0 if _show_standings(SeveralStores.of(app.store), cid, as_json) else NOWHERE_EXIT


@store.command(epilog="Example: chainfl store prune 1 --dry-run")
@click.argument("task_id", metavar="TASK", type=TASK)
@click.option("--everybody", is_flag=True, help="What all participants published, not this account alone.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@pass_app
def prune(app: App, task_id: TaskId, everybody: bool, dry_run: bool, as_json: bool) -> None:
    """Drop the payloads of a task's rounds that nobody can dispute any more: updates, and refuted aggregates.

    Final models stay, and so does all else that this task, or another one that this machine knows, is about: its
    specification, its data set. Without its updates a round cannot be computed again: `chainfl model verify` then
    needs somebody else to have them. An agent does the same by itself with `--retention models`. What is counted is
    what some place keeps: content that a daemon holds unpinned goes with its next garbage collection, and is not.
    """
    from chainfl.agents.retention import droppable, past_dispute, protected
    from chainfl.storage.several import SeveralStores

    reader, places = app.reader, SeveralStores.of(app.store)
    account = None if everybody else app.account(None)
    task, view = reader.task(task_id), reader.round(task_id)
    kept = protected(reader, app.store, sorted(_known_tasks(app) | {task_id}))
    dropped = 0
    for number in past_dispute(view):
        cids = [cid for cid in sorted(droppable(reader, task_id, task, number, kept, account)) if _is_kept(places, cid)]
        for cid in cids if not dry_run else ():
            places.drop(cid)
        dropped += len(cids)
        say(f"round {number}: {len(cids)} payloads {'would go' if dry_run else 'dropped'}")
    if as_json:
        show_json({"task": task_id, "payloads": dropped, "dry_run": dry_run})


def _known_tasks(app: App) -> frozenset[TaskId]:
    """Those in which an agent of this machine was, and those in which the account takes part."""
    from chainfl.agents.journal import deployment_folder, journalled_tasks

    reader = app.reader
    folder = deployment_folder(app.settings.state_dir, chain_id=reader.chain_id, coordinator=reader.coordinator)
    return journalled_tasks(folder) | frozenset(own_tasks(app))


def _is_kept(places: SeveralStores, cid: Cid) -> bool:
    """Whether a store that writes or a service keeps the content, is about to, or does not say."""
    reading = {place.name for place in places.places if not place.writes}
    return any(
        standing.holds is not False or standing.told in UNDER_WAY
        for standing in places.standings(cid)
        if standing.place not in reading
    )


def _show_standings(places: SeveralStores, cid: Cid, as_json: bool) -> bool:
    """Shows where the content is. returns: whether it is anywhere."""
    standings = list(places.standings(cid))
    held = any(standing.holds for standing in standings)
    if as_json:
        show_json({"cid": cid, "held": held, "places": standings})
        return held
    show_facts((f"{MARKS[standing.holds]} {standing.place}", standing.told) for standing in standings)
    return held


def _to_stdout(app: App, cid: Cid, max_bytes: int) -> None:
    """Nothing is written before all of it is verified, so it goes through a temporary file."""
    if sys.stdout.isatty():
        raise UsageError("content may be binary and would garble the terminal; name a file with --out, or pipe it")
    with scratch_folder() as folder:
        copy = folder / "content"
        _get_file(app.store, cid, copy, max_bytes)
        with copy.open("rb") as content:
            shutil.copyfileobj(content, sys.stdout.buffer, _PIECE)


def _get_file(store: BlobStore, cid: Cid, target: Path, max_bytes: int) -> None:
    _say_if_far(store, cid, GATEWAY_SECONDS)
    with showing("fetching") as moved:
        store.get_file(cid, target, max_bytes=max_bytes, moved=moved)


def _size_of_file(path: Path) -> int:
    """Its bytes. Raises UsageError for a pipe or a device: it may have no end, or wait for one who writes for ever."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path} is no ordinary file; write into one first what comes out of it", path=path)
    return found.st_size


def in_a_folder(out: Path) -> None:
    """Raises UsageError for a file whose folder is not there."""
    if not out.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}; make the folder first: mkdir -p {out.parent}")


def _say_if_far(store: BlobStore, cid: Cid, seconds: int) -> None:
    """Says on a terminal that content which is not near is looked for, and how long that may take."""
    if sys.stderr.isatty() and not store.has(cid):
        say(f"looking for {cid} for up to {seconds} s")


def _cid_of(source: BinaryIO) -> tuple[Cid, int]:
    """CID and number of bytes, in constant memory."""
    from chainfl.storage.unixfs import CidBuilder

    builder, size = CidBuilder(), 0
    while piece := source.read(_PIECE):
        builder.update(piece)
        size += len(piece)
        if size > MAX_GET_BYTES:
            raise UsageError(f"it goes on after {MAX_GET_BYTES:,} bytes, and no content is that large")
    return builder.finish(), size

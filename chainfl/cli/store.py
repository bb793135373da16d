"""`chainfl store`: content by what it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chainfl.cli.context import App, pass_app
from chainfl.cli.options import CID, TASK, json_option
from chainfl.cli.output import MARKS, say, show, show_facts, show_json
from chainfl.errors import UsageError
from chainfl.types import Cid, TaskId

if TYPE_CHECKING:
    from typing import BinaryIO

    from chainfl.storage.several import SeveralStores

NOWHERE_EXIT = 1
MAX_GET_BYTES = 1 << 40
_PIECE = 1 << 20


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
    """Keep a file's content and print its CID."""
    cid = app.store.put_file(path)
    if as_json:
        show_json({"cid": cid, "bytes": path.stat().st_size, "store": app.store.describe()})
        return
    show(cid)
    say(f"{path.stat().st_size:,} bytes in the {app.store.describe()}")


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
    app.store.get_file(cid, out, max_bytes=max_bytes)
    say(f"{out.stat().st_size:,} bytes in {out}, verified")


@store.command(epilog="Example: chainfl store cid model.safetensors")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@json_option
def cid(path: Path, as_json: bool) -> None:
    """Print the CID that a file's content has, without storing it ("-": standard input)."""
    if str(path) == "-":
        found, size = _cid_of(sys.stdin.buffer)
    else:
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
    from chainfl.storage.several import SeveralStores

    places = SeveralStores.of(app.store)
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

    Final models stay. Without its updates a round cannot be computed again: `chainfl model verify` then needs somebody
    else to have them. An agent does the same by itself with `retention = "models"`.
    """
    from chainfl.agents.retention import droppable, past_dispute

    reader = app.reader
    account = None if everybody else app.account(None)
    task, view = reader.task(task_id), reader.round(task_id)
    dropped = 0
    for number in past_dispute(view):
        cids = [cid for cid in sorted(droppable(reader, task_id, task, number, account)) if app.store.has(cid)]
        for cid in cids if not dry_run else ():
            app.store.drop(cid)
        dropped += len(cids)
        say(f"round {number}: {len(cids)} payloads {'would go' if dry_run else 'dropped'}")
    if as_json:
        show_json({"task": task_id, "payloads": dropped, "dry_run": dry_run})


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
    """Nothing is written before all of it is verified, so it goes through memory."""
    if sys.stdout.isatty():
        raise UsageError("content may be binary and would garble the terminal; name a file with --out, or pipe it")
    sys.stdout.buffer.write(app.store.get_bytes(cid, max_bytes=max_bytes))


def _cid_of(source: BinaryIO) -> tuple[Cid, int]:
    """CID and number of bytes, in constant memory."""
    from chainfl.storage.unixfs import CidBuilder

    builder, size = CidBuilder(), 0
    while piece := source.read(_PIECE):
        builder.update(piece)
        size += len(piece)
    return builder.finish(), size

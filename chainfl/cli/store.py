"""`chainfl store`: content by what it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chainfl.cli.context import App, pass_app
from chainfl.cli.options import CID, json_option
from chainfl.cli.output import say, show, show_json
from chainfl.errors import UsageError
from chainfl.types import Cid

if TYPE_CHECKING:
    from typing import BinaryIO

MAX_GET_BYTES = 1 << 40
_PIECE = 1 << 20


@click.group()
def store() -> None:
    """Add, fetch and identify content by its CID.

    The store is a folder of this machine, or a running Kubo daemon, as the configuration says; the CID of some
    content is the same in both.
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

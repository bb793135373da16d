"""`chainfl data`: data sets as content: publish, look at, fetch."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from chainfl.cli.context import App, pass_app
from chainfl.cli.options import CID, json_option
from chainfl.cli.output import say, show, show_facts, show_json, show_table
from chainfl.cli.progress import open_bar
from chainfl.cli.store import in_a_folder
from chainfl.errors import DescriptionInvalid, UsageError
from chainfl.storage.moved import unheard
from chainfl.types import Cid

if TYPE_CHECKING:
    from chainfl.data.croissant import Description, ShardEntry, Words
    from chainfl.data.publishing import Tell
    from chainfl.storage.moved import Moved

DEFAULT_MAX_BYTES: Final = 16 << 30
WORDS: Final = ("--name", "--licence", "--description", "--creator", "--date", "--version", "--url")
"""The options that go into a description."""
_MAX_SHOWN_CLASSES: Final = 20


@click.group()
def data() -> None:
    """Publish data sets as shards with a description, look at them, and fetch them.

    A description is Croissant 1.0 with a datasheet. It names its shards by CID, and a task can name it
    (`chainfl task create --dataset-cid`), so that its workers take their shards by themselves.
    """


# --- publish -------------------------------------------------------------------------------------


@data.command(epilog="Example: chainfl data publish my-images --licence CC-BY-4.0 --shards 5")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--shards", type=click.IntRange(1), default=1, show_default=True, help="Into how many shards.")
@click.option(
    "--partition",
    type=click.Choice(("iid", "dirichlet")),
    default="iid",
    show_default=True,
    help="At random, or with skewed labels.",
)
@click.option("--alpha", type=float, help="Of dirichlet: the smaller, the more skewed.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the cut.")
@click.option("--name", help="What the set is called; default: as its files or its folder.")
@click.option("--licence", help="Its licence, as an SPDX name or a URL. Required.")
@click.option("--description", default="", help="What is in it, and where it comes from.")
@click.option("--creator", default="not stated", help="Who made it.")
@click.option("--version", "data_version", default="1.0.0", show_default=True, help="MAJOR.MINOR.PATCH.")
@click.option("--url", default="", help="Its page; default: its hash as a URN.")
@click.option("--date", metavar="YYYY-MM-DD", help="When it was published; default: when its files last changed.")
@click.option("--out", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Write the description here, too.")
@json_option
@pass_app
def publish(app: App, folder: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Cut a data set into shards, and publish them with a description.

    DIR holds dataset.npz, or MNIST's or CIFAR-10's own files (the training set). The same data and options give the
    same CIDs on every machine. Run it again after any interruption: what is published is not published again.
    """
    if not options["licence"]:
        raise UsageError("say under what licence others may use the data: --licence CC-BY-4.0, or another SPDX name")
    if out is not None:
        in_a_folder(out)  # before anything is published
    from chainfl.data.publishing import Cutting, publish
    from chainfl.training.datasets import load_folder

    cutting = Cutting(*(options[name] for name in ("shards", "partition", "alpha", "seed")))
    dataset = load_folder(folder)
    words = _words(options, folder, dataset.name)
    with _progress("publishing", cutting.count) as (tell, moved):
        try:
            cid, described = publish(dataset, app.store, words, cutting, tell, moved)
        except DescriptionInvalid as error:  # here the publisher is the user, and the words are options
            raise UsageError(f"{error}. See {', '.join(WORDS)}") from error
    if out is not None:
        _write(out, described.to_bytes())
    if as_json:
        show_json({"cid": cid, **_as_json(described), "store": app.store.describe()})
    else:
        show(cid)
    say(f"{described.num_examples:,} examples, {described.num_bytes:,} bytes in {len(described.shards)} shards")
    say(f"next: `chainfl data fetch {cid} --out DIR`, or `chainfl task create --dataset-cid {cid} …`")


def _words(options: dict[str, Any], folder: Path, name: str) -> Words:
    from chainfl.data.croissant import Words

    chosen = options["name"] or (folder.resolve().name if name == folder.name else name)
    return Words(
        name=chosen,
        licence=options["licence"],
        description=options["description"] or f"{chosen}: labelled examples.",
        creator=options["creator"],
        date=options["date"] or _last_changed(folder),
        version=options["data_version"],
        url=options["url"],
    )


def _last_changed(folder: Path) -> str:
    """The UTC day of the newest file: unlike today's, it is the same when the command runs again."""
    newest = max(path.stat().st_mtime for path in folder.iterdir() if path.is_file())
    return datetime.fromtimestamp(newest, UTC).date().isoformat()


def _write(path: Path, content: bytes) -> None:
    from chainfl.storage.files import write_whole

    try:
        write_whole(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", path=str(path)) from error


# --- fetch ---------------------------------------------------------------------------------------


@data.command(epilog="Example: chainfl data fetch bafkrei… --shard 3 --out my-shard")
@click.argument("cid", type=CID)
@click.option("--shard", metavar="I|I/N", help="One shard, or the I-th of every N; default: all of them.")
@click.option("--out", "-o", required=True, type=click.Path(file_okay=False, path_type=Path), help="The folder.")
@click.option(
    "--max-bytes",
    type=click.IntRange(0),
    default=DEFAULT_MAX_BYTES,
    show_default=True,
    help="Refuse shards larger than this together.",
)
@click.option("--force", is_flag=True, help="Replace the data set that is there.")
@json_option
@pass_app
def fetch(app: App, cid: Cid, shard: str | None, out: Path, max_bytes: int, force: bool, as_json: bool) -> None:
    """Fetch shards of a published data set, check them, and make them one dataset.npz.

    Everything is checked: CIDs, SHA-256, sizes, counts. Run it again after any interruption: shards that are there
    are not fetched again.
    """
    from chainfl.data.fetching import chosen_shards, fetch, fetch_description
    from chainfl.training.datasets import NPZ_NAME

    told = fetch_description(app.store, cid)
    numbers = chosen_shards(told, shard)
    with _progress("fetching", len(numbers)) as (tell, moved):
        is_new = fetch(app.store, cid, told, numbers, out, max_bytes=max_bytes, replace=force, tell=tell, moved=moved)
    examples = sum(told.shards[number - 1].num_examples for number in numbers)
    if as_json:
        show_json({"cid": cid, "path": out / NPZ_NAME, "shards": numbers, "examples": examples, "fetched": is_new})
        return
    done = "in" if is_new else "were there already, in"
    say(f"{examples:,} examples of {told.words.name} {done} {out / NPZ_NAME}, verified")
    say(f"next: `chainfl worker run --data {out} --task TASK`")


# --- show ----------------------------------------------------------------------------------------


@data.command("show", epilog="Example: chainfl data show bafkrei…")
@click.argument("cid", type=CID)
@json_option
@pass_app
def show_(app: App, cid: Cid, as_json: bool) -> None:
    """Show the datasheet of a published data set: licence, form, counts, shards."""
    from chainfl.data.fetching import fetch_description

    told = fetch_description(app.store, cid)
    if as_json:
        show_json({"cid": cid, **_as_json(told)})
        return
    show_facts(_facts(told))
    show()
    rows = [
        (number, f"{shard.num_examples:,}", f"{shard.num_bytes:,}", _counts(shard.label_counts), shard.cid)
        for number, shard in enumerate(told.shards, 1)
    ]
    show_table(["shard", "examples", "bytes", "of each class", "CID"], rows)


def _facts(told: Description) -> list[tuple[str, object]]:
    words = told.words
    return [
        ("data set", f"{words.name} {words.version}, {words.date}"),
        ("description", words.description),
        ("creator", words.creator),
        ("licence", words.licence),
        ("page", words.url),
        ("examples", f"{told.num_examples:,} of {'×'.join(map(str, told.input_shape))}, {told.dtype}"),
        ("classes", told.num_classes),
        ("of each class", _counts(told.label_counts)),
        ("cut", told.partition),
        ("bytes", f"{told.num_bytes:,}"),
        ("hash", told.hash),
    ]


def _counts(counts: tuple[int, ...]) -> str:
    shown = " ".join(map(str, counts[:_MAX_SHOWN_CLASSES]))
    return shown + (" …" if len(counts) > _MAX_SHOWN_CLASSES else "")


def _as_json(told: Description) -> dict[str, Any]:
    return {
        "words": told.words,
        "dtype": told.dtype,
        "input_shape": told.input_shape,
        "num_classes": told.num_classes,
        "num_examples": told.num_examples,
        "num_bytes": told.num_bytes,
        "label_counts": told.label_counts,
        "partition": told.partition,
        "sha256": told.hash,
        "shards": told.shards,
    }


# --- progress ------------------------------------------------------------------------------------


@contextmanager
def _progress(doing: str, count: int) -> Iterator[tuple[Tell, Moved]]:
    """On a terminal a bar for the bytes of the shard under way, a line for each shard elsewhere; to standard error."""
    if not sys.stderr.isatty():
        yield _say_shard, unheard
        return
    done = itertools.count(1)
    with open_bar(f"{doing}, 0 of {count} shards done") as bar:
        yield lambda *_: bar.begin(f"{doing}, {next(done)} of {count} shards done"), bar.moved


def _say_shard(number: int, shard: ShardEntry, was_moved: bool) -> None:
    say(f"shard {number}: {shard.num_bytes:,} bytes, {shard.cid}, {'done' if was_moved else 'was there'}")

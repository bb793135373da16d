"""Data sets at the command line: publish, show, fetch."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
from cli_fakes import Shell, shell_with_chain
from data_sets import pixels, published

from chainfl.data.croissant import parse
from chainfl.training.datasets import load_folder, save_folder

DAY = 1_700_000_000


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path) -> Shell:
    """With a set of pixels in the folder `images`, last changed on 2023-11-14."""
    shell = shell_with_chain(monkeypatch, capsys, tmp_path)
    os.utime(save_folder(pixels(), tmp_path / "images"), (DAY, DAY))
    return shell


def publish(shell: Shell, *options: str) -> str:
    assert shell("data", "publish", "images", "--licence", "CC0-1.0", *options) == 0, shell.err
    return shell.out.strip()


def test_publish__no_licence__refused_before_anything_is_published(shell):
    assert shell("data", "publish", "images") == 11
    assert "--licence" in shell.err
    assert shell.store.blobs == {}


def test_publish__a_folder__puts_shards_and_description_and_says_what_is_next(shell):
    cid = publish(shell, "--shards", "3", "--name", "mine", "--out", "mine.json")
    told = parse(shell.store.blobs[cid])
    assert {cid, *(shard.cid for shard in told.shards)} == set(shell.store.blobs)
    assert (told.words.name, told.words.licence, told.words.date) == ("mine", "CC0-1.0", "2023-11-14")
    with open("mine.json", "rb") as stream:  # noqa: PTH123  # as a user's program would
        assert stream.read() == shell.store.blobs[cid]
    assert f"chainfl data fetch {cid}" in shell.err
    assert f"--dataset-cid {cid}" in shell.err


def test_publish__twice__the_same_cid_and_says_what_was_there(shell):
    cid = publish(shell, "--shards", "2")
    assert shell.err.count(", done") == 2
    assert publish(shell, "--shards", "2") == cid
    assert shell.err.count(", was there") == 2


def test_publish__out_in_no_folder__refused_before_anything_is_published(shell):
    assert shell("data", "publish", "images", "--licence", "CC0-1.0", "--out", "nowhere/mine.json") == 11
    assert "make the folder first" in shell.err
    assert shell.store.blobs == {}


def test_publish__json__is_the_datasheet(shell):
    told = json.loads(publish(shell, "--partition", "dirichlet", "--alpha", "0.5", "--shards", "2", "--json"))
    assert (told["num_examples"], told["num_classes"], told["dtype"]) == (40, 4, "uint8")
    assert told["partition"] == "dirichlet alpha 0.5, seed 0"
    assert told["words"]["name"] == "images"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--alpha", "0.5"], 11),
        (["--partition", "dirichlet"], 11),
        (["--partition", "dirichlet", "--alpha", "-1"], 11),
        (["--shards", "41"], 70),
        (["--shards", "5000"], 11),
        (["--date", "today"], 11),
        (["--name", "a\x1bb"], 11),
        (["--out", "no/such/folder.json"], 11),
    ],
)
def test_publish__cannot_be__has_an_exit_code(shell, options, code):
    assert shell("data", "publish", "images", "--licence", "CC0-1.0", *options) == code


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--date", "yesterday"], "the date is 'yesterday'"),
        (["--date", "2026-99-99"], "not a day that there is"),
        (["--date", "2023-02-29"], "not a day that there is"),
        (["--version", "x"], "MAJOR.MINOR.PATCH"),
        (["--version", "01.0.0"], "MAJOR.MINOR.PATCH"),
        (["--url", "not a url"], "https://"),
        (["--url", "ftp://example.org/x"], "https://"),
        (["--url", "https://"], "https://"),
        (["--name", "a\nb"], "name has characters"),
        (["--licence", "\x1b[2J"], "license has characters"),
    ],
)
def test_publish__words_that_cannot_stand__are_refused_before_anything_is_published(shell, options, told):
    assert shell("data", "publish", "images", "--licence", "CC0-1.0", *options) == 11
    assert told in shell.err
    assert shell.store.blobs == {}


def test_publish__folder_name_that_cannot_be_shown__asks_for_another(shell, tmp_path):
    (tmp_path / "images").rename(tmp_path / "a\nb")
    assert shell("data", "publish", "a\nb", "--licence", "CC0-1.0") == 11
    assert "--name" in shell.err
    assert shell.store.blobs == {}


def test_publish__own_arrays_are_no_data_set__says_what_is_wrong_with_them(shell, tmp_path):
    np.savez(tmp_path / "images" / "dataset.npz", features=np.zeros((2, 3)), labels=np.array([0, -1]))
    assert shell("data", "publish", "images", "--licence", "CC0-1.0") == 72
    assert "a label -1" in shell.err
    assert "from where it was published" not in shell.err


def test_publish__folder_without_data__told(shell, tmp_path):
    (tmp_path / "empty").mkdir()
    assert shell("data", "publish", "empty", "--licence", "CC0-1.0") == 71


def test_fetch__what_was_published__is_what_a_worker_takes(shell, tmp_path):
    cid = publish(shell, "--shards", "4")
    assert shell("data", "fetch", cid, "--shard", "2/2", "--out", "mine") == 0
    told = parse(shell.store.blobs[cid])
    assert len(load_folder(tmp_path / "mine")) == told.shards[1].num_examples + told.shards[3].num_examples
    assert "worker run --data mine" in shell.err
    assert shell("data", "fetch", cid, "--shard", "2/2", "--out", "mine", "--json") == 0
    assert json.loads(shell.out) == {
        "cid": cid,
        "path": "mine/dataset.npz",
        "shards": [2, 4],
        "examples": 20,
        "fetched": False,
    }


@pytest.mark.parametrize(
    ("options", "code"),
    [(["--shard", "9"], 11), (["--shard", "x"], 11), (["--max-bytes", "10"], 53), ([], 0)],
)
def test_fetch__options__have_their_exit_codes(shell, options, code):
    assert shell("data", "fetch", publish(shell), "--out", "mine", *options) == code


def test_fetch__other_data_there__needs_force(shell):
    cid = publish(shell, "--shards", "2")
    assert shell("data", "fetch", cid, "--shard", "1", "--out", "mine") == 0
    assert shell("data", "fetch", cid, "--out", "mine") == 11
    assert shell("data", "fetch", cid, "--out", "mine", "--force") == 0


def test_fetch__no_description__has_its_own_exit_code(shell):
    assert shell("data", "fetch", shell.store.put_bytes(b"{}"), "--out", "mine") == 78
    assert shell("data", "show", "Qm") == 61


def test_show__a_published_set__is_its_datasheet(shell):
    cid, told = published(shell.store)
    assert shell("data", "show", cid) == 0
    for expected in ("tiny 1.0.0", "CC0-1.0", "40 of 1×3×2, uint8", told.hash, told.shards[2].cid):
        assert expected in shell.out
    assert shell("data", "show", cid, "--json") == 0
    assert json.loads(shell.out)["sha256"] == told.hash


def test_publish__on_a_terminal__shows_a_bar_instead_of_lines(shell, monkeypatch):
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True, raising=False)
    cid = publish(shell, "--shards", "2")
    assert ", done" not in shell.err
    assert "publishing, 2 of 2 shards done" in shell.err
    assert shell("data", "fetch", cid, "--out", "mine") == 0
    assert "fetching, 2 of 2 shards done" in shell.err

"""Descriptions: Croissant for others, strict for us, and the same bytes for the same data."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
from data_sets import WORDS, pixels, published
from fake_chain import MemoryStore
from hypothesis import given
from hypothesis import strategies as st

from chainfl.data import croissant
from chainfl.data.croissant import Description, parse
from chainfl.errors import DescriptionInvalid

STORE = MemoryStore()
CID, TOLD = published(STORE)
DOCUMENT = json.loads(STORE.blobs[CID])


def changed(path: str, value: object) -> bytes:
    """The document with one thing replaced, or removed where the value is None. path: keys with slashes."""
    document = copy.deepcopy(DOCUMENT)
    *folders, last = path.split("/")
    place = document
    for key in folders:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document).encode()


def test_parse__what_was_written__is_the_same():
    assert parse(TOLD.to_bytes()) == TOLD
    assert STORE.blobs[CID] == TOLD.to_bytes()


def test_description__of_a_set__counts_what_is_in_it():
    assert (TOLD.num_examples, TOLD.input_shape, TOLD.dtype, TOLD.num_classes) == (40, (1, 3, 2), "uint8", 4)
    assert sum(TOLD.label_counts) == 40
    assert len(TOLD.shards) == 3
    assert TOLD.partition == "iid, seed 0"


def test_document__fields_that_croissant_requires__are_there():
    required = {"@context", "@type", "conformsTo", "name", "description", "license", "url", "creator", "datePublished"}
    assert required | {"version", "distribution", "recordSet"} <= set(DOCUMENT)
    files = [entry for entry in DOCUMENT["distribution"] if entry["@type"] == "cr:FileObject"]
    assert [set(entry) for entry in files] == [
        {"@type", "@id", "name", "contentUrl", "contentSize", "encodingFormat", "sha256"}
        | {"chainfl:numExamples", "chainfl:labelCounts"}
    ] * 3
    assert files[0]["contentUrl"] == f"ipfs://{TOLD.shards[0].cid}"


def test_document__identifiers__are_unique_and_every_reference_has_one():
    ids, references = [], []

    def walk(value):
        if isinstance(value, dict):
            (references if set(value) == {"@id"} else ids).extend([value["@id"]] if "@id" in value else [])
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk({key: value for key, value in DOCUMENT.items() if key != "@context"})
    assert len(set(ids)) == len(ids)
    assert set(references) <= set(ids)


def test_document__no_page__has_the_hash_as_its_url():
    told = replace(TOLD, words=replace(WORDS, url=""))
    assert json.loads(told.to_bytes())["url"] == f"urn:sha256:{TOLD.hash}"


@pytest.mark.parametrize(
    ("path", "value"),
    [("keywords", ["x"]), ("distribution/0/md5", "x"), ("rai:dataBiases", {"a": [1]}), ("creator", [{"name": "b"}])],
)
def test_parse__keys_that_we_do_not_know__are_passed_over(path, value):
    assert parse(changed(path, value)).shards == TOLD.shards


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("@context", None),
        ("@type", "sc:Thing"),
        ("conformsTo", "http://mlcommons.org/croissant/9.0"),
        ("name", ""),
        ("name", "x" * 129),
        ("name", "\x1b[2J"),
        ("description", None),
        ("license", None),
        ("creator", "me"),
        ("datePublished", "yesterday"),
        ("url", None),
        ("version", 1),
        ("chainfl:dtype", "float16"),
        ("chainfl:inputShape", []),
        ("chainfl:inputShape", [1, 0]),
        ("chainfl:inputShape", [True]),
        ("chainfl:inputShape", [1 << 24] * 8),
        ("chainfl:numClasses", 5),
        ("chainfl:numClasses", 4.0),
        ("chainfl:numExamples", 41),
        ("chainfl:labelCounts", [40, 0, 0, 0]),
        ("chainfl:sha256", "00" * 32),
        ("distribution", {}),
        ("distribution", []),
        ("distribution", ["x"]),
        ("distribution/0/@id", "shard-2.npz"),
        ("distribution/0/contentUrl", "https://example.org/x"),
        ("distribution/0/contentUrl", "ipfs://../../etc"),
        ("distribution/0/contentUrl", DOCUMENT["distribution"][0]["contentUrl"].removeprefix("ipfs://")),
        ("distribution/0/contentSize", "10 B"),
        ("distribution/0/contentSize", "-1 B"),
        ("distribution/0/contentSize", f"{1 << 41} B"),
        ("distribution/0/contentSize", 99_999),
        ("distribution/0/sha256", "zz" * 32),
        ("distribution/0/sha256", "00" * 32),
        ("distribution/0/encodingFormat", None),
        ("distribution/0/chainfl:numExamples", 1),
        ("distribution/0/chainfl:labelCounts", [-1, 41, 0, 0]),
        ("distribution/0/chainfl:labelCounts", [1 << 41]),
    ],
)
def test_parse__wrong_in_one_place__refused(path, value):
    with pytest.raises(DescriptionInvalid):
        parse(changed(path, value))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"a":1,"a":2}', b"[" * 100_000, b"\xff"])
def test_parse__no_document__refused(data):
    with pytest.raises(DescriptionInvalid):
        parse(data)


def test_parse__longer_than_allowed__refused(monkeypatch):
    monkeypatch.setattr(croissant, "MAX_DESCRIPTION_BYTES", 100)
    with pytest.raises(DescriptionInvalid, match="bytes"):
        parse(TOLD.to_bytes())


@given(
    key=st.sampled_from(sorted(DOCUMENT)),
    value=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda one: st.lists(one, max_size=3)),
)
def test_parse__anything_in_any_field__description_invalid_and_nothing_else(key, value):
    try:
        assert isinstance(parse(json.dumps({**DOCUMENT, key: value}).encode()), Description)
    except DescriptionInvalid:
        return


def test_to_bytes__words_that_nobody_could_read_back__refused():
    with pytest.raises(DescriptionInvalid):
        replace(TOLD, words=replace(WORDS, date="today")).to_bytes()


def test_hash__of_another_order__is_another():
    assert replace(TOLD, shards=TOLD.shards[::-1]).hash != TOLD.hash
    assert published(MemoryStore(), pixels(seed=1))[1].hash != TOLD.hash

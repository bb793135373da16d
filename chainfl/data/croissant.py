"""A data set's description: Croissant 1.0 (JSON-LD) with one FileObject a shard and a datasheet.

What Croissant has no word for (shape, type, classes, label histograms, how it was cut) stands beside it under the
prefix `chainfl:`, so that every Croissant reader takes the file and ours finds all that it needs. A description is the
same bytes for the same data and words. One that a stranger published is read as hostile: keys that we do not know are
passed over, as JSON-LD asks, and those that we use must be exactly right.
Source: https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, cast

from chainfl.data.shards import FeatureType, ShardForm
from chainfl.encoding.hostile_json import decode_json
from chainfl.errors import DescriptionInvalid, InvalidCid
from chainfl.storage.cid import parse_cid
from chainfl.types import Cid

MAX_DESCRIPTION_BYTES: Final = 8 << 20
MAX_SHARDS: Final = 4096
MAX_SHARD_BYTES: Final = 1 << 40
CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.0"

_MAX_TEXT: Final = 20_000
_MAX_NAME: Final = 128
_MAX_COUNT: Final = 1 << 40
_SCHEME: Final = "ipfs://"
_DATASET_TYPES: Final = ("sc:Dataset", "Dataset", "https://schema.org/Dataset", "http://schema.org/Dataset")
_FILE_TYPES: Final = ("cr:FileObject", "FileObject", "http://mlcommons.org/croissant/FileObject")
_SIZE: Final = re.compile(r"(0|[1-9][0-9]{0,15})(?: B)?", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_DAY_CHARS: Final = 10
_VERSION: Final = re.compile(r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){2}", re.ASCII)
_PAGE: Final = re.compile(r"https?://[^/?#\s]+[\x21-\x7e]*", re.ASCII | re.IGNORECASE)

# What the specification's first appendix recommends, and our own prefix. Arrays under @json keep their order.
_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
    "chainfl": "urn:chainfl:",
    "chainfl:inputShape": {"@id": "chainfl:inputShape", "@type": "@json"},
    "chainfl:labelCounts": {"@id": "chainfl:labelCounts", "@type": "@json"},
}


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard. sha256: of the file, in hex; label_counts: how many examples of each class."""

    cid: Cid
    sha256: str
    num_bytes: int
    label_counts: tuple[int, ...]

    @property
    def num_examples(self) -> int:
        """Over all classes."""
        return sum(self.label_counts)


@dataclass(frozen=True, slots=True)
class Words:
    """What people say about a data set. licence: an SPDX name or a URL; date: YYYY-MM-DD; url: "" takes the hash."""

    name: str
    licence: str
    description: str
    creator: str
    date: str
    version: str = "1.0.0"
    url: str = ""

    def check(self) -> None:
        """What other readers of Croissant ask beside what this one does. Raises DescriptionInvalid for the first."""
        if not _is_date(self.date):
            raise DescriptionInvalid(f"the date is {self.date!r}, not a day that there is, as YYYY-MM-DD")
        if not _VERSION.fullmatch(self.version):
            raise DescriptionInvalid(f"the version is {self.version!r}, not MAJOR.MINOR.PATCH, such as 1.0.0")
        if self.url and not _PAGE.fullmatch(self.url):
            raise DescriptionInvalid(f"the page is {self.url!r}, not an address that begins with https:// or http://")


@dataclass(frozen=True, slots=True)
class Description:
    """A published data set: its words, the form of its examples, and its shards, of which there is at least one.

    input_shape: of one example. partition: how it was cut, for people.
    """

    words: Words
    dtype: FeatureType
    input_shape: tuple[int, ...]
    num_classes: int
    partition: str
    shards: tuple[ShardEntry, ...]

    @property
    def num_examples(self) -> int:
        """Over all shards."""
        return sum(shard.num_examples for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Over all shards."""
        return sum(shard.num_bytes for shard in self.shards)

    @property
    def label_counts(self) -> tuple[int, ...]:
        """Over all shards: how many examples of each class."""
        return tuple(map(sum, zip(*(shard.label_counts for shard in self.shards), strict=True)))

    @property
    def hash(self) -> str:
        """SHA-256, in hex, over the shards' SHA-256 one after the other: what the whole set is known by."""
        return hashlib.sha256(b"".join(bytes.fromhex(shard.sha256) for shard in self.shards)).hexdigest()

    def form(self, shard: ShardEntry) -> ShardForm:
        """What the shard's file must look like."""
        return ShardForm(self.dtype, self.input_shape, self.num_classes, shard.num_examples)

    def to_bytes(self) -> bytes:
        """The description as JSON-LD. Raises DescriptionInvalid for one that its own reader would refuse."""
        text = json.dumps(_document(self), ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode("ascii")
        parse(text)
        return text


# --- writing -------------------------------------------------------------------------------------


def _document(told: Description) -> dict[str, Any]:
    words = told.words
    names = [_shard_name(number, len(told.shards)) for number in range(1, len(told.shards) + 1)]
    files = [_file_object(name, shard) for name, shard in zip(names, told.shards, strict=True)]
    sets = [_file_set(array, names) for array in ("features", "labels")]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": words.name,
        "description": words.description,
        "license": words.licence,
        "url": words.url or f"urn:sha256:{told.hash}",
        "creator": {"@type": "sc:Organization", "name": words.creator},
        "datePublished": words.date,
        "version": words.version,
        "chainfl:sha256": told.hash,
        "chainfl:numExamples": told.num_examples,
        "chainfl:numClasses": told.num_classes,
        "chainfl:labelCounts": list(told.label_counts),
        "chainfl:inputShape": list(told.input_shape),
        "chainfl:dtype": told.dtype,
        "chainfl:partition": told.partition,
        "distribution": [*files, *sets],
        "recordSet": _record_sets(told),
    }


def _shard_name(number: int, count: int) -> str:
    return f"shard-{number:0{len(str(count))}d}.npz"


def _file_object(name: str, shard: ShardEntry) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": _SCHEME + shard.cid,
        "contentSize": f"{shard.num_bytes} B",
        "encodingFormat": "application/zip",  # an .npz is one, and Croissant readers open it as one
        "sha256": shard.sha256,
        "chainfl:numExamples": shard.num_examples,
        "chainfl:labelCounts": list(shard.label_counts),
    }


def _file_set(array: str, names: list[str]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{array}.npy",
        "name": f"{array}.npy",
        "containedIn": [{"@id": name} for name in names],
        "encodingFormat": "application/x-npy",
        "includes": f"{array}.npy",
    }


def _record_sets(told: Description) -> list[dict[str, Any]]:
    """One of features and one of labels: what a record of each is, is an array, and the n-th belong together."""
    shape = "×".join(map(str, told.input_shape))
    kind, words = ("sc:Integer", "pixels from 0 to 255") if told.dtype == "uint8" else ("sc:Float", "values")
    return [
        _record_set("features", kind, f"The examples of a shard: {told.dtype}, {shape} {words} each."),
        _record_set("labels", "sc:Integer", f"Their classes, in the same order: int64, 0 to {told.num_classes - 1}."),
    ]


def _record_set(name: str, data_type: str, description: str) -> dict[str, Any]:
    field = {
        "@type": "cr:Field",
        "@id": f"{name}/array",
        "name": "array",
        "description": description,
        "dataType": data_type,
        "source": {"fileSet": {"@id": f"{name}.npy"}, "extract": {"fileProperty": "content"}},
    }
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "description": description, "field": [field]}


# --- reading -------------------------------------------------------------------------------------


def _is_date(text: str) -> bool:
    if not _DATE.fullmatch(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def parse(data: bytes) -> Description:
    """The description that a stranger published. Raises DescriptionInvalid, which names the first thing wrong."""
    try:
        document = decode_json(data, max_bytes=MAX_DESCRIPTION_BYTES)
    except ValueError as error:
        raise DescriptionInvalid(f"the description is not JSON that can be read: {error}") from error
    if not isinstance(document, dict):
        raise DescriptionInvalid("the description is not an object")
    _check_kind(document)
    told = Description(
        words=_words(document),
        dtype=cast(FeatureType, _one_of(document, "chainfl:dtype", ("uint8", "float32"))),
        input_shape=_integers(document, "chainfl:inputShape", most=1 << 24, count=range(1, 9), least=1),
        num_classes=_integer(document, "chainfl:numClasses", 1, 1 << 20),
        partition=_text(document, "chainfl:partition", _MAX_NAME),
        shards=tuple(_shards(document)),
    )
    _check_sums(document, told)
    return told


def _check_kind(document: Mapping[str, Any]) -> None:
    if not isinstance(document.get("@context"), dict | str):
        raise DescriptionInvalid("the description has no @context")
    _one_of(document, "@type", _DATASET_TYPES)
    conforms = document.get("conformsTo", document.get("dct:conformsTo"))
    if conforms != CONFORMS_TO:
        raise DescriptionInvalid(f"the description conforms to {str(conforms)[:80]!r}, not to {CONFORMS_TO}")


def _words(document: Mapping[str, Any]) -> Words:
    creators = document.get("creator")
    creator = creators[0] if isinstance(creators, list) and creators else creators
    if not isinstance(creator, dict):
        raise DescriptionInvalid("creator is not a person or an organization")
    published = _text(document, "datePublished", 64)
    if not _is_date(published[:_DAY_CHARS]):  # others add the time of day
        raise DescriptionInvalid(f"datePublished is {published!r}, not a date as YYYY-MM-DD")
    return Words(
        name=_text(document, "name", _MAX_NAME),
        licence=_text(document, "license", _MAX_NAME),
        description=_text(document, "description", _MAX_TEXT, lines=True),
        creator=_text(creator, "name", _MAX_NAME, "creator."),
        date=published,
        version=_text(document, "version", _MAX_NAME),
        url=_text(document, "url", 2048),
    )


def _shards(document: Mapping[str, Any]) -> Iterator[ShardEntry]:
    listed = document.get("distribution")
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise DescriptionInvalid("distribution is not a list of files")
    files = [entry for entry in listed if entry.get("@type") in _FILE_TYPES]
    if not 1 <= len(files) <= MAX_SHARDS:
        raise DescriptionInvalid(f"there are {len(files)} shards, not 1 to {MAX_SHARDS}")
    names = [_text(entry, "@id", _MAX_NAME, "distribution.") for entry in files]
    if len(set(names)) != len(names):
        raise DescriptionInvalid("two shards have the same @id")
    for name, entry in zip(names, files, strict=True):
        yield _shard(entry, f"{name}: ")


def _shard(entry: Mapping[str, Any], where: str) -> ShardEntry:
    url = _text(entry, "contentUrl", 128, where)
    try:
        cid = parse_cid(url.removeprefix(_SCHEME))
    except InvalidCid as error:
        raise DescriptionInvalid(f"{where}contentUrl: {error}") from error
    _text(entry, "encodingFormat", _MAX_NAME, where)
    counts = _integers(entry, "chainfl:labelCounts", most=_MAX_COUNT, count=range(1, (1 << 20) + 1), where=where)
    shard = ShardEntry(
        cid=cid,
        sha256=_matching(entry, "sha256", _SHA256, where)[0],
        num_bytes=int(_matching(entry, "contentSize", _SIZE, where)[1]),
        label_counts=counts,
    )
    if not url.startswith(_SCHEME):
        raise DescriptionInvalid(f"{where}contentUrl does not begin with {_SCHEME}")
    if shard.num_examples == 0 or _integer(entry, "chainfl:numExamples", 1, _MAX_COUNT, where) != shard.num_examples:
        raise DescriptionInvalid(f"{where}its examples are not the sum of its label counts")
    return shard


def _check_sums(document: Mapping[str, Any], told: Description) -> None:
    """Whatever is stated twice must agree, and no file may be too small for what it is said to hold."""
    for number, shard in enumerate(told.shards, 1):
        if len(shard.label_counts) != told.num_classes:
            raise DescriptionInvalid(f"shard {number} counts {len(shard.label_counts)} classes, not {told.num_classes}")
        if not told.form(shard).num_bytes() < shard.num_bytes <= MAX_SHARD_BYTES:
            raise DescriptionInvalid(
                f"shard {number} has {shard.num_bytes} bytes, which {shard.num_examples} examples do not"
            )
    if _integer(document, "chainfl:numExamples", 1, _MAX_COUNT) != told.num_examples:
        raise DescriptionInvalid("chainfl:numExamples is not the sum over the shards")
    if document.get("chainfl:labelCounts") != list(told.label_counts):
        raise DescriptionInvalid("chainfl:labelCounts is not the sum over the shards")
    if document.get("chainfl:sha256") != told.hash:
        raise DescriptionInvalid("chainfl:sha256 is not the hash over the shards")


def _text(entry: Mapping[str, Any], key: str, most: int, where: str = "", *, lines: bool = False) -> str:
    """Text to be shown: printable, so that it cannot drive a terminal."""
    value = entry.get(key)
    if not isinstance(value, str) or not value or len(value) > most:
        raise DescriptionInvalid(f"{where}{key} is not a text of 1 to {most} characters")
    if not (value.replace("\n", " ") if lines else value).isprintable():
        raise DescriptionInvalid(f"{where}{key} has characters that cannot be shown")
    return value


def _one_of(entry: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or value not in allowed:
        raise DescriptionInvalid(f"{key} is {str(value)[:80]!r}, not {' or '.join(allowed[:2])}")
    return value


def _matching(entry: Mapping[str, Any], key: str, pattern: re.Pattern[str], where: str) -> re.Match[str]:
    match = pattern.fullmatch(_text(entry, key, 128, where))
    if match is None:
        raise DescriptionInvalid(f"{where}{key} is not what it must be: {str(entry[key])[:80]!r}")
    return match


def _integer(entry: Mapping[str, Any], key: str, least: int, most: int, where: str = "") -> int:
    value = entry.get(key)
    if type(value) is not int or not least <= value <= most:
        raise DescriptionInvalid(f"{where}{key} is not a whole number from {least} to {most}")
    return value


def _integers(
    entry: Mapping[str, Any], key: str, *, most: int, count: range, least: int = 0, where: str = ""
) -> tuple[int, ...]:
    values = entry.get(key)
    if not isinstance(values, list) or len(values) not in count:
        raise DescriptionInvalid(f"{where}{key} is not a list of {count.start} to {count.stop - 1} numbers")
    if not all(type(value) is int and least <= value <= most for value in values):
        raise DescriptionInvalid(f"{where}{key} has something else than whole numbers from {least} to {most}")
    return tuple(values)

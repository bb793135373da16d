"""Publishing a data set again: what every place confirms stays as it is, and everything else is put right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from data_sets import WORDS, pixels
from fake_chain import MemoryStore

from chainfl.data.publishing import Cutting, publish
from chainfl.errors import ContentDamaged, DescriptionInvalid, NotPublished, ServiceRefused
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.port import BlobStore
from chainfl.storage.several import Place, SeveralStores
from chainfl.types import Cid

SHARDS = 2


class Node(MemoryStore):
    """A store in a network, whose content may be there without being pinned."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: set[Cid] = set()
        self.puts = 0

    def put_bytes(self, data: bytes) -> Cid:
        cid = super().put_bytes(data)
        self.pinned.add(cid)
        return cid

    def put_file(self, path: Path, **options: object) -> Cid:
        self.puts += 1
        return super().put_file(path)

    def pin(self, cid: Cid) -> None:
        self.pinned.add(cid)

    def is_pinned(self, cid: Cid) -> bool:
        return cid in self.pinned

    def drop(self, cid: Cid) -> None:
        """Its bytes stay until they are collected."""
        self.pinned.discard(cid)

    def addresses(self) -> Sequence[str]:
        return ()

    def connect(self, address: str) -> None: ...


class Service:
    """Refuses everything while its token is wrong."""

    name = "cellar"

    def __init__(self) -> None:
        self.takes_token = True
        self.held: set[Cid] = set()

    def pin(self, cid: Cid, **_: object) -> None:
        self._ask()
        self.held.add(cid)

    def stand(self, cid: Cid) -> str:
        self._ask()
        return "pinned" if cid in self.held else ""

    def drop(self, cid: Cid) -> None:
        self._ask()
        self.held.discard(cid)

    def _ask(self) -> None:
        if not self.takes_token:
            raise ServiceRefused("cellar does not take the token", service="cellar", variable="X")


def put_again(store: BlobStore) -> list[bool]:
    """Publishes. returns: for each shard, whether it had to be put."""
    told: list[bool] = []
    publish(pixels(), store, WORDS, Cutting(SHARDS), lambda _number, _entry, was_put: told.append(was_put))
    return told


def shards(store: BlobStore) -> list[Cid]:
    _, described = publish(pixels(), store, WORDS, Cutting(SHARDS), lambda *_: None)
    return [entry.cid for entry in described.shards]


def test_publish__a_service_refused_and_takes_the_token_now__has_every_shard() -> None:
    node, service = Node(), Service()
    store = SeveralStores([Place("kubo", node)], [service], quorum=2)
    service.takes_token = False
    with pytest.raises(NotPublished):
        put_again(store)
    service.takes_token = True
    assert put_again(store) == [True] * SHARDS
    assert set(shards(store)) <= service.held


def test_publish__a_shard_was_unpinned__is_pinned_again() -> None:
    node = Node()
    first, second = shards(node)
    node.drop(first)
    assert put_again(node) == [True, False]
    assert {first, second} <= node.pinned


def test_publish__a_damaged_object__is_healed(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "store")
    first, _ = shards(store)
    path = store.root / "objects" / first[-2:] / first
    right = path.read_bytes()
    path.write_bytes(right[:-1] + b"\xff")
    assert put_again(store) == [True, False]
    assert path.read_bytes() == right


class Rotten(Node):
    """A node whose disk has damaged what is in `damaged`, which a put leaves as it is."""

    mends = True

    def __init__(self) -> None:
        super().__init__()
        self.damaged: set[Cid] = set()

    def get_file(self, cid: Cid, target: Path, **options: object) -> None:
        if cid in self.damaged:
            raise ContentDamaged("rotten", cid=cid, repair="Replace the disk.")
        super().get_file(cid, target, max_bytes=1 << 30)

    def mend(self, path: Path) -> Cid:
        cid = self.put_file(path)
        self.damaged -= {cid} if self.mends else set()
        return cid


def test_publish__damage_that_a_put_leaves__is_mended() -> None:
    node = Rotten()
    first, _ = shards(node)
    node.damaged = {first}
    assert put_again(node) == [True, False]
    assert node.damaged == set()
    assert put_again(node) == [False, False]


def test_publish__damage_that_cannot_be_mended__is_no_success_and_says_what_to_do() -> None:
    node = Rotten()
    first, _ = shards(node)
    node.damaged, node.mends = {first}, False
    with pytest.raises(ContentDamaged) as caught:
        put_again(node)
    assert "Replace the disk." in caught.value.hint


def test_publish__damaged_before_it_was_ever_published__is_mended() -> None:
    node = Rotten()
    node.damaged = set(shards(MemoryStore()))
    assert put_again(node) == [True, True]
    assert node.damaged == set()


def test_publish__a_description_is_damaged__is_mended() -> None:
    node = Rotten()
    cid, _ = publish(pixels(), node, WORDS, Cutting(SHARDS), lambda *_: None)
    node.damaged = {cid}
    put_again(node)
    assert node.damaged == set()


@pytest.mark.parametrize("changes", [{"date": "2026-99-99"}, {"name": "a\nb"}, {"licence": " \x1b"}, {"creator": ""}])
def test_publish__words_that_cannot_stand__are_refused_before_anything_is_put(changes: dict[str, str]) -> None:
    store = MemoryStore()
    with pytest.raises(DescriptionInvalid):
        publish(pixels(), store, replace(WORDS, **changes), Cutting(SHARDS), lambda *_: None)
    assert store.blobs == {}


def test_publish__every_place_confirms__puts_no_shard_again() -> None:
    node, service = Node(), Service()
    store = SeveralStores([Place("kubo", node), Place("gateway", MemoryStore(), writes=False)], [service], quorum=2)
    put_again(store)
    puts = node.puts
    assert put_again(store) == [False] * SHARDS
    assert node.puts == puts == SHARDS + 1, "and the description"


def test_publish__a_place_does_not_say__puts_and_leaves_it_to_the_quorum() -> None:
    node, service = Node(), Service()
    store = SeveralStores([Place("kubo", node)], [service], quorum=1)
    put_again(store)
    service.takes_token = False
    assert put_again(store) == [True] * SHARDS

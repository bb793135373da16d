"""The one place that knows which stores there are, and makes one of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from chainfl.errors import ConfigError, StorageError
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.port import BlobStore
from chainfl.types import Cid

if TYPE_CHECKING:
    from chainfl.storage.pinning import PinningService

StoreKind = Literal["embedded", "kubo", "gateway"]
CACHE_BYTES = 10 << 30


def open_store(
    kinds: StoreKind | Sequence[StoreKind],
    *,
    store_dir: Path | None,
    kubo_api: str | None,
    gateways: Sequence[str] = (),
    pinning: Mapping[str, str] | None = None,
    publish_quorum: int = 1,
    cache_dir: Path | None = None,
    cache_bytes: int = CACHE_BYTES,
    keys_dir: Path | None = None,
) -> BlobStore:
    """The store that the configuration names; of several kinds, one that reads them in their order.

    store_dir: the embedded store's folder; kubo_api: a daemon's address, such as /ip4/127.0.0.1/tcp/5001; gateways:
    their URLs; pinning: services by name with their endpoints, whose tokens are in the environment or in keys_dir;
    publish_quorum: how many stores and services must confirm a put; cache_dir, cache_bytes: of what gateways gave.
    Raises ConfigError if what a kind needs is missing. One store alone raises StoreUnreachable if it is a daemon that
    does not answer; of several each is asked when it is first used, and its failure, as that of a service whose token
    is missing, is its own.
    """
    names = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    alone = len(names) == 1
    opened = [_open(kind, store_dir, kubo_api, gateways, cache_dir, cache_bytes, at_once=alone) for kind in names]
    if alone and not pinning and publish_quorum == 1:
        return opened[0]
    # Not imported at the top: one store alone starts quicker without.
    from chainfl.storage.several import Place, SeveralStores

    confirm = confirming_stores(names)
    places = [
        Place(kind, store, writes=kind != "gateway", confirms=kind in confirm)
        for kind, store in zip(names, opened, strict=True)
    ]
    services = [_service(name, endpoint, keys_dir) for name, endpoint in (pinning or {}).items()]
    confirming = len(confirm) + len(services)
    if publish_quorum > confirming:
        raise ConfigError(f"`publish_quorum` is {publish_quorum}, but only {confirming} places can confirm a put")
    return SeveralStores(places, services, quorum=publish_quorum)


def confirming_stores(kinds: Sequence[str]) -> frozenset[str]:
    """Those of the kinds that make content published by taking it: those that write, the embedded one only alone.

    Nobody else fetches from a folder of this machine, so it does not stand for a place that others reach.
    """
    writing = frozenset(kinds) - {"gateway"}
    return writing - {"embedded"} or writing


def _open(
    kind: StoreKind,
    store_dir: Path | None,
    kubo_api: str | None,
    gateways: Sequence[str],
    cache_dir: Path | None,
    cache_bytes: int,
    *,
    at_once: bool,
) -> BlobStore:
    if kind == "embedded":
        if store_dir is None:
            raise ConfigError("the embedded store needs `store_dir`")
        return EmbeddedStore(store_dir)
    # Neither is imported at the top: an HTTP client costs 0.2 s, and only these stores need it.
    if kind == "kubo":
        if kubo_api is None:
            raise ConfigError("the kubo store needs `kubo_api`")
        from chainfl.storage.kubo import KuboStore

        return KuboStore(kubo_api, at_once=at_once)
    if not gateways or cache_dir is None:
        raise ConfigError("the gateway store needs `gateways` and `cache_dir`")
    from chainfl.storage.cache import BlockCache
    from chainfl.storage.gateway import GatewayStore

    return GatewayStore(gateways, cache=BlockCache(cache_dir, max_bytes=cache_bytes))


class _ServiceAtFirstUse:
    """A pinning service whose token is read when it is first asked, for what reads asks none. See several.Service."""

    def __init__(self, name: str, endpoint: str, keys_dir: Path) -> None:
        self.name = name
        self._endpoint = endpoint
        self._keys_dir = keys_dir

    def pin(
        self,
        cid: Cid,
        *,
        origins: Sequence[str],
        connect: Callable[[str], None] | None,
        timeout_s: float,
        accepted: Callable[[], None] | None,
        failing: Callable[[StorageError], None] | None,
    ) -> None:
        self._service.pin(
            cid, origins=origins, connect=connect, timeout_s=timeout_s, accepted=accepted, failing=failing
        )

    def stand(self, cid: Cid) -> str:
        return self._service.stand(cid)

    def drop(self, cid: Cid) -> None:
        self._service.drop(cid)

    @cached_property
    def _service(self) -> PinningService:
        from chainfl.storage.pinning import PinningService, read_token

        return PinningService(self.name, self._endpoint, read_token(self.name, self._keys_dir))


def _service(name: str, endpoint: str, keys_dir: Path | None) -> _ServiceAtFirstUse:
    from chainfl.storage.http import parse_url

    if keys_dir is None:
        raise ConfigError("pinning services need `keys_dir` for their tokens")
    parse_url(endpoint)
    return _ServiceAtFirstUse(name, endpoint, keys_dir)

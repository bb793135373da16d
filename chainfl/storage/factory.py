"""The one place that knows which stores there are, and makes one of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from chainfl.errors import ConfigError
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.port import BlobStore

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
    Raises ConfigError if what a kind needs is missing; StoreUnreachable if the daemon does not answer; TokenMissing.
    """
    names = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    opened = [_open(kind, store_dir, kubo_api, gateways, cache_dir, cache_bytes) for kind in names]
    if len(opened) == 1 and not pinning and publish_quorum == 1:
        return opened[0]
    # Not imported at the top: one store alone starts quicker without.
    from chainfl.storage.several import Place, SeveralStores

    places = [Place(kind, store, writes=kind != "gateway") for kind, store in zip(names, opened, strict=True)]
    services = [_service(name, endpoint, keys_dir) for name, endpoint in (pinning or {}).items()]
    confirming = sum(place.writes for place in places) + len(services)
    if publish_quorum > confirming:
        raise ConfigError(f"`publish_quorum` is {publish_quorum}, but only {confirming} places can confirm a put")
    return SeveralStores(places, services, quorum=publish_quorum)


def _open(
    kind: StoreKind,
    store_dir: Path | None,
    kubo_api: str | None,
    gateways: Sequence[str],
    cache_dir: Path | None,
    cache_bytes: int,
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

        return KuboStore(kubo_api)
    if not gateways or cache_dir is None:
        raise ConfigError("the gateway store needs `gateways` and `cache_dir`")
    from chainfl.storage.cache import BlockCache
    from chainfl.storage.gateway import GatewayStore

    return GatewayStore(gateways, cache=BlockCache(cache_dir, max_bytes=cache_bytes))


def _service(name: str, endpoint: str, keys_dir: Path | None) -> PinningService:
    from chainfl.storage.pinning import PinningService, read_token

    if keys_dir is None:
        raise ConfigError("pinning services need `keys_dir` for their tokens")
    return PinningService(name, endpoint, read_token(name, keys_dir))

"""The one place that knows which stores there are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from chainfl.errors import ConfigError
from chainfl.storage.embedded import EmbeddedStore
from chainfl.storage.port import BlobStore

StoreKind = Literal["embedded", "kubo"]


def open_store(kind: StoreKind, *, store_dir: Path | None, kubo_api: str | None) -> BlobStore:
    """The store that the configuration names.

    store_dir: the embedded store's folder; kubo_api: a daemon's address, such as /ip4/127.0.0.1/tcp/5001.
    Raises ConfigError if the one that `kind` needs is missing; StoreUnreachable if the daemon does not answer.
    """
    if kind == "embedded":
        if store_dir is None:
            raise ConfigError("the embedded store needs `store_dir`")
        return EmbeddedStore(store_dir)
    if kubo_api is None:
        raise ConfigError("the kubo store needs `kubo_api`")
    # Not imported at the top: the HTTP client costs 0.2 s, and only this store needs it.
    from chainfl.storage.kubo import KuboStore

    return KuboStore(kubo_api)

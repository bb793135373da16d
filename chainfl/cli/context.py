"""What a command works with, opened when it is first needed: settings, chain, key, store."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from chainfl.cli.output import Money, is_interactive, say
from chainfl.errors import KeyfileError, NoContract
from chainfl.types import TaskId

if TYPE_CHECKING:
    from chainfl.chain.client import ChainClient
    from chainfl.chain.deployment import Deployment
    from chainfl.chain.keys import KeyInfo, Signer
    from chainfl.chain.operator import Operator
    from chainfl.config import Settings
    from chainfl.storage.port import BlobStore
    from chainfl.types import Address

F = TypeVar("F", bound=Callable[..., Any])

MAX_TASKS: Final = 50
"""So many of the newest tasks are looked through for those that the account takes part in."""
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"


class App:
    """The one place where the command line puts objects together.

    flags: the global options that were given. Every property opens its object once and raises the errors of doing so.
    """

    def __init__(self, flags: Mapping[str, Any]) -> None:
        self._flags = flags

    @cached_property
    def settings(self) -> Settings:
        """File, environment and flags together. Raises ConfigError with every problem."""
        from chainfl.config import load_settings

        config = self._flags.get("config")
        flags = {name: value for name, value in self._flags.items() if name != "config"}
        return load_settings(config=Path(config) if config else None, flags=flags)

    @cached_property
    def client(self) -> ChainClient:
        """The endpoint, whether or not there is a deployment. Raises WrongChainId, RpcUnreachable when it is used."""
        from chainfl.chain.client import ChainClient

        settings = self.settings
        return ChainClient(
            settings.effective_rpc,
            expected_chain_id=settings.effective_chain_id,
            poll_interval_s=settings.effective_poll_interval_s,
        )

    @cached_property
    def deployment(self) -> Deployment:
        """Where the contracts are. Raises NoContract when no file says so, DeploymentInvalid."""
        from chainfl.chain.deployment import Deployment

        path = self.settings.effective_deployment
        if not path.exists():
            raise NoContract(f"no deployment is known for {self.settings.network}: there is no {path}", path=str(path))
        return Deployment.load(path)

    @cached_property
    def reader(self) -> Operator:
        """The chain for reading, as the chosen key's account if there is one; nothing is decrypted."""
        from chainfl.chain.operator import Operator

        operator = Operator(self.client, self.deployment, account=self.known_account)
        operator.check()
        return operator

    @cached_property
    def operator(self) -> Operator:
        """The chain for reading and sending. Asks for the key's password where needed."""
        return self.operator_with_budget(None)

    def operator_with_budget(self, max_gas_wei: int | None) -> Operator:
        """The same, but it stops before its gas costs more than that, in native wei."""
        from chainfl.chain.operator import Operator
        from chainfl.chain.transactions import GasBudget

        _ = self.deployment  # a missing file is told before a password is asked for
        budget = GasBudget(max_gas_wei) if max_gas_wei is not None else None
        operator = Operator(self.client, self.deployment, self.signer, budget=budget)
        operator.check()
        return operator

    @cached_property
    def signer(self) -> Signer:
        """The chosen key. Raises KeyfileError, WrongPassword."""
        from chainfl.chain.keys import open_signer

        return open_signer(self.settings.key, self.settings.keys_dir, _ask_password)

    @cached_property
    def known_account(self) -> Address | None:
        """The chosen key's address without opening it; None where no key is chosen and several or none are there."""
        from chainfl.chain.keys import Keystore, signer_from_environment

        signer = signer_from_environment()
        if signer is not None:
            return signer.address
        keystore = Keystore(self.settings.keys_dir)
        if self.settings.key:
            return keystore.find(self.settings.key).address
        keys = keystore.list()
        return keys[0].address if len(keys) == 1 else None

    def account(self, given: Address | None) -> Address:
        """The account that a reading command is about. Raises KeyfileError when there is none."""
        account = given or self.known_account
        if account is None:
            raise KeyfileError("say whose: --account ADDRESS, or choose a key with --key")
        return account

    @cached_property
    def store(self) -> BlobStore:
        """Where content is. Raises ConfigError; StoreUnreachable for a daemon that is the only store."""
        from chainfl.storage.factory import open_store

        settings = self.settings
        return open_store(
            settings.stores,
            store_dir=settings.store_dir,
            kubo_api=settings.kubo_api,
            gateways=settings.gateways,
            pinning={entry.name: entry.endpoint for entry in settings.pinning},
            publish_quorum=settings.publish_quorum,
            cache_dir=settings.cache_dir,
            cache_bytes=settings.cache_bytes,
            keys_dir=settings.keys_dir,
        )

    @cached_property
    def money(self) -> Money:
        """The deployment's token, as its amounts are shown and read."""
        info = self.reader.token_info()
        return Money(info.symbol, info.decimals)

    def start_log(self) -> None:
        """Sends Python's log to standard error at the level of the settings."""
        logging.basicConfig(level=self.settings.log_level.upper(), format=LOG_FORMAT, stream=sys.stderr)


def own_tasks(app: App) -> Iterator[TaskId]:
    """Those of the newest tasks that the account published or ever enrolled for."""
    from chainfl.tasks.state import Role

    account, reader = app.known_account, app.reader
    newest = reader.num_tasks() if account else 0
    for number in range(newest, max(0, newest - MAX_TASKS), -1):
        task = TaskId(number)
        assert account
        if reader.task(task).requester == account or any(
            reader.member(task, role, account).is_enrolled for role in Role
        ):
            yield task


def pass_app(command: F) -> F:
    """Hands the command an App of the global flags as its first argument."""

    @click.pass_context
    @functools.wraps(command)
    def wrapped(ctx: click.Context, *args: Any, **options: Any) -> Any:
        return ctx.invoke(command, App(ctx.find_object(dict) or {}), *args, **options)

    return wrapped  # type: ignore[return-value]


def _ask_password(key: KeyInfo) -> str:
    if not is_interactive():
        raise KeyfileError(
            f"the key {key.name} has a password and there is no terminal to ask on; set CHAINFL_KEY_PASSWORD",
            key=key.name,
        )
    say(f"key {key.name} ({key.address})")
    password: str = click.prompt("Password", hide_input=True, err=True, default="", show_default=False)
    return password

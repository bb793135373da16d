"""`chainfl doctor`: everything that must be right before work starts, one line each."""

from __future__ import annotations

import importlib.metadata
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import click

from chainfl.cli.context import App, pass_app
from chainfl.cli.options import json_option
from chainfl.cli.output import ether, hint_of, say, show, show_json
from chainfl.errors import (
    BlobNotFound,
    ChainflError,
    CidMismatch,
    InsufficientFunds,
    InsufficientTokens,
    KeyfileError,
    PrerequisiteMissing,
)

LOW_NATIVE_WEI: Final = 10**15
"""Below this a round's transactions may not be paid for on a public network."""
PROBE_BYTES: Final = 64
FAILED_EXIT: Final = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. ok: None when it could not be made, because one that it needs failed."""

    what: str
    ok: bool | None
    told: str
    hint: str = ""

    @property
    def mark(self) -> str:
        """✓, ✗, or – for what could not be checked."""
        return {True: "✓", False: "✗", None: "–"}[self.ok]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at. make: says what it found, or raises. needs: what must be right for it to mean anything."""

    what: str
    make: Callable[[App], str]
    needs: tuple[str, ...] = ()


@click.command(epilog="Example: chainfl doctor --json")
@json_option
@pass_app
def doctor(app: App, as_json: bool) -> int:
    """Check chain, contracts, balance, stake, store and torch. Ends with exit code 1 if something is wrong."""
    findings = []
    for finding in examine(app):
        findings.append(finding)
        if not as_json:
            show(f"{finding.mark} {finding.what}: {finding.told}")
            if finding.hint:
                show(f"    {finding.hint}")
    failed = sum(finding.ok is False for finding in findings)
    if as_json:
        show_json({"ok": not failed, "checks": findings})
    else:
        say("everything is in order" if not failed else f"{failed} of {len(findings)} checks failed")
    return FAILED_EXIT if failed else 0


def examine(app: App) -> Iterator[Finding]:
    """The findings in their order; one whose ground is missing says so instead of failing in its own way."""
    passed: set[str] = set()
    for check in CHECKS:
        missing = next((name for name in check.needs if name not in passed), None)
        if missing is not None:
            yield Finding(check.what, None, f"not checked without {missing}")
            continue
        finding = _made(check, app)
        if finding.ok:
            passed.add(check.what)
        yield finding


def _made(check: Check, app: App) -> Finding:
    try:
        return Finding(check.what, True, check.make(app))
    except ChainflError as error:
        return Finding(check.what, False, str(error), hint_of(error))


def _configuration(app: App) -> str:
    settings = app.settings
    return f"network {settings.network}, deployment {settings.effective_deployment}"


def _endpoint(app: App) -> str:
    return f"answers; the newest block is {app.client.block_number():,}"


def _chain_id(app: App) -> str:
    return str(app.client.chain_id)


def _contracts(app: App) -> str:
    deployment = app.deployment
    app.reader.check()
    return f"{deployment.version}, coordinator at {deployment.coordinator}"


def _key(app: App) -> str:
    """Its address; nothing is decrypted."""
    if app.known_account is None:
        raise KeyfileError(f"none is chosen, and {app.settings.keys_dir} has not exactly one; reading needs none")
    return app.known_account


def _native_balance(app: App) -> str:
    account = app.account(None)
    wei = app.client.balance(account)
    if wei < LOW_NATIVE_WEI:
        raise InsufficientFunds(f"{account} holds {ether(wei)} for gas, which is little", account=account, balance=wei)
    return ether(wei)


def _tokens(app: App) -> str:
    status = app.reader.stake_status(app.account(None))
    locked = sum(lock.amount for lock in status.locks)
    if not status.token_balance + status.free + status.credit + locked:
        raise InsufficientTokens(f"{status.account} has no tokens and no stake", account=status.account)
    show_tokens = app.money.show
    return (
        f"{show_tokens(status.token_balance)} in the wallet, {show_tokens(status.free)} of free stake, "
        f"{show_tokens(locked)} locked, {show_tokens(status.credit)} to claim"
    )


def _store(app: App) -> str:
    """A round trip of random bytes, which no store can have by chance."""
    probe = b"chainfl doctor " + secrets.token_bytes(PROBE_BYTES)
    cid = app.store.put_bytes(probe)
    if not app.store.has(cid):
        raise BlobNotFound(f"the store does not have {cid}, which was just put there", cid=cid)
    if app.store.get_bytes(cid, max_bytes=len(probe)) != probe:
        raise CidMismatch(f"the store gave other bytes for {cid} than it took", cid=cid)
    return app.store.describe()


def _torch(_app: App) -> str:
    """Its version and the cores, without the seconds that importing it takes."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise PrerequisiteMissing("torch is not installed, and training needs it") from None
    return f"{version}, on {os.cpu_count()} cores"


CHECKS: Final = (
    Check("configuration", _configuration),
    Check("RPC endpoint", _endpoint, ("configuration",)),
    Check("chain id", _chain_id, ("RPC endpoint",)),
    Check("contracts", _contracts, ("chain id",)),
    Check("key", _key, ("configuration",)),
    Check("balance for gas", _native_balance, ("chain id", "key")),
    Check("tokens and stake", _tokens, ("contracts", "key")),
    Check("store", _store, ("configuration",)),
    Check("torch", _torch),
)
